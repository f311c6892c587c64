//! What the audit log says of a tool use: the reasons of its refusals, what was allowed, and the alarms.

use std::path::Path;

use postern_audit::{Decision, Entry, Kind, Record};
use postern_policy::Reason;

use crate::judge::Evidence;

/// Everything in a log.
pub(crate) fn records(audit: &Path) -> Vec<Entry> {
    postern_audit::entries(audit).into_iter().flatten().flatten().collect()
}

/// Adds what the log says of the tool use of this id.
pub(crate) fn note(records: &[Entry], tool_use: &str, evidence: &mut Evidence) {
    let of_it =
        || records.iter().map(|entry| &entry.record).filter(|record| record.tool_use.as_deref() == Some(tool_use));
    evidence.reasons.extend(of_it().filter_map(reason));
    evidence.alarms.extend(of_it().filter_map(|record| alarm(record).map(str::to_owned)));
}

/// The reason of what was refused, and [`ALLOWED`] for what was sent; that the tool use itself may run is on record for each.
fn reason(record: &Record) -> Option<String> {
    match record.decision {
        Decision::Deny => record.reason.clone(),
        Decision::Allow => (record.kind != Kind::ToolUse).then(|| ALLOWED.to_owned()),
        Decision::Info => None,
    }
}

/// The reason of an alarm.
#[must_use]
pub fn alarm(record: &Record) -> Option<&str> {
    record.reason.as_deref().filter(|_| record.kind == Kind::Alarm)
}

/// Whether a refusal for this reason is an alarm as well.
pub(crate) fn is_alarming(code: &str) -> bool {
    Reason::ALL.iter().any(|reason| reason.code() == code && reason.is_alarming())
}

/// What stands for a record of what may be done, beside the reasons of refusals.
pub const ALLOWED: &str = "allowed";

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(kind: Kind, decision: Decision, reason: Option<&str>, tool_use: &str) -> Entry {
        let record = Record {
            tool_use: Some(tool_use.into()),
            reason: reason.map(str::to_owned),
            ..Record::new(kind, decision)
        };
        let (ts, hash) = (jiff::Timestamp::UNIX_EPOCH, String::new());
        Entry { seq: 1, ts, previous: hash.clone(), class_uid: 0, activity_id: 0, severity_id: 0, record, hash }
    }

    #[test]
    fn an_alarm_counts_for_its_own_tool_use_and_is_told_apart_from_the_refusal() {
        let refusal = |tool_use| entry(Kind::EgressRequest, Decision::Deny, Some("real_secret_seen"), tool_use);
        let alarm = |tool_use| entry(Kind::Alarm, Decision::Info, Some("real_secret_seen"), tool_use);
        let seen = |records: &[Entry]| {
            let mut evidence = Evidence::default();
            note(records, "a/b", &mut evidence);
            (evidence.reasons.len(), evidence.alarms.len())
        };
        assert_eq!(seen(&[refusal("a/b"), alarm("a/b")]), (1, 1));
        assert_eq!(seen(&[refusal("a/b"), alarm("a/c")]), (1, 0));
        assert!(is_alarming("real_secret_seen") && !is_alarming("path_not_allowed") && !is_alarming(ALLOWED));
    }
}
