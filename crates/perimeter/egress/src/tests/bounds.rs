//! Every bound holds, and what goes beyond it is refused with a reason.

use postern_audit::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::timeout,
};

use super::stand::{PATIENCE, Stand, Way, get, talk};
use crate::limits;

#[tokio::test]
async fn an_endless_head_is_cut_off_and_recorded() {
    let stand = Stand::start().await;
    let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
    let mut request = b"GET / HTTP/1.1\r\nhost: open.test\r\nx-long: ".to_vec();
    request.resize(limits::REQUEST_HEAD_BYTES * 3, b'a');
    let seen = talk(&mut stream, &request).await;
    assert!(matches!(seen.status, 0 | 400 | 431), "{}", seen.head);
    let record = stand.record(Kind::EgressConnect, 0).expect("a record");
    assert_eq!(record.reason.as_deref(), Some("limit_headers"));
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn too_many_header_lines_are_refused() {
    let stand = Stand::start().await;
    let names: Vec<String> = (0..limits::HEADER_LINES + 1).map(|n| format!("x-{n}")).collect();
    let headers: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
    let seen = stand.send(Way::Redirect, "http", "open.test", 80, &get("http", "open.test", 80, "/", &headers)).await;
    assert!(matches!(seen.status, 0 | 400 | 431), "{}", seen.head);
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn connections_beyond_the_sessions_bound_are_closed_and_told() {
    let stand = Stand::start().await;
    let mut open = Vec::new();
    for _ in 0..limits::CONNECTIONS_PER_SESSION {
        open.push(stand.towards(Way::Redirect, "open.test", 80).await);
    }
    // Accepted in order: once the last of these was closed, the bound was reached.
    let mut surplus = stand.towards(Way::Redirect, "open.test", 80).await;
    let mut byte = [0];
    assert_eq!(timeout(PATIENCE, surplus.read(&mut byte)).await.unwrap().unwrap_or(0), 0);
    let told = stand.refusals().await;
    assert_eq!(told[0].reason, "limit_connections");
    drop(open);
}

#[tokio::test]
async fn connections_beyond_the_bound_of_all_sessions_wait_for_nobody() {
    let stand = Stand::start().await;
    let all = u32::try_from(limits::CONNECTIONS_TOTAL).unwrap();
    let taken = stand.perimeter.connections.clone().acquire_many_owned(all).await.unwrap();
    let mut surplus = stand.towards(Way::Redirect, "open.test", 80).await;
    let mut byte = [0];
    assert_eq!(timeout(PATIENCE, surplus.read(&mut byte)).await.unwrap().unwrap_or(0), 0);
    assert_eq!(stand.refusals().await[0].reason, "limit_connections");
    assert_eq!(stand.record(Kind::EgressConnect, 0).unwrap().reason.as_deref(), Some("limit_connections"));
    drop(taken);
    assert_eq!(stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await.status, 200);
}

#[tokio::test]
async fn a_request_that_cannot_be_read_is_recorded_on_both_ways() {
    let stand = Stand::start().await;
    let bad = b"GET http://open.test/ HTTP/1.1\r\nhost: open.test\r\nbad header\r\n\r\n";
    for mut stream in [stand.towards(Way::Redirect, "open.test", 80).await, proxied(&stand).await] {
        let at = stand.audit.records().len();
        let seen = talk(&mut stream, bad).await;
        assert_eq!(seen.status, 400, "{}", seen.head);
        // The record is written once the connection has ended.
        let mut rest = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
        assert_eq!(stand.record(Kind::EgressConnect, at).unwrap().reason.as_deref(), Some("request_malformed"));
    }
}

async fn proxied(stand: &Stand) -> tokio::net::TcpStream {
    tokio::net::TcpStream::connect(stand.proxy).await.unwrap()
}

#[tokio::test]
async fn a_client_that_says_nothing_is_closed_in_time() {
    let stand = Stand::with(impatient()).await;
    let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
    let mut byte = [0];
    assert_eq!(timeout(PATIENCE, stream.read(&mut byte)).await.unwrap().unwrap_or(0), 0);
    assert_eq!(stand.record(Kind::EgressConnect, 0).unwrap().reason.as_deref(), Some("protocol_unknown"));
}

#[tokio::test]
async fn a_head_that_trickles_is_cut_off_in_time() {
    let stand = Stand::with(impatient()).await;
    let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: open.test\r\n").await.unwrap();
    let mut rest = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(stand.record(Kind::EgressConnect, 0).unwrap().reason.as_deref(), Some("limit_time"));
}

#[tokio::test]
async fn a_connection_that_idles_between_requests_is_closed_without_a_refusal() {
    let stand = Stand::with(impatient()).await;
    for way in [Way::Redirect, Way::Proxy] {
        let stream = stand.towards(way, "api.test", 443).await;
        let mut stream = stand.tls(stream, "api.test").await.unwrap();
        let body = super::stand::post("api.test", "/v1/x", &[], b"with a body");
        assert_eq!(talk(&mut stream, &body).await.status, 200);
        let mut byte = [0];
        assert_eq!(timeout(PATIENCE, stream.read(&mut byte)).await.unwrap().unwrap_or(0), 0, "closed");
        assert!(stand.refusals().await.is_empty());
        assert!(stand.record(Kind::EgressConnect, 0).is_none());
    }
}

#[tokio::test]
async fn a_body_that_stalls_is_refused_in_time() {
    let stand = Stand::with(impatient()).await;
    let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
    let request = b"POST / HTTP/1.1\r\nhost: open.test\r\ncontent-length: 10\r\n\r\nabc";
    let seen = talk(&mut stream, request).await;
    assert_eq!((seen.status, seen.reason().as_deref()), (504, Some("limit_time")));
    assert!(stand.upstream.received().is_empty());
}

fn impatient() -> limits::Bounds {
    let short = std::time::Duration::from_millis(200);
    limits::Bounds { first_bytes: short, request_head: short, body_idle: short, ..limits::Bounds::default() }
}

#[tokio::test]
async fn a_stated_body_beyond_the_bound_is_refused_unread() {
    let stand = Stand::start().await;
    let request =
        format!("POST / HTTP/1.1\r\nhost: open.test\r\ncontent-length: {}\r\n\r\n", limits::REQUEST_BODY_BYTES + 1);
    let seen = stand.send(Way::Redirect, "http", "open.test", 80, request.as_bytes()).await;
    assert_eq!((seen.status, seen.reason().as_deref()), (413, Some("limit_body")));
}

#[tokio::test]
async fn a_compression_bomb_from_an_upstream_is_cut_off() {
    let stand = Stand::start().await;
    let bomb = ruzstd::encoding::compress_to_vec(&vec![0; 8 << 20][..], ruzstd::encoding::CompressionLevel::Fastest);
    stand.upstream.replies(move |_| super::upstream::chunked(&[("content-encoding", "zstd")], &bomb, 4096));
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert!(seen.status != 200, "not a whole answer");
    let told = stand.refusals().await;
    assert!(told.iter().any(|refusal| refusal.reason == "limit_decoded"), "{told:?}");
}

#[tokio::test]
async fn an_upstream_with_an_endless_head_is_refused() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| {
        let mut answer = b"HTTP/1.1 200 OK\r\nx-long: ".to_vec();
        answer.resize(limits::RESPONSE_HEAD_BYTES * 2, b'a');
        vec![answer]
    });
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("upstream_unreachable"));
}

#[tokio::test]
async fn a_tls_handshake_that_stalls_is_refused_in_time() {
    let short = std::time::Duration::from_millis(200);
    let stand = Stand::with(limits::Bounds { handshake: short, ..limits::Bounds::default() }).await;
    let mut stream = stand.towards(Way::Redirect, "api.test", 443).await;
    stream.write_all(b"\x16\x03\x01\x02\x00\x01").await.unwrap();
    let mut rest = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.unwrap();
    assert_eq!(stand.record(Kind::EgressConnect, 0).unwrap().reason.as_deref(), Some("limit_time"));
}

#[tokio::test]
async fn a_connection_ends_with_its_total_time_tunnelled_or_not() {
    let total = std::time::Duration::from_secs(1);
    let stand = Stand::with(limits::Bounds { connection_total: total, ..limits::Bounds::default() }).await;
    for way in [Way::Redirect, Way::Proxy] {
        let mut stream = stand.towards(way, "open.test", 80).await;
        let mut byte = [0];
        assert_eq!(timeout(PATIENCE, stream.read(&mut byte)).await.unwrap().unwrap_or(0), 0, "{way:?}");
        // The wait for its first bytes is longer and would have left a record.
        assert!(stand.record(Kind::EgressConnect, 0).is_none(), "{way:?}");
    }
}

#[tokio::test]
async fn an_upstream_that_does_not_answer_is_given_up_in_time() {
    let short = std::time::Duration::from_millis(300);
    let stand = Stand::with(limits::Bounds { response_head: short, ..limits::Bounds::default() }).await;
    stand.upstream.replies(|_| Vec::new());
    for request in [get("http", "open.test", 80, "/", &[]), long_post(limits::BODY_PREVIEW_BYTES * 2)] {
        let from = stand.audit.records().len();
        let seen = stand.send(Way::Redirect, "http", "open.test", 80, &request).await;
        assert_eq!((seen.status, seen.reason().as_deref()), (504, Some("limit_time")));
        let outcome = stand.record(Kind::EgressOutcome, from).unwrap();
        let address = outcome.destination.unwrap().address;
        assert_eq!(address, Some(stand.upstream.http.to_string()));
    }
}

fn long_post(length: usize) -> Vec<u8> {
    super::stand::post("open.test", "/", &[], &vec![b'a'; length])
}

fn chunked_post(more: &str, body: &[u8]) -> Vec<u8> {
    let mut request =
        format!("POST / HTTP/1.1\r\nhost: open.test\r\n{more}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for chunk in body.chunks(50_000) {
        request.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        request.extend_from_slice(chunk);
        request.extend_from_slice(b"\r\n");
    }
    request.extend_from_slice(b"0\r\n\r\n");
    request
}

#[tokio::test]
async fn a_body_of_no_stated_length_is_cut_off_at_the_bound_wherever_it_is_reached() {
    for bound in [100_000, 600_000] {
        let stand = Stand::with(limits::Bounds { request_body_bytes: bound, ..limits::Bounds::default() }).await;
        let request = chunked_post("", &vec![b'a'; 1_000_000]);
        let seen = stand.send(Way::Redirect, "http", "open.test", 80, &request).await;
        assert_eq!((seen.status, seen.reason().as_deref()), (413, Some("limit_body")), "{bound}");
        assert!(stand.upstream.received().is_empty(), "{bound}");
        let request = chunked_post("", &vec![b'a'; 100_000]);
        assert_eq!(stand.send(Way::Redirect, "http", "open.test", 80, &request).await.status, 200, "{bound}");
    }
}

#[tokio::test]
async fn what_a_body_decodes_to_is_bounded_in_both_directions() {
    let stand = Stand::with(limits::Bounds { decoded_body_bytes: 100_000, ..limits::Bounds::default() }).await;
    let pack = |length| {
        let zeros = vec![0; length];
        ruzstd::encoding::compress_to_vec(&zeros[..], ruzstd::encoding::CompressionLevel::Fastest)
    };
    let (fits, surplus) = (pack(90_000), pack(200_000));
    let request = chunked_post("content-encoding: zstd\r\n", &surplus);
    let seen = stand.send(Way::Redirect, "http", "open.test", 80, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("limit_decoded"), "{}", seen.head);
    assert!(stand.upstream.received().is_empty());
    let request = chunked_post("content-encoding: zstd\r\n", &fits);
    assert_eq!(stand.send(Way::Redirect, "http", "open.test", 80, &request).await.status, 200);
    stand.upstream.replies(move |_| super::upstream::chunked(&[("content-encoding", "zstd")], &surplus, 4096));
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert_ne!(seen.status, 200, "not a whole answer");
    assert!(stand.refusals().await.iter().any(|refusal| refusal.reason == "limit_decoded"));
}
