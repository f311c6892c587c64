//! Journeys: the real binary, driven by official SDKs from Python and Node.js, and which client exercised which route.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Map, Value};

use crate::prepare;
use crate::run::{BUILD, Outcome, command, output, root, run, status};

/// Builds the binary, runs everything under `tests/` but what only hours show (`tests/soak`) with pytest, and compares who exercised which route with what is reviewed.
pub(crate) fn all() -> Outcome {
    noted(&["tests", "--ignore=tests/soak"])?;
    println!("xtask: who exercised which route: target/conformance/report.md");
    Ok(())
}

/// Runs the journeys that official clients drive, and prints the report.
pub(crate) fn conformance() -> Outcome {
    println!("{}", noted(&["tests/sdk", "tests/worker"])?);
    Ok(())
}

/// Runs journeys with notes of who was answered; the report also stays in `target/conformance`.
fn noted(journeys: &[&str]) -> Outcome<String> {
    run(command("cargo").args(BUILD))?;
    let (python, foreign) = prepare::journeys()?;
    let notes = root().join("target/conformance");
    emptied(&notes).map_err(|cause| format!("empty {}: {cause}", notes.display()))?;
    let checkers = prepare::checkers()?;
    let pytest = || {
        let mut pytest = command(&python);
        pytest
            .env("POSTERN_BINARY", root().join("target/debug/postern"))
            .env("POSTERN_FOREIGN", &foreign)
            .env("POSTERN_CHECKERS", &checkers)
            .env("POSTERN_CONFORMANCE", &notes)
            .args(["-m", "pytest", "-q", "-o"])
            .arg(format!("cache_dir={}", root().join(MEMORY).display()))
            .args(journeys);
        pytest
    };
    passed(pytest)?;
    let report = output(command(&python).arg("tests/conformance/report.py").arg(&notes))?;
    fs::write(notes.join("report.md"), &report).map_err(|cause| format!("write {}: {cause}", notes.display()))?;
    Ok(report)
}

/// Runs journeys. A few that failed are run once more, without the others, and named in any case; one that judges what an attack or a death came
/// to is not: an attack that succeeded once has succeeded.
fn passed(pytest: impl Fn() -> Command) -> Outcome {
    emptied(&root().join(MEMORY)).map_err(|cause| format!("empty {MEMORY}: {cause}"))?;
    let status = status(&mut pytest())?;
    if status.success() {
        return Ok(());
    }
    let failed = failed()?;
    let judges = |journey: &String| JUDGES.iter().any(|place| journey.trim_start_matches("tests/").starts_with(place));
    // Any other code is a run that did not come to its end.
    let is_whole = status.code() == Some(SOME_FAILED);
    if !is_whole || failed.is_empty() || failed.len() > AGAIN || failed.iter().any(judges) {
        return Err(format!("pytest ended with {status}"));
    }
    println!("xtask: run once more: {}", failed.join(", "));
    run(pytest().args(["--last-failed", "--last-failed-no-failures", "none"]))?;
    println!("xtask: FAILED ONCE, passed when run again, to be mended: {}", failed.join(", "));
    Ok(())
}

/// Which journeys failed, as pytest remembers it.
fn failed() -> Outcome<Vec<String>> {
    let path = root().join(MEMORY).join("v/cache/lastfailed");
    if !path.exists() {
        return Ok(Vec::new());
    }
    let text = fs::read_to_string(&path).map_err(|cause| format!("read {}: {cause}", path.display()))?;
    let failed: Map<String, Value> =
        serde_json::from_str(&text).map_err(|cause| format!("read {}: {cause}", path.display()))?;
    Ok(failed.into_iter().map(|(journey, _)| journey).collect())
}

fn emptied(directory: &Path) -> std::io::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)
}

/// Where pytest remembers what failed.
const MEMORY: &str = "target/journeys";
/// More journeys that fail are no chance.
const AGAIN: usize = 3;
/// What pytest ends with when every test ran and some failed.
const SOME_FAILED: i32 = 1;
/// Journeys that judge attacks, secrets and deaths.
const JUDGES: &[&str] = &[
    "boundary/",
    "independent/",
    "crash/",
    "danger/test_points",
    "danger/test_far_points",
    "cli/test_control_hostile",
    "cli/test_event_keys",
    "cli/test_key_files",
    "sdk/test_model_key",
    "tunnel/test_oauth",
    "tunnel/test_tunnel_crash",
    "tunnel/test_vault",
    "worker/test_audit_disk",
    "worker/test_journal",
];
