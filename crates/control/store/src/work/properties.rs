//! Two workers and an operator act in any order while time passes: what must hold after every step.

use std::sync::Arc;
use std::time::Duration;

use jiff::SignedDuration;
use postern_model::Timestamp;
use postern_model::ids::{EnvironmentId, EnvironmentKeyId, SessionId, WorkId, WorkspaceId};
use postern_model::work::WorkState;
use proptest::prelude::*;

use super::tests::issued;
use super::{Beat, Claim, Poll};
use crate::clock::tests::ByHand;
use crate::keys::{Lease, find_session_token};
use crate::list::ListQuery;
use crate::{Store, environments, work};

const TTL: Duration = Duration::from_secs(90);

#[derive(Clone, Debug)]
enum Step {
    Enqueue,
    Poll(usize),
    Acknowledge(usize),
    Beat(usize),
    Stop {
        worker: usize,
        force: bool,
    },
    Wait(u64),
    /// Somebody sets the wall clock.
    SetWall(SignedDuration),
}

fn step() -> impl Strategy<Value = Step> {
    let worker = 0..2_usize;
    prop_oneof![
        Just(Step::Enqueue),
        worker.clone().prop_map(Step::Poll),
        worker.clone().prop_map(Step::Acknowledge),
        worker.clone().prop_map(Step::Beat),
        (worker, any::<bool>()).prop_map(|(worker, force)| Step::Stop { worker, force }),
        prop_oneof![Just(3), Just(30), Just(100)].prop_map(Step::Wait),
        prop_oneof![Just(24), Just(-24)].prop_map(|hours| Step::SetWall(SignedDuration::from_hours(hours))),
    ]
}

/// What a worker remembers of the item it was handed last.
#[derive(Clone)]
struct Held {
    work: WorkId,
    token: String,
    last_heartbeat: String,
}

struct World {
    store: Store,
    environment: EnvironmentId,
    key: EnvironmentKeyId,
    session: SessionId,
    workers: [Option<Held>; 2],
    stopped: Vec<WorkId>,
    tokens: u32,
    time: Arc<ByHand>,
    _directory: tempfile::TempDir,
}

impl World {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let now: Timestamp = "2026-11-22T12:00:00Z".parse().unwrap();
        let time = ByHand::at(now);
        let store = Store::open_by(&directory.path().join("control.db"), None, time.clone()).await.unwrap();
        let mut tx = store.write().await.unwrap();
        let body = serde_json::from_str(r#"{"name":"default"}"#).unwrap();
        let environment = environments::create(&mut tx, &WorkspaceId::default(), body, now).await.unwrap().id;
        let key = issued(&mut tx, &environment, "key").await;
        tx.commit().await.unwrap();
        let session = SessionId::generate();
        let workers = [None, None];
        Self { store, environment, key, session, workers, stopped: Vec::new(), tokens: 0, time, _directory: directory }
    }

    async fn lease(&self, held: &Held) -> Lease {
        let mut reader = self.store.read().await.unwrap();
        find_session_token(&mut reader, &held.token).await.unwrap().expect("issued before").lease
    }

    async fn perform(&mut self, step: Step) {
        // Microseconds pass between any two requests.
        self.time.pass(Duration::from_micros(1));
        match step {
            Step::Wait(seconds) => self.time.pass(Duration::from_secs(seconds)),
            Step::SetWall(by) => self.time.set_wall(by),
            Step::Enqueue => self.enqueue().await,
            Step::Poll(worker) => self.poll(worker).await,
            Step::Acknowledge(worker) => self.acknowledge(worker).await,
            Step::Beat(worker) => self.beat(worker).await,
            Step::Stop { worker, force } => self.stop(worker, force).await,
        }
    }

    async fn enqueue(&mut self) {
        let mut tx = self.store.write().await.unwrap();
        let workspace = WorkspaceId::default();
        work::enqueue(&mut tx, &workspace, &self.environment, &self.session).await.unwrap();
        tx.commit().await.unwrap();
    }

    async fn poll(&mut self, worker: usize) {
        self.tokens += 1;
        let token = format!("token {}", self.tokens);
        let mut tx = self.store.write().await.unwrap();
        // Each has a name, and neither waits for the other: who is there is not the subject here.
        let poll = Poll {
            environment: &self.environment,
            worker: ["a", "b"][worker],
            present: Some(&[]),
            reclaim_older_than: Duration::from_secs(5),
        };
        let ask = Claim { poll, ttl: TTL, token_digest: &token, key: &self.key };
        let claimed = work::claim(&mut tx, &ask).await.unwrap();
        tx.commit().await.unwrap();
        if let Some(work::Claimed { work: item, .. }) = claimed {
            assert!(!self.stopped.contains(&item.id), "a stopped item is never handed out");
            self.workers[worker] = Some(Held { work: item.id, token, last_heartbeat: "NO_HEARTBEAT".into() });
        }
    }

    async fn acknowledge(&mut self, worker: usize) {
        let Some(held) = self.workers[worker].clone() else { return };
        let mut tx = self.store.write().await.unwrap();
        work::acknowledge(&mut tx, &self.environment, &held.work, TTL).await.ok();
        tx.commit().await.unwrap();
    }

    async fn beat(&mut self, worker: usize) {
        let Some(held) = self.workers[worker].clone() else { return };
        let superseded = self.lease(&held).await == Lease::Superseded;
        let expected = Some(held.last_heartbeat.as_str());
        let beat = Beat { expected, desired_ttl: None, ttl: TTL, superseded };
        let mut tx = self.store.write().await.unwrap();
        let answer = work::heartbeat(&mut tx, &self.environment, &held.work, &beat).await;
        tx.commit().await.unwrap();
        let Ok(answer) = answer else { return };
        if answer.lease_extended {
            assert!(!superseded, "only the last hand-out prolongs the lease");
            assert_eq!(self.lease(&held).await, Lease::Alive);
            self.workers[worker] = Some(Held { last_heartbeat: answer.last_heartbeat, ..held });
        } else {
            assert!(matches!(answer.state, WorkState::Stopping | WorkState::Stopped));
        }
    }

    async fn stop(&mut self, worker: usize, force: bool) {
        let Some(held) = self.workers[worker].clone() else { return };
        let mut tx = self.store.write().await.unwrap();
        let answer = work::stop(&mut tx, &self.environment, &held.work, force).await;
        tx.commit().await.unwrap();
        match answer {
            Ok(item) if item.state == WorkState::Stopped => self.stopped.push(item.id),
            Ok(item) => assert_eq!((item.state, force), (WorkState::Stopping, false)),
            Err(_) => assert!(self.stopped.contains(&held.work), "only a stopped item refuses a stop"),
        }
    }

    async fn check(&self) {
        let mut reader = self.store.read().await.unwrap();
        let query = ListQuery { limit: 1000, ..ListQuery::default() };
        let items = work::list(&mut reader, &self.environment, &query).await.unwrap();
        drop(reader);
        let live = |state| matches!(state, WorkState::Queued | WorkState::Starting | WorkState::Active);
        assert!(items.iter().filter(|item| live(item.state)).count() <= 1, "one live item for one session");
        for item in &items {
            assert_eq!(item.state == WorkState::Stopped, self.stopped.contains(&item.id), "stopped is for good");
            assert_eq!(item.state == WorkState::Stopped, item.stopped_at.is_some());
        }
        let held: Vec<&Held> = self.workers.iter().flatten().collect();
        let mut alive = Vec::new();
        for held in held {
            if self.lease(held).await == Lease::Alive {
                assert!(!alive.contains(&&held.work), "two tokens never open one item");
                assert!(!self.stopped.contains(&held.work), "a token ends with its item");
                alive.push(&held.work);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_order_of_steps_gives_one_item_to_two_workers_or_revives_it(steps in prop::collection::vec(step(), 1..40)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(async {
            let mut world = World::new().await;
            world.enqueue().await;
            for step in steps {
                world.perform(step).await;
                world.check().await;
            }
        });
    }
}
