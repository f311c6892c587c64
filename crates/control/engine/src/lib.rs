//! Performs what the session state machine decides: stores events and then shows them, calls the model, keeps timers,
//! queues work, resumes after a crash.
//!
//! One task per session that has something to do; each commits before it tells anyone. Decides nothing about turns: that
//! is `postern-session`.

mod query;

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use postern_model::Problem;
use postern_model::event::{ClientEvent, Event, Previewable};
use postern_model::ids::{EnvironmentId, SessionId, ThreadId, WorkspaceId};
use postern_model::model_info::ModelInfo;
use postern_model::page::{BidirectionalPage, Page};
use postern_model::session::{CreateSession, Session, Thread, UpdateSession};

pub use query::{EventQuery, SessionQuery, TimeRange};

/// Who sends events: what a worker's credential may send is less than what a client's may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Author {
    /// An API key, or the operator's socket.
    Client,
    /// An environment key or a session token: results of open calls only.
    Worker,
}

/// One frame of a stream: the name of the SSE event and its JSON.
#[derive(Clone, Debug)]
pub struct Frame {
    /// The `event:` line; equal to the data's `type`.
    pub event: &'static str,
    /// The `data:` line.
    pub data: Arc<str>,
}

/// An open stream of one session. Ends when the session is deleted, the engine drains, or this reader is too slow.
#[derive(Debug)]
pub struct Subscription {
    frames: tokio::sync::mpsc::Receiver<Frame>,
}

impl Subscription {
    /// The next frame; `None` when the stream is over.
    pub async fn next(&mut self) -> Option<Frame> {
        self.frames.recv().await
    }
}

/// The engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    _shared: Arc<()>,
}

#[expect(clippy::unused_async, reason = "signatures first")]
impl Engine {
    /// Stops taking input, lets commits finish, ends streams; running model calls are dropped and repeated at next start.
    pub async fn drain(&self, _limit: Duration) {}

    /// Creates a session; with `initial_events` it runs at once.
    pub async fn create_session(&self, _: &WorkspaceId, _: CreateSession) -> Result<Session, Problem> {
        Err(Problem::internal())
    }

    /// One session.
    pub async fn session(&self, _: &WorkspaceId, _: &SessionId) -> Result<Session, Problem> {
        Err(Problem::internal())
    }

    /// A page of sessions.
    pub async fn list_sessions(&self, _: &WorkspaceId, _: &SessionQuery) -> Result<BidirectionalPage<Session>, Problem> {
        Err(Problem::internal())
    }

    /// Changes a session and emits `session.updated`.
    pub async fn update_session(&self, _: &WorkspaceId, _: &SessionId, _: UpdateSession) -> Result<Session, Problem> {
        Err(Problem::internal())
    }

    /// Archives a session that does not run; a second time changes nothing.
    pub async fn archive_session(&self, _: &WorkspaceId, _: &SessionId) -> Result<Session, Problem> {
        Err(Problem::internal())
    }

    /// Deletes a session that does not run, and ends its streams.
    pub async fn delete_session(&self, _: &WorkspaceId, _: &SessionId) -> Result<(), Problem> {
        Err(Problem::internal())
    }

    /// Accepts events, all or none; they are stored when this returns.
    pub async fn send_events(&self, _: &WorkspaceId, _: &SessionId, _: Vec<ClientEvent>, _: Author) -> Result<Vec<Event>, Problem> {
        Err(Problem::internal())
    }

    /// A page of a session's log.
    pub async fn list_events(&self, _: &WorkspaceId, _: &SessionId, _: &EventQuery) -> Result<Page<Event>, Problem> {
        Err(Problem::internal())
    }

    /// A stream of what happens from now on, with previews of the chosen types.
    pub async fn subscribe(&self, _: &WorkspaceId, _: &SessionId, _previews: HashSet<Previewable>) -> Result<Subscription, Problem> {
        Err(Problem::internal())
    }

    /// The session's threads: the primary one. For an event list or stream of a thread, check with [`Engine::thread`]
    /// and use the session's.
    pub async fn list_threads(&self, _: &WorkspaceId, _: &SessionId) -> Result<Vec<Thread>, Problem> {
        Err(Problem::internal())
    }

    /// One thread.
    pub async fn thread(&self, _: &WorkspaceId, _: &SessionId, _: &ThreadId) -> Result<Thread, Problem> {
        Err(Problem::internal())
    }

    /// A worker could not serve the session's work item: open calls are answered with an error, `session.error` says
    /// why, the session goes idle with `retries_exhausted`. Call after the item was stopped.
    pub async fn fail_work(&self, _: &SessionId, _code: &str, _message: &str) -> Result<(), Problem> {
        Err(Problem::internal())
    }

    /// A work item ended without an error. If calls still wait for a worker a new item is queued; after three such items
    /// without one result the session ends as in [`Engine::fail_work`]. Call after every stop without an error.
    pub async fn work_ended(&self, _: &SessionId) -> Result<(), Problem> {
        Err(Problem::internal())
    }

    /// Notified whenever work was queued for this environment; a poller waits on it between two looks.
    pub fn work_signal(&self, _: &EnvironmentId) -> Arc<tokio::sync::Notify> {
        Arc::new(tokio::sync::Notify::new())
    }

    /// The endpoint's models, newest first; cached for a minute.
    pub async fn models(&self) -> Result<Vec<ModelInfo>, Problem> {
        Err(Problem::internal())
    }
}
