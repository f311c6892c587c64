//! The control runs: the attack program on the host or in bare namespaces, as a process like another, with a deadline.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use postern_exec::program::{Program, ProgramError, Running};

use crate::attempt::{self, Ended, INTERPRETER, Plan};

/// The whole of a run.
const PATIENCE: Duration = Duration::from_secs(90);
/// A program that is told to end.
const END: Duration = Duration::from_secs(3);

/// Runs a plan outside. What it could not say is missing.
pub(crate) async fn run(
    program: &Path,
    plan: &Plan<'_>,
    environment: Vec<(String, String)>,
) -> Result<BTreeMap<String, Ended>, ProgramError> {
    let arguments = vec![serde_json::to_string(plan).unwrap_or_default()];
    let mut running = start(program, arguments, environment)?;
    let mut printed = String::new();
    let reading = async {
        while let Ok(line) = running.line().await {
            if line.is_empty() {
                break;
            }
            printed.push_str(&line);
        }
    };
    // What was said until then counts.
    let _late = tokio::time::timeout(PATIENCE, reading).await;
    end(running).await;
    Ok(attempt::read(&printed))
}

/// Starts the program.
pub(crate) fn start(
    program: &Path,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
) -> Result<Running, ProgramError> {
    let directory = program.parent().unwrap_or(Path::new("/")).to_owned();
    let arguments =
        ["-I".to_owned(), "-S".to_owned(), program.display().to_string()].into_iter().chain(arguments).collect();
    let quiet = File::options().write(true).open("/dev/null");
    let quiet = quiet.map_err(|source| ProgramError::Run { exe: INTERPRETER.into(), source })?;
    Program { exe: INTERPRETER.into(), directory, arguments, environment }.start(quiet)
}

/// Ends it.
pub(crate) async fn end(mut running: Running) {
    if let Err(error) = running.terminate(END).await {
        tracing::warn!(%error, "a program of the control run could not be ended");
    }
}
