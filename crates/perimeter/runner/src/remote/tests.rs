use std::sync::atomic::Ordering;

use tokio::time::Instant;

use super::*;
use crate::stand_in::{remote_of, server};

#[test]
fn an_id_from_the_server_cannot_change_the_route() {
    assert_eq!(path(&["v1", "sessions", "../../x?y=1#z"], &[]), "/v1/sessions/..%2F..%2Fx%3Fy%3D1%23z");
    assert_eq!(path(&["v1", ".."], &[]), "/v1/%2E%2E");
    assert_eq!(
        path(&["a"], &[("expected_last_heartbeat", "2026-01-01T00:00:00+00:00")]),
        "/a?expected_last_heartbeat=2026-01-01T00%3A00%3A00%2B00%3A00"
    );
}

#[test]
fn the_session_token_is_found_in_the_secret_with_or_without_padding() {
    let encode = |text: &str| base64::engine::general_purpose::URL_SAFE.encode(text);
    for (secret, found) in [
        (encode(r#"{"sessions_token":"abc"}"#), true),
        (encode(r#"{"sessions_token":"abc","ingress_token":"x"}"#).trim_end_matches('=').to_owned(), true),
        (encode(r#"{"sessions_token":""}"#), false),
        (encode(r#"{"other":"abc"}"#), false),
        (encode("[]"), false),
        ("no base64 at all!".to_owned(), false),
        (String::new(), false),
    ] {
        assert_eq!(Bearer::in_secret(&secret).is_some(), found, "{secret}");
    }
}

#[test]
fn only_a_4xx_that_no_retry_mends_is_fatal() {
    for (status, fatal) in [
        (400, true),
        (401, true),
        (404, true),
        (412, true),
        (408, false),
        (409, false),
        (429, false),
        (500, false),
        (529, false),
    ] {
        let error = RemoteError::Refused { doing: "x", status, message: String::new(), retry_after: None };
        assert_eq!(error.is_fatal(), fatal, "{status}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_does_not_answer_is_given_up_after_a_minute() {
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let (remote, began) = (remote_of(silent.local_addr().unwrap()), Instant::now());
    let key = Bearer::new("key".into());
    let asked = tokio::time::timeout(Duration::from_secs(300), remote.session(&key, "sesn_1"));
    let error = asked.await.expect("it is given up").unwrap_err();
    assert!(matches!(error, RemoteError::Unreachable { source: ClientError::Slow { .. }, .. }), "{error:?}");
    assert!(!error.is_fatal());
    assert_eq!(began.elapsed().as_secs(), 60);
}

#[tokio::test]
async fn the_memories_of_a_store_are_read_to_a_bounded_number_of_pages() {
    let (remote, asked) = server(|_| ("200 OK", br#"{"data":[],"next_page":"again"}"#.to_vec()));
    let key = Bearer::new("key".into());
    let reading = tokio::time::timeout(Duration::from_secs(60), remote.memories(&key, "memstore_1"));
    let error = reading.await.expect("it ends").unwrap_err();
    assert!(error.is_garbled(), "{error:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 200);
}

#[tokio::test]
async fn a_page_of_events_is_longer_than_other_answers_and_not_endless() {
    for (length, is_read) in [(ANSWER_LIMIT + 1, true), (PAGE_LIMIT + 1, false)] {
        let (remote, _asked) = server(move |_| {
            let mut page = br#"{"data":[],"next_page":null}"#.to_vec();
            page.resize(length, b' ');
            ("200 OK", page)
        });
        let page = remote.events(&Bearer::new("key".into()), "sesn_1", None).await;
        assert_eq!(page.is_ok(), is_read, "{length} bytes: {:?}", page.err());
    }
    assert_eq!(PAGE_LIMIT, 256 << 20);
}
