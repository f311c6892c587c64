//! Git repositories that a session is given (contract 1.7, 2.6, 3.7): what a caller says of one, what is shown of it, and how bringing it can fail.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize};
use zeroize::Zeroizing;

use super::collide;
use crate::ids::ResourceId;
use crate::{Problem, Timestamp};

/// Below this a repository is put.
pub const WORKSPACE: &str = "/workspace/";
/// The most repositories of a session.
pub const MAX_REPOSITORIES: usize = 16;
/// The longest path at which a repository is put, in bytes.
const MAX_PATH: usize = 512;
/// The longest name of a branch, in bytes.
const MAX_BRANCH: usize = 250;

/// A repository that a session was given. Its token is shown nowhere.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryResource {
    /// The resource.
    pub id: ResourceId,
    /// Where it is cloned from.
    pub url: String,
    /// Where its working tree lies in the sandbox.
    pub mount_path: ClonePath,
    /// What is checked out; absent: what the repository says itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub checkout: Option<Checkout>,
    /// When the session was given it.
    pub created_at: Timestamp,
    /// When it, or its token, last changed.
    pub updated_at: Timestamp,
}

/// What is checked out of a repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Checkout {
    /// A branch.
    Branch {
        /// Its name.
        name: String,
    },
    /// A commit.
    Commit {
        /// Its whole id.
        sha: String,
    },
}

impl Checkout {
    /// The same, where its words can be what they say.
    ///
    /// # Errors
    /// 400 saying what they must be.
    pub fn checked(self) -> Result<Self, Problem> {
        let holds = match &self {
            Self::Branch { name } => is_branch(name),
            Self::Commit { sha } => matches!(sha.len(), 40 | 64) && sha.bytes().all(|byte| byte.is_ascii_hexdigit()),
        };
        match (&self, holds) {
            (_, true) => Ok(self),
            (Self::Branch { .. }, false) => Err(Problem::invalid_at("checkout.name", "is no name of a branch")),
            (Self::Commit { .. }, false) => Err(Problem::invalid_at(
                "checkout.sha",
                "must be the whole id of a commit: 40 or 64 hexadecimal digits",
            )),
        }
    }
}

/// What `git check-ref-format --branch` takes.
fn is_branch(name: &str) -> bool {
    let bad = |character: char| character.is_control() || " ~^:?*[\\\u{7f}".contains(character);
    let part = |part: &str| !part.is_empty() && !part.starts_with('.') && !part.ends_with(".lock");
    (1..=MAX_BRANCH).contains(&name.len())
        && !name.starts_with('-')
        && !name.ends_with('.')
        && !matches!(name, "@" | "HEAD")
        && !name.contains("..")
        && !name.contains("@{")
        && !name.contains(bad)
        && name.split('/').all(part)
}

/// A path in the sandbox at which a repository may be put: absolute, plain, below [`WORKSPACE`]. Nothing of ours lies there: that begins with a dot.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ClonePath(String);

impl ClonePath {
    /// Where a repository of this name lies when nobody said otherwise.
    ///
    /// # Errors
    /// 400: the name can be none of a directory.
    pub fn of_repository(name: &str) -> Result<Self, Problem> {
        Self::parse(&format!("{WORKSPACE}{name}"))
            .map_err(|problem| Problem { message: format!("{} Say one.", problem.message), ..problem })
    }

    /// Checks a path.
    ///
    /// # Errors
    /// 400 saying what it must be.
    pub fn parse(text: &str) -> Result<Self, Problem> {
        let plain = |segment: &str| !segment.is_empty() && !segment.starts_with('.');
        let refused = |why: &str| Err(Problem::invalid_at("mount_path", why));
        if text.len() > MAX_PATH {
            return refused("must be at most 512 bytes");
        }
        if text.chars().any(char::is_control) {
            return refused("must not hold control characters");
        }
        let Some(rest) = text.strip_prefix(WORKSPACE) else {
            return refused("must lie below /workspace/, where the agent works");
        };
        if !rest.split('/').all(plain) {
            return refused("must be a plain path: no empty segment, and none that begins with a dot");
        }
        Ok(Self(text.to_owned()))
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

impl TryFrom<String> for ClonePath {
    type Error = Problem;
    fn try_from(text: String) -> Result<Self, Problem> {
        Self::parse(&text)
    }
}

impl From<ClonePath> for String {
    fn from(path: ClonePath) -> Self {
        path.0
    }
}

/// A repository's token as it comes in a body, on its way to being sealed. Zeroed when it is dropped, and written nowhere.
#[derive(Clone, PartialEq, Eq)]
pub struct AuthorizationToken(Zeroizing<String>);

impl AuthorizationToken {
    /// Its bytes, for whoever seals them.
    pub fn into_bytes(mut self) -> Vec<u8> {
        std::mem::take(&mut *self.0).into_bytes()
    }
}

impl<'de> Deserialize<'de> for AuthorizationToken {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

impl fmt::Debug for AuthorizationToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AuthorizationToken")
    }
}

/// How bringing a repository failed. The session goes on without it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RepositoryFault {
    /// Its host does not know the token.
    RepositoryAuthenticationError,
    /// Its host, or the perimeter, does not allow it.
    RepositoryForbiddenError,
    /// There is none at the URL, or none that the token may see.
    RepositoryNotFoundError,
    /// It was cloned, and has not what was to be checked out.
    RepositoryCheckoutError,
    /// Everything else.
    RepositoryCloneError,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repository_lies_below_the_workspace_beside_what_is_ours() {
        for path in ["/workspace/ledger", "/workspace/a/b c/ü", "/workspace/a.b"] {
            assert_eq!(ClonePath::parse(path).unwrap().as_str(), path);
        }
        for path in [
            "",
            "/",
            "/workspace",
            "/workspace/",
            "workspace/a",
            "/workspace//a",
            "/workspace/a/",
            "/workspace/./a",
            "/workspace/../etc",
            "/workspace/a/..",
            "/workspace/.home",
            "/workspace/.results/x",
            "/workspace/a/.git",
            "/workspacex/a",
            "/mnt/session/uploads/a",
            "/etc/a",
            "/workspace/a\0b",
            "/workspace/a\nb",
        ] {
            assert!(ClonePath::parse(path).is_err(), "{path:?}");
        }
        assert!(ClonePath::parse(&format!("{WORKSPACE}{}", "a".repeat(MAX_PATH))).is_err());
        assert_eq!(ClonePath::of_repository("ledger").unwrap().as_str(), "/workspace/ledger");
        assert!(ClonePath::of_repository(".github").is_err());
    }

    #[test]
    fn a_branch_has_a_name_that_git_takes_and_a_commit_its_whole_id() {
        let branch = |name: &str| Checkout::Branch { name: name.to_owned() }.checked().is_ok();
        for name in ["main", "feature/x", "a-b_c.d", "über", "v1.0"] {
            assert!(branch(name), "{name}");
        }
        for name in [
            "",
            "-x",
            "--upload-pack=x",
            "a b",
            "a..b",
            "a~1",
            "a^",
            "a:b",
            "a?",
            "a*",
            "a[",
            "a\\b",
            "/a",
            "a/",
            "a//b",
            ".a",
            "a/.b",
            "a.lock",
            "a.lock/b",
            "a.",
            "@",
            "a@{1}",
            "HEAD",
            "a\nb",
            "a\0b",
        ] {
            assert!(!branch(name), "{name:?}");
        }
        assert!(branch(&"a".repeat(MAX_BRANCH)) && !branch(&"a".repeat(MAX_BRANCH + 1)));
        let commit = |sha: &str| Checkout::Commit { sha: sha.to_owned() }.checked().is_ok();
        for (sha, holds) in [
            ("a".repeat(40), true),
            ("0".repeat(64), true),
            ("a".repeat(39), false),
            ("a".repeat(41), false),
            ("a".repeat(65), false),
            ("g".repeat(40), false),
            ("HEAD".to_owned(), false),
        ] {
            assert_eq!(commit(&sha), holds, "{sha}");
        }
    }

    #[test]
    fn a_token_is_in_no_text_that_is_made_of_it() {
        let token: AuthorizationToken = serde_json::from_str("\"ghp_secret\"").unwrap();
        assert!(!format!("{token:?}").contains("secret"));
        assert_eq!(token.into_bytes(), b"ghp_secret");
    }
}
