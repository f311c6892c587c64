//! What the rehearsal prints: one row per step, then what was refused, what was recorded, and the canary search.

use std::fmt::Write as _;
use std::time::Duration;

use super::step::Intent;

/// How a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Honest work succeeded.
    Ok,
    /// An attack failed.
    Held,
    /// Honest work failed, or an attack did not.
    Failed,
}

/// One row.
pub(crate) struct Row {
    pub(crate) title: String,
    pub(crate) verdict: Verdict,
    pub(crate) took: Duration,
    pub(crate) details: Vec<String>,
}

impl Verdict {
    pub(crate) fn of(intent: Intent, broken: bool) -> Self {
        match (intent, broken) {
            (_, true) => Self::Failed,
            (Intent::Honest, false) => Self::Ok,
            (Intent::Attack, false) => Self::Held,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Held => "held",
            Self::Failed => "FAILED",
        }
    }
}

/// The table as text, widths fitted to a terminal of 100 columns.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = String::new();
    for row in rows {
        let milliseconds = row.took.as_secs_f64() * 1000.0;
        let _ = writeln!(text, "  {:<7} {:>7.0} ms  {}", row.verdict.word(), milliseconds, row.title);
        for detail in &row.details {
            let _ = writeln!(text, "  {:21}{detail}", "");
        }
    }
    text
}

/// `N passed, N failed`, the way test runners close.
pub(crate) fn summary(rows: &[Row]) -> String {
    let failed = rows.iter().filter(|row| row.verdict == Verdict::Failed).count();
    format!("{} passed, {failed} failed", rows.len() - failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_shows_verdict_time_title_and_what_was_refused() {
        let row = Row {
            title: "carry data out".into(),
            verdict: Verdict::Held,
            took: Duration::from_millis(12),
            details: vec!["host_not_allowed".into()],
        };
        let text = table(&[row]);
        assert!(text.contains("held") && text.contains("12 ms") && text.contains("carry data out"));
        assert!(text.contains("host_not_allowed"));
    }

    #[test]
    fn an_attack_that_breaks_an_expectation_has_failed_to_be_held() {
        assert_eq!(Verdict::of(Intent::Attack, true), Verdict::Failed);
        assert_eq!(Verdict::of(Intent::Attack, false), Verdict::Held);
        assert_eq!(Verdict::of(Intent::Honest, false), Verdict::Ok);
    }
}
