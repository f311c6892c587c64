//! The queue's behaviour, from enqueueing to the loss of a worker.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use postern_model::Timestamp;
use postern_model::environment::CreateEnvironment;
use postern_model::ids::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId, WorkspaceId};
use postern_model::work::{Heartbeat, Work, WorkError, WorkState};

use super::{Beat, Claim, Claimed, LostCause, MAX_ATTEMPTS, Poll};
use crate::clock::Time;
use crate::clock::tests::ByHand;
use crate::keys::{self, Lease, NewKey, find_session_token};
use crate::list::ListQuery;
use crate::{Store, StoreError, Tx, environments, work};

const TTL: Duration = Duration::from_secs(90);
const RECLAIM: Duration = Duration::from_secs(5);

struct Queue {
    store: Store,
    environment: EnvironmentId,
    key: EnvironmentKeyId,
    time: Arc<ByHand>,
    _directory: tempfile::TempDir,
}

impl Queue {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let time = ByHand::at(now);
        let store = Store::open_by(&directory.path().join("control.db"), None, time.clone()).await.unwrap();
        let body: CreateEnvironment = serde_json::from_str(r#"{"name":"default"}"#).unwrap();
        let mut tx = store.write().await.unwrap();
        let environment = environments::create(&mut tx, &WorkspaceId::default(), body, now).await.unwrap().id;
        let key = issued(&mut tx, &environment, "first").await;
        tx.commit().await.unwrap();
        Self { store, environment, key, time, _directory: directory }
    }

    fn advance(&self, seconds: u64) {
        self.time.pass(Duration::from_secs(seconds));
    }

    fn now(&self) -> Timestamp {
        self.time.wall()
    }

    async fn enqueue(&self, session: &SessionId) -> WorkId {
        let mut tx = self.store.write().await.unwrap();
        let workspace = WorkspaceId::default();
        let id = work::enqueue(&mut tx, &workspace, &self.environment, session).await.unwrap();
        tx.commit().await.unwrap();
        id
    }

    async fn claim(&self, token: &str) -> Option<Work> {
        self.claim_as("", Some(&[]), token).await.map(|claimed| claimed.work)
    }

    /// A worker of this name asks while others, by these names, are there.
    async fn claim_as(&self, worker: &str, present: Option<&[&str]>, token: &str) -> Option<Claimed> {
        let present: Option<Vec<String>> = present.map(|names| names.iter().map(ToString::to_string).collect());
        let poll =
            Poll { environment: &self.environment, worker, present: present.as_deref(), reclaim_older_than: RECLAIM };
        let mut reader = self.store.read().await.unwrap();
        let claimable = work::claimable(&mut reader, &poll).await.unwrap();
        drop(reader);
        let mut tx = self.store.write().await.unwrap();
        let claim = Claim { poll, ttl: TTL, token_digest: token, key: &self.key };
        let claimed = work::claim(&mut tx, &claim).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(claimable, claimed.is_some(), "the look before the claim says what the claim finds");
        claimed
    }

    async fn acknowledge(&self, id: &WorkId) -> Result<Work, StoreError> {
        let mut tx = self.store.write().await.unwrap();
        let result = work::acknowledge(&mut tx, &self.environment, id, TTL).await;
        tx.commit().await.unwrap();
        result
    }

    async fn beat(&self, id: &WorkId, expected: Option<&str>) -> Result<Heartbeat, StoreError> {
        self.beat_as(id, expected, false).await
    }

    async fn beat_as(&self, id: &WorkId, expected: Option<&str>, superseded: bool) -> Result<Heartbeat, StoreError> {
        let beat = Beat { expected, desired_ttl: None, ttl: TTL, superseded };
        let mut tx = self.store.write().await.unwrap();
        let result = work::heartbeat(&mut tx, &self.environment, id, &beat).await;
        tx.commit().await.unwrap();
        result
    }

    async fn stop(&self, id: &WorkId, force: bool) -> Result<Work, StoreError> {
        let mut tx = self.store.write().await.unwrap();
        let result = work::stop(&mut tx, &self.environment, id, force).await;
        tx.commit().await.unwrap();
        result
    }

    async fn lease(&self, token: &str) -> Option<Lease> {
        let mut reader = self.store.read().await.unwrap();
        find_session_token(&mut reader, token).await.unwrap().map(|grant| grant.lease)
    }

    async fn lost(&self) -> Vec<LostCause> {
        let mut reader = self.store.read().await.unwrap();
        let lost = work::lost(&mut reader, Some(&self.environment)).await.unwrap();
        assert_eq!(work::lost(&mut reader, None).await.unwrap(), lost, "there is one environment");
        lost.into_iter().map(|lost| lost.cause).collect()
    }

    /// A session's item, polled, acknowledged and beating.
    async fn served(&self, token: &str) -> (WorkId, String) {
        let id = self.enqueue(&SessionId::generate()).await;
        assert_eq!(self.claim(token).await.unwrap().id, id);
        self.acknowledge(&id).await.unwrap();
        let beat = self.beat(&id, Some("NO_HEARTBEAT")).await.unwrap();
        (id, beat.last_heartbeat)
    }
}

/// A key of an environment.
pub(super) async fn issued(tx: &mut Tx, environment: &EnvironmentId, digest: &str) -> EnvironmentKeyId {
    let new = NewKey { name: "test", hint: "pst_env_", digest, now: tx.clock().wall() };
    keys::create_environment_key(tx, &WorkspaceId::default(), environment, &new).await.unwrap().id
}

fn status(error: StoreError) -> u16 {
    match error {
        StoreError::Refused(problem) => problem.status(),
        other => panic!("expected a refusal, got {other:?}"),
    }
}

#[tokio::test]
async fn an_item_goes_from_queued_over_starting_and_active_to_stopped() {
    let queue = Queue::new().await;
    let session = SessionId::generate();
    let id = queue.enqueue(&session).await;
    let claimed = queue.claim("t").await.unwrap();
    assert_eq!((claimed.state, claimed.data.session()), (WorkState::Queued, &session));
    let taken = queue.acknowledge(&id).await.unwrap();
    assert_eq!((taken.state, taken.acknowledged_at), (WorkState::Starting, Some(queue.now())));
    let beat = queue.beat(&id, Some("NO_HEARTBEAT")).await.unwrap();
    assert_eq!((beat.state, beat.lease_extended, beat.ttl_seconds), (WorkState::Active, true, 90));
    let stopped = queue.stop(&id, true).await.unwrap();
    assert_eq!((stopped.state, stopped.started_at), (WorkState::Stopped, Some(queue.now())));
    assert_eq!(status(queue.stop(&id, true).await.unwrap_err()), 409);
}

#[tokio::test]
async fn a_session_has_one_live_item_and_gets_another_when_that_is_stopping() {
    let queue = Queue::new().await;
    let session = SessionId::generate();
    let first = queue.enqueue(&session).await;
    assert_eq!(queue.enqueue(&session).await, first);
    queue.claim("t").await.unwrap();
    queue.acknowledge(&first).await.unwrap();
    assert_eq!(queue.enqueue(&session).await, first);
    assert_eq!(queue.stop(&first, false).await.unwrap().state, WorkState::Stopping);
    assert_ne!(queue.enqueue(&session).await, first);
}

#[tokio::test]
async fn items_are_handed_out_oldest_first_and_once() {
    let queue = Queue::new().await;
    let first = queue.enqueue(&SessionId::generate()).await;
    queue.advance(1);
    let second = queue.enqueue(&SessionId::generate()).await;
    assert_eq!(queue.claim("a").await.unwrap().id, first);
    assert_eq!(queue.claim("b").await.unwrap().id, second);
    assert!(queue.claim("c").await.is_none());
}

#[tokio::test]
async fn an_unacknowledged_item_is_handed_out_again_with_a_new_token() {
    let queue = Queue::new().await;
    let id = queue.enqueue(&SessionId::generate()).await;
    queue.claim("first").await.unwrap();
    queue.advance(4);
    assert!(queue.claim("early").await.is_none());
    queue.advance(1);
    assert_eq!(queue.claim("second").await.unwrap().id, id);
    assert_eq!(queue.lease("first").await, Some(Lease::Superseded));
    assert_eq!(queue.lease("second").await, Some(Lease::Alive));
}

#[tokio::test]
async fn only_what_is_handed_out_can_be_acknowledged_and_twice_is_once() {
    let queue = Queue::new().await;
    let id = queue.enqueue(&SessionId::generate()).await;
    assert_eq!(status(queue.acknowledge(&id).await.unwrap_err()), 409);
    queue.claim("t").await.unwrap();
    let once = queue.acknowledge(&id).await.unwrap();
    assert_eq!(queue.acknowledge(&id).await.unwrap(), once);
    queue.stop(&id, true).await.unwrap();
    assert_eq!(status(queue.acknowledge(&id).await.unwrap_err()), 409);
    assert_eq!(status(queue.acknowledge(&WorkId::generate()).await.unwrap_err()), 404);
}

#[tokio::test]
async fn a_heartbeat_must_echo_the_stored_one_exactly() {
    let queue = Queue::new().await;
    let (id, last) = queue.served("t").await;
    queue.advance(30);
    for wrong in ["NO_HEARTBEAT", "", &last.to_lowercase(), "2026-11-22T12:00:00+00:00"] {
        let StoreError::Refused(problem) = queue.beat(&id, Some(wrong)).await.unwrap_err() else { panic!("refused") };
        assert_eq!((problem.status(), problem.error_code), (412, Some("heartbeat_precondition_failed")));
        assert_eq!(problem.details["current_state"]["last_heartbeat"], last.as_str());
        assert_eq!(problem.details["current_state"]["lease_extended"], false);
    }
    let next = queue.beat(&id, Some(&last)).await.unwrap();
    assert_ne!(next.last_heartbeat, last);
    assert!(queue.beat(&id, None).await.unwrap().lease_extended);
}

#[tokio::test]
async fn the_worker_of_an_earlier_hand_out_never_beats_for_the_later_one() {
    let queue = Queue::new().await;
    let (id, _) = queue.served("first").await;
    queue.advance(91);
    assert_eq!(queue.claim("second").await.unwrap().id, id);
    for expected in [None, Some("NO_HEARTBEAT")] {
        assert_eq!(status(queue.beat_as(&id, expected, true).await.unwrap_err()), 412);
    }
    queue.acknowledge(&id).await.unwrap();
    assert_eq!(status(queue.beat_as(&id, None, true).await.unwrap_err()), 412);
    assert!(queue.beat(&id, Some("NO_HEARTBEAT")).await.unwrap().lease_extended);
}

#[tokio::test]
async fn a_stopping_item_tells_its_worker_whatever_it_expects() {
    let queue = Queue::new().await;
    let (id, last) = queue.served("t").await;
    let asked = queue.stop(&id, false).await.unwrap();
    assert_eq!((asked.state, asked.stopped_at), (WorkState::Stopping, None));
    for expected in [None, Some("NO_HEARTBEAT"), Some("nonsense"), Some(last.as_str())] {
        let beat = queue.beat(&id, expected).await.unwrap();
        assert_eq!((beat.state, beat.lease_extended, beat.last_heartbeat), (WorkState::Stopping, false, last.clone()));
    }
    queue.stop(&id, true).await.unwrap();
    assert_eq!(queue.beat(&id, None).await.unwrap().state, WorkState::Stopped);
}

#[tokio::test]
async fn a_queued_item_stops_at_once_because_nobody_could_confirm() {
    let queue = Queue::new().await;
    let id = queue.enqueue(&SessionId::generate()).await;
    assert_eq!(queue.stop(&id, false).await.unwrap().state, WorkState::Stopped);
    assert!(queue.claim("t").await.is_none());
}

#[tokio::test]
async fn a_lease_that_ends_puts_the_item_back_and_heartbeats_keep_it_away() {
    let queue = Queue::new().await;
    let (id, last) = queue.served("first").await;
    queue.advance(60);
    queue.beat(&id, Some(&last)).await.unwrap();
    queue.advance(60);
    assert!(queue.claim("early").await.is_none());
    assert_eq!(queue.lease("first").await, Some(Lease::Alive));
    queue.advance(30);
    assert_eq!(queue.lease("first").await, Some(Lease::Ended));
    let again = queue.claim("second").await.unwrap();
    assert_eq!((again.id.clone(), again.state, again.acknowledged_at), (id, WorkState::Queued, None));
    assert_eq!((again.started_at, again.latest_heartbeat_at), (None, None));
}

#[tokio::test]
async fn tokens_end_with_the_key_that_their_items_were_handed_out_to_and_with_no_other() {
    let mut queue = Queue::new().await;
    queue.served("of the first").await;
    let mut tx = queue.store.write().await.unwrap();
    let second = issued(&mut tx, &queue.environment, "second").await;
    tx.commit().await.unwrap();
    let revoked = std::mem::replace(&mut queue.key, second);
    queue.served("of the second").await;
    queue.served("of none").await;
    let mut tx = queue.store.write().await.unwrap();
    keys::revoke_environment_key(&mut tx, &queue.environment, &revoked, queue.now()).await.unwrap();
    let of_before = "UPDATE session_tokens SET environment_key_id = NULL WHERE digest = 'of none'";
    sqlx::query(of_before).execute(&mut *tx).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(queue.lease("of the first").await, Some(Lease::Revoked));
    assert_eq!(queue.lease("of the second").await, Some(Lease::Alive));
    assert_eq!(queue.lease("of none").await, Some(Lease::Alive), "handed out before this was noted");
}

#[tokio::test]
async fn a_token_ends_when_its_item_stops() {
    let queue = Queue::new().await;
    let (id, _) = queue.served("t").await;
    assert_eq!(queue.lease("t").await, Some(Lease::Alive));
    queue.stop(&id, true).await.unwrap();
    assert_eq!(queue.lease("t").await, Some(Lease::Ended));
    assert_eq!(queue.lease("unknown").await, None);
}

#[tokio::test]
async fn an_item_that_is_always_lost_is_reported_and_not_handed_out_for_ever() {
    let queue = Queue::new().await;
    let id = queue.enqueue(&SessionId::generate()).await;
    for attempt in 0..MAX_ATTEMPTS {
        assert!(queue.claim(&format!("t{attempt}")).await.is_some(), "attempt {attempt}");
        queue.acknowledge(&id).await.unwrap();
        queue.advance(91);
    }
    assert!(queue.claim("one more").await.is_none());
    let mut reader = queue.store.read().await.unwrap();
    let lost = work::lost(&mut reader, Some(&queue.environment)).await.unwrap();
    assert_eq!(
        lost.iter().map(|lost| (&lost.work, lost.cause.clone())).collect::<Vec<_>>(),
        [(&id, LostCause::Attempts)]
    );
    drop(reader);
    queue.stop(&id, true).await.unwrap();
    let mut reader = queue.store.read().await.unwrap();
    assert_eq!(work::lost(&mut reader, Some(&queue.environment)).await.unwrap(), []);
}

/// Hands an item out again and again to workers that beat for this many minutes and are lost; gives how often.
async fn lose_workers_after(minutes: u32) -> i64 {
    let queue = Queue::new().await;
    let id = queue.enqueue(&SessionId::generate()).await;
    for attempt in 0..2 * MAX_ATTEMPTS {
        if queue.claim(&format!("t{attempt}")).await.is_none() {
            return attempt;
        }
        queue.acknowledge(&id).await.unwrap();
        let mut last = "NO_HEARTBEAT".to_owned();
        for _ in 0..=minutes {
            last = queue.beat(&id, Some(&last)).await.unwrap().last_heartbeat;
            queue.advance(60);
        }
        queue.advance(91);
    }
    2 * MAX_ATTEMPTS
}

#[tokio::test]
async fn a_worker_that_lasts_clears_the_count_of_losses() {
    assert_eq!(lose_workers_after(11).await, 2 * MAX_ATTEMPTS);
}

#[tokio::test]
async fn what_kills_every_worker_within_minutes_is_given_up() {
    assert_eq!(lose_workers_after(2).await, MAX_ATTEMPTS);
}

#[tokio::test]
async fn a_stop_that_no_worker_confirms_is_reported() {
    let queue = Queue::new().await;
    let (id, _) = queue.served("t").await;
    queue.stop(&id, false).await.unwrap();
    queue.advance(91);
    let mut reader = queue.store.read().await.unwrap();
    let lost = work::lost(&mut reader, Some(&queue.environment)).await.unwrap();
    assert_eq!(lost.iter().map(|lost| lost.cause.clone()).collect::<Vec<_>>(), [LostCause::StopUnconfirmed]);
}

#[tokio::test]
async fn statistics_count_what_waits_and_what_is_handed_out() {
    let queue = Queue::new().await;
    let start = queue.now();
    for _ in 0..3 {
        queue.enqueue(&SessionId::generate()).await;
        queue.advance(1);
    }
    let first = queue.claim("a").await.unwrap().id;
    queue.claim("b").await.unwrap();
    queue.acknowledge(&first).await.unwrap();
    let mut reader = queue.store.read().await.unwrap();
    let stats = work::stats(&mut reader, &queue.environment).await.unwrap();
    assert_eq!((stats.depth, stats.pending), (1, 1));
    assert_eq!(stats.oldest_queued_at, Some(start + SignedDuration::from_secs(1)));
    queue.advance(91);
    let stats = work::stats(&mut reader, &queue.environment).await.unwrap();
    assert_eq!((stats.depth, stats.pending), (2, 1), "the item of a lost worker waits again");
}

#[tokio::test]
async fn a_commit_that_queues_work_wakes_who_looked_before() {
    let queue = Queue::new().await;
    let arrived = queue.store.work_arrived();
    let mut arrived = std::pin::pin!(arrived);
    assert!(!arrived.as_mut().enable());
    queue.enqueue(&SessionId::generate()).await;
    tokio::time::timeout(Duration::from_secs(5), arrived).await.expect("woken by the commit");
}

#[tokio::test]
async fn a_list_is_newest_first_and_an_environment_sees_its_own_items_only() {
    let queue = Queue::new().await;
    let mut ids = Vec::new();
    for _ in 0..3 {
        ids.push(queue.enqueue(&SessionId::generate()).await);
        queue.advance(1);
    }
    ids.reverse();
    let mut reader = queue.store.read().await.unwrap();
    let query = ListQuery { limit: 10, ..ListQuery::default() };
    let listed = work::list(&mut reader, &queue.environment, &query).await.unwrap();
    assert_eq!(listed.into_iter().map(|work| work.id).collect::<Vec<_>>(), ids);
    let other = EnvironmentId::generate();
    assert_eq!(work::list(&mut reader, &other, &query).await.unwrap(), []);
    assert_eq!(work::find(&mut reader, &other, &ids[0]).await.unwrap(), None);
}

#[tokio::test]
async fn a_stop_that_nobody_was_told_of_is_found_until_it_is_reported() {
    let queue = Queue::new().await;
    let (id, _) = queue.served("t").await;
    let why = WorkError { code: "zone_none".into(), message: "add a zone".into() };
    let mut tx = queue.store.write().await.unwrap();
    work::stop(&mut tx, &queue.environment, &id, true).await.unwrap();
    work::note_failure(&mut tx, &id, &why).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(queue.lost().await, [], "whoever stopped it gets time to tell");
    queue.advance(5);
    assert_eq!(queue.lost().await, [LostCause::Unreported(Some(why))]);
    let mut tx = queue.store.write().await.unwrap();
    work::reported(&mut tx, &id).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(queue.lost().await, []);
}

/// A session that worker `a` took, served and gave back, with another item that waits.
async fn served_by_a() -> (Queue, SessionId, WorkId) {
    let queue = Queue::new().await;
    let session = SessionId::generate();
    let first = queue.enqueue(&session).await;
    assert!(!queue.claim_as("a", Some(&[]), "first").await.unwrap().has_moved);
    queue.acknowledge(&first).await.unwrap();
    queue.stop(&first, true).await.unwrap();
    let second = queue.enqueue(&session).await;
    (queue, session, second)
}

#[tokio::test]
async fn a_session_waits_for_the_worker_that_has_its_files_while_that_is_there() {
    let (queue, _, item) = served_by_a().await;
    assert!(queue.claim_as("b", Some(&["a", "b"]), "b").await.is_none());
    assert!(queue.claim_as("", Some(&["a"]), "nameless").await.is_none());
    assert!(queue.claim_as("b", None, "b").await.is_none(), "just after a start `a` may only be about to ask");
    let claimed = queue.claim_as("a", Some(&["a", "b"]), "a").await.unwrap();
    assert_eq!((claimed.work.id, claimed.has_moved), (item, false));
}

#[tokio::test]
async fn a_session_whose_worker_is_gone_goes_to_another_which_is_told() {
    let (queue, _, item) = served_by_a().await;
    let claimed = queue.claim_as("b", Some(&["b", "c"]), "b").await.unwrap();
    assert_eq!((claimed.work.id, claimed.has_moved), (item, true));
}

#[tokio::test]
async fn a_worker_that_is_busy_elsewhere_is_there_until_its_lease_ends() {
    let (queue, _, item) = served_by_a().await;
    queue.advance(1);
    let other = queue.enqueue(&SessionId::generate()).await;
    let newest = queue.claim_as("c", Some(&["a"]), "c").await.unwrap();
    assert_eq!(newest.work.id, other, "what nobody has files of is anybody's");
    queue.stop(&other, true).await.unwrap();
    let busy = queue.enqueue(&SessionId::generate()).await;
    assert_eq!(queue.claim_as("a", Some(&[]), "own").await.unwrap().work.id, item);
    queue.acknowledge(&item).await.unwrap();
    assert_eq!(queue.claim_as("a", Some(&[]), "more").await.unwrap().work.id, busy);
    queue.acknowledge(&busy).await.unwrap();
    queue.stop(&item, true).await.unwrap();
    let again = queue.enqueue(&session_of(&queue, &item).await).await;
    assert!(queue.claim_as("b", Some(&["b"]), "b").await.is_none(), "`a` asks for nothing and holds a lease");
    queue.advance(91);
    let claimed = queue.claim_as("b", Some(&["b"]), "b").await.unwrap();
    assert!([&again, &busy].contains(&&claimed.work.id), "its lease ended");
    assert!(claimed.has_moved);
}

#[tokio::test]
async fn a_worker_that_never_confirmed_has_no_files() {
    let queue = Queue::new().await;
    let item = queue.enqueue(&SessionId::generate()).await;
    queue.claim_as("a", Some(&[]), "a").await.unwrap();
    queue.advance(6);
    let claimed = queue.claim_as("b", Some(&["a"]), "b").await.unwrap();
    assert_eq!((claimed.work.id, claimed.has_moved), (item, false));
}

async fn session_of(queue: &Queue, item: &WorkId) -> SessionId {
    let mut reader = queue.store.read().await.unwrap();
    let found = work::find(&mut reader, &queue.environment, item).await.unwrap().unwrap();
    found.data.session().clone()
}

#[tokio::test]
async fn a_lease_that_is_wished_for_lasts_five_seconds_to_five_minutes() {
    let queue = Queue::new().await;
    let id = queue.enqueue(&SessionId::generate()).await;
    queue.claim("t").await.unwrap();
    queue.acknowledge(&id).await.unwrap();
    for (wish, lasts) in [(1, 5), (5, 5), (6, 6), (300, 300), (86_400, 300)] {
        let desired_ttl = Some(Duration::from_secs(wish));
        let beat = Beat { expected: None, desired_ttl, ttl: TTL, superseded: false };
        let mut tx = queue.store.write().await.unwrap();
        let answer = work::heartbeat(&mut tx, &queue.environment, &id, &beat).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(answer.ttl_seconds, lasts, "{wish}");
        queue.advance(lasts - 1);
        assert_eq!(queue.lease("t").await, Some(Lease::Alive), "{wish}");
    }
    queue.advance(1);
    assert_eq!(queue.lease("t").await, Some(Lease::Ended));
}

#[tokio::test]
async fn what_a_deleted_session_leaves_in_the_queue_says_nothing_and_is_gone_after_a_day() {
    let queue = Queue::new().await;
    let (gone, stays) = (SessionId::generate(), SessionId::generate());
    let failure = WorkError { code: "e".into(), message: "the plan".into() };
    let mut items = Vec::new();
    for session in [&gone, &stays] {
        let item = queue.enqueue(session).await;
        items.push(item.clone());
        queue.claim_as("host-1", Some(&[]), session.as_str()).await.unwrap();
        queue.acknowledge(&item).await.unwrap();
        let mut tx = queue.store.write().await.unwrap();
        let patch = serde_json::from_str(r#"{"k":"v"}"#).unwrap();
        work::update(&mut tx, &queue.environment, &item, &patch).await.unwrap();
        work::note_failure(&mut tx, &item, &failure).await.unwrap();
        work::stop_all(&mut tx, session).await.unwrap();
        tx.commit().await.unwrap();
    }
    let mut tx = queue.store.write().await.unwrap();
    crate::sessions::delete(&mut tx, &WorkspaceId::default(), &gone, queue.now()).await.unwrap();
    let late = serde_json::from_str(r#"{"late":"v"}"#).unwrap();
    for (item, is_refused) in items.iter().zip([true, false]) {
        let written = work::update(&mut tx, &queue.environment, item, &late).await;
        assert_eq!(written.is_err(), is_refused, "{written:?}");
    }
    tx.commit().await.unwrap();
    let said =
        "SELECT session_id, metadata || COALESCE(failure, '') || COALESCE(worker, '') || COALESCE(home, '') FROM work";
    let mut reader = queue.store.read().await.unwrap();
    let said: Vec<(String, String)> = sqlx::query_as(said).fetch_all(&mut *reader).await.unwrap();
    drop(reader);
    for (session, text) in said {
        assert_eq!(text == "{}", session == gone.as_str(), "{session}: {text}");
    }
    for (seconds, left) in [(24 * 3600, [2, 2]), (1, [1, 1]), (400 * 24 * 3600, [1, 1])] {
        queue.advance(seconds);
        let mut tx = queue.store.write().await.unwrap();
        assert!(!work::sweep(&mut tx, queue.now()).await.unwrap());
        tx.commit().await.unwrap();
        let mut reader = queue.store.read().await.unwrap();
        for (table, left) in ["work", "session_tokens"].into_iter().zip(left) {
            let count = format!("SELECT COUNT(*) FROM {table}");
            let count: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(count)).fetch_one(&mut *reader).await.unwrap();
            assert_eq!(count, left, "{table} after {seconds} s more");
        }
    }
}
