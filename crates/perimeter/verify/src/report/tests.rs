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
        deployed_digest: "sha256:1".into(),
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
        only: vec![],
        catalogue: 9,
        broken_off: None,
        findings: vec![
            finding("a/held", Promise::P1, Verdict::Held),
            finding("b/broken", Promise::P3, failure),
            finding("c/skipped", Promise::P3, Verdict::NotRun { kind: Cause::NoAnswer, cause: "no python".into() }),
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
    assert_eq!(json["counts"], serde_json::json!({"held": 1, "not_held": 1, "not_run": 1, "not_here": 0}));
    assert_eq!(json["findings"][1]["verdict"], "not_held");
    assert_eq!(json["findings"][2]["cause"], "no python");
    assert_eq!(json["findings"][2]["kind"], "no_answer");
}

#[test]
fn every_format_says_of_a_part_of_the_catalogue_that_it_is_one_and_what_broke_the_run_off() {
    let whole = report();
    let part = Report { only: vec!["P1".into()], broken_off: Some("egress ended".into()), ..report() };
    for text in [table(&part, Detail::Brief), html(&part), junit(&part)] {
        assert!(text.contains("3 of 9") && text.contains("egress ended"), "{text}");
    }
    for text in [table(&whole, Detail::Brief), html(&whole), junit(&whole)] {
        assert!(!text.contains("of 9") && !text.contains("broken off"), "{text}");
    }
    let json: serde_json::Value = serde_json::from_str(&part.json()).expect("is JSON");
    assert_eq!((&json["only"][0], &json["catalogue"]), (&"P1".into(), &9.into()));
    assert_eq!(json["broken_off"], "egress ended");
}

#[test]
fn a_page_with_failures_says_how_much_did_not_run_and_both_digests() {
    let page = html(&report());
    assert!(page.contains("1 probe did not hold, 1 held, 1 did not run"), "{page}");
    assert!(page.contains("sha256:0") && page.contains("sha256:1"));
    assert!(table(&report(), Detail::Brief).contains("sha256:1"));
}

#[test]
fn an_attack_that_succeeded_for_want_of_its_control_is_told_apart_from_one_that_was_not_made() {
    let open = Verdict::NotRun { kind: Cause::Open, cause: "not here: netns is missing".into() };
    let report = Report { findings: vec![finding("d/open", Promise::P3, open)], ..report() };
    let brief = table(&report, Detail::Brief);
    assert!(brief.contains("open      d/open") && brief.contains("1 not run (1 not here)"), "{brief}");
}
