//! How the connections stand, told to the gateway at each change.

use std::sync::Arc;

use postern_tunnel::handover::{ConnectionStatus, ConnectorStatus, FromConnector};
use postern_tunnel::wire::Lane;
use tokio::sync::Mutex;

use crate::failure::Failure;
use crate::gateway::Gateway;

/// What all connections share to say how they stand.
#[derive(Clone)]
pub(crate) struct Board {
    status: Arc<Mutex<ConnectorStatus>>,
    gateway: Gateway,
}

impl Board {
    pub(crate) fn new(lanes: &[Lane], gateway: Gateway) -> Self {
        let standing = |lane: &Lane| ConnectionStatus { lane: *lane, connected: false, failures: 0, last_error: None };
        let status = ConnectorStatus { connections: lanes.iter().map(standing).collect() };
        Self { status: Arc::new(Mutex::new(status)), gateway }
    }

    /// The place of one connection.
    pub(crate) fn place(&self, index: usize) -> Place {
        Place { index, board: self.clone() }
    }

    async fn change(&self, index: usize, how: impl FnOnce(&mut ConnectionStatus)) {
        // Held until it is said: what is said last is how they stand.
        let mut status = self.status.lock().await;
        if let Some(one) = status.connections.get_mut(index) {
            how(one);
        }
        // A gateway that is gone ends this process; nobody is left to tell.
        let _gone = self.gateway.tell(FromConnector::Status(status.clone())).await;
    }
}

/// Where one connection says how it stands.
#[derive(Clone)]
pub(crate) struct Place {
    index: usize,
    board: Board,
}

impl Place {
    /// It stands: the edge sends streams.
    pub(crate) async fn connected(&self) {
        let stands = |one: &mut ConnectionStatus| {
            one.connected = true;
            one.failures = 0;
        };
        self.board.change(self.index, stands).await;
    }

    /// It does not, after so many failures in a row.
    pub(crate) async fn failed(&self, failures: u32, failure: &Failure) {
        let error = failure.outward();
        let fails = |one: &mut ConnectionStatus| {
            one.connected = false;
            one.failures = failures;
            one.last_error = Some(error);
        };
        self.board.change(self.index, fails).await;
    }
}

#[cfg(test)]
mod tests {
    use postern_exec::asynchronous::Channel;
    use postern_tunnel::handover::MESSAGE_BYTES;

    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn of_connections_that_stand_at_once_the_last_word_names_all() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut peer = Channel::new(theirs).unwrap();
        let (gateway, writing) = Gateway::new(ours.split().0);
        let writing = tokio::spawn(writing);
        for _ in 0..2_000 {
            let board = Board::new(&[Lane::Interactive, Lane::Bulk], gateway.clone());
            let both = [0, 1].map(|index| {
                let place = board.place(index);
                tokio::spawn(async move { place.connected().await })
            });
            let mut last = ConnectorStatus::default();
            for _ in 0..both.len() {
                let (said, _) = peer.receive::<FromConnector>(MESSAGE_BYTES).await.unwrap().unwrap();
                let FromConnector::Status(status) = said else { panic!("{said:?}") };
                last = status;
            }
            assert!(last.is_connected(), "{last:?}");
        }
        drop(gateway);
        writing.abort();
    }
}
