//! A sandbox that is refused without end does not fill the log, and nothing it was refused is passed over.

use postern_audit::{AuditError, Decision, Kind, Record};
use tokio::time::timeout;

use super::stand::{PATIENCE, SESSION, Stand, Way, get, talk};
use crate::{
    limits::{self, Bounds},
    message::{Answer, Question},
};

const BURST: usize = limits::REFUSALS_RECORDED as usize;
const BEYOND: usize = 40;

/// Asks for the path again and again on one connection.
async fn ask(stand: &Stand, path: &str, headers: &[(&str, &str)], times: usize, status: u16) {
    let mut stream = stand.tls(stand.towards(Way::Redirect, "api.test", 443).await, "api.test").await.unwrap();
    for _ in 0..times {
        let seen = talk(&mut stream, &get("https", "api.test", 443, path, headers)).await;
        assert_eq!(seen.status, status, "{}", seen.text());
    }
}

fn counted(record: &Record) -> Option<u64> {
    record.counts.get("refusals").copied()
}

/// Refusals for a reason: how many were written one by one, and how many by their number.
fn told(stand: &Stand, reason: &str) -> (usize, usize) {
    let records = stand.audit.records();
    let of_reason = |record: &&Record| record.reason.as_deref() == Some(reason) && record.decision == Decision::Deny;
    let (together, alone): (Vec<&Record>, Vec<&Record>) =
        records.iter().filter(of_reason).partition(|record| counted(record).is_some());
    (alone.len(), together.into_iter().filter_map(counted).sum::<u64>() as usize)
}

/// The numbers, as soon as they hold all of them.
async fn told_of_all(stand: &Stand, reason: &str, all: usize) -> (usize, usize) {
    let waiting = async {
        loop {
            let (alone, together) = told(stand, reason);
            if alone + together >= all {
                return (alone, together);
            }
            tokio::task::yield_now().await;
        }
    };
    timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("{:?} of {all}", told(stand, reason)))
}

async fn close(stand: &Stand) {
    let answer = stand.ask(Question::Close { session: SESSION.to_owned() }).await;
    assert!(matches!(answer, Answer::Done), "{answer:?}");
}

#[tokio::test]
async fn refusals_beyond_the_bound_are_one_record_when_the_session_ends() {
    let stand = Stand::start().await;
    let began = std::time::Instant::now();
    ask(&stand, "/denied", &[], BURST + BEYOND, 403).await;
    close(&stand).await;
    let (alone, together) = told(&stand, "path_not_allowed");
    assert_eq!(alone + together, BURST + BEYOND, "{alone} alone, {together} together");
    let passed = began.elapsed().as_secs() as usize;
    assert!((BURST..=BURST + passed).contains(&alone), "{alone} in {passed} s");
    let records = stand.audit.records();
    let summary = records.iter().find(|record| counted(record).is_some()).expect("a count");
    assert_eq!((summary.kind, summary.session.as_deref()), (Kind::EgressRequest, Some(SESSION)));
    assert!(summary.next_step.is_some() && summary.destination.is_none());
}

#[tokio::test]
async fn refusals_beyond_the_bound_are_told_while_the_session_goes_on() {
    let bounds = Bounds { refusals_counted: std::time::Duration::from_millis(1), ..Bounds::default() };
    let stand = Stand::with(bounds).await;
    ask(&stand, "/denied", &[], BURST + BEYOND, 403).await;
    let (alone, together) = told_of_all(&stand, "path_not_allowed", BURST + BEYOND).await;
    assert_eq!(alone + together, BURST + BEYOND);
    assert!(together > 0);
}

#[tokio::test]
async fn what_is_allowed_is_written_one_by_one_however_much_is_refused() {
    let stand = Stand::start().await;
    ask(&stand, "/denied", &[], BURST + BEYOND, 403).await;
    ask(&stand, "/v1/x", &[], BURST + BEYOND, 200).await;
    close(&stand).await;
    let of = |kind, decision| {
        stand.audit.records().iter().filter(|record| (record.kind, record.decision) == (kind, decision)).count()
    };
    assert_eq!(of(Kind::EgressRequest, Decision::Allow), BURST + BEYOND);
    assert_eq!(of(Kind::EgressOutcome, Decision::Info), BURST + BEYOND);
}

#[tokio::test]
async fn alarms_beyond_the_bound_are_one_alarm_with_their_number() {
    let stand = Stand::start().await;
    let bearer = format!("Bearer {}", stand.others_placeholder);
    ask(&stand, "/v1/x", &[("x-api-key", &bearer)], BURST + BEYOND, 403).await;
    close(&stand).await;
    let alarms: Vec<Record> = stand.audit.records().into_iter().filter(|record| record.kind == Kind::Alarm).collect();
    let alone = alarms.iter().filter(|alarm| !alarm.counts.contains_key("alarms")).count();
    let together: u64 = alarms.iter().filter_map(|alarm| alarm.counts.get("alarms")).sum();
    assert_eq!(alone + together as usize, BURST + BEYOND);
    assert!(together > 0);
}

#[tokio::test]
async fn a_count_that_the_log_does_not_take_is_written_when_it_does() {
    let bounds = Bounds { refusals_counted: std::time::Duration::from_millis(1), ..Bounds::default() };
    let stand = Stand::with(bounds).await;
    ask(&stand, "/denied", &[], BURST, 403).await;
    stand.audit.fail_with(Some(AuditError::Gone));
    // One whose record fails is answered otherwise: the bucket may have filled by a drop meanwhile.
    let mut stream = stand.tls(stand.towards(Way::Redirect, "api.test", 443).await, "api.test").await.unwrap();
    let mut refused = 0;
    for _ in 0..BEYOND {
        let seen = talk(&mut stream, &get("https", "api.test", 443, "/denied", &[])).await;
        refused += usize::from(seen.reason().as_deref() == Some("path_not_allowed"));
    }
    assert!(refused > 0 && told(&stand, "path_not_allowed").1 == 0);
    stand.audit.fail_with(None);
    assert_eq!(told_of_all(&stand, "path_not_allowed", BURST + refused).await, (BURST, refused));
}

#[tokio::test]
async fn handshakes_that_fail_are_counted_too() {
    let stand = Stand::start().await;
    for _ in 0..BURST + BEYOND {
        let mut stream = stand.towards(Way::Redirect, "api.test", 443).await;
        // A TLS record that is no hello.
        talk(&mut stream, &[22, 3, 1, 0, 4, 99, 0, 0, 0]).await;
    }
    close(&stand).await;
    let records = stand.audit.records();
    let together: u64 = records.iter().filter_map(counted).sum();
    let alone = records.iter().filter(|record| record.kind == Kind::EgressConnect && counted(record).is_none()).count();
    assert!(together > 0 && alone < BURST + BEYOND, "{together} {alone}");
}
