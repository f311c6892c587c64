//! Memory stores, their memories, and the versions of these, as the contract shows them (2.10).

use serde::{Deserialize, Deserializer, Serialize};

use crate::ids::{ApiKeyId, MemoryId, MemoryStoreId, MemoryVersionId, SessionId};
use crate::metadata::MetadataPatch;
use crate::vault::merged;
use crate::{Field, Metadata, Problem, Timestamp};

mod digest;
mod path;

pub use digest::ContentDigest;
pub use path::{MAX_SEGMENTS, MemoryPath, PathPrefix};

/// The most memories of a store.
pub const MAX_MEMORIES: u64 = 2000;
/// What a store keeps at most, former versions of its memories included, in bytes.
pub const MAX_STORE_BYTES: u64 = 256 * 1024 * 1024;
/// The longest content of a memory, in bytes.
pub const MAX_CONTENT: usize = 102_400;
const MAX_NAME: usize = 255;
const MAX_DESCRIPTION: usize = 1024;

/// A store of memories.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryStore {
    /// Its id.
    pub id: MemoryStoreId,
    /// Always `memory_store`.
    #[serde(rename = "type")]
    pub kind: MemoryStoreTag,
    /// The caller's name for it; not unique.
    pub name: String,
    /// What it holds; empty where nobody said.
    pub description: String,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// When it was made.
    pub created_at: Timestamp,
    /// When name, description, pairs or archival last changed; memories do not count.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// The constant `memory_store`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryStoreTag {
    /// `memory_store`.
    #[default]
    #[serde(rename = "memory_store")]
    MemoryStore,
}

/// What a caller may say of a store.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoreDefinition {
    /// The caller's name for it.
    pub name: String,
    /// What it holds.
    pub description: String,
    /// The caller's pairs.
    pub metadata: Metadata,
}

/// The body that creates a store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateMemoryStore {
    /// The caller's name for it.
    pub name: String,
    /// What it holds.
    #[serde(default)]
    pub description: Option<String>,
    /// The caller's pairs.
    #[serde(default)]
    pub metadata: Option<Metadata>,
}

impl CreateMemoryStore {
    /// What it says, within its limits.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<StoreDefinition, Problem> {
        Ok(StoreDefinition {
            name: store_name(self.name)?,
            description: store_description(self.description.unwrap_or_default())?,
            metadata: self.metadata.unwrap_or_default().checked()?,
        })
    }
}

/// The body that updates a store.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateMemoryStore {
    /// A new name; null is refused.
    #[serde(default)]
    pub name: Field<String>,
    /// A new description; null or an empty one clears.
    #[serde(default)]
    pub description: Field<String>,
    /// Merged; null as a whole clears.
    #[serde(default)]
    pub metadata: Field<MetadataPatch>,
}

impl UpdateMemoryStore {
    /// What the store says after this update.
    ///
    /// # Errors
    /// 400.
    pub fn apply(self, stored: &MemoryStore) -> Result<StoreDefinition, Problem> {
        let name = match self.name {
            Field::Absent => stored.name.clone(),
            Field::Null => return Err(Problem::invalid_at("name", "cannot be cleared")),
            Field::Value(name) => store_name(name)?,
        };
        let description = match self.description {
            Field::Absent => stored.description.clone(),
            Field::Null => String::new(),
            Field::Value(description) => store_description(description)?,
        };
        Ok(StoreDefinition { name, description, metadata: merged(&stored.metadata, &self.metadata)? })
    }
}

/// A text at a path of a store.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memory {
    /// Its id: stays when the path changes.
    pub id: MemoryId,
    /// Always `memory`.
    #[serde(rename = "type")]
    pub kind: MemoryTag,
    /// Whose it is.
    pub memory_store_id: MemoryStoreId,
    /// The version that this is: the head.
    pub memory_version_id: MemoryVersionId,
    /// Where it lies.
    pub path: MemoryPath,
    /// SHA-256 of the content.
    pub content_sha256: ContentDigest,
    /// Length of the content in bytes.
    pub content_size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// The text, where the view has it.
    pub content: Option<String>,
}

/// The constant `memory`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryTag {
    /// `memory`.
    #[default]
    #[serde(rename = "memory")]
    Memory,
}

/// What a list of memories shows: a memory, or the start of the paths of deeper ones.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum MemoryListItem {
    /// A memory.
    Memory(Memory),
    /// Memories that lie deeper.
    Prefix(MemoryPrefix),
}

impl MemoryListItem {
    /// Where it stands in the list.
    pub fn path(&self) -> &str {
        match self {
            Self::Memory(memory) => memory.path.as_str(),
            Self::Prefix(prefix) => &prefix.path,
        }
    }
}

/// What the paths of deeper memories begin with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MemoryPrefix {
    /// Always `memory_prefix`.
    #[serde(rename = "type")]
    pub kind: MemoryPrefixTag,
    /// Ends with `/`.
    pub path: String,
}

/// The constant `memory_prefix`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum MemoryPrefixTag {
    /// `memory_prefix`.
    #[default]
    #[serde(rename = "memory_prefix")]
    MemoryPrefix,
}

/// One change of a memory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct MemoryVersion {
    /// Its id.
    pub id: MemoryVersionId,
    /// Always `memory_version`.
    #[serde(rename = "type")]
    pub kind: MemoryVersionTag,
    /// Of which memory; it may be deleted since.
    pub memory_id: MemoryId,
    /// Whose it is.
    pub memory_store_id: MemoryStoreId,
    /// What was done.
    pub operation: Operation,
    /// When.
    pub created_at: Timestamp,
    /// By whom.
    pub created_by: Option<Actor>,
    /// Where the memory lay then; null once redacted.
    pub path: Option<MemoryPath>,
    /// The text as of this version, where the view has it.
    pub content: Option<String>,
    /// Its SHA-256; null once redacted, and of a deletion.
    pub content_sha256: Option<ContentDigest>,
    /// Its length in bytes; null likewise.
    pub content_size_bytes: Option<u64>,
    /// When it was redacted.
    pub redacted_at: Option<Timestamp>,
    /// By whom.
    pub redacted_by: Option<Actor>,
}

impl MemoryVersion {
    /// The session that wrote it, if one did. Sessions redact nothing.
    pub fn session(&self) -> Option<&SessionId> {
        self.created_by.as_ref().and_then(Actor::session)
    }
}

/// The constant `memory_version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum MemoryVersionTag {
    /// `memory_version`.
    #[default]
    #[serde(rename = "memory_version")]
    MemoryVersion,
}

/// What a version records.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// The memory was made.
    Created,
    /// Its content or its path changed.
    Modified,
    /// It was deleted.
    Deleted,
}

impl Operation {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Modified => "modified",
            Self::Deleted => "deleted",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::Created, Self::Modified, Self::Deleted].into_iter().find(|operation| operation.as_str() == text)
    }
}

/// Who changed a memory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Actor {
    /// An agent in its session.
    SessionActor {
        /// Which session.
        session_id: SessionId,
    },
    /// A client with an API key.
    ApiActor {
        /// Which key.
        api_key_id: ApiKeyId,
    },
    /// A person; the operator of this server is `operator`.
    UserActor {
        /// Who.
        user_id: String,
    },
}

impl Actor {
    /// The session that wrote, if one did.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::SessionActor { session_id } => Some(session_id),
            Self::ApiActor { .. } | Self::UserActor { .. } => None,
        }
    }

    /// The API key that wrote, if one did.
    pub fn api_key(&self) -> Option<&ApiKeyId> {
        match self {
            Self::ApiActor { api_key_id } => Some(api_key_id),
            Self::SessionActor { .. } | Self::UserActor { .. } => None,
        }
    }
}

/// How much of a memory an answer shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// All but the content.
    Basic,
    /// The content too.
    Full,
}

/// How a session may use a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Access {
    /// It may read.
    ReadOnly,
    /// It may change memories too.
    ReadWrite,
}

impl Access {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadOnly => "read_only",
            Self::ReadWrite => "read_write",
        }
    }

    /// Reads the word.
    pub fn parse(text: &str) -> Option<Self> {
        [Self::ReadOnly, Self::ReadWrite].into_iter().find(|access| access.as_str() == text)
    }
}

/// The body that creates a memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateMemory {
    /// Where it shall lie.
    pub path: String,
    /// Its text; empty or null for none. Left out it is refused: nobody shall make an empty memory by a mistyped name.
    #[serde(deserialize_with = "required")]
    pub content: Option<String>,
}

/// Null is a value; absence is none.
fn required<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Option::deserialize(deserializer)
}

impl CreateMemory {
    /// Path and content within their limits.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<(MemoryPath, String), Problem> {
        Ok((MemoryPath::parse(&self.path)?, memory_content(self.content.unwrap_or_default())?))
    }
}

/// The body that updates a memory.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateMemory {
    /// A new text; null is refused.
    #[serde(default)]
    pub content: Field<String>,
    /// A new path; null is refused.
    #[serde(default)]
    pub path: Field<String>,
    /// What must hold.
    #[serde(default)]
    pub precondition: Option<Precondition>,
}

/// What must hold of a memory for a change to apply.
#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Precondition {
    /// Its content is this one still.
    ContentSha256 {
        /// SHA-256 of the content that the caller knows.
        content_sha256: String,
    },
}

/// A checked update of a memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryChange {
    /// The new text, unless it stays.
    pub content: Option<String>,
    /// The new path, unless it stays.
    pub path: Option<MemoryPath>,
    /// The content that the caller knows.
    pub expected: Option<ContentDigest>,
}

impl UpdateMemory {
    /// The change within its limits.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<MemoryChange, Problem> {
        let content = match self.content {
            Field::Absent => None,
            Field::Null => return Err(Problem::invalid_at("content", "cannot be null; send \"\" to empty the memory")),
            Field::Value(content) => Some(memory_content(content)?),
        };
        let path = match self.path {
            Field::Absent => None,
            Field::Null => return Err(Problem::invalid_at("path", "cannot be null; leave it out to keep the path")),
            Field::Value(path) => Some(MemoryPath::parse(&path)?),
        };
        let expected = self.precondition.map(|Precondition::ContentSha256 { content_sha256 }| {
            ContentDigest::parse(&content_sha256, "precondition.content_sha256")
        });
        Ok(MemoryChange { content, path, expected: expected.transpose()? })
    }
}

fn store_name(name: String) -> Result<String, Problem> {
    if name.chars().any(char::is_control) {
        return Err(Problem::invalid_at("name", "must not have control characters"));
    }
    if !(1..=MAX_NAME).contains(&name.chars().count()) {
        return Err(Problem::invalid_at("name", format!("must have 1 to {MAX_NAME} characters")));
    }
    Ok(name)
}

fn store_description(description: String) -> Result<String, Problem> {
    if description.chars().count() > MAX_DESCRIPTION {
        return Err(Problem::invalid_at("description", format!("must have at most {MAX_DESCRIPTION} characters")));
    }
    Ok(description)
}

fn memory_content(content: String) -> Result<String, Problem> {
    if content.len() > MAX_CONTENT {
        return Err(Problem::invalid_at(
            "content",
            format!("must have at most {MAX_CONTENT} bytes, has {}", content.len()),
        ));
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_store_s_name_and_description_keep_their_limits() {
        let checked = |name: &str, description: &str| {
            let (name, description) = (name.to_owned(), Some(description.to_owned()));
            CreateMemoryStore { name, description, metadata: None }.checked()
        };
        assert!(checked(&"\u{e9}".repeat(255), &"\u{e9}".repeat(1024)).is_ok());
        for (name, description) in [("", ""), ("a\nb", ""), (&*"n".repeat(256), ""), ("n", &*"d".repeat(1025))] {
            assert_eq!(checked(name, description).unwrap_err().status(), 400, "{name:?}");
        }
    }

    #[test]
    fn a_memory_s_content_is_measured_in_bytes() {
        let create = |content: String| CreateMemory { path: "/a".into(), content: Some(content) }.checked();
        assert!(create("\u{e9}".repeat(MAX_CONTENT / 2)).is_ok());
        assert_eq!(create("\u{e9}".repeat(MAX_CONTENT / 2) + "x").unwrap_err().status(), 400);
    }

    #[test]
    fn an_update_takes_what_is_there_and_refuses_null() {
        let change = |text: &str| serde_json::from_str::<UpdateMemory>(text).unwrap().checked();
        let nothing = MemoryChange { content: None, path: None, expected: None };
        assert_eq!(change("{}"), Ok(nothing.clone()));
        assert_eq!(change(r#"{"content":""}"#), Ok(MemoryChange { content: Some(String::new()), ..nothing }));
        for text in [
            r#"{"content":null}"#,
            r#"{"path":null}"#,
            r#"{"path":"a"}"#,
            r#"{"precondition":{"type":"content_sha256","content_sha256":"ABC"}}"#,
        ] {
            assert_eq!(change(text).unwrap_err().status(), 400, "{text}");
        }
    }
}
