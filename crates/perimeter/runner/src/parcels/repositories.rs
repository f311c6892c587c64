//! Repositories that a session was given: cloned inside its sandbox, before its first tool use, by the sandbox's own git and through its one exit. What is
//! there once is never touched again: from then on it is the agent's.

mod fault;
mod script;

use std::collections::BTreeMap;
use std::time::Duration;

use postern_model::resource::{Checkout, ClonePath, RepositoryFault, RepositoryResource};
use postern_policy::RepositoryUrl;
use postern_tools::Block;
use serde_json::{Map, Value};

use super::{Parcels, patiently, read, write};
use crate::hands::{Hands, Outcome, ToolCall};
use crate::session::{Subject, chain};
use fault::Fault;

/// A repository that is not there yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Wanted {
    resource: String,
    url: RepositoryUrl,
    path: ClonePath,
    checkout: Option<Checkout>,
}

impl Wanted {
    /// As the server shows it; nothing where it is none that our server would have taken.
    pub(super) fn read(shown: RepositoryResource) -> Option<Self> {
        let RepositoryResource { id, url, mount_path, checkout, .. } = shown;
        let checkout = checkout.map(Checkout::checked).transpose().ok()?;
        Some(Self { resource: id.to_string(), url: url.parse().ok()?, path: mount_path, checkout })
    }
}

/// What was cloned, by resource: where it was put.
type Cloned = BTreeMap<String, String>;

impl Parcels {
    /// Has what waits cloned, one after the other. Each line says for the model what is not there; the session is told by itself.
    pub(crate) async fn clone_repositories<H: Hands>(&self, subject: Subject<'_>, hands: &mut H) -> Vec<String> {
        let waiting = std::mem::take(&mut *self.waiting());
        let mut lines = Vec::new();
        for wanted in waiting {
            match self.clone_once(&wanted, hands).await {
                Ok(()) => {}
                Err(fault) => {
                    self.tell(subject, &wanted, &fault).await;
                    lines.push(fault.line(&wanted));
                }
            }
        }
        lines
    }

    /// What was cloned stays so whatever became of it, and is not cloned again.
    async fn clone_once<H: Hands>(&self, wanted: &Wanted, hands: &mut H) -> Result<(), Fault> {
        let mut cloned: Cloned = read(&self.place.repositories).map_err(|error| Fault::storage(&error))?;
        if cloned.contains_key(&wanted.resource) {
            return Ok(());
        }
        if let Some(why) = hands.withheld(&wanted.resource) {
            return Err(Fault::new(RepositoryFault::RepositoryForbiddenError, why));
        }
        run(wanted, hands).await?;
        cloned.insert(wanted.resource.clone(), wanted.path.as_str().to_owned());
        write(&self.place.repositories, &cloned).map_err(|error| Fault::storage(&error))
    }

    async fn tell(&self, subject: Subject<'_>, wanted: &Wanted, fault: &Fault) {
        let (session, resource) = (subject.session, &wanted.resource);
        tracing::warn!(session, resource, kind = ?fault.kind, message = fault.message, "a repository is not brought");
        let told = patiently(subject, || {
            subject.remote.repository_failed(subject.key, session, resource, fault.kind, &fault.message)
        });
        if let Err(error) = told.await {
            tracing::error!(session, resource, error = chain(&error), "a session could not be told of its repository");
        }
    }
}

/// Clones inside, waiting call by call: one call is shorter than a large repository takes.
async fn run<H: Hands>(wanted: &Wanted, hands: &mut H) -> Result<(), Fault> {
    for _ in 0..WAITS {
        let outcome = bash(hands, wanted, &script::begin_and_wait(wanted, WAIT)).await;
        match script::ended(&outcome) {
            script::Ended::Still => {}
            script::Ended::Cloned => return Ok(()),
            script::Ended::Failed(code) => return Err(fault::of(wanted, code, &outcome)),
        }
    }
    bash(hands, wanted, &script::give_up(wanted)).await;
    Err(Fault::timed_out(WAIT * WAITS))
}

/// One command in the sandbox, decided and on record like any other.
async fn bash<H: Hands>(hands: &mut H, wanted: &Wanted, command: &str) -> String {
    let input = Map::from_iter([("command".to_owned(), Value::from(command))]);
    let (id, name) = (wanted.resource.clone(), "bash".to_owned());
    let Outcome { content, .. } = hands.call(&ToolCall { id, name, input, thread: None, asked: false }).await;
    content.into_iter().filter_map(|block| if let Block::Text { text } = block { Some(text) } else { None }).collect()
}

/// How long one call waits for git.
const WAIT: Duration = Duration::from_secs(100);
/// How often.
const WAITS: u32 = 6;

#[cfg(test)]
mod tests;
