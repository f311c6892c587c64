//! The client against a socket that answers what a test says.

use super::*;
use postern_net::TlsRoots;
use postern_policy::{Endpoint, configured};
use postern_session::FailureKind;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

const PATIENCE: Duration = Duration::from_secs(20);
const KEY: &str = "sk-test-0123456789abcdef";

async fn server() -> (TcpListener, Client) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint: Endpoint = format!("http://{}/base", listener.local_addr().unwrap()).parse().unwrap();
    let http = HttpClient::new(configured(&endpoint), &TlsRoots::Only(Vec::new())).unwrap();
    let settings = Settings { default_model: Some("fallback".into()), ..Settings::default() };
    (listener, Client::new(http, Some(SecretBytes::new(KEY.into())), settings))
}

/// Takes one request and gives its head.
async fn request(listener: &TcpListener) -> (TcpStream, String) {
    let (mut socket, _) = listener.accept().await.unwrap();
    let mut head = Vec::new();
    while !head.windows(4).any(|window| window == b"\r\n\r\n") {
        let read = socket.read_buf(&mut head).await.unwrap();
        assert_ne!(read, 0, "a whole head");
    }
    (socket, String::from_utf8(head).unwrap())
}

async fn answer(socket: &mut TcpStream, status: &str, headers: &str, body: &str) {
    let length = body.len();
    let text = format!("HTTP/1.1 {status}\r\ncontent-length: {length}\r\nconnection: close\r\n{headers}\r\n{body}");
    socket.write_all(text.as_bytes()).await.unwrap();
}

async fn failure(mut news: mpsc::Receiver<ModelEvent>) -> ModelFailure {
    match tokio::time::timeout(PATIENCE, news.recv()).await.unwrap() {
        Some(ModelEvent::Failed(failure)) => failure,
        other => panic!("a failure, not {other:?}"),
    }
}

#[tokio::test]
async fn the_key_is_sent_and_taken_out_of_what_the_endpoint_repeats() {
    let (listener, client) = server().await;
    let news = client.start(Bytes::from_static(b"{}"));
    let (mut socket, head) = request(&listener).await;
    assert!(head.starts_with("POST /base/v1/messages "), "{head}");
    assert!(head.contains(&format!("x-api-key: {KEY}")));
    let body = format!(r#"{{"error":{{"type":"invalid_request_error","message":"bad key {KEY}"}}}}"#);
    answer(&mut socket, "400 Bad Request", "", &body).await;
    let failure = failure(news).await;
    assert_eq!(failure.kind, FailureKind::Rejected);
    assert!(failure.message.contains("bad key [key]") && !failure.message.contains(KEY), "{}", failure.message);
}

/// A log that a test reads.
#[derive(Clone, Default)]
struct Log(Arc<std::sync::Mutex<Vec<u8>>>);

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn the_key_is_in_no_failure_and_in_no_log_and_the_cause_is_in_the_log_alone() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber =
        tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_writer(move || writer.clone()).finish();
    // Tests of tokio run on one thread: what the client spawns logs here too.
    let _guard = tracing::subscriber::set_default(subscriber);
    let (listener, client) = server().await;
    let said = format!("{{\"error\":{{\"type\":\"TYPE\",\"message\":\"your key {KEY} is odd\"}}}}");
    let mut messages = Vec::new();
    for (status, kind) in [
        ("400 Bad Request", "invalid_request_error"),
        ("401 Unauthorized", "authentication_error"),
        ("429 Too Many Requests", "rate_limit_error"),
        ("500 Internal Server Error", "api_error"),
        ("502 Bad Gateway", "surprise"),
    ] {
        let news = client.start(Bytes::from_static(b"{}"));
        let (mut socket, _) = request(&listener).await;
        answer(&mut socket, status, &format!("x-echo: {KEY}\r\n"), &said.replace("TYPE", kind)).await;
        messages.push(failure(news).await);
    }
    for stream in [
        format!("event: error\ndata: {}\n\n", said.replace("TYPE", "api_error")),
        format!("event: {KEY}\ndata: {KEY}\n\n"),
    ] {
        let news = client.start(Bytes::from_static(b"{}"));
        let (mut socket, _) = request(&listener).await;
        answer(&mut socket, "200 OK", "content-type: text/event-stream\r\n", &stream).await;
        messages.push(failure(news).await);
    }
    let news = client.start(Bytes::from_static(b"{}"));
    let (mut socket, _) = request(&listener).await;
    socket.write_all(format!("{KEY} is no HTTP\r\n\r\n").as_bytes()).await.unwrap();
    drop(socket);
    messages.push(failure(news).await);
    let authority = listener.local_addr().unwrap().to_string();
    drop(listener);
    messages.push(failure(client.start(Bytes::from_static(b"{}"))).await);

    let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert_eq!(log.matches("a model request failed").count(), messages.len(), "{log}");
    assert!(log.contains(&authority) && log.contains("[key]"), "the operator finds the cause: {log}");
    for text in messages.iter().map(|failure| format!("{failure:?}")).chain([log]) {
        assert!(!text.contains(KEY), "{text}");
    }
    for failure in messages {
        let told = failure.message.contains(&authority) || failure.message.contains("os error");
        assert!(!told, "{}", failure.message);
    }
}

#[tokio::test]
async fn the_time_an_endpoint_asks_for_is_passed_on() {
    for (header, expected) in [("retry-after: 7\r\n", 7_000), ("retry-after-ms: 1500\r\n", 1_500)] {
        let (listener, client) = server().await;
        let news = client.start(Bytes::from_static(b"{}"));
        let (mut socket, _) = request(&listener).await;
        answer(&mut socket, "429 Too Many Requests", header, "").await;
        let failure = failure(news).await;
        assert_eq!(
            (failure.kind, failure.retry_after),
            (FailureKind::RateLimited, Some(Duration::from_millis(expected)))
        );
    }
}

#[tokio::test]
async fn an_endpoint_that_is_not_there_is_worth_another_try() {
    let (listener, client) = server().await;
    drop(listener);
    assert_eq!(failure(client.start(Bytes::from_static(b"{}"))).await.kind, FailureKind::Transient);
}

#[tokio::test]
async fn dropping_the_receiver_ends_the_connection() {
    let (listener, client) = server().await;
    let mut news = client.start(Bytes::from_static(b"{}"));
    let (mut socket, _) = request(&listener).await;
    let events = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\
        \"content_block\":{\"type\":\"text\",\"text\":\"x\"}}\n\n";
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    socket.write_all(format!("{head}{:x}\r\n{events}\r\n", events.len()).as_bytes()).await.unwrap();
    assert_eq!(news.recv().await, Some(ModelEvent::Text { index: 0, text: "x".into() }));
    drop(news);
    let mut rest = Vec::new();
    tokio::time::timeout(PATIENCE, socket.read_to_end(&mut rest)).await.expect("the connection ends").unwrap();
}

#[tokio::test]
async fn an_endpoint_without_a_list_has_the_configured_model_and_is_asked_once() {
    let (listener, client) = server().await;
    let asked = tokio::spawn(async move {
        let mut heads = Vec::new();
        for _ in 0..2 {
            let (mut socket, head) = request(&listener).await;
            answer(&mut socket, "404 Not Found", "", "").await;
            heads.push(head);
        }
        (listener, heads)
    });
    for _ in 0..2 {
        let models = client.models().await;
        assert_eq!(models.iter().map(|model| model.id.as_str()).collect::<Vec<_>>(), ["fallback"]);
    }
    let (_listener, heads) = asked.await.unwrap();
    assert!(heads[0].starts_with("GET /base/v1/models?limit=1000&lifecycle%5B%5D=active&"), "{heads:?}");
    assert!(
        heads[1].starts_with("GET /base/v1/models?limit=1000 "),
        "as an endpoint takes it that knows no lifecycles"
    );
}

#[tokio::test]
async fn what_is_not_in_the_list_is_asked_for_by_its_name_and_by_no_other_path() {
    let (listener, client) = server().await;
    let asked = tokio::spawn(async move {
        let mut heads = Vec::new();
        let list = r#"{"data":[{"id":"m-20260101"}]}"#;
        let one = r#"{"type":"model","id":"m-20260101"}"#;
        for (status, body) in [("200 OK", list), ("200 OK", one), ("404 Not Found", "{}")] {
            let (mut socket, head) = request(&listener).await;
            answer(&mut socket, status, "", body).await;
            heads.push(head.lines().next().unwrap().to_owned());
        }
        (listener, heads)
    });
    let id = async |name: &str| client.named(name).await.map(|model| model.id);
    assert_eq!(id("m-20260101").await.as_deref(), Some("m-20260101"), "from the list");
    assert_eq!(id("m-latest").await.as_deref(), Some("m-20260101"));
    assert_eq!(id("../messages?x=1").await, None);
    for unasked in ["..", ".", "", &"m".repeat(257)] {
        assert_eq!(id(unasked).await, None, "{unasked}");
    }
    let (_listener, heads) = asked.await.unwrap();
    assert_eq!(heads[1], "GET /base/v1/models/m-latest HTTP/1.1");
    assert_eq!(heads[2], "GET /base/v1/models/..%2Fmessages%3Fx%3D1 HTTP/1.1");
}

/// A list with one model, of this size in all.
fn list_of(size: usize) -> String {
    let (head, tail) = (r#"{"data":[{"id":"m-1"}],"padding":""#, r#""}"#);
    format!("{head}{}{tail}", "x".repeat(size - head.len() - tail.len()))
}

#[tokio::test]
async fn a_list_of_models_is_read_up_to_four_mebibytes() {
    for (size, id) in [(4 << 20, "m-1"), ((4 << 20) + 1, "fallback")] {
        let (listener, client) = server().await;
        let asked = tokio::spawn(async move {
            let (mut socket, _) = request(&listener).await;
            // A client that has read enough goes away.
            let text = list_of(size);
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {size}\r\nconnection: close\r\n\r\n");
            drop(socket.write_all([head.as_bytes(), text.as_bytes()].concat().as_slice()).await);
        });
        assert_eq!(client.models().await[0].id, id, "{size}");
        asked.await.unwrap();
    }
}

#[tokio::test]
async fn a_list_of_models_is_good_for_a_minute() {
    let (listener, client) = server().await;
    let asked = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = request(&listener).await;
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            answer(&mut socket, "200 OK", "", &list_of(100)).await;
        }
    });
    for (passed, expected) in [(0, 1), (59, 1), (1, 2)] {
        tokio::time::pause();
        tokio::time::advance(Duration::from_secs(passed)).await;
        tokio::time::resume();
        client.models().await;
        assert_eq!(asked.load(std::sync::atomic::Ordering::SeqCst), expected, "{passed}");
    }
}

#[tokio::test]
async fn of_an_answer_that_nobody_reads_256_pieces_are_kept() {
    let (listener, client) = server().await;
    let mut news = client.start(Bytes::from_static(b"{}"));
    let (mut socket, _) = request(&listener).await;
    let start = "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":0,\
        \"content_block\":{\"type\":\"text\",\"text\":\"\"}}\n\n";
    let piece = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\
        \"delta\":{\"type\":\"text_delta\",\"text\":\"x\"}}\n\n";
    let events = format!("{start}{}", piece.repeat(1000));
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n";
    let writing = tokio::spawn(async move {
        socket.write_all(format!("{head}{events}").as_bytes()).await.unwrap();
        socket
    });
    while news.len() < 256 {
        tokio::task::yield_now().await;
    }
    let _socket = writing.await.unwrap();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(news.len(), 256, "the rest waits outside");
    for _ in 0..1000 {
        let piece = tokio::time::timeout(PATIENCE, news.recv()).await.unwrap();
        assert_eq!(piece, Some(ModelEvent::Text { index: 0, text: "x".into() }));
    }
}
