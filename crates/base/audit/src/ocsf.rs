//! The OCSF names for our records: class, activity and severity, derived from what a record says (schema.ocsf.io, 1.4 and later). An activity's
//! number means another thing in each class.

use crate::record::{Decision, Kind, Record};

const API_ACTIVITY: u32 = 6003;
const APPLICATION_LIFECYCLE: u32 = 6002;
const AUTHENTICATION: u32 = 3002;
const DETECTION_FINDING: u32 = 2004;
const HTTP_ACTIVITY: u32 = 4002;
const NETWORK_ACTIVITY: u32 = 4001;
const USER_ACCESS_MANAGEMENT: u32 = 3005;

/// What a class has no word for, in every class.
const OTHER: u32 = 99;

/// A record's class and its activity within that class.
pub(crate) fn class_and_activity(record: &Record) -> (u32, u32) {
    match record.kind {
        Kind::ToolUse | Kind::ToolOutcome | Kind::McpCall | Kind::McpOutcome => (API_ACTIVITY, OTHER),
        Kind::FilePut => (API_ACTIVITY, 1),
        Kind::FileTaken => (API_ACTIVITY, 2),
        Kind::EgressConnect => (NETWORK_ACTIVITY, if record.decision == Decision::Deny { 5 } else { 1 }),
        Kind::EgressRequest | Kind::EgressOutcome => {
            let method = record.destination.as_ref().and_then(|destination| destination.method.as_deref());
            (HTTP_ACTIVITY, http(method))
        }
        Kind::CredentialUse | Kind::CredentialDenied => (AUTHENTICATION, OTHER),
        Kind::CredentialRefreshed => (AUTHENTICATION, 5),
        Kind::CredentialGranted | Kind::Approval => (USER_ACCESS_MANAGEMENT, 1),
        Kind::CredentialRevoked | Kind::GrantsRevoked => (USER_ACCESS_MANAGEMENT, 2),
        Kind::Alarm => (DETECTION_FINDING, 1),
        Kind::SessionOpened | Kind::SandboxBuilt | Kind::LogOpened | Kind::GatewayStarted | Kind::WorkerStarted => {
            (APPLICATION_LIFECYCLE, 3)
        }
        Kind::SessionClosed | Kind::SandboxDestroyed | Kind::LogClosed | Kind::GatewayStopped | Kind::WorkerStopped => {
            (APPLICATION_LIFECYCLE, 4)
        }
        Kind::SessionThawed => (APPLICATION_LIFECYCLE, 6),
        Kind::SessionFrozen => (APPLICATION_LIFECYCLE, 7),
        Kind::ConfigurationLoaded => (APPLICATION_LIFECYCLE, 8),
        Kind::Recovered | Kind::Checkpoint => (APPLICATION_LIFECYCLE, OTHER),
    }
}

/// The activity of an HTTP request: its method.
fn http(method: Option<&str>) -> u32 {
    match method {
        Some("CONNECT") => 1,
        Some("DELETE") => 2,
        Some("GET") => 3,
        Some("HEAD") => 4,
        Some("OPTIONS") => 5,
        Some("POST") => 6,
        Some("PUT") => 7,
        Some("TRACE") => 8,
        Some("PATCH") => 9,
        Some(_) => OTHER,
        None => 0,
    }
}

/// The severity: 1 informational, 3 medium, 4 high, 5 critical.
pub(crate) fn severity(kind: Kind, decision: Decision) -> u32 {
    match (kind, decision) {
        (Kind::Alarm, _) => 5,
        (Kind::CredentialDenied, _) | (Kind::Recovered, _) => 4,
        (_, Decision::Deny) => 3,
        (_, Decision::Allow | Decision::Info) => 1,
    }
}

#[cfg(test)]
mod tests;
