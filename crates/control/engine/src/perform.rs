//! Performing effects: one transaction for all that is stored, then everything that others may see.

use std::collections::BTreeSet;

use postern_model::Timestamp;
use postern_model::event::{Audience, Event, EventBody, ModelUsage};
use postern_model::ids::{EventId, ThreadId};
use postern_model::session::SessionStatus;
use postern_session::{
    Chance, Conversation, Deed, Effect, FailureKind, Input, ModelEvent, ModelFailure, Thread, is_said_again,
};
use postern_store::events::{Log, Placed};
use postern_store::sessions::{self, Progress};
use postern_store::{StoreError, Tx, events, mcp_calls, threads, work};
use tokio::time::Instant;
use tracing::error;

use crate::actor::{Actor, Over};
use crate::attached;
use crate::subscribers::Scene;

/// What came of an input.
#[derive(Debug)]
pub(crate) struct Performed {
    /// The client's events as they were stored, in the order they were sent.
    pub(crate) accepted: Vec<Event>,
}

impl Actor {
    /// Hands an input to the session, stores what follows from it, then shows and begins it.
    pub(crate) async fn perform(&mut self, input: Input) -> Result<Performed, Over> {
        let deeds = self.decide(input);
        if deeds.iter().any(is_stored) {
            let stored = async {
                let mut tx = self.shared.store.write().await?;
                self.store(&mut tx, &deeds).await?;
                tx.commit().await
            };
            // The state is ahead of the log now: only reading the log again puts that right.
            stored.await.map_err(|error| self.fail(&error))?;
        }
        #[cfg(test)]
        self.burn_fuse()?;
        Ok(self.show_and_begin(deeds))
    }

    pub(crate) fn decide(&mut self, input: Input) -> Vec<Deed> {
        self.session.handle(input, Timestamp::now(), &mut Random)
    }

    pub(crate) fn fail(&self, cause: &StoreError) -> Over {
        error!(session = %self.record.id, error = cause as &dyn std::error::Error, "the log could not be written");
        Over::Broken
    }

    /// Writes everything that is stored into one transaction.
    pub(crate) async fn store(&mut self, tx: &mut Tx, deeds: &[Deed]) -> Result<(), StoreError> {
        let now = Timestamp::now();
        // What is new in the log goes there together.
        let mut appended = Vec::new();
        for (at, Deed { thread, effect }) in deeds.iter().enumerate() {
            match effect {
                Effect::Append(event, audience) => {
                    self.create_thread_of(tx, thread, event, now).await?;
                    let kept = deeds.get(at + 1).map(|next| &next.effect);
                    let is_news =
                        !matches!(kept, Some(Effect::Keep(of, kept)) if of == &event.id && is_said_again(kept));
                    appended.push(self.place(thread, event, *audience, is_news));
                }
                Effect::Process(event) => {
                    // It may be one of them.
                    events::append(tx, &std::mem::take(&mut appended), now).await?;
                    events::process(tx, &self.log(thread), self.next, event).await?;
                    self.next += 1;
                }
                Effect::Keep(event, blocks) => events::keep(tx, &self.log(thread), event, blocks).await?,
                Effect::EnsureWork => self.ensure_work(tx).await?,
                Effect::CallMcp { call, .. } | Effect::CallWeb { call, .. } => {
                    mcp_calls::start(tx, &self.log(thread), call, now).await?;
                }
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
        events::append(tx, &appended, now).await?;
        self.save_threads(tx, deeds, now).await?;
        let lapses_at = self.session.next_lapse();
        if lapses_at != self.lapses_at {
            sessions::save_lapse(tx, &self.record.id, lapses_at).await?;
            self.lapses_at = lapses_at;
        }
        self.record.progress = self.progress();
        self.record.updated_at = now;
        sessions::save_progress(tx, &self.record.id, &self.record.progress, now).await
    }

    /// The next place of an event, of those that took effect or of those that wait.
    fn place<'a>(&mut self, thread: &ThreadId, event: &'a Event, audience: Audience, is_news: bool) -> Placed<'a> {
        let log = self.log(thread);
        let next = if event.processed_at.is_some() { &mut self.next } else { &mut self.next_waiting };
        let seq = *next;
        *next += 1;
        Placed { log, seq, event, audience, is_news }
    }

    /// Stores the thread that an event says was created.
    async fn create_thread_of(
        &self,
        tx: &mut Tx,
        thread: &ThreadId,
        event: &Event,
        now: Timestamp,
    ) -> Result<(), StoreError> {
        if let EventBody::ThreadCreated { session_thread_id, .. } = &event.body
            && let Some(created) = self.session.thread(session_thread_id)
        {
            let created_at = event.processed_at.unwrap_or(now);
            let of = threads::Beginning { mind: created.mind(), workflow_run_id: created.workflow_run_id().cloned() };
            threads::create(tx, &self.log(thread), session_thread_id, &of, created_at).await?;
        }
        Ok(())
    }

    /// Stores what the threads have come to whose logs have grown. One that is alone does what its session does.
    async fn save_threads(&self, tx: &mut Tx, deeds: &[Deed], now: Timestamp) -> Result<(), StoreError> {
        if self.session.children().is_empty() {
            return Ok(());
        }
        let is_grown = |deed: &&Deed| matches!(deed.effect, Effect::Append(..));
        let grown: BTreeSet<&ThreadId> = deeds.iter().filter(is_grown).map(|deed| &deed.thread).collect();
        for thread in grown.into_iter().filter_map(|id| self.session.thread(id)) {
            threads::save_progress(tx, thread.id(), &progress_of(thread), now).await?;
            // A run is done with a thread when that is over, and nobody else archives it.
            if thread.workflow_run_id().is_some() && thread.state().status == SessionStatus::Terminated {
                threads::archive(tx, thread.id(), now).await?;
            }
        }
        Ok(())
    }

    /// Where events of this thread go.
    fn log(&self, thread: &ThreadId) -> Log {
        let primary = &self.record.thread_id;
        Log {
            workspace: self.record.workspace_id.clone(),
            session: self.record.id.clone(),
            thread: thread.clone(),
            parent: (thread != primary).then(|| primary.clone()),
        }
    }

    pub(crate) async fn ensure_work(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let record = &self.record;
        work::enqueue(tx, &record.workspace_id, &record.environment_id, &record.id).await?;
        Ok(())
    }

    fn progress(&self) -> Progress {
        let overall = self.session.overall();
        Progress {
            status: overall.status,
            usage: self.session.settled_usage(),
            active_since: overall.running_since,
            has_run: overall.has_run,
            has_been_idle: overall.stop.is_some(),
            outcomes: self.session.primary().state().outcomes().to_vec(),
        }
    }

    /// After the commit: shows events, starts and stops what the session wants.
    pub(crate) fn show_and_begin(&mut self, deeds: Vec<Deed>) -> Performed {
        let ids = accepted(&deeds);
        let mut accepted = Vec::with_capacity(ids.len());
        // Previews come by the hundred a second, and change nobody's status.
        let is_grown = deeds.iter().any(|deed| matches!(deed.effect, Effect::Append(..)));
        for Deed { thread, effect } in deeds {
            match effect {
                Effect::Append(event, audience) => {
                    self.show(&event, &thread, audience);
                    if ids.contains(&event.id) {
                        accepted.push(event);
                    }
                }
                Effect::Process(event) => {
                    self.show(&event, &thread, Audience::Session);
                    // One that took effect in the same step is answered with that.
                    if let Some(sent) = accepted.iter_mut().find(|sent| sent.id == event.id) {
                        *sent = event;
                    }
                }
                Effect::Preview(preview) => {
                    self.subscribers.preview(&preview, &Scene { thread: &thread, audience: self.audience_of(&thread) });
                }
                Effect::CallModel(start) => self.call_model(&thread, start),
                Effect::Consult(start, consultation) => self.consult(&thread, start, consultation),
                Effect::CancelModel => self.under_way(&thread).cancel_model(),
                Effect::ConnectMcp { attempt, servers } => self.connect_mcp(&thread, attempt, servers),
                Effect::CallMcp { call, server, tool, input } => self.call_mcp(&thread, call, server, tool, input),
                Effect::CallWeb { call, order } => self.call_web(&thread, call, order),
                Effect::CancelMcp => self.under_way(&thread).mcp.cancel(),
                Effect::RetryAfter(wait) => self.under_way(&thread).retry_at = Some(Instant::now() + wait),
                Effect::Accepted(_) | Effect::Keep(..) | Effect::EnsureWork => {}
            }
        }
        if is_grown {
            self.forget_timers();
        }
        Performed { accepted }
    }

    /// A thread that does not wait to try again has no timer, and one that is over has nothing.
    fn forget_timers(&mut self) {
        let is_over = |thread: &Thread| thread.state().status == SessionStatus::Terminated;
        self.under_way.retain(|id, _| !self.session.thread(id).is_some_and(is_over));
        for (id, under_way) in &mut self.under_way {
            let waits = |thread: &Thread| thread.state().status == SessionStatus::Rescheduling;
            if !self.session.thread(id).is_some_and(waits) {
                under_way.retry_at = None;
            }
        }
    }

    /// Shows an event that was stored: in the order of the log, so that the place of each is known.
    fn show(&mut self, event: &Event, thread: &ThreadId, audience: Audience) {
        let place = event.processed_at.is_some().then_some(self.next_shown);
        self.next_shown += i64::from(place.is_some());
        self.subscribers.show(event, place, &Scene { thread, audience });
    }

    /// Who is shown how the text of this thread's messages grows.
    fn audience_of(&self, thread: &ThreadId) -> Audience {
        if *thread == self.record.thread_id { Audience::Session } else { Audience::Thread }
    }

    fn call_model(&mut self, thread: &ThreadId, start: EventId) {
        let max_tokens = self.shared.settings.max_output_tokens;
        let Some(of) = self.session.thread(thread) else { return };
        let agent = of.agent();
        let skills: Vec<_> = self.record.skills.iter().filter(|skill| skill.is_of(&agent.skills)).cloned().collect();
        let web = self.shared.settings.limits.web;
        let given = postern_upstream::Given { skills: &skills, resources: &self.record.resources, web };
        let asked = self.session.asked(of);
        postern_danger::point!("model.before");
        let news = if asked.files().is_empty() {
            let body = postern_upstream::body(agent, given, of.mcp_tools(), &asked, max_tokens);
            self.shared.model.start(body)
        } else {
            let (agent, tools, resources) = (agent.clone(), of.mcp_tools().to_vec(), self.record.resources.clone());
            let body = move |conversation: &Conversation| {
                let given = postern_upstream::Given { skills: &skills, resources: &resources, web };
                postern_upstream::body(&agent, given, &tools, conversation, max_tokens)
            };
            attached::ask(&self.shared, self.record.workspace_id.clone(), asked.into_owned(), body)
        };
        self.under_way(thread).request = Some((start, news));
        postern_danger::point!("model.after");
    }

    #[cfg(test)]
    pub(crate) fn burn_fuse(&self) -> Result<(), Over> {
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

/// What a thread's part of the log comes to.
fn progress_of(thread: &Thread) -> threads::Progress {
    let state = thread.state();
    threads::Progress {
        status: state.status,
        sums: threads::Sums {
            usage: state.settled_usage(),
            active_since: state.running_since(),
            has_run: state.has_run,
            has_been_idle: state.stop.is_some(),
        },
    }
}

fn is_stored(deed: &Deed) -> bool {
    matches!(
        deed.effect,
        Effect::Append(..)
            | Effect::Process(_)
            | Effect::Keep(..)
            | Effect::EnsureWork
            | Effect::CallMcp { .. }
            | Effect::CallWeb { .. }
    )
}

/// The events of clients that were accepted.
pub(crate) fn accepted(deeds: &[Deed]) -> Vec<EventId> {
    deeds.iter().filter_map(accepted_id).cloned().collect()
}

fn accepted_id(deed: &Deed) -> Option<&EventId> {
    match &deed.effect {
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

    fn thread_id(&mut self) -> ThreadId {
        ThreadId::generate()
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
