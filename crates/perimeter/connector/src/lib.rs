//! The connector: dials the edge, carries tunnel streams to the gateway. Holds the tunnel token, sees ciphertext.
//! What it refuses it tells the gateway, which writes the log. It listens on nothing, ends no inner TLS and knows no route.

mod dial;
mod failure;
mod gateway;
mod keep;
mod limits;
mod plan;
mod process;
mod pump;
mod refusals;
mod serve;
mod status;

pub use process::{process_main, serve};

/// The name under which the gateway starts this process.
pub const ROLE: &str = "connector";
