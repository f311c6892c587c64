//! Switches that turn one control of the boundary off, so that a test can see the probes mapped to it turn red. They exist in a test-only build, with the
//! feature `switches`; without it [`off!`] is `false` where it stands, and neither names nor code of any switch are in the binary.

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

/// What a sandbox's tool server needs to know of switches: nothing, in this build.
#[cfg(not(feature = "switches"))]
#[must_use]
pub fn inherited() -> Option<(&'static str, String)> {
    None
}

#[cfg(feature = "switches")]
pub use switches::inherited;

#[cfg(feature = "switches")]
pub mod switches {
    //! The test-only half. One control is off: the one that a file beside the binary names, or a variable inside a sandbox.

    use std::sync::OnceLock;

    /// Beside the binary.
    const FILE: &str = "postern-danger-off";
    /// Inside a sandbox, where that file cannot be seen.
    const VARIABLE: &str = "POSTERN_DANGER_OFF";

    /// Whether it is this one.
    #[must_use]
    pub fn is_off(control: &str) -> bool {
        named() == control
    }

    /// The variable for the tool server.
    #[must_use]
    pub fn inherited() -> Option<(&'static str, String)> {
        Some((VARIABLE, named().to_owned()))
    }

    fn named() -> &'static str {
        static NAMED: OnceLock<String> = OnceLock::new();
        NAMED.get_or_init(|| {
            let beside = std::env::current_exe().ok().map(|exe| exe.with_file_name(FILE));
            let written = beside.and_then(|file| std::fs::read_to_string(file).ok());
            #[expect(clippy::disallowed_methods, reason = "a test-only build; the tool server has no file of ours")]
            let given = || std::env::var(VARIABLE).ok();
            written.or_else(given).unwrap_or_default().trim().to_owned()
        })
    }
}
