//! The Landlock domain of a role: which files it may open, whether it may use TCP, and that it signals, traces and meets by abstract name nobody outside.

use std::path::{Path, PathBuf};

use landlock::{
    ABI, Access, AccessFs, AccessNet, BitFlags, CompatLevel, Compatible, PathBeneath, PathFd, RestrictionStatus,
    Ruleset, RulesetAttr, RulesetCreated, RulesetCreatedAttr, RulesetError, Scope,
};

use crate::role::Role;

/// The newest version of Landlock that this build knows; older kernels give what they have.
const NEWEST: ABI = ABI::V7;

/// What a role may open besides what its kind reads of the system. A path that is not there gives nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Reach {
    /// Files, or directories with what is below them, to be read.
    pub reads: Vec<PathBuf>,
    /// Directories to be read and changed.
    pub keeps: Vec<PathBuf>,
}

impl Reach {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// And reads this.
    #[must_use]
    pub fn reads(mut self, path: impl Into<PathBuf>) -> Self {
        self.reads.push(path.into());
        self
    }

    /// And keeps things here.
    #[must_use]
    pub fn keeps(mut self, directory: impl Into<PathBuf>) -> Self {
        self.keeps.push(directory.into());
        self
    }
}

/// Puts this thread, and those it starts, into the role's domain for good.
pub(crate) fn enter(role: Role, reach: &Reach) -> Result<RestrictionStatus, RulesetError> {
    if postern_danger::off!("own-files") {
        return enter_scoped();
    }
    let mut ruleset = Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(NEWEST))?
        .scope(Scope::from_all(NEWEST))?;
    if !postern_danger::off!("outbound-only") {
        ruleset = ruleset.handle_access(AccessNet::BindTcp)?;
    }
    if !role.dials() {
        ruleset = ruleset.handle_access(AccessNet::ConnectTcp)?;
    }
    let mut ruleset = ruleset.create()?;
    for path in role.reads().iter().flat_map(|kind| kind.paths()) {
        ruleset = allow(ruleset, Path::new(path), reading())?;
    }
    for path in &reach.reads {
        ruleset = allow(ruleset, path, reading())?;
    }
    for path in &reach.keeps {
        ruleset = allow(ruleset, path, keeping())?;
    }
    ruleset.restrict_self()
}

/// Puts this thread, and those it starts, into a domain that leaves files and ports alone: mounting goes on, and nobody outside is signalled, traced or met by
/// abstract name.
pub(crate) fn enter_scoped() -> Result<RestrictionStatus, RulesetError> {
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .scope(Scope::from_all(NEWEST))?
        .create()?
        .restrict_self()
}

/// Puts this thread, and those it starts, into a domain without any file. It scopes nothing: who is in the domain around it can be signalled still.
pub(crate) fn enter_without_files() -> Result<RestrictionStatus, RulesetError> {
    let mut ruleset = Ruleset::default().set_compatibility(CompatLevel::BestEffort);
    if postern_danger::off!("own-files") {
        return enter_scoped();
    }
    ruleset = ruleset.handle_access(AccessFs::from_all(NEWEST))?;
    ruleset.create()?.restrict_self()
}

fn allow(ruleset: RulesetCreated, path: &Path, access: BitFlags<AccessFs>) -> Result<RulesetCreated, RulesetError> {
    let Ok(opened) = PathFd::new(path) else { return Ok(ruleset) };
    let access = if path.is_dir() { access } else { access & AccessFs::from_file(NEWEST) };
    ruleset.add_rule(PathBeneath::new(opened, access))
}

fn reading() -> BitFlags<AccessFs> {
    AccessFs::ReadFile | AccessFs::ReadDir
}

/// No device, no program, no link.
fn keeping() -> BitFlags<AccessFs> {
    reading()
        | AccessFs::WriteFile
        | AccessFs::Truncate
        | AccessFs::MakeReg
        | AccessFs::MakeDir
        | AccessFs::MakeSock
        | AccessFs::RemoveFile
        | AccessFs::RemoveDir
        | AccessFs::Refer
}
