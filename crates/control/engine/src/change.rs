//! Changing, archiving and deleting a session.

use postern_model::agent::{fitting_mcp, fitting_skills};
use postern_model::event::{Event, EventBody};
use postern_model::ids::{EventId, ThreadId};
use postern_model::money::BudgetLimit;
use postern_model::session::{self as model, Session, SessionAgent, SessionStatus, UpdateSession, UpdateSessionAgent};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Field, Metadata, Problem};
use postern_session::{Input, Thread};
use postern_store::{StoreError, Tx, repositories, sessions, threads, webhooks, work};

use crate::actor::{Actor, Failure};
use crate::create::{now, resolve_tools, served};
use crate::problem;

impl Actor {
    pub(crate) async fn update(&mut self, request: UpdateSession) -> Result<Session, Failure> {
        let now = now();
        let changes = self.changes(request)?;
        if changes == Changes::default() {
            return Ok(self.record.render(now));
        }
        let mut record = self.record.clone();
        if let Some(agent) = &changes.agent {
            record.agent = (**agent).clone();
        }
        if !changes.budget.is_absent() {
            record.budget = changes.budget.clone().value();
        }
        if let Some(metadata) = &changes.metadata {
            record.metadata = metadata.clone();
        }
        if let Some(title) = &changes.title {
            record.title = title.clone();
        }
        let Changes { agent, budget, metadata, title } = changes;
        // A bag that was cleared is left out of the event.
        let metadata = metadata.filter(|metadata| !metadata.is_empty());
        let tx = self.write().await?;
        self.record = record;
        let updated = Input::Updated { agent, budget, metadata, title: title.flatten() };
        self.perform_with_record_in(tx, updated).await?;
        Ok(self.record.render(now))
    }

    pub(crate) async fn archive(&mut self) -> Result<Session, Failure> {
        let now = now();
        if self.record.archived_at.is_none() {
            self.must_not_run("archived")?;
            let mut tx = self.write().await?;
            repositories::remove_all(&mut tx, &self.record.id).await.map_err(problem)?;
            self.record.archived_at = Some(now);
            self.perform_with_record_in(tx, Input::Archive).await?;
        }
        Ok(self.record.render(now))
    }

    pub(crate) async fn delete(&mut self) -> Result<(), Failure> {
        self.must_not_run("deleted")?;
        let mut tx = self.write().await?;
        work::stop_all(&mut tx, &self.record.id).await.map_err(problem)?;
        sessions::delete(&mut tx, &self.record.workspace_id, &self.record.id, now()).await.map_err(problem)?;
        tx.commit().await.map_err(problem)?;
        self.shared.litter.notify_one();
        let event = Event { id: EventId::generate(), processed_at: Some(now()), body: EventBody::SessionDeleted {} };
        self.subscribers.show_all(&event);
        Ok(())
    }

    /// Stores the agents of threads that are copies of the session's, which was changed; those of runs are over, and stay as
    /// they were.
    async fn save_copies(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let own = &self.record.agent.id;
        let is_copy = |thread: &&Thread| thread.agent().id == *own && thread.workflow_run_id().is_none();
        for thread in self.session.children().iter().filter(is_copy) {
            threads::save_agent(tx, thread.id(), &thread.mind()).await?;
        }
        Ok(())
    }

    /// Archives a thread that rests; what it may still be asked for is answered with an error first.
    pub(crate) async fn archive_thread(&mut self, id: &ThreadId) -> Result<model::Thread, Failure> {
        let Some(thread) = self.session.thread(id) else {
            return Err(threads::not_found(self.id(), id).into());
        };
        let status = thread.state().status;
        if *id == self.record.thread_id {
            let message = "The primary thread ends with its session: archive the session.";
            return Err(Problem::invalid(message).into());
        }
        if self.session.is_of_open_run(thread) && status != SessionStatus::Terminated {
            let message = "The thread is of a workflow run that is open; it is archived when the run is done with it.";
            return Err(Problem::invalid(message).with_code("workflow_run_open").into());
        }
        match status {
            SessionStatus::Idle => self.end_thread(id).await?,
            SessionStatus::Terminated => {}
            SessionStatus::Running | SessionStatus::Rescheduling => {
                let message = "The thread is running and cannot be archived. Send a user.interrupt with its \
                               session_thread_id and wait until it is idle.";
                return Err(Problem::conflict(message).into());
            }
        }
        let mut reader = self.shared.store.read().await.map_err(problem)?;
        let thread = threads::required(&mut reader, &self.record, id, now()).await.map_err(problem)?;
        if thread.archived_at.is_none() {
            return Err(Problem::conflict("The thread ended by itself; only an idle thread can be archived.").into());
        }
        Ok(thread)
    }

    async fn end_thread(&mut self, id: &ThreadId) -> Result<(), Failure> {
        let mut tx = self.write().await?;
        let deeds = self.decide(Input::ArchiveThread(id.clone()));
        let stored = async {
            self.store(&mut tx, &deeds).await?;
            threads::archive(&mut tx, id, self.record.updated_at).await?;
            tx.commit().await
        };
        stored.await.map_err(|error| self.fail(&error))?;
        self.show_and_begin(deeds);
        Ok(())
    }

    fn must_not_run(&self, verb: &str) -> Result<(), Problem> {
        match self.session.overall().status {
            SessionStatus::Idle | SessionStatus::Terminated => Ok(()),
            SessionStatus::Running | SessionStatus::Rescheduling => Err(Problem::conflict(format!(
                "Session {} is running and cannot be {verb}. Send a user.interrupt alone and wait until it is idle.",
                self.id()
            ))),
        }
    }

    fn changes(&self, request: UpdateSession) -> Result<Changes, Problem> {
        if self.session.overall().status == SessionStatus::Terminated {
            return Err(Problem::invalid("The session is archived and cannot be changed."));
        }
        let budget = self.changed_budget(&request.budget)?;
        if !request.vault_ids.is_absent() {
            return Err(Problem::invalid_at("vault_ids", "is reserved and cannot be changed"));
        }
        let metadata = match request.metadata {
            Field::Absent => self.record.metadata.clone(),
            Field::Null => Metadata::default(),
            Field::Value(patch) => self.record.metadata.merged(&patch)?,
        };
        let title = match request.title {
            Field::Absent => self.record.title.clone(),
            Field::Null => None,
            Field::Value(sent) => Some(model::title(sent)?),
        };
        Ok(Changes {
            agent: self.changed_agent(request.agent)?,
            budget,
            metadata: (metadata != self.record.metadata).then_some(metadata),
            title: (title != self.record.title).then_some(title),
        })
    }

    fn changed_agent(&self, request: Field<UpdateSessionAgent>) -> Result<Option<Box<SessionAgent>>, Problem> {
        let update = match request {
            Field::Absent => return Ok(None),
            Field::Null => return Err(Problem::invalid_at("agent", "cannot be cleared")),
            Field::Value(update) => update,
        };
        if self.session.has_open_runs() {
            let message =
                "cannot be changed while a workflow run is open; wait for its end, or ask the agent to stop it";
            return Err(Problem::invalid_at("agent", message).with_code("workflow_run_open"));
        }
        if self.session.overall().status != SessionStatus::Idle {
            return Err(Problem::conflict("`agent` can be changed only while the session is idle."));
        }
        let mut agent = self.record.agent.clone();
        if !update.mcp_servers.is_absent() {
            agent.mcp_servers = update.mcp_servers.value().unwrap_or_default();
        }
        if !update.tools.is_absent() {
            agent.tools = resolve_tools(update.tools)?;
            served(self.shared.settings.limits.web, &agent)?;
        }
        fitting_mcp(&agent.mcp_servers, &agent.tools)
            .and_then(|()| fitting_skills(&agent.skills, &agent.tools))
            .map_err(|problem| Problem { message: format!("agent.{}", problem.message), ..problem })?;
        let agent = agent.with_its_copies();
        Ok((agent != self.record.agent).then(|| Box::new(agent)))
    }

    /// As `perform`, with the changed record, in a transaction that has begun: before the record was changed, so that one
    /// that could not begin leaves it as it is stored.
    pub(crate) async fn perform_with_record_in(&mut self, mut tx: Tx, input: Input) -> Result<(), Failure> {
        let is_archive = matches!(input, Input::Archive);
        let is_another_agent = matches!(input, Input::Updated { agent: Some(_), .. });
        let deeds = self.decide(input);
        let stored = async {
            self.store(&mut tx, &deeds).await?;
            sessions::save_record(&mut tx, &self.record).await?;
            if is_another_agent {
                self.save_copies(&mut tx).await?;
            }
            if is_archive {
                let subject = Subject::new(Happening::SessionArchived, &self.record.id);
                webhooks::announce(&mut tx, &self.record.workspace_id, subject, self.record.updated_at).await?;
                work::stop_all(&mut tx, &self.record.id).await?;
            }
            tx.commit().await
        };
        stored.await.map_err(|error| self.fail(&error))?;
        self.show_and_begin(deeds);
        Ok(())
    }
}

/// What an update changes; all absent means nothing.
#[derive(Debug, Default, PartialEq)]
struct Changes {
    agent: Option<Box<SessionAgent>>,
    budget: Field<BudgetLimit>,
    metadata: Option<Metadata>,
    title: Option<Option<String>>,
}
