//! A server in this process and a client that speaks bytes.

use std::io::{Read, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use postern_api::{App, Limits, Probing, TunnelFacts, TunnelProber, Tunnels, router, serve, serve_operator};
use postern_edge::{Directory, Edge, Settings as EdgeSettings};
use postern_engine::{Engine, Settings};
use postern_model::Timestamp;
use postern_model::event::ModelUsage;
use postern_model::ids::WorkspaceId;
use postern_model::model_info::ModelInfo;
use postern_secret::Secret;
use postern_secret::key::ApiKey;
use postern_secret::seal;
use postern_session::{ModelEvent, Response as ModelResponse, ResponseBlock, Stop};
use postern_store::{Store, keys, workspaces};
use postern_upstream::Model;
use rustls::crypto::hpke::HpkePrivateKey;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) const BETA: &str = "managed-agents-2026-04-01";
pub(crate) const TUNNELS_BETA: &str = "mcp-tunnels-2026-06-22";
pub(crate) const MEMORY_BETA: &str = "agent-memory-2026-07-22";
/// Both: a route takes the one it needs.
pub(crate) const BETAS: &str = "managed-agents-2026-04-01,mcp-tunnels-2026-06-22";

/// Calls `bash` once for each user message that says `bash`, else says `done`.
struct Script;

impl Model for Script {
    fn start(&self, body: Bytes) -> mpsc::Receiver<ModelEvent> {
        let (sender, receiver) = mpsc::channel(4);
        sender.try_send(ModelEvent::Finished(answer(&body))).unwrap();
        receiver
    }

    fn models(&self) -> Pin<Box<dyn Future<Output = Vec<ModelInfo>> + Send + '_>> {
        let retired = ModelInfo { lifecycle: "retired".to_owned(), ..ModelInfo::unknown("m-0") };
        Box::pin(async { [["m-3", "m-2", "m-1"].map(ModelInfo::unknown).to_vec(), vec![retired]].concat() })
    }

    fn named<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Option<ModelInfo>> + Send + 'a>> {
        let id = if name == "m-latest" { "m-3" } else { name };
        Box::pin(async move { self.models().await.into_iter().find(|model| model.id == id) })
    }
}

fn answer(body: &[u8]) -> ModelResponse {
    let body: Value = serde_json::from_slice(body).unwrap();
    let last = body["messages"].as_array().unwrap().last().unwrap().to_string();
    let block = match last.contains("please use bash") {
        true => ResponseBlock::ToolUse {
            name: "bash".into(),
            input: Ok(json!({"command": "true"}).as_object().unwrap().clone()),
        },
        false => ResponseBlock::Text("done".into()),
    };
    let stop = if matches!(block, ResponseBlock::ToolUse { .. }) { Stop::ToolUse } else { Stop::EndTurn };
    ModelResponse { blocks: vec![(0, block)], stop, usage: ModelUsage::default() }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) socket: PathBuf,
    pub(crate) key: String,
    pub(crate) store: Store,
    pub(crate) edge: Edge,
    drain: CancellationToken,
    _directory: tempfile::TempDir,
}

pub(crate) fn short() -> Limits {
    Limits {
        lease_ttl: Duration::from_secs(60),
        worker_present: Duration::from_millis(200),
        ping_every: Duration::from_millis(50),
        body_bytes: 1024 * 1024,
        body_time: Duration::from_secs(10),
        ..Limits::default()
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::start_with(short()).await
    }

    pub(crate) async fn start_with(limits: Limits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db")).await.unwrap();
        Self::start_over(directory, store, limits).await
    }

    /// A server over a store in this directory.
    pub(crate) async fn start_over(directory: tempfile::TempDir, store: Store, limits: Limits) -> Self {
        let engine = Engine::start(store.clone(), Arc::new(Script), Settings::default()).await.unwrap();
        let key = issue_api_key(&store).await;
        let edge = Edge::new(Directory::new(), EdgeSettings::default());
        let tunnels = tunnels(&edge);
        let router = router(App::new(engine, store.clone(), limits).with_tunnels(tunnels));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let socket = directory.path().join("operator.sock");
        let operator = tokio::net::UnixListener::bind(&socket).unwrap();
        let drain = CancellationToken::new();
        tokio::spawn(serve(listener, router.clone(), drain.clone()));
        tokio::spawn(serve_operator(operator, router, drain.clone()));
        Self { address, socket, key, store, edge, drain, _directory: directory }
    }

    /// A request with the API key and the beta.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        let request = Request::new(method, path);
        request.header("authorization", &format!("Bearer {}", self.key)).header("anthropic-beta", BETAS)
    }

    /// A request with another credential and the beta.
    pub(crate) fn request_as(&self, credential: &str, method: &str, path: &str) -> Request {
        let request = Request::new(method, path);
        request.header("authorization", &format!("Bearer {credential}")).header("anthropic-beta", BETAS)
    }

    pub(crate) async fn send(&self, request: Request) -> Response {
        let address = self.address;
        tokio::task::spawn_blocking(move || Response::parse(&exchange(connect(address), &request.bytes())))
            .await
            .unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.send(self.request("GET", path)).await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Response {
        self.send(self.request("POST", path).json(&body)).await
    }

    /// The same as the operator, over the socket.
    pub(crate) async fn operator(&self, request: Request) -> Response {
        let socket = self.socket.clone();
        let request = request.header("anthropic-beta", BETAS);
        tokio::task::spawn_blocking(move || {
            #[expect(clippy::disallowed_methods, reason = "the test is the client")]
            let stream = std::os::unix::net::UnixStream::connect(socket).unwrap();
            Response::parse(&exchange(stream, &request.bytes()))
        })
        .await
        .unwrap()
    }

    pub(crate) async fn operator_post(&self, path: &str, body: Value) -> Response {
        self.operator(Request::new("POST", path).json(&body)).await
    }

    /// An environment and a key of it.
    pub(crate) async fn environment(&self, name: &str) -> (String, String) {
        let id = self.post("/v1/environments", json!({"name": name})).await.ok()["id"].as_str().unwrap().to_owned();
        let issued = self.post(&format!("/v1/environments/{id}/keys"), json!({})).await.ok();
        (id, issued["key"].as_str().unwrap().to_owned())
    }

    /// A perimeter that serves an environment of its own; the private key that opens what is sealed to it.
    pub(crate) async fn perimeter(&self) -> (Value, HpkePrivateKey) {
        let (environment, _) = self.environment(&format!("of {:?}", std::time::Instant::now())).await;
        let (public, private) = seal::suite().generate_key_pair().unwrap();
        let body = json!({"name": "p", "public_key": hex(&public.0), "environment_id": environment});
        (self.operator_post("/v1/perimeters", body).await.ok(), private)
    }

    /// The edge of a server that starts over the same database.
    pub(crate) async fn edge_after_a_restart(&self) -> Edge {
        let edge = Edge::new(Directory::new(), EdgeSettings::default());
        tunnels(&edge).fill_directory(&self.store).await.unwrap();
        edge
    }

    /// Everything that the database's files hold.
    pub(crate) fn database(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in std::fs::read_dir(self.socket.parent().unwrap()).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().to_str().unwrap().starts_with("control.db") {
                bytes.extend(std::fs::read(&path).unwrap());
            }
        }
        assert!(bytes.windows(6).any(|window| window == b"vaults"), "the database was read");
        bytes
    }

    /// An agent with the built-in toolset.
    pub(crate) async fn agent(&self) -> String {
        let body = json!({"name": "a", "model": "m-1", "tools": [{"type": "agent_toolset_20260401"}]});
        self.post("/v1/agents", body).await.ok()["id"].as_str().unwrap().to_owned()
    }

    /// A session that has called bash: its id, and the id of the call.
    pub(crate) async fn session_with_open_call(&self, environment: &str) -> (String, String) {
        self.session_with_vaults_and_open_call(environment, &[]).await
    }

    /// The same with these vaults.
    pub(crate) async fn session_with_vaults_and_open_call(
        &self,
        environment: &str,
        vaults: &[&str],
    ) -> (String, String) {
        self.session_and_open_call(environment, json!({"vault_ids": vaults})).await
    }

    /// The same with whatever else it is created with.
    pub(crate) async fn session_and_open_call(&self, environment: &str, with: Value) -> (String, String) {
        let agent = self.agent().await;
        let event = json!({"type": "user.message", "content": [{"type": "text", "text": "please use bash"}]});
        let mut body = json!({"agent": agent, "environment_id": environment, "initial_events": [event]});
        for (name, value) in with.as_object().unwrap() {
            body[name] = value.clone();
        }
        let session = self.post("/v1/sessions", body).await.ok()["id"].as_str().unwrap().to_owned();
        loop {
            let page = self.get(&format!("/v1/sessions/{session}/events")).await.ok();
            let events = page["data"].as_array().unwrap().clone();
            let call = events.iter().find(|event| event["type"] == "agent.tool_use");
            let idle = events.iter().any(|event| event["type"] == "session.status_idle");
            if let (Some(call), true) = (call, idle) {
                return (session, call["id"].as_str().unwrap().to_owned());
            }
            tokio::task::yield_now().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.drain.cancel();
    }
}

fn tunnels(edge: &Edge) -> Tunnels {
    Tunnels {
        server_key: Secret::new(vec![7; 32]),
        domain: "tunnel.localhost".to_owned(),
        edge: Arc::new(edge.clone()),
        prober: Some(Arc::new(Prober)),
    }
}

/// Says what it was asked to probe.
struct Prober;

impl TunnelProber for Prober {
    fn probe(&self, tunnel: TunnelFacts, route: String) -> Probing<'_> {
        Box::pin(async move { Ok(json!({"host": format!("{route}.{}", tunnel.domain), "tunnel": tunnel.id})) })
    }
}

pub(crate) async fn issue_api_key(store: &Store) -> String {
    issue_api_key_in(store, &WorkspaceId::default()).await
}

/// A key of another workspace than the default one.
pub(crate) async fn issue_foreign_key(store: &Store) -> String {
    let body = serde_json::from_value(json!({"name": "foreign"})).unwrap();
    let mut tx = store.write().await.unwrap();
    let workspace = workspaces::create(&mut tx, body, Timestamp::now()).await.unwrap().id;
    tx.commit().await.unwrap();
    issue_api_key_in(store, &workspace).await
}

async fn issue_api_key_in(store: &Store, workspace: &WorkspaceId) -> String {
    let key = ApiKey::issue();
    let digest = key.digest();
    let new = keys::NewKey { name: "test", hint: "pst_api_", digest: digest.as_str(), now: Timestamp::now() };
    let mut tx = store.write().await.unwrap();
    keys::create_api_key(&mut tx, workspace, &new, &keys::KeyReach::default()).await.unwrap();
    tx.commit().await.unwrap();
    #[expect(clippy::disallowed_methods, reason = "the test is the client that holds the key")]
    key.secret().expose().clone()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[derive(Clone)]
pub(crate) struct Request {
    method: String,
    path: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    pub(crate) fn new(method: &str, path: &str) -> Self {
        Self { method: method.into(), path: path.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Sets a header, replacing one of the same name.
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(key, _)| key != name);
        self
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.body(body.to_string().as_bytes())
    }

    pub(crate) fn body(mut self, body: &[u8]) -> Self {
        self.body = body.to_vec();
        self.header("content-type", "application/json")
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut bytes = format!("{} {} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n", self.method, self.path);
        for (name, value) in &self.headers {
            bytes.push_str(&format!("{name}: {value}\r\n"));
        }
        if self.method != "GET" && !self.headers.iter().any(|(name, _)| name == "content-length") {
            bytes.push_str(&format!("content-length: {}\r\n", self.body.len()));
        }
        bytes.push_str("\r\n");
        [bytes.as_bytes(), &self.body].concat()
    }
}

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) text: String,
    pub(crate) body: Value,
}

impl Response {
    pub(crate) fn parse(bytes: &[u8]) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no response: {text:?}"));
        let mut lines = head.split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| line.split_once(": ").unwrap()).map(|(k, v)| (k.into(), v.into())).collect();
        let value = serde_json::from_str(body).unwrap_or(Value::Null);
        Self { status, headers, text: body.to_owned(), body: value }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body of a success.
    pub(crate) fn ok(self) -> Value {
        assert_eq!(self.status, 200, "{}", self.text);
        self.body
    }

    /// Checks the error envelope and returns the message.
    pub(crate) fn refused(&self, status: u16, kind: &str) -> String {
        assert_eq!((self.status, self.body["error"]["type"].as_str()), (status, Some(kind)), "{}", self.text);
        assert_eq!(self.body["type"], "error");
        assert_eq!(self.body["request_id"].as_str(), self.header("request-id"));
        assert!(self.header("request-id").unwrap().starts_with("req_"));
        assert_eq!(self.header("content-type"), Some("application/json"));
        assert_eq!(self.header("retry-after"), (status == 429).then_some("5"));
        assert_eq!(self.header("x-should-retry"), (status == 409).then_some("false"));
        self.body["error"]["message"].as_str().unwrap().to_owned()
    }
}

#[expect(clippy::disallowed_methods, reason = "the test is the client")]
pub(crate) fn connect(address: SocketAddr) -> std::net::TcpStream {
    let stream = std::net::TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// Sends a request and reads until the server closes. A server that refuses early may close before all is sent.
pub(crate) fn exchange(mut stream: impl Read + Write, request: &[u8]) -> Vec<u8> {
    stream.write_all(request).ok();
    let mut response = Vec::new();
    let mut piece = [0; 16 * 1024];
    while let Ok(count) = stream.read(&mut piece) {
        if count == 0 {
            break;
        }
        response.extend_from_slice(&piece[..count]);
    }
    response
}
