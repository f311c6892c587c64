//! Why a sandbox was not built: the step, the cause, and what to do about it.

use serde::{Deserialize, Serialize};

/// A sandbox that was not built. Nothing of it is left.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("build the sandbox, step \"{step}\": {cause}")]
pub struct BuildError {
    /// The step that failed, as named in the lists of steps.
    pub step: String,
    /// What the kernel or a check said.
    pub cause: String,
    /// The kernel's error number, where there is one.
    pub errno: Option<i32>,
    /// What would mend it.
    pub fix: String,
}

impl BuildError {
    /// A refusal by one of our own checks.
    pub fn refused(step: impl Into<String>, cause: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { step: step.into(), cause: cause.into(), errno: None, fix: fix.into() }
    }

    /// A failure of the system during a step.
    pub fn system(step: impl Into<String>, doing: &str, errno: rustix::io::Errno, fix: impl Into<String>) -> Self {
        Self {
            step: step.into(),
            cause: format!("{doing}: {errno}"),
            errno: Some(errno.raw_os_error()),
            fix: fix.into(),
        }
    }

    pub(crate) fn spawner_gone() -> Self {
        Self::refused(
            "reach the spawner",
            "the spawner process has ended",
            "restart the worker: every sandbox it held is gone with it",
        )
    }
}
