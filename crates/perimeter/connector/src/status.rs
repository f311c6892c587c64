//! How the connections stand, told to the gateway at each change.

use std::sync::{Arc, Mutex, PoisonError};

use postern_tunnel::handover::{ConnectionStatus, ConnectorStatus, FromConnector};
use postern_tunnel::wire::Lane;

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
        let status = {
            let mut status = self.status.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(one) = status.connections.get_mut(index) {
                how(one);
            }
            status.clone()
        };
        // A gateway that is gone ends this process; nobody is left to tell.
        let _gone = self.gateway.tell(FromConnector::Status(status)).await;
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
