//! What a probe of a path says: each hop with its time, or the hop that failed and why.

use std::time::Duration;

use serde::Serialize;

use super::McpFailure;
use super::client::millis;

/// The most hops that one `server-timing` header adds.
const MAX_TIMINGS: usize = 16;

/// What a probe found, hop by hop; after a failed hop there is none.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct ProbeReport {
    /// The hops in order: `edge`, `inner_tls`, `initialize`, `tools/list`; parts of the last two that the gateway named
    /// follow them as `initialize: policy` and the like.
    pub hops: Vec<Hop>,
    /// The names of the server's tools.
    pub tools: Vec<String>,
}

impl ProbeReport {
    /// Whether every hop worked.
    #[must_use]
    pub fn is_ok(&self) -> bool {
        self.failure().is_none()
    }

    /// Why the path does not work.
    #[must_use]
    pub fn failure(&self) -> Option<&McpFailure> {
        self.hops.iter().find_map(|hop| match &hop.result {
            HopResult::Failure(failure) => Some(failure),
            HopResult::Millis(_) => None,
        })
    }
}

/// One hop.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Hop {
    /// Its name.
    pub name: String,
    /// How it went.
    #[serde(flatten)]
    pub result: HopResult,
}

/// How a hop went.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum HopResult {
    /// It took this long, in milliseconds.
    Millis(f64),
    /// It failed.
    Failure(McpFailure),
}

impl Hop {
    pub(super) fn took(name: &str, time: Duration) -> Self {
        Self { name: name.to_owned(), result: HopResult::Millis(millis(time)) }
    }

    pub(super) fn failed(name: &str, failure: McpFailure) -> Self {
        Self { name: name.to_owned(), result: HopResult::Failure(failure) }
    }
}

/// The parts of a request's time that the gateway names (W3C Server Timing: `name;dur=1.5, ...`).
pub(super) fn hops_of_timing(request: &str, header: Option<&str>) -> Vec<Hop> {
    let entries = header.unwrap_or_default().split(',').take(MAX_TIMINGS);
    entries.filter_map(|entry| of_entry(request, entry)).collect()
}

fn of_entry(request: &str, entry: &str) -> Option<Hop> {
    let mut parts = entry.split(';').map(str::trim);
    let name = parts.next().filter(|name| is_name(name))?;
    let took: f64 = parts.find_map(|part| part.strip_prefix("dur=")?.parse().ok())?;
    let is_time = took.is_finite() && took >= 0.0;
    is_time.then(|| Hop { name: format!("{request}: {name}"), result: HopResult::Millis(took) })
}

fn is_name(name: &str) -> bool {
    (1..=32).contains(&name.len()) && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gateways_timing_is_split_into_hops() {
        let header = "identity;dur=0.1, policy;desc=\"x\";dur=0.25, upstream;dur=3, bad name;dur=1, none, x;dur=nan";
        let hops = hops_of_timing("initialize", Some(header));
        let expected = [("identity", 0.1), ("policy", 0.25), ("upstream", 3.0)];
        let expected =
            expected.map(|(name, took)| Hop { name: format!("initialize: {name}"), result: HopResult::Millis(took) });
        assert_eq!(hops, expected);
        assert!(hops_of_timing("initialize", None).is_empty());
    }
}
