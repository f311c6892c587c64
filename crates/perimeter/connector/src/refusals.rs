//! What is refused on a connection to the edge reaches no gateway, so the gateway is told and writes it down: what we refuse, what the HTTP/2 library
//! refuses without a word, and what makes it end the connection. Keeps no record itself.

use std::error::Error as _;

use postern_net::resets::Seen;
use postern_tunnel::handover::Refusal;
use postern_tunnel::wire::reason;
use tokio::sync::watch;

use crate::gateway::Gateway;

/// Tells what the library refused, until the connection is gone. What comes while the gateway listens is told by its number.
pub(crate) async fn tell(mut seen: watch::Receiver<Seen>, gateway: Gateway) {
    let mut told = Seen::default();
    while seen.changed().await.is_ok() {
        let now = *seen.borrow_and_update();
        if now.malformed > told.malformed {
            gateway.refused(Refusal::Malformed, now.malformed - told.malformed).await;
        }
        if now.too_long.is_some() && told.too_long.is_none() {
            gateway.refused(Refusal::HeadTooLong, 1).await;
        }
        told = now;
    }
}

/// What a refusal of ours is to the gateway; a stream that comes at a bad moment was not refused for what it is.
pub(crate) fn of(reason: &str) -> Option<Refusal> {
    match reason {
        reason::REQUEST_MALFORMED => Some(Refusal::Malformed),
        reason::HOST_FOREIGN => Some(Refusal::HostForeign),
        _ => None,
    }
}

/// Why the library ended a connection, unless edge or network did.
pub(crate) fn ending(error: &hyper::Error) -> Option<Refusal> {
    let error = error.source()?.downcast_ref::<h2::Error>().filter(|error| !error.is_io() && !error.is_remote())?;
    match error.reason()? {
        h2::Reason::NO_ERROR => None,
        h2::Reason::ENHANCE_YOUR_CALM => Some(Refusal::TooMuch),
        _ => Some(Refusal::Malformed),
    }
}
