//! Sandboxes: how they are built, in ordered steps, by a process that starts before any secret is opened; how model-chosen code is started in them;
//! and how the worker asks for them. Never reaches custody or egress, never holds a secret, and opens no socket that leaves the machine.
//!
//! [`Spawner`] is the worker's handle, [`spawner_main`] the process behind it, [`command`] what the tool server inside starts commands with.

pub mod attempt;
mod builder;
mod cgroup;
mod check;
mod client;
mod clocks;
pub mod command;
mod contents;
mod control;
mod danger;
mod domain;
mod environment;
mod error;
mod etc;
mod image;
mod inside;
mod mounts;
mod netlink;
mod nobody;
mod pause;
mod reaper;
pub mod refused;
mod request;
mod sandbox;
mod seccomp;
mod sensitive;
mod spawner;
mod spec;
mod stub;
mod sys;
mod system;
mod user_map;
mod watchdog;
mod wire;
pub mod workspace;

pub use check::check;
pub use client::{Spawner, SpawnerGone, StartError};
pub use control::{Control, ControlStatus, State};
pub use error::BuildError;
pub use sandbox::{DNS_PORT, Ending, Exit, Limit, Network, PROXY_PORT, REDIRECT_PORT, REFUSED_GROUP, Sandbox};
pub use seccomp::spawner_calls;
pub use spawner::spawner_main;
pub use spec::{
    AGENT_UID, Access, GIVEN, LOWEST_KERNEL_UID, MemoryDirectory, Mount, OUTPUTS, Root, Settings, Spec, Trust,
};

/// The name under which the binary's first line of `main` must run the tool server: `argv[0]` of process 1 inside.
pub const TOOLS_NAME: &str = "postern-tools";

/// What a tool server exits with that was given no channel.
pub const NO_CHANNEL: u8 = 2;

/// The descriptor of the tool channel in process 1.
pub const TOOLS_DESCRIPTOR: i32 = 3;

/// The descriptor on which the image finds the spawner's channel.
pub(crate) const SPAWNER_DESCRIPTOR: i32 = TOOLS_DESCRIPTOR + 1;

/// In the image: builds the sandbox around this process, as the spawner orders, and returns the tool channel when it is process 1 of a session. Blocks
/// until there is one; ends the process when there will be none. None at a second call, and in a process that no spawner started.
pub fn tool_channel() -> Option<std::os::fd::OwnedFd> {
    sys::take_inherited(SPAWNER_DESCRIPTOR).map(inside::first_process)
}

/// Has the kernel refuse whoever sends descriptors to this end of a tool channel: the last close of a socket that comes from a sandbox may wait for as long as
/// its sender likes, in whichever thread receives it or closes the channel.
///
/// # Errors
/// The kernel's, where it cannot (before Linux 6.16).
pub fn refuse_descriptors(channel: std::os::fd::BorrowedFd<'_>) -> std::io::Result<()> {
    Ok(sys::refuse_descriptors(channel)?)
}

/// For a tool server that has nothing to do: gives back what memory it can do without. The next call is a little slower.
pub fn rest() {
    // What is not given back is only kept.
    let _kept = sys::let_go_of_code();
}
