//! The edge as a process of its own. It knows what the server tells it and nothing else: digests of tokens, domains, public keys. It dials nobody, and ends
//! when the server's side of its channel does.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use postern_exec::asynchronous::Channel;
use postern_exec::rpc::{self, ServeError};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::directory::Directory;
use crate::edge::{Edge, Settings};
use crate::limits;
use crate::message::{Answer, Ask};
use crate::pump;

/// Serves connectors on this listener for the server at the other end of the channel, once that has told all tunnels, until it closes.
///
/// # Errors
/// The channel failed otherwise than by its end.
pub async fn serve(channel: Channel, listener: TcpListener, tls: Arc<ServerConfig>) -> Result<(), ServeError> {
    let at_work = AtWork {
        edge: Edge::new(Directory::new(), Settings::default()),
        told: Arc::new(Notify::new()),
        streams: TaskTracker::new(),
    };
    let (edge, told) = (at_work.edge.clone(), Arc::clone(&at_work.told));
    let stop = CancellationToken::new();
    let _stopped = stop.clone().drop_guard();
    let serving = async {
        // An edge that knew no tunnel yet would turn every connector away.
        told.notified().await;
        edge.serve(listener, tls, stop).await;
    };
    let asked = rpc::serve(channel, limits::MESSAGE_BYTES, move |ask, descriptors| {
        let at_work = at_work.clone();
        async move { (at_work.answer(ask, descriptors).await, Vec::new()) }
    });
    tokio::select! {
        ended = asked => ended,
        () = serving => Ok(()),
    }
}

#[derive(Clone)]
struct AtWork {
    edge: Edge,
    told: Arc<Notify>,
    streams: TaskTracker,
}

impl AtWork {
    /// Changes are made before anything is waited for, so in the order of the questions.
    async fn answer(&self, ask: Ask, descriptors: Vec<OwnedFd>) -> Answer {
        match ask {
            Ask::Put(tunnels) => {
                tunnels.into_iter().for_each(|known| self.edge.directory().put(known.into()));
                Answer::Done
            }
            Ask::Begin(keys) => {
                self.edge.set_identity_keys(keys).await;
                self.told.notify_one();
                Answer::Done
            }
            Ask::Sever(tunnel) => {
                self.edge.sever(&tunnel);
                Answer::Done
            }
            Ask::Status { tunnel, since } => {
                Answer::Status(self.edge.status(&tunnel).connections, self.edge.notes().since(since))
            }
            Ask::Notes { since } => {
                let news = timeout(limits::NOTES_EVERY, self.edge.notes().news(since)).await;
                Answer::Notes(news.unwrap_or_default())
            }
            Ask::Open { host, lane } => {
                if let Some(socket) = descriptors.into_iter().next() {
                    self.streams.spawn(pump::carry(self.edge.clone(), host, lane, socket));
                }
                Answer::Done
            }
        }
    }
}
