//! Work: the items of an environment's queue, one for each session that needs a worker.

use serde::{Deserialize, Serialize};

use crate::ids::{EnvironmentId, SessionId, WorkId};
use crate::{Metadata, Timestamp, metadata::MetadataPatch};

/// A work item as the contract shows it (2.5). `secret` is set in the answer to a poll and nowhere else.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct Work {
    /// Its id.
    pub id: WorkId,
    /// Always `work`.
    #[serde(rename = "type")]
    pub kind: WorkTag,
    /// Whose queue it is in.
    pub environment_id: EnvironmentId,
    /// What is to be served.
    pub data: WorkData,
    /// Where it stands.
    pub state: WorkState,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// base64url of `{"sessions_token": ...}`; only in the answer to a poll.
    pub secret: Option<String>,
    /// When it was queued.
    pub created_at: Timestamp,
    /// When a worker acknowledged it.
    pub acknowledged_at: Option<Timestamp>,
    /// When the first heartbeat came.
    pub started_at: Option<Timestamp>,
    /// The last heartbeat.
    pub latest_heartbeat_at: Option<Timestamp>,
    /// When a stop was asked for.
    pub stop_requested_at: Option<Timestamp>,
    /// When it stopped.
    pub stopped_at: Option<Timestamp>,
}

impl std::fmt::Debug for Work {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Work")
            .field("id", &self.id)
            .field("environment_id", &self.environment_id)
            .field("data", &self.data)
            .field("state", &self.state)
            .finish_non_exhaustive()
    }
}

/// The constant `work`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkTag {
    /// `work`.
    #[default]
    #[serde(rename = "work")]
    Work,
}

/// What an item asks a worker to serve.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum WorkData {
    /// A session.
    Session {
        /// Which one.
        id: SessionId,
    },
}

impl WorkData {
    /// The session to serve.
    pub fn session(&self) -> &SessionId {
        let Self::Session { id } = self;
        id
    }
}

/// Where an item stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WorkState {
    /// In the queue, or polled and not yet acknowledged.
    Queued,
    /// Acknowledged; no heartbeat yet.
    Starting,
    /// A worker keeps its lease alive.
    Active,
    /// A stop was asked for; the worker learns of it at its next heartbeat.
    Stopping,
    /// Over.
    Stopped,
}

impl WorkState {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Starting => "starting",
            Self::Active => "active",
            Self::Stopping => "stopping",
            Self::Stopped => "stopped",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Queued, Self::Starting, Self::Active, Self::Stopping, Self::Stopped]
            .into_iter()
            .find(|state| state.as_str() == word)
    }
}

/// The answer to a heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Heartbeat {
    /// Always `work_heartbeat`.
    #[serde(rename = "type")]
    pub kind: HeartbeatTag,
    /// Opaque to the worker, which echoes it byte for byte; empty when there is none.
    pub last_heartbeat: String,
    /// Whether this beat prolonged the lease.
    pub lease_extended: bool,
    /// Where the item stands.
    pub state: WorkState,
    /// How long the lease lasts from here.
    pub ttl_seconds: u64,
}

/// The constant `work_heartbeat`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HeartbeatTag {
    /// `work_heartbeat`.
    #[default]
    #[serde(rename = "work_heartbeat")]
    WorkHeartbeat,
}

/// `details.current_state` of a refused heartbeat.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseState {
    /// The stored heartbeat.
    pub last_heartbeat: Option<String>,
    /// Always false here.
    pub lease_extended: bool,
    /// Where the item stands.
    pub state: WorkState,
    /// How long a lease lasts.
    pub ttl_seconds: u64,
}

/// The state of a queue.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct QueueStats {
    /// Always `work_queue_stats`.
    #[serde(rename = "type")]
    pub kind: QueueStatsTag,
    /// Items that wait.
    pub depth: u64,
    /// Items that were polled and not acknowledged.
    pub pending: u64,
    /// When the oldest of both was queued.
    pub oldest_queued_at: Option<Timestamp>,
    /// Distinct worker ids that polled in the last 30 seconds.
    pub workers_polling: Option<u64>,
}

/// The constant `work_queue_stats`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum QueueStatsTag {
    /// `work_queue_stats`.
    #[default]
    #[serde(rename = "work_queue_stats")]
    WorkQueueStats,
}

/// The body of a stop. `error` is ours: a worker that cannot serve an item says why, and the session ends with that
/// reason instead of hanging.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct StopWork {
    /// Stop at once instead of asking the worker to.
    #[serde(default)]
    pub force: Option<bool>,
    /// Why the item could not be served.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<WorkError>,
}

/// Why a worker could not serve an item.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct WorkError {
    /// A stable reason code, for example `zone_none`.
    pub code: String,
    /// A sentence with the next step.
    pub message: String,
}

/// The body that updates an item.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateWork {
    /// Merged; null deletes a key.
    pub metadata: MetadataPatch,
}
