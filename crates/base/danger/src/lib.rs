//! Switches that turn one control of the boundary off, so that a test can see the probes mapped to it turn red, and points at which a process can be had to
//! die, so that a test can see that nothing is lost or doubled. Both exist in a test-only build, with the feature `switches`; without it [`off!`] is `false`
//! where it stands and [`point!`] is nothing, and neither names nor code of them are in the binary.

/// Whether the control of this name is switched off: never, in this build.
#[cfg(not(feature = "switches"))]
#[macro_export]
macro_rules! off {
    ($control:literal) => {
        false
    };
}

/// Whether the control of this name is switched off.
#[cfg(feature = "switches")]
#[macro_export]
macro_rules! off {
    ($control:literal) => {
        $crate::switches::is_off($control)
    };
}

/// Items that only a test-only build has: none, in this build.
#[cfg(not(feature = "switches"))]
#[macro_export]
macro_rules! only_with_switches {
    ($($item:item)*) => {};
}

/// Items that only a test-only build has.
#[cfg(feature = "switches")]
#[macro_export]
macro_rules! only_with_switches {
    ($($item:item)*) => { $($item)* };
}

/// What is done where the control of this name is switched off: never, and not in this build.
#[cfg(not(feature = "switches"))]
#[macro_export]
macro_rules! when_off {
    ($control:literal, $done:block) => {};
}

/// What is done where the control of this name is switched off.
#[cfg(feature = "switches")]
#[macro_export]
macro_rules! when_off {
    ($control:literal, $done:block) => {
        if $crate::switches::is_off($control) $done
    };
}

/// A point at which this process dies when a test says so: never, in this build.
#[cfg(not(feature = "switches"))]
#[macro_export]
macro_rules! point {
    ($name:literal) => {};
}

/// A point at which this process dies when a test says so.
#[cfg(feature = "switches")]
#[macro_export]
macro_rules! point {
    ($name:literal) => {
        $crate::switches::point($name)
    };
}

/// What a sandbox's tool server inherits of variables: nothing, in this build.
#[cfg(not(feature = "switches"))]
#[must_use]
pub fn inherited() -> Vec<(String, String)> {
    Vec::new()
}

#[cfg(feature = "switches")]
pub use switches::inherited;

#[cfg(feature = "switches")]
pub mod switches {
    //! The test-only half. One control is off: the one that a file beside the binary names, or a variable inside a sandbox.

    use std::fs::{File, OpenOptions};
    use std::io::{Read, Write};
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Beside the binary.
    const FILE: &str = "postern-danger-off";
    /// Inside a sandbox, where that file cannot be seen.
    const VARIABLE: &str = "POSTERN_DANGER_OFF";

    /// Whether it is this one.
    #[must_use]
    pub fn is_off(control: &str) -> bool {
        named() == control
    }

    /// The variable for the tool server; and where its environment is not closed, all that this process has.
    #[must_use]
    pub fn inherited() -> Vec<(String, String)> {
        let switch = (VARIABLE.to_owned(), named().to_owned());
        #[expect(clippy::disallowed_methods, reason = "a test-only build, in which the environment is not closed")]
        let all = || std::env::vars();
        let all = is_off("closed-environment").then(all).into_iter().flatten();
        all.filter(|(name, _)| name != VARIABLE).chain([switch]).collect()
    }

    /// Where this process is to die: at the so-manyth passing of a point. Kept open from the start, because a confined process could not open it.
    struct Death {
        point: String,
        passings: AtomicU32,
        file: File,
    }

    /// Passes a point, or dies there: at once, as by kill -9, and only this time; who comes after finds the word gone.
    pub fn point(name: &str) {
        let Some(death) = death().as_ref().filter(|death| death.point == name) else { return };
        if death.passings.fetch_sub(1, Ordering::SeqCst) == 1 {
            let _ = (&death.file).write_all(b"#");
            std::process::abort();
        }
    }

    /// Reads where to die, before anything is confined.
    fn death() -> &'static Option<Death> {
        static DEATH: OnceLock<Option<Death>> = OnceLock::new();
        DEATH.get_or_init(|| {
            let beside = std::env::current_exe().ok()?.with_file_name(FILE);
            let mut text = String::new();
            File::open(&beside).ok()?.read_to_string(&mut text).ok()?;
            let (point, passings) = text.trim().strip_prefix("die ")?.split_once(' ')?;
            let passings = AtomicU32::new(passings.parse().ok()?);
            Some(Death { point: point.to_owned(), passings, file: OpenOptions::new().write(true).open(&beside).ok()? })
        })
    }

    fn named() -> &'static str {
        static NAMED: OnceLock<String> = OnceLock::new();
        NAMED.get_or_init(|| {
            let _ = death();
            let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(FILE));
            let written = beside.and_then(|file| std::fs::read_to_string(file).ok());
            #[expect(clippy::disallowed_methods, reason = "a test-only build; the tool server has no file of ours")]
            let given = || std::env::var(VARIABLE).ok();
            written.or_else(given).unwrap_or_default().trim().to_owned()
        })
    }
}
