//! What an operator may know of a tunnel's connections.

use std::collections::{HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use postern_tunnel::Lane;
use serde::Serialize;

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
#[derive(Debug, Clone, Serialize)]
pub struct ConnectionStatus {
    /// Unique in this process.
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
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ErrorNote {
    /// When.
    pub at: SystemTime,
    /// A stable word.
    pub code: String,
    /// A sentence. Nothing that a peer wrote is repeated in it.
    pub message: String,
}

/// The last errors of every tunnel, bounded.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    by_tunnel: Mutex<HashMap<String, VecDeque<ErrorNote>>>,
}

impl Notes {
    pub(crate) fn add(&self, tunnel: &str, code: &str, message: impl Into<String>) {
        let message = message.into();
        tracing::info!(tunnel, code, message, "tunnel connection");
        let mut notes = self.lock();
        if notes.len() >= limits::TUNNELS_REMEMBERED && !notes.contains_key(tunnel) {
            return;
        }
        let of_tunnel = notes.entry(tunnel.to_owned()).or_default();
        if of_tunnel.len() == limits::LAST_ERRORS {
            of_tunnel.pop_front();
        }
        of_tunnel.push_back(ErrorNote { at: SystemTime::now(), code: code.to_owned(), message });
    }

    pub(crate) fn of(&self, tunnel: &str) -> Vec<ErrorNote> {
        self.lock().get(tunnel).map(|notes| notes.iter().cloned().collect()).unwrap_or_default()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, VecDeque<ErrorNote>>> {
        self.by_tunnel.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
}
