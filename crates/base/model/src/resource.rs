//! What a session is given besides its agent (contract 1.7, 2.6).

mod repository;

use serde::{Deserialize, Serialize};

pub use repository::{
    AuthorizationToken, Checkout, ClonePath, MAX_REPOSITORIES, RepositoryFault, RepositoryResource, WORKSPACE,
};

use crate::ids::{FileId, MemoryStoreId, ResourceId};
use crate::memory::Access;
use crate::{Problem, Timestamp};

/// The most resources of a session.
pub const MAX_RESOURCES: usize = 500;
/// The most memory stores of a session.
pub const MAX_MEMORY_STORES: usize = 8;
/// The longest instructions for a memory store, in characters.
pub const MAX_INSTRUCTIONS: usize = 4096;
/// The longest path at which a resource is put, in bytes.
const MAX_PATH: usize = 1024;
/// Below this a file is put: a directory of the session that its sandbox shows read-only.
pub const UPLOADS: &str = "/mnt/session/uploads/";

/// A resource of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Resource {
    /// A file, put into the sandbox before the first tool call that finds it.
    File(FileResource),
    /// A memory store, kept in step with a directory of the sandbox by the worker.
    MemoryStore(MemoryStoreResource),
    /// A repository, cloned into the sandbox before the first tool call.
    GithubRepository(RepositoryResource),
}

impl Resource {
    /// Its id; a memory store has none: it is attached when the session begins and stays.
    pub fn id(&self) -> Option<&ResourceId> {
        match self {
            Self::File(file) => Some(&file.id),
            Self::GithubRepository(repository) => Some(&repository.id),
            Self::MemoryStore(_) => None,
        }
    }
}

/// A memory store that a session was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemoryStoreResource {
    /// Which.
    pub memory_store_id: MemoryStoreId,
    /// What the session may do there.
    pub access: Access,
    /// What the store said of itself when the session began.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// What the agent is told about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instructions: Option<String>,
    /// Where its memories lie in the sandbox.
    pub mount_path: String,
    /// Its name when the session began.
    pub name: String,
}

/// Where the memories of a store lie, by its name: lowercased, every run of other characters than a-z and 0-9 a dash.
pub fn memory_mount(name: &str) -> String {
    let mut slug = String::new();
    for character in name.to_lowercase().chars() {
        match character {
            'a'..='z' | '0'..='9' => slug.push(character),
            _ if slug.ends_with('-') => {}
            _ => slug.push('-'),
        }
    }
    let slug = slug.trim_matches('-');
    format!("/mnt/memory/{}", if slug.is_empty() { "store" } else { slug })
}

/// A file that a session was given.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileResource {
    /// The resource.
    pub id: ResourceId,
    /// The session's own copy: the upload may go away meanwhile.
    pub file_id: FileId,
    /// Where it lies in the sandbox.
    pub mount_path: MountPath,
    /// When the session was given it.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// A resource as a caller asks for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ResourceParam {
    /// An uploaded file.
    File {
        /// Which.
        file_id: String,
        /// Where to put it; absent: `/mnt/session/uploads/<file_id>`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mount_path: Option<String>,
    },
    /// A memory store; only when a session begins.
    MemoryStore {
        /// Which.
        memory_store_id: String,
        /// What the session may do there; absent: read and write.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        access: Option<Access>,
        /// What the agent is told about it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instructions: Option<String>,
    },
    /// A Git repository; only when a session begins.
    GithubRepository {
        /// Where it is cloned from, as git takes it: a URL with a host, or `user@host:path`.
        url: String,
        /// What its host asks for, sealed at once.
        #[serde(default, skip_serializing)]
        authorization_token: Option<AuthorizationToken>,
        /// What is checked out; absent: what the repository says itself.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        checkout: Option<Checkout>,
        /// Where to put it; absent: `/workspace/<name of the repository>`.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        mount_path: Option<String>,
    },
}

/// A path in the sandbox at which a file may be put: absolute, plain, below [`UPLOADS`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MountPath(String);

impl MountPath {
    /// Where a file lies when nobody said otherwise.
    pub fn of_upload(file: &FileId) -> Self {
        Self(format!("{UPLOADS}{file}"))
    }

    /// Checks a path.
    ///
    /// # Errors
    /// 400 saying what it must be.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let plain = |segment: &str| !matches!(segment, "" | "." | "..");
        let refused = |why: &str| Err(Problem::invalid_at("mount_path", why));
        if text.len() > MAX_PATH {
            return refused("must be at most 1024 bytes");
        }
        if text.chars().any(char::is_control) {
            return refused("must not hold control characters");
        }
        let Some(rest) = text.strip_prefix(UPLOADS) else {
            return refused("must lie below /mnt/session/uploads, where files are shown to the agent read-only");
        };
        if !rest.split('/').all(plain) {
            return refused("must be a plain path: no empty segment, no `.` and no `..`");
        }
        Ok(Self(text.to_owned()))
    }

    /// The path below [`UPLOADS`].
    pub fn relative(&self) -> &str {
        self.0.strip_prefix(UPLOADS).unwrap_or_default()
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether one of the two would hide the other or lie within it.
    pub fn collides(&self, other: &Self) -> bool {
        collide(&self.0, &other.0)
    }
}

/// Whether one of two paths is the other or lies within it.
fn collide(one: &str, other: &str) -> bool {
    let within = |inner: &str, outer: &str| {
        inner.strip_prefix(outer).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    within(one, other) || within(other, one)
}

impl TryFrom<String> for MountPath {
    type Error = Problem;
    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text)
    }
}

impl From<MountPath> for String {
    fn from(path: MountPath) -> Self {
        path.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_lies_below_the_place_made_for_it_and_nowhere_else() {
        for path in ["/mnt/session/uploads/file_1", "/mnt/session/uploads/a b/.c/ü"] {
            assert_eq!(MountPath::parse(path).unwrap().as_str(), path);
        }
        for path in [
            "",
            "/",
            "mnt/session/uploads/a",
            "/mnt/session/uploads",
            "/mnt/session/uploads/",
            "/mnt/session/uploads//a",
            "/mnt/session/uploads/a/",
            "/mnt/session/uploads/./a",
            "/mnt/session/uploads/../outputs/a",
            "/mnt/session/uploads/..",
            "/mnt/session/outputs/x",
            "/mnt/memory/x",
            "/workspace/x",
            "/etc/passwd",
            "/mnt/session/uploadsx/a",
            "/mnt/session/uploads/a\0b",
            "/mnt/session/uploads/a\nb",
        ] {
            assert!(MountPath::parse(path).is_err(), "{path:?}");
        }
        assert!(MountPath::parse(&format!("{UPLOADS}{}", "a".repeat(MAX_PATH - UPLOADS.len()))).is_ok());
        assert!(MountPath::parse(&format!("{UPLOADS}{}", "a".repeat(MAX_PATH - UPLOADS.len() + 1))).is_err());
    }

    #[test]
    fn two_files_do_not_lie_in_one_another() {
        let path = |text: &str| MountPath::parse(&format!("{UPLOADS}{text}")).unwrap();
        for (other, collides) in [("a", true), ("a/b", true), ("ab", false), ("b", false)] {
            assert_eq!(
                (path("a").collides(&path(other)), path(other).collides(&path("a"))),
                (collides, collides),
                "{other}"
            );
        }
    }

    #[test]
    fn a_store_lies_where_its_name_says() {
        for (name, path) in [
            ("Team notes", "team-notes"),
            ("a--b__c", "a-b-c"),
            ("  Ünicode! ", "nicode"),
            ("../../etc", "etc"),
            ("日本", "store"),
        ] {
            assert_eq!(memory_mount(name), format!("/mnt/memory/{path}"), "{name}");
        }
    }
}
