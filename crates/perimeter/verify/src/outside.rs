//! The control runs: the attack program on the host or in bare namespaces, as a process like another, with a deadline.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Duration;

use postern_exec::program::{Program, ProgramError, Running};

use crate::attempt::{self, Ended, INTERPRETER, Plan};

/// The whole of a run.
const PATIENCE: Duration = Duration::from_secs(240);
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

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::attempt::{PROGRAM, Planned};
    use crate::catalogue::{Attempt, Outcome};

    /// Attempts of the tests' own, in the program as it is but for one word.
    async fn made(word: [&str; 2], attempts: &[(&str, Value)]) -> BTreeMap<String, Ended> {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("attack.py");
        let own =
            "def hang():\n    time.sleep(100)\n\n\ndef tell(count):\n    return 'made', b'x' * count\n\n\nmain()\n";
        let text = PROGRAM.replacen(word[0], word[1], 1);
        assert_eq!((PROGRAM.matches(word[0]).count(), text.matches("\nmain()\n").count()), (1, 1));
        std::fs::write(&program, text.replace("\nmain()\n", &format!("\n{own}"))).unwrap();
        let attempt = |attempt: &Value| Attempt(attempt.as_array().unwrap().clone());
        let probes = attempts.iter().map(|(id, words)| Planned { id, attempt: attempt(words) }).collect();
        let plan = Plan {
            namespace: false,
            side: "outside",
            variable: "V",
            taken: &[],
            hosts: BTreeMap::new(),
            certificate: String::new(),
            names: String::new(),
            outer_uid: String::new(),
            neighbour: String::new(),
            real: String::new(),
            probes,
        };
        run(&program, &plan, Vec::new()).await.unwrap()
    }

    /// Nothing of the program changed.
    const AS_IT_IS: [&str; 2] = ["DEADLINE_SECONDS = 15", "DEADLINE_SECONDS = 15"];

    #[tokio::test]
    async fn an_attempt_that_does_not_end_is_ended_and_the_next_is_made() {
        let attempts = [("a/hangs", json!(["hang"])), ("a/next", json!(["tell", 1]))];
        let ended = made([AS_IT_IS[0], "DEADLINE_SECONDS = 5"], &attempts).await;
        assert_eq!(ended["a/hangs"].outcome, Outcome::new("killed SIGALRM"));
        assert_eq!(ended["a/next"].outcome, Outcome::new("made"));
    }

    #[tokio::test]
    async fn of_what_an_attempt_brings_back_the_beginning_is_kept() {
        let attempts = [("a/long", json!(["tell", 20_000])), ("a/short", json!(["tell", 16_384]))];
        let ended = made(AS_IT_IS, &attempts).await;
        assert_eq!([ended["a/long"].detail.len(), ended["a/short"].detail.len()], [16_384, 16_384]);
    }

    #[tokio::test(start_paused = true)]
    async fn all_attempts_outside_together_have_so_long() {
        let begun = tokio::time::Instant::now();
        let ended = made(AS_IT_IS, &[("a/hangs", json!(["hang"]))]).await;
        assert!(ended.is_empty());
        assert!((240..=243).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
