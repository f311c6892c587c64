//! `postern rehearsal`: the scripted model as a process of its own, for journeys and for trying things without a model.

use std::net::SocketAddr;

use postern_testkit::rehearsal::{MODEL, Rehearsal};
use serde_json::json;

use crate::failure::{Failure, Or};

/// Serves until it is killed.
///
/// # Errors
/// The address cannot be bound.
#[expect(clippy::print_stdout, reason = "the address is the command's result")]
pub(crate) async fn run(listen: SocketAddr) -> Result<(), Failure> {
    let rehearsal = Rehearsal::start(listen).await.or_misused("start the rehearsal model")?;
    println!("{}", json!({"url": rehearsal.url, "model": MODEL}));
    std::future::pending().await
}
