//! Attacks by our own processes: `postern confined ROLE ATTEMPT` confines itself as that role does and tries; `none` in the role's place is the control run.
//! Each attempt has a process of its own, since what is given up is given up for good.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use postern_exec::program::Program;
use serde::Deserialize;
use tokio::task::JoinSet;

use crate::attempt::confined;
use crate::catalogue::{Outcome, Probe};
use crate::judge::Evidence;
use crate::outside;
use crate::stand::Stand;

/// Who attempts what: the role or [`NOBODY`], the attempt and its argument.
type Words = Vec<String>;

/// Makes every attempt of a role and its control run, some at a time.
pub(crate) async fn attack(exe: &Path, stand: &Stand, probes: &[Probe], seen: &mut BTreeMap<String, Evidence>) {
    let pairs: Vec<(String, Words, Words)> = probes.iter().filter_map(|probe| pair(stand, probe)).collect();
    let wanted: BTreeSet<Words> =
        pairs.iter().flat_map(|(_, inside, outside)| [inside.clone(), outside.clone()]).collect();
    let ended = all(exe, stand.directory(), wanted).await;
    for (id, inside, outside) in pairs {
        let evidence = seen.entry(id).or_default();
        (evidence.inside, evidence.outside) = (ended.get(&inside).cloned(), ended.get(&outside).cloned());
    }
}

fn pair(stand: &Stand, probe: &Probe) -> Option<(String, Words, Words)> {
    let attempt = stand.names.fill(&probe.attempt);
    let (role, rest) = confined(&attempt)?;
    let words = |role: &str| [role].iter().chain(&rest).map(ToString::to_string).collect();
    Some((probe.id.clone(), words(role), words(NOBODY)))
}

async fn all(exe: &Path, data: &Path, wanted: BTreeSet<Words>) -> BTreeMap<Words, Outcome> {
    let (mut running, mut ended) = (JoinSet::new(), BTreeMap::new());
    for words in wanted {
        if running.len() >= AT_ONCE {
            ended.extend(running.join_next().await.and_then(Result::ok).flatten());
        }
        running.spawn(one(exe.to_owned(), data.to_owned(), words));
    }
    while let Some(one) = running.join_next().await {
        ended.extend(one.ok().flatten());
    }
    ended
}

/// One attempt; nothing where its process says nothing in time.
async fn one(exe: PathBuf, data: PathBuf, words: Words) -> Option<(Words, Outcome)> {
    let place = ["--data-dir".to_owned(), data.display().to_string()];
    let arguments = std::iter::once("confined".to_owned()).chain(words.iter().cloned()).chain(place).collect();
    let quiet = File::options().write(true).open("/dev/null").ok()?;
    let mut running = Program { exe, directory: data, arguments, environment: Vec::new() }.start(quiet).ok()?;
    let line = tokio::time::timeout(PATIENCE, running.line()).await;
    outside::end(running).await;
    Some((words, read(&line.ok()?.ok()?)?))
}

#[derive(Deserialize)]
struct Line {
    outcome: String,
    error: Option<String>,
}

/// What came of it in the catalogue's words: `made`, the error of a refusal, or `reached` where the kernel looked at the call and found fault with it.
fn read(line: &str) -> Option<Outcome> {
    let line: Line = serde_json::from_str(line).ok()?;
    let word = match (line.outcome.as_str(), line.error) {
        ("done", _) => "made".to_owned(),
        ("refused", Some(error)) => error,
        ("failed", Some(error)) if error == "ENOENT" => "nothing there".to_owned(),
        ("failed", Some(_)) => "reached".to_owned(),
        _ => return None,
    };
    Some(Outcome::new(word))
}

/// In the place of a role: the same program, which does not confine itself.
const NOBODY: &str = "none";
/// Processes of this kind at a time.
const AT_ONCE: usize = 4;
/// One of them.
const PATIENCE: Duration = Duration::from_secs(15);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_there_shows_nothing_and_what_the_kernel_looked_at_was_reached() {
        let table = [
            (r#"{"outcome":"done","error":null}"#, Some("made")),
            (r#"{"outcome":"refused","error":"EPERM"}"#, Some("EPERM")),
            (r#"{"outcome":"failed","error":"EFAULT"}"#, Some("reached")),
            (r#"{"outcome":"failed","error":"ENOENT"}"#, Some("nothing there")),
            ("not JSON", None),
        ];
        for (line, wanted) in table {
            assert_eq!(read(line), wanted.map(Outcome::new), "{line}");
        }
    }

    /// What the processes of as many attempts said, each of which runs this script in a directory of the test's.
    async fn made(directory: &Path, script: &str, attempts: usize) -> BTreeMap<Words, Outcome> {
        let exe = directory.join("exe");
        std::fs::write(&exe, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&exe, std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
        all(&exe, directory, (0..attempts).map(|number| vec![format!("role-{number}")]).collect()).await
    }

    #[tokio::test]
    async fn so_many_attempts_as_roles_are_made_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        // Each waits for three others, or for the last, and tells how many there were.
        let script = r#"mkdir "is.$$" "was.$$"
            until [ $(ls -d is.* | wc -l) -ge 4 ] || [ $(ls -d was.* | wc -l) -ge 12 ]; do sleep 0.02; done
            sleep 0.2
            ls -d is.* | wc -l > "count.$$"
            rmdir "is.$$"
            echo '{"outcome":"done","error":null}'"#;
        let ended = made(directory.path(), script, 12).await;
        assert_eq!(ended.len(), 12);
        let counts = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path());
        let counts = counts.filter(|path| path.extension().is_some() && path.is_file());
        let counts: Vec<usize> =
            counts.map(|path| std::fs::read_to_string(path).unwrap().trim().parse().unwrap()).collect();
        assert_eq!((counts.len(), counts.iter().max()), (12, Some(&4)), "{counts:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_attempt_as_a_role_that_says_nothing_is_given_up_in_time() {
        let directory = tempfile::tempdir().unwrap();
        let begun = tokio::time::Instant::now();
        let ended = made(directory.path(), "exec sleep 1000", 1).await;
        assert!(ended.is_empty());
        assert!((15..=18).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
    }
}
