//! What the operator cuts: a frozen session reaches nobody until it is thawed, and one without grants uses no secret any more.

use std::time::Instant;

use postern_audit::{Decision, Kind};
use tokio::io::AsyncReadExt;
use tokio::time::{Duration, timeout};

use super::stand::{PATIENCE, SECRET, SESSION, Stand, Way};
use crate::message::{Answer, Question};

fn freeze() -> Question {
    Question::Freeze { session: SESSION.to_owned() }
}

fn thaw() -> Question {
    Question::Thaw { session: SESSION.to_owned() }
}

fn revoke() -> Question {
    Question::Revoke { session: SESSION.to_owned() }
}

#[tokio::test]
async fn a_frozen_session_has_open_connections_cut_and_new_ones_closed_until_the_thaw() {
    let stand = Stand::start().await;
    let mut open = stand.towards(Way::Redirect, "open.test", 80).await;
    // It is being served once the session counts it.
    while stand.session().connections.available_permits() == crate::limits::CONNECTIONS_PER_SESSION {
        tokio::task::yield_now().await;
    }
    let from = stand.audit.records().len();
    let began = Instant::now();
    assert!(matches!(stand.ask(freeze()).await, Answer::Done));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    let cut = timeout(PATIENCE, open.read(&mut [0; 1])).await.expect("an end");
    assert!(matches!(cut, Ok(0) | Err(_)), "{cut:?}");
    let mut new = stand.towards(Way::Redirect, "open.test", 80).await;
    let closed = timeout(PATIENCE, new.read(&mut [0; 1])).await.expect("an end");
    assert!(matches!(closed, Ok(0) | Err(_)), "{closed:?}");
    let record = stand.record(Kind::EgressConnect, from).expect("a record");
    assert_eq!((record.decision, record.reason.as_deref()), (Decision::Deny, Some("session_frozen")));
    let refusals = stand.refusals().await;
    assert!(!refusals.is_empty() && refusals.iter().all(|one| one.reason == "session_frozen"), "{refusals:?}");
    assert!(stand.upstream.received().is_empty());
    assert!(matches!(stand.ask(thaw()).await, Answer::Done));
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/v1/ok", &[]).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
}

#[tokio::test]
async fn without_grants_the_next_use_of_a_placeholder_is_refused_and_alarmed() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.placeholder);
    let credentialed = [("authorization", bearer.as_str())];
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/ok", &credentialed).await;
    assert_eq!(seen.status, 200, "{}", seen.text());
    let reached = stand.upstream.received().len();
    assert!(matches!(stand.ask(revoke()).await, Answer::Done));
    assert!(stand.session().keyring().is_empty(), "no copy is left");
    assert_eq!(*stand.custody.revoked.lock().unwrap(), ["key"]);
    let from = stand.audit.records().len();
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/ok", &credentialed).await;
    assert_eq!(seen.reason().as_deref(), Some("grants_revoked"), "{}", seen.text());
    let alarm = stand.record(Kind::Alarm, from).expect("an alarm");
    assert_eq!(alarm.reason.as_deref(), Some("grants_revoked"));
    let seen = stand.get(Way::Redirect, "https", "api.test", 443, "/v1/ok", &[]).await;
    assert_eq!(seen.reason().as_deref(), Some("grants_revoked"), "it could say {SECRET} back");
    assert_eq!(stand.upstream.received().len(), reached);
    let seen = stand.get(Way::Redirect, "http", "open.test", 80, "/v1/ok", &[]).await;
    assert_eq!(seen.status, 200, "a host that never had a secret is still heard: {}", seen.text());
    assert!(matches!(stand.ask(revoke()).await, Answer::Done), "a second time is no error");
}

#[tokio::test]
async fn a_session_that_is_not_open_is_neither_frozen_nor_thawed() {
    let stand = Stand::start().await;
    for question in [
        Question::Freeze { session: "sesn_none".to_owned() },
        Question::Thaw { session: "sesn_none".to_owned() },
        Question::Revoke { session: "sesn_none".to_owned() },
    ] {
        let answer = stand.ask(question).await;
        assert!(matches!(&answer, Answer::Failed { code, .. } if code == "session_unknown"), "{answer:?}");
    }
}
