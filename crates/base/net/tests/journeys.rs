//! The client against real listeners on loopback: slow, closing, streaming, plain and TLS. Servers here are scripts of
//! raw bytes, so that what they send is exactly what the test says.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests play the peers")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::Full;
use postern_net::tls::TlsRoots;
use postern_net::upgrade::Upgrade;
use postern_net::{ClientError, DialError, Dialer, HttpClient, LookingUp, Resolver, limits};
use postern_policy::{ConfiguredPermit, Endpoint, configured};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

const PATIENCE: Duration = Duration::from_secs(20);

fn permit(url: &str) -> ConfiguredPermit {
    configured(&url.parse::<Endpoint>().unwrap())
}

fn get(path: &str) -> Request<Full<Bytes>> {
    Request::builder().method(Method::GET).uri(path).body(Full::default()).unwrap()
}

/// Reads one request's head; `None` where the peer has closed.
async fn head<S: AsyncRead + Unpin>(stream: &mut S) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    String::from_utf8(head).ok()
}

/// Answers every request on a connection with the same bytes.
async fn repeat<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, answer: &[u8]) {
    while head(&mut stream).await.is_some() {
        if stream.write_all(answer).await.is_err() {
            return;
        }
    }
}

/// A server that counts its connections and gives each request the same answer.
async fn server(answer: &'static [u8]) -> (String, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            counter.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(repeat(stream, answer));
        }
    });
    (url, connections)
}

fn client(url: &str) -> HttpClient {
    HttpClient::new(permit(url), &TlsRoots::Only(Vec::new())).unwrap()
}

#[tokio::test]
async fn a_connection_is_used_again_once_its_answer_is_read() {
    let (url, connections) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let client = client(&url);
    for _ in 0..5 {
        let response = client.request(get("/x"), PATIENCE).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.into_body().bytes(10).await.unwrap(), "ok");
    }
    assert_eq!(connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_connection_whose_answer_was_dropped_is_not_used_again() {
    let (url, connections) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\no").await;
    let client = client(&url);
    for _ in 0..3 {
        drop(client.request(get("/"), PATIENCE).await.unwrap());
    }
    assert_eq!(connections.load(Ordering::SeqCst), 3);
}

#[tokio::test]
async fn a_connection_that_the_peer_closed_while_idle_is_replaced() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&format!("http://{}", listener.local_addr().unwrap()));
    let server = tokio::spawn(async move {
        for _ in 0..3 {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await.unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    });
    for _ in 0..3 {
        let response = client.request(get("/"), PATIENCE).await.unwrap();
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
    }
    server.await.unwrap();
}

#[tokio::test]
async fn the_base_path_and_the_host_are_those_of_the_endpoint() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let client = client(&format!("http://{address}/gateway/"));
    let request = tokio::spawn(async move { client.request(get("/v1/messages?beta=true"), PATIENCE).await });
    let (mut stream, _) = listener.accept().await.unwrap();
    let head = head(&mut stream).await.unwrap();
    stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
    request.await.unwrap().unwrap();
    assert!(head.starts_with("GET /gateway/v1/messages?beta=true HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("host: {address}\r\n")), "{head}");
}

#[tokio::test]
async fn events_are_decoded_from_a_chunked_body_as_they_arrive() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&format!("http://{}", listener.local_addr().unwrap()));
    let (go_on, may_go_on) = tokio::sync::oneshot::channel::<()>();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head(&mut stream).await.unwrap();
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            .await
            .unwrap();
        stream.write_all(b"1b\r\nevent: a\r\ndata: {\"x\":1}\r\n\r\n\r\n").await.unwrap();
        // The second event comes only after the client has seen the first: nothing may be held back.
        may_go_on.await.unwrap();
        stream.write_all(b"9\r\ndata: spl\r\n7\r\nit\n\ndat\r\n0\r\n\r\n").await.unwrap();
    });
    let mut body = client.request(get("/"), PATIENCE).await.unwrap().into_body();
    let mut decoder = postern_net::sse::Decoder::default();
    let mut events = Vec::new();
    let mut go_on = Some(go_on);
    while let Some(chunk) = body.chunk().await.unwrap() {
        events.extend(decoder.push(&chunk).unwrap());
        if !events.is_empty() {
            go_on.take().map(|go_on| go_on.send(()));
        }
    }
    let seen: Vec<_> = events.iter().map(|event| (event.event.as_str(), event.data.as_str())).collect();
    assert_eq!(seen, [("a", "{\"x\":1}"), ("message", "split")]);
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_slow() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = client(&format!("http://{}", listener.local_addr().unwrap()));
    let error = client.request(get("/"), Duration::from_millis(50)).await.err().unwrap();
    assert!(matches!(error, ClientError::Slow { .. }) && !error.is_unsent(), "{error:?}");
    drop(listener);
}

#[tokio::test]
async fn a_body_that_stops_without_ending_is_silent() {
    let (url, _) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nabc").await;
    let body = client(&url).request(get("/"), PATIENCE).await.unwrap().into_body();
    let error = body.with_silence(Duration::from_millis(50)).bytes(100).await.unwrap_err();
    assert!(matches!(error, ClientError::Silent(_)), "{error:?}");
}

#[tokio::test]
async fn a_body_beyond_the_callers_limit_is_refused() {
    let (url, _) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n0123456789").await;
    let error = client(&url).request(get("/"), PATIENCE).await.unwrap().into_body().bytes(9).await.unwrap_err();
    assert!(matches!(error, ClientError::TooLarge(9)), "{error:?}");
}

#[tokio::test]
async fn a_peer_that_speaks_no_http_or_closes_is_a_broken_exchange() {
    for answer in [&b"SSH-2.0-OpenSSH_9.2\r\n\r\n"[..], b"HTTP/1.1 200 OK\r\ncontent-le"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = client(&format!("http://{}", listener.local_addr().unwrap()));
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            head(&mut stream).await.unwrap();
            stream.write_all(answer).await.unwrap();
        });
        let error = client.request(get("/"), PATIENCE).await.err().unwrap();
        assert!(matches!(error, ClientError::Exchange { .. }), "{error:?}");
    }
}

#[tokio::test]
async fn nobody_listening_is_a_failed_dial_and_certainly_unsent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let error = client(&url).request(get("/"), PATIENCE).await.err().unwrap();
    assert!(
        matches!(error, ClientError::Dial { source: DialError::Connect { .. }, .. }) && error.is_unsent(),
        "{error:?}"
    );
}

#[tokio::test]
async fn our_own_server_is_reached_by_its_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("operator.sock");
    let error = HttpClient::unix(&path).request(get("/"), PATIENCE).await.err().unwrap();
    assert!(matches!(error, ClientError::Unix { .. }), "{error:?}");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        repeat(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    });
    let client = HttpClient::unix(&path);
    for _ in 0..2 {
        let response = client.request(get("/v1/agents"), PATIENCE).await.unwrap();
        assert_eq!(response.into_body().bytes(10).await.unwrap(), "ok");
    }
}

/// A TLS server for `localhost` and 127.0.0.1 with a CA of its own; its port and the CA's certificate.
async fn tls_server() -> (u16, String) {
    tls_server_that(|stream| repeat(stream, b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")).await
}

async fn tls_server_that<F>(serve: impl Fn(TlsStream<TcpStream>) -> F + Clone + Send + Sync + 'static) -> (u16, String)
where
    F: Future<Output = ()> + Send,
{
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let leaf_key = rcgen::KeyPair::generate().unwrap();
    let names = vec!["localhost".to_owned(), "127.0.0.1".to_owned()];
    let leaf = rcgen::CertificateParams::new(names).unwrap().signed_by(&leaf_key, &issuer).unwrap();
    let private = rustls::pki_types::PrivateKeyDer::try_from(leaf_key.serialize_der()).unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], private)
        .unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, serve) = (acceptor.clone(), serve.clone());
            tokio::spawn(async move {
                if let Ok(stream) = acceptor.accept(stream).await {
                    serve(stream).await;
                }
            });
        }
    });
    (port, ca.pem())
}

#[tokio::test]
async fn a_server_that_the_given_ca_signed_is_trusted_by_name_and_by_address() {
    let (port, ca) = tls_server().await;
    for host in ["localhost", "127.0.0.1"] {
        let roots = TlsRoots::only_pem(ca.as_bytes()).unwrap();
        let client = HttpClient::new(permit(&format!("https://{host}:{port}")), &roots).unwrap();
        let response = client.request(get("/"), PATIENCE).await.unwrap();
        assert_eq!(response.into_body().bytes(10).await.unwrap(), "ok");
    }
}

#[tokio::test]
async fn an_upgrade_goes_over_tls_and_to_no_server_that_another_ca_signed() {
    let echo = |mut stream: TlsStream<TcpStream>| async move {
        let Some(head) = head(&mut stream).await else { return };
        assert!(head.contains("upgrade: echo/1"), "{head}");
        // The first of what follows comes with the head.
        let answer = b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: echo/1\r\n\r\nfirst";
        stream.write_all(answer).await.unwrap();
        let mut bytes = [0; 4];
        stream.read_exact(&mut bytes).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
    };
    let (port, ca) = tls_server_that(echo).await;
    let client = |ca: &str| {
        let roots = TlsRoots::only_pem(ca.as_bytes()).unwrap();
        HttpClient::new(permit(&format!("https://localhost:{port}")), &roots).unwrap()
    };
    let switched = client(&ca).upgrade("/", "echo/1", HeaderMap::new(), PATIENCE).await.unwrap();
    let Upgrade::Switched { mut stream, .. } = switched else { panic!("not switched") };
    stream.write_all(b"more").await.unwrap();
    let mut said = Vec::new();
    stream.read_to_end(&mut said).await.unwrap();
    assert_eq!(said, b"firstmore");
    let (_, other_ca) = tls_server().await;
    assert!(client(&other_ca).upgrade("/", "echo/1", HeaderMap::new(), PATIENCE).await.is_err());
}

#[tokio::test]
async fn a_server_that_another_ca_signed_is_refused_before_anything_is_sent() {
    let (port, _) = tls_server().await;
    let (_, other_ca) = tls_server().await;
    let roots = TlsRoots::only_pem(other_ca.as_bytes()).unwrap();
    let client = HttpClient::new(permit(&format!("https://localhost:{port}")), &roots).unwrap();
    let error = client.request(get("/"), PATIENCE).await.err().unwrap();
    assert!(matches!(error, ClientError::Tls { .. }) && error.is_unsent(), "{error:?}");
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let (port, ca) = tls_server().await;
    let config = postern_net::tls::client_config(&TlsRoots::only_pem(ca.as_bytes()).unwrap(), &[]).unwrap();
    let stream = Dialer::new().reach(&permit(&format!("https://127.0.0.1:{port}"))).await.unwrap();
    assert!(postern_net::tls::connect(config, "ledger.internal", stream).await.is_err());
}

#[test]
fn a_file_without_certificates_is_no_list_of_roots() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    assert!(matches!(TlsRoots::only_file(&path), Err(postern_net::TlsError::Read { .. })));
    std::fs::write(&path, "no certificate").unwrap();
    assert!(matches!(TlsRoots::only_file(&path), Err(postern_net::TlsError::NoCertificate { .. })));
    std::fs::write(&path, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n").unwrap();
    let roots = TlsRoots::only_file(&path).unwrap();
    assert!(postern_net::tls::client_config(&roots, &[]).is_err());
}

#[tokio::test]
async fn a_dead_address_does_not_keep_a_living_one_waiting() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let living = permit(&format!("http://127.0.0.1:{port}"));
    // Nobody listens on this loopback address.
    let dead = permit(&format!("http://127.0.0.77:{port}"));
    let dialer = Dialer::new();
    let permits = [dialer.permitted(&dead).await.unwrap(), dialer.permitted(&living).await.unwrap()].concat();
    let stream = Dialer::new().dial_any(&permits).await.unwrap();
    assert_eq!(stream.peer_addr().unwrap().port(), port);
    let error = Dialer::new().dial_any(&permits[..1]).await.unwrap_err();
    assert!(matches!(error, DialError::Connect { .. }), "{error:?}");
    assert!(matches!(Dialer::new().dial_any(&[]).await, Err(DialError::NoPermit)));
}

#[tokio::test]
async fn names_resolve_after_the_permit_and_metadata_addresses_are_refused() {
    let dialer = Dialer::new();
    let addresses = dialer.resolve(&permit("http://localhost:1")).await.unwrap();
    assert!(!addresses.is_empty() && addresses.iter().all(std::net::IpAddr::is_loopback), "{addresses:?}");
    let error = dialer.permitted(&permit("http://169.254.169.254")).await.unwrap_err();
    assert!(matches!(error, DialError::Denied { .. }), "{error:?}");
    let error = dialer.resolve(&permit("http://no-such-name.invalid")).await.unwrap_err();
    assert!(matches!(error, DialError::Resolve { .. } | DialError::ResolveSlow(_)), "{error:?}");
}

/// Answers another address each time, as a rebinding name server does.
#[derive(Debug, Default)]
struct Rebinding(std::sync::atomic::AtomicUsize);

impl Resolver for Rebinding {
    fn look_up<'a>(&'a self, _: &'a str, _: u16) -> LookingUp<'a> {
        let asked = self.0.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        let answer = if asked == 0 { [127, 0, 0, 1] } else { [169, 254, 169, 254] };
        Box::pin(std::future::ready(Ok(vec![answer.into()])))
    }
}

#[tokio::test]
async fn the_address_that_was_checked_is_the_one_that_is_dialled() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let resolver = std::sync::Arc::new(Rebinding::default());
    let dialer = Dialer::with_resolver(resolver.clone());
    let named = permit(&format!("http://rebinding.test:{}", address.port()));
    let permits = dialer.permitted(&named).await.unwrap();
    assert_eq!(permits[0].address(), address);
    assert_eq!(dialer.dial_any(&permits).await.unwrap().peer_addr().unwrap(), address);
    assert_eq!(resolver.0.load(std::sync::atomic::Ordering::SeqCst), 1, "looked up once");
    let error = dialer.reach(&named).await.unwrap_err();
    assert!(
        matches!(error, DialError::Denied { address, .. } if address.to_string() == "169.254.169.254"),
        "{error:?}"
    );
}

/// What a client makes of this answer.
async fn answered(answer: String) -> Result<StatusCode, ClientError> {
    let (url, _) = server(answer.into_bytes().leak()).await;
    client(&url).request(get("/"), PATIENCE).await.map(|answer| answer.status())
}

#[tokio::test]
async fn the_head_of_an_answer_has_so_many_bytes_and_headers() {
    let of = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}content-length: 2\r\n\r\nok");
    let long = |bytes: usize| of(&format!("x: {}\r\n", "x".repeat(bytes)));
    let many = |headers: usize| of(&"x: y\r\n".repeat(headers - 1));
    for (answer, is_taken) in [
        (long(limits::HEAD_BYTES - 1024), true),
        (long(limits::HEAD_BYTES + 1024), false),
        (many(limits::HEADERS), true),
        (many(limits::HEADERS + 1), false),
    ] {
        let answer = answered(answer).await;
        assert_eq!(answer.is_ok(), is_taken, "{answer:?}");
    }
}

#[tokio::test]
async fn of_an_answer_that_is_no_upgrade_the_beginning_is_read() {
    let body = "x".repeat(200_000);
    let answer = format!("HTTP/1.1 403 Forbidden\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let (url, _) = server(answer.into_bytes().leak()).await;
    let answered = client(&url).upgrade("/", "echo/1", HeaderMap::new(), PATIENCE).await.unwrap();
    let Upgrade::Answered { head, body } = answered else { panic!("it was refused") };
    assert_eq!((head.status, body.len()), (StatusCode::FORBIDDEN, postern_net::upgrade::ANSWER_BYTES));
}

#[tokio::test]
async fn so_many_idle_connections_are_kept() {
    let (url, connections) = server(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    let client = client(&url);
    for made in [10, 12] {
        let mut answers = Vec::new();
        for _ in 0..10 {
            answers.push(client.request(get("/"), PATIENCE).await.unwrap());
        }
        for answer in answers {
            assert_eq!(answer.into_body().bytes(10).await.unwrap(), "ok");
        }
        assert_eq!(connections.load(Ordering::SeqCst), made, "eight of ten were used again");
    }
}

#[tokio::test]
async fn a_file_of_certificates_is_read_up_to_a_bound() {
    let (_, ca) = tls_server().await;
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("ca.pem");
    let padded = |bytes: u64| format!("{ca}{}", "\n".repeat(usize::try_from(bytes).unwrap()));
    std::fs::write(&path, padded(limits::CERTIFICATE_FILE_BYTES / 2)).unwrap();
    assert!(TlsRoots::only_file(&path).is_ok());
    std::fs::write(&path, padded(limits::CERTIFICATE_FILE_BYTES)).unwrap();
    assert!(matches!(TlsRoots::only_file(&path), Err(postern_net::TlsError::Read { .. })));
}
