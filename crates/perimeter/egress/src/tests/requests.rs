//! What is carried, what is refused, and that both ways out say the same.

use postern_audit::{AuditError, Decision, Kind};

use super::{
    stand::{SECRET, Stand, WAYS, Way, get, post},
    upstream::whole,
};

#[tokio::test]
async fn a_placeholder_becomes_the_secret_at_the_upstream_and_only_there() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    let basic = super::reflection::basic("user", &stand.placeholder);
    for way in WAYS {
        for (header, value, expected) in [
            ("authorization", bearer.as_str(), format!("Bearer {SECRET}")),
            ("x-api-key", stand.placeholder.as_str(), SECRET.to_owned()),
            ("authorization", basic.as_str(), super::reflection::basic("user", SECRET)),
        ] {
            let seen = stand.get(way, "https", "api.test", 443, "/v1/data?q=1", &[(header, value)]).await;
            assert_eq!((seen.status, seen.text().as_str()), (200, "hello"), "{way:?} {header}");
            let received = stand.upstream.received().pop().unwrap();
            assert_eq!(received.header(header), Some(expected), "{way:?} {header}");
            assert!(received.head.starts_with("GET /v1/data?q=1 HTTP/1.1\r\n"), "{}", received.head);
        }
    }
}

#[tokio::test]
async fn requests_are_decided_alike_on_both_ways_and_both_schemes() {
    let stand = Stand::start().await;
    let table = [
        ("https", "api.test", 443, "/v1/x", None),
        ("https", "other.test", 443, "/any", None),
        ("http", "open.test", 80, "/any", None),
        ("http", "api.test", 80, "/any", None),
        ("https", "api.test", 443, "/v2/x", Some("path_not_allowed")),
        ("https", "api.test", 443, "/v1/../v2", Some("path_ambiguous")),
        ("https", "api.test", 9443, "/v1/x", Some("port_not_allowed")),
        ("https", "evil.test", 443, "/", Some("host_not_allowed")),
        ("http", "evil.test", 80, "/", Some("host_not_allowed")),
        ("https", "open.test", 80, "/", Some("scheme_not_allowed")),
        ("http", "other.test", 443, "/", Some("scheme_not_allowed")),
        ("http", "169.254.169.254", 80, "/latest/meta-data/", Some("raw_address")),
        ("http", "10.1.2.3", 80, "/", Some("raw_address")),
        ("http", "closed.test", 80, "/", Some("upstream_unreachable")),
        ("https", "untrusted.test", 443, "/", Some("upstream_untrusted")),
        ("https", "wrongname.test", 443, "/", Some("upstream_untrusted")),
    ];
    for way in WAYS {
        for (scheme, host, port, path, reason) in table {
            let at = stand.audit.records().len();
            let arrived = stand.upstream.received().len();
            let seen = stand.get(way, scheme, host, port, path, &[]).await;
            let row = format!("{way:?} {scheme}://{host}:{port}{path} {}", seen.text());
            assert_eq!(seen.reason().as_deref(), reason, "{row}");
            let arrives = stand.upstream.received().len() > arrived;
            assert_eq!(arrives, reason.is_none(), "{row}");
            let record = stand.record(Kind::EgressRequest, at).unwrap_or_else(|| panic!("no record: {row}"));
            assert_eq!(record.tool_use, None);
            if let Some(reason) = reason {
                assert_eq!(seen.header("content-type").as_deref(), Some("application/problem+json"), "{row}");
                assert_eq!(seen.header("postern-reason").as_deref(), Some(reason), "{row}");
                let denied = stand.audit.records()[at..].iter().any(|record| {
                    record.decision == Decision::Deny
                        && record.reason.as_deref() == Some(reason)
                        && record.next_step.is_some()
                });
                assert!(denied, "{row}");
            }
        }
    }
}

#[tokio::test]
async fn the_audit_record_is_written_before_the_upstream_gets_the_request() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    for turn in 0..3 {
        let before = stand.audit.records().len();
        stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]).await;
        let received = stand.upstream.received().pop().unwrap();
        let records = stand.audit.records();
        let written = &records[before..received.records_before];
        assert_eq!(written.len(), 1, "turn {turn}");
        assert_eq!((written[0].kind, written[0].decision), (Kind::EgressRequest, Decision::Allow));
        assert_eq!(written[0].credential.as_deref(), Some("key"));
        let outcome = records.last().unwrap();
        assert_eq!((outcome.kind, outcome.caused_by), (Kind::EgressOutcome, Some(before as u64 + 1)));
        assert_eq!(outcome.counts.get("status"), Some(&200));
    }
}

#[tokio::test]
async fn without_a_log_nothing_is_forwarded() {
    let stand = Stand::start().await;
    stand.audit.fail_with(Some(AuditError::Gone));
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[]).await;
    assert_eq!((seen.status, seen.reason().as_deref()), (503, Some("audit_unavailable")));
    let seen = stand.get(Way::Redirect, "https", "evil.test", 443, "/", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("audit_unavailable"));
    assert!(stand.upstream.received().is_empty());
    stand.audit.fail_with(None);
    assert_eq!(stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[]).await.status, 200);
}

#[tokio::test]
async fn a_secret_that_custody_does_not_grant_is_a_refusal() {
    let stand = Stand::start().await;
    stand.custody.secrets.lock().unwrap().clear();
    let bearer = format!("Bearer {}", stand.placeholder);
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]).await;
    assert_eq!((seen.status, seen.reason().as_deref()), (403, Some("custody_denied")));
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn names_that_disagree_are_refused() {
    let stand = Stand::start().await;
    let table: [(&str, &str); 6] = [
        ("GET /v1/x HTTP/1.1\r\nhost: evil.test\r\n\r\n", "authority_mismatch"),
        ("GET /v1/x HTTP/1.1\r\nhost: api.test\r\nhost: api.test\r\n\r\n", "request_malformed"),
        ("GET /v1/x HTTP/1.1\r\n\r\n", "request_malformed"),
        ("GET https://evil.test/v1/x HTTP/1.1\r\nhost: api.test\r\n\r\n", "authority_mismatch"),
        ("GET /v1/x HTTP/1.1\r\nhost: api.test:8443\r\n\r\n", "authority_mismatch"),
        ("GET /v1/x HTTP/1.0\r\n\r\n", "request_malformed"),
    ];
    for way in WAYS {
        for (request, reason) in table {
            let seen = stand.send(way, "https", "api.test", 443, request.as_bytes()).await;
            assert_eq!(seen.reason().as_deref(), Some(reason), "{way:?} {request}");
        }
    }
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn what_is_not_carried_is_refused_with_its_reason() {
    let stand = Stand::start().await;
    let table: [&[(&str, &str)]; 3] = [
        &[
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ],
        &[("connection", "Upgrade, HTTP2-Settings"), ("upgrade", "h2c"), ("http2-settings", "AAMAAABk")],
        &[("connection", "keep-alive, upgrade")],
    ];
    for headers in table {
        let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", headers).await;
        assert_eq!(seen.reason().as_deref(), Some("upgrade_refused"), "{headers:?}");
    }
    let connect = b"CONNECT api.test:443 HTTP/1.1\r\nhost: api.test:443\r\n\r\n";
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, connect).await;
    assert_eq!(seen.reason().as_deref(), Some("upgrade_refused"));
}

#[tokio::test]
async fn headers_of_the_hop_stay_here_and_what_cannot_be_scrubbed_is_not_asked_for() {
    let stand = Stand::start().await;
    let headers = [
        ("accept-encoding", "gzip, compress;q=0.5, br;q=0.9, dcb"),
        ("range", "bytes=0-10"),
        ("if-range", "\"x\""),
        ("te", "trailers"),
        ("proxy-connection", "keep-alive"),
        ("connection", "keep-alive, x-mine"),
        ("x-mine", "1"),
        ("x-kept", "2"),
    ];
    stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &headers).await;
    let received = stand.upstream.received().pop().unwrap();
    assert_eq!(received.header("accept-encoding").as_deref(), Some("gzip, br;q=0.9"));
    assert_eq!(received.header("x-kept").as_deref(), Some("2"));
    for gone in ["range", "if-range", "te", "proxy-connection", "x-mine", "proxy-authorization"] {
        assert_eq!(received.header(gone), None, "{gone}");
    }
}

#[tokio::test]
async fn bodies_arrive_whole_in_both_directions() {
    let stand = Stand::start().await;
    stand.upstream.replies(|request| vec![whole("201 Created", &[], &request.body)]);
    let long: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    for body in [&b""[..], b"short", &long[..crate::limits::BODY_PREVIEW_BYTES], &long] {
        let seen = stand.send(Way::Redirect, "https", "api.test", 443, &post("api.test", "/v1/x", &[], body)).await;
        assert_eq!(seen.status, 201, "{}", body.len());
        assert!(seen.body == body, "{} bytes", body.len());
    }
}

#[tokio::test]
async fn answers_without_a_body_keep_their_form() {
    let stand = Stand::start().await;
    stand.upstream.replies(|request| match request.head.starts_with("HEAD") {
        true => vec![b"HTTP/1.1 200 OK\r\ncontent-length: 12345\r\n\r\n".to_vec()],
        false => vec![b"HTTP/1.1 204 No Content\r\nx-kept: 1\r\n\r\n".to_vec()],
    });
    let original = std::net::SocketAddr::new(stand.resolve("open.test").await, 80);
    let mut stream = stand.redirected(original).await;
    let head = String::from_utf8(get("http", "open.test", 80, "/", &[])).unwrap().replacen("GET", "HEAD", 1);
    tokio::io::AsyncWriteExt::write_all(&mut stream, head.as_bytes()).await.unwrap();
    let answered = super::stand::read_head(&mut stream).await;
    assert!(answered.starts_with("HTTP/1.1 200") && answered.contains("content-length: 12345"), "{answered}");
    let seen = super::stand::talk(&mut stream, &get("http", "open.test", 80, "/", &[])).await;
    assert_eq!((seen.status, seen.header("x-kept").as_deref()), (204, Some("1")));
}

#[tokio::test]
async fn a_refused_client_is_not_asked_for_its_body_and_reads_the_refusal_while_it_sends() {
    let stand = Stand::start().await;
    let ask = b"PUT /v1/x HTTP/1.1\r\nhost: evil.test\r\ncontent-length: 1000\r\nexpect: 100-continue\r\n\r\n";
    let seen = stand.send(Way::Redirect, "http", "evil.test", 80, ask).await;
    assert_eq!(seen.reason().as_deref(), Some("host_not_allowed"));
    let long = vec![b'a'; 4 << 20];
    let seen = stand.send(Way::Redirect, "http", "evil.test", 80, &post("evil.test", "/v1/x", &[], &long)).await;
    assert_eq!(seen.reason().as_deref(), Some("host_not_allowed"), "{}", seen.head);
}

#[tokio::test]
async fn a_request_that_its_client_gives_up_has_an_outcome() {
    let stand = Stand::start().await;
    let (asked, arrived) = std::sync::mpsc::channel();
    stand.upstream.replies(move |_| {
        asked.send(()).unwrap();
        Vec::new()
    });
    let mut stream = stand.towards(Way::Redirect, "open.test", 80).await;
    tokio::io::AsyncWriteExt::write_all(&mut stream, &get("http", "open.test", 80, "/", &[])).await.unwrap();
    let stand = std::sync::Arc::new(stand);
    while arrived.try_recv().is_err() {
        tokio::task::yield_now().await;
    }
    drop(stream);
    let ended = async {
        while stand.record(Kind::EgressOutcome, 0).is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(super::stand::PATIENCE, ended).await.expect("an outcome in time");
    let outcome = stand.record(Kind::EgressOutcome, 0).unwrap();
    assert_eq!(outcome.outcome.as_deref(), Some("given up by the client"));
}

#[tokio::test]
async fn connections_are_kept_on_both_sides() {
    let stand = Stand::start().await;
    let stream = stand.towards(Way::Redirect, "api.test", 443).await;
    let mut stream = stand.tls(stream, "api.test").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"http/1.1"[..]));
    for _ in 0..5 {
        let seen = super::stand::talk(&mut stream, &get("https", "api.test", 443, "/v1/x", &[])).await;
        assert_eq!(seen.status, 200);
    }
    assert_eq!(stand.upstream.received().len(), 5);
}

#[tokio::test]
async fn records_carry_the_tool_use_and_the_session_ends_whole() {
    use crate::message::{Answer, Question};
    let stand = Stand::start().await;
    let session = "sesn_one".to_owned();
    stand.ask(Question::CurrentToolUse { session: session.clone(), tool_use: Some("sevt_1".to_owned()) }).await;
    stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[]).await;
    let record = stand.record(Kind::EgressRequest, 0).unwrap();
    assert_eq!(record.tool_use.as_deref(), Some("sevt_1"));
    assert_eq!(record.agent.as_deref(), Some("agent_x@1"));
    assert_eq!(record.zone.as_deref(), Some("t"));
    assert!(matches!(stand.ask(Question::Close { session: session.clone() }).await, Answer::Done));
    assert_eq!(*stand.custody.revoked.lock().unwrap(), ["key"]);
    assert!(tokio::net::TcpStream::connect(stand.redirect).await.is_err(), "its listeners are closed");
    let gone = stand.ask(Question::Refusals { session: session.clone() }).await;
    assert!(matches!(&gone, Answer::Failed { code, .. } if code == "session_unknown"), "{gone:?}");
    assert!(matches!(stand.ask(Question::Close { session }).await, Answer::Done));
}

#[tokio::test]
async fn git_is_refused_in_the_plain_text_that_it_shows() {
    let stand = Stand::start().await;
    let path = "/team/payroll.git/info/refs?service=git-upload-pack";
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, path, &[("user-agent", "git/2.39.5")]).await;
    assert_eq!((seen.status, seen.header("content-type").as_deref()), (403, Some("text/plain")));
    assert_eq!(seen.header("postern-reason").as_deref(), Some("path_not_allowed"));
    assert_eq!(seen.header("content-length"), Some(seen.body.len().to_string()));
    assert!(
        seen.text().starts_with("Refused by the zone's policy (path_not_allowed)\nthe zone allows the paths /v1/**")
    );
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, path, &[("user-agent", "curl/7.88.1")]).await;
    assert_eq!(seen.header("content-type").as_deref(), Some("application/problem+json"));
}
