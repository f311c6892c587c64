//! What every handler works with.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_engine::Engine;
use postern_engine::control::ControlHub;
use postern_model::{Problem, Timestamp};
use postern_store::blobs::Quota;
use postern_store::{Store, StoreError};

use crate::pollers::Pollers;
use crate::shares::{Lasting, Shares};
use crate::tunnels::TunnelService;

/// Bounds and times of the API. The defaults are the contract's; tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How long a work item's lease lasts without a heartbeat.
    pub lease_ttl: Duration,
    /// How long a worker counts as there after a poll: one with a free hand polls every second.
    pub worker_present: Duration,
    /// How often an idle stream gets a comment.
    pub ping_every: Duration,
    /// The largest request body, in bytes.
    pub body_bytes: usize,
    /// How long a client may take to send its body.
    pub body_time: Duration,
    /// How long a client may send nothing in the middle of an upload.
    pub upload_patience: Duration,
    /// How much may be stored of files and skills.
    pub storage: Quota,
    /// How much that holds a connection for long may be under way.
    pub lasting: Lasting,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            lease_ttl: Duration::from_secs(90),
            worker_present: Duration::from_secs(10),
            ping_every: Duration::from_secs(15),
            body_bytes: 32 * 1024 * 1024,
            body_time: Duration::from_secs(120),
            upload_patience: Duration::from_secs(60),
            storage: Quota { blob: 500_000_000, workspace: 20_000_000_000 },
            lasting: Lasting::default(),
        }
    }
}

/// The application; cheap to clone.
#[derive(Clone)]
pub struct App {
    pub(crate) engine: Engine,
    pub(crate) store: Store,
    pub(crate) limits: Limits,
    pub(crate) pollers: Arc<Pollers>,
    pub(crate) shares: Shares,
    pub(crate) control: ControlHub,
    pub(crate) tunnels: Option<Arc<TunnelService>>,
}

impl App {
    /// An application over an engine and its store.
    pub fn new(engine: Engine, store: Store, limits: Limits) -> Self {
        let control = ControlHub::default();
        control.keep_holds(store.clone());
        control.tell_by(engine.clone());
        Self {
            engine,
            store,
            limits,
            pollers: Arc::new(Pollers::new(limits.worker_present, Instant::now())),
            shares: Shares::new(limits.lasting),
            control,
            tunnels: None,
        }
    }

    /// The same with a hub of control streams that others use too.
    #[must_use]
    pub fn with_control(mut self, control: ControlHub) -> Self {
        control.keep_holds(self.store.clone());
        control.tell_by(self.engine.clone());
        self.control = control;
        self
    }

    /// The hub of control streams, to be drained at the end.
    pub fn control(&self) -> &ControlHub {
        &self.control
    }

    /// The wall's time, as microseconds: what the database keeps.
    pub(crate) fn now(&self) -> Timestamp {
        self.store.clock().wall()
    }
}

/// What a caller is told of a store's failure; the cause goes to the log.
pub(crate) fn problem(error: StoreError) -> Problem {
    match error {
        StoreError::Refused(problem) => problem,
        StoreError::Database(_)
        | StoreError::Migrate(_)
        | StoreError::Corrupt { .. }
        | StoreError::EventKeyMissing { .. }
        | StoreError::Unsealed { .. } => {
            let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            tracing::error!(%error, cause, "the database failed");
            Problem::internal()
        }
    }
}
