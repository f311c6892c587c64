//! Servers and callers that are slow, endless, compressed, malformed or answer what nobody asked: each is stopped by a bound, with its reason, and the
//! gateway serves the next call.

use std::{
    io::Write,
    sync::Arc,
    time::{Duration, Instant},
};

use postern_audit::{Decision, Kind};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::stand::{Call, DOMAIN, Reply, SSE, Seen, Stand, answer, chunks, event, result, whole};

const JSON: &str = "content-type: application/json\r\n";

/// What a server does with a request.
type Behaving = Box<dyn Fn() -> Reply + Send + Sync>;

pub(super) fn good() -> Call {
    Call::tool("search", &json!({}))
}

/// A stand whose server answers the first call so and all others well.
async fn once(reply: impl Fn() -> Reply + Send + Sync + 'static) -> Stand {
    let first = std::sync::atomic::AtomicBool::new(true);
    Stand::new(
        move |seen: &Seen| {
            if first.swap(false, std::sync::atomic::Ordering::Relaxed) { reply() } else { answer(seen) }
        },
    )
    .await
}

/// The reason that the model reads of a call, by whichever way it comes.
async fn refused(stand: &Stand, what: &str) -> String {
    let got = stand.send(good()).await;
    let said: Value = match got.headers["content-type"].to_str().unwrap() {
        "text/event-stream" => serde_json::from_str(got.text().rsplit("data: ").next().unwrap()).unwrap(),
        _ => got.json(),
    };
    assert_eq!(said["id"], 7, "{what}");
    said["result"]["_meta"]["postern/reason"].as_str().unwrap_or_else(|| panic!("{what}: {}", got.text())).to_owned()
}

/// Each is refused for its reason, once, on record; the next call is served.
async fn each(table: Vec<(&str, Behaving, &str)>) {
    for (what, reply, reason) in table {
        let stand = once(reply).await;
        let began = Instant::now();
        assert_eq!(refused(&stand, what).await, reason, "{what}");
        assert!(began.elapsed() < Duration::from_secs(10), "{what}");
        let outcome = &stand.records(Kind::McpOutcome)[0];
        assert_eq!((outcome.decision, outcome.reason.as_deref()), (Decision::Deny, Some(reason)), "{what}");
        assert_eq!(stand.send(good()).await.status, 200, "{what}");
    }
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

fn answering(body: impl Into<Vec<u8>>) -> Behaving {
    let body = body.into();
    Box::new(move || whole("200 OK", JSON, &body))
}

fn saying(data: &str) -> Behaving {
    let event = event(data);
    Box::new(move || Reply::Pieces(chunks(SSE, &[event.as_bytes()], true)))
}

#[tokio::test]
async fn a_server_that_is_slow_or_never_ends_is_stopped_by_time_or_size() {
    let endless = |headers: &str, piece: &[u8], pause| {
        let head = format!("HTTP/1.1 200 OK\r\n{headers}transfer-encoding: chunked\r\n\r\n").into_bytes();
        let chunk = [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
        move || Reply::Endless(head.clone(), chunk.clone(), Duration::from_millis(pause))
    };
    let slow_head = || Reply::Endless(b"HTTP/1.1 200 OK\r\nx: ".to_vec(), b"x".to_vec(), Duration::from_millis(20));
    let progress = event(r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progress":1}}"#);
    each(vec![
        ("a head byte by byte", Box::new(slow_head), "timeout"),
        ("a body byte by byte", Box::new(endless(JSON, b" ", 20)), "timeout"),
        ("events byte by byte", Box::new(endless(SSE, b":", 20)), "timeout"),
        ("a body without end", Box::new(endless(JSON, &[b' '; 16 << 10], 0)), "result_too_large"),
        ("events without end", Box::new(endless(SSE, progress.repeat(100).as_bytes(), 0)), "result_too_large"),
        ("one event without end", Box::new(endless(SSE, &[b'x'; 16 << 10], 0)), "result_too_large"),
        ("a comment without end", Box::new(endless(SSE, b": still here\n\n", 1)), "timeout"),
    ])
    .await;
}

#[tokio::test]
async fn a_head_beyond_its_bounds_is_no_answer() {
    let long = format!("x: {}\r\n", "x".repeat(crate::limits::ANSWER_HEAD_BYTES));
    let many = "x: y\r\n".repeat(crate::limits::HEADER_LINES + 1);
    each(vec![
        ("a header too long", Box::new(move || whole("200 OK", &long, b"{}")), "upstream_protocol"),
        ("too many headers", Box::new(move || whole("200 OK", &many, b"{}")), "upstream_protocol"),
    ])
    .await;
}

#[tokio::test]
async fn what_decodes_to_more_than_the_route_takes_ends_there() {
    let zeros = vec![b' '; 64 << 20];
    let (bomb, twice) = (gzip(&zeros), gzip(&gzip(&zeros)));
    let stream = bomb.clone();
    let gzipped = |layers: &str| format!("{JSON}content-encoding: {layers}\r\n");
    let (one, two) = (gzipped("gzip"), gzipped("gzip, gzip"));
    each(vec![
        ("a bomb", Box::new(move || whole("200 OK", &one, &bomb)), "result_too_large"),
        ("a bomb in a bomb", Box::new(move || whole("200 OK", &two, &twice)), "result_too_large"),
        (
            "a bomb of events",
            Box::new(move || whole("200 OK", &format!("{SSE}content-encoding: gzip\r\n"), &stream)),
            "result_too_large",
        ),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_that_is_malformed_or_not_what_was_asked_for_is_none() {
    let deep = format!(r#"{{"jsonrpc":"2.0","id":7,"result":{}{}}}"#, "[".repeat(60_000), "]".repeat(60_000));
    let done = result("done");
    each(vec![
        (
            "no UTF-8",
            answering(&b"{\"jsonrpc\":\"2.0\",\"id\":7,\"result\":{\"a\":\"\xff\xfe\"}}"[..]),
            "upstream_protocol",
        ),
        ("no JSON", answering("{\"jsonrpc\": \"2.0\", \"id\": 7, "), "upstream_protocol"),
        ("two texts", answering(format!("{done}{done}")), "upstream_protocol"),
        ("nested too deeply", answering(deep), "upstream_protocol"),
        ("an id twice", answering(r#"{"jsonrpc":"2.0","id":7,"id":8,"result":{}}"#), "upstream_protocol"),
        ("a result twice", answering(r#"{"jsonrpc":"2.0","id":7,"result":{},"result":{}}"#), "upstream_protocol"),
        ("a key twice within", answering(r#"{"jsonrpc":"2.0","id":7,"result":{"x":1,"x":2}}"#), "upstream_protocol"),
        ("a result and an error", answering(r#"{"jsonrpc":"2.0","id":7,"result":{},"error":{}}"#), "upstream_protocol"),
        ("another's answer", answering(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#), "upstream_protocol"),
        ("the id as a text", answering(r#"{"jsonrpc":"2.0","id":"7","result":{}}"#), "upstream_protocol"),
        ("no answer", answering(r#"{"jsonrpc":"2.0","method":"notifications/x"}"#), "upstream_protocol"),
        ("a batch", answering(format!("[{done}]")), "upstream_protocol"),
        ("an event that is no JSON", saying("hello"), "upstream_protocol"),
        ("an event with another's answer", saying(r#"{"jsonrpc":"2.0","id":8,"result":{}}"#), "upstream_protocol"),
        ("an event with an id twice", saying(r#"{"jsonrpc":"2.0","id":8,"id":7,"result":{}}"#), "upstream_protocol"),
    ])
    .await;
}

#[tokio::test]
async fn an_answer_that_comes_twice_goes_on_once_and_is_on_record() {
    let first = event(&result("done"));
    let pieces = first.clone();
    let stand = Stand::new(move |_| Reply::Pieces(chunks(SSE, &[pieces.as_bytes(), pieces.as_bytes()], true))).await;
    let got = stand.send(good()).await;
    // Where both come in one piece neither goes on, and the refusal is the answer.
    let answers = got.text().matches("\"id\":7").count();
    assert_eq!(answers, 1, "{}", got.text());
    assert_eq!(stand.records(Kind::McpOutcome)[0].reason.as_deref(), Some("upstream_protocol"));
}

#[tokio::test]
async fn a_redirect_leads_nowhere_and_takes_no_secret_along() {
    let elsewhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let target = elsewhere.local_addr().unwrap();
    for status in ["301 Moved", "302 Found", "303 See Other", "307 Temporary Redirect", "308 Permanent Redirect"] {
        let stand = once(move || whole(status, &format!("location: http://{target}/mcp\r\n"), b"")).await;
        assert_eq!(refused(&stand, status).await, "redirect_refused", "{status}");
        assert_eq!(stand.seen().len(), 1, "{status}");
    }
    // Whoever followed would have connected by now: each answer came after that.
    let nobody = elsewhere.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

#[tokio::test]
async fn an_event_that_is_never_whole_counts_among_what_answers_may_take() {
    let head = format!("HTTP/1.1 200 OK\r\n{SSE}transfer-encoding: chunked\r\n\r\n");
    let piece = [format!("{:x}\r\n", 128 << 10).as_bytes(), &vec![b'x'; 128 << 10], b"\r\n"].concat();
    let stand = Stand::new(move |_| Reply::Hang(vec![head.clone().into_bytes(), piece.clone()])).await;
    let free = stand.gateway.memory.available_permits();
    let answer = stand.begin(good()).await;
    super::streams::until(|| stand.gateway.memory.available_permits() < free).await;
    drop(answer);
    super::streams::until(|| stand.gateway.memory.available_permits() == free).await;
    let all = u32::try_from(free).unwrap();
    let _taken = Arc::clone(&stand.gateway.memory).try_acquire_many_owned(all).unwrap();
    assert_eq!(refused(&stand, "no room").await, "gateway_busy");
}

/// The head of a call whose body follows in chunks.
pub(super) fn chunked(stand: &Stand) -> Vec<u8> {
    let token = stand.signer.sign(&good().claims).unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: wiki.{DOMAIN}\r\npostern-identity: {token}\r\n{JSON}transfer-encoding: chunked\r\n\r\n"
    );
    head.into_bytes()
}

/// Sends these, and then the piece again and again until there is an answer; its beginning.
async fn sent(stand: &Stand, head: &[u8], piece: &[u8], pause: Duration) -> String {
    let host = format!("wiki.{DOMAIN}");
    let (mut reading, mut writing) = tokio::io::split(stand.connect(&host, &host).await.unwrap());
    writing.write_all(head).await.unwrap();
    let sending = async {
        while writing.write_all(piece).await.is_ok() && writing.flush().await.is_ok() {
            tokio::time::sleep(pause).await;
        }
        std::future::pending::<()>().await;
    };
    let mut answer = vec![0; 4096];
    let taken = tokio::select! {
        taken = tokio::time::timeout(Duration::from_secs(20), reading.read(&mut answer)) => taken.expect("an answer"),
        () = sending => unreachable!("it never ends"),
    };
    String::from_utf8_lossy(&answer[..taken.unwrap_or(0)]).into_owned()
}

#[tokio::test]
async fn a_caller_whose_body_is_endless_or_trickles_is_stopped_by_size_or_time() {
    let stand = Stand::answering().await;
    let piece = [b"4000\r\n".as_slice(), &[b' '; 0x4000], b"\r\n"].concat();
    let endless = sent(&stand, &chunked(&stand), &piece, Duration::ZERO).await;
    assert!(endless.contains("postern-reason: limit_body"), "{endless}");
    let trickle = sent(&stand, &chunked(&stand), b"1\r\n \r\n", Duration::from_millis(20)).await;
    assert!(trickle.contains("postern-reason: limit_time"), "{trickle}");
    assert!(stand.seen().is_empty());
    assert_eq!(stand.send(good()).await.status, 200);
}

#[tokio::test]
async fn a_caller_whose_message_two_readers_read_differently_reaches_no_server() {
    let stand = Stand::answering().await;
    let deep = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{}{}}}}}"#,
        "[".repeat(30_000),
        "]".repeat(30_000)
    );
    let table: [(&str, Call, &str); 6] = [
        ("nested too deeply", Call::on("wiki", deep), "request_malformed"),
        ("an id twice", Call::on("wiki", r#"{"jsonrpc":"2.0","id":1,"id":2,"method":"ping"}"#), "request_malformed"),
        ("no JSON", Call::on("wiki", "{"), "request_malformed"),
        (
            "an answer and a request",
            Call::on("wiki", r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#),
            "request_malformed",
        ),
        ("compressed", Call::on("wiki", "x").with("content-encoding", "gzip"), "encoding_unsupported"),
        ("a header too long", good().with("mcp-protocol-version", "x".repeat(3_000)), "limit_headers"),
    ];
    for (what, call, reason) in table {
        let got = stand.send(call).await;
        assert_eq!(got.reason().as_deref(), Some(reason), "{what}: {}", got.text());
    }
    let invalid = b"{\"jsonrpc\":\"2.0\",\"id\":1,\"method\":\"\xff\"}";
    let mut claims = good().claims;
    claims.body = postern_tunnel::identity::body_digest(invalid);
    let token = stand.signer.sign(&claims).unwrap();
    let head = format!(
        "POST /mcp HTTP/1.1\r\nhost: wiki.{DOMAIN}\r\nconnection: close\r\npostern-identity: {token}\r\n{JSON}content-length: {}\r\n\r\n",
        invalid.len()
    );
    let got = stand.raw("wiki", &[head.as_bytes(), invalid].concat()).await;
    assert!(got.contains("postern-reason: request_malformed"), "{got}");
    assert!(stand.seen().is_empty());
}
