//! HTTP/2 end to end: every stream is a request of its own, with everything that a request over HTTP/1.1 has.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use postern_audit::Kind;
use tokio::time::timeout;

use super::{
    stand::{PATIENCE, SECRET, Stand, WAYS, Way},
    upstream_http2::{Answer, answer, fields},
};
use crate::{
    body::{self, Body, Piece},
    limits,
    message::Question,
};

/// An answer, read whole.
#[derive(Debug)]
struct Seen {
    status: StatusCode,
    headers: HeaderMap,
    body: Bytes,
    trailers: HeaderMap,
    /// Whether the end came with the head.
    ended_with_head: bool,
}

impl Seen {
    fn reason(&self) -> Option<String> {
        let problem: serde_json::Value = serde_json::from_slice(&self.body).ok()?;
        Some(problem.get("reason")?.as_str()?.to_owned())
    }
}

/// A client that speaks HTTP/2 to `host`.
async fn client(stand: &Stand, way: Way, host: &str, port: u16) -> SendRequest<Body> {
    let stream = stand.towards(way, host, port).await;
    let stream = stand.tls_offering(stream, host, true, &["h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(method: Method, url: &str, headers: &[(&str, &str)], body: Body) -> Request<Body> {
    let mut request = Request::builder().method(method).uri(url).body(body).unwrap();
    request.headers_mut().extend(fields(headers));
    request
}

fn get(url: &str, headers: &[(&str, &str)]) -> Request<Body> {
    request(Method::GET, url, headers, body::empty())
}

async fn ask(client: &mut SendRequest<Body>, request: Request<Body>) -> hyper::Result<Seen> {
    client.ready().await?;
    let response = timeout(PATIENCE, client.send_request(request)).await.expect("an answer in time")?;
    read(response).await
}

async fn read(response: Response<Incoming>) -> hyper::Result<Seen> {
    let (parts, body) = response.into_parts();
    let ended_with_head = http_body::Body::is_end_stream(&body);
    let whole = timeout(PATIENCE, body.collect()).await.expect("a whole answer in time")?;
    let trailers = whole.trailers().cloned().unwrap_or_default();
    Ok(Seen { status: parts.status, headers: parts.headers, body: whole.to_bytes(), trailers, ended_with_head })
}

const API: &str = "https://api.test/v1/x";

#[tokio::test]
async fn a_request_over_http2_is_injected_recorded_and_its_answer_scrubbed_trailers_included() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|received| {
        let authorization = received.header("authorization").unwrap();
        Answer {
            headers: vec![("x-echo".to_owned(), authorization.clone())],
            trailers: Some(fields(&[("x-after", &authorization), ("grpc-status", "0")])),
            ..answer(&format!("you sent {authorization}"))
        }
    });
    let bearer = format!("Bearer {}", stand.placeholder);
    for way in WAYS {
        let at = stand.audit.records().len();
        let mut client = client(&stand, way, "api.test", 443).await;
        let seen = ask(&mut client, get(API, &[("authorization", &bearer)])).await.unwrap();
        assert_eq!(seen.status, 200, "{seen:?}");
        assert_eq!(seen.headers["x-echo"], bearer);
        assert_eq!(seen.body, format!("you sent {bearer}"));
        assert_eq!(
            (&seen.trailers["x-after"], &seen.trailers["grpc-status"]),
            (&bearer.parse().unwrap(), &"0".parse().unwrap())
        );
        let received = stand.upstream.received().pop().unwrap();
        assert_eq!(received.header("authorization"), Some(format!("Bearer {SECRET}")));
        assert!(received.head.contains(":authority: api.test\r\n"), "{}", received.head);
        assert!(received.header("host").is_none());
        let allowed = stand.record(Kind::EgressRequest, at).unwrap();
        assert_eq!(allowed.credential.as_deref(), Some("key"));
        assert!(received.records_before > at, "recorded before it left");
        let outcome = stand.record(Kind::EgressOutcome, at).unwrap();
        assert_eq!((outcome.outcome.as_deref(), outcome.counts["scrubbed"]), (Some("answered"), 3));
    }
}

#[tokio::test]
async fn either_side_may_speak_http_1_1_alone() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let seen = ask(&mut client, get(API, &[("authorization", &bearer)])).await.unwrap();
    assert_eq!((seen.status.as_u16(), &seen.body[..]), (200, &b"hello"[..]));
    let received = stand.upstream.received().pop().unwrap();
    assert!(received.head.starts_with("GET /v1/x HTTP/1.1\r\n"), "{}", received.head);
    assert_eq!(received.header("host").as_deref(), Some("api.test"));
    assert_eq!(received.header("authorization"), Some(format!("Bearer {SECRET}")));
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| answer("two"));
    for way in WAYS {
        let seen = stand.get(way, "https", "api.test", 443, "/v1/x", &[]).await;
        assert_eq!((seen.status, seen.text().as_str()), (200, "two"), "{way:?}");
    }
    assert!(stand.upstream.received()[0].head.starts_with("GET /v1/x HTTP/2\r\n"));
}

#[tokio::test]
async fn every_stream_of_a_connection_is_decided_and_recorded_by_itself() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| answer("ok"));
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let table = [
        (Method::GET, "https://api.test/v1/a", None),
        (Method::GET, "https://api.test/v2/a", Some("path_not_allowed")),
        (Method::DELETE, "https://api.test/v1/a", Some("method_not_allowed")),
        (Method::GET, "https://api.test/v1/..%2fa", Some("path_ambiguous")),
        (Method::GET, "https://api.test/v1/b", None),
    ];
    for (method, url, refused) in table {
        let at = stand.audit.records().len();
        let seen = ask(&mut client, request(method.clone(), url, &[], body::empty())).await.unwrap();
        assert_eq!(seen.reason().as_deref(), refused, "{method} {url}");
        let record = stand.record(Kind::EgressRequest, at).unwrap();
        assert_eq!(record.reason.as_deref(), refused, "{method} {url}");
    }
    assert_eq!(stand.upstream.received().len(), 2);
}

#[tokio::test]
async fn another_authority_on_a_shared_connection_is_misdirected() {
    let stand = Stand::start().await;
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let table: [(&str, &[(&str, &str)]); 4] = [
        ("https://other.test/", &[]),
        ("https://api.test:8443/v1/x", &[]),
        ("http://api.test/v1/x", &[]),
        (API, &[("host", "other.test")]),
    ];
    for (url, headers) in table {
        let seen = ask(&mut client, get(url, headers)).await.unwrap();
        assert_eq!(
            (seen.status.as_u16(), seen.reason().as_deref()),
            (421, Some("authority_mismatch")),
            "{url} {headers:?}"
        );
    }
    assert_eq!(ask(&mut client, get(API, &[("host", "api.test")])).await.unwrap().status, 200);
    assert_eq!(stand.upstream.received().len(), 1);
}

#[tokio::test]
async fn a_call_like_those_of_grpc_is_carried_both_ways() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|received| {
        assert_eq!(received.header("te").as_deref(), Some("trailers"));
        match received.header("x-fail") {
            // Trailers only: the head is the end.
            Some(_) => Answer { body: None, headers: vec![("grpc-status".to_owned(), "7".to_owned())], ..answer("") },
            None => Answer {
                headers: vec![("content-type".to_owned(), "application/grpc".to_owned())],
                trailers: Some(fields(&[("grpc-status", "0"), ("grpc-message", "")])),
                ..answer("\0\0\0\0\x02hi")
            },
        }
    });
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers")];
    for size in [10, limits::BODY_PREVIEW_BYTES * 2] {
        let after = fields(&[("x-checksum", "abc")]);
        let sent = body::followed(Bytes::from(vec![b'm'; size]), after.clone());
        let call = request(Method::POST, "https://api.test/v1/pkg.Service/Call", &headers, sent);
        let seen = ask(&mut client, call).await.unwrap();
        assert_eq!((seen.status.as_u16(), &seen.body[..]), (200, &b"\0\0\0\0\x02hi"[..]));
        assert_eq!(seen.trailers["grpc-status"], "0");
        let received = stand.upstream.received().pop().unwrap();
        assert_eq!((received.body.len(), &received.trailers), (size, &after));
    }
    let call = request(Method::POST, API, &[("te", "trailers"), ("x-fail", "1")], body::empty());
    let seen = ask(&mut client, call).await.unwrap();
    assert_eq!(seen.headers["grpc-status"], "7");
    assert!(seen.ended_with_head, "{seen:?}");
}

#[tokio::test]
async fn a_call_of_grpc_is_refused_by_the_status_that_its_clients_show() {
    let stand = Stand::start().await;
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let call = |kind: &'static str| {
        request(
            Method::POST,
            "https://api.test/admin/Call",
            &[("content-type", kind), ("te", "trailers")],
            body::empty(),
        )
    };
    let seen = ask(&mut client, call("application/grpc+proto")).await.unwrap();
    assert_eq!(
        (seen.status.as_u16(), &seen.headers["grpc-status"], seen.ended_with_head),
        (200, &"7".parse().unwrap(), true)
    );
    assert_eq!(seen.headers["postern-reason"], "path_not_allowed");
    let message = seen.headers["grpc-message"].to_str().unwrap();
    assert!(message.starts_with("Refused by the zone's policy (path_not_allowed)%0Athe zone allows"), "{message}");
    // What is asked for by other means is answered as ever.
    let seen = ask(&mut client, call("application/json")).await.unwrap();
    assert_eq!(
        (seen.status.as_u16(), &seen.headers["content-type"]),
        (403, &"application/problem+json".parse().unwrap())
    );
    assert_eq!(stand.upstream.received().len(), 0);
}

/// A message as gRPC frames it.
fn message(text: &[u8]) -> Bytes {
    [&[0][..], &u32::try_from(text.len()).unwrap().to_be_bytes(), text].concat().into()
}

#[tokio::test]
async fn a_call_in_turns_is_carried_message_by_message_and_scrubbed_and_inspected_in_each() {
    let stand = Stand::start().await;
    stand.upstream.http2.talks(|said| if said.ends_with(b"key?") { SECRET.as_bytes().to_vec() } else { said.to_vec() });
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let headers = [("content-type", "application/grpc"), ("te", "trailers"), ("grpc-accept-encoding", "gzip")];
    let (pipe, sent) = body::pipe();
    client.ready().await.unwrap();
    let call = request(Method::POST, "https://api.test/v1/pkg.Service/Talk", &headers, sent);
    let mut response = timeout(PATIENCE, client.send_request(call)).await.expect("answered before it ends").unwrap();
    let first = &SECRET[..SECRET.len() - 1];
    let (begin, end) = stand.placeholder.split_at(12);
    // Ends like the beginning of a secret, or of a placeholder: it does not wait for more.
    let turns =
        [("hello", "hello"), (first, first), (begin, begin), ("the key?", stand.placeholder.as_str()), ("", "")];
    for (said, heard) in turns {
        pipe.send(Piece::Bytes(message(said.as_bytes()))).await.unwrap();
        let mut read = Vec::new();
        while read.len() < message(heard.as_bytes()).len() {
            let frame = timeout(PATIENCE, response.body_mut().frame()).await.expect("an answer in its turn");
            read.extend_from_slice(&frame.unwrap().unwrap().into_data().unwrap());
        }
        assert_eq!(read, message(heard.as_bytes()), "{said}");
    }
    assert!(stand.upstream.received()[0].header("grpc-accept-encoding").is_none());
    // The rest of what one message began. The length between them breaks it in two, so this passes; whole, it does not.
    pipe.send(Piece::Bytes(message(end.as_bytes()))).await.unwrap();
    let at = stand.audit.records().len();
    pipe.send(Piece::Bytes(message(stand.placeholder.as_bytes()))).await.unwrap();
    let _cut = read(response).await.unwrap_err();
    assert_eq!(stand.record(Kind::EgressOutcome, at).unwrap().reason.as_deref(), Some("placeholder_wrong_location"));
    let heard = stand.upstream.http2.heard();
    assert_eq!(super::upstream::find(&heard, stand.placeholder.as_bytes()), None);
}

#[tokio::test]
async fn messages_that_are_compressed_one_by_one_are_refused_in_both_directions() {
    let stand = Stand::start().await;
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    for (name, value) in [("grpc-encoding", "gzip"), ("connect-content-encoding", "br")] {
        stand
            .upstream
            .http2
            .replies(move |_| Answer { headers: vec![(name.to_owned(), value.to_owned())], ..answer("x") });
        let calls =
            [&[("content-type", "application/grpc")][..], &[("content-type", "application/grpc"), (name, value)]];
        for headers in calls {
            let sent = body::full(message(b"hello"));
            let seen = ask(&mut client, request(Method::POST, API, headers, sent)).await.unwrap();
            assert_eq!(seen.headers["postern-reason"], "encoding_unsupported", "{headers:?}");
        }
    }
    assert_eq!(stand.upstream.received().len(), 2);
}

#[tokio::test]
async fn a_trailer_holds_nothing_of_ours_no_credential_and_nothing_that_steers() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| answer("ok"));
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &stand.placeholder);
    let table = [
        ("x-after", stand.placeholder.as_str(), "placeholder_wrong_location"),
        ("authorization", &stand.placeholder, "placeholder_wrong_location"),
        ("x-after", &encoded, "placeholder_wrong_location"),
        ("x-after", &stand.others_placeholder, "placeholder_wrong_session"),
        ("x-after", SECRET, "real_secret_seen"),
        ("authorization", "Bearer of-somebody-else-entirely", "foreign_credential"),
        ("x-http-method-override", "DELETE", "override_refused"),
        ("host", "other.test", "request_malformed"),
        ("content-length", "3", "request_malformed"),
    ];
    for (name, value, reason) in table {
        // A short body is read before the decision, a long one while it streams.
        for size in [3, limits::BODY_PREVIEW_BYTES * 2] {
            let sent = body::followed(Bytes::from(vec![b'm'; size]), fields(&[(name, value)]));
            let seen = ask(&mut client, request(Method::POST, API, &[], sent)).await.unwrap();
            let accepted = [
                Some(reason),
                Some("placeholder_wrong_location").filter(|_| size > 3 && reason.starts_with("placeholder")),
            ];
            assert!(accepted.contains(&seen.reason().as_deref()), "{name}: {size}: {seen:?}");
        }
    }
    assert!(stand.upstream.received().is_empty(), "{:?}", stand.upstream.received());
    assert_eq!(ask(&mut client, get(API, &[])).await.unwrap().status, 200, "the connection goes on");
}

#[tokio::test]
async fn trailers_are_bounded_in_lines() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| answer("ok"));
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let names: Vec<String> = (0..=limits::HEADER_LINES).map(|n| format!("x-{n}")).collect();
    for (lines, reason) in [(limits::HEADER_LINES, None), (limits::HEADER_LINES + 1, Some("limit_headers"))] {
        let after: Vec<(&str, &str)> = names[..lines].iter().map(|name| (name.as_str(), "1")).collect();
        let sent = body::followed(Bytes::from_static(b"body"), fields(&after));
        let seen = ask(&mut client, request(Method::POST, API, &[], sent)).await.unwrap();
        assert_eq!(seen.reason().as_deref(), reason, "{lines}");
    }
}

#[tokio::test]
async fn a_stream_that_fails_leaves_the_others_alone() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|received| match received.head.contains("/v1/broken") {
        true => Answer { reset: true, ..answer("") },
        false => answer(&"x".repeat(300_000)),
    });
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let whole = ask(&mut client, get(API, &[])).await.unwrap();
    assert_eq!(whole.body.len(), 300_000);
    for _ in 0..5 {
        let mut others = (client.clone(), client.clone(), client.clone());
        let (one, broken, other) = tokio::join!(
            ask(&mut others.0, get(API, &[])),
            ask(&mut others.1, get("https://api.test/v1/broken", &[])),
            ask(&mut others.2, get("https://api.test/elsewhere", &[])),
        );
        assert_eq!(one.unwrap().body.len(), 300_000);
        let told = broken.ok().and_then(|seen| seen.reason());
        assert!(told.is_none_or(|reason| reason == "upstream_unreachable"), "cut short or refused, not a whole answer");
        assert_eq!(other.unwrap().reason().as_deref(), Some("path_not_allowed"));
    }
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 1, "nor does the upstream's connection suffer");
}

#[tokio::test]
async fn streams_share_an_upstream_connection_only_with_what_agrees_with_them() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| answer("ok"));
    let bearer = format!("Bearer {}", stand.placeholder);
    let (mut one, mut other) =
        (client(&stand, Way::Redirect, "api.test", 443).await, client(&stand, Way::Proxy, "api.test", 443).await);
    for _ in 0..3 {
        for client in [&mut one, &mut other] {
            assert_eq!(ask(client, get(API, &[])).await.unwrap().status, 200);
        }
    }
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 1);
    assert_eq!(ask(&mut one, get(API, &[("authorization", &bearer)])).await.unwrap().status, 200);
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 2, "another set of credentials");
    let mut elsewhere = client(&stand, Way::Redirect, "other.test", 443).await;
    assert_eq!(ask(&mut elsewhere, get("https://other.test/", &[])).await.unwrap().status, 200);
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 3, "another host");
    // A connection in use is kept once, and dropped once it idled.
    let permit = super::kept::permit(&stand, "api.test", postern_policy::Scheme::Https, 443, "/v1/x");
    let key = crate::pool::PoolKey::from(&permit);
    let pool = &stand.session().pool;
    let now = Instant::now();
    assert!(pool.take(&key, &permit, now).is_some() && pool.take(&key, &permit, now).is_some());
    assert!(pool.take(&key, &permit, now + limits::POOL_IDLE + Duration::from_secs(1)).is_none());
}

#[tokio::test]
async fn other_protocols_over_http2_are_refused_with_a_reason() {
    let stand = Stand::start().await;
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let connect = Request::builder().method(Method::CONNECT).uri("api.test:443").body(body::empty()).unwrap();
    let seen = ask(&mut client, connect).await.unwrap();
    assert_eq!(seen.reason().as_deref(), Some("upgrade_refused"), "{seen:?}");
    for protocol in ["connect-udp", "connect-ip", "webtransport"] {
        let mut extended = request(Method::CONNECT, API, &[("capsule-protocol", "?1")], body::empty());
        extended.extensions_mut().insert(Protocol::from_static(protocol));
        let seen = ask(&mut client, extended).await.unwrap();
        assert_eq!((seen.status.as_u16(), seen.reason().as_deref()), (403, Some("upgrade_refused")), "{protocol}");
    }
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_host_that_is_refused_is_told_so_in_what_its_client_speaks_and_never_dialled() {
    let stand = Stand::start().await;
    for way in WAYS {
        let stream = stand.towards(way, "evil.test", 443).await;
        let stream = stand.tls_offering(stream, "evil.test", true, &["h2", "http/1.1"]).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]), "{way:?}");
        let mut client = client(&stand, way, "evil.test", 443).await;
        let seen = ask(&mut client, get("https://evil.test/", &[])).await.unwrap();
        assert_eq!((seen.status.as_u16(), seen.reason().as_deref()), (403, Some("host_not_allowed")), "{way:?}");
    }
    let stream = stand.towards(Way::Redirect, "api.test", 443).await;
    let stream = stand.tls_offering(stream, "api.test", true, &["http/1.1", "h2"]).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    assert_eq!(stand.upstream.connections.load(Ordering::SeqCst), 0, "asked for its protocol after a permit only");
}

#[tokio::test]
async fn a_long_upload_is_cut_off_alone_where_something_of_ours_comes() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| answer("ok"));
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let (pipe, sent) = body::pipe();
    let mut uploading = client.clone();
    let asked = tokio::spawn(async move { ask(&mut uploading, request(Method::POST, API, &[], sent)).await });
    for _ in 0..40 {
        pipe.send(Piece::Bytes(Bytes::from(vec![b'm'; 10_000]))).await.unwrap();
    }
    assert_eq!(ask(&mut client, get(API, &[])).await.unwrap().status, 200, "beside it");
    let (first, second) = stand.placeholder.split_at(7);
    for half in [first, second, "and more"] {
        // Refused before all of it is taken.
        let _cut = pipe.send(Piece::Bytes(Bytes::copy_from_slice(half.as_bytes()))).await;
    }
    let _cut = pipe.send(Piece::End).await;
    let seen = asked.await.unwrap().unwrap();
    assert_eq!(seen.reason().as_deref(), Some("placeholder_wrong_location"));
    assert_eq!(stand.upstream.received().len(), 1, "the upstream saw a request that breaks off");
}

#[tokio::test]
async fn a_freeze_cuts_streams_and_their_connection() {
    let stand = Stand::start().await;
    stand.upstream.http2.replies(|_| answer("ok"));
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let (pipe, sent) = body::pipe();
    let mut uploading = client.clone();
    let asked = tokio::spawn(async move { ask(&mut uploading, request(Method::POST, API, &[], sent)).await });
    pipe.send(Piece::Bytes(Bytes::from_static(b"begun"))).await.unwrap();
    assert_eq!(ask(&mut client, get(API, &[])).await.unwrap().status, 200);
    stand.ask(Question::Freeze { session: super::stand::SESSION.to_owned() }).await;
    assert!(timeout(PATIENCE, asked).await.unwrap().unwrap().is_err());
    assert!(ask(&mut client, get(API, &[])).await.is_err());
    assert!(stand.refusals().await.iter().any(|refusal| refusal.reason == "session_frozen"));
}

#[tokio::test]
async fn an_upstream_s_head_is_bounded_over_http2_too() {
    let stand = Stand::start().await;
    let mut client = client(&stand, Way::Redirect, "api.test", 443).await;
    let lines = (0..=limits::HEADER_LINES).map(|n| (format!("x-{n}"), "1".to_owned())).collect::<Vec<_>>();
    let long = vec![("x-long".to_owned(), "a".repeat(limits::RESPONSE_HEAD_BYTES))];
    for headers in [lines, long] {
        stand.upstream.http2.replies(move |_| Answer { headers: headers.clone(), ..answer("ok") });
        let seen = ask(&mut client, get(API, &[])).await.unwrap();
        assert_eq!(seen.reason().as_deref(), Some("upstream_unreachable"), "{seen:?}");
    }
    stand.upstream.http2.replies(|_| answer("ok"));
    assert_eq!(ask(&mut client, get(API, &[])).await.unwrap().status, 200);
}
