//! The control plane's processes under supervision: the server, and the edge beside it where there is one. The edge's end of their channel is handed to the
//! server; so it ends when the server does, and each that ends is started again.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::Duration;

use postern_exec::ChannelError;
use postern_exec::role::{Child, Running, Starter, Supervisor};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{FromServer, ServerConfiguration, ServerReady, ToServer};
use crate::edge;
use crate::failure::{Failure, Or, chain};

/// What the edge's process is started with: its configuration and its listening socket.
pub(crate) type EdgePart = (edge::Configuration, OwnedFd);

/// Server and edge while they run.
pub(crate) struct Plane {
    supervisor: Supervisor<ServerConfiguration>,
    server: Running,
    edge: Option<Edge>,
}

struct Edge {
    supervisor: Supervisor<edge::Configuration>,
    child: Child,
    /// Counts the edges: the server's word about one may come when there is another.
    number: u64,
}

/// What happened to one of them.
enum Event {
    ServerEnded(io::Result<ExitStatus>),
    EdgeEnded(io::Result<ExitStatus>),
    EdgeGivenUp(u64),
    ServerSilent,
}

impl Plane {
    /// Starts the server with its sockets, then the edge. Keys that this start issued are issued by no later one.
    ///
    /// # Errors
    /// Why one of them does not start.
    pub(crate) async fn start(
        exe: PathBuf,
        configuration: ServerConfiguration,
        sockets: Vec<OwnedFd>,
        edge: Option<EdgePart>,
    ) -> Result<(Self, ServerReady), Failure> {
        let starter = Starter::itself(exe);
        let mut supervisor = Supervisor::new("server", starter.clone(), configuration, sockets);
        let (server, ready) = supervisor.start::<Result<ServerReady, String>>().await.or_misused("start the server")?;
        let ready = ready.map_err(Failure::Misused)?;
        supervisor.configuration().new_keys = false;
        supervisor.configuration().new_environment_key = false;
        let mut plane = Self { supervisor, server, edge: None };
        if let Some((configuration, socket)) = edge {
            let mut supervisor = Supervisor::new("edge", starter, configuration, vec![socket]);
            let (edge, said) = supervisor.start::<Result<(), String>>().await.or_misused("start the edge")?;
            said.map_err(Failure::Misused)?;
            let child = hand(&mut plane.server, edge, FIRST).await.or_misused("hand the edge to the server")?;
            plane.edge = Some(Edge { supervisor, child, number: FIRST });
        }
        Ok((plane, ready))
    }

    /// Starts again what ends. Does not return; a start that is cut short is made again by the next call: what was started ends with its channel.
    pub(crate) async fn keep(&mut self) {
        loop {
            match self.event().await {
                Event::ServerEnded(status) => {
                    tracing::error!(role = "server", ?status, "a role ended and is started again");
                    self.start_both().await;
                }
                Event::EdgeEnded(status) => {
                    tracing::error!(role = "edge", ?status, "a role ended and is started again");
                    let Self { server, edge, .. } = &mut *self;
                    if let Some(edge) = edge {
                        // One that does not start holds up no server; its end is told again.
                        tokio::select! {
                            running = started::<_, Result<(), String>>(&mut edge.supervisor) => {
                                edge.give(server, running).await;
                            }
                            _ = server.child.wait() => (),
                            () = tokio::time::sleep(EDGE_STANDS) => (),
                        }
                    }
                }
                Event::EdgeGivenUp(number) => {
                    if let Some(edge) = self.edge.as_mut().filter(|edge| edge.number == number) {
                        // At once: waiting could be cut short, and nobody says it again. Its end is the next event.
                        let _ended_already = edge.child.kill();
                    }
                }
                // It is ending; that is the next event.
                Event::ServerSilent => drop(self.server.child.wait().await),
            }
        }
    }

    /// Ends the server, and the edge with it.
    ///
    /// # Errors
    /// The system's.
    pub(crate) async fn stop(self) -> io::Result<()> {
        self.server.stop(SERVER_PATIENCE).await?;
        match self.edge {
            Some(mut edge) => edge.child.end(EDGE_PATIENCE).await.map(drop),
            None => Ok(()),
        }
    }

    async fn event(&mut self) -> Event {
        let edge = async {
            match &mut self.edge {
                Some(edge) => edge.child.wait().await,
                None => std::future::pending().await,
            }
        };
        let Running { child, channel } = &mut self.server;
        tokio::select! {
            // The edge ends with the server.
            biased;
            status = child.wait() => Event::ServerEnded(status),
            status = edge => Event::EdgeEnded(status),
            said = channel.receive::<FromServer>(MESSAGE_BYTES) => match said {
                Ok(Some((FromServer::EdgeGone(number), _))) => Event::EdgeGivenUp(number),
                Ok(None) | Err(_) => Event::ServerSilent,
            },
        }
    }

    async fn start_both(&mut self) {
        let Self { supervisor, server, edge } = self;
        // Kept as soon as it stands: what cuts this short afterwards ends no server that serves.
        let stands = async { *server = started::<_, Result<ServerReady, String>>(supervisor).await };
        let Some(edge) = edge else { return stands.await };
        let successor = async {
            let _ended = edge.child.end(EDGE_PATIENCE).await;
            started::<_, Result<(), String>>(&mut edge.supervisor).await
        };
        let (running, ()) = tokio::join!(tokio::time::timeout(EDGE_STANDS, successor), stands);
        // Without one, the former edge's end is told again.
        if let Ok(running) = running {
            edge.give(server, running).await;
        }
    }
}

impl Edge {
    /// Hands a new edge to the server. One that is not taken ends at once, and is started again for that.
    async fn give(&mut self, server: &mut Running, running: Running) {
        self.number += 1;
        match hand(server, running, self.number).await {
            Ok(child) => self.child = child,
            Err(error) => tracing::warn!(%error, "the server did not take its edge"),
        }
    }
}

/// Gives the edge's channel to the server.
async fn hand(server: &mut Running, edge: Running, number: u64) -> Result<Child, ChannelError> {
    let Running { child, channel } = edge;
    let socket = channel.into_socket()?;
    server.channel.send(&ToServer::Edge(number), &[socket.as_fd()]).await?;
    Ok(child)
}

/// Starts a role until it stands.
async fn started<C: Serialize, R: DeserializeOwned>(supervisor: &mut Supervisor<C>) -> Running {
    loop {
        match supervisor.start::<R>().await {
            Ok((running, _)) => return running,
            Err(cause) => tracing::error!(cause = chain("start", &cause), "a role does not start"),
        }
    }
}

const FIRST: u64 = 1;
const MESSAGE_BYTES: usize = 1024;
const SERVER_PATIENCE: Duration = Duration::from_secs(12);
/// How long an edge may take to end whose channel is closed: it has nothing to finish.
const EDGE_PATIENCE: Duration = Duration::from_secs(1);
/// How long an edge may take to say that it can serve.
const EDGE_STANDS: Duration = Duration::from_secs(10);
