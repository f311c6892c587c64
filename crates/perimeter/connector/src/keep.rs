//! Keeping one connection of a lane: dial, serve, and after a pause again, until the drain.

use std::sync::Arc;
use std::time::Instant;

use postern_net::{Dialer, Drain};
use postern_tunnel::handover::FromConnector;
use postern_tunnel::wire::Lane;

use crate::dial;
use crate::failure::Failure;
use crate::gateway::Gateway;
use crate::limits;
use crate::plan::{self, Plan};
use crate::serve;
use crate::status::Place;

/// One connection that should stand.
pub(crate) struct Kept {
    pub(crate) lane: Lane,
    pub(crate) plan: Arc<Plan>,
    pub(crate) dialer: Dialer,
    pub(crate) gateway: Gateway,
    pub(crate) place: Place,
    pub(crate) drain: Drain,
}

impl Kept {
    /// Keeps it until the drain starts; a connection that stands then ends with its last stream.
    pub(crate) async fn keep(self) {
        let mut failures = 0;
        while !self.drain.is_started() {
            let (stood, failure) = self.once().await;
            if self.drain.is_started() {
                return;
            }
            failures = if stood { 1 } else { failures + 1 };
            tracing::info!(lane = %self.lane, failures, error = &failure as &dyn std::error::Error, "no connection to the edge");
            self.place.failed(failures, &failure).await;
            let pause = failure.pause(failures, plan::random().unwrap_or_default());
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = self.drain.started() => return,
            }
        }
    }

    /// One connection from dial to end: whether it stood for a while, and why it does not any more.
    async fn once(&self) -> (bool, Failure) {
        let dialled = tokio::select! {
            dialled = dial::carrying(&self.plan, &self.dialer, self.lane) => dialled,
            () = self.drain.started() => return (false, Failure::Lost),
        };
        let carrying = match dialled {
            Ok(carrying) => carrying,
            Err(failure) => return (false, failure),
        };
        let since = Instant::now();
        let told = self.gateway.tell(FromConnector::Welcome(carrying.welcome.clone())).await;
        if told.is_err() {
            return (false, Failure::Lost);
        }
        tracing::info!(lane = %self.lane, "connected to the edge");
        let served =
            serve::connection(carrying, self.lane, self.gateway.clone(), self.place.clone(), self.drain.clone());
        let failure = served.await;
        (since.elapsed() >= limits::STOOD, failure)
    }
}
