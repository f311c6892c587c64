//! The connector as a child: started, listened to, started again when it dies. It hands over streams of ciphertext and
//! says what the edge said; it never sees a key of the gateway's.

use std::{os::fd::OwnedFd, sync::Arc, time::Duration};

use postern_exec::{
    WireBytes,
    asynchronous::Channel,
    role::{Running, StartError, Starter, Supervisor},
};
use postern_secret::{Secret, SecretBytes};
use postern_tunnel::{
    handover::{Configuration, FromConnector, MESSAGE_BYTES, Proxy, ToConnector},
    wire,
};
use serde::{Serialize, Serializer};
use tokio::{net::UnixStream, sync::watch, time::Instant};

use crate::{config::EdgeConfig, door, gateway::Gateway, serve};

/// What the connector is started with, each time anew.
pub(crate) struct Settings {
    edge: EdgeConfig,
    proxy_credentials: Option<SecretBytes>,
    token: SecretBytes,
    drain_seconds: u64,
}

impl Settings {
    /// Of the gateway's own configuration.
    pub(crate) fn new(mut edge: EdgeConfig, token: WireBytes, drain_seconds: u64) -> Self {
        let credentials = edge.proxy.as_mut().and_then(|proxy| proxy.credentials.take());
        let secret = |bytes: WireBytes| Secret::new(bytes.into_bytes());
        Self { edge, proxy_credentials: credentials.map(secret), token: secret(token), drain_seconds }
    }

    /// The tunnel token, for the control stream.
    pub(crate) fn token(&self) -> SecretBytes {
        self.token.duplicate()
    }

    fn configuration(&self) -> Configuration {
        let wire = |secret: &SecretBytes| WireBytes::new(exposed(secret).clone());
        let mut configuration = Configuration::new(self.edge.url.clone(), self.edge.ca_pem.clone(), wire(&self.token));
        configuration.proxy = self
            .edge
            .proxy
            .as_ref()
            .map(|proxy| Proxy { url: proxy.url.clone(), credentials: self.proxy_credentials.as_ref().map(wire) });
        configuration.drain_seconds = self.drain_seconds;
        if self.edge.interactive > 0 {
            configuration.interactive = self.edge.interactive;
        }
        if self.edge.bulk > 0 {
            configuration.bulk = self.edge.bulk;
        }
        configuration
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // Straight into the frame: a copy on the way, as a value of its own, would not be zeroed.
        self.configuration().serialize(serializer)
    }
}

/// Keeps a connector running until the drain, then lets it end. `connected` says at each change whether it stands at the
/// edge.
pub(crate) async fn keep(gateway: Arc<Gateway>, starter: Starter, settings: Settings, connected: watch::Sender<bool>) {
    let patience = Duration::from_secs(settings.drain_seconds);
    let mut supervisor = Supervisor::new(ROLE, starter, settings, Vec::new());
    loop {
        let started = tokio::select! {
            started = supervisor.start::<FromConnector>() => started,
            () = gateway.drain.started() => return,
        };
        match started {
            Ok((running, FromConnector::Ready { problems })) if problems.is_empty() => {
                if let Ran::Drained = run(&gateway, running, &connected, patience).await {
                    return;
                }
                gateway.troubles.note("connector_died", "the connector ended and is started again");
            }
            Ok((running, said)) => {
                let problems = match said {
                    FromConnector::Ready { problems } => problems.join("; "),
                    _ => "it spoke out of turn".to_owned(),
                };
                tracing::error!(problems, "the connector refuses its configuration");
                gateway.troubles.note("connector_refused", problems);
                let _ended = running.stop(Duration::from_secs(1)).await;
            }
            Err(error @ StartError::StarterGone(_)) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the gateway ends, to be started again");
                gateway.drain.start();
                return;
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn std::error::Error, "the connector does not start");
                gateway.troubles.note("connector_failed", error.to_string());
            }
        }
        connected.send_replace(false);
    }
}

/// How a connector came to its end.
pub(crate) enum Ran {
    /// It was told to.
    Drained,
    /// By itself.
    Died,
}

async fn run(gateway: &Arc<Gateway>, running: Running, connected: &watch::Sender<bool>, patience: Duration) -> Ran {
    let Running { mut child, channel } = running;
    let ran = converse(gateway, channel, connected, patience).await;
    if let Err(error) = child.end(Duration::from_secs(1)).await {
        tracing::warn!(%error, "the connector could not be awaited");
    }
    ran
}

/// Listens to a connector until it is gone; at the drain it is told, and listened to until it is gone or late.
pub(crate) async fn converse(
    gateway: &Arc<Gateway>,
    channel: Channel,
    connected: &watch::Sender<bool>,
    patience: Duration,
) -> Ran {
    let (mut sender, mut receiver) = channel.split();
    let mut deadline: Option<Instant> = None;
    loop {
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let said = tokio::select! {
            said = receiver.receive::<FromConnector>(MESSAGE_BYTES) => said,
            () = gateway.drain.started(), if deadline.is_none() => {
                deadline = Some(Instant::now() + patience);
                if sender.send(&ToConnector::Drain, &[]).await.is_err() {
                    return Ran::Drained;
                }
                continue;
            }
            () = late => return Ran::Drained,
        };
        match said {
            Ok(Some((message, descriptors))) => hear(gateway, message, descriptors, connected),
            Ok(None) => break,
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, "the connector's words cannot be read");
                break;
            }
        }
    }
    if deadline.is_some() { Ran::Drained } else { Ran::Died }
}

fn hear(
    gateway: &Arc<Gateway>,
    message: FromConnector,
    mut descriptors: Vec<OwnedFd>,
    connected: &watch::Sender<bool>,
) {
    match message {
        FromConnector::Stream { host, lane } => match (descriptors.pop(), wire::host_name(&host)) {
            (Some(end), Some(_)) if descriptors.is_empty() => match taken(end) {
                Ok(stream) => {
                    tracing::trace!(%host, %lane, "a stream");
                    let serving = serve::stream(Arc::clone(gateway), host, stream);
                    gateway.drain.spawn(serving);
                }
                Err(error) => tracing::warn!(%error, "a stream cannot be taken"),
            },
            _ => tracing::warn!("the connector handed over what is no stream"),
        },
        FromConnector::Welcome(welcome) => gateway.welcome(welcome),
        FromConnector::Status(status) => {
            connected.send_if_modified(|now| std::mem::replace(now, status.is_connected()) != status.is_connected());
            gateway.connected(status);
        }
        FromConnector::Refused { refusal, times } => {
            let gateway = Arc::clone(gateway);
            gateway.clone().drain.spawn(async move { door::refused(&gateway, refusal, times).await });
        }
        FromConnector::Ready { .. } => tracing::warn!("the connector is ready twice"),
    }
}

fn taken(end: OwnedFd) -> std::io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(end);
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

#[expect(clippy::disallowed_methods, reason = "the connector is handed the tunnel token, and the way out its password")]
fn exposed(secret: &SecretBytes) -> &Vec<u8> {
    secret.expose()
}

/// The name under which the connector is started.
const ROLE: &str = "connector";
