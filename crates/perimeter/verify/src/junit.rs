//! The report as JUnit's XML: a suite for each promise, a case for each probe. A probe that did not run is skipped, which is not a pass.

use crate::catalogue::Promise;
use crate::report::{Counts, Finding, Report, Verdict};

/// The document.
pub(crate) fn suites(report: &Report) -> String {
    let seconds = report.took_ms as f64 / 1000.0;
    let counts = report.counts();
    let mut text = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    text += &format!(
        "<testsuites name=\"{}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\">\n",
        escaped(&name(report)),
        report.findings.len(),
        counts.not_held,
        counts.not_run
    );
    for promise in Promise::ALL {
        let Counts { held, not_held, not_run, .. } = Counts::of(report.of(promise));
        let all = held + not_held + not_run;
        if all == 0 {
            continue;
        }
        text += &format!(
            "  <testsuite name=\"{promise} {}\" tests=\"{all}\" failures=\"{not_held}\" skipped=\"{not_run}\" timestamp=\"{}\">\n",
            escaped(promise.words()),
            escaped(&report.started)
        );
        text.extend(report.of(promise).map(case));
        text += "  </testsuite>\n";
    }
    text + "</testsuites>\n"
}

/// What the whole is called: a part of the catalogue says so, and a run that was broken off.
fn name(report: &Report) -> String {
    let part = if report.only.is_empty() { String::new() } else { format!(": {}", report.extent()) };
    let broken = report.broken_off.iter().map(|what| format!(", broken off: {what}")).collect::<String>();
    format!("postern verify{part}{broken}")
}

fn case(finding: &Finding) -> String {
    let head = format!("    <testcase classname=\"{}\" name=\"{}\"", finding.promise, escaped(&finding.id));
    let tries = escaped(&finding.tries);
    match &finding.verdict {
        Verdict::Held => format!("{head}/>\n"),
        Verdict::NotHeld { why } => {
            format!("{head}><failure message=\"{}\">{tries}</failure></testcase>\n", escaped(why))
        }
        Verdict::NotRun { cause, .. } => format!("{head}><skipped message=\"{}\"/></testcase>\n", escaped(cause)),
    }
}

/// Text for XML and HTML alike; characters that XML 1.0 has no place for are replaced.
pub(crate) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            control if control.is_control() => out.push('\u{fffd}'),
            other => out.push(other),
        }
    }
    out
}
