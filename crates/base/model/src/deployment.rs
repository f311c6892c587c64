//! Deployments: what starts sessions by a schedule or when told to, and what came of it (contract 2.11).

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::agent::AgentTag;
use crate::ids::{AgentId, DeploymentId, DeploymentRunId, EnvironmentId, SessionId, VaultId};
use crate::metadata::MetadataPatch;
use crate::resource::ResourceParam;
use crate::session::AgentParam;
use crate::{Field, Metadata, Timestamp};

mod run_error;

pub use run_error::RunErrorType;

/// A deployment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Deployment {
    /// Its id.
    pub id: DeploymentId,
    /// Always `deployment`.
    #[serde(rename = "type")]
    pub kind: DeploymentTag,
    /// The caller's name for it.
    pub name: String,
    /// Free text.
    pub description: Option<String>,
    /// Whose sessions it starts, at one version.
    pub agent: AgentReference,
    /// Whose workers serve them.
    pub environment_id: EnvironmentId,
    /// What each begins with, as sent.
    pub initial_events: Vec<Value>,
    /// What each is given, as sent.
    pub resources: Vec<ResourceParam>,
    /// Where credentials are looked for.
    pub vault_ids: Vec<VaultId>,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// When it runs by itself; null: when told to.
    pub schedule: Option<Schedule>,
    /// Archived ones are active.
    pub status: DeploymentStatus,
    /// Why it is paused.
    pub paused_reason: Option<PausedReason>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived, for good.
    pub archived_at: Option<Timestamp>,
    /// What each may spend.
    pub budget: Option<Value>,
}

/// The constant `deployment`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeploymentTag {
    /// `deployment`.
    #[default]
    #[serde(rename = "deployment")]
    Deployment,
}

/// An agent at one version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentReference {
    /// Always `agent`.
    #[serde(rename = "type")]
    pub kind: AgentTag,
    /// Which.
    pub id: AgentId,
    /// Its version.
    pub version: u64,
}

/// Whether a deployment runs by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeploymentStatus {
    /// It does, if it has a schedule.
    Active,
    /// It does not until it is unpaused.
    Paused,
}

impl DeploymentStatus {
    /// As it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Paused => "paused",
        }
    }
}

/// Why a deployment is paused.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum PausedReason {
    /// Somebody paused it.
    Manual,
    /// Its last run could not start, and the next one could not either.
    Error {
        /// Why not.
        error: PausedError,
    },
}

/// The error that paused a deployment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PausedError {
    /// Which.
    #[serde(rename = "type")]
    pub kind: RunErrorType,
}

/// A schedule as sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ScheduleParam {
    /// Five fields of cron in a time zone.
    Cron {
        /// Minute, hour, day of month, month, day of week.
        expression: String,
        /// A name of the IANA database.
        timezone: String,
    },
}

/// A schedule as shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Schedule {
    /// As sent.
    #[serde(flatten)]
    pub param: ScheduleParam,
    /// When it last ran by this schedule.
    pub last_run_at: Option<Timestamp>,
    /// The next times, at most five; none when archived.
    pub upcoming_runs_at: Vec<Timestamp>,
}

/// The body that creates a deployment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateDeployment {
    /// The agent, by id or reference; overrides are refused.
    pub agent: AgentParam,
    /// The environment.
    pub environment_id: String,
    /// 1 to 50 events, at least one of them a task.
    pub initial_events: Vec<Value>,
    /// Its name.
    pub name: String,
    /// What each session may spend.
    #[serde(default)]
    pub budget: Field<Value>,
    /// Free text.
    #[serde(default)]
    pub description: Field<String>,
    /// The caller's pairs.
    #[serde(default)]
    pub metadata: Field<Metadata>,
    /// What each session is given.
    #[serde(default)]
    pub resources: Field<Vec<ResourceParam>>,
    /// When it runs by itself.
    #[serde(default)]
    pub schedule: Field<ScheduleParam>,
    /// At most 50 vaults.
    #[serde(default)]
    pub vault_ids: Field<Vec<String>>,
}

/// The body that updates a deployment.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateDeployment {
    /// A text re-pins to the latest version; null is refused.
    #[serde(default)]
    pub agent: Field<AgentParam>,
    /// Null is refused.
    #[serde(default)]
    pub environment_id: Field<String>,
    /// Null is refused.
    #[serde(default)]
    pub initial_events: Field<Vec<Value>>,
    /// Null is refused.
    #[serde(default)]
    pub name: Field<String>,
    /// Null clears.
    #[serde(default)]
    pub budget: Field<Value>,
    /// Null or an empty text clears.
    #[serde(default)]
    pub description: Field<String>,
    /// Merged; null clears.
    #[serde(default)]
    pub metadata: Field<MetadataPatch>,
    /// Null clears.
    #[serde(default)]
    pub resources: Field<Vec<ResourceParam>>,
    /// Null: when told to.
    #[serde(default)]
    pub schedule: Field<ScheduleParam>,
    /// Null clears.
    #[serde(default)]
    pub vault_ids: Field<Vec<String>>,
}

/// One run of a deployment: a session that began, or why none did.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeploymentRun {
    /// Its id.
    pub id: DeploymentRunId,
    /// Always `deployment_run`.
    #[serde(rename = "type")]
    pub kind: DeploymentRunTag,
    /// Whose.
    pub deployment_id: DeploymentId,
    /// The agent as it was pinned.
    pub agent: AgentReference,
    /// What started it.
    pub trigger_context: Trigger,
    /// The session; null when none began.
    pub session_id: Option<SessionId>,
    /// Why none began.
    pub error: Option<RunError>,
    /// When.
    pub created_at: Timestamp,
}

/// The constant `deployment_run`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeploymentRunTag {
    /// `deployment_run`.
    #[default]
    #[serde(rename = "deployment_run")]
    DeploymentRun,
}

/// What started a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Trigger {
    /// Somebody.
    Manual,
    /// The schedule.
    Schedule {
        /// For which time.
        scheduled_at: Timestamp,
    },
}

impl Trigger {
    /// `type` as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Manual => "manual",
            Self::Schedule { .. } => "schedule",
        }
    }
}

/// Why a run began no session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RunError {
    /// Which error.
    #[serde(rename = "type")]
    pub kind: RunErrorType,
    /// What is wrong, and what to do.
    pub message: String,
}
