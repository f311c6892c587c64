//! What a process of ours takes away from itself before it hears anybody: system calls and capabilities by reviewed lists, files, sockets and signals by
//! Landlock. Both sides of the trust line use it. Never starts a process, opens no socket, knows nothing of what the roles do.
//!
//! All are per thread and inherited: [`enter`] belongs before the runtime. What is given up is given up for good.

mod capabilities;
mod domain;
pub mod list;
mod role;
pub mod seccomp;
mod status;

pub use domain::Reach;
pub use role::Role;
pub use status::Confinement;

use seccomp::{Filter, FilterError};

/// Confines this thread, and all that it starts, as this role. What the kernel cannot give is said in the answer and does not stop the start.
///
/// # Errors
/// A list does not compile: a defect of this build, on which nothing starts.
pub fn enter(role: Role, reach: &Reach) -> Result<Confinement, FilterError> {
    let filter = Filter::of(role.calls())?;
    let powers = || match postern_danger::off!("own-capabilities") {
        true => Ok(()),
        false => capabilities::keep_those_of(role),
    };
    Ok(put_in_place(domain::enter(role, reach), powers, &filter))
}

/// Confines this thread, and all that it starts, to these calls and to signalling, tracing and meeting nobody outside; files and ports are left alone, for a
/// process that mounts, or starts one that does.
///
/// # Errors
/// The lists do not compile.
pub fn enter_calls_alone<'a>(calls: impl Iterator<Item = list::Entry<'a>>) -> Result<Confinement, FilterError> {
    let filter = Filter::of(calls)?;
    // Building a sandbox takes what root may do.
    Ok(put_in_place(domain::enter_scoped(), || Ok(()), &filter))
}

/// The capabilities that a role keeps where it runs as root, a bit for each by its number.
#[must_use]
pub fn capabilities_of(role: Role) -> u64 {
    capabilities::kept(role).bits()
}

/// Takes every file from this thread, and from those it starts, for good: nothing is opened, made or executed any more. Whom it may signal stays as it was.
///
/// # Errors
/// The kernel refuses the domain. One that has no Landlock takes nothing away and does not refuse.
pub fn leave_files() -> std::io::Result<()> {
    domain::enter_without_files().map(drop).map_err(std::io::Error::other)
}

/// What [`enter`] would answer here, measured with a thread that confines itself and ends.
#[must_use]
pub fn measured(role: Role) -> Confinement {
    on_a_thread(move || enter(role, &Reach::new()))
}

/// As [`measured`], of [`enter_calls_alone`].
#[must_use]
pub fn measured_calls_alone<'a>(calls: impl Iterator<Item = list::Entry<'a>> + Send) -> Confinement {
    on_a_thread(move || enter_calls_alone(calls))
}

fn on_a_thread(confine: impl FnOnce() -> Result<Confinement, FilterError> + Send) -> Confinement {
    let measured = std::thread::scope(|scope| scope.spawn(confine).join());
    match measured {
        Ok(Ok(confinement)) => confinement,
        Ok(Err(defect)) => Confinement::missing(defect.to_string(), "report this as a defect"),
        Err(_) => Confinement::missing("the measurement did not come to its end".to_owned(), "report this as a defect"),
    }
}

/// Landlock first, and the filter last: the calls of what comes before it are on no role's list.
fn put_in_place(
    domain: Result<landlock::RestrictionStatus, landlock::RulesetError>,
    powers: impl FnOnce() -> rustix::io::Result<()>,
    filter: &Filter,
) -> Confinement {
    let files = match domain {
        Ok(restricted) => status::lacking(&restricted.ruleset, &restricted.landlock),
        Err(error) => Err(format!("the kernel refuses the Landlock domain: {error}")),
    };
    let powers = powers().map_err(|error| format!("the kernel takes no capability away: {error}"));
    let calls = if postern_danger::off!("own-calls") { Ok(()) } else { filter.install() };
    let calls = calls.map_err(|error| format!("the kernel takes no system call filter: {error}"));
    Confinement::of(calls, powers, files)
}
