//! What a session's task can be asked to do.

use std::collections::HashSet;

use postern_model::Problem;
use postern_model::event::{ClientEvent, Event, Previewable};
use postern_model::ids::{ResourceId, ThreadId, WorkspaceId};
use postern_model::resource::{AuthorizationToken, Resource, ResourceParam};
use postern_model::session::{Session, Thread, UpdateSession};
use postern_session::Author;
use postern_store::answers::Once;
use postern_store::events::Of;
use tokio::sync::oneshot;

use crate::Missing;
use crate::subscribers::Subscription;

pub(crate) type Reply<T> = oneshot::Sender<Result<T, Problem>>;

/// A command and in whose name: `None` is the engine itself.
pub(crate) struct Envelope {
    pub(crate) workspace: Option<WorkspaceId>,
    pub(crate) command: Command,
}

pub(crate) enum Command {
    /// Only be there: loading a session resumes it.
    Wake,
    Send {
        events: Vec<ClientEvent>,
        author: Author,
        once: Option<Once>,
        reply: Reply<Vec<Event>>,
    },
    Subscribe {
        of: Of,
        previews: HashSet<Previewable>,
        after: Option<i64>,
        reply: Reply<Subscription>,
    },
    Update {
        request: Box<UpdateSession>,
        reply: Reply<Session>,
    },
    AddResource {
        param: ResourceParam,
        once: Option<Once>,
        reply: Reply<Resource>,
    },
    RemoveResource {
        id: ResourceId,
        reply: Reply<()>,
    },
    ArchiveThread {
        thread: ThreadId,
        reply: Reply<Thread>,
    },
    RotateToken {
        id: ResourceId,
        token: AuthorizationToken,
        reply: Reply<Resource>,
    },
    Archive {
        reply: Reply<Session>,
    },
    Delete {
        reply: Reply<()>,
    },
    Missing {
        missing: Vec<Missing>,
        reply: Reply<()>,
    },
    FailWork {
        code: String,
        message: String,
        reply: Reply<()>,
    },
    WorkEnded {
        reply: Reply<()>,
    },
}

impl Command {
    /// Answers with a problem instead of doing it.
    pub(crate) fn refuse(self, problem: Problem) {
        // Whoever asked may be gone; then nobody waits for the answer.
        match self {
            Self::Wake => {}
            Self::Send { reply, .. } => drop(reply.send(Err(problem))),
            Self::Subscribe { reply, .. } => drop(reply.send(Err(problem))),
            Self::Update { reply, .. } | Self::Archive { reply } => drop(reply.send(Err(problem))),
            Self::ArchiveThread { reply, .. } => drop(reply.send(Err(problem))),
            Self::AddResource { reply, .. } | Self::RotateToken { reply, .. } => drop(reply.send(Err(problem))),
            Self::Delete { reply }
            | Self::RemoveResource { reply, .. }
            | Self::Missing { reply, .. }
            | Self::FailWork { reply, .. }
            | Self::WorkEnded { reply } => {
                drop(reply.send(Err(problem)));
            }
        }
    }
}
