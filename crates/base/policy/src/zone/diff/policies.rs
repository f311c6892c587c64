//! Policy files: every `forbid` that is gone or changed may have been what held something back.

use super::{Change, ChangeKind};
use crate::zone::Zone;
use std::collections::BTreeMap;

/// Every `forbid` of the first zone that the second does not have, word for word.
pub(super) fn widenings(from: &Zone, to: &Zone) -> Vec<Change> {
    let (before, after) = (forbids(from), forbids(to));
    let gone = before.iter().filter(|(text, _)| !after.contains_key(*text));
    let mut changes: Vec<Change> = gone
        .map(|(_, id)| Change::shown(ChangeKind::Policy, format!("{id} forbids no more, or something else")))
        .collect();
    let kept = before.iter().filter(|(text, _)| after.contains_key(*text));
    for (text, id) in kept {
        if text.contains("facts") && rules(from) != rules(to) {
            let what = format!("{id} speaks of rules by their numbers, which may be other rules now");
            changes.push(Change::possible(ChangeKind::Policy, what));
        }
        if text.contains("Zone::") && from.name() != to.name() {
            changes
                .push(Change::possible(ChangeKind::Policy, format!("{id} names a zone, and the zone's name changed")));
        }
    }
    changes
}

/// The text of each `forbid`, and its id.
fn forbids(zone: &Zone) -> BTreeMap<String, String> {
    zone.policies.forbids().map(|policy| (policy.to_string(), policy.id().to_string())).collect()
}

fn rules(zone: &Zone) -> String {
    format!("{:?}{:?}", zone.rules, zone.mcp_rules)
}
