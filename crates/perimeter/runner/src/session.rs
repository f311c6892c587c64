//! Serves one session: reads its events, runs its tool uses one after the other, posts their results. A thin shell around [`Dispatch`].
//! Ends with the session, with its turn, with the lease, or with the worker.

use std::sync::Arc;
use std::time::Duration;

use postern_net::Backoff;
use serde_json::json;
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::definition::{facts, read_session};
use crate::dispatch::{Dispatch, Effect, End, History, Input, SessionEvent};
use crate::hands::{Hands, Outcome, Refused, SessionFacts, ToolCall};
use crate::journal::{Journal, JournalError, Standing};
use crate::lease::LeaseEnd;
use crate::parcels::Parcels;
use crate::remote::{Bearer, EventStream, Remote, RemoteError};

/// Whose session is served, and with what credential.
#[derive(Clone, Copy)]
pub(crate) struct Subject<'a> {
    pub(crate) remote: &'a Remote,
    pub(crate) key: &'a Bearer,
    pub(crate) session: &'a str,
}

/// The lease as the heartbeat sees it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct LeaseView {
    pub(crate) send_window: Duration,
    /// Whether a heartbeat was taken: until then a resumed lease may be somebody else's.
    pub(crate) confirmed: bool,
    pub(crate) end: Option<LeaseEnd>,
}

/// Why serving ended.
#[derive(Debug)]
pub(crate) enum Served {
    /// As the session's state said.
    Ended(End),
    /// With the lease.
    LeaseEnded(LeaseEnd),
    /// The server does not show the session, or nothing that reads as one.
    Refused(RemoteError),
    /// The agent is not the one that was judged any more: its zone may be another.
    Redefined,
    /// The session's files are on another host, or gone.
    Elsewhere,
    /// What the session was given could not be brought.
    Unprovided(Refused),
}

/// How long serving goes on.
pub(crate) struct Patience {
    pub(crate) drain: CancellationToken,
    pub(crate) max_idle: Duration,
    /// Told when a session that only waits for its next turn should make room for another.
    pub(crate) crowded: Arc<Notify>,
}

/// What is kept of a session here.
pub(crate) struct Kept<'a> {
    pub(crate) journal: &'a mut Journal,
    /// What its zone was chosen by; without it the hands refuse everything anyway.
    pub(crate) judged: Option<SessionFacts>,
    /// Its files in and out, where the server has any.
    pub(crate) parcels: Option<Parcels>,
    /// What could not be brought: its model is told with the next result.
    pub(crate) missing: Vec<String>,
}

/// Serves the session to its end. What it was doing then is left as the journal has it.
pub(crate) async fn serve<H: Hands>(
    subject: Subject<'_>,
    hands: &mut H,
    kept: Kept<'_>,
    lease: watch::Receiver<LeaseView>,
    patience: Patience,
) -> Served {
    let Kept { journal, judged, parcels, missing } = kept;
    let Patience { drain, max_idle, crowded } = patience;
    let (inputs, received) = waiting();
    let pump = Pump {
        dispatch: Dispatch::new(postern_tools::owns, max_idle),
        began: Instant::now(),
        received,
        lease: lease.clone(),
        drain,
        draining: false,
        judged,
        parcels,
        missing,
        may_be_redefined: false,
        crowded,
    };
    tokio::select! {
        served = pump.run(subject, hands, journal, lease) => served,
        error = feed(subject, inputs) => Served::Refused(error),
    }
}

/// Where inputs wait for the session's worker.
fn waiting() -> (mpsc::Sender<Input>, mpsc::Receiver<Input>) {
    mpsc::channel(INPUTS)
}

/// Takes inputs from everywhere and hands out the state machine's effects.
struct Pump {
    dispatch: Dispatch,
    began: Instant,
    received: mpsc::Receiver<Input>,
    lease: watch::Receiver<LeaseView>,
    drain: CancellationToken,
    draining: bool,
    judged: Option<SessionFacts>,
    parcels: Option<Parcels>,
    missing: Vec<String>,
    /// The session was changed since it was judged, or may have been.
    may_be_redefined: bool,
    crowded: Arc<Notify>,
}

impl Pump {
    async fn run<H: Hands>(
        mut self,
        subject: Subject<'_>,
        hands: &mut H,
        journal: &mut Journal,
        lease: watch::Receiver<LeaseView>,
    ) -> Served {
        loop {
            let effects = match self.input().await {
                Ok(input) => self.handle(input),
                Err(served) => return served,
            };
            if let Err(served) = self.perform(effects, subject, hands, journal, &lease).await {
                return served;
            }
        }
    }

    async fn perform<H: Hands>(
        &mut self,
        mut effects: Vec<Effect>,
        subject: Subject<'_>,
        hands: &mut H,
        journal: &mut Journal,
        lease: &watch::Receiver<LeaseView>,
    ) -> Result<(), Served> {
        let mut outcome = None;
        // At most one effect at a time: a run, then its post, then the next run.
        while let Some(effect) = effects.pop() {
            let input = match effect {
                Effect::End(end) => return Err(Served::Ended(end)),
                Effect::Run(call) => {
                    self.admit(subject, hands, journal).await?;
                    if let Some(parcels) = self.parcels.clone() {
                        let not_there = self.alongside(parcels.clone_repositories(subject, hands)).await?;
                        self.missing.extend(not_there);
                    }
                    let mut done = self.alongside(execute(&call, hands, journal)).await?;
                    few(std::mem::take(&mut self.missing)).iter().for_each(|line| done.append(line));
                    if let Some(parcels) = self.parcels.clone() {
                        let not_kept = self.alongside(parcels.take(subject, hands)).await?;
                        few(not_kept).iter().for_each(|line| done.append(line));
                    }
                    outcome = Some(done);
                    Input::Ran { id: call.id }
                }
                Effect::Post { id } => {
                    let Some(outcome) = outcome.take() else { return Ok(()) };
                    let delivered = self.alongside(deliver(subject, &id, &outcome, lease)).await?;
                    settle(&id, delivered, journal)
                }
            };
            effects = self.handle(input);
        }
        Ok(())
    }

    /// Before every run: is it still the agent that was judged, and are its files here?
    async fn admit<H: Hands>(&mut self, subject: Subject<'_>, hands: &mut H, journal: &Journal) -> Result<(), Served> {
        let Some(judged) = self.judged.clone() else { return Ok(()) };
        if journal.is_blank() && self.dispatch.worked_before() {
            return Err(Served::Elsewhere);
        }
        while std::mem::take(&mut self.may_be_redefined) {
            let session = self.alongside(read_session(subject)).await?.map_err(Served::Refused)?;
            if facts(subject, &session).ok().as_ref() != Some(&judged) {
                return Err(Served::Redefined);
            }
            if let Some(parcels) = self.parcels.clone() {
                let brought = self.alongside(parcels.bring(subject, &session, hands)).await?;
                for line in brought.map_err(Served::Unprovided)? {
                    if !self.missing.contains(&line) {
                        self.missing.push(line);
                    }
                }
            }
        }
        Ok(())
    }

    fn handle(&mut self, input: Input) -> Vec<Effect> {
        self.may_be_redefined |=
            matches!(input, Input::History(SessionEvent::Updated) | Input::Live(SessionEvent::Updated));
        let now = self.began.elapsed();
        self.dispatch.handle(input, now)
    }

    /// Runs `work` to its end while inputs are taken; an end of the session, the lease or the worker's patience comes first.
    async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> Result<T, Served> {
        tokio::pin!(work);
        loop {
            let input = tokio::select! {
                result = &mut work => return Ok(result),
                input = self.input() => input?,
            };
            // Nothing else is run meanwhile, so the only effect is an end.
            if let Some(Effect::End(end)) = self.handle(input).pop() {
                return Err(Served::Ended(end));
            }
        }
    }

    /// The next input. Cancel-safe.
    async fn input(&mut self) -> Result<Input, Served> {
        let due = self.dispatch.wake_at().map(|at| self.began + at);
        tokio::select! {
            ended = lease_end(&mut self.lease) => Err(Served::LeaseEnded(ended)),
            () = self.drain.cancelled(), if !self.draining => {
                self.draining = true;
                Ok(Input::Drain)
            }
            () = self.crowded.notified(), if due.is_some() => Ok(Input::MakeRoom),
            input = self.received.recv() => Ok(input.unwrap_or(Input::Tick)),
            () = tokio::time::sleep_until(due.unwrap_or(self.began)), if due.is_some() => Ok(Input::Tick),
        }
    }
}

/// Waits for the lease's end. A heartbeat that is gone without a word has lost it.
pub(crate) async fn lease_end(lease: &mut watch::Receiver<LeaseView>) -> LeaseEnd {
    let view = lease.wait_for(|view| view.end.is_some()).await;
    view.ok().and_then(|view| view.end).unwrap_or(LeaseEnd::Lost)
}

/// Runs a tool use unless the journal knows of it already.
async fn execute<H: Hands>(call: &ToolCall, hands: &mut H, journal: &mut Journal) -> Outcome {
    let outcome = match journal.standing(&call.id) {
        Some(Standing::Done(outcome)) => return outcome.clone(),
        Some(Standing::Posted) => {
            return Outcome::failed(format!(
                "{} ran before and its result was accepted then; it was not run again. {CHECK}",
                call.name
            ));
        }
        Some(Standing::Started) => {
            tracing::warn!(
                tool_use = call.id,
                tool = call.name,
                "a tool use was started and lost: its outcome is unknown"
            );
            Outcome::failed(format!(
                "{}: outcome unknown. The worker stopped while this call was running; it was not run again. {CHECK}",
                call.name
            ))
        }
        None => hands.run(call, journaled(call, journal)).await,
    };
    if let Err(error) = journal.done(&call.id, &outcome) {
        tracing::error!(tool_use = call.id, error = chain(&error), "an outcome could not be journaled");
    }
    outcome
}

/// Notes that a tool use begins: on disk when this ends well, which may be while it is decided and recorded.
async fn journaled(call: &ToolCall, journal: &mut Journal) -> Result<(), Outcome> {
    journal.started(&call.id, &call.name).await.map_err(|error| {
        tracing::error!(tool_use = call.id, error = chain(&error), "a tool use could not be journaled and is not run");
        Outcome::failed(match error {
            JournalError::Full(_) => format!("[postern] not run reason=journal_full next={JOURNAL_FULL}"),
            _ => format!(
                "{}: not run, because the worker cannot write its journal. Next step: an operator frees space on the worker's disk; then try again.",
                call.name
            ),
        })
    })
}

/// What to do about a session of which nothing more can be kept in mind.
pub(crate) const JOURNAL_FULL: &str =
    "look whether the worker reaches the server with its results; if it does, start a new session";

/// Lines that a result says of what is not there or not kept.
const LINES: usize = 20;

/// What a model can do about a call whose outcome nobody knows.
const CHECK: &str = "Check first what it already did (files in the workspace, state of the services it called), then decide whether to repeat it.";

/// How the posting of a result went.
enum Delivery {
    Taken,
    /// For good: it was answered already, or the session takes no answer, not even a short one.
    Refused,
    /// It is we who are refused, or nobody knows by whom: with another item it may be taken.
    NotOurs,
    Failed,
}

impl Delivery {
    fn refused(by: &RemoteError) -> Self {
        // Who else says 404 may stand between: a way in whose server is being replaced.
        if matches!(by.status(), Some(400 | 413 | 422)) { Self::Refused } else { Self::NotOurs }
    }
}

/// Posts an outcome. One that the server does not take as it is (too long, say) is answered for by its reason: a tool use without any answer would hold
/// its turn for ever.
async fn deliver(subject: Subject<'_>, id: &str, outcome: &Outcome, lease: &watch::Receiver<LeaseView>) -> Delivery {
    match deliver_as_is(subject, id, outcome, lease).await {
        Ok(delivery) => delivery,
        Err(RemoteError::Refused { status: status @ (400 | 413 | 422), message, .. }) => {
            let instead = Outcome::failed(format!(
                "[postern] the tool use ran and its result was refused reason=result_refused status={status} next=ask for less at a time, or write it to a file ({message})"
            ));
            deliver_as_is(subject, id, &instead, lease).await.unwrap_or_else(|error| Delivery::refused(&error))
        }
        Err(error) => Delivery::refused(&error),
    }
}

/// Posts one outcome until it is taken, or refused for good: that is the error.
async fn deliver_as_is(
    subject: Subject<'_>,
    id: &str,
    outcome: &Outcome,
    lease: &watch::Receiver<LeaseView>,
) -> Result<Delivery, RemoteError> {
    let event = json!({"type": "user.tool_result", "tool_use_id": id, "is_error": outcome.is_error, "content": outcome.content});
    let began = Instant::now();
    for attempt in 0.. {
        let error = match subject.remote.post(subject.key, subject.session, &event).await {
            Ok(()) => return Ok(Delivery::Taken),
            Err(error) if error.is_fatal() => {
                tracing::warn!(
                    session = subject.session,
                    tool_use = id,
                    error = chain(&error),
                    "the server refused a result"
                );
                return Err(error);
            }
            Err(error) => error,
        };
        let left = lease.borrow().send_window.saturating_sub(began.elapsed());
        if left.is_zero() {
            tracing::error!(
                session = subject.session,
                tool_use = id,
                error = chain(&error),
                "a result could not be delivered"
            );
            return Ok(Delivery::Failed);
        }
        tracing::warn!(
            session = subject.session,
            tool_use = id,
            attempt,
            error = chain(&error),
            "a result is sent again"
        );
        tokio::time::sleep(SEND.delay(attempt, error.retry_after(), random()).min(left)).await;
    }
    Ok(Delivery::Failed)
}

/// So many lines as a model reads, and how many more there are.
fn few(mut lines: Vec<String>) -> Vec<String> {
    let more = lines.len().saturating_sub(LINES);
    if let Some(first) = lines.get(LINES) {
        tracing::warn!(more, first, "a result says no more of what is not there or not kept");
    }
    lines.truncate(LINES);
    if more > 0 {
        lines.push(format!("[postern] {more} more of these are not said one by one"));
    }
    lines
}

fn settle(id: &str, delivery: Delivery, journal: &mut Journal) -> Input {
    match delivery {
        // What is refused for good is not kept either: it would fill the journal.
        Delivery::Taken | Delivery::Refused => {
            if let Err(error) = journal.posted(id) {
                tracing::warn!(tool_use = id, error = chain(&error), "a delivered result could not be journaled");
            }
            Input::Settled { id: id.to_owned() }
        }
        Delivery::NotOurs => Input::Settled { id: id.to_owned() },
        Delivery::Failed => Input::Undelivered { id: id.to_owned() },
    }
}

/// Streams and lists the session's events for as long as it is read: stream first, so that nothing falls between the two. Returns only
/// when the server refuses for good.
async fn feed(subject: Subject<'_>, inputs: mpsc::Sender<Input>) -> RemoteError {
    let (mut attempt, mut garbled) = (0, 0);
    loop {
        let ended = match subject.remote.stream(subject.key, subject.session).await {
            Ok(stream) => follow(subject, stream, &inputs, &mut attempt, &mut garbled).await,
            Err(error) => Err(error),
        };
        match ended {
            Err(error) if error.is_fatal() => return error,
            Err(error) => {
                garbled = if error.is_garbled() { garbled + 1 } else { 0 };
                if garbled >= GARBLED {
                    return error;
                }
                tracing::warn!(session = subject.session, error = chain(&error), "the event stream is opened again")
            }
            Ok(()) => {}
        }
        tokio::time::sleep(RECONNECT.delay(attempt, None, random())).await;
        attempt = attempt.saturating_add(1);
    }
}

async fn follow(
    subject: Subject<'_>,
    mut stream: EventStream,
    inputs: &mpsc::Sender<Input>,
    attempt: &mut u32,
    garbled: &mut u32,
) -> Result<(), RemoteError> {
    // The receiver lives as long as this future: both are branches of one select.
    let _ = inputs.send(Input::HistoryBegins).await;
    let read = history(subject, inputs, PAGES).await;
    let history = if read.is_ok() { History::Complete } else { History::Failed };
    let _ = inputs.send(Input::HistoryEnds(history)).await;
    // Without it what is open is not known, however well the stream goes on: both are begun anew.
    read?;
    *garbled = 0;
    while let Some(event) = stream.next().await? {
        *attempt = 0;
        let _ = inputs.send(Input::Live(SessionEvent::read(&event))).await;
    }
    Ok(())
}

async fn history(subject: Subject<'_>, inputs: &mpsc::Sender<Input>, pages: usize) -> Result<(), RemoteError> {
    let mut cursor: Option<String> = None;
    for _ in 0..pages {
        let page = subject.remote.events(subject.key, subject.session, cursor.as_deref()).await?;
        for event in &page.data {
            let _ = inputs.send(Input::History(SessionEvent::read(event))).await;
        }
        match page.next_page.filter(|next| !next.is_empty()) {
            Some(next) => cursor = Some(next),
            None => return Ok(()),
        }
    }
    Err(RemoteError::Garbled { doing: "list the session's events: the pages do not end" })
}

pub(crate) fn random() -> u64 {
    // Without random numbers the jitter is missing, nothing else.
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

const INPUTS: usize = 256;
/// A server that answers so often with something else than a session's events will not come round.
const GARBLED: u32 = 6;
/// A history longer than ten million events is a server that goes round in circles.
const PAGES: usize = 10_000;
const SEND: Backoff =
    Backoff { base: Duration::from_secs(1), cap: Duration::from_secs(30), retry_after_cap: Duration::from_secs(300) };
const RECONNECT: Backoff = Backoff {
    base: Duration::from_millis(500),
    cap: Duration::from_secs(10),
    retry_after_cap: Duration::from_secs(300),
};

#[cfg(test)]
mod tests;
