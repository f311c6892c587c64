//! The connector: dials the edge, carries tunnel streams to the gateway. Holds the tunnel token, sees ciphertext.
//! It listens on nothing, ends no inner TLS and knows no route.

mod dial;
mod failure;
mod gateway;
mod keep;
mod limits;
mod plan;
mod process;
mod pump;
mod serve;
mod status;

pub use process::{process_main, serve};

/// The name under which the gateway starts this process.
pub const ROLE: &str = "connector";
