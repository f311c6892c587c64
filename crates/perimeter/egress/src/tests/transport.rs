//! Below HTTP: TLS names, raw addresses, other protocols, the redirect port itself, DNS over TCP, refused datagrams.

use std::{io, net::SocketAddr, os::fd::OwnedFd, time::SystemTime};

use postern_audit::Kind;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::stand::{PATIENCE, Stand, WAYS, Way, get, read_response, talk};
use crate::message::{Question, Socket};

#[tokio::test]
async fn a_tls_name_that_is_not_the_host_is_refused_readably() {
    let stand = Stand::start().await;
    for way in WAYS {
        let stream = stand.towards(way, "other.test", 443).await;
        let mut stream = stand.tls(stream, "api.test").await.unwrap();
        let seen = talk(&mut stream, &get("https", "api.test", 443, "/v1/x", &[])).await;
        assert_eq!(seen.reason().as_deref(), Some("authority_mismatch"), "{way:?}");
        let stream = stand.towards(way, "api.test", 443).await;
        let mut stream = stand.tls_with(stream, "api.test", false).await.unwrap();
        let seen = talk(&mut stream, &get("https", "api.test", 443, "/v1/x", &[])).await;
        assert_eq!(seen.reason().as_deref(), Some("sni_missing"), "{way:?}");
    }
    assert!(stand.upstream.received().is_empty());
}

#[tokio::test]
async fn a_raw_address_is_refused_readably_over_tls_too() {
    let stand = Stand::start().await;
    for way in WAYS {
        for address in ["203.0.113.7", "10.0.0.1", "169.254.169.254"] {
            let stream = stand.towards(way, address, 443).await;
            let mut stream = stand.tls(stream, address).await.unwrap();
            let seen = talk(&mut stream, &get("https", address, 443, "/", &[])).await;
            assert_eq!(seen.reason().as_deref(), Some("raw_address"), "{way:?} {address}");
        }
    }
}

#[tokio::test]
async fn a_synthetic_address_that_was_never_given_out_is_closed_and_told() {
    let stand = Stand::start().await;
    let mut stream = stand.redirected("198.18.77.77:443".parse().unwrap()).await;
    assert_eq!(ended(&mut stream).await, 0);
    let told = stand.refusals().await;
    assert_eq!((told[0].host.as_str(), told[0].port, told[0].reason.as_str()), ("198.18.77.77", 443, "raw_address"));
}

#[tokio::test]
async fn a_connection_to_the_redirect_port_itself_is_refused() {
    let stand = Stand::start().await;
    for original in [None, Some(stand.redirect)] {
        let at = stand.audit.records().len();
        let mut stream = match original {
            None => TcpStream::connect(stand.redirect).await.unwrap(),
            Some(itself) => stand.redirected(itself).await,
        };
        stream.write_all(b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n").await.unwrap();
        ended(&mut stream).await;
        assert_eq!(stand.record(Kind::EgressConnect, at).unwrap().reason.as_deref(), Some("raw_address"));
    }
}

#[tokio::test]
async fn other_protocols_are_closed_after_the_record_and_told() {
    let stand = Stand::start().await;
    let table: [(&str, &[u8], &str); 3] = [
        ("api.test", b"SSH-2.0-OpenSSH_9.2\r\n", "protocol_unknown"),
        ("api.test", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "protocol_unknown"),
        ("evil.test", b"\0\0\0\x08\x04\xd2\x16\x2f", "host_not_allowed"),
    ];
    for way in WAYS {
        for (host, bytes, reason) in table {
            let at = stand.audit.records().len();
            let mut stream = stand.towards(way, host, 443).await;
            stream.write_all(bytes).await.unwrap();
            ended(&mut stream).await;
            let record = stand.record(Kind::EgressConnect, at).unwrap();
            assert_eq!(record.reason.as_deref(), Some(reason), "{way:?} {bytes:?}");
            let told = stand.refusals().await;
            assert_eq!((told.len(), told[0].host.as_str(), told[0].reason.as_str()), (1, host, reason));
            assert!(told[0].to_string().starts_with(&format!("[postern] refused {host}:443 reason={reason} next=")));
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_trust_the_ca_is_recorded_with_the_next_step() {
    let stand = Stand::start().await;
    let other = Stand::start().await;
    let stream = stand.towards(Way::Redirect, "api.test", 443).await;
    assert!(other.tls(stream, "api.test").await.is_err(), "another session's CA is not trusted");
    let told = wait_for_refusal(&stand).await;
    assert!(told.next_step.contains("CA"), "{told:?}");
}

#[tokio::test]
async fn the_proxy_refuses_what_names_no_destination() {
    let stand = Stand::start().await;
    let table: [(&[u8], &str); 4] = [
        (b"GET / HTTP/1.1\r\nhost: api.test\r\n\r\n", "request_malformed"),
        (b"GET https://api.test/v1/x HTTP/1.1\r\nhost: api.test\r\n\r\n", "authority_mismatch"),
        (b"GET http://open.test/ HTTP/1.1\r\nhost: other.test\r\n\r\n", "authority_mismatch"),
        (b"CONNECT user@api.test:443 HTTP/1.1\r\nhost: api.test:443\r\n\r\n", "request_malformed"),
    ];
    for (request, reason) in table {
        let mut stream = TcpStream::connect(stand.proxy).await.unwrap();
        let seen = talk(&mut stream, request).await;
        assert_eq!(seen.reason().as_deref(), Some(reason), "{}", String::from_utf8_lossy(request));
    }
}

#[tokio::test]
async fn connect_to_a_synthetic_address_means_its_name() {
    let stand = Stand::start().await;
    let address = stand.resolve("api.test").await;
    let stream = stand.towards(Way::Proxy, &address.to_string(), 443).await;
    let mut stream = stand.tls(stream, "api.test").await.unwrap();
    let seen = talk(&mut stream, &get("https", "api.test", 443, "/v1/x", &[])).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
}

#[tokio::test]
async fn dns_answers_over_tcp() {
    use hickory_proto::{
        op::{Message, Query},
        rr::{Name, RecordType},
    };
    let stand = Stand::start().await;
    let mut stream = TcpStream::connect(stand.dns_tcp).await.unwrap();
    for (kind, answers) in [(RecordType::A, 1), (RecordType::AAAA, 1), (RecordType::HTTPS, 0)] {
        let mut question = Message::query();
        question.add_query(Query::query(Name::from_ascii("api.test").unwrap(), kind));
        let bytes = question.to_vec().unwrap();
        stream.write_u16(u16::try_from(bytes.len()).unwrap()).await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let length = timeout(PATIENCE, stream.read_u16()).await.unwrap().unwrap();
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.unwrap();
        assert_eq!(Message::from_vec(&answer).unwrap().answers.len(), answers, "{kind}");
    }
}

#[tokio::test]
async fn refused_datagrams_are_told_and_those_beyond_the_bound_counted() {
    let stand = Stand::start().await;
    // A datagram pair in place of the netlink socket: read the same way.
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let attach = Question::Attach { session: "sesn_one".to_owned(), sockets: vec![Socket::RefusedUdp] };
    stand.registry.answer(attach, vec![OwnedFd::from(theirs)]).await;
    let many = crate::limits::REFUSALS_RECORDED as usize + 50;
    for _ in 0..many {
        ours.send(&crate::datagram::sample("203.0.113.9", 443)).unwrap();
    }
    let told = wait_for_refusal(&stand).await;
    assert_eq!((told.host.as_str(), told.port, told.reason.as_str()), ("203.0.113.9", 443, "udp_refused"));
    // Closed by us, so read to its end.
    drop(ours);
    let told = || -> u64 {
        let records = stand.audit.records();
        let of_reason = records.iter().filter(|record| record.reason.as_deref() == Some("udp_refused"));
        of_reason.map(|record| record.counts.get("refusals").copied().unwrap_or(1)).sum()
    };
    while told() < crate::limits::REFUSALS_RECORDED.into() {
        tokio::task::yield_now().await;
    }
    stand.ask(Question::Close { session: "sesn_one".to_owned() }).await;
    assert!(told() > crate::limits::REFUSALS_RECORDED.into(), "{}", told());
    assert!(stand.audit.records().len() < many, "{}", stand.audit.records().len());
}

#[tokio::test]
async fn a_datagram_that_was_refused_before_a_tool_use_ended_is_told_as_that_tool_uses() {
    let stand = Stand::start().await;
    let (ours, theirs) = std::os::unix::net::UnixDatagram::pair().unwrap();
    let attach = Question::Attach { session: "sesn_one".to_owned(), sockets: vec![Socket::RefusedUdp] };
    stand.registry.answer(attach, vec![OwnedFd::from(theirs)]).await;
    let at = |tool_use: Option<&str>| {
        stand.ask(Question::CurrentToolUse { session: "sesn_one".to_owned(), tool_use: tool_use.map(str::to_owned) })
    };
    // As many at a time as are recorded one by one, together.
    let many = crate::limits::REFUSALS_RECORDED as usize / 2;
    for (port, tool_use) in [(443, "sevt_1"), (444, "sevt_2")] {
        at(Some(tool_use)).await;
        for _ in 0..many {
            ours.send(&crate::datagram::sample("203.0.113.9", port)).unwrap();
        }
        // Nothing else runs between the reports and the end.
        at(None).await;
        let told = stand.refusals().await;
        assert!(!told.is_empty() && told.iter().all(|refusal| refusal.port == port), "{told:?}");
        assert_eq!(stand.refusals().await.len(), 0);
    }
    ours.send(&crate::datagram::sample("203.0.113.9", 445)).unwrap();
    stand.ask(Question::Close { session: "sesn_one".to_owned() }).await;
    let records = stand.audit.records();
    let of = |port: u16, tool_use: Option<&str>| {
        let at = |record: &&postern_audit::Record| record.destination.as_ref().and_then(|to| to.port) == Some(port);
        records.iter().filter(at).filter(|record| record.tool_use.as_deref() == tool_use).count()
    };
    assert_eq!((of(443, Some("sevt_1")), of(444, Some("sevt_2"))), (many, many));
    let counted = |record: &&postern_audit::Record| record.reason.as_deref() == Some("udp_refused");
    assert_eq!(records.iter().filter(counted).count(), 2 * many + 1, "what is left at the end is counted");
}

#[tokio::test]
async fn a_sandbox_that_another_took_the_place_of_is_served_no_more() {
    let stand = Stand::start().await;
    let attach = async |listener: std::net::TcpListener| {
        let sockets = vec![Socket::Proxy];
        let attach = Question::Attach { session: "sesn_one".to_owned(), sockets };
        stand.registry.answer(attach, vec![OwnedFd::from(listener)]).await;
    };
    let [former, now] = [0; 2].map(|_| std::net::TcpListener::bind("127.0.0.1:0").unwrap());
    let [left, used] = [&former, &now].map(|listener| listener.local_addr().unwrap());
    attach(former).await;
    TcpStream::connect(left).await.unwrap();
    attach(now).await;
    let closed = async { while TcpStream::connect(left).await.is_ok() {} };
    timeout(PATIENCE, closed).await.expect("nobody listens where it was");
    TcpStream::connect(used).await.unwrap();
}

#[test]
fn a_session_ca_signs_for_a_week_at_most_from_five_minutes_ago() {
    let now = SystemTime::now();
    let authority = crate::authority::SessionAuthority::issue("sesn_one", now).unwrap();
    assert!(authority.certificate_pem().starts_with("-----BEGIN CERTIFICATE-----"));
    let (from, until) = crate::authority::validity_of(now);
    assert_eq!(now.duration_since(from).unwrap(), crate::limits::CA_BACKDATED);
    assert_eq!(until.duration_since(from).unwrap(), crate::limits::CA_LIFETIME);
    for name in ["api.test", "203.0.113.7", "fd70:7374:6e00::1"] {
        let one = authority.tls_for(name, crate::authority::Offer::Both, now).unwrap();
        assert!(
            std::sync::Arc::ptr_eq(&one, &authority.tls_for(name, crate::authority::Offer::Both, now).unwrap()),
            "{name}"
        );
    }
}

async fn ended(stream: &mut TcpStream) -> usize {
    let mut rest = Vec::new();
    match timeout(PATIENCE, stream.read_to_end(&mut rest)).await.expect("closed in time") {
        Ok(count) => count,
        // Closed with our bytes unread.
        Err(error) if error.kind() == io::ErrorKind::ConnectionReset => 0,
        Err(error) => panic!("{error}"),
    }
}

async fn wait_for_refusal(stand: &Stand) -> crate::message::Refusal {
    let waiting = async {
        loop {
            if let Some(refusal) = stand.refusals().await.pop() {
                return refusal;
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.expect("told in time")
}

#[tokio::test]
async fn requests_may_be_pipelined_after_each_other() {
    let stand = Stand::start().await;
    let original = SocketAddr::new(stand.resolve("open.test").await, 80);
    let mut stream = stand.redirected(original).await;
    let one = get("http", "open.test", 80, "/1", &[]);
    stream.write_all(&one).await.unwrap();
    assert_eq!(read_response(&mut stream).await.status, 200);
    stream.write_all(&get("http", "evil.test", 80, "/2", &[])).await.unwrap();
    assert_eq!(read_response(&mut stream).await.reason().as_deref(), Some("authority_mismatch"));
}
