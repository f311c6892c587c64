//! One session's task: takes commands, news of the model and the retry timer, one after the other.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use postern_model::event::{ClientEvent, Event, Previewable};
use postern_model::ids::{SessionId, ThreadId};
use postern_model::{Problem, Timestamp};
use postern_session::{Author, Input, ModelEvent, Session};
use postern_store::events::{After, Of, WAITING};
use postern_store::sessions::Record;
use postern_store::{Tx, work};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::command::{Command, Envelope};
use crate::missed::Missed;
use crate::perform::Performed;
use crate::shared::Shared;
use crate::subscribers::{Subscribers, Subscription};
use crate::under_way::{self, News, UnderWay};
use crate::{Missing, load, problem, session_not_found};

/// How many work items in a row may end without a result before the session is told.
const FRUITLESS_ITEMS: u32 = 3;

pub(crate) struct Actor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) record: Record,
    pub(crate) session: Session,
    /// The place of the next event in the log, and of the next that waits.
    pub(crate) next: i64,
    pub(crate) next_waiting: i64,
    /// The place of the next event that streams are shown: `next`, but for the moment between a commit and telling.
    pub(crate) next_shown: i64,
    /// The place of the last event that the last snapshot holds, or was too large to hold.
    pub(crate) folded: i64,
    pub(crate) subscribers: Subscribers,
    pub(crate) under_way: BTreeMap<ThreadId, UnderWay>,
    /// When a lifetime is over, as the store has it.
    pub(crate) lapses_at: Option<Timestamp>,
}

/// Why a session's task ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// Nothing is left to do: drained, deleted, or at rest for long.
    Finished,
    /// The state is ahead of the log: the log has to be read again.
    Broken,
}

/// Loads a session from the store, goes on where its log ends, and serves it.
pub(crate) async fn load_and_run(shared: Arc<Shared>, id: SessionId, commands: mpsc::Receiver<Envelope>) {
    match load::load(&shared, &id).await {
        Ok(Some(mut actor)) => {
            if actor.perform(Input::Resume).await.is_ok() {
                actor.run(commands).await;
            } else {
                refuse_all(&shared, &id, commands, &Problem::internal());
                shared.wake_later(&id);
            }
        }
        Ok(None) => refuse_all(&shared, &id, commands, &session_not_found(&id)),
        Err(error) => {
            let problem = problem(error);
            refuse_all(&shared, &id, commands, &problem);
            shared.wake_later(&id);
        }
    }

    /// Refuses instead of handing on: a successor would fail the same way.
    fn refuse_all(shared: &Arc<Shared>, id: &SessionId, mut commands: mpsc::Receiver<Envelope>, problem: &Problem) {
        commands.close();
        while let Ok(envelope) = commands.try_recv() {
            envelope.command.refuse(problem.clone());
        }
        shared.retire(id, &mut commands);
    }
}

impl Actor {
    /// A task for a session whose log is empty.
    pub(crate) fn new(shared: &Arc<Shared>, record: Record) -> Self {
        let agent = Arc::new(record.agent.clone());
        let prices = shared.settings.prices_of(&record.agent);
        Self {
            shared: Arc::clone(shared),
            session: Session::new(record.thread_id.clone(), agent, shared.settings.limits)
                .priced(prices, record.budget)
                .pricing(shared.settings.prices_of_roster(&record.agent))
                .hearing_system(shared.settings.system_messages.contains(&record.agent.model.id)),
            record,
            next: 1,
            next_waiting: WAITING,
            next_shown: 1,
            folded: 0,
            subscribers: Subscribers::default(),
            under_way: BTreeMap::new(),
            lapses_at: None,
        }
    }

    pub(crate) fn id(&self) -> &SessionId {
        &self.record.id
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Envelope>) {
        let drain = self.shared.drain.clone();
        let over = loop {
            let linger = Instant::now() + self.shared.settings.linger;
            let retry = under_way::next_retry(&self.under_way);
            let done = tokio::select! {
                biased;
                () = drain.cancelled() => Err(Over::Finished),
                Some(envelope) = commands.recv() => self.obey(envelope).await,
                () = lapsed(self.session.next_lapse()) => self.perform(Input::Lapsed).await.map(drop),
                (thread, news) = under_way::next(&mut self.under_way) => self.take_news(thread, news).await,
                thread = due(retry) => {
                    self.under_way(&thread).retry_at = None;
                    self.perform(Input::RetryDue(thread)).await.map(drop)
                }
                () = tokio::time::sleep_until(linger) => if self.is_busy() { Ok(()) } else { Err(Over::Finished) },
            };
            if let Err(over) = done {
                break over;
            }
            self.keep_snapshot().await;
        };
        debug!(session = %self.record.id, ?over, "session task ends");
        let shared = Arc::clone(&self.shared);
        let id = self.record.id.clone();
        // Streams end, the model request and MCP calls are dropped before a successor can begin.
        drop(self);
        shared.retire(&id, &mut commands);
        if over == Over::Broken {
            shared.wake_later(&id);
        }
    }

    fn is_busy(&mut self) -> bool {
        self.under_way.values().any(UnderWay::is_busy) || !self.subscribers.is_empty()
    }

    async fn take_news(&mut self, thread: ThreadId, news: News) -> Result<(), Over> {
        let news = match news {
            News::Model(news) => news.unwrap_or_else(crate::perform::vanished),
            News::Other(input) => return self.perform(input).await.map(drop),
        };
        let Some((start, receiver)) = &mut self.under_way(&thread).request else { return Ok(()) };
        let start = start.clone();
        let (first, second) = coalesce(news, receiver);
        for news in [Some(first), second].into_iter().flatten() {
            if matches!(news, ModelEvent::Finished(_) | ModelEvent::Failed(_)) {
                self.under_way(&thread).request = None;
            }
            self.perform(Input::Model(start.clone(), news)).await?;
        }
        Ok(())
    }

    async fn obey(&mut self, envelope: Envelope) -> Result<(), Over> {
        if envelope.workspace.is_some_and(|workspace| workspace != self.record.workspace_id) {
            envelope.command.refuse(session_not_found(self.id()));
            return Ok(());
        }
        match envelope.command {
            Command::Wake => Ok(()),
            Command::Send { events, author, once, reply } => {
                let sent = match once {
                    Some(once) => self.send_once(events, author, &once).await,
                    None => self.send(events, author).await,
                };
                answer(reply, sent)
            }
            Command::Subscribe { of, previews, after, reply } => {
                let subscription = self.subscribe(of, previews, after);
                answer(reply, subscription.map_err(Failure::from))
            }
            Command::Update { request, reply } => {
                let updated = self.update(*request).await;
                answer(reply, updated)
            }
            Command::AddResource { param, once, reply } => {
                let added = self.add_resource(param, once.as_ref()).await;
                answer(reply, added)
            }
            Command::RemoveResource { id, reply } => {
                let removed = self.remove_resource(&id).await;
                answer(reply, removed)
            }
            Command::RotateToken { id, token, reply } => {
                let rotated = self.rotate_token(&id, token).await;
                answer(reply, rotated)
            }
            Command::ArchiveThread { thread, reply } => {
                let archived = self.archive_thread(&thread).await;
                answer(reply, archived)
            }
            Command::Archive { reply } => {
                let archived = self.archive().await;
                answer(reply, archived)
            }
            Command::Delete { reply } => {
                let deleted = self.delete().await;
                let is_deleted = deleted.is_ok();
                answer(reply, deleted)?;
                if is_deleted { Err(Over::Finished) } else { Ok(()) }
            }
            Command::Missing { missing, reply } => {
                let mut told = Ok(());
                for Missing { code, message, lacking } in missing {
                    let said = self.perform(Input::Missing { code: code.to_owned(), message, lacking }).await;
                    told = told.and(said.map(drop).map_err(Failure::from));
                }
                answer(reply, told)
            }
            Command::FailWork { code, message, reply } => {
                warn!(session = %self.record.id, code, "a worker could not serve the session");
                let failed = self.perform(Input::WorkFailed { code, message }).await;
                answer(reply, failed.map(drop).map_err(Failure::from))
            }
            Command::WorkEnded { reply } => {
                let ended = self.work_ended().await;
                answer(reply, ended)
            }
        }
    }

    async fn send(&mut self, sent: Vec<ClientEvent>, author: Author) -> Result<Vec<Event>, Failure> {
        self.session.check(&sent, author)?;
        let count = sent.len();
        let Performed { accepted } = self.perform(Input::Events(sent)).await?;
        debug_assert_eq!(accepted.len(), count, "each accepted event is stored once");
        Ok(accepted)
    }

    /// A stream from now on, or from behind the place `after` of the log on.
    fn subscribe(
        &mut self,
        of: Of,
        previews: HashSet<Previewable>,
        after: Option<i64>,
    ) -> Result<Subscription, Problem> {
        let missed = after.map(|after| {
            let end = After { place: self.next_shown, waiting: self.next_waiting };
            Missed::between(&self.shared.store, self.id(), of.clone(), after, end)
        });
        Ok(self.subscribers.add(of.clone(), previews, missed.transpose()?))
    }

    async fn work_ended(&mut self) -> Result<(), Failure> {
        if !self.session.needs_worker() {
            return Ok(());
        }
        // Counted in the queue and the log, so that a restart in between changes nothing.
        let mut reader = self.shared.store.read().await.map_err(problem)?;
        let in_vain = work::ended_in_vain(&mut reader, &self.record.id).await.map_err(problem)?;
        drop(reader);
        if in_vain < FRUITLESS_ITEMS {
            return self.enqueue().await;
        }
        let message = format!(
            "{FRUITLESS_ITEMS} work items in a row ended without a result. Look at the worker's log, then send a message."
        );
        self.perform(Input::WorkFailed { code: "worker_left".into(), message }).await?;
        Ok(())
    }

    async fn enqueue(&mut self) -> Result<(), Failure> {
        let mut tx = self.write().await?;
        self.ensure_work(&mut tx).await.map_err(problem)?;
        tx.commit().await.map_err(problem)?;
        Ok(())
    }

    pub(crate) async fn write(&self) -> Result<Tx, Failure> {
        Ok(self.shared.store.write().await.map_err(problem)?)
    }
}

/// The thread that tries again, when it is time; waits for ever while none does.
async fn due(retry: Option<(Instant, ThreadId)>) -> ThreadId {
    match retry {
        Some((at, thread)) => {
            tokio::time::sleep_until(at).await;
            thread
        }
        None => std::future::pending().await,
    }
}

/// Waits until a run's lifetime is over; for ever where no run is open.
async fn lapsed(at: Option<Timestamp>) {
    match at {
        Some(at) => {
            let left = Timestamp::now().duration_until(at);
            tokio::time::sleep(Duration::try_from(left).unwrap_or_default()).await;
        }
        None => std::future::pending().await,
    }
}

/// Why a command was not done.
pub(crate) enum Failure {
    /// Refused; the session goes on.
    Refused(Problem),
    /// The session's task has to end.
    Over(Over),
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem)
    }
}

impl From<Over> for Failure {
    fn from(over: Over) -> Self {
        Self::Over(over)
    }
}

fn answer<T>(reply: crate::command::Reply<T>, result: Result<T, Failure>) -> Result<(), Over> {
    let (answer, done) = match result {
        Ok(value) => (Ok(value), Ok(())),
        Err(Failure::Refused(problem)) => (Err(problem), Ok(())),
        Err(Failure::Over(over)) => (Err(Problem::internal()), Err(over)),
    };
    // Whoever asked may be gone; what was done stays done.
    drop(reply.send(answer));
    done
}

/// Puts pieces of one text that have already arrived into one piece, so that a slow reader does not see every token
/// alone. The second value is what came behind them.
fn coalesce(news: ModelEvent, receiver: &mut mpsc::Receiver<ModelEvent>) -> (ModelEvent, Option<ModelEvent>) {
    let ModelEvent::Text { index, mut text } = news else { return (news, None) };
    loop {
        match receiver.try_recv() {
            Ok(ModelEvent::Text { index: next, text: more }) if next == index => text.push_str(&more),
            Ok(other) => return (ModelEvent::Text { index, text }, Some(other)),
            Err(_) => return (ModelEvent::Text { index, text }, None),
        }
    }
}
