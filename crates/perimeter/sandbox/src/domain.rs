//! Landlock: the outer domain that the tool server enters before it runs, and the inner one that each command enters on top.
//! A second wall behind namespaces and mounts, and the wall between commands and the tool server, which have the same user.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use landlock::{
    ABI, Access, AccessFs, CompatLevel, Compatible, PathBeneath, PathFd, Ruleset, RulesetAttr, RulesetCreated,
    RulesetCreatedAttr, RulesetError, Scope,
};

use crate::control::{Control, ControlStatus};

/// The newest version of Landlock that this build knows; older kernels give what they have.
const NEWEST: ABI = ABI::V7;
/// The first version with scoped signals and abstract sockets, which keep commands from the tool server.
const SCOPED: i32 = 6;

/// A prepared inner domain; empty on a kernel without Landlock.
pub(crate) struct Domain(Option<OwnedFd>);

impl Domain {
    /// The ruleset to restrict oneself with.
    pub(crate) fn ruleset(&self) -> Option<BorrowedFd<'_>> {
        self.0.as_ref().map(AsFd::as_fd)
    }
}

/// The domain of one command: no signal to, no tracing of and no abstract socket of a process outside it. Files are the outer domain's matter.
pub(crate) fn inner() -> io::Result<Domain> {
    if postern_danger::off!("landlock") {
        return Ok(Domain(None));
    }
    inner_ruleset().map(|ruleset| Domain(ruleset.into())).map_err(io::Error::other)
}

fn inner_ruleset() -> Result<RulesetCreated, RulesetError> {
    let ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort).scope(Scope::from_all(NEWEST))?;
    // Every layer denies renaming across directories unless a rule allows it: give back what the outer domain decides.
    let ruleset = ruleset.handle_access(AccessFs::Refer)?.create()?;
    match PathFd::new("/") {
        Ok(root) => ruleset.add_rule(PathBeneath::new(root, AccessFs::Refer)),
        Err(_) => Ok(ruleset),
    }
}

/// Enters the outer domain: the system read-only, and `writable` writable.
pub(crate) fn enter_outer(writable: &[&str]) -> Result<(), RulesetError> {
    let everything = AccessFs::from_all(NEWEST);
    let mut ruleset =
        Ruleset::default().set_compatibility(CompatLevel::BestEffort).handle_access(everything)?.create()?;
    if let Ok(root) = PathFd::new("/") {
        ruleset = ruleset.add_rule(PathBeneath::new(root, AccessFs::from_read(NEWEST)))?;
    }
    for path in writable {
        if let Ok(path) = PathFd::new(path) {
            ruleset = ruleset.add_rule(PathBeneath::new(path, everything))?;
        }
    }
    ruleset.restrict_self().map(|_status| ())
}

/// What this kernel's Landlock can do.
pub(crate) fn status() -> ControlStatus {
    let fix = "boot a kernel from 6.12 on with CONFIG_SECURITY_LANDLOCK and landlock in its lsm= list";
    match version() {
        Some(version) if version >= SCOPED => ControlStatus::active(Control::Landlock),
        Some(version) => ControlStatus::degraded(
            Control::Landlock,
            format!(
                "the kernel's Landlock is version {version}: files and tracing are confined, signals to the tool server are not"
            ),
            fix,
        ),
        None => ControlStatus::missing(Control::Landlock, "the kernel has no Landlock, or it is not enabled", fix),
    }
}

fn version() -> Option<i32> {
    crate::sys::landlock_version()
}
