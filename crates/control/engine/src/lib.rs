//! Performs what the session state machine decides: stores events and then shows them, calls the model, keeps timers,
//! queues work, resumes after a crash.
//!
//! One task per session that has something to do; each commits before it tells anyone. Decides nothing about turns: that
//! is `postern-session`.

mod actor;
mod attached;
mod budget;
mod change;
mod command;
mod consult;
pub mod control;
mod create;
mod deployments;
mod lists;
mod load;
mod lost;
mod mcp;
mod missed;
mod oauth;
mod perform;
mod query;
mod repositories;
mod resources;
mod rubric;
mod schedule;
mod sent;
mod shared;
mod subscribers;
mod sweep;
#[cfg(test)]
mod tests;
mod under_way;
mod web;
mod webhooks;

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use postern_model::deployment::{CreateDeployment, Deployment, DeploymentRun, UpdateDeployment};
use postern_model::event::{ClientEvent, Event, MAX_EVENTS, Previewable};
use postern_model::ids::{
    CredentialId, DeploymentId, EnvironmentId, ResourceId, SessionId, ThreadId, VaultId, WorkId, WorkspaceId,
};
use postern_model::model_info::ModelInfo;
use postern_model::money::Price;
use postern_model::page::{BidirectionalPage, Page};
use postern_model::resource::{AuthorizationToken, Resource, ResourceParam};
use postern_model::session::{CreateSession, Session, Thread, UpdateSession};
use postern_model::tool::web::WebTools;
use postern_model::vault::CredentialValidation;
use postern_model::work::{Work, WorkError};
use postern_model::{Problem, Timestamp};
use postern_store::answers::Once;
use postern_store::deployments::DeploymentFilter;
use postern_store::list::ListQuery;
use postern_store::{Store, StoreError};
use postern_upstream::Model;
use tracing::{error, info};

use command::Command;
pub use deployments::Turn;
pub use mcp::{McpSettings, Surroundings};
pub use postern_session::{Author, ContextLimits, Lacking, Limits};
pub use postern_store::events::Of;
pub use query::{EventQuery, SessionQuery, ThreadQuery, TimeRange};
pub use sent::Sent;
use shared::Shared;
pub use subscribers::{Frame, Subscription};
pub use webhooks::{Messenger, Posting};

/// Something that a session was given and its sandbox does not get.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Missing {
    /// A stable reason code.
    pub code: &'static str,
    /// A sentence with the next step.
    pub message: String,
    /// What that is.
    pub lacking: Lacking,
}

/// How the engine works.
#[derive(Clone, Debug)]
pub struct Settings {
    /// How many tokens one answer of the model may have.
    pub max_output_tokens: u32,
    /// The model that judges calls whose policy is `auto`; without one a person is asked.
    pub judge: Option<String>,
    /// The model that grades outcomes; the agent's own unless given.
    pub grader: Option<String>,
    /// The models that take system text in mid-conversation, by the names that agents call them.
    pub system_messages: BTreeSet<String>,
    /// What the tokens of models cost, by their names.
    pub prices: BTreeMap<String, Price>,
    /// Bounds on what a session does by itself.
    pub limits: Limits,
    /// Deadlines of what is done with MCP servers.
    pub mcp: McpSettings,
    /// How often watchers are told that a grader still thinks.
    pub heartbeat: Duration,
    /// How long a session's task lives on without anything to do.
    pub linger: Duration,
    /// How often it is looked for work items that no worker will end, beside the polls.
    pub settle_every: Duration,
    /// How long a session rests after the store failed under it.
    pub recovery: Duration,
    /// How many events come between two snapshots of a session: what is read at most beside one, and how seldom one is written.
    pub events_between_snapshots: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            max_output_tokens: postern_upstream::MAX_OUTPUT_TOKENS,
            judge: None,
            grader: None,
            system_messages: BTreeSet::new(),
            prices: BTreeMap::new(),
            limits: Limits::default(),
            mcp: McpSettings::default(),
            heartbeat: Duration::from_secs(30),
            linger: Duration::from_secs(60),
            settle_every: Duration::from_secs(15),
            recovery: Duration::from_secs(10),
            events_between_snapshots: 256,
        }
    }
}

/// The engine; cheap to clone.
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

impl Engine {
    /// Starts over a store and goes on with every session that was at work when its log ended. Without a client for MCP:
    /// every MCP server counts as failed.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start(store: Store, model: Arc<dyn Model>, settings: Settings) -> Result<Self, StoreError> {
        Self::start_with(store, model, Surroundings::default(), settings).await
    }

    /// As [`Engine::start`], with what reaches MCP servers and workers.
    ///
    /// # Errors
    /// The store cannot be read.
    pub async fn start_with(
        store: Store,
        model: Arc<dyn Model>,
        surroundings: Surroundings,
        settings: Settings,
    ) -> Result<Self, StoreError> {
        let at_work = {
            let mut reader = store.read().await?;
            postern_store::sessions::at_work(&mut reader).await?
        };
        let shared = Arc::new(Shared::new(store, model, surroundings, settings));
        if !at_work.is_empty() {
            info!(sessions = at_work.len(), "going on with sessions that were at work");
        }
        for session in at_work {
            shared.wake(&session);
        }
        shared.tasks.spawn(deployments::keep_time(Arc::clone(&shared)));
        shared.tasks.spawn(sweep::keep_clean(Arc::clone(&shared)));
        shared.tasks.spawn(lost::keep_settled(Arc::clone(&shared)));
        if let Some(messenger) = shared.surroundings.messenger.clone() {
            shared.tasks.spawn(webhooks::keep_telling(Arc::clone(&shared), messenger));
        }
        Ok(Self { shared })
    }

    /// Has a perimeter find out whether an OAuth credential works, and stores the tokens that it renewed on the way; with the code of what stood in the way, where
    /// no server said it.
    ///
    /// # Errors
    /// 404; 400 (`vault_archived`, `credential_archived`), and for a credential of another kind.
    pub async fn validate_credential(
        &self,
        workspace: &WorkspaceId,
        vault: &VaultId,
        id: &CredentialId,
    ) -> Result<(CredentialValidation, Option<String>), Problem> {
        oauth::validate(&self.shared, workspace, vault, id).await
    }

    /// Stops taking input, lets commits finish, ends every stream. A model request that runs is dropped; the next start
    /// repeats it. A call to an MCP server or of a web tool that runs is cancelled; the next start answers it with an unknown outcome. Returns whether all was quiet within `limit`.
    pub async fn drain(&self, limit: Duration) -> bool {
        self.shared.drain(limit).await
    }

    /// The web tools that sessions have here.
    #[must_use]
    pub fn web_tools(&self) -> WebTools {
        self.shared.settings.limits.web
    }

    /// Creates a session; with `initial_events` it runs at once. The answer is stored with it where it shall be made once.
    ///
    /// # Errors
    /// 400 or 404 as contract 1.4 lists them; nothing is stored then.
    pub async fn create_session(
        &self,
        workspace: &WorkspaceId,
        request: CreateSession,
        once: Option<&Once>,
    ) -> Result<Session, Problem> {
        create::create(&self.shared, workspace, request, once).await
    }

    /// One session.
    ///
    /// # Errors
    /// 404.
    pub async fn session(&self, workspace: &WorkspaceId, id: &SessionId) -> Result<Session, Problem> {
        Ok(lists::record(&self.shared, workspace, id).await?.render(Timestamp::now()))
    }

    /// A page of sessions.
    ///
    /// # Errors
    /// 400 for a filter or cursor that is wrong.
    pub async fn list_sessions(
        &self,
        workspace: &WorkspaceId,
        query: &SessionQuery,
    ) -> Result<BidirectionalPage<Session>, Problem> {
        lists::sessions(&self.shared, workspace, query).await
    }

    /// Changes a session and emits `session.updated`; without a change it emits nothing.
    ///
    /// # Errors
    /// 400, 404, or 409 when it would have to be idle.
    pub async fn update_session(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        request: UpdateSession,
    ) -> Result<Session, Problem> {
        self.shared.ask(Some(workspace), id, |reply| Command::Update { request: Box::new(request), reply }).await
    }

    /// Gives a session one more file.
    ///
    /// # Errors
    /// 400 or 404.
    pub async fn add_resource(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        param: ResourceParam,
        once: Option<Once>,
    ) -> Result<Resource, Problem> {
        self.shared.ask(Some(workspace), id, |reply| Command::AddResource { param, once, reply }).await
    }

    /// Takes a resource away from a session.
    ///
    /// # Errors
    /// 400 or 404.
    pub async fn remove_resource(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        resource: ResourceId,
    ) -> Result<(), Problem> {
        self.shared.ask(Some(workspace), id, |reply| Command::RemoveResource { id: resource, reply }).await
    }

    /// Puts another token in place of a repository's.
    ///
    /// # Errors
    /// 400 or 404.
    pub async fn rotate_token(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        resource: ResourceId,
        token: AuthorizationToken,
    ) -> Result<Resource, Problem> {
        self.shared.ask(Some(workspace), id, |reply| Command::RotateToken { id: resource, token, reply }).await
    }

    /// Has the bytes removed that nothing names any more.
    pub fn sweep_soon(&self) {
        self.shared.litter.notify_one();
    }

    /// Archives a session that does not run; a second time changes nothing.
    ///
    /// # Errors
    /// 404, or 409 while it runs.
    pub async fn archive_session(&self, workspace: &WorkspaceId, id: &SessionId) -> Result<Session, Problem> {
        self.shared.ask(Some(workspace), id, |reply| Command::Archive { reply }).await
    }

    /// Deletes a session that does not run; its streams end with `session.deleted`.
    ///
    /// # Errors
    /// 404, or 409 while it runs.
    pub async fn delete_session(&self, workspace: &WorkspaceId, id: &SessionId) -> Result<(), Problem> {
        self.shared.ask(Some(workspace), id, |reply| Command::Delete { reply }).await
    }

    /// Deletes every session of a workspace, then all else that it has.
    ///
    /// # Errors
    /// 404; 409 while a session runs.
    pub async fn erase_workspace(&self, workspace: &WorkspaceId) -> Result<(), Problem> {
        let sessions = {
            let mut reader = self.shared.store.read().await.map_err(problem)?;
            postern_store::workspaces::required(&mut reader, workspace).await.map_err(problem)?;
            postern_store::workspaces::sessions(&mut reader, workspace).await.map_err(problem)?
        };
        for session in sessions {
            self.delete_session(workspace, &session).await?;
        }
        let mut tx = self.shared.store.write().await.map_err(problem)?;
        postern_store::workspaces::erase(&mut tx, workspace).await.map_err(problem)?;
        tx.commit().await.map_err(problem)?;
        self.shared.litter.notify_one();
        Ok(())
    }

    /// Has what is to be forgotten looked for now: a workspace keeps its sessions for less long.
    pub fn look_for_litter(&self) {
        self.shared.litter.notify_one();
    }

    /// Accepts events, all or none. They are stored when this returns: a caller that gives up waiting may find them in
    /// the log nevertheless.
    ///
    /// # Errors
    /// 400, 403, 404 or 429 with the first event that is not acceptable; 409 where another request with the same key was faster.
    pub async fn send_events(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        events: Vec<ClientEvent>,
        author: Author,
        once: Option<&Once>,
    ) -> Result<Vec<Event>, Problem> {
        if events.is_empty() || events.len() > MAX_EVENTS {
            return Err(Problem::invalid_at(
                "events",
                format!("must have 1 to {MAX_EVENTS} events, has {}", events.len()),
            ));
        }
        // Whoever may not send an outcome does not learn which files there are.
        let whose = attached::Reader { workspace, session: id, now: Timestamp::now() };
        if events.iter().any(attached::is_in) {
            let mut reader = self.shared.store.read().await.map_err(problem)?;
            attached::check(&mut reader, whose, author, &events).await?;
        }
        let events = match author {
            Author::Client if events.iter().any(rubric::is_file) => {
                let mut reader = self.shared.store.read().await.map_err(problem)?;
                rubric::resolve(&mut reader, whose, events).await?
            }
            Author::Client | Author::Worker => events,
        };
        let once = once.cloned();
        self.shared.ask(Some(workspace), id, |reply| Command::Send { events, author, once, reply }).await
    }

    /// Events that were accepted before, in their order, as they are now.
    ///
    /// # Errors
    /// 404: the session is not there any more.
    pub async fn sent_before(&self, workspace: &WorkspaceId, sent: &Sent) -> Result<Vec<Event>, Problem> {
        let mut reader = self.shared.store.read().await.map_err(problem)?;
        let session = postern_store::sessions::find(&mut reader, &sent.session).await.map_err(problem)?;
        if session.is_none_or(|record| record.workspace_id != *workspace) {
            return Err(session_not_found(&sent.session));
        }
        postern_store::events::named(&mut reader, &sent.session, &sent.events).await.map_err(problem)
    }

    /// A page of a session's log, or of one of its threads'.
    ///
    /// # Errors
    /// 404, or 400 for a filter or cursor that is wrong.
    pub async fn list_events(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        of: Of,
        query: &EventQuery,
    ) -> Result<Page<Event>, Problem> {
        lists::events(&self.shared, workspace, id, of, query).await
    }

    /// A stream of what happens from now on in a session or one of its threads, with previews of the chosen types. Everything it shows is in the list
    /// already. With `after`, the [`Frame::id`] that a reader saw last, what took effect since comes first, without a
    /// gap, and then what waits.
    ///
    /// # Errors
    /// 404; 400 for a place that this log does not have.
    pub async fn subscribe(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        of: Of,
        previews: HashSet<Previewable>,
        after: Option<i64>,
    ) -> Result<Subscription, Problem> {
        self.shared.ask(Some(workspace), id, |reply| Command::Subscribe { of, previews, after, reply }).await
    }

    /// A page of the session's threads, the primary one first.
    ///
    /// # Errors
    /// 404; 400 for a cursor that is wrong.
    pub async fn list_threads(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        query: &ThreadQuery,
    ) -> Result<Page<Thread>, Problem> {
        lists::threads(&self.shared, workspace, id, query).await
    }

    /// One thread.
    ///
    /// # Errors
    /// 404, for a thread with `thread_not_found`.
    pub async fn thread(&self, workspace: &WorkspaceId, id: &SessionId, thread: &ThreadId) -> Result<Thread, Problem> {
        lists::thread(&self.shared, workspace, id, thread).await
    }

    /// Archives a thread that is idle; a second time changes nothing. Frees its place among those that a session may have.
    ///
    /// # Errors
    /// 404, for a thread with `thread_not_found`; 400 for the primary one; 409 for one that runs or ended by itself.
    pub async fn archive_thread(
        &self,
        workspace: &WorkspaceId,
        id: &SessionId,
        thread: &ThreadId,
    ) -> Result<Thread, Problem> {
        let thread = thread.clone();
        self.shared.ask(Some(workspace), id, |reply| Command::ArchiveThread { thread, reply }).await
    }

    /// Stops a work item. Once it has stopped, its session goes on: without a failure a new item is queued where calls still
    /// wait for a worker, and after three such items without one result in between, or with a failure, open calls are
    /// answered with an error, `session.error` says why, and the session goes idle with `retries_exhausted`.
    ///
    /// # Errors
    /// 404; 409 when it has stopped.
    pub async fn end_work(
        &self,
        environment: &EnvironmentId,
        id: &WorkId,
        force: bool,
        failure: Option<&WorkError>,
    ) -> Result<Work, Problem> {
        lost::end(&self.shared, environment, id, force, failure).await
    }

    /// Ends the items of an environment that no worker will end, and tells their sessions.
    ///
    /// # Errors
    /// The store failed.
    pub async fn settle_lost(&self, environment: &EnvironmentId) -> Result<(), Problem> {
        lost::settle(&self.shared, Some(environment)).await
    }

    /// Tells a session of what it was given and its sandbox does not get: each once, and of so many things.
    ///
    /// # Errors
    /// 404.
    pub async fn missing(&self, id: &SessionId, missing: Vec<Missing>) -> Result<(), Problem> {
        if missing.is_empty() {
            return Ok(());
        }
        self.shared.ask(None, id, |reply| Command::Missing { missing, reply }).await
    }

    /// Creates a deployment.
    ///
    /// # Errors
    /// What a session would be refused for; 400 for its schedule or limits.
    pub async fn create_deployment(
        &self,
        workspace: &WorkspaceId,
        body: CreateDeployment,
        once: Option<&Once>,
    ) -> Result<Deployment, Problem> {
        deployments::create(&self.shared, workspace, body, once).await
    }

    /// One deployment.
    ///
    /// # Errors
    /// 404.
    pub async fn deployment(&self, workspace: &WorkspaceId, id: &DeploymentId) -> Result<Deployment, Problem> {
        deployments::find(&self.shared, workspace, id).await
    }

    /// A page of deployments, and one more when another follows.
    ///
    /// # Errors
    /// The store failed.
    pub async fn list_deployments(
        &self,
        workspace: &WorkspaceId,
        query: &ListQuery,
        filter: &DeploymentFilter,
    ) -> Result<Vec<Deployment>, Problem> {
        deployments::list(&self.shared, workspace, query, filter).await
    }

    /// Changes a deployment; runs that began are not touched.
    ///
    /// # Errors
    /// 404, 409 when it was changed meanwhile, and as [`Engine::create_deployment`].
    pub async fn update_deployment(
        &self,
        workspace: &WorkspaceId,
        id: &DeploymentId,
        body: UpdateDeployment,
    ) -> Result<Deployment, Problem> {
        deployments::update(&self.shared, workspace, id, body).await
    }

    /// Archives, pauses or unpauses a deployment.
    ///
    /// # Errors
    /// 404, or 400 when it is archived.
    pub async fn turn_deployment(
        &self,
        workspace: &WorkspaceId,
        id: &DeploymentId,
        turn: Turn,
    ) -> Result<Deployment, Problem> {
        deployments::turn(&self.shared, workspace, id, turn).await
    }

    /// Runs a deployment now. A session that could not begin is an error in the run, not of this call.
    ///
    /// # Errors
    /// 404, or 400 when it is archived.
    pub async fn run_deployment(
        &self,
        workspace: &WorkspaceId,
        id: &DeploymentId,
        once: Option<&Once>,
    ) -> Result<DeploymentRun, Problem> {
        deployments::run_now(&self.shared, workspace, id, once).await
    }

    /// The endpoint's models, newest first; cached for a minute.
    pub async fn models(&self) -> Vec<ModelInfo> {
        self.shared.model.models().await
    }

    /// The endpoint's model of this id, or that this is another name of.
    pub async fn model_named(&self, name: &str) -> Option<ModelInfo> {
        self.shared.model.named(name).await
    }
}

/// What a caller is told of a failure of the store; the cause is logged here.
pub(crate) fn problem(error: StoreError) -> Problem {
    match error {
        StoreError::Refused(problem) => problem,
        other => {
            error!(error = &other as &dyn std::error::Error, "the store failed");
            Problem::internal()
        }
    }
}

pub(crate) fn session_not_found(id: &SessionId) -> Problem {
    Problem::not_found(format!("Session {id} was not found."))
}
