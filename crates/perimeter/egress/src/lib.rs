//! The egress proxy: a sandbox's only way out. Accepts what the sandbox's network redirects, identifies where it was
//! meant to go, intercepts TLS, decides by the zone, injects secrets where our placeholders stand, forwards, scrubs
//! the answer and records every decision before acting on it.
//!
//! It never opens a socket of its own accord (`postern_net` does, for a permit), never reads a secret's source
//! (custody does, for a grant) and never lets a placeholder or a secret pass where the zone does not name it.

pub mod authority;
pub mod client;
pub mod limits;
pub mod message;
pub mod names;
