//! A carrier that ends inner TLS in front of a scripted or a real MCP server, and remembers every request.

use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::BoxBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use postern_tunnel::carry::{Opening, Stream};
use postern_tunnel::certificate::{self, Ca, OwnCa, OwnLeaf, accept_ca};
use postern_tunnel::identity::{Claims, Signer, Verifier, body_digest};
use postern_tunnel::{Carry, CarryError, Lane};
use postern_upstream::mcp::{
    CallerFacts, Limits, Mcp, McpClient, McpConnection, McpFailure, McpServer, PublicPolicy, ToolResult, TunnelFacts,
    Tunnels,
};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

pub(crate) const DOMAIN: &str = "abc.tunnel.localhost";
pub(crate) const TUNNEL: &str = "tnl_1";
pub(crate) const URL: &str = "https://wiki.abc.tunnel.localhost/mcp";

pub(crate) type Answer = Response<BoxBody<Bytes, io::Error>>;
/// What a server does with a request; an error closes the connection without an answer.
pub(crate) type Serve = Arc<dyn Fn(Seen) -> BoxFuture<'static, io::Result<Answer>> + Send + Sync>;

/// A request as the server got it.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) method: Method,
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) lane: Lane,
    /// Which connection brought it.
    pub(crate) connection: usize,
}

impl Seen {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The JSON-RPC method, or the HTTP method of what is none.
    pub(crate) fn rpc(&self) -> String {
        self.json()["method"].as_str().map_or_else(|| self.method.to_string(), str::to_owned)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| value.to_str().ok())
    }
}

/// Everything between the client and a server, in one process.
pub(crate) struct World {
    pub(crate) ca: OwnCa,
    pub(crate) leaf: Mutex<OwnLeaf>,
    pub(crate) tunnel: Mutex<Option<TunnelFacts>>,
    pub(crate) refusal: Mutex<Option<CarryError>>,
    pub(crate) signer: Signer,
    pub(crate) verifier: Verifier,
    pub(crate) opened: AtomicUsize,
    pub(crate) ended: watch::Sender<usize>,
    seen: watch::Sender<Vec<Seen>>,
    serve: Serve,
    weak: std::sync::Weak<World>,
}

pub(crate) fn ca(own: &OwnCa) -> Ca {
    accept_ca(&own.certificate_pem, SystemTime::now()).unwrap()
}

impl World {
    pub(crate) fn new(serve: Serve) -> Arc<Self> {
        let now = SystemTime::now();
        let own = certificate::new_ca(DOMAIN, now).unwrap();
        let leaf = certificate::new_leaf(&own, DOMAIN, now).unwrap();
        let signer = Signer::generate().unwrap();
        let facts = TunnelFacts {
            id: TUNNEL.to_owned(),
            workspace: "wrkspc_1".to_owned(),
            domain: DOMAIN.to_owned(),
            cas: vec![ca(&own)],
        };
        Arc::new_cyclic(|weak| Self {
            ca: own,
            leaf: Mutex::new(leaf),
            tunnel: Mutex::new(Some(facts)),
            refusal: Mutex::default(),
            verifier: Verifier::new(vec![signer.key()], TUNNEL),
            signer,
            opened: AtomicUsize::new(0),
            ended: watch::Sender::new(0),
            seen: watch::Sender::default(),
            serve,
            weak: weak.clone(),
        })
    }

    pub(crate) fn client(self: &Arc<Self>) -> McpClient {
        self.client_with(limits(), PublicPolicy::default())
    }

    pub(crate) fn client_with(self: &Arc<Self>, limits: Limits, public: PublicPolicy) -> McpClient {
        McpClient::new(Arc::clone(self) as _, Arc::clone(self) as _, self.signer.clone(), public, limits)
    }

    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    pub(crate) fn rpcs(&self) -> Vec<String> {
        self.seen().iter().map(Seen::rpc).collect()
    }

    pub(crate) fn calls(&self) -> usize {
        self.rpcs().iter().filter(|method| *method == "tools/call").count()
    }

    /// Waits until a request with this method has come.
    pub(crate) async fn has_come(&self, rpc: &str) -> Seen {
        let mut seen = self.seen.subscribe();
        let come = seen.wait_for(|seen| seen.iter().any(|seen| seen.rpc() == rpc));
        let come = tokio::time::timeout(Duration::from_secs(10), come).await.expect("it comes").unwrap();
        come.iter().find(|seen| seen.rpc() == rpc).unwrap().clone()
    }

    /// What a request's identity says, once it is found good: each counts once.
    pub(crate) fn claims(&self, seen: &Seen) -> Claims {
        let token = seen.header("postern-identity").expect("each request carries an identity");
        self.verifier.verify(token, &body_digest(&seen.body), SystemTime::now()).expect("each identity is good")
    }

    fn acceptor(&self) -> TlsAcceptor {
        let leaf = self.leaf.lock().unwrap();
        #[expect(clippy::disallowed_methods, reason = "the test's server needs its key")]
        let key = PrivateKeyDer::from_pem_slice(leaf.key_pem.expose().as_bytes()).unwrap();
        let certificate = CertificateDer::from_pem_slice(leaf.certificate_pem.as_bytes()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }

    /// Serves one connection until it ends.
    pub(crate) async fn serve<S>(self: Arc<Self>, stream: S, lane: Lane)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let connection = self.opened.fetch_add(1, Ordering::SeqCst);
        if let Ok(stream) = self.acceptor().accept(stream).await {
            let service = service_fn(|request| Arc::clone(&self).answer(request, lane, connection));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        }
        self.ended.send_modify(|ended| *ended += 1);
    }

    async fn answer(self: Arc<Self>, request: Request<Incoming>, lane: Lane, connection: usize) -> io::Result<Answer> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        let path = parts.uri.path().to_owned();
        let seen = Seen { method: parts.method, path, headers: parts.headers, body, lane, connection };
        self.seen.send_modify(|all| all.push(seen.clone()));
        (self.serve)(seen).await
    }
}

impl Carry for World {
    fn open<'a>(&'a self, host: &'a str, lane: Lane) -> Opening<'a> {
        Box::pin(async move {
            if let Some(refusal) = self.refusal.lock().unwrap().clone() {
                return Err(refusal);
            }
            assert!(host.ends_with(DOMAIN), "{host}");
            let (ours, theirs) = tokio::io::duplex(64 * 1024);
            let world = self.weak.upgrade().expect("the world outlives its streams");
            tokio::spawn(world.serve(theirs, lane));
            Ok(Box::new(ours) as Stream)
        })
    }
}

impl Tunnels for World {
    fn tunnel_of(&self, host: &str) -> Option<TunnelFacts> {
        self.tunnel.lock().unwrap().clone().filter(|tunnel| host.ends_with(&format!(".{}", tunnel.domain)))
    }

    fn tunnel_of_route(&self, workspace: &str, url: &str) -> Option<TunnelFacts> {
        let is_known = workspace == "wrkspc_1" && url == "https://public.example/mcp";
        self.tunnel.lock().unwrap().clone().filter(|_| is_known)
    }

    fn is_tunnel_host(&self, host: &str) -> bool {
        host.ends_with(".tunnel.localhost")
    }
}

pub(crate) fn limits() -> Limits {
    Limits { initialize: Duration::from_secs(10), call: Duration::from_secs(10), ..Limits::default() }
}

pub(crate) fn facts() -> CallerFacts {
    CallerFacts {
        workspace: "wrkspc_1".to_owned(),
        session: "sesn_1".to_owned(),
        agent: "agent_1".to_owned(),
        agent_version: 2,
        definition_digest: "sha256:00".to_owned(),
        environment: "env_1".to_owned(),
    }
}

pub(crate) async fn connect(client: &McpClient, url: &str) -> Result<Arc<dyn McpConnection>, McpFailure> {
    client.connect(facts(), McpServer { name: "wiki".to_owned(), url: url.to_owned() }, None).await
}

pub(crate) async fn call(connection: &Arc<dyn McpConnection>, text: &str) -> Result<ToolResult, McpFailure> {
    connection.call("sevt_1".to_owned(), "echo".to_owned(), arguments(text)).await
}

pub(crate) fn arguments(text: &str) -> Map<String, Value> {
    Map::from_iter([("text".to_owned(), text.into())])
}

pub(crate) fn full(status: u16, headers: &[(&str, &str)], body: impl Into<Bytes>) -> Answer {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    response.body(Full::new(body.into()).map_err(|never| match never {}).boxed()).unwrap()
}

pub(crate) fn json_answer(body: &Value) -> Answer {
    full(200, &[("content-type", "application/json")], body.to_string())
}

/// An event stream of these chunks, which then ends, or stays open.
pub(crate) fn events(chunks: Vec<String>, stays_open: bool) -> Answer {
    let frames = futures_util::stream::unfold(chunks.into_iter(), move |mut chunks| async move {
        match chunks.next() {
            Some(chunk) => Some((Ok(Frame::data(Bytes::from(chunk))), chunks)),
            None if stays_open => std::future::pending().await,
            None => None,
        }
    });
    let body = BodyExt::boxed(StreamBody::new(frames));
    Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
}

/// An answer of which the connection breaks after its first bytes.
pub(crate) fn cut_short(kind: &str, first: &'static str) -> Answer {
    let frames = [Ok(Frame::data(Bytes::from_static(first.as_bytes()))), Err(io::Error::other("cut"))];
    let body = BodyExt::boxed(StreamBody::new(futures_util::stream::iter(frames)));
    Response::builder().header("content-type", kind).body(body).unwrap()
}

/// The answer of a server that keeps to the protocol, with sessions.
pub(crate) fn good(seen: &Seen) -> Answer {
    let message = seen.json();
    let id = &message["id"];
    let result = |result: Value| json!({"jsonrpc": "2.0", "id": id, "result": result});
    match seen.rpc().as_str() {
        "initialize" => {
            let version = message["params"]["protocolVersion"].clone();
            let result = result(json!({
                "protocolVersion": version, "capabilities": {"tools": {}},
                "serverInfo": {"name": "scripted", "version": "1"},
            }));
            let headers = [("content-type", "application/json"), ("mcp-session-id", "mcp-1")];
            full(200, &headers, result.to_string())
        }
        "tools/list" => json_answer(&result(json!({"tools": [{"name": "echo", "inputSchema": {"type": "object"}}]}))),
        "tools/call" => {
            let text = message["params"]["arguments"]["text"].clone();
            json_answer(&result(json!({"content": [{"type": "text", "text": text}]})))
        }
        "DELETE" => full(204, &[], ""),
        _ => full(202, &[], ""),
    }
}

/// A server that keeps to the protocol but in its answer to calls.
pub(crate) fn answering_calls(
    answer: impl Fn(Seen) -> BoxFuture<'static, io::Result<Answer>> + Send + Sync + 'static,
) -> Serve {
    Arc::new(move |seen: Seen| match seen.rpc() == "tools/call" {
        true => answer(seen),
        false => Box::pin(async move { Ok(good(&seen)) }),
    })
}

pub(crate) fn good_server() -> Serve {
    Arc::new(|seen: Seen| Box::pin(async move { Ok(good(&seen)) }))
}

pub(crate) fn texts(result: &ToolResult) -> Vec<String> {
    let text = |block: &postern_model::content::Block| match block {
        postern_model::content::Block::Text { text } => text.clone(),
        other => other.kind().to_owned(),
    };
    result.content.iter().map(text).collect()
}

/// How often each connection was used.
pub(crate) fn by_connection(seen: &[Seen]) -> HashMap<usize, usize> {
    let mut uses = HashMap::new();
    for seen in seen {
        *uses.entry(seen.connection).or_default() += 1;
    }
    uses
}
