//! Leases under a clock that tests set.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jiff::SignedDuration;
use postern_model::Timestamp;
use postern_store::{Store, Time};
use serde_json::{Value, json};

use crate::support::{Server, short};
use crate::work::{Polled, poll, polled, result, work_path};

const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Time that passes when a test says so, and a wall clock that it sets.
#[derive(Debug)]
struct ByHand(Mutex<(Timestamp, Duration)>);

impl ByHand {
    fn pass(&self, seconds: u64) {
        let mut now = self.0.lock().unwrap();
        let span = Duration::from_secs(seconds);
        *now = (now.0 + span, now.1 + span);
    }

    fn set_wall(&self, by: SignedDuration) {
        self.0.lock().unwrap().0 += by;
    }
}

impl Time for ByHand {
    fn wall(&self) -> Timestamp {
        self.0.lock().unwrap().0
    }

    fn passed(&self) -> Duration {
        self.0.lock().unwrap().1
    }
}

struct Stand {
    server: Server,
    time: Arc<ByHand>,
    environment: String,
    key: String,
}

impl Stand {
    /// A server whose leases last for 60 s.
    async fn new() -> Self {
        let time = Arc::new(ByHand(Mutex::new((Timestamp::now(), Duration::ZERO))));
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open_by(&directory.path().join("control.db"), None, time.clone()).await.unwrap();
        let server = Server::start_over(directory, store, short()).await;
        let (environment, key) = server.environment("e").await;
        Self { server, time, environment, key }
    }

    /// An item that a worker confirmed.
    async fn taken(&self) -> Polled {
        let item = polled(&self.server, &self.environment, &self.key).await;
        self.post(&self.key, &work_path(&self.environment, &item, "/ack")).await;
        item
    }

    async fn post(&self, credential: &str, path: &str) -> Value {
        self.server.send(self.server.request_as(credential, "POST", path).body(b"")).await.ok()
    }

    async fn beat(&self, item: &Polled, last: &str) -> String {
        let echo = last.replace(':', "%3A");
        let path = work_path(&self.environment, item, &format!("/heartbeat?expected_last_heartbeat={echo}"));
        let beat = self.post(&item.token, &path).await;
        assert_eq!((&beat["state"], &beat["lease_extended"]), (&json!("active"), &json!(true)), "{beat}");
        beat["last_heartbeat"].as_str().unwrap().to_owned()
    }

    async fn polls_nothing(&self) -> bool {
        poll(&self.server, &self.environment, &self.key, "").await.is_null()
    }

    /// The worker of an item is lost now: when is the item handed out again?
    async fn is_requeued_after_its_lease(&self, item: &Polled) {
        self.time.pass(59);
        assert!(self.polls_nothing().await, "the lease has a second left");
        self.time.pass(1);
        let again = poll(&self.server, &self.environment, &self.key, "").await;
        assert_eq!(again["id"], json!(item.work));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_beats_keeps_its_item_while_the_wall_clock_jumps_by_a_day_and_back_by_two() {
    let stand = Stand::new().await;
    let item = stand.taken().await;
    let mut last = stand.beat(&item, "NO_HEARTBEAT").await;
    for jump in [DAY, -DAY * 2, DAY] {
        stand.time.pass(30);
        stand.time.set_wall(jump);
        assert!(stand.polls_nothing().await, "nobody else is handed it after {jump}");
        last = stand.beat(&item, &last).await;
    }
    let events = format!("/v1/sessions/{}/events", item.session);
    let post = stand.server.request_as(&item.token, "POST", &events).json(&result(&item.call));
    stand.server.send(post).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_workers_item_is_handed_out_again_after_its_lease_whatever_the_wall_clock_says() {
    for jump in [SignedDuration::ZERO, DAY, -DAY] {
        let stand = Stand::new().await;
        let item = stand.taken().await;
        stand.beat(&item, "NO_HEARTBEAT").await;
        stand.time.set_wall(jump);
        stand.is_requeued_after_its_lease(&item).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_that_nobody_confirmed_is_offered_again_after_a_few_seconds_whatever_the_wall_clock_says() {
    for jump in [DAY, -DAY] {
        let stand = Stand::new().await;
        let item = polled(&stand.server, &stand.environment, &stand.key).await;
        stand.time.set_wall(jump);
        stand.time.pass(4);
        assert!(stand.polls_nothing().await);
        stand.time.pass(1);
        let again = poll(&stand.server, &stand.environment, &stand.key, "").await;
        assert_eq!(again["id"], json!(item.work));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn items_that_end_in_vain_are_counted_by_the_log_and_not_by_a_clock_that_went_back() {
    let stand = Stand::new().await;
    let mut item = stand.taken().await;
    stand.time.set_wall(-DAY);
    for _ in 0..2 {
        stand.post(&stand.key, &work_path(&stand.environment, &item, "/stop")).await;
        stand.time.pass(60);
        let next = poll(&stand.server, &stand.environment, &stand.key, "").await;
        item.work = next["id"].as_str().expect("another item").to_owned();
        stand.post(&stand.key, &work_path(&stand.environment, &item, "/ack")).await;
    }
    let stop = stand.server.request_as(&stand.key, "POST", &work_path(&stand.environment, &item, "/stop"));
    stand.server.send(stop.json(&json!({"force": true}))).await.ok();
    let log = stand.server.get(&format!("/v1/sessions/{}/events", item.session)).await.ok();
    assert!(log.to_string().contains("worker_left"), "the third in a row: {log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_a_revoked_environment_key_was_given_opens_and_holds_nothing_and_another_worker_gets_the_item() {
    let mut stand = Stand::new().await;
    let item = stand.taken().await;
    let last = stand.beat(&item, "NO_HEARTBEAT").await.replace(':', "%3A");
    let keys = format!("/v1/environments/{}/keys", stand.environment);
    let stolen = stand.server.get(&keys).await.ok()["data"][0]["id"].as_str().unwrap().to_owned();
    stand.key = stand.server.post(&keys, json!({})).await.ok()["key"].as_str().unwrap().to_owned();
    stand.server.send(stand.server.request("DELETE", &format!("{keys}/{stolen}"))).await.ok();
    let asks = |method: &str, path: &str| stand.server.request_as(&item.token, method, path);
    let session = format!("/v1/sessions/{}", item.session);
    for path in [session.clone(), format!("{session}/events"), format!("{session}/events/stream")] {
        stand.server.send(asks("GET", &path)).await.refused(401, "authentication_error");
    }
    let post = asks("POST", &format!("{session}/events")).json(&result(&item.call));
    stand.server.send(post).await.refused(401, "authentication_error");
    let beat = work_path(&stand.environment, &item, &format!("/heartbeat?expected_last_heartbeat={last}"));
    stand.server.send(asks("POST", &beat)).await.refused(412, "invalid_request_error");
    let stop = asks("POST", &work_path(&stand.environment, &item, "/stop")).json(&json!({"force": true}));
    stand.server.send(stop).await.refused(409, "conflict_error");
    stand.is_requeued_after_its_lease(&item).await;
}
