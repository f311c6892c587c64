//! A secret that custody granted for more than one use: used without asking, never without its record, and not after
//! custody took it back. The outcome of a request that nobody waits for.

use std::sync::Arc;

use postern_audit::{AuditError, Decision, Kind};
use postern_exec::lease::Lease;

use super::stand::{SECRET, Seen, Stand, Way};

const OTHER: &str = "the-next-value-0f-this-key-7Qm2x9Zt";

async fn lending() -> Stand {
    let stand = Stand::start().await;
    lend(&stand);
    stand
}

fn lend(stand: &Stand) {
    *stand.custody.lease.lock().unwrap() = Some(Lease::new().unwrap());
}

fn take_back(stand: &Stand) {
    drop(stand.custody.lease.lock().unwrap().take());
}

fn set(stand: &Stand, secret: &str) {
    stand.custody.secrets.lock().unwrap().insert("key".to_owned(), secret.to_owned());
}

async fn talk(stand: &Stand) -> Seen {
    let bearer = format!("Bearer {}", stand.placeholder);
    stand.get(Way::Redirect, "https", "api.test", 443, "/v1/x", &[("authorization", &bearer)]).await
}

fn sent(stand: &Stand) -> Vec<String> {
    stand.upstream.received().iter().filter_map(|one| one.header("authorization")).collect()
}

#[tokio::test]
async fn a_secret_that_may_be_used_again_is_recorded_as_used_before_the_upstream_gets_it_each_time() {
    let stand = lending().await;
    for turn in 0..4 {
        let before = stand.audit.records().len();
        assert_eq!(talk(&stand).await.status, 200);
        let received = stand.upstream.received().pop().unwrap();
        assert_eq!(received.header("authorization"), Some(format!("Bearer {SECRET}")));
        let written = &stand.audit.records()[before..received.records_before];
        let kinds: Vec<_> = written.iter().map(|record| record.kind).collect();
        // The first use is recorded by custody, which was asked.
        let expected = if turn == 0 { &[Kind::EgressRequest][..] } else { &[Kind::CredentialUse, Kind::EgressRequest] };
        assert_eq!(kinds, expected, "turn {turn}");
        let (used, digest) = (&written[0], written[0].digests.get("policy"));
        assert_eq!((used.decision, used.credential.as_deref()), (Decision::Allow, Some("key")));
        assert_eq!(digest, Some(&stand.session().zone.digest().to_owned()));
    }
    assert_eq!(stand.custody.granted.lock().unwrap().len(), 1, "custody was asked once");
}

#[tokio::test]
async fn without_a_log_a_secret_that_may_be_used_again_is_not_used() {
    let stand = lending().await;
    assert_eq!(talk(&stand).await.status, 200);
    stand.audit.fail_with(Some(AuditError::Gone));
    assert_eq!(talk(&stand).await.reason().as_deref(), Some("audit_unavailable"));
    assert_eq!(stand.upstream.received().len(), 1);
}

#[tokio::test]
async fn once_custody_takes_a_secret_back_the_next_request_asks_for_it() {
    let stand = lending().await;
    assert_eq!(talk(&stand).await.status, 200);
    set(&stand, OTHER);
    take_back(&stand);
    lend(&stand);
    for _ in 0..2 {
        assert_eq!(talk(&stand).await.status, 200);
    }
    assert_eq!(sent(&stand), [SECRET, OTHER, OTHER].map(|secret| format!("Bearer {secret}")));
    assert_eq!(*stand.custody.granted.lock().unwrap(), [SECRET, OTHER]);
    stand.custody.secrets.lock().unwrap().clear();
    take_back(&stand);
    assert_eq!(talk(&stand).await.reason().as_deref(), Some("custody_denied"));
    assert_eq!(stand.upstream.received().len(), 3);
}

#[tokio::test]
async fn a_secret_that_is_taken_back_while_its_use_is_recorded_is_not_sent() {
    let stand = Arc::new(lending().await);
    assert_eq!(talk(&stand).await.status, 200);
    let custody = Arc::clone(&stand.custody);
    stand.recorder.whenever(move |record| {
        if record.kind == Kind::CredentialUse {
            drop(custody.lease.lock().unwrap().take());
        }
    });
    assert_eq!(talk(&stand).await.reason().as_deref(), Some("custody_denied"));
    assert_eq!(stand.upstream.received().len(), 1);
    let last = stand.audit.records().pop().unwrap();
    assert_eq!((last.decision, last.reason.as_deref()), (Decision::Deny, Some("custody_denied")));
    assert!(last.caused_by.is_some(), "it says which permitted request was not sent");
}

#[tokio::test]
async fn a_secret_granted_by_one_use_at_a_time_is_asked_for_at_each() {
    let stand = Stand::start().await;
    for _ in 0..3 {
        assert_eq!(talk(&stand).await.status, 200);
    }
    assert_eq!(stand.custody.granted.lock().unwrap().len(), 3);
}

#[tokio::test]
async fn an_answer_waits_for_no_outcome_and_the_end_of_the_session_does() {
    let stand = Stand::start().await;
    stand.recorder.withhold(|record| record.kind == Kind::EgressOutcome);
    for turn in 0..2 {
        let seen = talk(&stand).await;
        assert_eq!((seen.status, seen.text().as_str()), (200, "hello"), "turn {turn}");
        assert_eq!(
            stand.audit.records().last().unwrap().kind,
            Kind::EgressOutcome,
            "it is on its way before the end is said"
        );
    }
    let session = stand.session();
    let ended = tokio::spawn(async move { session.end().await });
    tokio::task::yield_now().await;
    assert!(!ended.is_finished());
    stand.recorder.answer();
    ended.await.unwrap();
}
