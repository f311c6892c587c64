//! Why a repository is not there: what git and the exit said, as one of the contract's five kinds, with a next step. What a host says can choose among
//! them and do nothing else.

use std::io;
use std::time::Duration;

use postern_model::resource::RepositoryFault;
use postern_policy::Reason;

use super::{Wanted, script};

/// A repository that is not brought.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) kind: RepositoryFault,
    pub(super) message: String,
}

impl Fault {
    pub(super) fn new(kind: RepositoryFault, message: impl Into<String>) -> Self {
        Self { kind, message: message.into() }
    }

    pub(super) fn storage(error: &io::Error) -> Self {
        let message = format!(
            "the worker cannot note on its disk what was cloned ({}). Next step: an operator frees space there, then send a message",
            error.kind()
        );
        Self::new(RepositoryFault::RepositoryCloneError, message)
    }

    pub(super) fn timed_out(after: Duration) -> Self {
        let message = format!(
            "the clone took more than {} seconds. Next step: have the agent clone what it needs, in the background or with --filter=blob:none",
            after.as_secs()
        );
        Self::new(RepositoryFault::RepositoryCloneError, message)
    }

    /// For the model, beside its next result.
    pub(super) fn line(&self, wanted: &Wanted) -> String {
        let kind = serde_json::to_value(self.kind).ok();
        let kind = kind.as_ref().and_then(|kind| kind.as_str()).unwrap_or_default();
        format!("[postern] {} is not at {} reason={kind} next={}", wanted.url, wanted.path.as_str(), self.message)
    }
}

/// What a clone came to that failed: the code of its script, and what was said.
pub(super) fn of(wanted: &Wanted, code: Option<u32>, said: &str) -> Fault {
    use RepositoryFault::{
        RepositoryAuthenticationError, RepositoryCheckoutError, RepositoryCloneError, RepositoryForbiddenError,
        RepositoryNotFoundError,
    };
    let (host, last) = (wanted.url.host(), last_words(said));
    let has = |words: &[&str]| words.iter().any(|word| said.contains(word));
    // One without an underscore is a word that anybody says.
    let ours = Reason::ALL.iter().filter(|reason| reason.code().contains('_'));
    let refused = ours.into_iter().find(|reason| said.contains(reason.code()));
    match (code, refused) {
        (Some(script::NO_GIT), _) => Fault::new(
            RepositoryCloneError,
            "the sandbox's system has no git. Next step: an operator gives the zone a system that has one",
        ),
        (Some(script::TAKEN), _) => {
            let path = wanted.path.as_str();
            let message =
                format!("something else lies at {path}. Next step: have the agent move it, or say another mount_path");
            Fault::new(RepositoryCloneError, message)
        }
        (_, Some(reason)) => {
            let message = format!(
                "the perimeter refused it ({reason}). Next step: an operator adds an egress rule for {host}, scheme {}, port {}, with the methods GET and POST, and `repositories = true` where it has a token: {last}",
                wanted.url.scheme(),
                wanted.url.port()
            );
            Fault::new(RepositoryForbiddenError, message)
        }
        (Some(script::NO_CHECKOUT), None) => {
            let message = format!("it has not what was to be checked out. Next step: look at `checkout`: {last}");
            Fault::new(RepositoryCheckoutError, message)
        }
        (_, None)
            if has(&["Authentication failed", "could not read Username", "could not read Password", "error: 401"]) =>
        {
            let message = format!(
                "{host} does not know the token, or wants one. Next step: send another to the resource: {last}"
            );
            Fault::new(RepositoryAuthenticationError, message)
        }
        (_, None) if has(&["error: 403"]) => {
            let message =
                format!("{host} does not let the token read it. Next step: give the token that right: {last}");
            Fault::new(RepositoryForbiddenError, message)
        }
        (_, None) if has(&["error: 404", "' not found", "Repository not found"]) => {
            let message = format!(
                "{host} has no such repository, or does not show it to the token. Next step: look at `url`: {last}"
            );
            Fault::new(RepositoryNotFoundError, message)
        }
        (_, None) => {
            let message = format!("git could not clone it. Next step: look at what it says: {last}");
            Fault::new(RepositoryCloneError, message)
        }
    }
}

/// The end of what git said, on one line.
fn last_words(said: &str) -> String {
    let lines = said.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("[postern] clone:"));
    let text = lines.collect::<Vec<_>>().join(" | ");
    let skipped = text.chars().count().saturating_sub(LAST_WORDS);
    text.chars().skip(skipped).collect()
}

const LAST_WORDS: usize = 600;
