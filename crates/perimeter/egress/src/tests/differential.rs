//! Request smuggling, differentially: the same streams read by hyper, by h11 and by the proxy. What the proxy forwards is
//! read alike by both, and is a beginning of what both read in the client's own bytes: where they differ, it stops.

use std::{
    convert::Infallible,
    io::{self, Write as _},
    net::SocketAddr,
    path::Path,
    pin::Pin,
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpListener,
    task::JoinSet,
    time::timeout,
};

use super::{
    stand::{PATIENCE, Stand, Way},
    vectors::{VECTORS, Vector},
};
use crate::limits::Bounds;

/// A request as a parser reads it: method, path and body.
type Read = (String, String, Vec<u8>);

const SENTINEL: &[u8] = b"GET /sentinel HTTP/1.1\r\nhost: {A}\r\nconnection: close\r\n\r\n";

/// The bytes of a vector and what follows it; targets begin with its number, so that each request can be told whose it is.
fn stream(number: usize, vector: &Vector, authority: &str) -> Vec<u8> {
    let whole = [vector.bytes, SENTINEL].concat();
    let whole = replaced(&whole, b"{A}", authority.as_bytes());
    let mut numbered = whole;
    for path in ["/a", "/sentinel", "/smuggled"] {
        numbered = replaced(&numbered, format!(" {path}").as_bytes(), format!(" /{number}{path}").as_bytes());
        let absolute = format!("{authority}{path}");
        numbered = replaced(&numbered, absolute.as_bytes(), format!("{authority}/{number}{path}").as_bytes());
    }
    numbered
}

fn replaced(text: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let mut output = Vec::new();
    let mut rest = text;
    while let Some(at) = super::upstream::find(rest, from) {
        output.extend_from_slice(&rest[..at]);
        output.extend_from_slice(to);
        rest = &rest[at + from.len()..];
    }
    output.extend_from_slice(rest);
    output
}

/// Keeps what is read from a stream.
struct Kept<S>(S, Arc<Mutex<Vec<u8>>>);

impl<S: AsyncRead + Unpin> AsyncRead for Kept<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(context, into))?;
        self.1.lock().unwrap().extend_from_slice(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Kept<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(context)
    }
}

/// Serves a stream as hyper does and notes each request that came whole in all the lists.
async fn served<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: S, lists: Vec<Arc<Mutex<Vec<Read>>>>) {
    let service = service_fn(move |request: Request<Incoming>| {
        let lists = lists.clone();
        async move {
            let (parts, body) = request.into_parts();
            if let Ok(body) = body.collect().await {
                let read = (parts.method.to_string(), parts.uri.to_string(), body.to_bytes().to_vec());
                lists.iter().for_each(|list| list.lock().unwrap().push(read.clone()));
            }
            // Anything but yes: a CONNECT or an upgrade that is agreed to ends the requests.
            let mut answer = Response::new(Full::<Bytes>::default());
            *answer.status_mut() = StatusCode::METHOD_NOT_ALLOWED;
            Ok::<_, Infallible>(answer)
        }
    });
    // Its end is what was read until then.
    let _ended = http1::Builder::new().half_close(true).serve_connection(TokioIo::new(stream), service).await;
}

/// What hyper reads in a stream that then ends.
async fn by_hyper(stream: &[u8]) -> Vec<Read> {
    let (mut client, server) = tokio::io::duplex(1 << 20);
    client.write_all(stream).await.unwrap();
    client.shutdown().await.unwrap();
    let read = Arc::new(Mutex::default());
    let serving = served(server, vec![Arc::clone(&read)]);
    let draining = async {
        let _answers = client.read_to_end(&mut Vec::new()).await;
    };
    timeout(PATIENCE, async { tokio::join!(serving, draining) }).await.expect("no hang");
    Arc::try_unwrap(read).unwrap().into_inner().unwrap()
}

/// What h11 reads in each of the streams, and why it read no more.
fn by_h11(streams: &[Vec<u8>]) -> Vec<(Vec<Read>, String)> {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let python = here.join("../../../target/venv/bin/python");
    assert!(python.exists(), "no h11 to compare with: run `cargo xtask venv`");
    let mut child = Command::new(python)
        .arg(here.join("src/tests/h11_reads.py"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let hex = |bytes: &Vec<u8>| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let question = serde_json::to_vec(&streams.iter().map(hex).collect::<Vec<_>>()).unwrap();
    child.stdin.take().unwrap().write_all(&question).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "h11 is at fault");
    /// Method, target and the body in hexadecimal.
    type Told = (String, String, String);
    let answers: Vec<(Vec<Told>, String)> = serde_json::from_slice(&output.stdout).unwrap();
    let unhex = |text: &str| {
        (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap()).collect::<Vec<u8>>()
    };
    let read = |requests: Vec<Told>| {
        requests.into_iter().map(|(method, target, body)| (method, target, unhex(&body))).collect()
    };
    answers.into_iter().map(|(requests, end)| (read(requests), end)).collect()
}

/// An upstream that is hyper's own server and keeps each connection's bytes beside what it read in them.
struct Upstream {
    connections: Arc<Mutex<Vec<Connection>>>,
    /// Of all connections, in the order in which they came.
    read: Arc<Mutex<Vec<Read>>>,
}

struct Connection {
    bytes: Arc<Mutex<Vec<u8>>>,
    read: Arc<Mutex<Vec<Read>>>,
}

impl Upstream {
    fn on(listener: TcpListener) -> Self {
        let upstream = Self { connections: Arc::default(), read: Arc::default() };
        let (connections, all) = (upstream.connections.clone(), upstream.read.clone());
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let connection = Connection { bytes: Arc::default(), read: Arc::default() };
                let lists = vec![connection.read.clone(), all.clone()];
                tokio::spawn(served(Kept(stream, connection.bytes.clone()), lists));
                connections.lock().unwrap().push(connection);
            }
        });
        upstream
    }
}

/// Sends a stream through the proxy and waits for the connection's end.
async fn through(stand: &Stand, port: u16, stream: &[u8]) -> Vec<u8> {
    let mut client = stand.towards(Way::Redirect, "bound.test", port).await;
    // The proxy may have closed before the end.
    let _early = client.write_all(stream).await;
    let mut answers = Vec::new();
    let _reset = timeout(PATIENCE, client.read_to_end(&mut answers)).await.expect("the connection ends");
    answers
}

/// Beside each other, since some wait for their bound.
async fn all_through(stand: &Arc<Stand>, port: u16, streams: &[Vec<u8>]) -> Vec<Vec<u8>> {
    let mut sending = JoinSet::new();
    for (number, stream) in streams.iter().cloned().enumerate() {
        let stand = Arc::clone(stand);
        sending.spawn(async move { (number, through(&stand, port, &stream).await) });
    }
    let mut answers = sending.join_all().await;
    answers.sort_by_key(|(number, _)| *number);
    answers.into_iter().map(|(_, answer)| answer).collect()
}

/// The requests that both read alike, up to the first that they read differently.
fn agreed(one: &[Read], other: &[Read], authority: &str) -> Vec<Read> {
    let origin = format!("http://{authority}");
    let alike = one.iter().zip(other).take_while(|(one, other)| one == other).map(|(one, _)| one.clone());
    // In the form in which a proxy sends it on.
    alike
        .map(|(method, target, body)| (method, target.strip_prefix(&origin).unwrap_or(&target).to_owned(), body))
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_forwarded_is_read_alike_by_hyper_and_h11_and_where_they_differ_nothing_is() {
    let short = Duration::from_secs(2);
    let stand = Arc::new(Stand::with(Bounds { request_head: short, body_idle: short, ..Bounds::default() }).await);
    let port = stand.upstream.http.port();
    // The address beside the stand's own upstream's, where the name leads.
    let upstream = Upstream::on(TcpListener::bind(SocketAddr::from(([127, 0, 0, 2], port))).await.unwrap());
    stand.names.answer(&[&["127.0.0.2"]]);
    let authority = format!("bound.test:{port}");
    let streams: Vec<Vec<u8>> =
        VECTORS.iter().enumerate().map(|(number, vector)| stream(number, vector, &authority)).collect();
    let sent = all_through(&stand, port, &streams).await;

    let mut arrived: Vec<Vec<Read>> = vec![Vec::new(); VECTORS.len()];
    for request in upstream.read.lock().unwrap().iter() {
        let number: usize = request.1[1..].split('/').next().unwrap().parse().unwrap();
        arrived[number].push(request.clone());
    }
    let (bytes, read): (Vec<Vec<u8>>, Vec<Vec<Read>>) = upstream
        .connections
        .lock()
        .unwrap()
        .iter()
        .map(|one| (one.bytes.lock().unwrap().clone(), one.read.lock().unwrap().clone()))
        .unzip();
    for ((by_hyper, (by_h11, _)), bytes) in read.iter().zip(by_h11(&bytes)).zip(&bytes) {
        assert_eq!(*by_hyper, by_h11, "what left is read in two ways: {}", String::from_utf8_lossy(bytes));
    }
    let mut wrong = Vec::new();
    for (number, ((vector, (by_h11, why)), stream)) in VECTORS.iter().zip(by_h11(&streams)).zip(&streams).enumerate() {
        let by_hyper = by_hyper(stream).await;
        let agreed = agreed(&by_hyper, &by_h11, &authority);
        let told = String::from_utf8_lossy(&sent[number]).lines().next().unwrap_or_default().to_owned();
        let said = |read: &[Read]| {
            let one = |(method, target, body): &Read| {
                let path = target.strip_prefix(&format!("/{number}")).unwrap_or(target);
                format!("{method} {path} {}", String::from_utf8_lossy(body)).trim_end().to_owned()
            };
            read.iter().map(one).collect::<Vec<_>>()
        };
        let row = format!(
            "{}: arrived {:?}, hyper {:?}, h11 {:?} ({why}), answered {told:?}",
            vector.about,
            said(&arrived[number]),
            said(&by_hyper),
            said(&by_h11)
        );
        if vector.because.is_none() && !are_among(&arrived[number], &agreed) {
            wrong.push(format!("BEYOND WHAT BOTH READ {row}"));
        } else if said(&arrived[number]) != vector.arrives {
            wrong.push(row);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(VECTORS.iter().filter(|vector| vector.because.is_some()).count() <= 3, "exceptions stay exceptions");
}

/// In their order; refused ones are missing.
fn are_among(arrived: &[Read], agreed: &[Read]) -> bool {
    let mut agreed = agreed.iter();
    arrived.iter().all(|one| agreed.any(|other| one == other))
}
