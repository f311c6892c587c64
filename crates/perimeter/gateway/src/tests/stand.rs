//! A gateway with everything around it but other processes: an upstream that answers what a test says, a custody in
//! memory, a signer, and a caller at the far end of an inner TLS connection.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use postern_audit::{Decision, Kind, Memory, Record};
use postern_custody::{
    FreshTokens, KeptAnswer, KnownPlaceholder, RefreshGrant, Refreshing, Reload, Renewed, RouteGrant,
};
use postern_net::Dialer;
use postern_policy::{Denial, Reason, document::DocumentText};
use postern_secret::{Placeholder, Secret, SecretBytes, seal::Sealed};
use postern_tunnel::{
    Welcome,
    certificate::{self, OwnCa},
    identity::{self, Claims, Purpose, Signer},
};
use rustls_pki_types::ServerName;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpListener,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    binding::Binding,
    custodian::{Custodian, Later},
    gateway::{Gateway, Parts},
    leaf::Leaf,
    limits::Bounds,
    mark::Mark,
    oauth::Journal,
    process, serve,
};

pub(super) const SECRET: &str = "wiki-bearer-7f3Kq9ZpLm2Xc8Vb";
pub(super) const REFRESH_TOKEN: &str = "refresh&t0ken+of=the/wiki-01";
pub(super) const CLIENT_SECRET: &str = "client:s3cret of the client-01";
/// The perimeter's public key.
pub(super) const PERIMETER: &str = "0909090909090909090909090909090909090909090909090909090909090909";
pub(super) const TUNNEL: &str = "tnl_1";
pub(super) const DOMAIN: &str = "t1.tunnel.localhost";

/// Access and refresh token that were to be sealed, and when the former expires.
pub(super) type Fresh = (String, Option<String>, Option<i64>);

/// What the upstream answers a request with.
pub(super) type Behaviour = Box<dyn Fn(&Seen) -> Reply + Send + Sync>;

/// A request as it reached the upstream.
#[derive(Clone, Debug)]
pub(super) struct Seen {
    pub(super) head: String,
    pub(super) body: Vec<u8>,
    /// Records that allowed a call, at the time when the upstream had the request.
    pub(super) allowed_before: usize,
}

/// Raw bytes, piece by piece.
pub(super) enum Reply {
    /// These, and then the connection stays open.
    Pieces(Vec<Vec<u8>>),
    /// The first, and then the second again and again, each after so long.
    Endless(Vec<u8>, Vec<u8>, Duration),
    /// These, then nothing for ever.
    Hang(Vec<Vec<u8>>),
    /// These, then the connection is closed.
    Close(Vec<Vec<u8>>),
}

pub(super) struct Stand {
    pub(super) gateway: Arc<Gateway>,
    pub(super) audit: Memory,
    pub(super) custody: Arc<FakeCustody>,
    pub(super) signer: Signer,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    pub(super) directory: tempfile::TempDir,
    pub(super) ca: OwnCa,
    pub(super) port: u16,
}

#[derive(Default)]
pub(super) struct FakeCustody {
    pub(super) secret: Mutex<Option<&'static str>>,
    pub(super) refuses: Mutex<Option<Reason>>,
    pub(super) placeholders: Mutex<Vec<KnownPlaceholder>>,
    pub(super) grants: Mutex<Vec<RouteGrant>>,
    pub(super) said: Mutex<Vec<String>>,
    pub(super) reloads: Mutex<Vec<Reload>>,
    /// Every refresh that was asked for.
    pub(super) refreshes: Mutex<Vec<RefreshGrant>>,
    /// The tokens that were to be sealed.
    pub(super) fresh: Mutex<Vec<Fresh>>,
    /// Answers that were kept and handed over later.
    pub(super) handed_over: Mutex<Vec<KeptAnswer>>,
    /// It takes no new tokens.
    pub(super) is_away: AtomicBool,
    /// What custody finds wrong with a document.
    pub(super) unreadable: Mutex<Option<&'static str>>,
}

fn soon<'a, T: Send + 'a>(value: T) -> Later<'a, T> {
    Box::pin(std::future::ready(value))
}

impl FakeCustody {
    fn note(&self, what: &str, session: &str) -> Later<'static, Result<(), Denial>> {
        self.said.lock().unwrap().push(format!("{what} {session}"));
        soon(Ok(()))
    }

    pub(super) fn issue(&self, session: &str, alive: bool) -> String {
        let placeholder = Placeholder::issue(32, None);
        let text = placeholder.as_str().to_owned();
        let known = KnownPlaceholder { placeholder, session: session.to_owned(), credential: "api".to_owned(), alive };
        self.placeholders.lock().unwrap().push(known);
        text
    }
}

impl Custodian for Arc<FakeCustody> {
    fn grant(&self, grant: RouteGrant) -> Later<'_, Result<SecretBytes, Denial>> {
        let opens_renewed = grant.sealed.as_ref().is_some_and(|one| one.sealed.ciphertext == "renewed");
        self.grants.lock().unwrap().push(grant);
        let refused = self.refuses.lock().unwrap().map(Denial::new);
        let renewed = self.fresh.lock().unwrap().last().map(|(access, ..)| access.clone());
        let secret = self.secret.lock().unwrap().unwrap_or(SECRET).to_owned();
        let secret = if opens_renewed { renewed.unwrap() } else { secret };
        soon(refused.map_or_else(|| Ok(Secret::new(secret.into_bytes())), Err))
    }

    /// As the real one: what came of a refresh is answered again.
    fn refresh(&self, grant: RefreshGrant) -> Later<'_, Result<Refreshing, Denial>> {
        let client_secret = grant.parts.client_secret.as_ref().map(|_| Secret::new(CLIENT_SECRET.as_bytes().to_vec()));
        self.refreshes.lock().unwrap().push(grant);
        let refused = self.refuses.lock().unwrap().map(Denial::new);
        let kept = self.fresh.lock().unwrap().last().map(|(_, refresh, expires)| renewed(refresh.is_some(), *expires));
        let granted =
            || Refreshing::Granted { refresh_token: Secret::new(REFRESH_TOKEN.as_bytes().to_vec()), client_secret };
        soon(refused.map_or_else(|| Ok(kept.map_or_else(granted, |kept| Refreshing::Kept(Box::new(kept)))), Err))
    }

    fn seal(&self, fresh: FreshTokens) -> Later<'_, Result<Renewed, Denial>> {
        if self.is_away.load(Ordering::Relaxed) {
            return soon(Err(Denial::new(Reason::CustodyDenied)));
        }
        let text = |wire: postern_exec::WireBytes| String::from_utf8(wire.into_bytes()).unwrap();
        let refresh = fresh.refresh_token.map(text);
        let answer = renewed(refresh.is_some(), fresh.expires_at_seconds);
        self.fresh.lock().unwrap().push((text(fresh.access_token), refresh, fresh.expires_at_seconds));
        soon(Ok(answer))
    }

    fn seal_kept(&self, _: String, answer: KeptAnswer) -> Later<'_, Result<Renewed, Denial>> {
        let sealed = renewed(answer.refresh.is_some(), answer.expires_at_seconds);
        self.handed_over.lock().unwrap().push(answer);
        soon(Ok(sealed))
    }

    fn placeholders(&self) -> Later<'_, Result<Vec<KnownPlaceholder>, Denial>> {
        soon(Ok(self.placeholders.lock().unwrap().clone()))
    }

    fn close<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        self.note("close", session)
    }

    fn freeze<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        self.note("freeze", session)
    }

    fn thaw<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        self.note("thaw", session)
    }

    fn revoke<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        self.note("revoke", session)
    }

    fn reload(&self, reload: Reload) -> Later<'_, Result<(), Vec<String>>> {
        self.reloads.lock().unwrap().push(reload);
        soon(self.unreadable.lock().unwrap().map_or(Ok(()), |problem| Err(vec![problem.to_owned()])))
    }
}

fn renewed(refresh: bool, expires_at_seconds: Option<i64>) -> Renewed {
    let sealed = || Sealed { version: 3, nonce: String::new(), ciphertext: "renewed".to_owned(), wraps: Vec::new() };
    Renewed { access: sealed(), refresh: refresh.then(sealed), expires_at_seconds }
}

/// A request to the gateway, to be bent by a test.
pub(super) struct Call {
    pub(super) host: String,
    pub(super) sni: String,
    pub(super) method: &'static str,
    pub(super) target: String,
    pub(super) body: String,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) claims: Claims,
    pub(super) token: Option<String>,
}

impl Call {
    pub(super) fn on(route: &str, body: impl Into<String>) -> Self {
        let host = format!("{route}.{DOMAIN}");
        let body = body.into();
        Self {
            sni: host.clone(),
            host,
            method: "POST",
            target: "/mcp".to_owned(),
            headers: vec![
                ("content-type", "application/json".to_owned()),
                ("accept", "application/json, text/event-stream".to_owned()),
            ],
            claims: claims("sesn_a", &body),
            body,
            token: None,
        }
    }

    pub(super) fn tool(tool: &str, arguments: &Value) -> Self {
        Self::on("wiki", call_body(tool, arguments))
    }

    pub(super) fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    pub(super) fn from(mut self, session: &str) -> Self {
        self.claims.sub = session.to_owned();
        self
    }

    pub(super) fn claiming(mut self, change: impl FnOnce(&mut Claims)) -> Self {
        change(&mut self.claims);
        self
    }

    pub(super) fn method(mut self, method: &'static str) -> Self {
        self.method = method;
        self.body = String::new();
        self.claims.body = identity::body_digest(b"");
        self
    }

    pub(super) fn target(mut self, target: &str) -> Self {
        self.target = target.to_owned();
        self
    }

    pub(super) fn token(mut self, token: impl Into<String>) -> Self {
        self.token = Some(token.into());
        self
    }
}

pub(super) fn call_body(tool: &str, arguments: &Value) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "method": "tools/call", "params": {"name": tool, "arguments": arguments}})
        .to_string()
}

pub(super) fn claims(session: &str, body: &str) -> Claims {
    let now = identity::seconds(SystemTime::now());
    Claims {
        iss: identity::ISSUER.to_owned(),
        aud: TUNNEL.to_owned(),
        sub: session.to_owned(),
        agent: "agent_1".to_owned(),
        agent_version: 3,
        definition_digest: format!("sha256:{}", "0".repeat(64)),
        environment: "env_1".to_owned(),
        workspace: "wrkspc_default".to_owned(),
        tool_use: Some("sevt_1".to_owned()),
        purpose: Purpose::Call,
        iat: now,
        exp: now + 30,
        jti: identity::new_jti(),
        body: identity::body_digest(body.as_bytes()),
    }
}

/// What came back.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    pub(super) body: Vec<u8>,
}

impl Got {
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|_| panic!("{} {}", self.status, self.text()))
    }

    /// The reason as the header has it, and that body and header agree.
    pub(super) fn reason(&self) -> Option<String> {
        let reason = self.headers.get("postern-reason")?.to_str().unwrap().to_owned();
        let said = match self.status {
            200 => self.json()["result"]["_meta"]["postern/reason"].clone(),
            _ => self.json()["reason"].clone(),
        };
        assert_eq!(said, reason.as_str(), "{}", self.text());
        Some(reason)
    }

    /// Everything that the caller can read.
    pub(super) fn all(&self) -> Vec<u8> {
        let mut all = self.body.clone();
        for (name, value) in &self.headers {
            all.extend_from_slice(name.as_str().as_bytes());
            all.extend_from_slice(value.as_bytes());
        }
        all
    }
}

pub(super) fn document(port: u16) -> DocumentText {
    let text = format!(
        r#"config = 1
[zone.docs]
environment = "default"

[[zone.docs.mcp]]
server = "wiki"
tools = ["search", "read_*"]

[[zone.docs.mcp]]
server = "wiki"
tools = ["write_page"]
arguments = {{ path = {{ glob = "drafts/**" }} }}

[[zone.docs.mcp]]
server = "vault"
tools = ["*"]

[[zone.docs.mcp]]
server = "plain"
tools = ["*"]

[[zone.docs.mcp]]
server = "inner"
tools = ["*"]

[[zone.docs.mcp]]
server = "down"
tools = ["*"]

[[gateway.route]]
host = "wiki"
upstream = "http://127.0.0.1:{port}/mcp"
addresses = ["127.0.0.0/8"]
credential = {{ source = "store:wiki-token", header = "authorization", format = "Bearer {{secret}}" }}
timeout = "2s"
max_request = "64KiB"
max_response = "256KiB"

[[gateway.route]]
host = "vault"
upstream = "http://127.0.0.1:{port}/mcp"
addresses = ["127.0.0.0/8"]
credential = {{ source = "api:" }}

[[gateway.route]]
host = "plain"
upstream = "http://127.0.0.1:{port}/mcp"
addresses = ["127.0.0.0/8"]

[[zone.docs.mcp]]
server = "public"
tools = ["*"]

[[gateway.route]]
host = "public"
url = "https://docs.example/mcp"
upstream = "http://127.0.0.1:{port}/inner"
addresses = ["127.0.0.0/8"]
credential = {{ source = "api:" }}

[[gateway.route]]
host = "secret"
upstream = "http://127.0.0.1:{port}/mcp"
addresses = ["127.0.0.0/8"]

[[gateway.route]]
host = "inner"
upstream = "http://localhost:{port}/mcp"
addresses = ["10.0.0.0/8"]

[[gateway.route]]
host = "down"
upstream = "http://127.0.0.1:1/mcp"
addresses = ["127.0.0.0/8"]
"#
    );
    DocumentText { file: "postern.toml".to_owned(), text, attachments: BTreeMap::new() }
}

pub(super) fn environments() -> BTreeMap<String, String> {
    BTreeMap::from([("default".to_owned(), "env_1".to_owned())])
}

pub(crate) fn write_leaf(directory: &Path, ca: &OwnCa) {
    let leaf = certificate::new_leaf(ca, DOMAIN, SystemTime::now()).unwrap();
    std::fs::write(directory.join("leaf.pem"), &leaf.certificate_pem).unwrap();
    let key = directory.join("leaf.key");
    std::fs::write(&key, exposed(&leaf.key_pem)).unwrap();
    std::fs::set_permissions(&key, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
}

#[expect(clippy::disallowed_methods, reason = "the test writes the leaf's key to its own directory")]
fn exposed(key: &Secret<String>) -> &str {
    key.expose()
}

fn gateway(port: u16, directory: &Path, audit: &Memory, custody: &Arc<FakeCustody>, signer: &Signer) -> Arc<Gateway> {
    let now = identity::seconds(SystemTime::now());
    let gateway = Arc::new(Gateway::new(Parts {
        tunnel_id: TUNNEL.to_owned(),
        identity_keys: Vec::new(),
        rules: process::rules(document(port), &environments()).unwrap_or_else(|errors| panic!("{errors:?}")),
        audit: Arc::new(audit.clone()),
        custody: Arc::new(Arc::clone(custody)),
        binding: Binding::with(&[9; 32]),
        mark: Mark::at(&directory.join("gateway.mark"), now).unwrap(),
        answers: Arc::new(Journal::at(directory.join("answers.json"), PERIMETER.parse().unwrap()).unwrap()),
        leaf: Leaf::open(directory).unwrap(),
        bounds: Bounds {
            stream_idle: Duration::from_secs(5),
            request_body: Duration::from_secs(2),
            token_endpoint: Duration::from_secs(2),
            validation: Duration::from_secs(2),
            ..Bounds::default()
        },
    }));
    gateway.welcome(Welcome {
        tunnel_id: TUNNEL.to_owned(),
        domain: DOMAIN.to_owned(),
        identity_keys: vec![signer.key()],
    });
    gateway
}

impl Stand {
    pub(super) async fn new(behaviour: impl Fn(&Seen) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (audit, seen) = (Memory::new(), Arc::new(Mutex::new(Vec::new())));
        tokio::spawn(upstream(listener, Arc::new(Box::new(behaviour)), Arc::clone(&seen), audit.clone()));
        Self::before(port, audit, seen)
    }

    /// A stand before an upstream of the test's own.
    pub(super) fn before(port: u16, audit: Memory, seen: Arc<Mutex<Vec<Seen>>>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let ca = certificate::new_ca(DOMAIN, SystemTime::now()).unwrap();
        write_leaf(directory.path(), &ca);
        let (custody, signer) = (Arc::new(FakeCustody::default()), Signer::generate().unwrap());
        let gateway = gateway(port, directory.path(), &audit, &custody, &signer);
        Self { gateway, audit, custody, signer, seen, directory, ca, port }
    }

    /// The same after the process was killed and started again.
    pub(super) fn restarted(mut self) -> Self {
        self.gateway = gateway(self.port, self.directory.path(), &self.audit, &self.custody, &self.signer);
        self
    }

    /// The same with other times.
    pub(super) fn bounded(mut self, change: impl FnOnce(&mut Bounds)) -> Self {
        change(&mut Arc::get_mut(&mut self.gateway).unwrap().bounds);
        self
    }

    /// The same with another way to look names up.
    pub(super) fn resolving(mut self, dialer: Dialer) -> Self {
        Arc::get_mut(&mut self.gateway).unwrap().dialer = dialer;
        self
    }

    /// A stand whose upstream answers each call with a small result.
    pub(super) async fn answering() -> Self {
        Self::new(answer).await
    }

    /// An inner TLS connection, as the edge would ask for `host`.
    pub(super) async fn connect(&self, host: &str, sni: &str) -> std::io::Result<TlsStream<tokio::io::DuplexStream>> {
        let (ours, theirs) = tokio::io::duplex(64 * 1024);
        tokio::spawn(serve::stream(Arc::clone(&self.gateway), host.to_owned(), theirs));
        let ca = certificate::accept_ca(&self.ca.certificate_pem, SystemTime::now()).unwrap();
        let connector = TlsConnector::from(certificate::client_config(&[ca]).unwrap());
        connector.connect(ServerName::try_from(sni.to_owned()).unwrap(), ours).await
    }

    pub(super) fn request(&self, call: &Call) -> Request<Full<Bytes>> {
        let token = call.token.clone().unwrap_or_else(|| self.signer.sign(&call.claims).unwrap());
        let mut request = Request::builder().method(call.method).uri(&call.target).header("host", &call.host);
        if !token.is_empty() {
            request = request.header(identity::HEADER, token);
        }
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        request.body(Full::new(Bytes::from(call.body.clone()))).unwrap()
    }

    /// Sends it on a connection of its own, and gives the answer as it begins.
    pub(super) async fn begin(&self, call: Call) -> Response<Incoming> {
        let stream = self.connect(&call.sni, &call.sni).await.unwrap();
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        sender.send_request(self.request(&call)).await.unwrap()
    }

    pub(super) async fn send(&self, call: Call) -> Got {
        let (parts, body) = self.begin(call).await.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes().to_vec());
        Got { status: parts.status.as_u16(), headers: parts.headers, body: body.expect("a whole body") }
    }

    /// Sends raw bytes on a connection to a route, and gives all that comes back until the gateway closes.
    pub(super) async fn raw(&self, route: &str, text: &[u8]) -> String {
        let host = format!("{route}.{DOMAIN}");
        let mut stream = self.connect(&host, &host).await.unwrap();
        stream.write_all(text).await.unwrap();
        let mut all = Vec::new();
        let _cut = tokio::time::timeout(Duration::from_secs(5), stream.read_to_end(&mut all)).await;
        String::from_utf8_lossy(&all).into_owned()
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// The records of one kind.
    pub(super) fn records(&self, kind: Kind) -> Vec<Record> {
        self.audit.records().into_iter().filter(|record| record.kind == kind).collect()
    }
}

async fn upstream(listener: TcpListener, behaviour: Arc<Behaviour>, seen: Arc<Mutex<Vec<Seen>>>, audit: Memory) {
    let connections = AtomicUsize::new(0);
    while let Ok((stream, _)) = listener.accept().await {
        connections.fetch_add(1, Ordering::Relaxed);
        tokio::spawn(serve_upstream(stream, Arc::clone(&behaviour), Arc::clone(&seen), audit.clone()));
    }
}

/// Answers the requests of one connection.
pub(super) async fn serve_upstream(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    behaviour: Arc<Behaviour>,
    seen: Arc<Mutex<Vec<Seen>>>,
    audit: Memory,
) {
    let mut held = Vec::new();
    loop {
        let Some(request) = read_request(&mut stream, &mut held).await else { return };
        let records = audit.records();
        let allowed = records.iter().filter(|one| one.kind == Kind::McpCall && one.decision == Decision::Allow);
        let request = Seen { allowed_before: allowed.count(), ..request };
        seen.lock().unwrap().push(request.clone());
        let reply = behaviour(&request);
        if let Reply::Endless(head, piece, pause) = &reply {
            return endless(&mut stream, head, piece, *pause).await;
        }
        let (Reply::Pieces(pieces) | Reply::Hang(pieces) | Reply::Close(pieces)) = &reply else {
            return;
        };
        for piece in pieces {
            if stream.write_all(piece).await.is_err() || stream.flush().await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
        match reply {
            Reply::Pieces(_) | Reply::Endless(..) => {}
            Reply::Hang(_) => {
                // Until the gateway gives up.
                let _closed = stream.read_u8().await;
                return;
            }
            Reply::Close(_) => return,
        }
    }
}

/// Until the gateway has had enough.
async fn endless(stream: &mut (impl AsyncWrite + Unpin), head: &[u8], piece: &[u8], pause: Duration) {
    let mut next = head;
    while stream.write_all(next).await.is_ok() && stream.flush().await.is_ok() {
        next = piece;
        tokio::time::sleep(pause).await;
    }
}

async fn read_request(stream: &mut (impl AsyncRead + Unpin), held: &mut Vec<u8>) -> Option<Seen> {
    let mut buffer = [0; 4096];
    let end = loop {
        if let Some(at) = held.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut buffer).await.ok()? {
            0 => return None,
            count => held.extend_from_slice(&buffer[..count]),
        }
    };
    let head = String::from_utf8(held.drain(..end).collect()).unwrap();
    let length = head
        .to_ascii_lowercase()
        .lines()
        .find_map(|line| line.strip_prefix("content-length:").map(|value| value.trim().parse::<usize>().unwrap()));
    let length = length.unwrap_or(0);
    while held.len() < length {
        match stream.read(&mut buffer).await.ok()? {
            0 => return None,
            count => held.extend_from_slice(&buffer[..count]),
        }
    }
    Some(Seen { head, body: held.drain(..length).collect(), allowed_before: 0 })
}

pub(super) fn result(text: &str) -> String {
    json!({"jsonrpc": "2.0", "id": 7, "result": {"content": [{"type": "text", "text": text}]}}).to_string()
}

/// A small result for whatever was asked.
pub(super) fn answer(seen: &Seen) -> Reply {
    let asked: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
    let answer =
        json!({"jsonrpc": "2.0", "id": asked["id"], "result": {"content": [{"type": "text", "text": "done"}]}});
    whole("200 OK", "content-type: application/json\r\n", answer.to_string().as_bytes())
}

pub(super) fn ok() -> Reply {
    whole("200 OK", "content-type: application/json\r\n", result("done").as_bytes())
}

pub(super) fn whole(status: &str, headers: &str, body: &[u8]) -> Reply {
    let head = format!("HTTP/1.1 {status}\r\n{headers}content-length: {}\r\n\r\n", body.len());
    Reply::Pieces(vec![[head.as_bytes(), body].concat()])
}

/// A chunked answer: each piece a chunk of its own, and whether the end is said.
pub(super) fn chunks(headers: &str, pieces: &[&[u8]], ends: bool) -> Vec<Vec<u8>> {
    let mut all = vec![format!("HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n").into_bytes()];
    for piece in pieces {
        all.push([format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat());
    }
    if ends {
        all.push(b"0\r\n\r\n".to_vec());
    }
    all
}

pub(super) const SSE: &str = "content-type: text/event-stream\r\n";

pub(super) fn event(data: &str) -> String {
    format!("event: message\ndata: {data}\n\n")
}

/// An order to go by this document.
pub(super) fn order(document: DocumentText) -> Reload {
    Reload { document, environments: environments(), snapshot: BTreeMap::new() }
}
