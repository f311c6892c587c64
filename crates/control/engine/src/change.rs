//! Changing, archiving and deleting a session.

use postern_model::agent::{fitting_mcp, fitting_skills};
use postern_model::event::{Event, EventBody};
use postern_model::ids::EventId;
use postern_model::money::BudgetLimit;
use postern_model::session::{Session, SessionAgent, SessionStatus, UpdateSession, UpdateSessionAgent};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Field, Metadata, Problem};
use postern_session::Input;
use postern_store::{Tx, sessions, webhooks, work};

use crate::actor::{Actor, Failure};
use crate::create::{now, resolve_tools};
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
        self.record = record;
        let Changes { agent, budget, metadata, title } = changes;
        self.perform_with_record(Input::Updated {
            agent,
            budget,
            // A bag that was cleared is left out of the event.
            metadata: metadata.filter(|metadata| !metadata.is_empty()),
            title: title.flatten(),
        })
        .await?;
        Ok(self.record.render(now))
    }

    pub(crate) async fn archive(&mut self) -> Result<Session, Failure> {
        let now = now();
        if self.record.archived_at.is_none() {
            self.must_not_run("archived")?;
            self.record.archived_at = Some(now);
            self.perform_with_record(Input::Archive).await?;
        }
        Ok(self.record.render(now))
    }

    pub(crate) async fn delete(&mut self) -> Result<(), Failure> {
        self.must_not_run("deleted")?;
        let mut tx = self.write().await?;
        work::stop_all(&mut tx, &self.record.id, now()).await.map_err(problem)?;
        sessions::delete(&mut tx, &self.record.workspace_id, &self.record.id, now()).await.map_err(problem)?;
        tx.commit().await.map_err(problem)?;
        self.shared.litter.notify_one();
        let event = Event { id: EventId::generate(), processed_at: Some(now()), body: EventBody::SessionDeleted {} };
        self.subscribers.show(&event, None);
        Ok(())
    }

    fn must_not_run(&self, verb: &str) -> Result<(), Problem> {
        match self.session.state().status {
            SessionStatus::Idle | SessionStatus::Terminated => Ok(()),
            SessionStatus::Running | SessionStatus::Rescheduling => Err(Problem::conflict(format!(
                "Session {} is running and cannot be {verb}. Send a user.interrupt alone and wait until it is idle.",
                self.id()
            ))),
        }
    }

    fn changes(&self, request: UpdateSession) -> Result<Changes, Problem> {
        if self.session.state().status == SessionStatus::Terminated {
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
            Field::Value(title) => Some(title),
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
        if self.session.state().status != SessionStatus::Idle {
            return Err(Problem::conflict("`agent` can be changed only while the session is idle."));
        }
        let mut agent = self.record.agent.clone();
        if !update.mcp_servers.is_absent() {
            agent.mcp_servers = update.mcp_servers.value().unwrap_or_default();
        }
        if !update.tools.is_absent() {
            agent.tools = resolve_tools(update.tools)?;
        }
        fitting_mcp(&agent.mcp_servers, &agent.tools)
            .and_then(|()| fitting_skills(&agent.skills, &agent.tools))
            .map_err(|problem| Problem { message: format!("agent.{}", problem.message), ..problem })?;
        Ok((agent != self.record.agent).then(|| Box::new(agent)))
    }

    /// As `perform`, with the changed record in the same transaction.
    async fn perform_with_record(&mut self, input: Input) -> Result<(), Failure> {
        let tx = self.write().await?;
        self.perform_with_record_in(tx, input).await
    }

    /// The same in a transaction that has begun.
    pub(crate) async fn perform_with_record_in(&mut self, mut tx: Tx, input: Input) -> Result<(), Failure> {
        let is_archive = matches!(input, Input::Archive);
        let effects = self.decide(input);
        let stored = async {
            self.store(&mut tx, &effects).await?;
            sessions::save_record(&mut tx, &self.record).await?;
            if is_archive {
                let subject = Subject::new(Happening::SessionArchived, &self.record.id);
                webhooks::announce(&mut tx, &self.record.workspace_id, subject, self.record.updated_at).await?;
                work::stop_all(&mut tx, &self.record.id, self.record.updated_at).await?;
            }
            tx.commit().await
        };
        stored.await.map_err(|error| self.fail(&error))?;
        self.show_and_begin(effects);
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
