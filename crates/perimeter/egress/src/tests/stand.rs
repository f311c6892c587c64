//! The stand that tests are run on: one session with its sockets on loopback, and a client inside it.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, RwLock},
    time::Duration,
};

use postern_audit::{Kind, Memory, Record};
use postern_custody::{Kept, Purpose, UseGrant, VaultGrant};
use postern_exec::lease::{Held, Lease};
use postern_net::{Dialer, LookingUp, Resolver};
use postern_policy::{CredentialName, Document, Zones, document::DocumentText};
use postern_secret::{Placeholder, SecretBytes};
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_rustls::TlsConnector;

use super::recorder::Between;
use super::upstream::{Upstream, dechunk, find};
use crate::{
    custodian::{Custodian, IssuedPlaceholder, Later, NotGranted},
    limits::Bounds,
    message::{Answer, OpenSession, Question, SessionPlaceholder, Socket},
    phases::accept::OriginSource,
    recognise::Catalogue,
    registry::Registry,
    session::Perimeter,
};

/// The secret that must never be seen inside.
pub(super) const SECRET: &str = "sk-live/7Qm2x9Zt4Lw8+Vb3N&\"K";
pub(super) const SESSION: &str = "sesn_one";

/// How a client gets out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Redirected: proxy variables unset.
    Redirect,
    /// Through the explicit proxy.
    Proxy,
}

pub(super) const WAYS: [Way; 2] = [Way::Redirect, Way::Proxy];

/// Whom a connection was made to, by the client's port.
#[derive(Default)]
pub(super) struct Origins(Mutex<HashMap<SocketAddr, SocketAddr>>);

impl OriginSource for Origins {
    fn original(&self, stream: &TcpStream) -> io::Result<SocketAddr> {
        let known = self.0.lock().unwrap().get(&stream.peer_addr()?).copied();
        known.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
    }
}

/// A resolver that answers what a test says, each answer once and the last one for ever.
#[derive(Debug, Default)]
pub(super) struct Names {
    answers: Mutex<VecDeque<Vec<IpAddr>>>,
    asked: Mutex<Vec<String>>,
}

impl Names {
    pub(super) fn answer(&self, answers: &[&[&str]]) {
        let parsed = |answer: &&[&str]| answer.iter().map(|address| address.parse().unwrap()).collect();
        *self.answers.lock().unwrap() = answers.iter().map(parsed).collect();
        self.asked.lock().unwrap().clear();
    }

    pub(super) fn asked(&self) -> Vec<String> {
        self.asked.lock().unwrap().clone()
    }
}

impl Resolver for Names {
    fn look_up<'a>(&'a self, host: &'a str, _: u16) -> LookingUp<'a> {
        self.asked.lock().unwrap().push(host.to_owned());
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.pop_front() } else { answers.front().cloned() };
        Box::pin(std::future::ready(answer.ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))))
    }
}

/// A custody in memory.
pub(super) struct Custody {
    pub(super) secrets: Mutex<HashMap<String, String>>,
    pub(super) issued: Mutex<Vec<IssuedPlaceholder>>,
    pub(super) revoked: Mutex<Vec<String>>,
    /// Where there is one, what is granted for injection may be used again until it ends.
    pub(super) lease: Mutex<Option<Lease>>,
    /// What stands behind a credential of a vault.
    pub(super) vault: Mutex<HashMap<String, VaultGrant>>,
    /// What was granted for injection, in order.
    pub(super) granted: Mutex<Vec<String>>,
}

impl Custodian for Custody {
    fn grant<'a>(
        &'a self,
        _session: &'a str,
        credential: &'a CredentialName,
        _policy_digest: &'a str,
        purpose: Purpose,
    ) -> Later<'a, Result<UseGrant, NotGranted>> {
        let secret = self.secrets.lock().unwrap().get(credential.as_str()).cloned();
        let granted = secret.map(|secret| {
            let injected = purpose == Purpose::Inject;
            if injected {
                self.granted.lock().unwrap().push(secret.clone());
            }
            let lease = self.lease.lock().unwrap();
            let kept = lease.as_ref().filter(|_| injected).map(|lease| Kept::by(Held::new(lease.give().unwrap())));
            let vault = self.vault.lock().unwrap().get(credential.as_str()).cloned();
            UseGrant { secret: SecretBytes::new(secret.into_bytes()), kept, vault }
        });
        Box::pin(std::future::ready(granted.ok_or_else(|| NotGranted("not granted".to_owned()))))
    }

    fn revoked<'a>(&'a self, _session: &'a str, credential: &'a CredentialName) -> Later<'a, Result<(), NotGranted>> {
        self.revoked.lock().unwrap().push(credential.as_str().to_owned());
        Box::pin(std::future::ready(Ok(())))
    }

    fn placeholders(&self) -> Later<'_, Result<Vec<IssuedPlaceholder>, NotGranted>> {
        Box::pin(std::future::ready(Ok(self.issued.lock().unwrap().clone())))
    }
}

/// Everything together.
pub(super) struct Stand {
    pub(super) upstream: Upstream,
    pub(super) audit: Memory,
    pub(super) recorder: Arc<Between>,
    pub(super) custody: Arc<Custody>,
    pub(super) registry: Registry,
    pub(super) document: DocumentText,
    pub(super) perimeter: Arc<Perimeter>,
    pub(super) placeholder: String,
    /// Of what a test added, by credential.
    pub(super) added: HashMap<String, String>,
    pub(super) others_placeholder: String,
    pub(super) dead_placeholder: String,
    pub(super) shaped_placeholder: String,
    pub(super) redirect: SocketAddr,
    pub(super) proxy: SocketAddr,
    pub(super) dns_udp: SocketAddr,
    pub(super) dns_tcp: SocketAddr,
    pub(super) ca: CertificateDer<'static>,
    origins: Arc<Origins>,
    pub(super) names: Arc<Names>,
}

/// A response as a client sees it.
#[derive(Debug, Default, Clone)]
pub(super) struct Seen {
    pub(super) status: u16,
    pub(super) head: String,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn reason(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(problem.get("reason")?.as_str()?.to_owned())
    }

    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(super) fn header(&self, name: &str) -> Option<String> {
        self.head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        })
    }
}

/// What a test adds to the stand's zone: text of it, and secrets by the names of their credentials.
#[derive(Clone, Copy)]
pub(super) struct More {
    pub(super) zone: fn(&Upstream) -> String,
    pub(super) secrets: &'static [(&'static str, &'static str)],
}

const NOTHING_MORE: More = More { zone: |_| String::new(), secrets: &[] };

fn zones(upstream: &Upstream) -> String {
    let (https, http) = (upstream.https, upstream.http);
    let rule = |host: &str, scheme: &str, port: u16, more: &str| {
        format!("[[zone.t.egress]]\nhost = \"{host}\"\nscheme = \"{scheme}\"\nports = [{port}]\n{more}\n")
    };
    let local = |address: SocketAddr| format!("connect = \"{address}\"\naddresses = [\"127.0.0.0/8\"]\n");
    let ca = "ca_file = \"ca.pem\"\n";
    let mut text = "config = 1\n[zone.t]\nenvironment = \"default\"\nagents = [\"*\"]\n".to_owned();
    text += "[[zone.t.credential]]\nname = \"key\"\nsource = \"env:KEY\"\nenv = \"KEY\"\n";
    text += "inject = [{ header = \"authorization\" }, { header = \"x-api-key\" }, { basic = \"password\" }]\n";
    text += &rule(
        "api.test",
        "https",
        443,
        &format!(
            "{}{ca}methods = [\"GET\", \"POST\", \"PUT\", \"HEAD\"]\npaths = [\"/v1/**\"]\ncredential = \"key\"",
            local(https)
        ),
    );
    text += &rule("api.test", "http", 80, &local(http));
    text += &rule("api.test", "https", 8443, &format!("{}{ca}", local(https)));
    text += &rule("plain.test", "http", 80, &format!("{}credential = \"key\"", local(http)));
    text += &rule("other.test", "https", 443, &format!("{}{ca}", local(https)));
    text += &rule("open.test", "http", 80, &local(http));
    text += &rule("*.any.test", "http", 80, &local(http));
    text += &rule("untrusted.test", "https", 443, &local(https));
    text += &rule("wrongname.test", "https", 443, &format!("{}{ca}", local(https)));
    text += &rule("ws.test", "https", 443, &format!("{}{ca}credential = \"key\"\nwebsocket = true", local(https)));
    text += &rule("ws.test", "http", 80, &format!("{}websocket = true", local(http)));
    // Nothing to dial but what these resolve to; the first names no address.
    text += &rule("gate.test", "http", 80, "");
    text += &rule("gate.test", "https", 443, ca);
    text += &rule("bound.test", "http", http.port(), "addresses = [\"127.0.0.0/8\"]\n");
    text += &rule("closed.test", "http", 80, "connect = \"127.0.0.1:1\"\naddresses = [\"127.0.0.0/8\"]\n");
    text
}

impl Stand {
    pub(super) async fn start() -> Self {
        Self::with(Bounds::default()).await
    }

    pub(super) async fn with(bounds: Bounds) -> Self {
        Self::with_more(bounds, NOTHING_MORE).await
    }

    pub(super) async fn with_more(bounds: Bounds, more: More) -> Self {
        let audit = Memory::new();
        let counted = audit.clone();
        let recorder = Arc::new(Between::before(audit.clone()));
        let upstream = Upstream::start(Arc::new(move || counted.records().len())).await;
        let issue = || Placeholder::issue(SECRET.len(), None);
        let (own, others, dead) = (issue(), issue(), issue());
        let shape = postern_secret::Shape::try_from("ghp_*".to_owned()).unwrap();
        let shaped = Placeholder::issue(SECRET.len(), Some(&shape));
        let placeholder = own.as_str().to_owned();
        let issued = |session: &str, placeholder: &Placeholder, alive| IssuedPlaceholder {
            session: session.to_owned(),
            credential: CredentialName::new("key"),
            placeholder: placeholder.clone(),
            alive,
        };
        let added: Vec<_> = more
            .secrets
            .iter()
            .map(|(name, secret)| IssuedPlaceholder {
                session: SESSION.to_owned(),
                credential: CredentialName::new(*name),
                placeholder: Placeholder::issue(secret.len(), None),
                alive: true,
            })
            .collect();
        let mut known = vec![
            issued(SESSION, &own, true),
            issued("sesn_two", &others, true),
            issued(SESSION, &dead, false),
            issued("sesn_two", &shaped, true),
        ];
        known.extend(added.iter().cloned());
        let secrets = std::iter::once(&("key", SECRET)).chain(more.secrets);
        let custody = Arc::new(Custody {
            secrets: Mutex::new(secrets.map(|(name, secret)| ((*name).to_owned(), (*secret).to_owned())).collect()),
            issued: Mutex::new(known),
            revoked: Mutex::default(),
            lease: Mutex::default(),
            vault: Mutex::default(),
            granted: Mutex::default(),
        });
        let added: HashMap<String, String> =
            added.iter().map(|one| (one.credential.to_string(), one.placeholder.to_string())).collect();
        let placeholders = std::iter::once(("key".to_owned(), placeholder.clone()))
            .chain(added.clone())
            .map(|(credential, placeholder)| SessionPlaceholder { credential, placeholder })
            .collect();
        let document = DocumentText {
            file: "postern.toml".to_owned(),
            text: zones(&upstream) + &(more.zone)(&upstream),
            attachments: BTreeMap::from([("ca.pem".to_owned(), upstream.ca_pem.clone())]),
        };
        let environments = BTreeMap::from([("default".to_owned(), "env_one".to_owned())]);
        let zones = Zones::load(&Document::from_text(document.clone()).unwrap(), &environments).unwrap();
        let digest = zones.named("t").unwrap().digest().to_owned();
        let origins = Arc::new(Origins::default());
        let resolver = Arc::new(Names::default());
        let perimeter = Arc::new(Perimeter {
            audit: recorder.clone(),
            custody: custody.clone(),
            dialer: Dialer::with_resolver(resolver.clone()),
            origins: origins.clone(),
            trust: Default::default(),
            bounds,
            connections: Arc::new(Semaphore::new(crate::limits::CONNECTIONS_TOTAL)),
            catalogue: RwLock::new(Arc::new(Catalogue::new(Vec::new()))),
        });
        let registry = Registry::new(zones, perimeter.clone());
        let opened = registry
            .answer(
                Question::Open(OpenSession {
                    session: SESSION.to_owned(),
                    agent: Some("agent_x@1".to_owned()),
                    zone_name: "t".to_owned(),
                    digest,
                    placeholders,
                    repositories: Vec::new(),
                }),
                Vec::new(),
            )
            .await;
        let Answer::Opened(opened) = opened else { panic!("{opened:?}") };
        let tcp = || std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        let (redirect, proxy, dns) = (tcp(), tcp(), tcp());
        let stand = Self {
            audit,
            recorder,
            custody,
            placeholder,
            added,
            others_placeholder: others.as_str().to_owned(),
            dead_placeholder: dead.as_str().to_owned(),
            shaped_placeholder: shaped.as_str().to_owned(),
            redirect: redirect.local_addr().unwrap(),
            proxy: proxy.local_addr().unwrap(),
            dns_udp: udp.local_addr().unwrap(),
            dns_tcp: dns.local_addr().unwrap(),
            ca: CertificateDer::from_pem_slice(opened.ca_certificate_pem.as_bytes()).unwrap(),
            origins,
            names: resolver,
            upstream,
            registry,
            document,
            perimeter,
        };
        let sockets = vec![Socket::RedirectV4, Socket::Proxy, Socket::DnsUdpV4, Socket::DnsTcpV4];
        let attach = Question::Attach { session: SESSION.to_owned(), sockets };
        let answer = stand.registry.answer(attach, vec![redirect.into(), proxy.into(), udp.into(), dns.into()]).await;
        assert!(matches!(answer, Answer::Done), "{answer:?}");
        stand
    }

    /// Asks the session's DNS for an address of `name`.
    pub(super) async fn resolve(&self, name: &str) -> std::net::IpAddr {
        use hickory_proto::{
            op::{Message, Query},
            rr::{Name, RData, RecordType},
        };
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.send_to(&question.to_vec().unwrap(), self.dns_udp).await.unwrap();
        let mut answer = vec![0; 2048];
        let length = timeout(PATIENCE, socket.recv(&mut answer)).await.unwrap().unwrap();
        let answer = Message::from_vec(&answer[..length]).unwrap();
        match &answer.answers[0].data {
            RData::A(address) => address.0.into(),
            other => panic!("{other:?}"),
        }
    }

    /// A connection that was redirected on its way to `original`.
    pub(super) async fn redirected(&self, original: SocketAddr) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        self.origins.0.lock().unwrap().insert(socket.local_addr().unwrap(), original);
        let stream = socket.connect(self.redirect).await.unwrap();
        stream.set_nodelay(true).unwrap();
        stream
    }

    /// A connection towards `host:port`, as a client that resolves, or uses the proxy, would make it.
    pub(super) async fn towards(&self, way: Way, host: &str, port: u16) -> TcpStream {
        match way {
            Way::Redirect => {
                let address = match host.parse() {
                    Ok(address) => address,
                    Err(_) => self.resolve(host).await,
                };
                self.redirected(SocketAddr::new(address, port)).await
            }
            Way::Proxy => {
                let mut stream = TcpStream::connect(self.proxy).await.unwrap();
                stream.set_nodelay(true).unwrap();
                let connect = format!("CONNECT {host}:{port} HTTP/1.1\r\nhost: {host}:{port}\r\n\r\n");
                stream.write_all(connect.as_bytes()).await.unwrap();
                let mut answer = Vec::new();
                while find(&answer, b"\r\n\r\n").is_none() {
                    let mut byte = [0];
                    assert_eq!(
                        timeout(PATIENCE, stream.read(&mut byte)).await.unwrap().unwrap(),
                        1,
                        "CONNECT answered"
                    );
                    answer.push(byte[0]);
                }
                assert!(answer.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&answer));
                stream
            }
        }
    }

    /// TLS over a connection, trusting the session's CA alone.
    pub(super) async fn tls(
        &self,
        stream: TcpStream,
        name: &str,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.tls_with(stream, name, true).await
    }

    pub(super) async fn tls_with(
        &self,
        stream: TcpStream,
        name: &str,
        sni: bool,
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        self.tls_offering(stream, name, sni, &["http/1.1"]).await
    }

    /// The same, with what the client says it speaks.
    pub(super) async fn tls_offering(
        &self,
        stream: TcpStream,
        name: &str,
        sni: bool,
        protocols: &[&str],
    ) -> io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.ca.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut settings = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        settings.enable_sni = sni;
        settings.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsConnector::from(Arc::new(settings)).connect(ServerName::try_from(name.to_owned()).unwrap(), stream).await
    }

    /// Sends raw bytes to a URL's host, by either way, and reads one response. `http` through the proxy is absolute form.
    pub(super) async fn send(&self, way: Way, scheme: &str, host: &str, port: u16, request: &[u8]) -> Seen {
        match (scheme, way) {
            ("https", _) => {
                let stream = self.towards(way, host, port).await;
                let mut stream = self.tls(stream, host).await.unwrap();
                talk(&mut stream, request).await
            }
            (_, Way::Redirect) => talk(&mut self.towards(way, host, port).await, request).await,
            (_, Way::Proxy) => {
                let text = String::from_utf8_lossy(request).into_owned();
                let (method, rest) = text.split_once(' ').unwrap();
                let authority = if port == 80 { host.to_owned() } else { format!("{host}:{port}") };
                let absolute = format!("{method} http://{authority}{rest}");
                let mut stream = TcpStream::connect(self.proxy).await.unwrap();
                talk(&mut stream, absolute.as_bytes()).await
            }
        }
    }

    /// A GET with headers.
    pub(super) async fn get(
        &self,
        way: Way,
        scheme: &str,
        host: &str,
        port: u16,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Seen {
        self.send(way, scheme, host, port, &get(scheme, host, port, path, headers)).await
    }

    /// The first record of a kind, from a position on.
    pub(super) fn record(&self, kind: Kind, from: usize) -> Option<Record> {
        self.audit.records().into_iter().skip(from).find(|record| record.kind == kind)
    }

    pub(super) async fn refusals(&self) -> Vec<crate::message::Refusal> {
        match self.registry.answer(Question::Refusals { session: SESSION.to_owned() }, Vec::new()).await {
            Answer::Refusals { refusals } => refusals,
            other => panic!("{other:?}"),
        }
    }

    /// The one session.
    pub(super) fn session(&self) -> Arc<crate::session::Session> {
        self.registry.session(SESSION).unwrap()
    }

    pub(super) async fn ask(&self, question: Question) -> Answer {
        self.registry.answer(question, Vec::new()).await
    }
}

pub(super) fn get(scheme: &str, host: &str, port: u16, path: &str, headers: &[(&str, &str)]) -> Vec<u8> {
    let default = if scheme == "https" { 443 } else { 80 };
    let authority = if port == default { host.to_owned() } else { format!("{host}:{port}") };
    let mut text = format!("GET {path} HTTP/1.1\r\nhost: {authority}\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    text.into_bytes()
}

pub(super) fn post(host: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n", body.len());
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str("\r\n");
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// Sends a request with the session's placeholder; answers what the upstream was sent in its place.
pub(super) async fn talk_anew(stand: &Stand) -> String {
    let bearer = format!("Bearer {}", stand.placeholder);
    // No other request has this path: the log grows with each.
    let marked = format!("/v1/{:016x}", stand.audit.records().len());
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, &marked, &[("authorization", &bearer)]).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    let received = stand.upstream.received();
    let mine = received.iter().find(|request| request.head.contains(&marked)).unwrap();
    mine.header("authorization").unwrap()
}

/// Reads up to the end of a head and no further.
/// The session's placeholder as a bearer.
pub(super) fn bearer(stand: &Stand) -> String {
    format!("Bearer {}", stand.placeholder)
}

pub(super) async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> String {
    let mut head = Vec::new();
    while find(&head, b"\r\n\r\n").is_none() {
        let byte = timeout(PATIENCE, stream.read_u8()).await.expect("a head in time").unwrap();
        head.push(byte);
    }
    String::from_utf8(head).unwrap()
}

/// Writes a request and reads one response.
pub(super) async fn talk<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> Seen {
    // The answer may come before the whole request is taken.
    let _early = stream.write_all(request).await;
    let _ended = stream.flush().await;
    read_response(stream).await
}

pub(super) async fn read_response<S: AsyncRead + Unpin>(stream: &mut S) -> Seen {
    let mut buffer = Vec::new();
    loop {
        if let Some(end) = find(&buffer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end + 4]).into_owned();
            let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
            if status == 100 {
                buffer.drain(..end + 4);
                continue;
            }
            let mut seen = Seen { status, head, body: Vec::new() };
            let body = &buffer[end + 4..];
            if let Some(length) = seen.header("content-length").and_then(|length| length.parse::<usize>().ok()) {
                if body.len() >= length {
                    seen.body = body[..length].to_vec();
                    return seen;
                }
            } else if seen.header("transfer-encoding").is_some() {
                if body.ends_with(b"0\r\n\r\n") {
                    seen.body = dechunk(body);
                    return seen;
                }
            } else if status == 204 || status == 304 {
                return seen;
            }
        }
        let mut piece = vec![0; 65536];
        match timeout(PATIENCE, stream.read(&mut piece)).await.expect("an answer in time") {
            Ok(count) if count > 0 => buffer.extend_from_slice(&piece[..count]),
            _ => {
                let end = find(&buffer, b"\r\n\r\n").map_or(buffer.len(), |at| at + 4);
                let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
                // Cut short: status 0 marks it.
                return Seen { status: 0, head, body: buffer[end..].to_vec() };
            }
        }
    }
}

/// Longer than anything here takes; shorter than a test's limit.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
