//! The gateway: ends the inner TLS, checks who calls and what for, attaches the upstream's credential and forwards to
//! private MCP servers. It opens no socket of its own accord (`postern_net` does, for a permit), reads no secret's source
//! (custody does, for a grant), sends nothing that is not on record, and returns nothing that is not scrubbed.

mod binding;
mod body;
mod catalogue;
mod config;
mod connector;
mod control;
mod custodian;
mod door;
#[doc(hidden)]
pub mod fuzzing;
mod gateway;
mod keyring;
mod leaf;
pub mod limits;
mod mark;
mod oauth;
mod orders;
mod patient;
mod phases;
mod pool;
mod process;
mod questions;
mod serve;
mod sessions;
mod strict;
#[cfg(test)]
mod tests;
mod troubles;
mod trust;

pub use config::{EdgeConfig, GatewayConfig, Order, Report};
pub use process::{Configured, gateway_main, prepare, process_main};

/// The name under which this process is started.
pub const ROLE: &str = "gateway";
