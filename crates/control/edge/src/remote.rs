//! The server's side of an edge that is a process of its own, and of its successor when that ends: whatever edge comes is told all there is. What an edge
//! says is a stranger's word: it parses strangers' bytes.

use std::collections::HashMap;
use std::io;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_exec::ChannelError;
use postern_exec::asynchronous::Channel;
use postern_exec::rpc::{CallError, Caller};
use postern_tunnel::carry::{Carry, CarryError, Opening, Stream};
use postern_tunnel::wire::{self, Lane};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::carrier::{Carrier, Connections, Doing};
use crate::cut::Cut;
use crate::directory::{Directory, TunnelEntry};
use crate::edge::Settings;
use crate::limits::{self, RECENT};
use crate::message::{Answer, Ask, Opened};
use crate::status::{ErrorNote, Notes, Numbered, TunnelStatus};

/// The edge of a server, while there is one. `Clone` gives another handle to the same.
#[derive(Clone)]
pub struct Remote {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Directory,
    settings: Settings,
    current: Mutex<Option<Arc<Attended>>>,
    /// One change after the other: what an edge is told never goes back to an older state.
    order: tokio::sync::Mutex<()>,
    /// When the last edge was lost, or this began.
    lost: Mutex<Instant>,
    came: Notify,
    notes: Notes,
}

/// One edge, from its coming to its end.
struct Attended {
    caller: Caller<Ask, Answer>,
    /// Ends all that it carries, and whoever attends to it.
    cut: CancellationToken,
    /// Ends what it carries for one tunnel.
    tunnels: Mutex<HashMap<String, CancellationToken>>,
    /// The last of its notes that is kept here.
    seen: Mutex<u64>,
}

/// Why an edge is worked with no longer, or opened no stream.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("it does not answer")]
    Call(#[from] CallError),
    #[error("its word about a stream did not come")]
    Word(#[from] ChannelError),
    #[error("it closed a stream without a word")]
    Silent,
    #[error("it answered what was not asked")]
    Misspoken,
    #[error("make a stream's socket")]
    Socket(#[from] io::Error),
}

impl Remote {
    /// Without an edge yet; [`Remote::attend`] brings one.
    #[must_use]
    pub fn new(settings: Settings) -> Self {
        let inner = Inner {
            directory: Directory::new(),
            settings,
            current: Mutex::default(),
            order: tokio::sync::Mutex::default(),
            lost: Mutex::new(Instant::now()),
            came: Notify::new(),
            notes: Notes::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Works with the edge at the other end of this channel until it is gone, does not answer, or did not take a change. Dropping this future ends all that
    /// it carries.
    pub async fn attend(&self, channel: Channel) {
        let attended = Arc::new(Attended {
            caller: Caller::new(channel, limits::MESSAGE_BYTES).with_deadline(limits::ANSWER),
            cut: CancellationToken::new(),
            tunnels: Mutex::default(),
            seen: Mutex::default(),
        });
        let _cut = attended.cut.clone().drop_guard();
        let lost = match self.introduce(&attended).await {
            Ok(()) => tokio::select! {
                () = attended.cut.cancelled() => None,
                lost = self.listen(&attended) => Some(lost),
            },
            Err(lost) => Some(lost),
        };
        if let Some(lost) = lost {
            tracing::warn!(error = &lost as &dyn std::error::Error, "the edge is gone; connectors dial its successor");
        }
        self.leave(&attended);
    }

    /// Works with the current edge no longer.
    pub fn let_go(&self) {
        if let Some(attended) = self.current() {
            attended.cut.cancel();
        }
    }

    /// Tells an edge all there is, and takes it for the current one.
    async fn introduce(&self, attended: &Arc<Attended>) -> Result<(), Lost> {
        let _order = self.inner.order.lock().await;
        let mut entries = self.inner.directory.all();
        while !entries.is_empty() {
            let some = entries.split_off(entries.len().saturating_sub(limits::TUNNELS_TOLD));
            attended.change(Ask::Put(some.into_iter().map(Into::into).collect())).await?;
        }
        attended.change(Ask::Begin(self.inner.settings.identity_keys.clone())).await?;
        *self.current_slot() = Some(Arc::clone(attended));
        self.inner.came.notify_waiters();
        Ok(())
    }

    /// Keeps what the edge says went wrong, for as long as it says anything.
    async fn listen(&self, attended: &Attended) -> Lost {
        let caller = attended.caller.clone().with_deadline(limits::NOTES_EVERY + limits::ANSWER);
        loop {
            let since = *lock(&attended.seen);
            match caller.call(Ask::Notes { since }).await {
                Ok(Answer::Notes(notes)) => self.keep(attended, notes),
                Ok(_) => return Lost::Misspoken,
                Err(error) => return error.into(),
            }
            tokio::time::sleep(limits::NOTES_PAUSE).await;
        }
    }

    fn leave(&self, attended: &Arc<Attended>) {
        let mut current = self.current_slot();
        if current.as_ref().is_some_and(|current| Arc::ptr_eq(current, attended)) {
            *current = None;
            *lock(&self.inner.lost) = Instant::now();
        }
        drop(current);
        for tunnel in lock(&attended.tunnels).keys() {
            self.inner.notes.add(
                tunnel,
                "edge_lost",
                "the edge ended, and what it carried with it; it is started again",
            );
        }
    }

    fn keep(&self, attended: &Attended, notes: Vec<Numbered>) {
        let mut seen = lock(&attended.seen);
        for Numbered { number, tunnel, note } in notes {
            if number > *seen && self.inner.directory.by_id(&tunnel).is_some() {
                let ErrorNote { at, code, message } = note;
                self.inner.notes.keep(&tunnel, ErrorNote { at, code: short(&code), message: short(&message) });
            }
            *seen = number.max(*seen);
        }
    }

    async fn tell(self, tunnel: String, connections: Connections) {
        let _order = self.inner.order.lock().await;
        // A successor is told all.
        let (Some(attended), Some(entry)) = (self.current(), self.inner.directory.by_id(&tunnel)) else { return };
        let told = async {
            attended.change(Ask::Put(vec![entry.into()])).await?;
            match connections {
                Connections::Stay => Ok(()),
                Connections::End => attended.change(Ask::Sever(tunnel.clone())).await,
            }
        };
        if let Err(lost) = told.await {
            tracing::error!(
                error = &lost as &dyn std::error::Error,
                tunnel,
                "the edge did not take a change and is given up"
            );
            attended.cut.cancel();
        }
        if connections == Connections::End {
            attended.end(&tunnel);
        }
    }

    async fn open_stream(&self, host: &str, lane: Lane) -> Result<Stream, CarryError> {
        let (entry, _route) = self.inner.directory.by_host(host).ok_or(CarryError::UnknownHost)?;
        let give_up = Instant::now() + self.inner.settings.limits.reconnect;
        loop {
            let mut came = pin!(self.inner.came.notified());
            came.as_mut().enable();
            if let Some(attended) = self.current() {
                match attended.open(&entry.id, host, lane).await {
                    Ok(opened) => return opened,
                    Err(lost) => {
                        tracing::debug!(error = &lost as &dyn std::error::Error, host, "no stream of this edge")
                    }
                }
            }
            // Nothing was sent: an edge that is just being started again may still carry it.
            let recent = lock(&self.inner.lost).elapsed() < RECENT || self.current().is_some();
            if !recent || timeout_at(give_up, came).await.is_err() {
                let error = CarryError::Offline { tunnel: entry.id.clone() };
                self.inner.notes.add(&entry.id, error.code(), "there is no edge that could carry a stream");
                return Err(error);
            }
        }
    }

    async fn status_of(&self, tunnel: &str) -> TunnelStatus {
        let mut connections = Vec::new();
        if let Some(attended) = self.current() {
            let since = *lock(&attended.seen);
            let caller = attended.caller.clone().with_deadline(limits::STATUS);
            if let Ok(Answer::Status(stand, notes)) =
                caller.call(Ask::Status { tunnel: tunnel.to_owned(), since }).await
            {
                self.keep(&attended, notes);
                connections = stand;
                connections.truncate(self.inner.settings.limits.connections_per_tunnel);
            }
        }
        TunnelStatus { connections, last_errors: self.inner.notes.of(tunnel) }
    }

    fn current(&self) -> Option<Arc<Attended>> {
        self.current_slot().clone()
    }

    fn current_slot(&self) -> MutexGuard<'_, Option<Arc<Attended>>> {
        lock(&self.inner.current)
    }
}

impl Carrier for Remote {
    fn directory(&self) -> &Directory {
        &self.inner.directory
    }

    fn fill(&self, entries: Vec<TunnelEntry>) -> Doing<'_, ()> {
        self.inner.directory.replace_all(entries);
        // Its successor knows these alone.
        self.let_go();
        Box::pin(std::future::ready(()))
    }

    fn put(&self, entry: TunnelEntry, connections: Connections) -> Doing<'_, ()> {
        let tunnel = entry.id.clone();
        self.inner.directory.put(entry);
        if let (Some(attended), Connections::End) = (self.current(), connections) {
            attended.end(&tunnel);
        }
        // In a task of its own: whoever asked for the change may give up on it, and the edge hears of it all the same.
        let told = tokio::spawn(self.clone().tell(tunnel, connections));
        Box::pin(async move { drop(told.await) })
    }

    fn status<'a>(&'a self, tunnel: &'a str) -> Doing<'a, TunnelStatus> {
        Box::pin(self.status_of(tunnel))
    }
}

impl Carry for Remote {
    fn open<'a>(&'a self, host: &'a str, lane: Lane) -> Opening<'a> {
        Box::pin(self.open_stream(host, lane))
    }
}

impl Attended {
    async fn change(&self, ask: Ask) -> Result<(), Lost> {
        match self.caller.call(ask).await? {
            Answer::Done => Ok(()),
            Answer::Notes(_) | Answer::Status(..) => Err(Lost::Misspoken),
        }
    }

    /// Has the edge open a stream over a socket of its own: as long as that takes, no other question waits for it.
    async fn open(&self, tunnel: &str, host: &str, lane: Lane) -> Result<Result<Stream, CarryError>, Lost> {
        let cut = self.cut_of(tunnel);
        let (mut ours, theirs) = Channel::pair()?;
        self.caller.call_with_fds(Ask::Open { host: host.to_owned(), lane }, vec![theirs]).await?;
        let word = match timeout(limits::OPENED, ours.receive::<Opened>(limits::WORD_BYTES)).await {
            Ok(word) => word?.ok_or(Lost::Silent)?.0,
            Err(_) => return Ok(Err(CarryError::Slow)),
        };
        if let Err(error) = word {
            return Ok(Err(checked(error, tunnel)));
        }
        let socket = UnixStream::from_std(ours.into_socket()?.into())?;
        Ok(Ok(Box::new(Cut::new(socket, cut))))
    }

    fn cut_of(&self, tunnel: &str) -> CancellationToken {
        lock(&self.tunnels).entry(tunnel.to_owned()).or_insert_with(|| self.cut.child_token()).clone()
    }

    /// Ends what the server still holds of this tunnel's streams, whatever the edge does.
    fn end(&self, tunnel: &str) {
        if let Some(cut) = lock(&self.tunnels).remove(tunnel) {
            cut.cancel();
        }
    }
}

/// What an edge may say of a stream: a model reads it.
fn checked(error: CarryError, tunnel: &str) -> CarryError {
    match error {
        CarryError::Refused { reason } if !wire::is_reason(&reason) => {
            CarryError::Refused { reason: "unnamed".to_owned() }
        }
        CarryError::Offline { .. } => CarryError::Offline { tunnel: tunnel.to_owned() },
        other => other,
    }
}

/// A new text and not a cut one, which would keep the room that it had.
fn short(text: &str) -> String {
    text.chars().take(limits::NOTE_CHARACTERS).collect()
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
