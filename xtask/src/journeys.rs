//! Journeys: the real binary, driven by the official SDK from Python.

use crate::prepare;
use crate::run::{BUILD, Outcome, command, root, run};

/// Builds the binary and runs everything under `tests/` with pytest.
pub(crate) fn all() -> Outcome {
    run(command("cargo").args(BUILD))?;
    let (python, foreign) = prepare::journeys()?;
    let binary = root().join("target/debug/postern");
    run(command(python).env("POSTERN_BINARY", binary).env("POSTERN_FOREIGN", foreign).args([
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "tests",
    ]))
}
