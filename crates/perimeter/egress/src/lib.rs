//! The egress proxy: a sandbox's only way out. Accepts what the sandbox's network redirects, identifies where it was
//! meant to go, intercepts TLS, decides by the zone, injects secrets where our placeholders stand, forwards, scrubs
//! the answer and records every decision before acting on it.
//!
//! It never opens a socket of its own accord (`postern_net` does, for a permit), never reads a secret's source
//! (custody does, for a grant) and never lets a placeholder or a secret pass where the zone does not name it.

mod authority;
mod basic;
mod body;
mod classify;
pub mod client;
mod cookies;
mod custodian;
mod datagram;
mod dns;
#[doc(hidden)]
pub mod fuzzing;
mod halt;
mod heard;
mod hello;
mod identity;
mod kept;
pub mod limits;
pub mod message;
mod messages;
mod names;
mod parts;
mod phases;
mod pool;
mod prefixed;
mod process;
mod recent;
mod recognise;
mod refusals;
mod registry;
mod sender;
mod session;
#[cfg(test)]
mod tests;
mod trust;
mod websocket;

pub use process::process_main;

/// The name under which the worker starts this process.
pub const ROLE: &str = "egress";
