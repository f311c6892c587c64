//! One work item from claim to stop (contract section 4.3): credential, heartbeat, session, zone, tool uses, teardown, stop.
//! An item's failure ends the item and never the worker.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use postern_net::Backoff;
use serde_json::Value;
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::definition::{facts, read_session, unreadable};
use crate::dispatch::{End, MAX_IDLE};
use crate::hands::{Hands, Outcome, Passage, Perimeter, Refused, SessionFacts, ToolCall};
use crate::journal::{Journal, JournalError};
use crate::lease::{Beat, Lease, LeaseEnd};
use crate::parcels::{self, Parcels, Server};
use crate::place::{HeldLease, Place, Places};
use crate::remote::{Bearer, Remote, RemoteError, WorkItem};
use crate::session::{self, JOURNAL_FULL, Kept, LeaseView, Patience, Served, Subject, chain, lease_end, random};

/// What all items of a worker share.
pub(crate) struct Shared<P> {
    pub(crate) remote: Remote,
    pub(crate) key: Arc<Bearer>,
    pub(crate) perimeter: P,
    pub(crate) places: Arc<Places>,
    pub(crate) drain: CancellationToken,
    pub(crate) max_idle: Duration,
    pub(crate) serving: Serving,
    /// Told when a session has no room.
    pub(crate) crowded: Arc<Notify>,
}

impl<P> Shared<P> {
    pub(crate) fn new(
        remote: Remote,
        key: Bearer,
        perimeter: P,
        places: Arc<Places>,
        drain: CancellationToken,
    ) -> Self {
        let (serving, crowded) = (Serving::default(), Arc::default());
        Self { remote, key: Arc::new(key), perimeter, places, drain, max_idle: MAX_IDLE, serving, crowded }
    }
}

/// How an item ended, for its stop.
enum Ended {
    /// Stop it.
    Done,
    /// Stop it and say why, where the server understands that.
    Failed(Refused),
    /// Leave it: it is not ours any more, or the next holder shall go on.
    Left,
}

/// Serves one claimed and acknowledged item.
pub(crate) async fn run<P: Perimeter>(shared: &Shared<P>, item: WorkItem, ours: bool) {
    let key = item.secret.as_deref().and_then(Bearer::in_secret).map_or_else(|| Arc::clone(&shared.key), Arc::new);
    if item.data.kind != "session" {
        return stop(shared, &key, &item.id, None).await;
    }
    // Only our server seals anything for this perimeter; from another there is nothing, and nothing of a former item stays.
    let variables = item.secret.as_deref().filter(|_| ours).map(Bearer::variables_in).unwrap_or_default();
    let handout = format!("{:016x}", random());
    let claim = Claim { work: item.id, handout, session: item.data.id, ours, heard: None };
    // Before anything else: a worker that is killed while the item waits for its turn goes on with it, and gets none of this again.
    let kept = shared.places.of(&claim.session).map(|place| place.keep_coming(&claim.handout, variables));
    if let Ok(Err(error)) = kept {
        let refused = unkept(&claim, &error);
        return stop(shared, &key, &claim.work, ours.then_some(&refused)).await;
    }
    hold(shared, claim, key).await;
}

/// Goes on with an item that an earlier run of this worker held, if it is still ours: its next heartbeat tells.
pub(crate) async fn resume<P: Perimeter>(shared: &Shared<P>, held: HeldLease) {
    tracing::info!(work = held.work, session = held.session, "resuming");
    let HeldLease { work, handout, session, ours, last_heartbeat } = held;
    let claim = Claim { work, handout, session, ours, heard: Some(last_heartbeat) };
    hold(shared, claim, Arc::clone(&shared.key)).await;
}

/// An item that is ours, or was when this worker last heard.
struct Claim {
    work: String,
    handout: String,
    session: String,
    ours: bool,
    /// The last heartbeat of an earlier run.
    heard: Option<String>,
}

/// Keeps the lease while the session is served, then stops the item or leaves it.
async fn hold<P: Perimeter>(shared: &Shared<P>, claim: Claim, key: Arc<Bearer>) {
    let place = shared.places.of(&claim.session).ok();
    let window = Lease::new(Duration::ZERO).send_window();
    let (told, lease) = watch::channel(LeaseView { send_window: window, confirmed: claim.heard.is_none(), end: None });
    let memory = place.clone().map(|place| {
        (
            place,
            HeldLease {
                work: claim.work.clone(),
                handout: claim.handout.clone(),
                session: claim.session.clone(),
                last_heartbeat: String::new(),
                ours: claim.ours,
            },
        )
    });
    let heartbeat = tokio::spawn(keep(
        shared.remote.clone(),
        Arc::clone(&key),
        claim.work.clone(),
        claim.heard.clone(),
        told,
        memory,
    ));
    // Held until everything of this item is gone: the next one of the session finds its own things only.
    let (turn, ended) = match turn(shared, &claim, lease.clone()).await {
        Ok(turn) => (Some(turn), serve(shared, &claim, &key, lease.clone()).await),
        Err(ended) => (None, ended),
    };
    heartbeat.abort();
    // Awaited, so that no last beat is remembered after the lease is forgotten.
    let _aborted = heartbeat.await;
    let lost = lease.borrow().end.is_some_and(|end| !end.may_stop());
    if lost || !matches!(ended, Ended::Left) {
        place.iter().for_each(|place| place.forget_lease(&claim.handout));
        place.iter().for_each(|place| place.forget_coming(&claim.handout));
        place.iter().filter(|_| turn.is_some()).for_each(Place::forget_variables);
    }
    drop(turn);
    let (work, session) = (&claim.work, &claim.session);
    match ended {
        _ if lost => tracing::warn!(work, session, "the lease was lost; the item is left to its new holder"),
        Ended::Left => tracing::info!(work, session, "the item is left: this worker resumes it, or its lease runs out"),
        Ended::Done => stop(shared, &key, work, None).await,
        Ended::Failed(refused) => stop(shared, &key, work, claim.ours.then_some(&refused)).await,
    }
}

/// Waits until the item is the one that has its session, and keeps what came with it.
async fn turn<P>(shared: &Shared<P>, claim: &Claim, mut lease: watch::Receiver<LeaseView>) -> Result<Turn, Ended> {
    // A resumed item is looked at only once the server has said that it is still ours.
    let ended = lease.wait_for(|view| view.confirmed || view.end.is_some()).await.map(|view| view.end);
    match ended {
        Ok(None) => {}
        Ok(Some(_)) => return Err(Ended::Done),
        Err(_) => return Err(Ended::Left),
    }
    let turn = tokio::select! {
        turn = shared.serving.turn(&claim.session) => turn,
        _ = lease_end(&mut lease) => return Err(Ended::Done),
    };
    match shared.places.of(&claim.session).map(|place| place.take_coming(&claim.handout)) {
        // What was kept before is of a former item, and counts no more.
        Ok(Err(error)) => Err(Ended::Failed(unkept(claim, &error))),
        Ok(Ok(())) | Err(_) => Ok(turn),
    }
}

fn unkept(claim: &Claim, error: &io::Error) -> Refused {
    tracing::error!(session = claim.session, "the variables of a session's vaults are not kept");
    no_place(error)
}

async fn serve<P: Perimeter>(
    shared: &Shared<P>,
    claim: &Claim,
    key: &Arc<Bearer>,
    mut lease: watch::Receiver<LeaseView>,
) -> Ended {
    let (session, ours) = (claim.session.as_str(), claim.ours);
    let subject = Subject { remote: &shared.remote, key, session };
    loop {
        let read = tokio::select! {
            read = read_session(subject) => read,
            end = lease_end(&mut lease) => {
                tracing::info!(session, ?end, "the item ended before its session was open");
                return Ended::Done;
            }
        };
        // Not given up half-way: what the perimeter opened it must also close, or the session could never be opened again.
        let Opened { mut hands, mut journal, judged, parcels, missing } = match open(shared, subject, ours, read).await
        {
            Ok(Some(opened)) => opened,
            Ok(None) => return Ended::Done,
            Err(refused) => return failed(session, refused),
        };
        let patience = || Patience {
            drain: shared.drain.clone(),
            max_idle: shared.max_idle,
            crowded: Arc::clone(&shared.crowded),
        };
        let kept = Kept { journal: &mut journal, judged, parcels, missing };
        let served = session::serve(subject, &mut hands, kept, lease.clone(), patience()).await;
        // The heartbeat goes on while everything is taken down.
        hands.close().await;
        match served {
            Served::Elsewhere if !ours => {
                let mut hands: ItemHands<P::Hands> = ItemHands::Refusing(workspace_gone());
                let kept = Kept { journal: &mut journal, judged: None, parcels: None, missing: Vec::new() };
                let served = session::serve(subject, &mut hands, kept, lease, patience()).await;
                return after(session, served);
            }
            Served::Redefined => tracing::info!(session, "the agent's definition changed: the session is judged again"),
            served => return after(session, served),
        }
    }
}

fn failed(session: &str, refused: Refused) -> Ended {
    tracing::warn!(session, code = refused.code, reason = refused.message, "the session is not served");
    Ended::Failed(refused)
}

fn after(session: &str, served: Served) -> Ended {
    match served {
        Served::Ended(End::Drained { turn_over: false }) => Ended::Left,
        Served::Ended(End::Flooded) => failed(session, flooded()),
        Served::Ended(end) => {
            tracing::info!(session, ?end, "the session was served");
            Ended::Done
        }
        Served::LeaseEnded(LeaseEnd::Lost | LeaseEnd::AssumedLost) => Ended::Left,
        Served::LeaseEnded(LeaseEnd::Stop | LeaseEnd::Rejected) | Served::Redefined => Ended::Done,
        Served::Refused(error) => failed(session, unreadable(&error)),
        Served::Elsewhere => failed(session, workspace_gone()),
        Served::Unprovided(refused) => failed(session, refused),
    }
}

/// A session that is open, and what it was judged by, where that could be read.
struct Opened<H> {
    hands: ItemHands<H>,
    journal: Journal,
    judged: Option<SessionFacts>,
    parcels: Option<Parcels>,
    /// What could not be brought, for its model.
    missing: Vec<String>,
}

/// Has the perimeter judge a session and opens its journal. `None`: there is nothing to serve.
async fn open<P: Perimeter>(
    shared: &Shared<P>,
    subject: Subject<'_>,
    ours: bool,
    read: Result<Value, RemoteError>,
) -> Result<Option<Opened<P::Hands>>, Refused> {
    let session = read.map_err(|error| unreadable(&error))?;
    if session.get("status").and_then(Value::as_str) == Some("terminated") {
        tracing::info!(session = subject.session, "the session is terminated; nothing to serve");
        return Ok(None);
    }
    let place = shared.places.of(subject.session).map_err(|error| no_place(&error))?;
    let journal = Journal::open(&place.journal).map_err(|error| no_journal(&error))?;
    let judged = facts(subject, &session);
    let hands = match (files(&place, &journal), &judged) {
        (Ok(()), Ok(facts)) => shared.perimeter.open(facts.clone()).await,
        (Err(refused), _) => Err(refused),
        (_, Err(refused)) => Err(refused.clone()),
    };
    let opened = match hands {
        Ok(mut hands) => match parcels(shared, subject, ours, place, &session, &mut hands).await {
            Ok(parcels) => Ok((hands, parcels)),
            Err(refused) => {
                hands.close().await;
                Err(refused)
            }
        },
        Err(refused) => Err(refused),
    };
    let (hands, parcels) = match opened {
        Ok((hands, parcels)) => (ItemHands::Real(hands), parcels),
        // A server that knows no stop with an error would wait for ever: each tool use is answered with the reason instead.
        Err(refused) if !ours => (ItemHands::Refusing(refused), None),
        Err(refused) => return Err(refused),
    };
    let (parcels, missing) = parcels.unzip();
    Ok(Some(Opened { hands, journal, judged: judged.ok(), parcels, missing: missing.unwrap_or_default() }))
}

/// Brings what the session was given. Only our server hands files to a worker, and takes what a session puts out; skills every server hands out.
async fn parcels<P: Perimeter>(
    shared: &Shared<P>,
    subject: Subject<'_>,
    ours: bool,
    place: Place,
    session: &Value,
    hands: &mut P::Hands,
) -> Result<Option<(Parcels, Vec<String>)>, Refused> {
    if !ours {
        parcels::nothing_given(session)?;
        if !parcels::has_skills(session) {
            return Ok(None);
        }
    }
    let server = if ours { Server::Ours } else { Server::Another };
    let kernel_uid = shared.places.kernel_uid(&place).map_err(|error| no_place(&error))?;
    // After a restart the environment's key is all that is left: memories are kept in step again with the next item.
    let is_sessions_own = !std::ptr::eq(subject.key, &*shared.key);
    let parcels = Parcels::new(place, kernel_uid, is_sessions_own, server).map_err(|error| no_place(&error))?;
    let missing = parcels.bring(subject, session, hands).await?;
    Ok(Some((parcels, missing)))
}

/// The workspace is made before the first tool use and never again: a session that ran here and has none has lost its files, and is told so.
fn files(place: &Place, journal: &Journal) -> Result<(), Refused> {
    if journal.is_blank() {
        place.make_workspace().map_err(|error| no_place(&error))?;
    }
    if place.has_workspace() { Ok(()) } else { Err(workspace_gone()) }
}

/// Files of an earlier turn that are not here: an empty directory in their place would be a lie.
fn workspace_gone() -> Refused {
    let message = "the files of this session's earlier tool uses are not on this worker's host. Next step: an operator restores the session's directory, or start a new session.";
    Refused { code: "workspace_gone".to_owned(), message: message.to_owned() }
}

fn flooded() -> Refused {
    let message = "the session has more open tool uses than the worker can hold. Next step: start a new session.";
    Refused { code: "limit_session_events".to_owned(), message: message.to_owned() }
}

fn no_place(error: &(dyn std::error::Error + 'static)) -> Refused {
    tracing::error!(error = chain(error), "a session has no place on this host");
    Refused {
        code: "worker_storage".to_owned(),
        message: "the worker cannot keep this session on its disk. Next step: an operator reads the worker's log, which has the cause.".to_owned(),
    }
}

fn no_journal(error: &JournalError) -> Refused {
    let JournalError::Full(why) = error else { return no_place(error) };
    Refused {
        code: "journal_full".to_owned(),
        message: format!("the worker's journal of this session has {why}. Next step: {JOURNAL_FULL}."),
    }
}

async fn stop<P>(shared: &Shared<P>, key: &Bearer, work: &str, refused: Option<&Refused>) {
    let error = refused.map(|refused| (refused.code.as_str(), refused.message.as_str()));
    for attempt in 0..STOPS {
        match shared.remote.stop(key, work, error).await {
            Ok(()) => return,
            Err(error) if error.is_fatal() || attempt + 1 == STOPS => {
                tracing::error!(work, error = chain(&error), "the item could not be stopped; its lease runs out");
                return;
            }
            Err(error) => tokio::time::sleep(Backoff::default().delay(attempt, error.retry_after(), random())).await,
        }
    }
}

/// Sends heartbeats until the lease ends; whoever listens learns of that from the view. Each answered beat is remembered.
async fn keep(
    remote: Remote,
    key: Arc<Bearer>,
    work: String,
    heard: Option<String>,
    told: watch::Sender<LeaseView>,
    mut memory: Option<(Place, HeldLease)>,
) {
    let began = Instant::now();
    let mut lease = heard.map_or_else(|| Lease::new(began.elapsed()), |last| Lease::resumed(last, began.elapsed()));
    loop {
        let beat = remote.heartbeat(&key, &work, lease.expected(), lease.patience()).await;
        let answered = matches!(beat, Beat::Answer { .. });
        let heard = lease.heard(beat, began.elapsed());
        if let (true, Some((place, held))) = (answered, &mut memory) {
            lease.expected().clone_into(&mut held.last_heartbeat);
            if let Err(error) = place.remember(held) {
                tracing::warn!(work, %error, "the lease is not remembered; after a restart the item waits for its lease to run out");
            }
        }
        told.send_modify(|view| {
            view.send_window = lease.send_window();
            view.confirmed |= answered;
            view.end = heard.err();
        });
        match heard {
            Ok(wait) => tokio::time::sleep(wait).await,
            Err(end) => {
                tracing::info!(work, ?end, "the lease ended");
                return;
            }
        }
    }
}

/// The perimeter's hands, or the perimeter's refusal as an answer to every tool use.
enum ItemHands<H> {
    Real(H),
    Refusing(Refused),
}

impl<H: Hands> Hands for ItemHands<H> {
    async fn run(&mut self, call: &ToolCall, ready: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        match self {
            Self::Real(hands) => hands.run(call, ready).await,
            Self::Refusing(refused) => {
                if let Err(outcome) = ready.await {
                    return outcome;
                }
                Outcome::failed(format!("[postern] not run reason={} next={}", refused.code, refused.message))
            }
        }
    }

    async fn passes(&mut self, passage: Passage) -> Result<(), String> {
        match self {
            Self::Real(hands) => hands.passes(passage).await,
            Self::Refusing(refused) => Err(refused.message.clone()),
        }
    }

    fn withheld(&self, resource: &str) -> Option<&str> {
        match self {
            Self::Real(hands) => hands.withheld(resource),
            Self::Refusing(_) => None,
        }
    }

    async fn close(self) {
        match self {
            Self::Real(hands) => hands.close().await,
            Self::Refusing(_) => {}
        }
    }
}

/// The sessions being served: a second item for one waits for the first to be taken down.
#[derive(Default)]
pub(crate) struct Serving(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

/// A session is this item's alone.
type Turn = tokio::sync::OwnedMutexGuard<()>;

impl Serving {
    pub(crate) async fn turn(&self, session: &str) -> Turn {
        let turn = {
            let mut sessions = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            sessions.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(sessions.entry(session.to_owned()).or_default())
        };
        turn.lock_owned().await
    }
}

const STOPS: u32 = 5;

#[cfg(test)]
mod tests;
