//! Sandboxes: how they are built, in ordered steps, by a process that starts before any secret is opened; how model-chosen code is started in them;
//! and how the worker asks for them. Never reaches custody or egress, never holds a secret, and opens no socket that leaves the machine.
//!
//! [`Spawner`] is the worker's handle. [`spawner_main`] is the process behind it. [`command`] is used by the tool server inside.

mod client;
pub mod command;
mod control;
mod domain;
mod error;
mod reaper;
pub mod refused;
mod sandbox;
mod spec;
mod sys;
mod wire;
pub mod workspace;

pub use client::{Spawner, SpawnerGone, StartError};
pub use control::{Control, ControlStatus, State};
pub use error::BuildError;
pub use sandbox::{DNS_PORT, Ending, Exit, Network, PROXY_PORT, REDIRECT_PORT, REFUSED_GROUP, Sandbox};
pub use spec::{AGENT_UID, Access, LOWEST_KERNEL_UID, Mount, Settings, Spec};

/// The name under which the binary's first line of `main` must run the tool server: `argv[0]` of process 1 inside.
pub const TOOLS_NAME: &str = "postern-tools";

/// The descriptor of the tool channel in process 1.
pub const TOOLS_DESCRIPTOR: i32 = 3;
