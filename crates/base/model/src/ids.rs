//! Typed identifiers: a prefix that names the kind, then random base-58 characters.
//!
//! Clients treat ids as opaque; here each kind is its own type, so that an agent's id cannot stand where a session's is
//! meant. An id is a name, never a proof: nothing is granted for knowing one.

use std::fmt;

/// How many random characters follow the prefix: 24 base-58 characters are 140 bits.
const RANDOM_LENGTH: usize = 24;
/// The longest tail that is accepted when parsing.
const MAX_TAIL: usize = 64;
const BASE58: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";

/// A text that is not an id of the expected kind.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected an id that starts with `{prefix}`")]
pub struct InvalidId {
    /// The prefix that ids of the expected kind carry.
    pub prefix: &'static str,
}

macro_rules! ids {
    ($($(#[$meta:meta])* $name:ident = $prefix:literal;)*) => {$(
        $(#[$meta])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Box<str>);

        impl $name {
            /// The prefix of this kind of id.
            pub const PREFIX: &'static str = $prefix;

            /// A fresh random id.
            pub fn generate() -> Self {
                Self(generate($prefix))
            }

            /// Reads an id of this kind.
            ///
            /// # Errors
            /// [`InvalidId`] when the prefix differs or the rest is not 1 to 64 letters, digits, `_` or `-`.
            pub fn parse(text: &str) -> Result<Self, InvalidId> {
                check(text, $prefix).map(Self)
            }

            /// The id as it stands on the wire.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidId;
            fn from_str(text: &str) -> Result<Self, InvalidId> {
                Self::parse(text)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(&self.0)
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = String::deserialize(deserializer)?;
                Self::parse(&text).map_err(serde::de::Error::custom)
            }
        }
    )*};
}

ids! {
    /// An agent: the versioned definition.
    AgentId = "agent_";
    /// An environment: the owner of a work queue.
    EnvironmentId = "env_";
    /// A session.
    SessionId = "sesn_";
    /// An event of a session's log; also the id by which a tool use is answered.
    EventId = "sevt_";
    /// A thread of a session.
    ThreadId = "sthr_";
    /// An item of a work queue.
    WorkId = "work_";
    /// An outcome that a user defined.
    OutcomeId = "outc_";
    /// A run of a workflow.
    WorkflowRunId = "wrun_";
    /// A phase of a workflow.
    WorkflowPhaseId = "wrph_";
    /// An API key's record, never the key itself.
    ApiKeyId = "apikey_";
    /// An environment key's record, never the key itself.
    EnvironmentKeyId = "envkey_";
    /// A workspace.
    WorkspaceId = "wrkspc_";
    /// One HTTP request.
    RequestId = "req_";
    /// A vault.
    VaultId = "vlt_";
    /// A credential of a vault.
    CredentialId = "vcrd_";
    /// A tunnel.
    TunnelId = "tnl_";
    /// One value of a tunnel's token: another after each rotation. Never the token itself.
    TunnelTokenId = "ttok_";
    /// A CA certificate of a tunnel.
    CertificateId = "tcrt_";
    /// A deployment.
    DeploymentId = "depl_";
    /// A run of a deployment.
    DeploymentRunId = "drun_";
    /// A store of memories.
    MemoryStoreId = "memstore_";
    /// A memory of a store.
    MemoryId = "mem_";
    /// One change of a memory.
    MemoryVersionId = "memver_";
    /// A registered perimeter.
    PerimeterId = "perim_";
    /// An endpoint that is told of events.
    WebhookId = "wh_";
    /// An event that webhooks are told of.
    WebhookEventId = "whe_";
    /// A file.
    FileId = "file_";
    /// Something a session was given: a file, a repository.
    ResourceId = "sesrsc_";
    /// A token of a deployment's repository, as records name it.
    DeploymentResourceId = "deplrsc_";
    /// A skill.
    SkillId = "skill_";
    /// A version of a skill.
    SkillVersionId = "skillver_";
}

impl WorkspaceId {
    /// The one workspace of an installation that has no others.
    pub fn default_workspace() -> Self {
        Self("wrkspc_default".into())
    }
}

impl Default for WorkspaceId {
    fn default() -> Self {
        Self::default_workspace()
    }
}

fn check(text: &str, prefix: &'static str) -> Result<Box<str>, InvalidId> {
    let tail = text.strip_prefix(prefix).ok_or(InvalidId { prefix })?;
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-';
    if tail.is_empty() || tail.len() > MAX_TAIL || !tail.bytes().all(plain) {
        return Err(InvalidId { prefix });
    }
    Ok(text.into())
}

fn generate(prefix: &str) -> Box<str> {
    let mut id = String::with_capacity(prefix.len() + RANDOM_LENGTH);
    id.push_str(prefix);
    let mut random = [0_u8; 2 * RANDOM_LENGTH];
    while id.len() < prefix.len() + RANDOM_LENGTH {
        getrandom::fill(&mut random).expect("the kernel's random source answers: Linux 5.6 and later never refuse");
        // 58 * 4 = 232: larger bytes would make the first characters of the alphabet likelier.
        let even = random.iter().filter(|byte| **byte < 232).map(|byte| char::from(BASE58[usize::from(byte % 58)]));
        id.extend(even.take(prefix.len() + RANDOM_LENGTH - id.len()));
    }
    id.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generated_id_has_its_prefix_and_24_characters_and_parses() {
        let id = SessionId::generate();
        assert_eq!(id.as_str().len(), "sesn_".len() + 24);
        assert_eq!(SessionId::parse(id.as_str()), Ok(id));
    }

    #[test]
    fn two_generated_ids_differ() {
        assert_ne!(AgentId::generate(), AgentId::generate());
    }

    #[test]
    fn what_is_not_an_id_of_the_kind_is_refused() {
        for text in ["", "agent_", "sesn_abc", "agent_a b", "agent_a/b", "agent_\u{e9}", "AGENT_abc"] {
            assert!(AgentId::parse(text).is_err(), "{text:?}");
        }
        assert!(AgentId::parse(&format!("agent_{}", "a".repeat(65))).is_err());
    }

    #[test]
    fn ids_are_strings_in_json() {
        let id = WorkspaceId::default();
        assert_eq!(serde_json::to_string(&id).unwrap(), "\"wrkspc_default\"");
        assert!(serde_json::from_str::<WorkspaceId>("\"env_1\"").is_err());
    }
}
