//! `postern rehearsal`: the scripted model, and a private API beside it, as a process of its own for journeys.

use std::io::{Read, stdin};

use postern_testkit::private_api::PrivateApi;
use postern_testkit::rehearsal::{MODEL, Rehearsal};
use serde_json::json;

use crate::cli::RehearsalArguments;
use crate::failure::{Failure, Or};

/// Serves until it is killed.
///
/// # Errors
/// An address cannot be bound.
#[expect(clippy::print_stdout, reason = "the addresses are the command's result")]
pub(crate) async fn run(arguments: &RehearsalArguments) -> Result<(), Failure> {
    let rehearsal = Rehearsal::start(arguments.listen).await.or_misused("start the rehearsal model")?;
    let mut ready = json!({"url": rehearsal.url, "model": MODEL});
    let _api = match &arguments.private_api {
        Some(host) => {
            let api = private_api(host).await?;
            ready["private_api"] = json!({"address": api.address.to_string(), "ca_pem": api.ca_pem});
            Some(api)
        }
        None => None,
    };
    println!("{ready}");
    std::future::pending().await
}

async fn private_api(host: &str) -> Result<PrivateApi, Failure> {
    let mut token = String::new();
    stdin().read_to_string(&mut token).or_misused("read the token from standard input")?;
    PrivateApi::start(host, token.trim()).await.or_misused("start the private API")
}
