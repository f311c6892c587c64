//! Hostile HTTP/2 clients, frame by frame: what is malformed goes nowhere, what floods is bounded and told.

use std::time::Duration;

use postern_audit::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};
use tokio_rustls::client::TlsStream;

use super::{
    stand::{PATIENCE, SECRET, Stand, Way},
    upstream::whole,
    upstream_http2::{Answer, answer},
};
use crate::limits::{self, Bounds};

// RFC 9113, section 6.
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// A client that sends what it likes.
struct Raw {
    stream: TlsStream<TcpStream>,
    next: u32,
}

/// How a stream ended, as the client sees it.
#[derive(Debug, PartialEq, Eq)]
enum End {
    /// The upstream's answer.
    Answered,
    /// A status of the library's own, without a body.
    Bare,
    /// Our problem body.
    Refused(String),
    /// With a code of RFC 9113, section 7.
    Reset(u32),
    /// The connection ended.
    Closed,
}

impl Raw {
    async fn connect(stand: &Stand) -> Self {
        Self::with_settings(stand, &[]).await
    }

    async fn with_settings(stand: &Stand, settings: &[(u16, u32)]) -> Self {
        let stream = stand.towards(Way::Redirect, "api.test", 443).await;
        let stream = stand.tls_offering(stream, "api.test", true, &["h2"]).await.unwrap();
        let mut raw = Self { stream, next: 1 };
        raw.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let payload: Vec<u8> =
            settings.iter().flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()].concat()).collect();
        raw.send(SETTINGS, 0, 0, &payload).await;
        raw
    }

    /// Writes a frame; what the other side no longer takes is the test's business.
    async fn send(&mut self, kind: u8, flags: u8, id: u32, payload: &[u8]) -> bool {
        let bytes = frame(kind, flags, id, payload);
        self.stream.write_all(&bytes).await.is_ok() && self.stream.flush().await.is_ok()
    }

    /// Sends a request with these fields, literally.
    async fn request(&mut self, fields: &[(&str, &str)]) -> u32 {
        let id = self.next;
        self.next += 2;
        self.send(HEADERS, END_HEADERS | END_STREAM, id, &block(fields)).await;
        id
    }

    async fn frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        timeout(PATIENCE, self.stream.read_exact(&mut head)).await.expect("a frame in time").ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        timeout(PATIENCE, self.stream.read_exact(&mut payload)).await.expect("a frame in time").ok()?;
        Some((head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload))
    }

    async fn end(&mut self, id: u32) -> End {
        let (mut body, mut ok) = (Vec::new(), false);
        while let Some((kind, flags, of, payload)) = self.frame().await {
            match kind {
                HEADERS if of == id => ok = payload.contains(&0x88),
                DATA if of == id => body.extend_from_slice(&payload),
                RST_STREAM if of == id => return End::Reset(u32::from_be_bytes(payload[..4].try_into().unwrap())),
                _ => {}
            }
            if of == id && (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
                let problem: Option<serde_json::Value> = serde_json::from_slice(&body).ok();
                let reason = problem.and_then(|problem| Some(problem.get("reason")?.as_str()?.to_owned()));
                return match reason {
                    Some(reason) => End::Refused(reason),
                    None if ok => End::Answered,
                    None => End::Bare,
                };
            }
        }
        End::Closed
    }

    /// Reads until the connection ends.
    async fn closed(&mut self) {
        while self.frame().await.is_some() {}
    }
}

fn frame(kind: u8, flags: u8, id: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &id.to_be_bytes(), payload].concat()
}

/// Fields as literals without indexing (RFC 7541, section 6.2.2).
fn block(fields: &[(&str, &str)]) -> Vec<u8> {
    fields.iter().flat_map(|(name, value)| [&[0][..], &text(name), &text(value)].concat()).collect()
}

fn text(text: &str) -> Vec<u8> {
    [&integer(0, 7, text.len())[..], text.as_bytes()].concat()
}

/// RFC 7541, section 5.1.
fn integer(first: u8, bits: u32, mut value: usize) -> Vec<u8> {
    let most = (1_usize << bits) - 1;
    if value < most {
        return vec![first | u8::try_from(value).unwrap()];
    }
    let mut bytes = vec![first | u8::try_from(most).unwrap()];
    value -= most;
    while value >= 128 {
        bytes.push(u8::try_from(value % 128).unwrap() | 128);
        value /= 128;
    }
    bytes.push(u8::try_from(value).unwrap());
    bytes
}

const GET: [(&str, &str); 4] =
    [(":method", "GET"), (":scheme", "https"), (":authority", "api.test"), (":path", "/v1/x")];

fn get_with(more: &[(&'static str, &'static str)]) -> Vec<(&'static str, &'static str)> {
    [&GET[..], more].concat()
}

async fn speaking_http2() -> Stand {
    with_bounds(Bounds::default()).await
}

async fn with_bounds(bounds: Bounds) -> Stand {
    let stand = Stand::with(bounds).await;
    stand.upstream.http2.replies(|_| answer("ok"));
    stand
}

#[tokio::test]
async fn a_malformed_request_goes_nowhere_ends_alone_and_is_on_record() {
    let stand = speaking_http2().await;
    let mut raw = Raw::connect(&stand).await;
    let without = |name: &str| GET.into_iter().filter(|(field, _)| *field != name).collect::<Vec<_>>();
    let instead = |name: &str, value: &'static str| -> Vec<(&str, &str)> {
        GET.into_iter().map(|(field, was)| (field, if field == name { value } else { was })).collect()
    };
    let table: Vec<(&str, Vec<(&str, &str)>)> = vec![
        ("capitals in a name", get_with(&[("X-Upper", "1")])),
        ("connection", get_with(&[("connection", "close")])),
        ("keep-alive", get_with(&[("keep-alive", "timeout=5")])),
        ("transfer-encoding", get_with(&[("transfer-encoding", "chunked")])),
        ("upgrade", get_with(&[("upgrade", "websocket")])),
        ("te", get_with(&[("te", "gzip")])),
        ("a second path", get_with(&[(":path", "/v1/y")])),
        ("a second authority", get_with(&[(":authority", "other.test")])),
        ("a second method", get_with(&[(":method", "DELETE")])),
        ("a pseudo field after others", vec![GET[0], GET[1], GET[2], ("x-y", "1"), GET[3]]),
        ("an unknown pseudo field", get_with(&[(":target", "/v1/y")])),
        ("a status", get_with(&[(":status", "200")])),
        ("no path", without(":path")),
        ("no method", without(":method")),
        ("no scheme", without(":scheme")),
        ("no authority", without(":authority")),
        ("an empty path", instead(":path", "")),
        ("a path without a slash", instead(":path", "v1/x")),
        ("a whole address for a path", instead(":path", "https://api.test/v1/x")),
        ("another host for a path", instead(":path", "//other.test/v1/x")),
        ("the asterisk", instead(":path", "*")),
        ("an encoded slash", instead(":path", "/v1/..%2fx")),
        ("dots", instead(":path", "/v1/../x")),
        ("a fragment", instead(":path", "/v2/#/v1/x")),
        ("a space in the path", instead(":path", "/v1/x HTTP/1.1")),
        ("a line end in the path", instead(":path", "/v1/x\r\nx: y")),
        ("a line end in a value", get_with(&[("x-a", "b\r\nauthorization: c")])),
        ("a line end in a name", get_with(&[("x-a\r\nb", "c")])),
        ("an empty name", get_with(&[("", "c")])),
        ("no method's name", instead(":method", "GET /")),
        ("another authority", instead(":authority", "other.test")),
        ("another port", instead(":authority", "api.test:444")),
        ("two authorities in one", instead(":authority", "api.test,other.test")),
        ("an address in the authority", instead(":authority", "127.0.0.1")),
        ("no name in the authority", instead(":authority", "")),
        ("another scheme", instead(":scheme", "http")),
        ("a scheme of no kind", instead(":scheme", "gopher")),
        ("another host", get_with(&[("host", "other.test")])),
        ("two hosts", get_with(&[("host", "api.test"), ("host", "api.test")])),
        ("a longer body than sent", get_with(&[("content-length", "5")])),
        ("two lengths", get_with(&[("content-length", "0"), ("content-length", "1")])),
        ("another host than no authority", [without(":authority"), vec![("host", "other.test")]].concat()),
    ];
    for (what, fields) in table {
        let at = stand.audit.records().len();
        let id = raw.request(&fields).await;
        let end = raw.end(id).await;
        if matches!(end, End::Reset(_)) {
            assert_eq!(recorded(&stand, at).await.as_deref(), Some("request_malformed"), "{what}");
        }
        let ended_alone = matches!(end, End::Refused(_) | End::Reset(_) | End::Bare);
        assert!(ended_alone || end == End::Closed, "{what}: {end:?}");
        if !ended_alone {
            raw = Raw::connect(&stand).await;
        }
        let id = raw.request(&GET).await;
        assert_eq!(raw.end(id).await, End::Answered, "after {what}");
        let received = stand.upstream.received();
        assert!(
            received.iter().all(|one| one.head.starts_with("GET /v1/x HTTP/2\r\n:authority: api.test\r\n")),
            "{what}"
        );
        let (one, rest) = received.split_first().unwrap();
        assert!(rest.iter().all(|other| other.head == one.head), "{what}: {received:?}");
    }
}

#[tokio::test]
async fn the_authority_may_come_as_host_and_a_name_in_it_is_noticed() {
    let stand = speaking_http2().await;
    let mut raw = Raw::connect(&stand).await;
    let hosted = [GET[0], GET[1], GET[3], ("host", "api.test")];
    let id = raw.request(&hosted).await;
    assert_eq!(raw.end(id).await, End::Answered);
    let named = [GET[0], GET[1], (":authority", "user:word@api.test"), GET[3]];
    let id = raw.request(&named).await;
    assert_eq!(raw.end(id).await, End::Refused("foreign_credential".to_owned()));
}

#[tokio::test]
async fn a_head_beyond_the_bound_is_refused_in_any_form() {
    let stand = speaking_http2().await;
    let mut raw = Raw::connect(&stand).await;
    // Many lines, within the bytes.
    let names: Vec<String> = (0..limits::HEADER_LINES).map(|n| format!("x-{n}")).collect();
    let lines: Vec<(&str, &str)> = GET.into_iter().chain(names.iter().map(|name| (name.as_str(), "1"))).collect();
    let id = raw.request(&lines).await;
    assert_eq!(raw.end(id).await, End::Answered);
    let mut more = lines.clone();
    more.push(("x-surplus", "1"));
    let id = raw.request(&more).await;
    assert_eq!(raw.end(id).await, End::Refused("limit_headers".to_owned()));
    // Many bytes, over several frames.
    let mut raw = Raw::connect(&stand).await;
    let long = "a".repeat(15_000);
    let bytes = block(&get_with(&[])).into_iter().chain((0..6).flat_map(|_| block(&[("x-long", &long)])));
    let id = in_frames(&mut raw, &bytes.collect::<Vec<u8>>()).await;
    let end = raw.end(id).await;
    assert!(matches!(end, End::Bare | End::Reset(_) | End::Closed), "{end:?}");
    // One entry of the table, referred to again and again (HPACK bomb).
    let mut raw = Raw::connect(&stand).await;
    let value = "b".repeat(3_500);
    let mut bomb = block(&GET);
    bomb.push(0x40);
    bomb.extend(text("x-bomb"));
    bomb.extend(text(&value));
    bomb.extend(std::iter::repeat_n(0xbe, 10_000));
    let id = in_frames(&mut raw, &bomb).await;
    let end = raw.end(id).await;
    assert!(matches!(end, End::Bare | End::Reset(_) | End::Closed), "{end:?}");
    assert_eq!(stand.upstream.received().len(), 1);
}

#[tokio::test]
async fn a_head_that_is_too_long_is_on_record_and_the_last_of_its_connection() {
    let stand = speaking_http2().await;
    // Few bytes that refer to one line again and again.
    let mut bytes = block(&GET);
    bytes.push(0x40);
    bytes.extend([text("x-long"), text(&"a".repeat(3_500))].concat());
    bytes.extend(std::iter::repeat_n(0xbe, 30));
    for before in [0, 1] {
        let mut raw = Raw::connect(&stand).await;
        for _ in 0..before {
            let id = raw.request(&GET).await;
            assert_eq!(raw.end(id).await, End::Answered);
        }
        let id = in_frames(&mut raw, &bytes).await;
        assert_eq!(raw.end(id).await, End::Bare);
        raw.closed().await;
    }
    let refused = stand.audit.records().into_iter().filter(|record| record.reason.as_deref() == Some("limit_headers"));
    let hosts: Vec<_> = refused.filter_map(|record| record.destination?.host).collect();
    assert_eq!(hosts, ["api.test", "api.test"]);
}

#[tokio::test]
async fn what_an_upstream_finds_too_long_is_no_refusal_of_ours() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| Answer { status: 431, ..Answer::default() });
    let mut raw = Raw::connect(&stand).await;
    let id = raw.request(&GET).await;
    assert_eq!(raw.end(id).await, End::Bare);
    raw.closed().await;
    assert!(stand.audit.records().iter().all(|record| record.reason.is_none()));
}

/// A request whose fields are spread over frames of 10,000 bytes.
async fn in_frames(raw: &mut Raw, block: &[u8]) -> u32 {
    let id = raw.next;
    raw.next += 2;
    let mut pieces = block.chunks(10_000).peekable();
    let mut kind = HEADERS;
    while let Some(piece) = pieces.next() {
        let last = if pieces.peek().is_none() { END_HEADERS } else { 0 };
        let ends = if kind == HEADERS { END_STREAM } else { 0 };
        raw.send(kind, last | ends, id, piece).await;
        kind = CONTINUATION;
    }
    id
}

#[tokio::test]
async fn a_head_without_end_closes_the_connection_and_is_recorded() {
    let stand = speaking_http2().await;
    for piece in [block(&[("x-more", &"c".repeat(1000))]), Vec::new()] {
        let at = stand.audit.records().len();
        let mut raw = Raw::connect(&stand).await;
        raw.send(HEADERS, END_STREAM, 1, &block(&GET)).await;
        let mut sent = 0_u32;
        while raw.send(CONTINUATION, 0, 1, &piece).await && sent < 100_000 {
            sent += 1;
        }
        assert!(sent < 100_000, "an end in time");
        assert!(recorded(&stand, at).await.is_some());
    }
    assert!(stand.upstream.received().is_empty());
}

/// The reason of the first refused connection since; waits for it.
async fn recorded(stand: &Stand, at: usize) -> Option<String> {
    let waiting = async {
        loop {
            if let Some(record) = stand.record(Kind::EgressConnect, at) {
                return record.reason;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("a record in time")
}

#[tokio::test]
async fn what_breaks_the_connection_as_a_whole_is_recorded() {
    let stand = speaking_http2().await;
    let table: [(&str, Vec<u8>); 8] = [
        ("a table beyond the bound", frame(HEADERS, END_HEADERS | END_STREAM, 1, &integer(0x20, 5, 1 << 20))),
        ("no entry of the table", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff, 0xff, 0x7f])),
        ("an endless integer", frame(HEADERS, END_HEADERS | END_STREAM, 1, &[0xff; 200])),
        ("data on no stream", frame(DATA, 0, 0, b"x")),
        ("a frame beyond the size", frame(DATA, 0, 1, &vec![0; 20_000])),
        ("a stream of the server's", frame(HEADERS, END_HEADERS | END_STREAM, 2, &block(&GET))),
        (
            "a window beyond its end",
            [
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
                frame(WINDOW_UPDATE, 0, 0, &[0x7f, 0xff, 0xff, 0xff]),
            ]
            .concat(),
        ),
        ("a pushed promise", frame(5, END_HEADERS, 1, &[0, 0, 0, 2])),
    ];
    for (what, bytes) in table {
        let at = stand.audit.records().len();
        let mut raw = Raw::connect(&stand).await;
        raw.stream.write_all(&bytes).await.unwrap();
        raw.closed().await;
        assert_eq!(recorded(&stand, at).await.as_deref(), Some("request_malformed"), "{what}");
    }
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn rapid_resets_close_the_connection_and_are_recorded() {
    let stand = speaking_http2().await;
    let at = stand.audit.records().len();
    let mut raw = Raw::connect(&stand).await;
    let mut both = Vec::new();
    for number in 0..20_000_u32 {
        let id = number * 2 + 1;
        both.extend(frame(HEADERS, END_HEADERS | END_STREAM, id, &block(&GET)));
        both.extend(frame(RST_STREAM, 0, id, &8_u32.to_be_bytes()));
    }
    // The connection ends before all of it is taken.
    let _cut = raw.stream.write_all(&both).await;
    raw.closed().await;
    assert_eq!(recorded(&stand, at).await.as_deref(), Some("limit_rate"));
    assert!(stand.upstream.received().len() < 1000, "{}", stand.upstream.received().len());
}

#[tokio::test]
async fn requests_that_are_given_up_one_after_the_other_are_bounded() {
    let stand = speaking_http2().await;
    stand.upstream.http2.replies(|_| super::upstream_http2::Answer { silent: true, ..Default::default() });
    let at = stand.audit.records().len();
    let mut raw = Raw::connect(&stand).await;
    for _ in 0..=limits::STREAMS_GIVEN_UP {
        let id = raw.request(&GET).await;
        // Taken up before it is given up: told by the answer to what follows it.
        let ping = u64::from(id).to_be_bytes();
        raw.send(PING, 0, 0, &ping).await;
        while raw.frame().await.is_some_and(|(kind, _, _, payload)| kind != PING || payload != ping) {}
        raw.send(RST_STREAM, 0, id, &8_u32.to_be_bytes()).await;
    }
    raw.closed().await;
    assert_eq!(recorded(&stand, at).await.as_deref(), Some("limit_rate"));
}

#[tokio::test]
async fn streams_are_bounded_for_a_connection_and_for_a_session() {
    let stand = speaking_http2().await;
    let mut raw = Raw::connect(&stand).await;
    // Open, for their bodies do not come.
    for _ in 0..limits::STREAMS_PER_CONNECTION {
        let id = raw.next;
        raw.next += 2;
        raw.send(HEADERS, END_HEADERS, id, &block(&get_with(&[("content-length", "10")]))).await;
    }
    let id = raw.request(&GET).await;
    assert_eq!(raw.end(id).await, End::Reset(7), "REFUSED_STREAM");
    let mut raw = Raw::connect(&stand).await;
    let session = stand.session();
    let id = raw.request(&GET).await;
    assert_eq!(raw.end(id).await, End::Answered);
    let all = u32::try_from(session.streams.available_permits()).unwrap();
    assert_eq!(all, u32::try_from(limits::STREAMS_PER_SESSION).unwrap() - limits::STREAMS_PER_CONNECTION);
    let taken = session.streams.clone().acquire_many_owned(all).await.unwrap();
    let id = raw.request(&GET).await;
    assert_eq!(raw.end(id).await, End::Refused("limit_connections".to_owned()));
    drop(taken);
    let id = raw.request(&GET).await;
    assert_eq!(raw.end(id).await, End::Answered);
}

#[tokio::test]
async fn the_bounds_are_announced_and_what_is_sent_beyond_them_ends_the_stream() {
    let stand = speaking_http2().await;
    let mut raw = Raw::connect(&stand).await;
    let settings = loop {
        let (kind, flags, _, payload) = raw.frame().await.unwrap();
        if kind == SETTINGS && flags == 0 {
            break payload;
        }
    };
    let said = |id: u16| {
        let one = settings.chunks(6).find(|one| one[..2] == id.to_be_bytes());
        one.map(|one| u32::from_be_bytes(one[2..6].try_into().unwrap()))
    };
    assert_eq!(said(3), Some(limits::STREAMS_PER_CONNECTION));
    assert_eq!(said(4), Some(limits::STREAM_WINDOW_BYTES));
    assert_eq!(said(6), u32::try_from(limits::REQUEST_HEAD_BYTES).ok());
    // Refused at its head, so that nobody reads the body.
    let fields = [GET[0], GET[1], GET[2], (":path", "/v2/refused"), ("content-length", "1000000000")];
    let id = raw.next;
    raw.next += 2;
    raw.send(HEADERS, END_HEADERS, id, &block(&fields)).await;
    let piece = frame(DATA, 0, id, &[0; 16_384]);
    let flood = piece.repeat(limits::STREAMS_WINDOW_BYTES as usize / 16_384 * 40);
    let _cut = timeout(PATIENCE, raw.stream.write_all(&flood)).await.expect("taken or cut");
    let end = raw.end(id).await;
    assert!(matches!(end, End::Refused(_) | End::Reset(_) | End::Closed), "{end:?}");
}

#[tokio::test]
async fn a_connection_without_a_request_ends_in_time_whatever_else_it_sends() {
    let short = Duration::from_millis(200);
    let stand = with_bounds(Bounds { request_head: short, ..Bounds::default() }).await;
    let mut silent = Raw::connect(&stand).await;
    silent.closed().await;
    for flood in [
        frame(PING, 0, 0, &[0; 8]),
        frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 9]),
        frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]),
    ] {
        let mut raw = Raw::connect(&stand).await;
        let id = raw.request(&GET).await;
        assert_eq!(raw.end(id).await, End::Answered);
        let (mut reading, mut writing) = tokio::io::split(raw.stream);
        let writer = tokio::spawn(async move { while writing.write_all(&flood).await.is_ok() {} });
        let mut rest = [0; 4096];
        let ended = async { while matches!(reading.read(&mut rest).await, Ok(count) if count > 0) {} };
        timeout(PATIENCE, ended).await.expect("an end in time");
        timeout(PATIENCE, writer).await.expect("an end in time").unwrap();
    }
    assert!(stand.record(Kind::EgressConnect, 0).is_none_or(|record| record.reason.as_deref() == Some("limit_rate")));
}

#[tokio::test]
async fn a_client_that_grants_no_window_is_given_up_in_time() {
    let short = Duration::from_millis(200);
    let stand = Stand::with(Bounds { request_head: short, body_idle: short, ..Bounds::default() }).await;
    stand.upstream.http2.replies(|_| answer(&"x".repeat(1_000_000)));
    // SETTINGS_INITIAL_WINDOW_SIZE.
    let mut raw = Raw::with_settings(&stand, &[(4, 0)]).await;
    raw.request(&GET).await;
    raw.closed().await;
    let outcome = stand.record(Kind::EgressOutcome, 0).unwrap();
    assert_eq!(outcome.outcome.as_deref(), Some("cut short by the client"));
}

#[tokio::test]
async fn a_stream_whose_body_stalls_is_refused_in_time_and_alone() {
    let stand = with_bounds(Bounds { body_idle: Duration::from_millis(200), ..Bounds::default() }).await;
    let mut raw = Raw::connect(&stand).await;
    let stalled = raw.next;
    raw.next += 2;
    raw.send(HEADERS, END_HEADERS, stalled, &block(&get_with(&[("content-length", "10")]))).await;
    let id = raw.request(&GET).await;
    assert_eq!(raw.end(id).await, End::Answered);
    assert_eq!(raw.end(stalled).await, End::Refused("limit_time".to_owned()));
}

#[tokio::test]
async fn what_is_asked_while_an_idle_connection_is_being_ended_is_answered() {
    let stand = Stand::with(Bounds { request_head: Duration::from_millis(200), ..Bounds::default() }).await;
    stand.upstream.replies(|_| vec![Vec::new(), whole("200 OK", &[], b"hello")]);
    let mut raw = Raw::connect(&stand).await;
    while raw.frame().await.expect("a farewell").0 != GOAWAY {}
    // It had left when the farewell came.
    let id = raw.request(&GET).await;
    let unanswered = timeout(2 * limits::FAREWELL, raw.end(id)).await;
    assert!(unanswered.is_err(), "{unanswered:?}");
    stand.upstream.gate.add_permits(1);
    assert_eq!(raw.end(id).await, End::Answered);
    raw.closed().await;
}

#[tokio::test]
async fn a_client_that_will_not_hear_that_its_connection_ends_does_not_keep_it() {
    let stand = with_bounds(Bounds { request_head: Duration::from_millis(200), ..Bounds::default() }).await;
    let mut raw = Raw::connect(&stand).await;
    while raw.frame().await.expect("a farewell").0 != GOAWAY {}
    let asking = async {
        loop {
            let id = raw.request(&GET).await;
            if raw.end(id).await == End::Closed {
                return;
            }
        }
    };
    timeout(PATIENCE, asking).await.expect("an end in time");
}

#[tokio::test]
async fn an_http2_connection_ends_with_its_total_time() {
    let stand = with_bounds(Bounds { connection_total: Duration::from_secs(3), ..Bounds::default() }).await;
    let mut raw = Raw::connect(&stand).await;
    raw.send(HEADERS, END_HEADERS, 1, &block(&get_with(&[("content-length", "10")]))).await;
    raw.closed().await;
    let mut after = Raw::connect(&stand).await;
    let id = after.request(&GET).await;
    assert_eq!(after.end(id).await, End::Answered);
}

#[tokio::test]
async fn a_placeholder_in_the_table_or_in_a_pseudo_field_is_no_exact_location() {
    let stand = speaking_http2().await;
    let mut raw = Raw::connect(&stand).await;
    let path = format!("/v1/{}", stand.placeholder);
    let authority = format!("{}@api.test", stand.placeholder);
    for (what, fields, reason) in [
        ("path", vec![GET[0], GET[1], GET[2], (":path", path.as_str())], "placeholder_wrong_location"),
        ("authority", vec![GET[0], GET[1], (":authority", authority.as_str()), GET[3]], "placeholder_wrong_location"),
        ("secret", [&GET[..], &[("x-api-key", SECRET)]].concat(), "real_secret_seen"),
    ] {
        let id = raw.request(&fields).await;
        assert_eq!(raw.end(id).await, End::Refused(reason.to_owned()), "{what}");
    }
    // Once as an entry of the table, then by its number: each time the place is looked at, not the bytes.
    let mut indexed = block(&GET);
    indexed.push(0x40);
    indexed.extend(text("x-api-key"));
    indexed.extend(text(&stand.placeholder));
    for more in [&[][..], &[0xbe]] {
        let id = raw.next;
        raw.next += 2;
        raw.send(HEADERS, END_HEADERS | END_STREAM, id, &[&indexed[..], more].concat()).await;
        let expected =
            if more.is_empty() { End::Answered } else { End::Refused("placeholder_wrong_location".to_owned()) };
        assert_eq!(raw.end(id).await, expected);
    }
    assert!(stand.upstream.received()[0].head.contains(&format!("x-api-key: {SECRET}")));
}
