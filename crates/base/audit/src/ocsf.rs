//! The OCSF names for our records: class, activity and severity, derived from kind and decision (schema.ocsf.io, 1.x).

use crate::record::{Decision, Kind};

/// The OCSF class: Network Activity 4001, HTTP Activity 4002, API Activity 6003, Application Lifecycle 6002, Authentication 3002,
/// User Access Management 3005, Detection Finding 2004.
pub(crate) fn class(kind: Kind) -> u32 {
    match kind {
        Kind::ToolUse | Kind::ToolOutcome | Kind::McpCall | Kind::McpOutcome | Kind::FilePut | Kind::FileTaken => 6003,
        Kind::EgressConnect => 4001,
        Kind::EgressRequest | Kind::EgressOutcome => 4002,
        Kind::CredentialGranted
        | Kind::CredentialUse
        | Kind::CredentialDenied
        | Kind::CredentialRefreshed
        | Kind::CredentialRevoked => 3002,
        Kind::Approval | Kind::GrantsRevoked => 3005,
        Kind::Alarm => 2004,
        Kind::SessionOpened
        | Kind::SessionClosed
        | Kind::SandboxBuilt
        | Kind::SandboxDestroyed
        | Kind::SessionFrozen
        | Kind::SessionThawed
        | Kind::Recovered
        | Kind::LogOpened
        | Kind::LogClosed
        | Kind::Checkpoint
        | Kind::GatewayStarted
        | Kind::GatewayStopped
        | Kind::WorkerStarted
        | Kind::WorkerStopped
        | Kind::ConfigurationLoaded => 6002,
    }
}

/// The OCSF activity within the class: 1 open or begin, 2 close or end, 99 other.
pub(crate) fn activity(kind: Kind) -> u32 {
    match kind {
        Kind::ToolUse
        | Kind::EgressConnect
        | Kind::EgressRequest
        | Kind::CredentialGranted
        | Kind::CredentialUse
        | Kind::SessionOpened
        | Kind::SandboxBuilt
        | Kind::Approval
        | Kind::Alarm
        | Kind::LogOpened
        | Kind::SessionThawed
        | Kind::McpCall
        | Kind::GatewayStarted
        | Kind::WorkerStarted => 1,
        Kind::ToolOutcome
        | Kind::EgressOutcome
        | Kind::McpOutcome
        | Kind::CredentialRevoked
        | Kind::SessionClosed
        | Kind::SandboxDestroyed
        | Kind::SessionFrozen
        | Kind::GrantsRevoked
        | Kind::LogClosed
        | Kind::GatewayStopped
        | Kind::WorkerStopped => 2,
        Kind::CredentialDenied
        | Kind::CredentialRefreshed
        | Kind::FilePut
        | Kind::FileTaken
        | Kind::Recovered
        | Kind::Checkpoint
        | Kind::ConfigurationLoaded => 99,
    }
}

/// The OCSF severity: 1 informational, 3 medium, 4 high, 5 critical.
pub(crate) fn severity(kind: Kind, decision: Decision) -> u32 {
    match (kind, decision) {
        (Kind::Alarm, _) => 5,
        (Kind::CredentialDenied, _) | (Kind::Recovered, _) => 4,
        (_, Decision::Deny) => 3,
        (_, Decision::Allow | Decision::Info) => 1,
    }
}
