//! What an operator may know of a tunnel's connections.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use postern_tunnel::Lane;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use crate::limits;

/// The connections of one tunnel, and what went wrong last.
#[derive(Debug, Clone, Default, Serialize)]
pub struct TunnelStatus {
    /// Live connections.
    pub connections: Vec<ConnectionStatus>,
    /// The newest last, a bounded number of them.
    pub last_errors: Vec<ErrorNote>,
}

/// One live connection.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ConnectionStatus {
    /// Unique in the edge's process.
    pub id: u64,
    /// The connector's own random id.
    pub connector: String,
    /// Its lane.
    pub lane: Lane,
    /// Since when.
    pub since: SystemTime,
    /// From where; behind a balancer, the balancer.
    pub peer: SocketAddr,
    /// Streams that are open now.
    pub open_streams: usize,
    /// Bytes carried both ways since it stands, ciphertext of the inner TLS.
    pub carried_bytes: u64,
}

/// Something that went wrong with a tunnel's connections.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorNote {
    /// When.
    pub at: SystemTime,
    /// A stable word.
    pub code: String,
    /// A sentence. Nothing that a peer wrote is repeated in it.
    pub message: String,
}

/// An error of a tunnel, counted among those of all.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Numbered {
    pub(crate) number: u64,
    pub(crate) tunnel: String,
    pub(crate) note: ErrorNote,
}

/// The last errors of every tunnel, bounded.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    kept: Mutex<Kept>,
    more: Notify,
}

#[derive(Debug, Default)]
struct Kept {
    by_tunnel: HashMap<String, VecDeque<ErrorNote>>,
    /// The newest of all, for whoever keeps them elsewhere.
    newest: VecDeque<Numbered>,
    last: u64,
}

impl Notes {
    /// Notes what went wrong now.
    pub(crate) fn add(&self, tunnel: &str, code: &str, message: impl Into<String>) {
        let message = message.into();
        tracing::info!(tunnel, code, message, "tunnel connection");
        self.keep(tunnel, ErrorNote { at: SystemTime::now(), code: code.to_owned(), message });
    }

    /// Keeps what was noted.
    pub(crate) fn keep(&self, tunnel: &str, note: ErrorNote) {
        let mut kept = self.lock();
        if kept.by_tunnel.len() >= limits::TUNNELS_REMEMBERED && !kept.by_tunnel.contains_key(tunnel) {
            return;
        }
        kept.last += 1;
        let numbered = Numbered { number: kept.last, tunnel: tunnel.to_owned(), note: note.clone() };
        push(&mut kept.newest, numbered, limits::NOTES_KEPT);
        push(kept.by_tunnel.entry(tunnel.to_owned()).or_default(), note, limits::LAST_ERRORS);
        drop(kept);
        self.more.notify_waiters();
    }

    pub(crate) fn of(&self, tunnel: &str) -> Vec<ErrorNote> {
        self.lock().by_tunnel.get(tunnel).map(|notes| notes.iter().cloned().collect()).unwrap_or_default()
    }

    /// What was noted after this number, the oldest first, as many as are told at once.
    pub(crate) fn since(&self, number: u64) -> Vec<Numbered> {
        let kept = self.lock();
        kept.newest.iter().filter(|note| note.number > number).take(limits::NOTES_TOLD).cloned().collect()
    }

    /// The same, once there is something.
    pub(crate) async fn news(&self, number: u64) -> Vec<Numbered> {
        loop {
            let mut more = pin!(self.more.notified());
            more.as_mut().enable();
            let found = self.since(number);
            if !found.is_empty() {
                return found;
            }
            more.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn push<T>(notes: &mut VecDeque<T>, note: T, most: usize) {
    if notes.len() == most {
        notes.pop_front();
    }
    notes.push_back(note);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_errors_are_remembered() {
        let notes = Notes::default();
        for number in 0..limits::LAST_ERRORS + 3 {
            notes.add("tnl_a", "code", format!("{number}"));
        }
        let kept = notes.of("tnl_a");
        assert_eq!(kept.len(), limits::LAST_ERRORS);
        assert_eq!(kept[0].message, "3");
        assert!(notes.of("tnl_b").is_empty());
    }

    #[test]
    fn errors_of_so_many_tunnels_are_remembered_and_of_none_besides() {
        let notes = Notes::default();
        for number in 0..4096 {
            notes.add(&format!("tnl_{number}"), "code", "what happened");
        }
        notes.add("tnl_late", "code", "what happened");
        notes.add("tnl_7", "code", "what happened again");
        assert!(notes.of("tnl_late").is_empty());
        assert_eq!((notes.of("tnl_0").len(), notes.of("tnl_7").len()), (1, 2));
    }

    #[tokio::test]
    async fn what_is_new_is_told_once_and_waited_for() {
        let notes = Notes::default();
        notes.add("tnl_a", "code", "one");
        let first = notes.news(0).await;
        assert_eq!(first.iter().map(|one| (one.number, one.note.message.as_str())).collect::<Vec<_>>(), [(1, "one")]);
        let (second, ()) = tokio::join!(notes.news(1), async { notes.add("tnl_b", "code", "two") });
        assert_eq!(second.iter().map(|one| (one.number, one.tunnel.as_str())).collect::<Vec<_>>(), [(2, "tnl_b")]);
    }

    #[test]
    fn so_many_notes_are_kept_for_the_server_and_told_at_once() {
        let notes = Notes::default();
        for number in 0..1024 + 3 {
            notes.add(&format!("tnl_{number}"), "code", "what happened");
        }
        let mut told = Vec::new();
        loop {
            let more = notes.since(told.last().copied().unwrap_or(0));
            assert!(more.len() <= 256);
            match more.is_empty() {
                true => break,
                false => told.extend(more.iter().map(|note| note.number)),
            }
        }
        assert_eq!((told.len(), told[0]), (1024, 4));
    }
}
