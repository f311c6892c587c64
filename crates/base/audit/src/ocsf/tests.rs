use super::*;
use crate::record::Destination;

/// What OCSF 1.x calls the activities of the classes we use, in the order of their numbers from 1 on.
const VOCABULARY: &[(u32, &[&str])] = &[
    (2004, &["Create", "Update", "Close"]),
    (3002, &["Logon", "Logoff", "Authentication Ticket", "Service Ticket Request", "Service Ticket Renew", "Preauth"]),
    (3005, &["Assign Privileges", "Revoke Privileges"]),
    (4001, &["Open", "Close", "Reset", "Fail", "Refuse", "Traffic", "Listen"]),
    (4002, &["Connect", "Delete", "Get", "Head", "Options", "Post", "Put", "Trace", "Patch"]),
    (6002, &["Install", "Remove", "Start", "Stop", "Restart", "Enable", "Disable", "Update"]),
    (6003, &["Create", "Read", "Update", "Delete"]),
];

fn told(record: &Record) -> (u32, &'static str) {
    let (class, activity) = class_and_activity(record);
    let (_, names) = VOCABULARY.iter().find(|(known, _)| *known == class).expect("the class is one of OCSF's");
    let name = match activity {
        0 => "Unknown",
        99 => "Other",
        _ => names.get(activity as usize - 1).expect("the class has an activity of this number"),
    };
    (class, name)
}

#[test]
fn each_kind_of_record_is_told_in_the_words_of_its_class() {
    let table = [
        (Kind::ToolUse, 6003, "Other"),
        (Kind::ToolOutcome, 6003, "Other"),
        (Kind::EgressConnect, 4001, "Open"),
        (Kind::EgressRequest, 4002, "Unknown"),
        (Kind::EgressOutcome, 4002, "Unknown"),
        (Kind::CredentialGranted, 3005, "Assign Privileges"),
        (Kind::CredentialUse, 3002, "Other"),
        (Kind::CredentialDenied, 3002, "Other"),
        (Kind::CredentialRevoked, 3005, "Revoke Privileges"),
        (Kind::CredentialRefreshed, 3002, "Service Ticket Renew"),
        (Kind::SessionOpened, 6002, "Start"),
        (Kind::SessionClosed, 6002, "Stop"),
        (Kind::SandboxBuilt, 6002, "Start"),
        (Kind::SandboxDestroyed, 6002, "Stop"),
        (Kind::SessionFrozen, 6002, "Disable"),
        (Kind::SessionThawed, 6002, "Enable"),
        (Kind::GrantsRevoked, 3005, "Revoke Privileges"),
        (Kind::FilePut, 6003, "Create"),
        (Kind::FileTaken, 6003, "Read"),
        (Kind::Approval, 3005, "Assign Privileges"),
        (Kind::Alarm, 2004, "Create"),
        (Kind::Recovered, 6002, "Other"),
        (Kind::LogOpened, 6002, "Start"),
        (Kind::LogClosed, 6002, "Stop"),
        (Kind::Checkpoint, 6002, "Other"),
        (Kind::McpCall, 6003, "Other"),
        (Kind::McpOutcome, 6003, "Other"),
        (Kind::GatewayStarted, 6002, "Start"),
        (Kind::GatewayStopped, 6002, "Stop"),
        (Kind::WorkerStarted, 6002, "Start"),
        (Kind::WorkerStopped, 6002, "Stop"),
        (Kind::ConfigurationLoaded, 6002, "Update"),
    ];
    for (kind, class, activity) in table {
        assert_eq!(told(&Record::new(kind, Decision::Allow)), (class, activity), "{kind:?}");
    }
}

#[test]
fn a_request_is_told_by_its_method_and_a_refused_connection_as_refused() {
    let methods = [
        ("GET", "Get"),
        ("HEAD", "Head"),
        ("POST", "Post"),
        ("PUT", "Put"),
        ("PATCH", "Patch"),
        ("DELETE", "Delete"),
        ("OPTIONS", "Options"),
        ("TRACE", "Trace"),
        ("CONNECT", "Connect"),
        ("PROPFIND", "Other"),
        ("get", "Other"),
    ];
    for (method, activity) in methods {
        for kind in [Kind::EgressRequest, Kind::EgressOutcome] {
            let mut record = Record::new(kind, Decision::Deny);
            record.destination = Some(Destination { method: Some(method.to_owned()), ..Destination::default() });
            assert_eq!(told(&record), (4002, activity), "{kind:?} {method}");
        }
    }
    assert_eq!(told(&Record::new(Kind::EgressConnect, Decision::Deny)), (4001, "Refuse"));
}
