//! A perimeter that stands without a queue: the same processes, decisions and records as the worker's, for whoever opens sessions itself. `verify` does.
//! Speaks to no server and holds no key of one.

use std::io;
use std::sync::Arc;

use postern_exec::role::Starter;
use postern_model::control::CommandRefusal;
use postern_model::ids::SessionId;
use postern_sandbox::ControlStatus;
use postern_secret::seal::SealedVariable;

use crate::boundary::{Boundary, SandboxHands, Watch};
use crate::config::{Report, WorkerConfig};
use crate::control;
use crate::hands::{Hands, Outcome, Perimeter, Refused, SessionFacts, ToolCall};
use crate::kernel_users::KernelUsers;
use crate::perimeter::{self, Children, Started};
use crate::place::Places;

/// A perimeter that stands.
pub struct Standing {
    perimeter: Boundary,
    children: Children,
    controls: Vec<ControlStatus>,
    degraded: Vec<String>,
    places: Arc<Places>,
}

/// A session of it.
pub struct OpenSession(SandboxHands);

impl Standing {
    /// Starts the processes. Server and environment key of the configuration are not used.
    ///
    /// # Errors
    /// Every reason found, in words for the operator.
    pub async fn start(config: WorkerConfig) -> Result<Self, Vec<String>> {
        let users = KernelUsers::of_this_host().map_err(|error| vec![format!("no kernel users: {error}")])?;
        let places = Arc::new(Places::new(&config.data_dir).giving(users));
        // As the worker's: spawner and sandboxes are under the starter's filter and in its domain.
        let starter = Starter::beside(config.exe.clone()).map_err(|error| vec![format!("no starter: {error}")])?;
        let Started { perimeter, children, report, .. } = perimeter::start(config, &starter, places.clone()).await?;
        match report {
            Report::Ready { controls, degraded, .. } => Ok(Self { perimeter, children, controls, degraded, places }),
            Report::Refused { problems } => Err(problems),
            Report::Reloaded { .. } => Err(vec!["the perimeter spoke of a change before it stood".to_owned()]),
        }
    }

    /// What this machine and this user can do about each control of a sandbox.
    #[must_use]
    pub fn controls(&self) -> &[ControlStatus] {
        &self.controls
    }

    /// What protects less than it could.
    #[must_use]
    pub fn degraded(&self) -> &[String] {
        &self.degraded
    }

    /// Tells when a part of it is gone. What is asked of it from then on may never be answered: a worker ends then, and so does whoever else watches.
    #[must_use]
    pub fn watch(&self) -> Watch {
        self.perimeter.watch()
    }

    /// Brings what the vaults of a session have, sealed, as a work item would: for a session that is opened after it. Blocks.
    ///
    /// # Errors
    /// The session cannot name a directory, or the directory cannot be written.
    pub fn bring(&self, session: &str, variables: &[SealedVariable]) -> io::Result<()> {
        self.places.of(session).map_err(io::Error::other)?.keep_variables(variables)
    }

    /// Opens a session in the zone that covers it.
    ///
    /// # Errors
    /// Why the perimeter does not serve it.
    pub async fn open(&self, facts: SessionFacts) -> Result<OpenSession, Refused> {
        self.perimeter.open(facts).await.map(OpenSession)
    }

    /// Freezes a session, as the control plane's command does; in force when this returns.
    ///
    /// # Errors
    /// Why the perimeter did not obey.
    pub async fn freeze(&self, session: &SessionId) -> Result<(), CommandRefusal> {
        control::freeze(&self.perimeter.commands(), session).await
    }

    /// Lets it go on.
    ///
    /// # Errors
    /// Why the perimeter did not obey.
    pub async fn thaw(&self, session: &SessionId) -> Result<(), CommandRefusal> {
        control::thaw(&self.perimeter.commands(), session).await
    }

    /// Takes a session's grants back for good; in force when this returns.
    ///
    /// # Errors
    /// Why the perimeter did not obey.
    pub async fn revoke_grants(&self, session: &SessionId) -> Result<(), CommandRefusal> {
        control::revoke(&self.perimeter.commands(), session).await
    }

    /// Ends the processes, each awaited. Sessions are closed before.
    pub async fn end(self) {
        drop(self.perimeter);
        self.children.end().await;
    }
}

impl OpenSession {
    /// Runs one tool use to its end: decided, recorded, run, recorded.
    pub async fn call(&mut self, call: &ToolCall) -> Outcome {
        self.0.call(call).await
    }

    /// What holds for its sandbox; nothing while it has none.
    #[must_use]
    pub fn controls(&self) -> Option<&[ControlStatus]> {
        self.0.controls()
    }

    /// Ends everything of the session that runs; its workspace stays.
    pub async fn close(self) {
        self.0.close().await;
    }
}
