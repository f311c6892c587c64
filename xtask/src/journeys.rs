//! Journeys: the real binary, driven by official SDKs from Python and Node.js, and which client exercised which route.

use std::fs;
use std::path::Path;

use crate::prepare;
use crate::run::{BUILD, Outcome, command, output, root, run};

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
    run(command(&python)
        .env("POSTERN_BINARY", root().join("target/debug/postern"))
        .env("POSTERN_FOREIGN", foreign)
        .env("POSTERN_CHECKERS", prepare::checkers()?)
        .env("POSTERN_CONFORMANCE", &notes)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(journeys))?;
    let report = output(command(&python).arg("tests/conformance/report.py").arg(&notes))?;
    fs::write(notes.join("report.md"), &report).map_err(|cause| format!("write {}: {cause}", notes.display()))?;
    Ok(report)
}

fn emptied(directory: &Path) -> std::io::Result<()> {
    if directory.exists() {
        fs::remove_dir_all(directory)?;
    }
    fs::create_dir_all(directory)
}
