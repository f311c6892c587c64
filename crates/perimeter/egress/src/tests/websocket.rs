//! WebSockets end to end: the handshake is a request like any other, the frames are scrubbed and inspected.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::Engine;
use bytes::Bytes;
use http::{Method, Request};
use hyper::{client::conn::http2, ext::Protocol};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_audit::{Kind, Record};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use super::{
    stand::{PATIENCE, SECRET, SESSION, Stand, WAYS, Way, read_head, talk},
    upstream::{Received, whole},
    upstream_http2::fields,
};
use crate::{
    body,
    limits::Bounds,
    message::Question,
    websocket::{
        frame::{self, Opcode},
        reader::{Event, Reader, Side},
    },
};

/// How long an upstream thinks.
const A_WHILE: Duration = Duration::from_millis(300);

pub(super) trait Wire: AsyncRead + AsyncWrite + Unpin + Send {}
impl<S: AsyncRead + AsyncWrite + Unpin + Send> Wire for S {}

type Ending = Pin<Box<dyn Future<Output = ()> + Send>>;
type Peer = Arc<dyn Fn(Received, Box<dyn Wire>) -> Ending + Send + Sync>;

/// The upstream's side of a WebSocket.
#[derive(Clone, Default)]
pub(super) struct WebSocket {
    peer: Arc<Mutex<Option<Peer>>>,
    /// The frames' bytes that it was sent, unmasked, one after the other.
    heard: Arc<Mutex<Vec<u8>>>,
    /// What it says instead of the proof, and besides.
    lies: Arc<Mutex<Option<String>>>,
}

impl WebSocket {
    /// Sends every message and ping back.
    fn echoes(&self) {
        let heard = self.heard.clone();
        self.speaks(move |mut wire| {
            let heard = heard.clone();
            Box::pin(async move {
                let mut buffer: Vec<u8> = Vec::new();
                while let Some((opcode, last, payload)) = next_frame(&mut wire, &mut buffer).await {
                    heard.lock().unwrap().extend_from_slice(&payload);
                    let opcode = if opcode == Opcode::Ping { Opcode::Pong } else { opcode };
                    let frame = frame::render(opcode, last, None, &payload);
                    if wire.write_all(&frame).await.is_err() || opcode == Opcode::Close {
                        return;
                    }
                }
            })
        });
    }

    /// Says these bytes, then listens.
    fn says(&self, frames: Vec<Bytes>) {
        let heard = self.heard.clone();
        self.speaks(move |mut wire| {
            let (frames, heard) = (frames.clone(), heard.clone());
            Box::pin(async move {
                for frame in frames {
                    wire.write_all(&frame).await.unwrap();
                    wire.flush().await.unwrap();
                }
                let mut buffer = Vec::new();
                while let Some((_, _, payload)) = next_frame(&mut wire, &mut buffer).await {
                    heard.lock().unwrap().extend_from_slice(&payload);
                }
            })
        });
    }

    fn speaks(&self, talk: impl Fn(Box<dyn Wire>) -> Ending + Send + Sync + 'static) {
        let lies = self.lies.clone();
        let talk = Arc::new(talk);
        let peer: Peer = Arc::new(move |request, mut wire| {
            let (lies, talk) = (lies.lock().unwrap().clone(), talk.clone());
            Box::pin(async move {
                let key = request.header("sec-websocket-key").unwrap();
                let digest = aws_lc_rs::digest::digest(
                    &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
                    format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
                );
                let proof = base64::engine::general_purpose::STANDARD.encode(digest);
                let proof = lies.unwrap_or_else(|| format!("Sec-WebSocket-Accept: {proof}"));
                let echo = request.header("authorization").unwrap_or_default();
                let answer = format!(
                    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n{proof}\r\nx-echo: {echo}\r\n\r\n"
                );
                wire.write_all(answer.as_bytes()).await.unwrap();
                talk(wire).await;
            })
        });
        *self.peer.lock().unwrap() = Some(peer);
    }

    pub(super) fn peer(&self, request: &Received) -> Option<Peer> {
        request.header("upgrade").filter(|named| named == "websocket")?;
        self.peer.lock().unwrap().clone()
    }

    fn heard(&self) -> Vec<u8> {
        self.heard.lock().unwrap().clone()
    }
}

/// One whole frame, unmasked.
async fn next_frame<S: AsyncRead + Unpin>(wire: &mut S, buffer: &mut Vec<u8>) -> Option<(Opcode, bool, Vec<u8>)> {
    loop {
        if let Ok(Some((head, taken))) = frame::Head::parse(buffer) {
            let end = taken + usize::try_from(head.length).unwrap();
            if buffer.len() >= end {
                let mut payload: Vec<u8> = buffer.drain(..end).skip(taken).collect();
                frame::apply(head.mask.unwrap_or_default(), 0, &mut payload);
                return Some((head.opcode, head.last, payload));
            }
        }
        let mut piece = vec![0; 65536];
        let count = timeout(PATIENCE, wire.read(&mut piece)).await.ok()?.ok()?;
        if count == 0 {
            return None;
        }
        buffer.extend_from_slice(&piece[..count]);
    }
}

const HANDSHAKE: &str = "connection: Upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
                         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-extensions: permessage-deflate\r\n";

/// The sandbox's side.
struct Agent {
    wire: Box<dyn Wire>,
    buffer: Vec<u8>,
}

impl Agent {
    async fn connect(stand: &Stand, way: Way, authorization: &str) -> (Self, String) {
        let stream = stand.towards(way, "ws.test", 443).await;
        let mut wire = stand.tls(stream, "ws.test").await.unwrap();
        let request =
            format!("GET /live HTTP/1.1\r\nhost: ws.test\r\nauthorization: {authorization}\r\n{HANDSHAKE}\r\n");
        wire.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut wire).await;
        (Self { wire: Box::new(wire), buffer: Vec::new() }, head)
    }

    async fn open(stand: &Stand) -> Self {
        let (agent, head) = Self::connect(stand, Way::Redirect, &format!("Bearer {}", stand.placeholder)).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{head}");
        agent
    }

    async fn send(&mut self, opcode: Opcode, last: bool, payload: &[u8]) {
        // The other side may be gone already.
        let _gone = self.wire.write_all(&frame::render(opcode, last, Some(*b"mask"), payload)).await;
        let _gone = self.wire.flush().await;
    }

    async fn next(&mut self) -> Option<(Opcode, bool, Vec<u8>)> {
        next_frame(&mut self.wire, &mut self.buffer).await
    }

    /// Messages, controls as they come, up to the close frame.
    async fn all(&mut self) -> (Vec<u8>, Option<(u16, String)>) {
        let mut said = Vec::new();
        while let Some((opcode, _, payload)) = self.next().await {
            if opcode == Opcode::Close {
                let (code, words) = payload.split_at(2);
                let words = String::from_utf8_lossy(words).into_owned();
                return (said, Some((u16::from_be_bytes([code[0], code[1]]), words)));
            }
            said.extend_from_slice(&payload);
        }
        (said, None)
    }
}

async fn outcome(stand: &Stand, from: usize) -> Record {
    let waiting = async {
        loop {
            if let Some(record) = stand.record(Kind::EgressOutcome, from) {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("an outcome in time")
}

#[tokio::test]
async fn a_websocket_has_the_secret_in_its_handshake_one_record_and_no_compression() {
    let stand = Stand::start().await;
    stand.upstream.websocket.echoes();
    let bearer = format!("Bearer {}", stand.placeholder);
    for way in WAYS {
        let at = stand.audit.records().len();
        let (mut agent, head) = Agent::connect(&stand, way, &bearer).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{way:?}: {head}");
        assert!(head.contains("sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"), "{head}");
        assert!(head.contains(&format!("x-echo: {bearer}\r\n")), "scrubbed: {head}");
        let received = stand.upstream.received().pop().unwrap();
        assert_eq!(received.header("authorization"), Some(format!("Bearer {SECRET}")));
        assert_eq!(received.header("sec-websocket-extensions"), None);
        assert_ne!(received.header("sec-websocket-key").as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
        assert!(received.records_before > at, "recorded before it left");
        for (opcode, back, last, payload) in [
            (Opcode::Text, Opcode::Text, true, &b"hello"[..]),
            (Opcode::Ping, Opcode::Pong, true, b"there?"),
            (Opcode::Binary, Opcode::Binary, false, &[0xff; 300]),
            (Opcode::Continuation, Opcode::Continuation, true, b""),
        ] {
            agent.send(opcode, last, payload).await;
            assert_eq!(agent.next().await.unwrap(), (back, last, payload.to_vec()), "{way:?}");
        }
        agent.send(Opcode::Close, true, &1000_u16.to_be_bytes()).await;
        assert_eq!(agent.all().await.1, Some((1000, String::new())));
        let outcome = outcome(&stand, at).await;
        assert_eq!(
            (outcome.outcome.as_deref(), outcome.counts["status"], outcome.counts["received_bytes"]),
            (Some("closed"), 101, 305)
        );
        let allowed = stand.audit.records().iter().skip(at).filter(|record| record.kind == Kind::EgressRequest).count();
        assert_eq!(allowed, 1, "the permit is the handshake's");
    }
}

#[tokio::test]
async fn a_sandbox_that_closes_hears_an_upstream_that_takes_its_time_to_answer() {
    let stand = Stand::start().await;
    stand.upstream.websocket.speaks(|mut wire| {
        Box::pin(async move {
            let mut buffer = Vec::new();
            let (opcode, ..) = next_frame(&mut wire, &mut buffer).await.unwrap();
            assert_eq!(opcode, Opcode::Close);
            // Who finds the connection ended does not answer any more.
            if timeout(A_WHILE, wire.read_u8()).await.is_err() {
                wire.write_all(&frame::render(Opcode::Close, true, None, &1001_u16.to_be_bytes())).await.unwrap();
                wire.flush().await.unwrap();
            }
        })
    });
    let mut agent = Agent::open(&stand).await;
    agent.send(Opcode::Close, true, &1000_u16.to_be_bytes()).await;
    assert_eq!(agent.next().await, Some((Opcode::Close, true, 1001_u16.to_be_bytes().to_vec())));
}

#[tokio::test]
async fn what_an_upstream_says_is_scrubbed_in_every_kind_of_frame_and_across_their_borders() {
    let stand = Stand::start().await;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let text = format!("the key is {SECRET}, yes");
    let mut bytewise = Vec::new();
    for (at, byte) in text.bytes().enumerate() {
        let opcode = if at == 0 { Opcode::Text } else { Opcode::Continuation };
        bytewise.push(frame::render(opcode, at + 1 == text.len(), None, &[byte]));
        bytewise.push(frame::render(Opcode::Ping, true, None, b"between"));
    }
    let close = [&1000_u16.to_be_bytes()[..], SECRET.as_bytes()].concat();
    let table = [
        ("one frame", vec![frame::render(Opcode::Text, true, None, text.as_bytes())]),
        ("bytes", bytewise),
        ("encoded", vec![frame::render(Opcode::Binary, true, None, encoded.as_bytes())]),
        ("ping", vec![frame::render(Opcode::Ping, true, None, SECRET.as_bytes())]),
        ("close", vec![frame::render(Opcode::Close, true, None, &close)]),
    ];
    for (what, mut frames) in table {
        frames.push(frame::render(Opcode::Close, true, None, &1001_u16.to_be_bytes()));
        stand.upstream.websocket.says(frames);
        let at = stand.audit.records().len();
        let mut agent = Agent::open(&stand).await;
        let (said, closed) = agent.all().await;
        let (code, words) = closed.expect(what);
        let seen = [said.clone(), words.into_bytes()].concat();
        let placeholder = stand.placeholder.as_bytes();
        let decoded = base64::engine::general_purpose::STANDARD.decode(&said).unwrap_or_default();
        let shown = [&seen, &decoded].into_iter().any(|text| super::upstream::find(text, placeholder).is_some());
        let pieces: Vec<u8> = String::from_utf8_lossy(&seen).replace("between", "").into_bytes();
        assert!(
            shown || super::upstream::find(&pieces, placeholder).is_some(),
            "{what}: {code}: {}",
            String::from_utf8_lossy(&seen)
        );
        for hidden in [SECRET.as_bytes(), encoded.as_bytes()] {
            assert_eq!(super::upstream::find(&pieces, hidden), None, "{what}");
        }
        drop(agent);
        assert!(outcome(&stand, at).await.counts["scrubbed"] >= 1, "{what}");
    }
}

#[tokio::test]
async fn a_secret_in_pieces_over_messages_or_pings_never_arrives_whole() {
    let stand = Stand::start().await;
    let (first, second) = SECRET.split_at(11);
    for (one, other) in [(Opcode::Text, Opcode::Binary), (Opcode::Ping, Opcode::Ping)] {
        stand.upstream.websocket.says(vec![
            frame::render(one, true, None, first.as_bytes()),
            frame::render(Opcode::Pong, true, None, b""),
            frame::render(other, true, None, second.as_bytes()),
        ]);
        let at = stand.audit.records().len();
        let mut agent = Agent::open(&stand).await;
        let (said, closed) = agent.all().await;
        assert_eq!(super::upstream::find(&said, SECRET.as_bytes()), None, "{one:?}");
        assert_eq!(closed, Some((1008, "postern: upstream_unreachable".to_owned())), "{one:?}");
        assert_eq!(outcome(&stand, at).await.reason.as_deref(), Some("upstream_unreachable"));
    }
}

#[tokio::test]
async fn something_of_ours_in_a_frame_is_refused_closed_recorded_and_told() {
    let stand = Stand::start().await;
    let encoded = base64::engine::general_purpose::STANDARD.encode(&stand.placeholder);
    let (first, second) = stand.placeholder.split_at(9);
    let own = stand.placeholder.as_bytes();
    type Frames<'a> = Vec<(Opcode, bool, &'a [u8])>;
    let table: Vec<(&str, Frames<'_>, &str)> = vec![
        ("text", vec![(Opcode::Text, true, own)], "placeholder_wrong_location"),
        ("binary", vec![(Opcode::Binary, true, encoded.as_bytes())], "placeholder_wrong_location"),
        (
            "fragments",
            vec![
                (Opcode::Text, false, first.as_bytes()),
                (Opcode::Ping, true, b"x"),
                (Opcode::Continuation, true, second.as_bytes()),
            ],
            "placeholder_wrong_location",
        ),
        (
            "messages",
            vec![(Opcode::Text, true, first.as_bytes()), (Opcode::Text, true, second.as_bytes())],
            "placeholder_wrong_location",
        ),
        ("ping", vec![(Opcode::Ping, true, own)], "placeholder_wrong_location"),
        (
            "another session's",
            vec![(Opcode::Text, true, stand.others_placeholder.as_bytes())],
            "placeholder_wrong_location",
        ),
        ("secret", vec![(Opcode::Text, true, SECRET.as_bytes())], "real_secret_seen"),
    ];
    for (what, frames, reason) in table {
        stand.upstream.websocket.says(Vec::new());
        let (at, before) = (stand.audit.records().len(), stand.upstream.websocket.heard().len());
        let mut agent = Agent::open(&stand).await;
        for (opcode, last, payload) in frames {
            agent.send(opcode, last, payload).await;
        }
        let (_, closed) = agent.all().await;
        assert_eq!(closed, Some((1008, format!("postern: {reason}"))), "{what}");
        let outcome = outcome(&stand, at).await;
        assert_eq!((outcome.reason.as_deref(), outcome.caused_by.is_some()), (Some(reason), true), "{what}");
        let told = stand.refusals().await;
        assert!(told.iter().any(|refusal| refusal.host == "ws.test" && refusal.reason == reason), "{what}: {told:?}");
        assert!(stand.record(Kind::Alarm, at).is_some(), "{what}");
        let heard = stand.upstream.websocket.heard().split_off(before);
        for whole in [own, encoded.as_bytes(), SECRET.as_bytes(), stand.others_placeholder.as_bytes()] {
            assert_eq!(super::upstream::find(&heard, whole), None, "{what}");
        }
    }
}

#[tokio::test]
async fn frames_that_break_the_protocol_end_it_on_either_side() {
    let stand = Stand::start().await;
    stand.upstream.websocket.says(Vec::new());
    for bytes in [
        &b"\x81\x02hi"[..],
        b"\xc1\x80mask",
        b"\x80\x80mask",
        b"\x83\x80mask",
        b"\x09\x80mask",
        b"\x81\xfe\x00\x05mask",
    ] {
        let at = stand.audit.records().len();
        let mut agent = Agent::open(&stand).await;
        agent.wire.write_all(bytes).await.unwrap();
        agent.wire.flush().await.unwrap();
        assert_eq!(agent.all().await.1, Some((1002, "postern: request_malformed".to_owned())), "{bytes:x?}");
        assert_eq!(outcome(&stand, at).await.reason.as_deref(), Some("request_malformed"));
    }
    for bytes in [&b"\x81\x82maskhi"[..], b"\xc1\x00", b"\x80\x00"] {
        stand.upstream.websocket.says(vec![Bytes::copy_from_slice(bytes)]);
        let at = stand.audit.records().len();
        let mut agent = Agent::open(&stand).await;
        assert_eq!(agent.all().await.1, Some((1008, "postern: upstream_unreachable".to_owned())), "{bytes:x?}");
        assert_eq!(outcome(&stand, at).await.reason.as_deref(), Some("upstream_unreachable"));
    }
}

#[tokio::test]
async fn messages_are_bounded_in_length_and_connections_in_silence_and_in_all() {
    let stand = Stand::with(Bounds { websocket_message_bytes: 1000, ..Bounds::default() }).await;
    stand.upstream.websocket.says(Vec::new());
    let mut agent = Agent::open(&stand).await;
    agent.send(Opcode::Binary, false, &[0; 600]).await;
    agent.send(Opcode::Continuation, false, &[0; 600]).await;
    assert_eq!(agent.all().await.1, Some((1009, "postern: limit_body".to_owned())));
    stand.upstream.websocket.says(vec![frame::render(Opcode::Binary, true, None, &[0; 1001])]);
    let mut agent = Agent::open(&stand).await;
    assert_eq!(agent.all().await, (Vec::new(), Some((1009, "postern: limit_body".to_owned()))));
    let stand = Stand::with(Bounds { websocket_idle: Duration::from_millis(200), ..Bounds::default() }).await;
    stand.upstream.websocket.says(Vec::new());
    let mut agent = Agent::open(&stand).await;
    assert_eq!(agent.all().await.1, Some((1008, "postern: limit_time".to_owned())));
    let stand = Stand::with(Bounds { connection_total: Duration::from_secs(5), ..Bounds::default() }).await;
    stand.upstream.websocket.says(Vec::new());
    let mut agent = Agent::open(&stand).await;
    assert_eq!(agent.all().await.1, None, "cut");
}

#[tokio::test]
async fn an_upstream_that_does_not_agree_answers_like_any_other_and_one_that_lies_is_refused() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    stand
        .upstream
        .replies(|received| vec![whole("401 Unauthorized", &[], received.header("authorization").unwrap().as_bytes())]);
    let request = format!("GET /live HTTP/1.1\r\nhost: ws.test\r\nauthorization: {bearer}\r\n{HANDSHAKE}\r\n");
    let stream = stand.towards(Way::Redirect, "ws.test", 443).await;
    let seen = talk(&mut stand.tls(stream, "ws.test").await.unwrap(), request.as_bytes()).await;
    assert_eq!((seen.status, seen.text()), (401, bearer));
    stand.upstream.websocket.echoes();
    for (lie, reason) in [
        ("Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "upstream_unreachable"),
        ("x-nothing: 1", "upstream_unreachable"),
    ] {
        *stand.upstream.websocket.lies.lock().unwrap() = Some(lie.to_owned());
        let stream = stand.towards(Way::Redirect, "ws.test", 443).await;
        let seen = talk(&mut stand.tls(stream, "ws.test").await.unwrap(), request.as_bytes()).await;
        assert_eq!((seen.status, seen.reason().as_deref()), (502, Some(reason)), "{lie}");
    }
}

#[tokio::test]
async fn a_rule_must_say_that_websockets_are_carried_and_its_refusal_names_the_key() {
    let stand = Stand::start().await;
    stand.upstream.websocket.echoes();
    for way in WAYS {
        let at = stand.audit.records().len();
        let request = format!("GET /v1/live HTTP/1.1\r\nhost: api.test\r\n{HANDSHAKE}\r\n");
        let seen = stand.send(way, "https", "api.test", 443, request.as_bytes()).await;
        assert_eq!((seen.status, seen.reason().as_deref()), (403, Some("upgrade_refused")), "{way:?}");
        assert!(seen.text().contains("websocket = true"), "{}", seen.text());
        assert_eq!(stand.record(Kind::EgressRequest, at).unwrap().reason.as_deref(), Some("upgrade_refused"));
    }
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn a_websocket_in_the_clear_is_carried_on_both_ways_out() {
    let stand = Stand::start().await;
    stand.upstream.websocket.echoes();
    for way in WAYS {
        let mut wire = match way {
            Way::Redirect => stand.towards(way, "ws.test", 80).await,
            Way::Proxy => tokio::net::TcpStream::connect(stand.proxy).await.unwrap(),
        };
        let target = if way == Way::Proxy { "http://ws.test/live" } else { "/live" };
        let request = format!("GET {target} HTTP/1.1\r\nhost: ws.test\r\n{HANDSHAKE}\r\n");
        wire.write_all(request.as_bytes()).await.unwrap();
        let head = read_head(&mut wire).await;
        assert!(head.starts_with("HTTP/1.1 101 "), "{way:?}: {head}");
        let mut agent = Agent { wire: Box::new(wire), buffer: Vec::new() };
        agent.send(Opcode::Text, true, b"hello").await;
        assert_eq!(agent.next().await.unwrap().2, b"hello", "{way:?}");
    }
}

#[tokio::test]
async fn a_websocket_is_carried_over_a_stream_of_http2_too() {
    let stand = Stand::start().await;
    stand.upstream.websocket.echoes();
    // The upstream speaks HTTP/2 as well, and is asked for HTTP/1.1.
    stand.upstream.http2.replies(|_| super::upstream_http2::answer("not this"));
    let stream = stand.towards(Way::Redirect, "ws.test", 443).await;
    let stream = stand.tls_offering(stream, "ws.test", true, &["h2"]).await.unwrap();
    let (mut client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    for _ in 0..2 {
        let mut request =
            Request::builder().method(Method::CONNECT).uri("https://ws.test/live").body(body::empty()).unwrap();
        request.extensions_mut().insert(Protocol::from_static("websocket"));
        let bearer = format!("Bearer {}", stand.placeholder);
        request.headers_mut().extend(fields(&[("sec-websocket-version", "13"), ("authorization", &bearer)]));
        client.ready().await.unwrap();
        let response = timeout(PATIENCE, client.send_request(request)).await.unwrap().unwrap();
        assert_eq!(response.status(), 200, "{response:?}");
        assert!(!response.headers().contains_key("sec-websocket-accept"));
        let received = stand.upstream.received().pop().unwrap();
        assert!(received.head.starts_with("GET /live HTTP/1.1\r\n"), "{}", received.head);
        assert_eq!(received.header("authorization"), Some(format!("Bearer {SECRET}")));
        let wire = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
        let mut agent = Agent { wire: Box::new(wire), buffer: Vec::new() };
        agent.send(Opcode::Text, true, b"hello").await;
        assert_eq!(agent.next().await.unwrap(), (Opcode::Text, true, b"hello".to_vec()));
        let at = stand.audit.records().len();
        agent.send(Opcode::Text, true, stand.placeholder.as_bytes()).await;
        assert_eq!(agent.all().await.1, Some((1008, "postern: placeholder_wrong_location".to_owned())));
        assert_eq!(outcome(&stand, at).await.reason.as_deref(), Some("placeholder_wrong_location"));
    }
}

#[tokio::test]
async fn a_freeze_cuts_a_websocket() {
    let stand = Stand::start().await;
    stand.upstream.websocket.echoes();
    let mut agent = Agent::open(&stand).await;
    agent.send(Opcode::Text, true, b"there").await;
    assert_eq!(agent.next().await.unwrap().2, b"there");
    let at = stand.audit.records().len();
    stand.ask(Question::Freeze { session: SESSION.to_owned() }).await;
    assert_eq!(agent.all().await.1, None, "cut");
    assert_eq!(outcome(&stand, at).await.reason.as_deref(), Some("session_frozen"));
}

#[tokio::test]
async fn a_secret_that_was_granted_after_the_handshake_is_scrubbed_and_recognised_too() {
    // Where nothing but control frames is said, too.
    for opcode in [Opcode::Text, Opcode::Ping] {
        granted_later(opcode).await;
    }
}

async fn granted_later(opcode: Opcode) {
    let (later, shown) = ("another-secret-0123456789abcd", "pstn-the-later-placeholder-ab");
    let stand = Stand::start().await;
    // Says it whenever it hears something.
    stand.upstream.websocket.speaks(move |mut wire| {
        Box::pin(async move {
            let mut buffer = Vec::new();
            let said = frame::render(opcode, true, None, later.as_bytes());
            while next_frame(&mut wire, &mut buffer).await.is_some() && wire.write_all(&said).await.is_ok() {}
        })
    });
    let mut agent = Agent::open(&stand).await;
    agent.send(opcode, true, b"go").await;
    assert_eq!(agent.next().await.unwrap().2, later.as_bytes(), "nobody's yet");
    stand.session().remember(crate::recognise::Key {
        credential: postern_policy::CredentialName::new("later"),
        placeholder: postern_secret::Placeholder::from_issued(shown.to_owned()),
        secret: postern_secret::SecretBytes::new(later.as_bytes().to_vec()),
        vault: None,
    });
    agent.send(opcode, true, b"go").await;
    assert_eq!(agent.next().await.unwrap().2, shown.as_bytes(), "{opcode:?}");
    agent.send(opcode, true, later.as_bytes()).await;
    assert_eq!(agent.all().await.1, Some((1008, "postern: real_secret_seen".to_owned())), "{opcode:?}");
}

#[tokio::test]
async fn what_was_relayed_is_read_by_the_reader_as_it_was_said() {
    let stand = Stand::start().await;
    let long = vec![b'y'; 200_000];
    stand.upstream.websocket.says(vec![
        frame::render(Opcode::Binary, false, None, &long),
        frame::render(Opcode::Continuation, true, None, &long),
    ]);
    let agent = Agent::open(&stand).await;
    let mut reader = Reader::new(agent.wire, Side::Server, 1 << 20);
    let (mut read, mut whole) = (0, false);
    while !whole {
        match timeout(PATIENCE, reader.next()).await.unwrap().unwrap() {
            Event::Data { bytes, last, .. } => (read, whole) = (read + bytes.len(), last),
            Event::Control(..) => {}
        }
    }
    assert_eq!(read, 400_000);
}
