//! An upstream that sends the secret back, in every way it can: what arrives inside holds the placeholder.

use std::{io::Write, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_audit::Kind;
use postern_secret::renderings;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::{
    stand::{SECRET, Seen, Stand, Way, get},
    upstream::{Received, chunked, whole},
};

pub(super) fn basic(username: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{username}:{password}")))
}

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn deflate(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).unwrap();
    encoder.finish().unwrap()
}

fn zstd(text: &[u8]) -> Vec<u8> {
    ruzstd::encoding::compress_to_vec(text, ruzstd::encoding::CompressionLevel::Fastest)
}

/// One uncompressed meta-block (RFC 7932, section 9.2), for texts of 1 to 65,536 bytes.
fn brotli(text: &[u8]) -> Vec<u8> {
    // Window bits 16: one 0 bit. ISLAST 0, MNIBBLES 4 (00), MLEN - 1 in 16 bits, ISUNCOMPRESSED 1.
    let length = u32::try_from(text.len() - 1).unwrap();
    let bits: u32 = (length << 4) | (1 << 20);
    let mut encoded = bits.to_le_bytes()[..3].to_vec();
    encoded.extend_from_slice(text);
    // ISLAST 1, ISLASTEMPTY 1.
    encoded.push(0b11);
    encoded
}

async fn fetch(stand: &Stand) -> Seen {
    let bearer = format!("Bearer {}", stand.placeholder);
    stand.get(Way::Redirect, "https", "api.test", 443, "/v1/reflect", &[("authorization", &bearer)]).await
}

fn secret_of(request: &Received) -> String {
    let secret = request.header("authorization").unwrap().trim_start_matches("Bearer ").to_owned();
    assert_eq!(secret, SECRET, "the upstream got the secret");
    secret
}

fn assert_clean(seen: &Seen, what: &str) {
    let everything = [seen.head.as_bytes(), &seen.body].concat();
    let found = postern_secret::canary::search(&everything, &[SECRET.as_bytes()]);
    assert!(found.is_empty(), "{what}: {found:?}\n{}\n{}", seen.head, seen.text());
}

#[tokio::test]
async fn every_rendering_in_a_body_becomes_the_placeholder() {
    let stand = Stand::start().await;
    for (index, rendering) in renderings::of(SECRET.as_bytes()).into_iter().enumerate() {
        let what = format!("{} #{index}", rendering.kind);
        let body = [b"<before> ", rendering.bytes.as_slice(), b" <after>"].concat();
        let length = body.len();
        stand.upstream.replies(move |request| {
            secret_of(request);
            vec![whole("200 OK", &[], &body)]
        });
        let seen = fetch(&stand).await;
        assert_eq!((seen.status, seen.body.len()), (200, length), "{what}");
        assert!(seen.body.starts_with(b"<before> ") && seen.body.ends_with(b" <after>"), "{what}: {}", seen.text());
        assert_clean(&seen, &what);
    }
}

#[tokio::test]
async fn renderings_split_into_one_byte_chunks_are_scrubbed() {
    let stand = Stand::start().await;
    for rendering in renderings::of(SECRET.as_bytes()) {
        let what = rendering.kind.to_string();
        let body = [b"x ", rendering.bytes.as_slice(), b" y"].concat();
        stand.upstream.replies(move |_| chunked(&[], &body, 1));
        let seen = fetch(&stand).await;
        assert_eq!(seen.status, 200, "{what}");
        assert_clean(&seen, &what);
        assert!(seen.body.starts_with(b"x ") && seen.body.ends_with(b" y"), "{what}: {}", seen.text());
    }
}

#[tokio::test]
async fn encoded_bodies_are_decoded_scrubbed_and_sent_as_they_are() {
    let stand = Stand::start().await;
    let plain =
        format!("{{\"token\":\"{}\",\"pad\":\"{}\"}}", SECRET.replace('"', "\\\""), "z".repeat(500)).into_bytes();
    let twice = gzip(&gzip(&plain));
    let table: [(&str, Vec<u8>); 6] = [
        ("gzip", gzip(&plain)),
        ("x-gzip", gzip(&plain)),
        ("deflate", deflate(&plain)),
        ("br", brotli(&plain)),
        ("zstd", zstd(&plain)),
        ("gzip, gzip", twice),
    ];
    for (encoding, body) in table {
        for size in [1, 7, 100_000] {
            let body = body.clone();
            stand.upstream.replies(move |_| chunked(&[("content-encoding", encoding)], &body, size));
            let seen = fetch(&stand).await;
            assert_eq!(seen.status, 200, "{encoding}: {}", seen.text());
            assert_eq!(seen.header("content-encoding"), None, "{encoding}");
            assert!(seen.text().contains(&"z".repeat(500)), "{encoding}");
            assert_clean(&seen, encoding);
        }
    }
}

#[tokio::test]
async fn encodings_that_cannot_be_taken_off_fail_closed() {
    let stand = Stand::start().await;
    let secret = SECRET.as_bytes().to_vec();
    let headers: [&[(&str, &str)]; 5] = [
        &[("content-encoding", "compress")],
        &[("content-encoding", "dcb")],
        &[("content-encoding", "gzip, aes128gcm")],
        &[("content-encoding", "gzip, gzip, gzip, gzip")],
        &[("content-encoding", "gzip"), ("content-encoding", "rot13")],
    ];
    for headers in headers {
        let body = secret.clone();
        stand.upstream.replies(move |_| vec![whole("200 OK", headers, &body)]);
        let seen = fetch(&stand).await;
        assert_eq!((seen.status, seen.reason().as_deref()), (502, Some("encoding_unsupported")), "{headers:?}");
        assert_clean(&seen, "refusal");
    }
    let body = gzip(&secret);
    stand.upstream.replies(move |_| {
        let mut answer = b"HTTP/1.1 200 OK\r\ntransfer-encoding: gzip, chunked\r\n\r\n".to_vec();
        answer.extend(format!("{:x}\r\n", body.len()).into_bytes());
        answer.extend_from_slice(&body);
        answer.extend_from_slice(b"\r\n0\r\n\r\n");
        vec![answer]
    });
    let seen = fetch(&stand).await;
    assert_eq!(seen.reason().as_deref(), Some("encoding_unsupported"));
}

#[tokio::test]
async fn a_damaged_encoding_cuts_the_answer_short_and_the_worker_is_told_why() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| chunked(&[("content-encoding", "gzip")], b"this is not gzip at all", 5));
    let seen = fetch(&stand).await;
    assert_ne!(seen.status, 200, "not a whole answer: {}", seen.text());
    let told = stand.refusals().await;
    assert!(told.iter().any(|refusal| refusal.reason == "encoding_unsupported"), "{told:?}");
}

#[tokio::test]
async fn headers_redirects_error_pages_and_reason_phrases_are_scrubbed() {
    let stand = Stand::start().await;
    let encoded = STANDARD.encode(SECRET);
    let location = format!("https://evil.test/?t={SECRET}");
    let cookie = format!("sid={encoded}; Path=/");
    let lower = SECRET.to_ascii_lowercase().replace(['/', '"'], "");
    let odd_name = format!("x-{lower}");
    for status in ["200 OK", "302 Found", "401 Unauthorized", "500 Oops"] {
        let (location, cookie, odd_name) = (location.clone(), cookie.clone(), odd_name.clone());
        stand.upstream.replies(move |request| {
            let secret = secret_of(request);
            let headers = [
                ("location", location.as_str()),
                ("set-cookie", cookie.as_str()),
                ("x-echo", secret.as_str()),
                (odd_name.as_str(), "1"),
            ];
            vec![whole(status, &headers, format!("bad key {secret}").as_bytes())]
        });
        let seen = fetch(&stand).await;
        assert_eq!(seen.status.to_string(), status[..3], "{status}");
        assert_clean(&seen, status);
        assert_eq!(seen.header("x-echo").as_deref(), Some(stand.placeholder.as_str()));
        assert_eq!(seen.text(), format!("bad key {}", stand.placeholder));
    }
    stand.upstream.replies(|_| vec![format!("HTTP/1.1 200 {SECRET}\r\ncontent-length: 0\r\n\r\n").into_bytes()]);
    let seen = fetch(&stand).await;
    assert_eq!(seen.status, 200);
    assert_clean(&seen, "reason phrase");
}

#[tokio::test]
async fn interim_answers_and_trailers_do_not_carry_the_secret() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| {
        let interim = format!("HTTP/1.1 103 Early Hints\r\nlink: <{SECRET}>\r\n\r\n").into_bytes();
        let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-t\r\n\r\n5\r\nhello\r\n".to_vec();
        let trailers = format!("0\r\nx-t: {SECRET}\r\n\r\n").into_bytes();
        vec![interim, head, trailers]
    });
    let seen = fetch(&stand).await;
    assert_eq!((seen.status, seen.text().as_str()), (200, "hello"));
    assert_clean(&seen, "interim and trailers");
}

#[tokio::test]
async fn answers_to_requests_without_a_placeholder_are_scrubbed_too() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| vec![whole("200 OK", &[], format!("stored: {SECRET}").as_bytes())]);
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert_eq!(seen.text(), format!("stored: {}", stand.placeholder));
}

#[tokio::test]
async fn a_body_without_a_placeholder_passes_byte_for_byte() {
    let stand = Stand::start().await;
    let body: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    for size in [1_000, 65_536] {
        let reply = body.clone();
        stand.upstream.replies(move |_| chunked(&[], &reply, size));
        let seen = fetch(&stand).await;
        assert!(seen.body == body, "{size}");
    }
}

#[tokio::test]
async fn an_answer_that_is_there_goes_on_in_one_piece_and_one_that_is_not_is_not_waited_for() {
    let stand = Stand::start().await;
    let (half, rest) = SECRET.split_at(9);
    let (half, rest) = (half.to_owned(), rest.to_owned());
    // All of it at once, in chunks that cut the secret; and a head whose body never ends.
    stand.upstream.replies(move |request| match request.head.contains("/v1/here") {
        true => {
            let mut text = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
            for piece in [&half, &rest] {
                text.extend(format!("{:x}\r\n{piece}\r\n", piece.len()).bytes());
            }
            text.extend(b"0\r\n\r\n");
            vec![text]
        }
        false => vec![b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun".to_vec()],
    });
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/here", &[]).await;
    assert_eq!((seen.status, seen.text()), (200, stand.placeholder.clone()));
    let stream = stand.towards(Way::Redirect, "api.test", 443).await;
    let mut stream = stand.tls(stream, "api.test").await.unwrap();
    stream.write_all(&get("https", "api.test", 443, "/v1/begun", &[])).await.unwrap();
    let mut seen = Vec::new();
    while super::upstream::find(&seen, b"\r\n\r\nbeg").is_none() {
        assert!(tokio::time::timeout(Duration::from_secs(20), stream.read_buf(&mut seen)).await.unwrap().unwrap() > 0);
    }
    let outcome = stand.audit.records().into_iter().find(|record| record.kind == Kind::EgressOutcome).unwrap();
    assert_eq!((outcome.counts["received_bytes"], outcome.counts["scrubbed"]), (SECRET.len() as u64, 1));
}
