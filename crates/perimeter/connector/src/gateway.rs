//! The gateway as the connector sees it: it takes streams and hears how things stand. One task writes to it, so that nothing is cut short.

use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream as Blocking;

use postern_exec::ChannelError;
use postern_exec::asynchronous::Sender;
use postern_tunnel::handover::{FromConnector, Refusal};
use postern_tunnel::wire::{Lane, reason};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use crate::limits;

/// A handle to the gateway.
#[derive(Clone)]
pub(crate) struct Gateway {
    waiting: mpsc::Sender<Item>,
}

/// A message on its way, with a stream's end if there is one; who sent it wants to know that it went out.
struct Item {
    message: FromConnector,
    end: Option<OwnedFd>,
    sent: oneshot::Sender<()>,
}

impl Gateway {
    /// The handle, and the task that writes for it: it ends when all handles are gone, or with an error when the gateway is.
    pub(crate) fn new(sender: Sender) -> (Self, impl Future<Output = Result<(), ChannelError>> + Send) {
        let (waiting, items) = mpsc::channel(limits::WAITING);
        (Self { waiting }, write_all(sender, items))
    }

    /// Hands one end of a fresh socket pair over and keeps the other.
    ///
    /// # Errors
    /// The reason for the edge: the gateway is gone or too slow.
    pub(crate) async fn hand(&self, host: &str, lane: Lane) -> Result<UnixStream, &'static str> {
        let (ours, theirs) = pair().map_err(|error| {
            tracing::warn!(%error, "no socket pair for a stream");
            reason::GATEWAY_BUSY
        })?;
        let message = FromConnector::Stream { host: host.to_owned(), lane };
        timeout(limits::HAND_OVER, self.send(message, Some(theirs))).await.unwrap_or(Err(reason::GATEWAY_BUSY))?;
        Ok(ours)
    }

    /// Tells the gateway something; it is lost when the gateway is gone.
    pub(crate) async fn tell(&self, message: FromConnector) -> Result<(), &'static str> {
        self.send(message, None).await
    }

    /// Has a refusal written down. The gateway that is gone, or too slow, writes nothing: what was refused stays so.
    pub(crate) async fn refused(&self, refusal: Refusal, times: u64) {
        let told = timeout(limits::HAND_OVER, self.tell(FromConnector::Refused { refusal, times })).await;
        if !matches!(told, Ok(Ok(()))) {
            tracing::warn!(?refusal, times, "the gateway does not hear of a refusal");
        }
    }

    async fn send(&self, message: FromConnector, end: Option<OwnedFd>) -> Result<(), &'static str> {
        let (sent, went_out) = oneshot::channel();
        self.waiting.send(Item { message, end, sent }).await.map_err(|_| reason::GATEWAY_GONE)?;
        went_out.await.map_err(|_| reason::GATEWAY_GONE)
    }
}

/// Both ends do not block: the mode belongs to the socket, so the gateway gets it so.
fn pair() -> std::io::Result<(UnixStream, OwnedFd)> {
    let (ours, theirs) = Blocking::pair()?;
    ours.set_nonblocking(true)?;
    theirs.set_nonblocking(true)?;
    Ok((UnixStream::from_std(ours)?, theirs.into()))
}

async fn write_all(mut sender: Sender, mut items: mpsc::Receiver<Item>) -> Result<(), ChannelError> {
    while let Some(item) = items.recv().await {
        // Whoever sent it gave up: a stream that nobody waits for is not handed over.
        if item.sent.is_closed() {
            continue;
        }
        match &item.end {
            Some(end) => sender.send(&item.message, &[end.as_fd()]).await?,
            None => sender.send(&item.message, &[]).await?,
        }
        let _gave_up = item.sent.send(());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use postern_exec::asynchronous::Channel;
    use postern_tunnel::handover::{ConnectorStatus, MESSAGE_BYTES};

    use super::*;

    #[tokio::test]
    async fn a_gateway_that_is_gone_takes_no_stream() {
        let (ours, theirs) = Channel::pair().unwrap();
        drop(theirs);
        let (sender, _receiver) = ours.split();
        let (gateway, writing) = Gateway::new(sender);
        let (handed, written) = tokio::join!(gateway.hand("wiki.aaaa", Lane::Bulk), writing);
        assert_eq!(handed.err(), Some(reason::GATEWAY_GONE));
        assert!(written.is_err());
        assert_eq!(gateway.hand("wiki.aaaa", Lane::Bulk).await.err(), Some(reason::GATEWAY_GONE));
    }

    /// A gateway that takes nothing: what is written for it is not even begun.
    fn that_takes_nothing() -> (Gateway, impl Sized) {
        let (ours, theirs) = Channel::pair().unwrap();
        let (sender, receiver) = ours.split();
        let (gateway, writing) = Gateway::new(sender);
        (gateway, (writing, receiver, theirs))
    }

    #[tokio::test(start_paused = true)]
    async fn a_gateway_that_takes_no_stream_is_waited_for_five_seconds() {
        let (gateway, _held) = that_takes_nothing();
        let began = tokio::time::Instant::now();
        let patient = std::time::Duration::from_secs(3600);
        let handed = timeout(patient, gateway.hand("wiki.aaaa", Lane::Bulk)).await.expect("it is given up");
        assert_eq!(handed.err(), Some(reason::GATEWAY_BUSY));
        assert_eq!(began.elapsed().as_secs(), 5);
        timeout(patient, gateway.refused(Refusal::HostForeign, 1)).await.expect("it is given up");
        assert_eq!(began.elapsed().as_secs(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_messages_wait_for_the_gateway_and_no_more() {
        let (gateway, _held) = that_takes_nothing();
        let mut telling = tokio::task::JoinSet::new();
        let mut waiting = 0;
        while gateway.waiting.try_reserve().is_ok() && waiting < 1000 {
            let gateway = gateway.clone();
            telling.spawn(async move { gateway.tell(FromConnector::Status(ConnectorStatus::default())).await });
            tokio::task::yield_now().await;
            waiting += 1;
        }
        assert_eq!(waiting, 64);
        assert_eq!(gateway.hand("wiki.aaaa", Lane::Bulk).await.err(), Some(reason::GATEWAY_BUSY));
    }

    #[tokio::test]
    async fn a_stream_that_nobody_waits_for_is_not_handed_over() {
        let (ours, theirs) = Channel::pair().unwrap();
        let (gateway, writing) = Gateway::new(ours.split().0);
        let given_up = timeout(std::time::Duration::ZERO, gateway.hand("wiki.aaaa", Lane::Bulk)).await;
        assert!(given_up.is_err());
        let status = FromConnector::Status(ConnectorStatus::default());
        let mut peer = Channel::new(theirs).unwrap();
        let (told, heard) = tokio::select! {
            both = async { tokio::join!(gateway.tell(status), peer.receive::<FromConnector>(MESSAGE_BYTES)) } => both,
            _ = writing => panic!("writing goes on while there is a handle"),
        };
        told.unwrap();
        let (message, ends) = heard.unwrap().unwrap();
        assert!(matches!(message, FromConnector::Status(_)) && ends.is_empty());
    }
}
