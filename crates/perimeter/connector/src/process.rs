//! The connector process from start to end: says whether it can dial, keeps its connections, ends with the gateway or after a drain.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use postern_exec::asynchronous::{Channel, Receiver};
use postern_exec::{ChannelError, role::First};
use postern_net::{Dialer, Drain, Drained};
use postern_policy::{ConfiguredPermit, Endpoint};
use postern_tunnel::handover::{Configuration, FromConnector, MESSAGE_BYTES, ToConnector};

use crate::gateway::Gateway;
use crate::keep::Kept;
use crate::plan;
use crate::status::Board;

/// Runs the connector role: its first message is `postern_tunnel::handover::Configuration`. `configured` makes permits for the endpoints that
/// the configuration names; `bin` passes `postern_policy::configured`, which nobody else may call. Ends with 0 when the gateway's channel
/// closes or a drain is done.
pub async fn process_main(first: First<Configuration>, configured: fn(&Endpoint) -> ConfiguredPermit) -> ExitCode {
    match first.into_parts() {
        Ok((configuration, _, channel)) => serve(configuration, channel, configured).await,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the connector has no configuration");
            ExitCode::from(2)
        }
    }
}

/// The role with its configuration and channel in hand. Dropping this future ends every connection.
pub async fn serve(
    configuration: Configuration,
    mut channel: Channel,
    configured: fn(&Endpoint) -> ConfiguredPermit,
) -> ExitCode {
    let patience = Duration::from_secs(configuration.drain_seconds);
    let read = plan::read(configuration, configured);
    let problems = read.as_ref().err().cloned().unwrap_or_default();
    if let Err(error) = channel.send(&FromConnector::Ready { problems }, &[]).await {
        tracing::error!(%error, "the gateway does not hear the connector");
        return ExitCode::from(3);
    }
    let Ok((plan, lanes)) = read else { return ExitCode::from(2) };
    let (sender, mut receiver) = channel.split();
    let (gateway, writing) = Gateway::new(sender);
    let drain = Drain::new();
    let (plan, board) = (Arc::new(plan), Board::new(&lanes, gateway.clone()));
    // Aborted when this future ends, however it ends.
    let mut keeping = tokio::task::JoinSet::new();
    for (index, lane) in lanes.into_iter().enumerate() {
        let (plan, dialer, gateway) = (Arc::clone(&plan), Dialer::new(), gateway.clone());
        let kept = Kept { lane, plan, dialer, gateway, place: board.place(index), drain: drain.clone() };
        keeping.spawn(kept.keep());
    }
    let mut writing = std::pin::pin!(writing);
    let asked = tokio::select! {
        ended = &mut writing => ended.map(|()| None),
        asked = next(&mut receiver) => asked,
    };
    match asked {
        Ok(Some(ToConnector::Drain)) => {
            let ended = tokio::select! {
                ended = end(&drain, keeping, patience) => ended,
                _ = &mut writing => Drained::Late(0),
                _ = next(&mut receiver) => Drained::Late(0),
            };
            tracing::info!(?ended, "the connector is drained");
            ExitCode::SUCCESS
        }
        Ok(None) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the gateway's channel failed");
            ExitCode::from(3)
        }
    }
}

async fn end(drain: &Drain, keeping: tokio::task::JoinSet<()>, patience: Duration) -> Drained {
    drain.start();
    let in_order = async {
        keeping.join_all().await;
        drain.finish(patience).await
    };
    tokio::time::timeout(patience, in_order).await.unwrap_or(Drained::Late(1))
}

async fn next(receiver: &mut Receiver) -> Result<Option<ToConnector>, ChannelError> {
    Ok(receiver.receive::<ToConnector>(MESSAGE_BYTES).await?.map(|(message, _)| message))
}
