//! The connector: dials the edge, carries tunnel streams to the gateway. Holds the tunnel token, sees ciphertext.
//! It listens on nothing, ends no inner TLS and knows no route.

use std::process::ExitCode;

use postern_policy::{ConfiguredPermit, Endpoint};

/// The name under which the gateway starts this process.
pub const ROLE: &str = "connector";

/// Runs the connector role: its configuration is `postern_tunnel::handover::Configuration`. `configured` makes permits for the endpoints that
/// the configuration names; `bin` passes `postern_policy::configured`, which nobody else may call. Ends with 0 when the gateway's channel
/// closes or a drain is done.
pub async fn process_main(configured: fn(&Endpoint) -> ConfiguredPermit) -> ExitCode {
    let _ = configured;
    ExitCode::from(2)
}
