//! Performing effects: one transaction for all that is stored, then everything that others may see.

use postern_model::Timestamp;
use postern_model::event::{Event, ModelUsage};
use postern_model::ids::EventId;
use postern_model::session::SessionStatus;
use postern_session::{Chance, Effect, FailureKind, Input, ModelEvent, ModelFailure};
use postern_store::sessions::{self, Progress};
use postern_store::{StoreError, Tx, events, mcp_calls, work};
use tokio::time::Instant;
use tracing::error;

use crate::actor::{Actor, Over};

/// What came of an input.
#[derive(Debug)]
pub(crate) struct Performed {
    /// The client's events as they were stored, in the order they were sent.
    pub(crate) accepted: Vec<Event>,
}

impl Actor {
    /// Hands an input to the session, stores what follows from it, then shows and begins it.
    pub(crate) async fn perform(&mut self, input: Input) -> Result<Performed, Over> {
        let effects = self.decide(input);
        if effects.iter().any(is_stored) {
            let stored = async {
                let mut tx = self.shared.store.write().await?;
                self.store(&mut tx, &effects).await?;
                tx.commit().await
            };
            // The state is ahead of the log now: only reading the log again puts that right.
            stored.await.map_err(|error| self.fail(&error))?;
        }
        #[cfg(test)]
        self.burn_fuse()?;
        Ok(self.show_and_begin(effects))
    }

    pub(crate) fn decide(&mut self, input: Input) -> Vec<Effect> {
        self.session.handle(input, Timestamp::now(), &mut Random)
    }

    pub(crate) fn fail(&self, cause: &StoreError) -> Over {
        error!(session = %self.record.id, error = cause as &dyn std::error::Error, "the log could not be written");
        Over::Broken
    }

    /// Writes everything that is stored into one transaction.
    pub(crate) async fn store(&mut self, tx: &mut Tx, effects: &[Effect]) -> Result<(), StoreError> {
        let now = Timestamp::now();
        for effect in effects {
            match effect {
                Effect::Append(event) => {
                    let next = if event.processed_at.is_some() { &mut self.next } else { &mut self.next_waiting };
                    events::append(tx, &self.log, *next, event, now).await?;
                    *next += 1;
                }
                Effect::Process(event) => {
                    events::process(tx, &self.log, self.next, event).await?;
                    self.next += 1;
                }
                Effect::Keep(event, blocks) => events::keep(tx, &self.log, event, blocks).await?,
                Effect::EnsureWork => self.ensure_work(tx).await?,
                Effect::CallMcp { call, .. } => mcp_calls::start(tx, &self.log, call, now).await?,
                Effect::Accepted(_)
                | Effect::CallModel(_)
                | Effect::CancelModel
                | Effect::Consult(..)
                | Effect::ConnectMcp { .. }
                | Effect::CancelMcp
                | Effect::RetryAfter(_)
                | Effect::Preview(_) => {}
            }
        }
        self.record.progress = self.progress();
        self.record.updated_at = now;
        sessions::save_progress(tx, &self.record.id, &self.record.progress, now).await
    }

    pub(crate) async fn ensure_work(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let record = &self.record;
        work::enqueue(tx, &record.workspace_id, &record.environment_id, &record.id, Timestamp::now()).await?;
        Ok(())
    }

    fn progress(&self) -> Progress {
        let state = self.session.state();
        Progress {
            status: state.status,
            usage: state.settled_usage(),
            active_since: state.running_since(),
            has_run: state.has_run,
            has_been_idle: state.stop.is_some(),
            outcomes: state.outcomes().to_vec(),
        }
    }

    /// After the commit: shows events, starts and stops what the session wants.
    pub(crate) fn show_and_begin(&mut self, effects: Vec<Effect>) -> Performed {
        let ids: Vec<_> = effects.iter().filter_map(accepted_id).cloned().collect();
        let mut accepted = Vec::with_capacity(ids.len());
        for effect in effects {
            match effect {
                Effect::Append(event) => {
                    self.show(&event);
                    if ids.contains(&event.id) {
                        accepted.push(event);
                    }
                }
                Effect::Process(event) => {
                    self.show(&event);
                    // One that took effect in the same step is answered with that.
                    if let Some(sent) = accepted.iter_mut().find(|sent| sent.id == event.id) {
                        *sent = event;
                    }
                }
                Effect::Preview(preview) => self.subscribers.preview(&preview),
                Effect::CallModel(start) => self.call_model(start),
                Effect::Consult(start, consultation) => self.consult(start, consultation),
                Effect::CancelModel => {
                    self.request = None;
                    self.consults.cancel();
                }
                Effect::ConnectMcp { attempt, servers } => self.connect_mcp(attempt, servers),
                Effect::CallMcp { call, server, tool, input } => self.call_mcp(call, server, tool, input),
                Effect::CancelMcp => self.mcp.cancel(),
                Effect::RetryAfter(wait) => self.retry_at = Some(Instant::now() + wait),
                Effect::Accepted(_) | Effect::Keep(..) | Effect::EnsureWork => {}
            }
        }
        if self.session.state().status != SessionStatus::Rescheduling {
            self.retry_at = None;
        }
        Performed { accepted }
    }

    /// Shows an event that was stored: in the order of the log, so that the place of each is known.
    fn show(&mut self, event: &Event) {
        let place = event.processed_at.is_some().then_some(self.next_shown);
        self.next_shown += i64::from(place.is_some());
        self.subscribers.show(event, place);
    }

    fn call_model(&mut self, start: EventId) {
        let max_tokens = self.shared.settings.max_output_tokens;
        let (agent, servers) = (self.session.agent(), self.session.mcp_tools());
        let given = postern_upstream::Given { skills: &self.record.skills, resources: &self.record.resources };
        let body = postern_upstream::body(agent, given, servers, &self.session.asked(), max_tokens);
        postern_danger::point!("model.before");
        self.request = Some((start, self.shared.model.start(body)));
        postern_danger::point!("model.after");
    }

    #[cfg(test)]
    fn burn_fuse(&self) -> Result<(), Over> {
        let mut fuse = self.shared.fuse.lock().unwrap();
        match fuse.as_mut() {
            Some(0) => Err(Over::Finished),
            Some(left) => {
                *left -= 1;
                if *left == 0 {
                    self.shared.drain.cancel();
                    return Err(Over::Finished);
                }
                Ok(())
            }
            None => Ok(()),
        }
    }
}

fn is_stored(effect: &Effect) -> bool {
    matches!(
        effect,
        Effect::Append(_) | Effect::Process(_) | Effect::Keep(..) | Effect::EnsureWork | Effect::CallMcp { .. }
    )
}

fn accepted_id(effect: &Effect) -> Option<&EventId> {
    match effect {
        Effect::Accepted(id) => Some(id),
        _ => None,
    }
}

/// A model's task that ended without a last word.
pub(crate) fn vanished() -> ModelEvent {
    ModelEvent::Failed(ModelFailure {
        kind: FailureKind::Transient,
        message: "The model request ended without an answer.".into(),
        retry_after: None,
        usage: ModelUsage::default(),
    })
}

/// Ids and jitter from the kernel.
struct Random;

impl Chance for Random {
    fn event_id(&mut self) -> EventId {
        EventId::generate()
    }

    fn jitter(&mut self) -> f64 {
        jitter()
    }
}

/// A number from 0 to 1.
pub(crate) fn jitter() -> f64 {
    let mut bytes = [0_u8; 4];
    // Without randomness all retries come at the same time, which is still right.
    if getrandom::fill(&mut bytes).is_err() {
        return 1.0;
    }
    f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX)
}
