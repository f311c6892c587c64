//! A worker around a perimeter that only takes notes, against the strict host; and the events that scripts are made of.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::{Host, Script};
use postern_net::{HttpClient, TlsRoots};
use postern_runner::{
    Bearer, Ended, Hands, Outcome, Passage, Perimeter, Places, Refused, Remote, SessionFacts, ToolCall, Worker,
};
use postern_tools::Block;
use serde_json::{Value, json};

pub(crate) const IDLE: Duration = Duration::from_millis(300);
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A perimeter without a sandbox: it notes what it is asked.
#[derive(Clone, Default)]
pub(crate) struct Double {
    pub(crate) refuses: Option<Refused>,
    pub(crate) slow: Option<Arc<tokio::sync::Notify>>,
    pub(crate) calls: Arc<Mutex<Vec<String>>>,
    pub(crate) facts: Arc<Mutex<Vec<SessionFacts>>>,
    pub(crate) closed: Arc<Mutex<usize>>,
}

pub(crate) struct DoubleHands(Double);

impl Perimeter for Double {
    type Hands = DoubleHands;

    async fn open(&self, facts: SessionFacts) -> Result<DoubleHands, Refused> {
        self.facts.lock().expect("not poisoned").push(facts);
        match &self.refuses {
            Some(refused) => Err(refused.clone()),
            None => Ok(DoubleHands(self.clone())),
        }
    }
}

impl Hands for DoubleHands {
    async fn run(&mut self, call: &ToolCall, ready: impl Future<Output = Result<(), Outcome>> + Send) -> Outcome {
        if let Err(outcome) = ready.await {
            return outcome;
        }
        self.0.calls.lock().expect("not poisoned").push(call.id.clone());
        if let Some(slow) = &self.0.slow {
            slow.notified().await;
        }
        Outcome { is_error: false, content: vec![Block::text(format!("{} of {}", call.name, call.id))] }
    }

    async fn passes(&mut self, _passage: Passage) -> Result<(), String> {
        Ok(())
    }

    async fn close(self) {
        *self.0.closed.lock().expect("not poisoned") += 1;
    }
}

pub(crate) struct Setting {
    pub(crate) host: Host,
    pub(crate) perimeter: Double,
    pub(crate) data: tempfile::TempDir,
}

impl Setting {
    pub(crate) async fn new(script: Script) -> Self {
        Self::with(script, Double::default()).await
    }

    pub(crate) async fn with(script: Script, perimeter: Double) -> Self {
        Self { host: Host::start(script).await, perimeter, data: tempfile::tempdir().expect("a directory") }
    }

    pub(crate) fn worker(&self) -> Worker<Double> {
        self.worker_of(4)
    }

    /// A worker that serves so many sessions at one time.
    pub(crate) fn worker_of(&self, sessions: usize) -> Worker<Double> {
        let endpoint = self.host.url().parse().expect("an endpoint");
        let permit = postern_policy::permit::configured(&endpoint);
        let http = HttpClient::new(permit, &TlsRoots::Platform).expect("a client");
        let remote = Remote::new(http, super::ENVIRONMENT, "box-0123456789ab");
        let places = Arc::new(Places::new(self.data.path()));
        Worker::new(remote, Bearer::new(super::KEY.into()), self.perimeter.clone(), places, sessions)
            .with_max_idle(IDLE)
    }

    /// Runs a worker until the host saw this many stops, then drains it.
    pub(crate) async fn until_stopped(&self, stops: usize) {
        let worker = self.worker();
        let drain = worker.drain();
        let running = tokio::spawn(worker.run(PATIENCE));
        self.host.wait_for(|seen| seen.stops.len() >= stops).await;
        drain.start();
        assert!(matches!(running.await.expect("it ended"), Ended::Drained));
        self.host.assert_no_violation();
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.perimeter.calls.lock().expect("not poisoned").clone()
    }

    pub(crate) fn journal(&self) -> std::path::PathBuf {
        self.data.path().join("perimeter/work").join(super::SESSION).join("journal")
    }
}

pub(crate) fn tool(id: &str, name: &str) -> Value {
    json!({"id": id, "type": "agent.tool_use", "name": name, "input": {"command": "true"}, "evaluated_permission": "allow",
           "processed_at": "2026-01-01T00:00:00Z"})
}

pub(crate) fn with(mut event: Value, key: &str, value: Value) -> Value {
    event[key] = value;
    event
}

pub(crate) fn event(id: &str, kind: &str) -> Value {
    json!({"id": id, "type": kind, "processed_at": "2026-01-01T00:00:00Z"})
}

pub(crate) fn end_of_turn(id: &str) -> Value {
    with(event(id, "session.status_idle"), "stop_reason", json!({"type": "end_turn"}))
}

pub(crate) fn waits_for(id: &str, ids: &[&str]) -> Value {
    with(event(id, "session.status_idle"), "stop_reason", json!({"type": "requires_action", "event_ids": ids}))
}

/// Three tool uses, one after the other, then the end of the turn.
pub(crate) fn three_tool_uses() -> Script {
    Script {
        history: vec![
            event("sevt_0", "session.status_running"),
            tool("sevt_1", "bash"),
            waits_for("sevt_i1", &["sevt_1"]),
        ],
        after_result: vec![
            vec![
                event("sevt_r2", "session.status_running"),
                tool("sevt_2", "write"),
                waits_for("sevt_i2", &["sevt_2"]),
            ],
            vec![event("sevt_r3", "session.status_running"), tool("sevt_3", "read"), waits_for("sevt_i3", &["sevt_3"])],
            vec![event("sevt_r4", "session.status_running"), end_of_turn("sevt_i4")],
        ],
        ..Script::default()
    }
}

/// What a killed worker leaves beside its session.
pub(crate) fn remember_lease(setting: &Setting, last_heartbeat: &str) {
    let lease =
        json!({"work": super::WORK, "session": super::SESSION, "last_heartbeat": last_heartbeat, "ours": false});
    let directory = setting.journal().parent().expect("a directory").to_owned();
    std::fs::create_dir_all(&directory).expect("made");
    std::fs::write(directory.join("lease"), lease.to_string()).expect("written");
}
