//! Every format of one report that has everything in it: a pass, a failure with hostile text, and a probe that did not run.

use super::*;
use crate::{Detail, html, junit, table};

const HOSTILE: &str = "</td><script>alert(1)</script>\u{1b}[2J\" ' & ]]>";

fn finding(id: &str, promise: Promise, verdict: Verdict) -> Finding {
    Finding {
        id: id.into(),
        promise,
        controls: vec!["netns".into()],
        tries: "tries something".into(),
        shown_by: "the same attempt".into(),
        against: Against::Host,
        expected: vec![Outcome::new("EPERM")],
        inside: Some(Outcome::new(HOSTILE)),
        outside: None,
        recorded: None,
        verdict,
    }
}

fn report() -> Report {
    let failure = Verdict::NotHeld { why: HOSTILE.into() };
    Report {
        version: "0".into(),
        started: "2026-01-01T00:00:00Z".into(),
        took_ms: 1500,
        zone: HOSTILE.into(),
        zone_digest: "sha256:0".into(),
        user: "root".into(),
        host: "there".into(),
        kernel: "6".into(),
        controls: vec![ControlRow {
            name: "disk-hard".into(),
            does: "limits".into(),
            state: "degraded",
            cause: "no quota; a small disk".into(),
        }],
        degraded: vec!["a bare key".into()],
        notes: vec![],
        findings: vec![
            finding("a/held", Promise::P1, Verdict::Held),
            finding("b/broken", Promise::P3, failure),
            finding("c/skipped", Promise::P3, Verdict::NotRun { cause: "no python".into() }),
        ],
    }
}

#[test]
fn the_table_tells_failures_whole_and_passes_only_when_asked() {
    let brief = table(&report(), Detail::Brief);
    assert!(!brief.contains("a/held") && brief.contains("b/broken") && brief.contains("no python"), "{brief}");
    assert!(brief.contains("1 held, 1 NOT HELD, 1 not run") && brief.contains("disk-hard is degraded"), "{brief}");
    assert!(table(&report(), Detail::EveryProbe).contains("a/held"));
    assert!(!brief.contains('\u{1b}'), "what came out of a sandbox reaches the terminal as it is");
}

#[test]
fn the_page_shows_hostile_text_as_text_and_loads_nothing() {
    let page = html(&report());
    assert!(!page.contains("<script") && page.contains("&lt;script&gt;"), "{page}");
    assert!(!page.contains("src=") && !page.contains("http://") && !page.contains("url("), "{page}");
    assert!(page.contains("1 probe did not hold") && page.contains("b/broken"));
}

#[test]
fn junit_has_a_case_for_each_probe_and_well_formed_text() {
    let xml = junit(&report());
    assert_eq!(xml.matches("<testcase").count(), 3);
    assert_eq!((xml.matches("<failure").count(), xml.matches("<skipped").count()), (1, 1));
    assert!(xml.contains("tests=\"3\" failures=\"1\" skipped=\"1\"") && !xml.contains("<script"), "{xml}");
    assert!(xml.chars().all(|character| character == '\n' || !character.is_control()));
}

#[test]
fn json_says_the_verdict_of_each_probe_and_the_counts() {
    let json: serde_json::Value = serde_json::from_str(&report().json()).expect("is JSON");
    assert_eq!(json["counts"], serde_json::json!({"held": 1, "not_held": 1, "not_run": 1}));
    assert_eq!(json["findings"][1]["verdict"], "not_held");
    assert_eq!(json["findings"][2]["cause"], "no python");
}
