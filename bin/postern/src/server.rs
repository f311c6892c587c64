//! The server role: the control plane over sockets that `up` bound, with the keys and the environment it makes at first.

use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use postern_api::{App, router, serve, serve_operator};
use postern_engine::Engine;
use postern_exec::WireBytes;
use postern_exec::asynchronous::Channel;
use postern_model::Timestamp;
use postern_model::environment::{CreateEnvironment, Environment};
use postern_model::ids::WorkspaceId;
use postern_net::client::HttpClient;
use postern_net::tls::TlsRoots;
use postern_policy::{Endpoint, configured};
use postern_secret::key::{ApiKey, EnvironmentKey};
use postern_secret::{Secret, SecretBytes};
use postern_store::{Store, StoreError, Tx, environments, keys};
use postern_upstream::{Client, Settings};
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use crate::config::DEFAULT_ENVIRONMENT;
use crate::failure::{Failure, Or};

/// The first frame to the role; two listening sockets come with it: TCP, then the operator's.
#[derive(Serialize, Deserialize)]
pub(crate) struct ServerConfiguration {
    pub(crate) listen: SocketAddr,
    pub(crate) directory: PathBuf,
    pub(crate) model_url: String,
    pub(crate) model_ca_file: Option<PathBuf>,
    pub(crate) model_default: Option<String>,
    pub(crate) model_key: Option<WireBytes>,
    /// Issue an API key and an environment key although there are some.
    pub(crate) new_keys: bool,
    /// Issue an environment key: the worker has none.
    pub(crate) new_environment_key: bool,
    pub(crate) log: String,
}

/// The role's first message back. Keys are there when this start issued them.
#[derive(Serialize, Deserialize)]
pub(crate) struct ServerReady {
    pub(crate) base_url: String,
    pub(crate) environment_id: String,
    pub(crate) api_key: Option<String>,
    pub(crate) environment_key: Option<String>,
    pub(crate) model_key: bool,
    pub(crate) model_default: Option<String>,
}

const DRAIN: Duration = Duration::from_secs(5);

/// The role.
pub(crate) async fn main() -> ExitCode {
    let (configuration, descriptors, mut channel) = match postern_exec::role::first_message::<ServerConfiguration>() {
        Ok(first) => first,
        Err(error) => return refuse(&error.to_string()),
    };
    crate::logging::start(configuration.log.parse().unwrap_or(tracing::level_filters::LevelFilter::INFO), None);
    match Server::build(configuration, descriptors).await {
        Ok((server, ready)) => {
            if channel.send(&Ok::<_, String>(ready), &[]).await.is_err() {
                return ExitCode::FAILURE;
            }
            server.run(channel).await;
            ExitCode::SUCCESS
        }
        Err(failure) => {
            // A supervisor that is gone has nobody left to tell.
            let _ = channel.send(&Err::<ServerReady, _>(failure.to_string()), &[]).await;
            refuse(&failure.to_string())
        }
    }
}

fn refuse(why: &str) -> ExitCode {
    tracing::error!(why, "the server does not start");
    ExitCode::from(2)
}

struct Server {
    engine: Engine,
    store: Store,
    app: App,
    tcp: TcpListener,
    operator: UnixListener,
}

impl Server {
    async fn build(
        mut configuration: ServerConfiguration,
        descriptors: Vec<OwnedFd>,
    ) -> Result<(Self, ServerReady), Failure> {
        let Ok([tcp, operator]) = <[OwnedFd; 2]>::try_from(descriptors) else {
            return Err(Failure::Misused("the server expects two listening sockets".into()));
        };
        let store =
            Store::open(&configuration.directory.join("postern.sqlite")).await.or_misused("open the database")?;
        let (environment, issued) =
            first_things(&store, &configuration).await.or_misused("make keys and environment")?;
        let has_model_key = configuration.model_key.is_some();
        let key = configuration.model_key.take().map(secret);
        let model = Arc::new(model(&configuration, key)?);
        let engine = Engine::start(store.clone(), model, postern_engine::Settings::default())
            .await
            .or_misused("start the engine")?;
        let ready = ServerReady {
            base_url: format!("http://{}", configuration.listen),
            environment_id: environment.id.to_string(),
            api_key: issued.api_key,
            environment_key: issued.environment_key,
            model_key: has_model_key,
            model_default: configuration.model_default,
        };
        let app = App::new(engine.clone(), store.clone(), postern_api::Limits::default());
        let (tcp, operator) = (listener(tcp)?, operator_listener(operator)?);
        Ok((Self { engine, store, app, tcp, operator }, ready))
    }

    /// Serves until the supervisor closes the channel, then drains.
    async fn run(self, mut channel: Channel) {
        let drain = CancellationToken::new();
        let router = router(self.app);
        let serving = async {
            tokio::join!(
                serve(self.tcp, router.clone(), drain.clone()),
                serve_operator(self.operator, router, drain.clone())
            )
        };
        let ending = async {
            // No message is expected: whatever comes, or the end, ends the role.
            let _ = channel.receive::<serde_json::Value>(1024).await;
            drain.cancel();
            if !self.engine.drain(DRAIN).await {
                tracing::warn!("sessions were still at work when the server drained; the next start goes on with them");
            }
            tokio::time::sleep(DRAIN).await;
        };
        tokio::select! {
            _ = serving => (),
            () = ending => tracing::warn!("connections were still open when the server ended"),
        }
        self.engine.drain(DRAIN).await;
        self.store.close().await;
    }
}

fn listener(socket: OwnedFd) -> Result<TcpListener, Failure> {
    let socket = std::net::TcpListener::from(socket);
    socket.set_nonblocking(true).or_misused("take the listening socket")?;
    TcpListener::from_std(socket).or_misused("take the listening socket")
}

fn operator_listener(socket: OwnedFd) -> Result<UnixListener, Failure> {
    let socket = std::os::unix::net::UnixListener::from(socket);
    socket.set_nonblocking(true).or_misused("take the operator's socket")?;
    UnixListener::from_std(socket).or_misused("take the operator's socket")
}

fn model(configuration: &ServerConfiguration, key: Option<SecretBytes>) -> Result<Client, Failure> {
    let endpoint: Endpoint = configuration.model_url.parse().or_misused("read the model's URL")?;
    let roots =
        TlsRoots::platform_and_file(configuration.model_ca_file.as_deref()).or_misused("load trusted certificates")?;
    let http = HttpClient::new(configured(&endpoint), &roots).or_misused("prepare the model client")?;
    let settings = Settings { default_model: configuration.model_default.clone(), ..Settings::default() };
    Ok(Client::new(http, key, settings))
}

fn secret(bytes: WireBytes) -> SecretBytes {
    Secret::new(bytes.into_bytes())
}

/// Keys that this start issued.
#[derive(Default)]
struct IssuedKeys {
    api_key: Option<String>,
    environment_key: Option<String>,
}

/// The default environment and, at the first start or on request, keys; all of it or nothing.
async fn first_things(
    store: &Store,
    configuration: &ServerConfiguration,
) -> Result<(Environment, IssuedKeys), StoreError> {
    let workspace = WorkspaceId::default();
    let mut tx = store.write().await?;
    let existing = environments::find_by_name(&mut tx, &workspace, DEFAULT_ENVIRONMENT).await?;
    let first_start = existing.is_none();
    let environment = match existing {
        Some(environment) => environment,
        None => environments::create(&mut tx, &workspace, default_environment(), Timestamp::now()).await?,
    };
    let mut issued = IssuedKeys::default();
    if first_start || configuration.new_keys {
        issued.api_key = Some(issue_api_key(&mut tx, &workspace).await?);
    }
    if first_start || configuration.new_keys || configuration.new_environment_key {
        issued.environment_key = Some(issue_environment_key(&mut tx, &workspace, &environment).await?);
    }
    tx.commit().await?;
    Ok((environment, issued))
}

fn default_environment() -> CreateEnvironment {
    CreateEnvironment {
        name: DEFAULT_ENVIRONMENT.to_owned(),
        config: postern_model::Field::Absent,
        description: Some("Made by the first start.".to_owned()),
        metadata: None,
        scope: None,
    }
}

const HINT_LENGTH: usize = 12;

#[expect(clippy::disallowed_methods, reason = "a key is shown once, to the operator at the start that issued it")]
async fn issue_api_key(tx: &mut Tx, workspace: &WorkspaceId) -> Result<String, StoreError> {
    let key = ApiKey::issue();
    let text = key.secret().expose().clone();
    keys::create_api_key(tx, workspace, &new_key("up", &text, key.digest().as_str())).await?;
    Ok(text)
}

#[expect(clippy::disallowed_methods, reason = "a key is shown once, to the operator at the start that issued it")]
async fn issue_environment_key(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    environment: &Environment,
) -> Result<String, StoreError> {
    let key = EnvironmentKey::issue();
    let text = key.secret().expose().clone();
    keys::create_environment_key(tx, workspace, &environment.id, &new_key("up", &text, key.digest().as_str())).await?;
    Ok(text)
}

fn new_key<'a>(name: &'a str, key: &'a str, digest: &'a str) -> keys::NewKey<'a> {
    keys::NewKey { name, hint: &key[..HINT_LENGTH], digest, now: Timestamp::now() }
}
