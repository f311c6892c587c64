//! `cargo xtask conformance`: which client exercised which route, from the journeys that clients we did not write drive.

use std::fs;

use crate::prepare;
use crate::run::{BUILD, Outcome, command, output, root, run};

/// The journeys that official clients drive.
const JOURNEYS: [&str; 2] = ["tests/sdk", "tests/worker"];

/// Runs these journeys with notes of who was answered, and prints the report. It stays in `target/conformance`.
pub(crate) fn report() -> Outcome {
    run(command("cargo").args(BUILD))?;
    let (python, foreign) = prepare::journeys()?;
    let notes = root().join("target/conformance");
    let failed = |cause: std::io::Error| format!("write {}: {cause}", notes.display());
    if notes.exists() {
        fs::remove_dir_all(&notes).map_err(failed)?;
    }
    fs::create_dir_all(&notes).map_err(failed)?;
    run(command(&python)
        .env("POSTERN_BINARY", root().join("target/debug/postern"))
        .env("POSTERN_FOREIGN", foreign)
        .env("POSTERN_CONFORMANCE", &notes)
        .args(["-m", "pytest", "-q", "-p", "no:cacheprovider"])
        .args(JOURNEYS))?;
    let report = output(command(&python).arg("tests/conformance/report.py").arg(&notes))?;
    println!("{report}");
    fs::write(notes.join("report.md"), report).map_err(failed)
}
