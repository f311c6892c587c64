//! The agent loop as a pure state machine: one input and the time go in, effects come out.
//!
//! A session's state is a fold over its event log and nothing else, so a process that dies is replaced by another that
//! reads the log. Knows no runtime, socket, database or clock: time, ids and chance are handed in.

mod accept;
mod advise;
mod backoff;
mod calls;
mod context;
mod conversation;
mod coordinate;
mod endings;
mod inline;
mod input;
mod judge;
mod limits;
mod machine;
mod marks;
mod mcp;
mod missing;
mod origin;
mod outcome;
mod overall;
mod previews;
mod response;
mod servers;
mod session;
mod settle;
mod sightings;
mod snapshot;
mod spending;
mod state;
mod thread;
mod tools;
mod web;
mod workflow;

#[cfg(test)]
mod tests;

pub use advise::MOST_QUESTIONS;
pub use backoff::Backoff;
pub use context::ContextLimits;
pub use conversation::{Conversation, Message, Role};
pub use coordinate::{MOST_THREADS, definitions as coordinator_tools};
pub use input::{
    Author, Chance, Consultation, Counsel, Deed, Effect, FailureKind, Input, Lacking, McpFailure, McpFailureKind,
    McpNews, ModelEvent, ModelFailure, Response, ResponseBlock, ServerTool, Stop,
};
pub use judge::Counsellor;
pub use limits::Limits;
pub use marks::is_said_again;
pub use mcp::McpTool;
pub use overall::Overall;
pub use session::Session;
pub use snapshot::{FOLD, Unfit};
pub use spending::{Prices, Spending};
pub use state::State;
pub use thread::Thread;
pub use tools::Permissions;
pub use web::{WebErrorCode, WebFailure, WebOrder};
pub use workflow::{MOST_RUNS, MOST_WORKING};

/// What a closed call is answered with when an interrupt ended its turn (contract 3.11).
pub const INTERRUPTED: &str = "Tool execution was interrupted before completion. Please retry.";

/// What a call of this server's own is answered with that was begun before the server died, or whose end nobody saw.
pub const OUTCOME_UNKNOWN: &str = "The outcome of this call is unknown: the server stopped while it ran. It may have taken \
                                   effect and was not run again. Check its effect before you call it again.";
