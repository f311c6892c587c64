//! What webhooks are told: a type and ids, never a text that an agent or a user wrote.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::ids::WebhookEventId;

macro_rules! happenings {
    ($($name:ident = $word:literal;)*) => {
        /// The type of an event, in the contract's words.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Happening {
            $(#[doc = concat!("`", $word, "`")] $name,)*
        }

        impl Happening {
            /// Every one that this server tells.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The word.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $word,)*
                }
            }
        }
    };
}

happenings! {
    AgentArchived = "agent.archived";
    AgentCreated = "agent.created";
    AgentUpdated = "agent.updated";
    DeploymentArchived = "deployment.archived";
    DeploymentCreated = "deployment.created";
    DeploymentPaused = "deployment.paused";
    DeploymentUnpaused = "deployment.unpaused";
    DeploymentUpdated = "deployment.updated";
    DeploymentRunFailed = "deployment_run.failed";
    DeploymentRunStarted = "deployment_run.started";
    DeploymentRunSucceeded = "deployment_run.succeeded";
    EnvironmentArchived = "environment.archived";
    EnvironmentCreated = "environment.created";
    EnvironmentDeleted = "environment.deleted";
    EnvironmentUpdated = "environment.updated";
    MemoryStoreArchived = "memory_store.archived";
    MemoryStoreCreated = "memory_store.created";
    MemoryStoreDeleted = "memory_store.deleted";
    SessionArchived = "session.archived";
    SessionBudgetReached = "session.budget_reached";
    SessionCreated = "session.created";
    SessionDeleted = "session.deleted";
    SessionIdled = "session.idled";
    SessionOutcomeEvaluationEnded = "session.outcome_evaluation_ended";
    SessionRequiresAction = "session.requires_action";
    SessionRunning = "session.running";
    SessionStatusIdled = "session.status_idled";
    SessionStatusRescheduled = "session.status_rescheduled";
    SessionStatusRunStarted = "session.status_run_started";
    SessionStatusTerminated = "session.status_terminated";
    SessionThreadCreated = "session.thread_created";
    SessionThreadIdled = "session.thread_idled";
    SessionThreadTerminated = "session.thread_terminated";
    SessionUpdated = "session.updated";
    VaultArchived = "vault.archived";
    VaultCreated = "vault.created";
    VaultDeleted = "vault.deleted";
    VaultCredentialArchived = "vault_credential.archived";
    VaultCredentialCreated = "vault_credential.created";
    VaultCredentialDeleted = "vault_credential.deleted";
    VaultCredentialRefreshFailed = "vault_credential.refresh_failed";
}

/// Types of the contract that nothing here ever comes to: they can be subscribed to, and are never told.
pub const NEVER_TOLD: &[&str] = &[
    "agent.deleted",
    "deployment.deleted",
    "external_key.failed",
    "external_key.recovered",
    "session.pending",
    "user_profile.enforcement_action_opened",
    "user_profile.enforcement_action_resolved",
    "user_profile.program_status_updated",
];

impl Happening {
    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|happening| happening.as_str() == word)
    }
}

/// What happened to what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// What happened.
    pub happening: Happening,
    /// The id of what it happened to.
    pub id: String,
    /// The thread, for `session.thread_*`.
    pub session_thread_id: Option<String>,
    /// The vault, for `vault_credential.*`.
    pub vault_id: Option<String>,
}

impl Subject {
    /// Something that happened to the object of this id.
    pub fn new(happening: Happening, id: impl ToString) -> Self {
        Self { happening, id: id.to_string(), session_thread_id: None, vault_id: None }
    }

    /// The same, in this vault.
    #[must_use]
    pub fn in_vault(self, vault: impl ToString) -> Self {
        Self { vault_id: Some(vault.to_string()), ..self }
    }

    /// The same, of this thread.
    #[must_use]
    pub fn of_thread(self, thread: impl ToString) -> Self {
        Self { session_thread_id: Some(thread.to_string()), ..self }
    }
}

/// An event as it is posted (contract 2.13).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WebhookEvent {
    /// Its id: the same for every endpoint and every attempt.
    pub id: WebhookEventId,
    /// Always `event`.
    #[serde(rename = "type")]
    pub kind: EventTag,
    /// When it happened.
    pub created_at: Timestamp,
    /// What happened.
    pub data: EventData,
}

/// The constant `event`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventTag {
    /// `event`.
    #[default]
    #[serde(rename = "event")]
    Event,
}

/// What happened, in ids.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventData {
    /// One of [`Happening`]'s words.
    #[serde(rename = "type")]
    pub kind: String,
    /// The object.
    pub id: String,
    /// The organisation.
    pub organization_id: String,
    /// The workspace.
    pub workspace_id: String,
    /// The thread, for `session.thread_*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_thread_id: Option<String>,
    /// The vault, for `vault_credential.*`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vault_id: Option<String>,
}

impl WebhookEvent {
    pub(super) fn new(
        id: WebhookEventId,
        organization: &str,
        workspace: &str,
        subject: Subject,
        created_at: Timestamp,
    ) -> Self {
        let Subject { happening, id: object, session_thread_id, vault_id } = subject;
        let data = EventData {
            kind: happening.as_str().to_owned(),
            id: object,
            organization_id: organization.to_owned(),
            workspace_id: workspace.to_owned(),
            session_thread_id,
            vault_id,
        };
        Self { id, kind: EventTag::Event, created_at, data }
    }
}
