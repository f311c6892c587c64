//! Peers on either side that stall, flood, lie about what they are, or name a host in a way of their own. Nothing of it
//! holds a connection for longer than its bound, or reaches an upstream.

use std::time::Duration;

use postern_audit::{Kind, Record};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{
    stand::{PATIENCE, Seen, Stand, Way, get, post, read_head, read_response, talk},
    upstream::whole,
};
use crate::limits::{self, Bounds};

const SHORT: Duration = Duration::from_millis(300);

/// The outcome of a request that was let go, once it has one.
async fn outcome(stand: &Stand) -> Record {
    let waiting = async {
        loop {
            if let Some(record) = stand.record(Kind::EgressOutcome, 0) {
                return record;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("an outcome in time")
}

#[tokio::test]
async fn an_upstream_that_stalls_within_its_answer_is_cut_off_and_told() {
    let stand = Stand::with(Bounds { body_idle: SHORT, ..Bounds::default() }).await;
    stand.upstream.replies(|_| vec![b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nbegun".to_vec()]);
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert_eq!(seen.status, 0, "cut short");
    assert_eq!(outcome(&stand).await.reason.as_deref(), Some("limit_time"));
    assert_eq!(stand.refusals().await[0].reason, "limit_time");
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_given_up() {
    let stand = Stand::with(Bounds { body_idle: Duration::from_secs(2), ..Bounds::default() }).await;
    stand.upstream.replies(|_| vec![whole("200 OK", &[], &vec![b'a'; 64 << 20])]);
    let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
    stream.write_all(&get("http", "open.test", 80, "/", &[])).await.unwrap();
    assert_eq!(outcome(&stand).await.outcome.as_deref(), Some("cut short by the client"));
    drop(stream);
}

#[tokio::test]
async fn an_upstream_that_does_not_take_a_body_is_given_up() {
    let stand = Stand::with(Bounds { body_idle: SHORT, ..Bounds::default() }).await;
    let deaf = tokio::net::TcpListener::bind((std::net::Ipv4Addr::new(127, 0, 0, 3), stand.upstream.http.port()));
    let deaf = deaf.await.unwrap();
    stand.names.answer(&[&["127.0.0.3"]]);
    let port = deaf.local_addr().unwrap().port();
    let request = post(&format!("bound.test:{port}"), "/", &[], &vec![b'a'; 64 << 20]);
    let seen = stand.send(Way::Redirect, "http", "bound.test", port, &request).await;
    assert_eq!((seen.status, seen.reason().as_deref()), (504, Some("limit_time")));
}

#[tokio::test]
async fn an_answer_with_too_many_header_lines_is_refused() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| {
        let lines: String = (0..=limits::HEADER_LINES).map(|number| format!("x-{number}: 1\r\n")).collect();
        vec![format!("HTTP/1.1 200 OK\r\n{lines}content-length: 0\r\n\r\n").into_bytes()]
    });
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert_eq!((seen.status, seen.reason().as_deref()), (502, Some("upstream_unreachable")));
}

#[tokio::test]
async fn an_upstream_that_only_ever_says_continue_is_given_up() {
    let stand = Stand::with(Bounds { response_head: SHORT, ..Bounds::default() }).await;
    stand
        .upstream
        .replies(|_| vec![b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nx: y\r\n\r\n".repeat(10_000)]);
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert_eq!((seen.status, seen.reason().as_deref()), (504, Some("limit_time")));
}

#[tokio::test]
async fn an_upstream_that_switches_protocols_unasked_is_refused_and_not_used_again() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| {
        vec![b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\nanything".to_vec()]
    });
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("upgrade_refused"), "{}", seen.head);
    stand.upstream.replies(|_| vec![whole("200 OK", &[], b"hello")]);
    assert_eq!(stand.get(Way::Redirect, "http", "open.test", 80, "/", &[]).await.text(), "hello");
    assert_eq!(stand.upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_nobodys_answer() {
    let stand = Stand::start().await;
    stand.upstream.replies(|request| {
        let path = request.head.split(' ').nth(1).unwrap().to_owned();
        vec![[whole("200 OK", &[], path.as_bytes()), whole("200 OK", &[], b"poison")].concat()]
    });
    for turn in 0..4 {
        let path = format!("/{turn}");
        let seen = stand.get(Way::Redirect, "http", "open.test", 80, &path, &[]).await;
        assert_eq!(seen.text(), path);
    }
}

#[tokio::test]
async fn a_compression_bomb_from_a_client_ends_at_its_ratio() {
    let stand = Stand::start().await;
    let zeros = vec![0; 8 << 20];
    let bomb = ruzstd::encoding::compress_to_vec(&zeros[..], ruzstd::encoding::CompressionLevel::Fastest);
    assert!(bomb.len() * 1100 < zeros.len(), "{} is no bomb", bomb.len());
    let request = post("open.test", "/", &[("content-encoding", "zstd")], &bomb);
    let seen = stand.send(Way::Redirect, "http", "open.test", 80, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("limit_decoded"), "{}", seen.head);
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn a_form_that_decodes_beyond_what_is_looked_through_counts_as_one_with_a_key() {
    let stand = Stand::start().await;
    let fields = |bytes: u64| {
        let mut form = Vec::new();
        for number in 0.. {
            if form.len() as u64 > bytes {
                break;
            }
            form.extend(format!("field{number}=the value of this field&").into_bytes());
        }
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut encoder, &form).unwrap();
        encoder.finish().unwrap()
    };
    let headers = [("content-type", "application/x-www-form-urlencoded"), ("content-encoding", "gzip")];
    let fits = post("api.test", "/v1/x", &headers, &fields(limits::FORM_BYTES / 2));
    assert_eq!(stand.send(Way::Redirect, "https", "api.test", 443, &fits).await.status, 200);
    stand.upstream.received.lock().unwrap().clear();
    let long = fields(limits::FORM_BYTES);
    assert!(long.len() < limits::BODY_PREVIEW_BYTES, "all of it is looked at before the decision");
    let request = post("api.test", "/v1/x", &headers, &long);
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("foreign_credential"), "{}", seen.head);
    assert!(stand.upstream.received().is_empty());
}

/// The bytes that a refused client got rid of before its connection was closed.
async fn sent_until_closed(stream: &mut TcpStream, piece: &[u8]) -> usize {
    let mut sent = 0;
    while let Ok(Ok(())) = timeout(PATIENCE, stream.write_all(piece)).await {
        sent += piece.len();
    }
    sent
}

#[tokio::test]
async fn of_a_refused_body_no_more_than_the_bound_is_read_away() {
    let stand = Stand::start().await;
    let mut stream = stand.towards(Way::Redirect, "evil.test", 80).await;
    let head = format!("PUT / HTTP/1.1\r\nhost: evil.test\r\ncontent-length: {}\r\n\r\n", 1_u64 << 40);
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 403"));
    let sent = sent_until_closed(&mut stream, &[b'a'; 65536]).await;
    // What lies in the buffers of two sockets comes on top.
    assert!(sent < limits::REFUSED_BODY_BYTES + (24 << 20), "{sent}");
}

#[tokio::test]
async fn a_refused_body_that_trickles_is_not_waited_for() {
    let stand = Stand::with(Bounds { refused_body: SHORT, ..Bounds::default() }).await;
    let mut stream = stand.towards(Way::Redirect, "evil.test", 80).await;
    stream.write_all(b"PUT / HTTP/1.1\r\nhost: evil.test\r\ncontent-length: 1000\r\n\r\na").await.unwrap();
    assert!(read_head(&mut stream).await.starts_with("HTTP/1.1 403"));
    let mut rest = Vec::new();
    let _reset = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
}

#[tokio::test]
async fn a_client_that_waits_to_be_asked_and_then_sends_nothing_is_refused_in_time() {
    let stand = Stand::with(Bounds { body_idle: SHORT, ..Bounds::default() }).await;
    let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
    let ask = b"PUT / HTTP/1.1\r\nhost: open.test\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\n";
    stream.write_all(ask).await.unwrap();
    assert_eq!(read_head(&mut stream).await, "HTTP/1.1 100 Continue\r\n\r\n");
    assert_eq!(talk(&mut stream, b"").await.reason().as_deref(), Some("limit_time"));
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn a_wrong_expectation_does_not_reach_the_upstream() {
    let stand = Stand::start().await;
    for expectation in ["100-continue", "200-ok"] {
        let request = post("open.test", "/", &[("expect", expectation)], b"abc");
        let seen = stand.send(Way::Redirect, "http", "open.test", 80, &request).await;
        assert_eq!(seen.status, 200, "{expectation}");
        assert_eq!(stand.upstream.received().pop().unwrap().header("expect"), None, "{expectation}");
    }
}

#[tokio::test]
async fn a_secret_sent_to_more_hosts_than_are_remembered_counts_as_sent_to_all() {
    let stand = Stand::start().await;
    let session = stand.session();
    let host = |number: usize| format!("h{number}.any.test").parse().unwrap();
    for number in 0..limits::INJECTED_HOSTS - 1 {
        session.note_injected(&host(number));
    }
    assert!(session.was_injected(&host(0)) && !session.was_injected(&host(limits::INJECTED_HOSTS)));
    session.note_injected(&host(limits::INJECTED_HOSTS - 1));
    session.note_injected(&host(limits::INJECTED_HOSTS));
    assert!(session.was_injected(&host(usize::MAX)), "full means yes");
}

/// A TLS 1.3 client hello with this server name, or none.
fn hello(name: Option<&[u8]>) -> Vec<u8> {
    let short = |value: usize| u16::try_from(value).unwrap().to_be_bytes();
    let mut extensions = Vec::new();
    if let Some(name) = name {
        extensions.extend([0, 0]);
        extensions.extend(short(name.len() + 5));
        extensions.extend(short(name.len() + 3));
        extensions.push(0);
        extensions.extend(short(name.len()));
        extensions.extend_from_slice(name);
    }
    // Versions, groups, signature schemes, an X25519 share.
    extensions.extend([0, 43, 0, 3, 2, 3, 4, 0, 10, 0, 4, 0, 2, 0, 0x1d, 0, 13, 0, 4, 0, 2, 4, 3]);
    extensions.extend([0, 51, 0, 38, 0, 36, 0, 29, 0, 32]);
    extensions.extend([9; 32]);
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 1, 1, 0]);
    body.extend(short(extensions.len()));
    body.extend(extensions);
    let mut record = vec![0x16, 3, 1];
    record.extend(short(body.len() + 4));
    record.extend([1, 0]);
    record.extend(short(body.len()));
    record.extend(body);
    record
}

#[tokio::test]
async fn what_is_no_tls_of_ours_ends_and_is_on_record() {
    let stand = Stand::with(Bounds { handshake: SHORT, first_bytes: SHORT, ..Bounds::default() }).await;
    let good = hello(Some(b"api.test"));
    let cut = good[..good.len() - 9].to_vec();
    let changed = |at: usize, byte: u8| {
        let mut bytes = good.clone();
        bytes[at] = byte;
        bytes
    };
    let long = vec![b'a'; 300];
    let table: Vec<(&str, Vec<u8>, &str)> = vec![
        ("a hello and nothing more", good.clone(), "limit_time"),
        ("a hello that is cut", cut, "limit_time"),
        ("one byte", vec![0x16], "protocol_unknown"),
        ("a record of no bytes", vec![0x16, 3, 1, 0, 0], "protocol_unknown"),
        ("a record longer than records are", vec![0x16, 3, 1, 0xff, 0xff], "protocol_unknown"),
        ("SSL 2", vec![0x80, 0x2e, 1, 0, 2], "protocol_unknown"),
        ("a version before TLS", changed(1, 2), "protocol_unknown"),
        ("another message than a hello", changed(5, 2), "protocol_unknown"),
        ("a hello longer than its record", changed(6, 0xff), "protocol_unknown"),
        ("an alert first", vec![0x15, 3, 3, 0, 2, 2, 40], "protocol_unknown"),
        ("data first", vec![0x17, 3, 3, 0, 1, 0], "protocol_unknown"),
        ("a name longer than names are", hello(Some(&long)), "protocol_unknown"),
        ("a name with a NUL", hello(Some(b"api.test\0.evil.test")), "protocol_unknown"),
        ("an empty name", hello(Some(b"")), "protocol_unknown"),
        ("a name in another alphabet", hello(Some("\u{e4}pi.test".as_bytes())), "protocol_unknown"),
        ("a name with a space", hello(Some(b"api test")), "protocol_unknown"),
        ("a name that is a wildcard", hello(Some(b"*.test")), "protocol_unknown"),
        ("an address for a name", hello(Some(b"127.0.0.1")), "limit_time"),
        ("a name with a dot at its end", hello(Some(b"api.test.")), "limit_time"),
        ("another host's name", hello(Some(b"evil.test")), "limit_time"),
        ("no name", hello(None), "limit_time"),
    ];
    for (what, bytes, reason) in table {
        let from = stand.audit.records().len();
        let mut stream = stand.towards(Way::Redirect, "api.test", 443).await;
        stream.write_all(&bytes).await.unwrap();
        let mut rest = Vec::new();
        let _reset = timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time");
        let record = stand.record(Kind::EgressConnect, from).unwrap_or_else(|| panic!("no record: {what}"));
        assert_eq!(record.reason.as_deref(), Some(reason), "{what}");
    }
    assert_eq!(stand.upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
}

/// What the proxy says to a CONNECT, and if it agrees to a request behind it.
async fn connected(stand: &Stand, target: &str) -> String {
    let mut stream = TcpStream::connect(stand.proxy).await.unwrap();
    let connect = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    stream.write_all(connect.as_bytes()).await.unwrap();
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        match timeout(PATIENCE, stream.read_u8()).await.unwrap() {
            Ok(byte) => head.push(char::from(byte)),
            Err(_) => return "closed".to_owned(),
        }
    }
    if !head.starts_with("HTTP/1.1 200") {
        let reason = head.lines().find_map(|line| line.strip_prefix("postern-reason: "));
        return reason.unwrap_or("malformed").to_owned();
    }
    let request = format!("GET / HTTP/1.1\r\nhost: {target}\r\n\r\n");
    talk(&mut stream, request.as_bytes()).await.reason().unwrap_or_else(|| "carried".to_owned())
}

/// What the proxy says to a request for a URL of this host.
async fn asked_for(stand: &Stand, authority: &str) -> String {
    let mut stream = TcpStream::connect(stand.proxy).await.unwrap();
    let request = format!("GET http://{authority}/ HTTP/1.1\r\nhost: {authority}\r\n\r\n");
    let seen = talk(&mut stream, request.as_bytes()).await;
    seen.reason().unwrap_or_else(|| if seen.status == 200 { "carried" } else { "malformed" }.to_owned())
}

#[tokio::test]
async fn no_spelling_of_an_address_leads_inwards() {
    let stand = Stand::start().await;
    stand.names.answer(&[&["127.0.0.1"]]);
    // Both by CONNECT and by URL; an address that no rule names is refused whatever it is.
    let table: [(&str, &str); 34] = [
        ("127.0.0.1", "raw_address"),
        ("127.0.0.1.", "raw_address"),
        ("127.1", "host_malformed"),
        ("127.0.1", "host_malformed"),
        ("127", "host_malformed"),
        ("0", "host_malformed"),
        ("0.0.0.0", "raw_address"),
        ("2130706433", "host_malformed"),
        ("017700000001", "host_malformed"),
        ("0177.0.0.1", "host_malformed"),
        ("127.0.0.01", "host_malformed"),
        ("0x7f.0.0.1", "host_malformed"),
        ("0x7f000001", "host_malformed"),
        ("0x7f.1", "host_malformed"),
        ("127.0.0.0x1", "host_malformed"),
        ("256.256.256.256", "host_malformed"),
        ("4294967297", "host_malformed"),
        ("1.2.3.4.5", "host_malformed"),
        ("169.254.169.254", "raw_address"),
        ("[::1]", "raw_address"),
        ("[0:0:0:0:0:0:0:1]", "raw_address"),
        ("[::]", "raw_address"),
        ("[::ffff:127.0.0.1]", "raw_address"),
        ("[::ffff:7f00:1]", "raw_address"),
        ("[::ffff:0:127.0.0.1]", "raw_address"),
        ("[::127.0.0.1]", "raw_address"),
        ("[64:ff9b::127.0.0.1]", "raw_address"),
        ("[64:ff9b::a9fe:a9fe]", "raw_address"),
        ("[2002:7f00:1::]", "raw_address"),
        ("[fe80::1%25eth0]", "host_malformed"),
        ("[::1%25lo]", "host_malformed"),
        ("[::ffff:127.1]", "host_malformed"),
        ("localhost", "host_not_allowed"),
        ("localhost.", "host_not_allowed"),
    ];
    for (host, reason) in table {
        let by_connect = connected(&stand, &format!("{host}:80")).await;
        let by_url = asked_for(&stand, host).await;
        for (how, said) in [("CONNECT", by_connect), ("URL", by_url)] {
            // What is no host at all does not get past the HTTP library.
            let stopped = said == reason || (reason == "host_malformed" && said == "malformed");
            assert!(stopped, "{how} {host}: {said}");
        }
    }
    assert_eq!(stand.upstream.connections.load(std::sync::atomic::Ordering::SeqCst), 0);
    assert!(stand.names.asked().is_empty(), "nothing is looked up");
}

#[tokio::test]
async fn spellings_of_a_name_are_one_name_or_refused() {
    let stand = Stand::start().await;
    let table: [(&str, &str); 14] = [
        ("open.test", "carried"),
        ("OPEN.test", "carried"),
        ("open.test.", "carried"),
        ("open.test..", "host_malformed"),
        (".open.test", "host_malformed"),
        ("open..test", "host_malformed"),
        ("xn--open-.test", "host_malformed"),
        ("xn--pen-oqa.test", "host_not_allowed"),
        ("open%2etest", "malformed"),
        ("open.test%00.evil.test", "malformed"),
        ("open.test#.evil.test", "malformed"),
        ("open.test\\.evil.test", "malformed"),
        ("open.test,evil.test", "host_malformed"),
        ("evil.test@open.test", "malformed"),
    ];
    for (host, expected) in table {
        let said = asked_for(&stand, host).await;
        let stopped = said == expected || (expected.ends_with("malformed") && said.ends_with("malformed"));
        assert!(stopped, "{host}: {said}");
    }
    assert!(stand.upstream.received().iter().all(|request| request.header("host").as_deref() == Some("open.test")));
}

#[tokio::test]
async fn a_url_and_a_host_that_differ_in_anything_but_spelling_are_refused() {
    let stand = Stand::start().await;
    let table: [(&str, &str, Option<&str>); 9] = [
        ("http://open.test/", "open.test", None),
        ("http://open.test:80/", "open.test", None),
        ("http://OPEN.TEST./", "open.test:80", None),
        ("http://open.test/", "open.test:81", Some("authority_mismatch")),
        ("http://open.test:81/", "open.test", Some("authority_mismatch")),
        ("http://open.test/", "other.test", Some("authority_mismatch")),
        ("http://open.test/", "sub.open.test", Some("authority_mismatch")),
        ("http://open.test/", "127.0.0.1", Some("authority_mismatch")),
        ("https://open.test/", "open.test", Some("authority_mismatch")),
    ];
    for (url, host, reason) in table {
        let request = format!("GET {url} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        let mut proxied = TcpStream::connect(stand.proxy).await.unwrap();
        let redirected = &mut stand.towards(Way::Redirect, "open.test", 80).await;
        for stream in [&mut proxied, redirected] {
            let seen = talk(stream, request.as_bytes()).await;
            assert_eq!(seen.reason().as_deref(), reason, "{url} {host}");
        }
    }
}

#[tokio::test]
async fn an_encoded_body_that_says_nothing_is_not_kept_without_end() {
    let stand = Stand::start().await;
    // What may begin a placeholder waits for what follows it, and what follows decodes to nothing.
    let begins = b"\x1f\x8b\x08\0\0\0\0\0\0\xff\x00\x04\x00\xfb\xffpstn";
    let head = "POST /v1/x HTTP/1.1\r\nhost: api.test\r\ncontent-encoding: gzip\r\ncontent-length: 100000000\r\n\r\n";
    let request = [head.as_bytes(), begins, &b"\0\0\0\xff\xff".repeat(400_000)].concat();
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("encoding_unsupported"), "{}", seen.head);
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn a_long_upload_that_cannot_be_carried_is_read_so_that_its_client_hears_why() {
    let stand = Stand::start().await;
    for (scheme, host, port, reason) in
        [("http", "closed.test", 80, "upstream_unreachable"), ("https", "untrusted.test", 443, "upstream_untrusted")]
    {
        let body = vec![b'x'; 12 * 1024 * 1024];
        let head = format!("POST / HTTP/1.1\r\nhost: {host}\r\ncontent-length: {}\r\n\r\n", body.len());
        let whole = [head.as_bytes(), &body].concat();
        let stream = stand.towards(Way::Redirect, host, port).await;
        let seen = match scheme {
            "https" => sent_whole(&mut stand.tls(stream, host).await.unwrap(), &whole).await,
            _ => sent_whole(&mut { stream }, &whole).await,
        };
        assert_eq!(seen.reason().as_deref(), Some(reason), "{host}: {}", seen.head);
    }
}

/// Reads the answer after the last byte was taken, as simple clients do.
async fn sent_whole<S: AsyncRead + AsyncWrite + Unpin>(stream: &mut S, request: &[u8]) -> Seen {
    timeout(PATIENCE, stream.write_all(request)).await.expect("in time").expect("all of it is taken");
    timeout(PATIENCE, stream.flush()).await.expect("in time").expect("all of it is taken");
    read_response(stream).await
}
