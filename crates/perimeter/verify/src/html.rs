//! The report as one page for an auditor: the verdict first, then each promise with its probes, each with what was tried, what was seen inside, what the
//! same attempt did without the boundary, and what is on record. Nothing is loaded from elsewhere, nothing runs, and it prints.

use crate::catalogue::{Against, Outcome, Promise};
use crate::junit::escaped;
use crate::report::{Counts, Finding, Report, Verdict};

/// The page.
pub(crate) fn page(report: &Report) -> String {
    let title = format!("Boundary of zone {}", report.zone);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<meta name=\"viewport\" content=\"width=device-width\">\n<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n<title>{}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>\n",
        escaped(&title)
    );
    page += &head(report, &title);
    page += &summary(report);
    page += &not_passed(report);
    page += &controls(report);
    page += &reading(report);
    page.extend(Promise::ALL.iter().map(|promise| section(report, *promise)));
    page + "</main>\n</body>\n</html>\n"
}

fn head(report: &Report, title: &str) -> String {
    let Counts { held, not_held, not_run, .. } = report.counts();
    let rest = |text: &str| if not_run > 0 { format!("{text}, {not_run} did not run") } else { text.to_owned() };
    let (class, verdict) = match (not_held, not_run) {
        (0, 0) => ("held", format!("All {held} probes held")),
        (0, _) => ("not-run", rest(&format!("{held} probes held"))),
        (1, _) => ("not-held", rest(&format!("1 probe did not hold, {held} held"))),
        _ => ("not-held", rest(&format!("{not_held} probes did not hold, {held} held"))),
    };
    let part = if report.only.is_empty() { String::new() } else { format!(" ({})", escaped(&report.extent())) };
    let broken = report.broken_off.iter().map(|what| format!("; the run was broken off: {}", escaped(what)));
    let verdict = format!("{verdict}{part}{}", broken.collect::<String>());
    let deployed = match report.deployed_digest.as_str() {
        "" => "none: the configuration names no such zone",
        digest => digest,
    };
    let facts = [
        ("Zone", report.zone.clone()),
        ("Digest as deployed", deployed.to_owned()),
        ("Digest as it ran", report.zone_digest.clone()),
        ("Begun", report.started.clone()),
        ("Took", format!("{:.1} s", report.took_ms as f64 / 1000.0)),
        ("Run as", report.user.clone()),
        ("Machine", report.host.clone()),
        ("Kernel", report.kernel.clone()),
        ("Postern", report.version.clone()),
    ];
    let facts: String =
        facts.iter().map(|(name, value)| format!("<dt>{name}</dt><dd>{}</dd>", escaped(value))).collect();
    format!(
        "<header>\n<p class=\"eyebrow\">postern verify</p>\n<h1>{}</h1>\n<p class=\"verdict {class}\">{verdict}</p>\n<dl>{facts}</dl>\n</header>\n",
        escaped(title)
    )
}

fn summary(report: &Report) -> String {
    let rows: String = Promise::ALL
        .iter()
        .map(|promise| {
            let counts = Counts::of(report.of(*promise));
            format!(
                "<tr><th scope=\"row\"><a href=\"#{promise}\">{promise}</a></th><td>{}</td>{}{}{}</tr>\n",
                escaped(promise.words()),
                number(counts.held, "held"),
                number(counts.not_held, "not-held"),
                number(counts.not_run, "not-run"),
            )
        })
        .collect();
    format!(
        "<section>\n<h2>Promises</h2>\n<table class=\"summary\">\n<thead><tr><th scope=\"col\"></th><th scope=\"col\">Promise</th><th scope=\"col\">Held</th><th scope=\"col\">Not held</th><th scope=\"col\">Not run</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n"
    )
}

fn number(count: usize, class: &str) -> String {
    match count {
        0 => "<td class=\"number none\">0</td>".to_owned(),
        _ => format!("<td class=\"number {class}\">{count}</td>"),
    }
}

/// What a reader must not miss, before anything else.
fn not_passed(report: &Report) -> String {
    let rows: String = report.findings.iter().filter(|finding| finding.verdict != Verdict::Held).map(failure).collect();
    match rows.is_empty() {
        true => String::new(),
        false => format!("<section>\n<h2>Not a pass</h2>\n{rows}</section>\n"),
    }
}

fn failure(finding: &Finding) -> String {
    format!(
        "<article class=\"{}\"><h3>{} <span class=\"badge\">{}</span></h3><p>{}</p><p class=\"why\">{}</p><p class=\"small\">Shown by: {}. Controls: {}.</p></article>\n",
        class(&finding.verdict),
        escaped(&finding.id),
        finding.verdict.word(),
        sentence(&finding.tries),
        escaped(finding.verdict.why().unwrap_or_default()),
        escaped(&finding.shown_by),
        escaped(&finding.controls.join(", "))
    )
}

fn controls(report: &Report) -> String {
    let rows: String = report
        .controls
        .iter()
        .map(|row| {
            format!(
                "<tr><th scope=\"row\">{}</th><td class=\"state {}\">{}</td><td>{} <span class=\"small\">{}</span></td></tr>\n",
                escaped(&row.name),
                row.state,
                row.state,
                sentence(&row.does),
                escaped(&row.cause)
            )
        })
        .collect();
    let besides = report.degraded.iter().map(|what| format!("Degraded: {what}")).chain(report.notes.iter().cloned());
    let besides: String = besides.map(|line| format!("<li>{}</li>", sentence(&line))).collect();
    format!(
        "<section>\n<h2>Controls of the sandbox on this machine</h2>\n<table class=\"controls\">\n<tbody>\n{rows}</tbody>\n</table>\n<ul>{besides}</ul>\n</section>\n"
    )
}

fn section(report: &Report, promise: Promise) -> String {
    let rows = rows_by_area(report.of(promise));
    if rows.is_empty() {
        return String::new();
    }
    format!(
        "<section id=\"{promise}\">\n<h2>{promise} <span>{}</span></h2>\n<table class=\"probes\">\n<thead><tr><th scope=\"col\">Attempt</th><th scope=\"col\">Inside</th><th scope=\"col\">Without the boundary</th><th scope=\"col\">Verdict</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n",
        escaped(promise.words())
    )
}

/// A heading where another area begins: a promise can have hundreds of probes.
fn rows_by_area<'a>(findings: impl Iterator<Item = &'a Finding>) -> String {
    let (mut rows, mut area) = (String::new(), "");
    for finding in findings {
        let own = finding.id.split('/').next().unwrap_or_default();
        if own != area {
            area = own;
            rows += &format!("<tr class=\"area\"><th scope=\"rowgroup\" colspan=\"4\">{}</th></tr>\n", sentence(own));
        }
        rows += &row(finding);
    }
    rows
}

fn row(finding: &Finding) -> String {
    let seen =
        |outcome: &Option<Outcome>| outcome.as_ref().map_or_else(|| "–".to_owned(), |one| escaped(&one.to_string()));
    let recorded = match &finding.recorded {
        Some(reason) => format!("<br><span class=\"small\">on record as {}</span>", escaped(reason)),
        None => String::new(),
    };
    format!(
        "<tr><td>{}<br><span class=\"small\"><code>{}</code> · {}</span></td><td><code>{}</code>{recorded}</td><td><code>{}</code><br><span class=\"small\">{}</span></td><td><span class=\"badge {}\">{}</span></td></tr>\n",
        sentence(&finding.tries),
        escaped(&finding.id),
        escaped(&finding.controls.join(", ")),
        seen(&finding.inside),
        seen(&finding.outside),
        escaped(&finding.shown_by),
        class(&finding.verdict),
        finding.verdict.word(),
    )
}

fn class(verdict: &Verdict) -> &'static str {
    match verdict {
        Verdict::Held => "held",
        Verdict::NotHeld { .. } => "not-held",
        Verdict::NotRun { .. } => "not-run",
    }
}

/// With a capital letter.
fn sentence(text: &str) -> String {
    let mut characters = text.chars();
    let first: String = characters.next().map(|first| first.to_uppercase().collect()).unwrap_or_default();
    escaped(&(first + characters.as_str()))
}

/// How to read it, and of how many attempts there is no control run.
fn reading(report: &Report) -> String {
    let once = report.findings.iter().filter(|finding| finding.against == Against::Nowhere).count();
    let twice = if once == 0 { "Each attempt was" } else { "Most attempts were" };
    let once = match once {
        0 => String::new(),
        once => format!(
            " {once} of {} were made once: a control run would harm a machine or shows nothing on one, and what shows them instead stands beside them.",
            report.findings.len()
        ),
    };
    format!(
        "<section>\n<h2>How to read this</h2>\n<p>{twice} made twice in the same way: where the boundary is (in a real sandbox of this zone, as one of our own confined processes, through a tunnel and its gateway), and once more where it is not. It <b>held</b> when it failed inside in the way that the catalogue expects, worked or got further without the boundary, and, where a decision was due, its refusal is in the audit log with this reason. An attempt that fails everywhere proves nothing and is <b>not run</b>, which is not a pass. An attempt is <b>open</b> where the control that should stop it is missing here, and it succeeded.{once}</p>\n<p><code>made</code> means that the attack did what it is for; <code>refused</code> and a reason is the answer of our own policy, a word in capitals is the kernel's error. <code>reached</code>: the kernel looked at the call, so nothing had stopped it. <code>clean</code> and <code>leaked</code>: whether a secret planted for the run was in what came back. <code>none</code>, <code>whole</code>, <code>before</code> and the like answer the question that the attempt asks.</p>\n</section>\n"
    )
}

const STYLE: &str = "
:root { --ink: #1b1f24; --soft: #5b6470; --line: #d9dee4; --ground: #fff; --tint: #f5f7f9; --held: #14683c; --bad: #a4161a; --open: #8a5a00; }
* { box-sizing: border-box; }
body { margin: 0; background: var(--ground); color: var(--ink); font: 15px/1.5 system-ui, -apple-system, 'Segoe UI', 'DejaVu Sans', sans-serif; }
main { max-width: 68rem; margin: 0 auto; padding: 2.5rem 1.5rem 4rem; }
.eyebrow { margin: 0; color: var(--soft); letter-spacing: .04em; }
h1 { margin: .1rem 0 1rem; font-size: 1.9rem; line-height: 1.2; }
h2 { margin: 2.6rem 0 .7rem; font-size: 1.2rem; }
h2 span { font-weight: 400; color: var(--soft); }
h3 { margin: 0 0 .3rem; font-size: 1rem; }
.verdict { display: inline-block; margin: 0 0 1.2rem; padding: .5rem .9rem; border-left: 5px solid; font-size: 1.15rem; font-weight: 600; background: var(--tint); }
.held { color: var(--held); } .not-held { color: var(--bad); } .not-run { color: var(--open); }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .15rem 1.2rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; overflow-wrap: anywhere; }
table { width: 100%; border-collapse: collapse; }
th, td { padding: .45rem .7rem .45rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top; font-weight: 400; }
thead th { color: var(--soft); border-bottom-width: 2px; }
.summary tbody th, .controls tbody th { font-weight: 600; white-space: nowrap; }
.number { text-align: right; font-variant-numeric: tabular-nums; width: 5.5rem; font-weight: 600; }
.summary thead th:nth-child(n+3) { text-align: right; }
.none { color: var(--soft); font-weight: 400; }
.probes { table-layout: fixed; }
.probes th:nth-child(1) { width: 40%; } .probes th:nth-child(2) { width: 22%; } .probes th:nth-child(3) { width: 27%; } .probes th:nth-child(4) { width: 11%; }
.probes td { overflow-wrap: anywhere; }
.area th { padding-top: 1.3rem; color: var(--soft); font-weight: 600; }
.state.active { color: var(--held); } .state.degraded { color: var(--open); } .state.missing { color: var(--bad); }
.small { color: var(--soft); font-size: .85rem; }
.badge { font-weight: 600; white-space: nowrap; }
article { margin: 0 0 .8rem; padding: .8rem 1rem; border-left: 5px solid; background: var(--tint); }
article p { margin: .2rem 0; color: var(--ink); } article .small { color: var(--soft); }
code { font: .9em ui-monospace, 'DejaVu Sans Mono', monospace; }
a { color: inherit; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ed; --soft: #9aa4b0; --line: #323a44; --ground: #14181d; --tint: #1d232a; --held: #6fce96; --bad: #ff8f8f; --open: #e8b866; } }
@media print { main { max-width: none; padding: 0; } tr, article { break-inside: avoid; } body { font-size: 11px; } }
";
