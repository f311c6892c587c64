//! Starting a trusted program as a person would type it: arguments, a directory, a closed environment, and an end.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{ChildStdout, Command};

use crate::role::{LANG, PATH};

/// What to start.
pub struct Program {
    /// The executable.
    pub exe: PathBuf,
    /// Where it starts.
    pub directory: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its environment besides `PATH` and `LANG`; nothing is inherited.
    pub environment: Vec<(String, String)>,
}

/// A program that runs until it is ended.
pub struct Running {
    process: tokio::process::Child,
    stdout: BufReader<ChildStdout>,
}

/// Why a program did not do what it was started for.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// It could not be executed, or its pipes broke.
    #[error("run {}", exe.display())]
    Run {
        /// The executable.
        exe: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// It ended without success.
    #[error("{} ended with {status}: {stderr}", exe.display())]
    Failed {
        /// The executable.
        exe: PathBuf,
        /// How it ended.
        status: ExitStatus,
        /// The end of its standard error.
        stderr: String,
    },
}

impl Program {
    /// Runs it to its end with `input` on standard input.
    ///
    /// # Errors
    /// It could not run or ended without success.
    pub async fn run(&self, input: &[u8]) -> Result<(), ProgramError> {
        let mut command = self.command();
        command.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut process = command.spawn().map_err(|source| self.run_error(source))?;
        if let Some(mut stdin) = process.stdin.take() {
            stdin.write_all(input).await.map_err(|source| self.run_error(source))?;
        }
        let output = process.wait_with_output().await.map_err(|source| self.run_error(source))?;
        if output.status.success() {
            return Ok(());
        }
        let stderr = String::from_utf8_lossy(&output.stderr);
        Err(ProgramError::Failed {
            exe: self.exe.clone(),
            status: output.status,
            stderr: last_line(&stderr).to_owned(),
        })
    }

    /// Starts it with standard error going to `log`.
    ///
    /// # Errors
    /// It could not be executed.
    pub fn start(&self, log: File) -> Result<Running, ProgramError> {
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log);
        let mut process = command.spawn().map_err(|source| self.run_error(source))?;
        let stdout = process.stdout.take().ok_or_else(|| self.run_error(io::Error::other("no pipe to its output")))?;
        Ok(Running { process, stdout: BufReader::new(stdout) })
    }

    #[expect(clippy::disallowed_methods, reason = "starting trusted programs is what this module is for")]
    fn command(&self) -> Command {
        let mut command = Command::new(&self.exe);
        command.args(&self.arguments).current_dir(&self.directory);
        command.env_clear().env("PATH", PATH).env("LANG", LANG).envs(self.environment.iter().cloned());
        command
    }

    fn run_error(&self, source: io::Error) -> ProgramError {
        ProgramError::Run { exe: self.exe.clone(), source }
    }
}

impl Running {
    /// Its process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.process.id()
    }

    /// The next line it prints; empty at its end.
    ///
    /// # Errors
    /// The pipe broke.
    pub async fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stdout.read_line(&mut line).await?;
        Ok(line)
    }

    /// SIGTERM, then SIGKILL after `patience`. Ended already is success.
    ///
    /// # Errors
    /// The system's, when it cannot be waited for.
    pub async fn terminate(&mut self, patience: Duration) -> io::Result<()> {
        let Some(id) = self.process.id().and_then(|id| rustix::process::Pid::from_raw(id.cast_signed())) else {
            return Ok(());
        };
        // A process that ended in this moment is waited for below.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::TERM);
        if tokio::time::timeout(patience, self.process.wait()).await.is_err() {
            self.process.kill().await?;
        }
        Ok(())
    }
}

/// The path of the running executable, also after it was replaced on disk.
///
/// # Errors
/// The system's.
pub fn own_executable() -> io::Result<PathBuf> {
    std::env::current_exe().map(|path| {
        path.to_string_lossy()
            .strip_suffix(" (deleted)")
            .map_or_else(|| path.clone(), |kept| Path::new(kept).to_owned())
    })
}

fn last_line(text: &str) -> &str {
    text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str) -> Program {
        Program {
            exe: "/bin/sh".into(),
            directory: "/".into(),
            arguments: vec!["-c".into(), script.into()],
            environment: vec![("GIVEN".into(), "yes".into())],
        }
    }

    #[tokio::test]
    async fn a_program_gets_its_input_and_only_the_environment_it_was_given() {
        shell(r#"[ "$(cat)" = input ] && [ "$GIVEN" = yes ] && [ -z "$CARGO_MANIFEST_DIR$HOME" ]"#)
            .run(b"input")
            .await
            .unwrap();
    }

    #[tokio::test]
    async fn a_failure_carries_the_last_line_of_its_errors() {
        let failure = shell("echo first >&2; echo why >&2; exit 3").run(b"").await.unwrap_err();
        assert!(matches!(failure, ProgramError::Failed { stderr, .. } if stderr == "why"));
    }

    #[tokio::test]
    async fn a_running_program_is_read_by_line_and_ended_by_sigterm() {
        let mut running = shell("echo ready; exec sleep 1000").start(File::create("/dev/null").unwrap()).unwrap();
        assert_eq!(running.line().await.unwrap(), "ready\n");
        running.terminate(Duration::from_secs(10)).await.unwrap();
        assert_eq!(running.line().await.unwrap(), "");
    }
}
