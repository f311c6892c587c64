//! What became of a role's confinement, and what this kernel can do about it: facts, never hopes.

use landlock::{LandlockStatus, RulesetStatus};
use serde::{Deserialize, Serialize};

/// The version of Landlock from which a role's domain is whole: files, TCP ports, signals and abstract names.
const WHOLE: i32 = 6;

/// How far a process is confined.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
pub enum Confinement {
    /// By everything that this build knows.
    Active,
    /// By less than that.
    Degraded {
        /// What is lacking, and why.
        cause: String,
        /// What mends it.
        fix: String,
    },
    /// By nothing.
    Missing {
        /// Why.
        cause: String,
        /// What mends it.
        fix: String,
    },
}

impl Confinement {
    /// From what each part did.
    pub(crate) fn of(
        calls: Result<(), String>,
        powers: Result<(), String>,
        files: Result<&'static str, String>,
    ) -> Self {
        match (Self::of_two(calls, files), powers) {
            (confinement, Ok(())) => confinement,
            (Self::Active, Err(cause)) => Self::Degraded { cause, fix: CAPABILITIES_FIX.to_owned() },
            (Self::Degraded { cause, fix }, Err(also)) => {
                Self::Degraded { cause: format!("{cause}; {also}"), fix: format!("{fix}; {CAPABILITIES_FIX}") }
            }
            (Self::Missing { cause, fix }, Err(also)) => {
                Self::Missing { cause: format!("{cause}; {also}"), fix: format!("{fix}; {CAPABILITIES_FIX}") }
            }
        }
    }

    fn of_two(calls: Result<(), String>, files: Result<&'static str, String>) -> Self {
        match (calls, files) {
            (Ok(()), Ok("")) => Self::Active,
            (Ok(()), Ok(lack)) => Self::Degraded { cause: lack.to_owned(), fix: LANDLOCK_FIX.to_owned() },
            (Ok(()), Err(cause)) => Self::Degraded { cause, fix: LANDLOCK_FIX.to_owned() },
            (Err(cause), Ok(_)) => Self::Degraded { cause, fix: FILTER_FIX.to_owned() },
            (Err(calls), Err(files)) => {
                Self::Missing { cause: format!("{calls}; {files}"), fix: format!("{FILTER_FIX}; {LANDLOCK_FIX}") }
            }
        }
    }

    pub(crate) fn missing(cause: String, fix: &str) -> Self {
        Self::Missing { cause, fix: fix.to_owned() }
    }

    /// As a line for the operator: `active`, or state, cause and fix.
    #[must_use]
    pub fn line(&self) -> String {
        match self {
            Self::Active => "active".to_owned(),
            Self::Degraded { cause, fix } => format!("degraded  {cause}; {fix}"),
            Self::Missing { cause, fix } => format!("missing   {cause}; {fix}"),
        }
    }
}

/// What a kernel's Landlock lacks, by what it said when a domain was entered; empty when nothing.
pub(crate) fn lacking(ruleset: &RulesetStatus, landlock: &LandlockStatus) -> Result<&'static str, String> {
    let version = match landlock {
        LandlockStatus::Available { effective_abi, .. } => *effective_abi as i32,
        _ => 0,
    };
    match ruleset {
        // Of all that was asked for there was nothing: no files were, then.
        RulesetStatus::NotEnforced if version > 0 => {
            Err(format!("the kernel's Landlock, version {version}, confines no signals"))
        }
        RulesetStatus::NotEnforced => Err("the kernel has no Landlock, or it is not enabled".to_owned()),
        _ if version >= WHOLE => Ok(""),
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced if version >= 4 => {
            Ok("the kernel's Landlock confines files and TCP ports, not signals")
        }
        RulesetStatus::FullyEnforced | RulesetStatus::PartiallyEnforced => {
            Ok("the kernel's Landlock confines files, neither TCP ports nor signals")
        }
    }
}

const FILTER_FIX: &str = "boot a kernel with CONFIG_SECCOMP_FILTER";
const CAPABILITIES_FIX: &str = "let the process use capset and prctl";
const LANDLOCK_FIX: &str = "boot a kernel from 6.12 on with CONFIG_SECURITY_LANDLOCK and landlock in its lsm= list";

#[cfg(test)]
mod tests {
    use landlock::ABI;

    use super::*;

    #[test]
    fn what_is_not_whole_says_why_and_what_helps() {
        let lost = || Err("why".to_owned());
        let table = [
            (Confinement::of(Ok(()), Ok(()), Ok("")), "active"),
            (Confinement::of(Ok(()), Ok(()), Ok("less")), "degraded  less; boot"),
            (Confinement::of(Ok(()), Ok(()), Err("none".to_owned())), "degraded  none; boot"),
            (Confinement::of(lost(), Ok(()), Ok("")), "degraded  why; boot"),
            (Confinement::of(lost(), Ok(()), Err("none".to_owned())), "missing   why; none; boot"),
            (Confinement::of(Ok(()), lost(), Ok("")), "degraded  why; let"),
            (Confinement::of(Ok(()), lost(), Ok("less")), "degraded  less; why; boot"),
            (Confinement::of(lost(), lost(), Err("none".to_owned())), "missing   why; none; why; boot"),
        ];
        for (confinement, line) in table {
            assert!(confinement.line().starts_with(line), "{}", confinement.line());
        }
    }

    #[test]
    fn an_older_kernel_is_named_by_what_it_does_not_confine() {
        let kernel = |effective_abi| LandlockStatus::Available { effective_abi, kernel_abi: None };
        let table = [
            (RulesetStatus::FullyEnforced, kernel(ABI::V7), Ok("")),
            (RulesetStatus::PartiallyEnforced, kernel(ABI::V6), Ok("")),
            (RulesetStatus::PartiallyEnforced, kernel(ABI::V5), Ok("files and TCP ports, not signals")),
            (RulesetStatus::PartiallyEnforced, kernel(ABI::V1), Ok("files, neither TCP ports nor signals")),
            (RulesetStatus::NotEnforced, kernel(ABI::V2), Err("version 2, confines no signals")),
            (RulesetStatus::NotEnforced, LandlockStatus::NotEnabled, Err("has no Landlock")),
        ];
        for (ruleset, landlock, expected) in table {
            match (lacking(&ruleset, &landlock), expected) {
                (Ok(found), Ok(expected)) => assert!(found.ends_with(expected), "{found}"),
                (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
                (found, _) => panic!("{found:?}"),
            }
        }
    }
}
