//! Why a deployment's run began no session, from why the session was refused.

use serde::{Deserialize, Serialize};

use crate::Problem;
use crate::problem::Kind;

/// The contract's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "the names are the contract's, one for one")]
pub enum RunErrorType {
    #[serde(rename = "environment_archived_error")]
    EnvironmentArchived,
    #[serde(rename = "agent_archived_error")]
    AgentArchived,
    #[serde(rename = "environment_not_found_error")]
    EnvironmentNotFound,
    #[serde(rename = "vault_not_found_error")]
    VaultNotFound,
    #[serde(rename = "vault_archived_error")]
    VaultArchived,
    #[serde(rename = "file_not_found_error")]
    FileNotFound,
    #[serde(rename = "memory_store_archived_error")]
    MemoryStoreArchived,
    #[serde(rename = "skill_not_found_error")]
    SkillNotFound,
    #[serde(rename = "session_resource_not_found_error")]
    SessionResourceNotFound,
    #[serde(rename = "session_rate_limited_error")]
    SessionRateLimited,
    #[serde(rename = "session_creation_rejected_error")]
    SessionCreationRejected,
    #[serde(rename = "unknown_error")]
    Unknown,
}

impl RunErrorType {
    /// The name for a refusal.
    pub fn of(problem: &Problem) -> Self {
        match (problem.error_code, problem.kind) {
            (Some("environment_archived"), _) => Self::EnvironmentArchived,
            (Some("environment_not_found"), _) => Self::EnvironmentNotFound,
            (Some("agent_archived"), _) => Self::AgentArchived,
            (Some("vault_not_found"), _) => Self::VaultNotFound,
            (Some("vault_archived"), _) => Self::VaultArchived,
            (Some("file_not_found"), _) => Self::FileNotFound,
            (Some("memory_store_archived"), _) => Self::MemoryStoreArchived,
            (Some("skill_not_found"), _) => Self::SkillNotFound,
            (Some("session_resource_not_found"), _) => Self::SessionResourceNotFound,
            (_, Kind::RateLimited) => Self::SessionRateLimited,
            (_, Kind::InvalidRequest | Kind::Conflict | Kind::NotFound | Kind::TooLarge) => {
                Self::SessionCreationRejected
            }
            _ => Self::Unknown,
        }
    }

    /// Whether the next run would meet it too, so that the deployment is paused: what is archived or gone stays so. A refusal for
    /// another reason and a failure of this server may pass.
    pub fn pauses(self) -> bool {
        !matches!(self, Self::SessionRateLimited | Self::SessionCreationRejected | Self::Unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_for_good_pauses_and_what_may_pass_does_not() {
        let coded = |code| Problem::invalid("x").with_code(code);
        for (problem, expected, pauses) in [
            (coded("environment_archived"), RunErrorType::EnvironmentArchived, true),
            (Problem::not_found("x").with_code("environment_not_found"), RunErrorType::EnvironmentNotFound, true),
            (coded("agent_archived"), RunErrorType::AgentArchived, true),
            (coded("vault_archived"), RunErrorType::VaultArchived, true),
            (Problem::invalid("x"), RunErrorType::SessionCreationRejected, false),
            (Problem::new(Kind::RateLimited, "x"), RunErrorType::SessionRateLimited, false),
            (Problem::internal(), RunErrorType::Unknown, false),
        ] {
            let found = RunErrorType::of(&problem);
            assert_eq!((found, found.pauses()), (expected, pauses), "{problem:?}");
        }
    }
}
