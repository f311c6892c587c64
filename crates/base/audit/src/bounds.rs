//! How long each text of a record may be. Agents choose hosts and paths: what they choose is cut, marked, and never makes a record fail.

use std::collections::BTreeMap;

use crate::record::{Destination, Record, Shadow};

/// Cuts every text of the record to its bound.
pub(crate) fn apply(record: &mut Record) {
    let Record {
        session,
        agent,
        tool_use,
        zone,
        rule,
        reason,
        next_step,
        destination,
        credential,
        outcome,
        shadow,
        ..
    } = record;
    for (text, bound) in [
        (session, NAME),
        (agent, NAME),
        (tool_use, NAME),
        (zone, NAME),
        (rule, NAME),
        (reason, NAME),
        (credential, NAME),
        (next_step, SENTENCE),
        (outcome, SENTENCE),
    ] {
        cut(text, bound);
    }
    if let Some(Shadow { zone, decision: _, reason, rule }) = shadow {
        *zone = shortened(std::mem::take(zone), NAME);
        cut(reason, NAME);
        cut(rule, NAME);
    }
    if let Some(Destination { scheme, host, port: _, method, path, address }) = destination {
        for (text, bound) in [(scheme, WORD), (host, HOST), (method, WORD), (path, PATH), (address, WORD)] {
            cut(text, bound);
        }
    }
    if record.digests.iter().any(|(name, value)| name.len() > WORD || value.len() > DIGEST)
        || record.digests.len() > ENTRIES
    {
        record.digests = limited(std::mem::take(&mut record.digests), |value| shortened(value, DIGEST));
    }
    if record.counts.keys().any(|name| name.len() > WORD) || record.counts.len() > ENTRIES {
        record.counts = limited(std::mem::take(&mut record.counts), |value| value);
    }
}

fn cut(text: &mut Option<String>, bound: usize) {
    if let Some(long) = text.take() {
        *text = Some(shortened(long, bound));
    }
}

/// At most `bound` characters, the last one an ellipsis where some were cut.
fn shortened(mut text: String, bound: usize) -> String {
    if text.len() <= bound {
        // No character is shorter than a byte.
        return text;
    }
    if let Some((end, _)) = text.char_indices().nth(bound) {
        let keep = text[..end].char_indices().next_back().map_or(0, |(start, _)| start);
        text.truncate(keep);
        text.push('…');
    }
    text
}

fn limited<V>(map: BTreeMap<String, V>, bound: impl Fn(V) -> V) -> BTreeMap<String, V> {
    map.into_iter().take(ENTRIES).map(|(name, value)| (shortened(name, WORD), bound(value))).collect()
}

const WORD: usize = 64;
const DIGEST: usize = 160;
const NAME: usize = 255;
const HOST: usize = 255;
const SENTENCE: usize = 512;
const PATH: usize = 1024;
const ENTRIES: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Decision, Kind};

    #[test]
    fn text_an_agent_chose_is_cut_to_its_bound_and_marked() {
        let mut record = Record::new(Kind::EgressRequest, Decision::Deny);
        let long = "ß".repeat(5000);
        record.destination =
            Some(Destination { host: Some(long.clone()), path: Some(long.clone()), ..Destination::default() });
        record.outcome = Some(long.clone());
        record.digests = (0..100).map(|n| (format!("{n:0>200}"), long.clone())).collect();
        apply(&mut record);
        let destination = record.destination.as_ref().unwrap();
        assert_eq!(destination.host.as_ref().unwrap().chars().count(), HOST);
        assert_eq!(destination.path.as_ref().unwrap().chars().count(), PATH);
        assert!(record.outcome.as_ref().unwrap().ends_with("ß…"));
        assert!(record.digests.len() <= ENTRIES);
        assert!(serde_json::to_vec(&record).unwrap().len() < crate::line::LONGEST_RECORD);
    }

    #[test]
    fn text_within_its_bound_is_left_alone() {
        assert_eq!(shortened("a".repeat(255), 255), "a".repeat(255));
        assert_eq!(shortened("a".repeat(256), 255), format!("{}…", "a".repeat(254)));
        assert_eq!(shortened(String::new(), 255), "");
    }
}
