//! The rig's end of the control stream: the server's own hub, for one gateway. It is reached on loopback, and with the tunnel's token alone.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;

use http::header::{AUTHORIZATION, CONNECTION, UPGRADE};
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::Empty;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_engine::control::{CommandFailure, ControlHub, Owner, Seat, Target};
use postern_model::control::{CommandBody, PATH, PROTOCOL, Reply};
use postern_model::ids::{TunnelId, WorkspaceId};
use postern_secret::key::{KeyDigest, TunnelToken};
use postern_secret::seal::PerimeterPublicKey;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::failure::{Failure, Or};

/// The hub and whom it is for.
#[derive(Clone)]
pub(super) struct Control {
    hub: ControlHub,
    workspace: WorkspaceId,
    owner: Owner,
    digest: KeyDigest,
}

impl Control {
    /// Listens until `stop`.
    pub(super) async fn start(
        tunnel: &str,
        workspace: &str,
        digest: KeyDigest,
        stop: CancellationToken,
    ) -> Result<(Self, SocketAddr), Failure> {
        let control = Self {
            hub: ControlHub::default(),
            workspace: WorkspaceId::parse(workspace).or_misused("read the rig's workspace")?,
            owner: Owner::Tunnel(TunnelId::parse(tunnel).or_misused("read the tunnel's id")?),
            digest,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.or_misused("listen for the control stream")?;
        let address = listener.local_addr().or_misused("read the control stream's address")?;
        tokio::spawn(control.clone().serve(listener, stop));
        Ok((control, address))
    }

    async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        loop {
            let stream = tokio::select! {
                accepted = listener.accept() => accepted,
                () = stop.cancelled() => return,
            };
            let Ok((stream, _)) = stream else { continue };
            let (control, stop) = (self.clone(), stop.clone());
            tokio::spawn(async move {
                let service = service_fn(|request| {
                    let answer = control.answer(request, stop.clone());
                    async { Ok::<_, Infallible>(answer) }
                });
                let connection = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                if let Err(error) = connection.with_upgrades().await {
                    tracing::debug!(%error, "a connection for the control stream broke");
                }
            });
        }
    }

    fn answer(&self, mut request: Request<Incoming>, stop: CancellationToken) -> Response<Empty<Bytes>> {
        let asked = request.uri().path() == PATH && self.is_its_gateway(request.headers());
        let Some(seat) = asked.then(|| self.hub.seat(&self.workspace, &self.owner)).flatten() else {
            return answered(StatusCode::FORBIDDEN);
        };
        tokio::spawn(attached(self.hub.clone(), seat, hyper::upgrade::on(&mut request), stop));
        let mut switched = answered(StatusCode::SWITCHING_PROTOCOLS);
        let headers = switched.headers_mut();
        headers.insert(CONNECTION, http::HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, http::HeaderValue::from_static(PROTOCOL));
        switched
    }

    fn is_its_gateway(&self, headers: &HeaderMap) -> bool {
        let bearer = headers.get(AUTHORIZATION).and_then(|value| value.to_str().ok()?.strip_prefix("Bearer "));
        let token = bearer.and_then(|text| TunnelToken::parse(text).ok());
        token.is_some_and(|token| token.digest() == self.digest)
    }

    /// Sends the gateway a command.
    pub(super) async fn command(&self, body: CommandBody, patience: Duration) -> Result<Reply, CommandFailure> {
        let Owner::Tunnel(tunnel) = &self.owner else { return Err(CommandFailure::NoWorker) };
        self.hub.command(&Target::Tunnel(tunnel.clone()), body, patience).await
    }

    /// The key that the gateway's perimeter opens sealed values with, once its stream stands.
    pub(super) async fn perimeter_public_key(&self, patience: Duration) -> Result<PerimeterPublicKey, Failure> {
        let known = async {
            loop {
                let peers = self.hub.peers(&self.workspace);
                if let Some(key) = peers.into_iter().find_map(|peer| peer.perimeter_public_key) {
                    return key;
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        let key = tokio::time::timeout(patience, known).await.or_unreachable("wait for the control stream")?;
        key.parse().or_misused("read the perimeter's key")
    }
}

async fn attached(hub: ControlHub, seat: Seat, upgrade: hyper::upgrade::OnUpgrade, stop: CancellationToken) {
    match upgrade.await {
        Ok(switched) => hub.attach(seat, TokioIo::new(switched), stop.cancelled()).await,
        Err(error) => tracing::debug!(%error, "a control stream was not taken up"),
    }
}

fn answered(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut answer = Response::new(Empty::new());
    *answer.status_mut() = status;
    answer
}

/// How often it is looked whether the gateway's stream stands.
const LOOK: Duration = Duration::from_millis(20);
