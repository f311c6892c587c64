//! Placeholders and secrets where they must not be: refused, recorded, alarmed, and nothing reaches the upstream.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use postern_audit::{Decision, Kind, Record};
use postern_secret::renderings;

use tokio::{io::AsyncWriteExt, time::timeout};

use super::stand::{PATIENCE, SECRET, Seen, Stand, WAYS, Way, bearer, get, post};

async fn assert_alarmed(stand: &Stand, from: usize, seen: &Seen, reason: &str, row: &str) {
    assert_eq!(seen.reason().as_deref(), Some(reason), "{row}: {} {}", seen.head, seen.text());
    let records = stand.audit.records();
    let denied = records[from..].iter().find(|record| record.decision == Decision::Deny);
    assert_eq!(denied.and_then(|record| record.reason.as_deref()), Some(reason), "{row}");
    let alarm = records[from..].iter().find(|record| record.kind == Kind::Alarm);
    assert_eq!(alarm.and_then(|record| record.reason.as_deref()), Some(reason), "{row}");
    assert!(stand.upstream.received().is_empty(), "{row}");
}

#[tokio::test]
async fn a_placeholder_for_another_host_port_scheme_place_or_session_is_a_tripwire() {
    let stand = Stand::start().await;
    let own = stand.placeholder.clone();
    let bearer = format!("Bearer {own}");
    let doubled = format!("Bearer {own} {own}");
    let query = format!("/v1/x?key={own}");
    let path = format!("/v1/{own}");
    let percent: String = own.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let escaped = format!("/v1/x?q={percent}");
    let encoded = STANDARD.encode(&own);
    let user = super::reflection::basic(&own, "x");
    let others = format!("Bearer {}", stand.others_placeholder);
    let dead = format!("Bearer {}", stand.dead_placeholder);
    let invented = format!("Bearer pstn{}", "Zq3".repeat(8));
    let real = format!("Bearer {SECRET}");
    let lower = own.to_ascii_lowercase();
    type Row<'a> = (&'a str, &'a str, u16, &'a str, &'a [(&'a str, &'a str)], &'a str);
    let table: &[Row<'_>] = &[
        ("https", "evil.test", 443, "/", &[("authorization", &bearer)], "placeholder_wrong_host"),
        ("https", "other.test", 443, "/", &[("authorization", &bearer)], "placeholder_wrong_host"),
        ("http", "open.test", 80, "/", &[("x-any", &own)], "placeholder_wrong_host"),
        ("https", "api.test", 8443, "/v1/x", &[("authorization", &bearer)], "placeholder_wrong_port"),
        ("http", "api.test", 443, "/v1/x", &[("authorization", &bearer)], "placeholder_wrong_scheme"),
        ("https", "api.test", 443, &query, &[], "placeholder_wrong_location"),
        ("https", "api.test", 443, &escaped, &[], "placeholder_wrong_location"),
        ("https", "api.test", 443, &path, &[], "placeholder_wrong_location"),
        ("https", "api.test", 443, "/v1/x", &[("x-note", &own)], "placeholder_wrong_location"),
        ("https", "api.test", 443, "/v1/x", &[("cookie", &own)], "placeholder_wrong_location"),
        ("https", "api.test", 443, "/v1/x", &[("authorization", &doubled)], "placeholder_wrong_location"),
        ("https", "api.test", 443, "/v1/x", &[("x-api-key", &encoded)], "placeholder_wrong_location"),
        ("https", "api.test", 443, "/v1/x", &[("authorization", &user)], "placeholder_wrong_location"),
        (
            "https",
            "api.test",
            443,
            "/v1/x",
            &[("authorization", &bearer), ("authorization", &bearer)],
            "placeholder_wrong_location",
        ),
        ("https", "api.test", 443, "/v1/x", &[(&lower, "1")], "placeholder_wrong_location"),
        ("https", "api.test", 443, "/v1/x", &[("authorization", &others)], "placeholder_wrong_session"),
        ("https", "api.test", 443, "/v1/x", &[("authorization", &dead)], "placeholder_wrong_session"),
        ("https", "api.test", 443, "/v1/x", &[("authorization", &invented)], "placeholder_unresolved"),
        ("https", "api.test", 443, "/v1/x", &[("authorization", &real)], "real_secret_seen"),
        ("https", "evil.test", 443, "/", &[("authorization", &real)], "real_secret_seen"),
    ];
    for way in WAYS {
        for (scheme, host, port, path, headers, reason) in table {
            let from = stand.audit.records().len();
            let seen = stand.get(way, scheme, host, *port, path, headers).await;
            let row = format!("{way:?} {scheme}://{host}:{port}{path} {headers:?}");
            assert_alarmed(&stand, from, &seen, reason, &row).await;
        }
    }
}

#[tokio::test]
async fn a_placeholder_in_a_body_is_refused_in_every_rendering() {
    let stand = Stand::start().await;
    for (host, reason) in [("api.test", "placeholder_wrong_location"), ("other.test", "placeholder_wrong_host")] {
        for rendering in renderings::of(stand.placeholder.as_bytes()) {
            let from = stand.audit.records().len();
            let body = [b"{\"note\": \"", rendering.bytes.as_slice(), b"\"}"].concat();
            let seen = stand.send(Way::Redirect, "https", host, 443, &post(host, "/v1/x", &[], &body)).await;
            assert_alarmed(&stand, from, &seen, reason, &format!("{host} {}", rendering.kind)).await;
        }
    }
    let from = stand.audit.records().len();
    let body = format!("my key is {SECRET}");
    let seen =
        stand.send(Way::Redirect, "https", "api.test", 443, &post("api.test", "/v1/x", &[], body.as_bytes())).await;
    assert_alarmed(&stand, from, &seen, "real_secret_seen", "secret in body").await;
}

#[tokio::test]
async fn a_placeholder_in_a_compressed_body_is_refused() {
    use std::io::Write;
    let stand = Stand::start().await;
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(format!("note: {}", stand.placeholder).as_bytes()).unwrap();
    let body = encoder.finish().unwrap();
    let request = post("api.test", "/v1/x", &[("content-encoding", "gzip")], &body);
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_alarmed(&stand, 0, &seen, "placeholder_wrong_location", "gzip").await;
    let request = post("api.test", "/v1/x", &[("content-encoding", "compress")], b"xxxx");
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("encoding_unsupported"));
}

#[tokio::test]
async fn a_placeholder_late_in_a_long_body_never_arrives_whole() {
    let stand = Stand::start().await;
    let mut body = vec![b'a'; 2_000_000];
    body.extend_from_slice(stand.placeholder.as_bytes());
    body.extend_from_slice(&vec![b'b'; 1_000]);
    let from = stand.audit.records().len();
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &post("api.test", "/v1/x", &[], &body)).await;
    assert_eq!(seen.reason().as_deref(), Some("placeholder_wrong_location"), "{}", seen.head);
    // The upstream never got the end of the request, so it never counted one.
    assert!(stand.upstream.received().is_empty());
    assert!(stand.record(Kind::Alarm, from).is_some());
}

#[tokio::test]
async fn keys_from_elsewhere_are_refused_where_ours_lives() {
    let stand = Stand::start().await;
    let table: [(&str, &[(&str, &str)]); 6] = [
        ("/v1/x", &[("authorization", "Bearer attacker-key-1234567890")]),
        ("/v1/x", &[("x-api-key", "attacker-key-1234567890")]),
        ("/v1/x", &[("private-token", "attacker-key-1234567890")]),
        ("/v1/x?access_token=attacker-key", &[]),
        ("/v1/x", &[("cookie", "sid=attacker")]),
        ("/v1/x", &[("authorization", "Basic dXNlcjphdHRhY2tlcg==")]),
    ];
    for way in WAYS {
        for (path, headers) in table {
            let seen = stand.get(way, "https", "api.test", 443, path, headers).await;
            assert_eq!(seen.reason().as_deref(), Some("foreign_credential"), "{way:?} {path} {headers:?}");
        }
    }
    let form = post(
        "api.test",
        "/v1/x",
        &[("content-type", "application/x-www-form-urlencoded")],
        b"a=1&access_token=attacker-key",
    );
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &form).await;
    assert_eq!(seen.reason().as_deref(), Some("foreign_credential"));
    assert!(stand.upstream.received().is_empty());
    let seen = stand.get(Way::Redirect, "https", "other.test", 443, "/", &[("x-api-key", "their-own-key")]).await;
    assert_eq!(seen.status, 200, "no credential of ours lives there");
}

#[tokio::test]
async fn a_cookie_that_the_upstream_set_may_come_back() {
    let stand = Stand::start().await;
    stand.upstream.replies(|_| vec![super::upstream::whole("200 OK", &[("set-cookie", "sid=given; HttpOnly")], b"")]);
    assert_eq!(stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[]).await.status, 200);
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("cookie", "sid=given")]).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
}

#[tokio::test]
async fn a_later_sessions_placeholder_is_recognised_in_an_earlier_one() {
    use crate::{
        custodian::IssuedPlaceholder,
        message::{Answer, OpenSession, Question},
    };
    use postern_policy::CredentialName;
    use postern_secret::Placeholder;
    let stand = Stand::start().await;
    let shape = postern_secret::Shape::try_from("ghp_*".to_owned()).unwrap();
    let later = Placeholder::issue(SECRET.len(), Some(&shape));
    stand.custody.issued.lock().unwrap().push(IssuedPlaceholder {
        session: "sesn_later".to_owned(),
        credential: CredentialName::new("key"),
        placeholder: later.clone(),
        alive: true,
    });
    let digest = stand.registry.zone_digest("t");
    let open = OpenSession {
        session: "sesn_later".to_owned(),
        agent: None,
        zone_name: "t".to_owned(),
        digest,
        placeholders: Vec::new(),
        repositories: Vec::new(),
    };
    assert!(matches!(stand.ask(Question::Open(open)).await, Answer::Opened(_)));
    let bearer = format!("Bearer {later}");
    let request = get("https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]);
    let seen = stand.send(Way::Redirect, "https", "api.test", 443, &request).await;
    assert_eq!(seen.reason().as_deref(), Some("placeholder_wrong_session"));
}

#[tokio::test]
async fn something_of_ours_that_decodes_as_basic_by_chance_is_still_seen() {
    use postern_policy::CredentialName;
    use postern_secret::Placeholder;
    let stand = Stand::start().await;
    // "user:password" in base64 is a text like any other: here it is a placeholder.
    let text = STANDARD.encode("user:password-of-21-b");
    let placeholder = Placeholder::from_issued(text.clone());
    stand.custody.issued.lock().unwrap().push(crate::custodian::IssuedPlaceholder {
        session: "sesn_two".to_owned(),
        credential: CredentialName::new("key"),
        placeholder,
        alive: true,
    });
    let digest = stand.registry.zone_digest("t");
    let open = crate::message::OpenSession {
        session: "sesn_two".to_owned(),
        agent: None,
        zone_name: "t".to_owned(),
        digest,
        placeholders: Vec::new(),
        repositories: Vec::new(),
    };
    stand.ask(crate::message::Question::Open(open)).await;
    let value = format!("Basic {text}");
    let seen = stand.get(Way::Redirect, "https", "other.test", 443, "/", &[("authorization", &value)]).await;
    assert_alarmed(&stand, 0, &seen, "placeholder_wrong_session", "basic by chance").await;
}

/// Sends a request and hangs up as soon as this record of it is written; gives the records once this one is there too.
async fn hung_up(stand: &Stand, authorization: &str, first: fn(&Record) -> bool, then: Kind) -> Vec<Record> {
    let (written, mut heard) = tokio::sync::mpsc::unbounded_channel();
    stand.recorder.whenever(move |record| {
        if first(record) {
            written.send(()).unwrap();
        }
    });
    stand.recorder.withhold(first);
    let session = stand.session();
    let before = session.connections.available_permits();
    let stream = stand.towards(Way::Redirect, "api.test", 443).await;
    let mut stream = stand.tls(stream, "api.test").await.unwrap();
    let request = get("https", "api.test", 443, "/v1/x", &[("authorization", authorization)]);
    stream.write_all(&request).await.unwrap();
    stream.flush().await.unwrap();
    timeout(PATIENCE, heard.recv()).await.expect("a record in time").unwrap();
    drop(stream);
    let gone_and_recorded = async {
        while session.connections.available_permits() < before {
            tokio::task::yield_now().await;
        }
        stand.recorder.answer();
        while stand.record(then, 0).is_none() {
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, gone_and_recorded).await.expect("what follows is recorded");
    stand.audit.records()
}

#[tokio::test]
async fn a_client_that_hangs_up_is_alarmed_about_all_the_same() {
    let stand = Stand::start().await;
    let real = format!("Bearer {SECRET}");
    let records = hung_up(&stand, &real, |record| record.decision == Decision::Deny, Kind::Alarm).await;
    let alarm = records.iter().find(|record| record.kind == Kind::Alarm).unwrap();
    assert_eq!(alarm.reason.as_deref(), Some("real_secret_seen"));
}

#[tokio::test]
async fn a_request_that_is_given_up_while_it_is_recorded_has_an_outcome() {
    let stand = Stand::start().await;
    let first = |record: &Record| record.kind == Kind::EgressRequest;
    let records = hung_up(&stand, &bearer(&stand), first, Kind::EgressOutcome).await;
    let outcome = records.iter().find(|record| record.kind == Kind::EgressOutcome).unwrap();
    assert_eq!(outcome.outcome.as_deref(), Some("given up by the client"));
    assert!(stand.upstream.received().is_empty());
}
