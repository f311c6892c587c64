//! What a run found: everything that is printed, whatever the format. Holds ids, words and numbers, never a secret.

use serde::Serialize;

use crate::catalogue::{Against, Outcome, Promise};

/// What a run found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Version of the binary that was tested.
    pub version: String,
    /// When the run began, RFC 3339.
    pub started: String,
    /// How long it took.
    pub took_ms: u64,
    /// The zone that was tested.
    pub zone: String,
    /// Digest of the zone as it is deployed, as records name it; empty for the built-in one.
    pub deployed_digest: String,
    /// Digest of the zone as it ran, canaries included.
    pub zone_digest: String,
    /// `root`, or the user id.
    pub user: String,
    /// The machine's name.
    pub host: String,
    /// The kernel's release.
    pub kernel: String,
    /// Every control of a sandbox and its state here.
    pub controls: Vec<ControlRow>,
    /// What protects less than it could, besides.
    pub degraded: Vec<String>,
    /// What was changed for the run and what the run cannot say.
    pub notes: Vec<String>,
    /// Ids, areas, promises or controls that were asked for; empty where every probe was.
    pub only: Vec<String>,
    /// How many probes the catalogue has.
    pub catalogue: usize,
    /// What ended the run before it was over.
    pub broken_off: Option<String>,
    /// One for each probe that was asked for.
    pub findings: Vec<Finding>,
}

/// A control's state.
#[derive(Clone, Debug, Serialize)]
pub struct ControlRow {
    /// Its name in `require`.
    pub name: String,
    /// What it does.
    pub does: String,
    /// `active`, `degraded` or `missing`.
    pub state: &'static str,
    /// Why it is not active, and what would mend it.
    pub cause: String,
}

/// One probe's result.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// `area/name`.
    pub id: String,
    /// The promise.
    pub promise: Promise,
    /// The controls it is mapped to.
    pub controls: Vec<String>,
    /// What was tried.
    pub tries: String,
    /// How it is shown not to be vacuous.
    pub shown_by: String,
    /// Where the control run was.
    pub against: Against,
    /// The outcomes that show the boundary.
    pub expected: Vec<Outcome>,
    /// How the attempt ended inside.
    pub inside: Option<Outcome>,
    /// How it ended in the control run.
    pub outside: Option<Outcome>,
    /// The reason that was found on record.
    pub recorded: Option<String>,
    /// The judgement.
    #[serde(flatten)]
    pub verdict: Verdict,
}

/// The judgement on a probe.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "verdict", rename_all = "snake_case")]
pub enum Verdict {
    /// The attack failed inside, as it should, and works where the boundary is not.
    Held,
    /// It did not fail, or not as it should, or is not on record.
    NotHeld {
        /// What was seen.
        why: String,
    },
    /// It could not be tried, or what was seen proves nothing. Not a pass.
    NotRun {
        /// What kind of cause.
        kind: Cause,
        /// The cause.
        cause: String,
    },
}

/// Why something did not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// This machine, this user or this zone has nothing to test with.
    NotHere,
    /// No control of the probe is here, and the attack succeeded.
    Open,
    /// It could not be attempted, or brought no answer.
    NoAnswer,
    /// The control run did not work, so nothing was shown.
    NotShown,
    /// The run ended before.
    BrokenOff,
}

impl Cause {
    /// Whether it is the machine's, the user's or the zone's, and not that of a run that went wrong.
    #[must_use]
    pub fn is_not_here(self) -> bool {
        matches!(self, Self::NotHere | Self::Open)
    }
}

impl Verdict {
    /// One word or two.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Held => "held",
            Self::NotHeld { .. } => "not held",
            Self::NotRun { kind: Cause::Open, .. } => "open",
            Self::NotRun { .. } => "not run",
        }
    }

    /// Why it is not a pass.
    #[must_use]
    pub fn why(&self) -> Option<&str> {
        match self {
            Self::Held => None,
            Self::NotHeld { why } => Some(why),
            Self::NotRun { cause, .. } => Some(cause),
        }
    }
}

/// How many ended how.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Passes.
    pub held: usize,
    /// Failures.
    pub not_held: usize,
    /// Neither.
    pub not_run: usize,
    /// Of these, those that this machine, this user or this zone has nothing for.
    pub not_here: usize,
}

impl Counts {
    /// Of these findings.
    pub fn of<'a>(findings: impl IntoIterator<Item = &'a Finding>) -> Self {
        findings.into_iter().fold(Self::default(), |mut counts, finding| {
            match finding.verdict {
                Verdict::Held => counts.held += 1,
                Verdict::NotHeld { .. } => counts.not_held += 1,
                Verdict::NotRun { kind, .. } => {
                    counts.not_run += 1;
                    counts.not_here += usize::from(kind.is_not_here());
                }
            }
            counts
        })
    }
}

impl Report {
    /// How many ended how, in all.
    #[must_use]
    pub fn counts(&self) -> Counts {
        Counts::of(&self.findings)
    }

    /// How many probes were looked at, and of how many where that is a choice.
    #[must_use]
    pub fn extent(&self) -> String {
        match &self.only[..] {
            [] => self.findings.len().to_string(),
            only => format!("{} of {} ({})", self.findings.len(), self.catalogue, only.join(", ")),
        }
    }

    /// The findings of a promise.
    pub fn of(&self, promise: Promise) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.promise == promise)
    }

    /// The whole as JSON, one object.
    #[must_use]
    pub fn json(&self) -> String {
        let mut value = serde_json::to_value(self).unwrap_or_default();
        value["counts"] = serde_json::to_value(self.counts()).unwrap_or_default();
        value.to_string()
    }
}

#[cfg(test)]
mod tests;
