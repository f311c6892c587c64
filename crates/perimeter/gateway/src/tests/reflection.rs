//! A server that hands the secret back, in every place and form: the caller never sees it.

use std::io::Write;

use postern_audit::Kind;

use serde_json::json;

use super::stand::{Call, Got, Reply, SECRET, SSE, Stand, chunks, event, result, whole};

async fn got(reply: impl Fn() -> Reply + Send + Sync + 'static) -> (Got, Stand) {
    let stand = Stand::new(move |_| reply()).await;
    let got = stand.send(Call::tool("search", &json!({}))).await;
    (got, stand)
}

fn clean(got: &Got, what: &str) {
    let all = got.all();
    let found = postern_secret::detect::Detector::new([SECRET.as_bytes()]).is_in(&all);
    assert!(!found, "{what}: {}", String::from_utf8_lossy(&all));
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn in_a_body_plain_and_encoded() {
    use base64::Engine as _;
    let encoded = base64::engine::general_purpose::STANDARD.encode(SECRET);
    let hex: String = SECRET.bytes().map(|byte| format!("{byte:02x}")).collect();
    for reflected in [SECRET.to_owned(), format!("Bearer {SECRET}"), encoded, hex] {
        let body = result(&reflected);
        let length = body.len();
        let (got, stand) = got(move || whole("200 OK", "content-type: application/json\r\n", body.as_bytes())).await;
        clean(&got, &reflected);
        assert_eq!(got.body.len(), length, "what stands for the secret is as long");
        assert!(stand.records(Kind::McpOutcome)[0].counts["scrubbed"] >= 1);
    }
}

#[tokio::test]
async fn across_the_borders_of_chunks() {
    let body = result(SECRET);
    for at in [1, 70, 80, 90, body.len() - 1] {
        let (first, second) = body.split_at(at.min(body.len() - 1));
        let pieces = chunks("content-type: application/json\r\n", &[first.as_bytes(), second.as_bytes()], true);
        let (got, _) = got(move || Reply::Pieces(pieces.clone())).await;
        clean(&got, "split");
        assert_eq!(got.json()["id"], 7);
    }
}

#[tokio::test]
async fn in_an_event_stream_split_at_every_place() {
    let event = event(&result(SECRET));
    let at = event.find(SECRET).unwrap();
    for split in (at..at + SECRET.len()).step_by(5) {
        let pieces = chunks(SSE, &[&event.as_bytes()[..split], &event.as_bytes()[split..]], true);
        let (got, stand) = got(move || Reply::Pieces(pieces.clone())).await;
        clean(&got, "stream");
        assert!(got.text().ends_with("\n\n"), "{}", got.text());
        assert_eq!(stand.records(Kind::McpOutcome)[0].counts["scrubbed"], 1);
    }
}

#[tokio::test]
async fn inside_gzip() {
    let body = gzip(result(SECRET).as_bytes());
    let headers = "content-type: application/json\r\ncontent-encoding: gzip\r\n";
    let (got, _) = got(move || whole("200 OK", headers, &body)).await;
    clean(&got, "gzip");
    assert_eq!(got.json()["id"], 7);
    assert!(!got.headers.contains_key("content-encoding"));
}

#[tokio::test]
async fn in_an_encoding_that_cannot_be_read_nothing_passes() {
    let headers = "content-type: application/json\r\ncontent-encoding: compress\r\n";
    let (got, _) = got(move || whole("200 OK", headers, SECRET.as_bytes())).await;
    clean(&got, "compress");
    assert_eq!(got.reason().as_deref(), Some("encoding_unsupported"));
}

#[tokio::test]
async fn in_headers() {
    let headers = format!(
        "content-type: application/json\r\nx-reflected: {SECRET}\r\nretry-after: {SECRET}\r\nset-cookie: a={SECRET}\r\nallow: {SECRET}\r\n"
    );
    let (got, _) = got(move || whole("200 OK", &headers, result("x").as_bytes())).await;
    clean(&got, "headers");
    assert!(!got.headers.contains_key("x-reflected") && !got.headers.contains_key("set-cookie"));
}

#[tokio::test]
async fn in_an_mcp_session_id() {
    let headers = format!("content-type: application/json\r\nmcp-session-id: {SECRET}\r\n");
    let (got, _) = got(move || whole("200 OK", &headers, result("x").as_bytes())).await;
    clean(&got, "session id");
    assert_eq!(got.reason().as_deref(), Some("upstream_protocol"));
}

#[tokio::test]
async fn in_a_challenge_and_in_error_texts() {
    for (status, reason) in [
        ("401 Unauthorized", "upstream_unauthorized"),
        ("403 Forbidden", "upstream_unauthorized"),
        ("500 Oops", "upstream_unreachable"),
        ("302 Found", "redirect_refused"),
    ] {
        let headers = format!(
            "content-type: text/plain\r\nwww-authenticate: Bearer error=\"bad {SECRET}\"\r\nlocation: https://evil.example/{SECRET}\r\n"
        );
        let body = format!("you sent Bearer {SECRET}");
        let (got, stand) = got(move || whole(status, &headers, body.as_bytes())).await;
        clean(&got, status);
        assert_eq!(got.reason().as_deref(), Some(reason), "{status}");
        let says_more = reason != "upstream_unauthorized";
        assert_eq!(got.text().contains("you sent Bearer pstn"), says_more, "{}", got.text());
        assert_eq!(stand.seen().len(), 1, "redirects are not followed");
        assert!(!format!("{:?}", stand.audit.records()).contains(SECRET));
    }
}

#[tokio::test]
async fn as_the_key_that_a_server_says_it_expects() {
    for status in ["401 Unauthorized", "403 Forbidden", "407 Proxy Authentication Required"] {
        let headers = "www-authenticate: Bearer error_description=\"expected the-key-it-waits-for\"\r\n";
        let (got, stand) = got(move || whole(status, headers, b"expected the-key-it-waits-for")).await;
        assert!(!got.text().contains("the-key-it-waits-for"), "{}", got.text());
        assert!(!format!("{:?}", stand.audit.records()).contains("the-key-it-waits-for"));
    }
}

#[tokio::test]
async fn as_a_former_secret_after_a_change() {
    let stand = Stand::new(|_| whole("200 OK", "content-type: application/json\r\n", result(SECRET).as_bytes())).await;
    clean(&stand.send(Call::tool("search", &json!({}))).await, "first");
    *stand.custody.secret.lock().unwrap() = Some("another-bearer-0Zx91LmQ4w");
    clean(&stand.send(Call::tool("search", &json!({}))).await, "after the change");
}
