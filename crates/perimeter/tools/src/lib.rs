//! The six tools of `agent_toolset_20260401` (bash, read, write, edit, glob, grep): the server that runs inside a sandbox and the worker's client for it.
//! The server holds no secret and never reaches custody or egress; the client treats everything the server says as hostile input.

mod arguments;
pub mod client;
mod deadline;
mod files;
#[doc(hidden)]
pub mod fuzzing;
mod glob;
mod grep;
mod paths;
mod pattern;
mod python;
mod relay;
pub mod server;
mod shell;
mod toolbox;
pub mod wire;

pub use client::{CallError, ToolClient};
pub use toolbox::Toolbox;
pub use wire::{Access, Block, CallTool, Configuration, Root, Source, ToolOutcome};

/// The names this toolset answers; any other tool use belongs to somebody else.
pub const TOOL_NAMES: [&str; 6] = ["bash", "read", "write", "edit", "glob", "grep"];

/// Whether a tool use of this name is ours to answer.
pub fn owns(name: &str) -> bool {
    TOOL_NAMES.contains(&name)
}
