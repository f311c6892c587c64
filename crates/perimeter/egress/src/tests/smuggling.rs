//! Requests that could be read in two ways, or that carry something of ours where nobody looks at first sight: names,
//! encodings' own headers, hosts, forms beyond what is read. Each is refused; nothing of it reaches the upstream.

use std::io::Write;

use flate2::{Compression, GzBuilder, write::GzEncoder};
use postern_audit::Kind;
use tokio::{io::AsyncReadExt, time::timeout};

use super::stand::{PATIENCE, SECRET, Stand, WAYS, Way, get, post, talk};
use crate::limits;

fn gzip_with_comment(comment: &str, text: &[u8]) -> Vec<u8> {
    let mut encoder = GzBuilder::new().comment(comment).write(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

#[tokio::test]
async fn framing_that_could_be_read_in_two_ways_is_refused() {
    let stand = Stand::start().await;
    let chunks = "3\r\nabc\r\n0\r\n\r\n";
    let request = |framing: &str| format!("POST /v1/x HTTP/1.1\r\nhost: api.test\r\n{framing}\r\n{chunks}");
    for framing in [
        "transfer-encoding: gzip, chunked\r\n",
        "transfer-encoding: gzip\r\ntransfer-encoding: chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    ] {
        let seen = stand.send(Way::Redirect, "https", "api.test", 443, request(framing).as_bytes()).await;
        assert_eq!(seen.reason().as_deref(), Some("request_malformed"), "{framing:?} {}", seen.head);
    }
    assert!(stand.upstream.received().is_empty());
    // A length beside chunks never arrives: what was inspected has the one framing that it leaves with.
    for framing in
        ["content-length: 0\r\ntransfer-encoding: chunked\r\n", "transfer-encoding: chunked\r\ncontent-length: 5\r\n"]
    {
        let seen = stand.send(Way::Redirect, "https", "api.test", 443, request(framing).as_bytes()).await;
        assert_eq!(seen.status, 200, "{framing:?} {}", seen.head);
        let received = stand.upstream.received().pop().unwrap();
        assert_eq!((received.header("content-length").as_deref(), &received.body[..]), (Some("3"), &b"abc"[..]));
        assert!(received.header("transfer-encoding").is_none());
    }
}

#[tokio::test]
async fn a_placeholder_in_the_encodings_own_header_is_refused() {
    let stand = Stand::start().await;
    let body = gzip_with_comment(&stand.placeholder, b"harmless");
    let request = post("api.test", "/v1/x", &[("content-encoding", "gzip")], &body);
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("placeholder_wrong_location"), "{}", seen.head);
    assert!(stand.record(Kind::Alarm, 0).is_some());
    // Beyond what is read before the decision too.
    let mut long = gzip(&noise(2_000_000));
    long.extend(gzip_with_comment(&stand.placeholder, b"harmless"));
    let request = post("api.test", "/v1/x", &[("content-encoding", "gzip")], &long);
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("placeholder_wrong_location"), "{}", seen.head);
    assert!(stand.upstream.received().is_empty());
}

/// Bytes that do not compress.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

#[tokio::test]
async fn an_encoded_body_without_anything_of_ours_arrives_byte_for_byte() {
    let stand = Stand::start().await;
    let body = gzip_with_comment("a comment", &noise(400_000));
    let request = post("api.test", "/v1/x", &[("content-encoding", "gzip")], &body);
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(stand.upstream.received()[0].body, body);
}

#[tokio::test]
async fn encodings_upon_encodings_are_not_carried() {
    let stand = Stand::start().await;
    let body = gzip(&gzip_with_comment(&stand.placeholder, b"harmless"));
    let request = post("api.test", "/v1/x", &[("content-encoding", "gzip, gzip")], &body);
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("encoding_unsupported"), "{}", seen.head);
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn a_foreign_key_in_a_form_is_found_however_the_form_is_wrapped() {
    let stand = Stand::start().await;
    let form = ("content-type", "application/x-www-form-urlencoded");
    let stolen = b"a=1&access_token=attacker-key";
    let padded = [&vec![b'x'; limits::BODY_PREVIEW_BYTES + 70_000][..], b"&access_token=attacker-key"].concat();
    let packed = gzip(stolen);
    type Row<'a> = (&'a str, &'a [(&'a str, &'a str)], &'a [u8]);
    let table: [Row<'_>; 4] = [
        ("encoded", &[form, ("content-encoding", "gzip")], &packed),
        ("longer than what is read before the decision", &[form], &padded),
        ("another type named first", &[("content-type", "text/plain"), form], stolen),
        ("type in other case", &[("content-type", "Application/X-WWW-Form-URLencoded ; charset=utf-8")], stolen),
    ];
    for (what, headers, body) in table {
        let seen = stand.send(Way::Redirect, "https", "api.test", 443, &post("api.test", "/v1/x", headers, body)).await;
        assert_eq!(seen.reason().as_deref(), Some("foreign_credential"), "{what}: {}", seen.head);
    }
    assert!(stand.upstream.received().is_empty());
    // Where no credential of ours lives, a long form goes on.
    let request = post("other.test", "/", &[form], &padded);
    let seen = stand.send(Way::Redirect, "https", "other.test", 443, &request).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(stand.upstream.received()[0].body, padded);
}

#[tokio::test]
async fn names_of_headers_carry_nothing_of_ours_in_any_rendering() {
    let stand = Stand::start().await;
    let hex = |text: &str| text.bytes().map(|byte| format!("{byte:02x}")).collect::<String>();
    let table = [
        (format!("x-{}", hex(&stand.placeholder)), "placeholder_wrong_location"),
        (
            format!("x-{}", stand.placeholder.bytes().map(|b| format!("%{b:02x}")).collect::<String>()),
            "placeholder_wrong_location",
        ),
        (format!("x-{}", hex(SECRET)), "real_secret_seen"),
    ];
    for way in WAYS {
        for (name, reason) in &table {
            let seen = stand.get(way, "https", "api.test", 443, "/v1/x", &[(name, "1")]).await;
            assert_eq!(seen.reason().as_deref(), Some(*reason), "{way:?} {name} {}", seen.head);
        }
    }
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn a_placeholder_as_a_label_of_an_allowed_host_is_never_looked_up() {
    let stand = Stand::start().await;
    // Hosts lose their case on the way; what is left still leads to the placeholder.
    let shaped = stand.shaped_placeholder.to_ascii_lowercase();
    let host = format!("{shaped}.any.test");
    let seen = stand.get(Way::Redirect, "http", &host, 80, "/", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("placeholder_wrong_session"), "{} {}", seen.head, seen.text());
}

#[tokio::test]
async fn a_record_of_a_refusal_does_not_hold_what_was_refused() {
    let stand = Stand::start().await;
    let percent: String = SECRET.bytes().map(|byte| format!("%{byte:02X}")).collect();
    for path in [format!("/v1/{percent}"), format!("/v1/{}", stand.placeholder)] {
        let seen = stand.get(Way::Redirect, "https", "api.test", 443, &path, &[]).await;
        assert!(matches!(seen.status, 400 | 403), "{}", seen.text());
    }
    let log = serde_json::to_vec(&stand.audit.records()).unwrap();
    let needles = [SECRET.as_bytes(), stand.placeholder.as_bytes()];
    let found = postern_secret::detect::Detector::new(needles).find(&log);
    assert!(found.is_empty(), "{found:?}");
}

#[tokio::test]
async fn tunnels_of_the_proxy_count_as_connections() {
    let stand = Stand::start().await;
    let mut open = Vec::new();
    for _ in 0..limits::CONNECTIONS_PER_SESSION {
        open.push(stand.towards(Way::Proxy, "open.test", 80).await);
    }
    let mut surplus = stand.towards(Way::Redirect, "open.test", 80).await;
    let mut byte = [0];
    let read = timeout(PATIENCE, surplus.read(&mut byte)).await.unwrap();
    assert_eq!(read.unwrap_or(0), 0, "closed");
    assert_eq!(stand.refusals().await[0].reason, "limit_connections");
    // A tunnel that ends makes room.
    let mut one = open.pop().unwrap();
    assert_eq!(talk(&mut one, &get("http", "open.test", 80, "/", &[("connection", "close")])).await.status, 200);
    assert_eq!(timeout(PATIENCE, one.read(&mut byte)).await.unwrap().unwrap_or(0), 0);
    let waiting = async {
        while stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await.status != 200 {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("room again");
}

#[tokio::test]
async fn a_secret_that_was_replaced_in_mid_session_is_still_scrubbed() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    let renewed: String = SECRET.chars().rev().collect();
    stand.custody.secrets.lock().unwrap().insert("key".to_owned(), renewed.clone());
    stand.upstream.replies(move |_| {
        vec![super::upstream::whole("200 OK", &[], format!("old {SECRET} new {renewed}").as_bytes())]
    });
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]).await;
    assert_eq!(seen.text(), format!("old {0} new {0}", stand.placeholder));
    let old = format!("Bearer {SECRET}");
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &old)]).await;
    assert_eq!(seen.reason().as_deref(), Some("real_secret_seen"));
}

#[tokio::test]
async fn what_is_said_before_http_has_names_or_frames_is_refused() {
    let stand = Stand::start().await;
    let table: [&[u8]; 4] = [
        // HTTP/0.9, HTTP/1.0 without a host, a chunked HTTP/1.0, a bare line feed in a name.
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.0\r\n\r\n",
        b"POST / HTTP/1.0\r\nhost: open.test\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: open.test\r\nx\n-y: 1\r\n\r\n",
    ];
    for request in table {
        let from = stand.audit.records().len();
        let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
        let seen = talk(&mut stream, request).await;
        assert!(matches!(seen.status, 0 | 400), "{} {}", String::from_utf8_lossy(request), seen.head);
        let mut rest = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
        let refused = stand.audit.records().into_iter().skip(from).find_map(|record| record.reason);
        assert_eq!(refused.as_deref(), Some("request_malformed"), "{}", String::from_utf8_lossy(request));
    }
    let one_oh = b"GET / HTTP/1.0\r\nhost: open.test\r\nconnection: close\r\n\r\n";
    assert_eq!(stand.send(Way::Redirect, "http", "open.test", 80, one_oh).await.status, 200);
    assert!(stand.upstream.received()[0].head.contains(" HTTP/1.1\r\n"));
}

#[tokio::test]
async fn chunk_extensions_and_trailers_of_a_request_stay_here() {
    let stand = Stand::start().await;
    let request = |late: &str| {
        format!(
            "POST /v1/x HTTP/1.1\r\nhost: api.test\r\ntransfer-encoding: chunked\r\ntrailer: x-late\r\n\r\n\
             3;note={0}\r\nabc\r\n0\r\nx-late: {late}\r\n\r\n",
            stand.placeholder
        )
    };
    let send = async |late: &str| stand.send(Way::Redirect, "https", "api.test", 443, request(late).as_bytes()).await;
    let refused = send(&stand.placeholder).await;
    assert_eq!(refused.reason().as_deref(), Some("placeholder_wrong_location"), "{}", refused.text());
    let seen = send("harmless").await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    assert_eq!(stand.upstream.received().len(), 1);
    let received = &stand.upstream.received()[0];
    assert_eq!(received.body, b"abc");
    assert!(!received.head.contains("x-late") && !received.head.contains(&stand.placeholder), "{}", received.head);
}

#[tokio::test]
async fn requests_sent_in_one_write_are_each_decided() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    for way in WAYS {
        let stream = stand.towards(way, "api.test", 443).await;
        let mut stream = stand.tls(stream, "api.test").await.unwrap();
        let mut all = post("api.test", "/v1/1", &[], b"GET /v1/smuggled HTTP/1.1\r\n\r\n");
        all.extend(get("https", "api.test", 443, "/secret", &[("authorization", &bearer)]));
        all.extend(get("https", "other.test", 443, "/v1/3", &[("authorization", &bearer)]));
        all.extend(get("https", "api.test", 443, "/v1/4", &[("connection", "close")]));
        tokio::io::AsyncWriteExt::write_all(&mut stream, &all).await.unwrap();
        let mut answers = Vec::new();
        let _ended = timeout(PATIENCE, stream.read_to_end(&mut answers)).await.unwrap();
        let text = String::from_utf8_lossy(&answers).into_owned();
        let reasons: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("postern-reason: ")).collect();
        assert_eq!(reasons, ["path_not_allowed", "authority_mismatch"], "{way:?} {text}");
    }
    let heads: Vec<String> =
        stand.upstream.received().iter().map(|one| one.head.lines().next().unwrap().to_owned()).collect();
    assert_eq!(heads, ["POST /v1/1 HTTP/1.1", "GET /v1/4 HTTP/1.1", "POST /v1/1 HTTP/1.1", "GET /v1/4 HTTP/1.1"]);
}

#[tokio::test]
async fn a_session_that_closes_under_a_running_answer_leaves_an_outcome_and_no_secret() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| vec![b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun".to_vec()]);
    let stream = stand.towards(Way::Redirect, "api.test", 443).await;
    let mut stream = stand.tls(stream, "api.test").await.unwrap();
    let bearer = format!("Bearer {}", stand.placeholder);
    let request = get("https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]);
    tokio::io::AsyncWriteExt::write_all(&mut stream, &request).await.unwrap();
    let head = super::stand::read_head(&mut stream).await;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    let session = std::sync::Arc::downgrade(&stand.session());
    assert!(session.upgrade().is_some_and(|session| !session.keyring().is_empty()));
    stand.ask(crate::message::Question::Close { session: "sesn_one".to_owned() }).await;
    let allowed = stand.audit.records().iter().position(|record| record.kind == Kind::EgressRequest).unwrap();
    let outcome = stand.record(Kind::EgressOutcome, allowed).expect("an outcome");
    assert_eq!(outcome.outcome.as_deref(), Some("cut short by the end of the session"));
    assert_eq!(*stand.custody.revoked.lock().unwrap(), ["key"]);
    assert!(session.upgrade().is_none(), "nothing holds the session or its secrets any more");
}
