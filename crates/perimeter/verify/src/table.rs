//! The report for a terminal: one line for each promise, failures whole, each probe only when asked for.

use crate::catalogue::Promise;
use crate::report::{Counts, Finding, Report, Verdict};

/// How much is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Detail {
    /// Counts, and whatever is not a pass.
    Brief,
    /// A line for each probe.
    EveryProbe,
}

/// The lines.
pub(crate) fn lines(report: &Report, detail: Detail) -> String {
    let digest = match report.deployed_digest.as_str() {
        "" => String::new(),
        digest => format!(", {digest}"),
    };
    let zone = printable(&report.zone);
    let mut lines = vec![format!("zone {zone}{digest}, as {}, kernel {}", report.user, report.kernel), String::new()];
    for promise in Promise::ALL {
        let counts = Counts::of(report.of(promise));
        if counts == Counts::default() {
            continue;
        }
        lines.push(format!("{promise}  {:<58} {}", promise.words(), told(counts)));
        for finding in report.of(promise) {
            if detail == Detail::EveryProbe || finding.verdict != Verdict::Held {
                lines.extend(probe(finding));
            }
        }
    }
    lines.push(String::new());
    for row in report.controls.iter().filter(|row| row.state != "active") {
        lines.push(format!("{} is {}: {}", row.name, row.state, printable(&row.cause)));
    }
    lines.extend(report.degraded.iter().map(|what| format!("degraded: {}", printable(what))));
    lines.extend(report.notes.iter().map(|note| format!("note: {}", printable(note))));
    let seconds = report.took_ms as f64 / 1000.0;
    lines.extend(report.broken_off.iter().map(|what| format!("the run was broken off: {what}")));
    lines.push(format!("{} probes in {seconds:.1} s: {}", report.extent(), told(report.counts())));
    lines.join("\n") + "\n"
}

fn told(counts: Counts) -> String {
    let Counts { held, not_held, not_run, not_here } = counts;
    let mut text = format!("{held} held");
    if not_held > 0 {
        text += &format!(", {not_held} NOT HELD");
    }
    if not_run > 0 {
        text += &format!(", {not_run} not run");
    }
    if not_here > 0 {
        text += &format!(" ({not_here} not here)");
    }
    text
}

fn probe(finding: &Finding) -> Vec<String> {
    let mut lines = vec![format!("    {:<9} {:<34} {}", finding.verdict.word(), finding.id, finding.tries)];
    if let Some(why) = finding.verdict.why() {
        lines.push(format!("              {}", printable(why)));
        lines.push(format!("              shown by: {}", finding.shown_by));
        lines.push(format!("              controls: {}", finding.controls.join(", ")));
    }
    lines
}

/// What came out of a sandbox moves no cursor.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}
