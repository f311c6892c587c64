//! What a session is judged by: its agent's effective definition, read from the server, and read again when it may have changed.

use postern_net::Backoff;
use serde_json::Value;

use crate::hands::{Refused, SessionFacts};
use crate::remote::RemoteError;
use crate::session::{Subject, chain, random};
use postern_policy::canonical::definition_digest;

/// Reads the session, with patience for trouble that passes.
pub(crate) async fn read_session(subject: Subject<'_>) -> Result<Value, RemoteError> {
    let mut attempt = 0;
    loop {
        match subject.remote.session(subject.key, subject.session).await {
            Err(error) if !error.is_fatal() && attempt < READS => {
                tracing::warn!(session = subject.session, error = chain(&error), "the session is read again");
                tokio::time::sleep(Backoff::default().delay(attempt, error.retry_after(), random())).await;
                attempt += 1;
            }
            other => return other,
        }
    }
}

/// The facts of a session as the server shows it; the environment is our own, whatever the server says.
pub(crate) fn facts(subject: Subject<'_>, session: &Value) -> Result<SessionFacts, Refused> {
    let agent = &session["agent"];
    let (Some(id), Some(version)) = (agent["id"].as_str(), agent["version"].as_u64()) else {
        return Err(Refused {
            code: "session_unreadable".to_owned(),
            message: "the session names no agent and version, so no zone can cover it. Next step: check the server's version.".to_owned(),
        });
    };
    Ok(SessionFacts {
        session: subject.session.to_owned(),
        environment: subject.remote.environment().to_owned(),
        agent_id: id.to_owned(),
        agent_version: version,
        definition_digest: definition_digest(agent),
    })
}

/// A session that cannot be read, in words for whoever waits for it.
pub(crate) fn unreadable(error: &RemoteError) -> Refused {
    let message = format!(
        "the worker could not read the session: {}. Next step: check the worker's key and the server's log.",
        chain(error)
    );
    Refused { code: "session_unreadable".to_owned(), message }
}

const READS: u32 = 4;
