//! How the tool server starts model-chosen code: each command in a session, process group and Landlock domain of its own, so that it can neither
//! signal, trace nor read the tool server, although both run as the same user. Never used outside a sandbox except in tests.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use crate::reaper;

/// A command to be started.
#[derive(Debug, Clone)]
pub struct Command {
    program: OsString,
    arguments: Vec<OsString>,
    environment: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    stderr: Stderr,
}

/// Where a command's standard error goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stderr {
    /// Into standard output, in the order of writing.
    Joined,
    /// Into a pipe of its own.
    Separate,
}

/// How a command ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It exited with this code.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

/// Why a command was not started.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The inner Landlock domain could not be made; without it nothing is started.
    #[error("prepare the command's Landlock domain")]
    Domain(#[source] io::Error),
    /// A pipe could not be made.
    #[error("make the command's pipes")]
    Pipes(#[source] io::Error),
    /// The program could not be started: not found, not executable, no process left.
    #[error("start {program}")]
    Program {
        /// Which.
        program: String,
        /// The system's answer.
        source: io::Error,
    },
}

impl Command {
    /// A program by path, or by name along `PATH`. It inherits the tool server's environment, which is the sandbox's closed list.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Self {
            program: program.as_ref().to_owned(),
            arguments: Vec::new(),
            environment: Vec::new(),
            directory: None,
            stderr: Stderr::Joined,
        }
    }

    /// One more argument.
    #[must_use]
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// One more variable.
    #[must_use]
    pub fn environment(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.environment.push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The directory to start in.
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Where standard error goes; joined with standard output unless said otherwise.
    #[must_use]
    pub fn stderr(mut self, stderr: Stderr) -> Self {
        self.stderr = stderr;
        self
    }

    /// Starts it. Blocks for a fork and an exec.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(&self) -> Result<Child, StartError> {
        let domain = crate::domain::inner().map_err(StartError::Domain)?;
        let (stdin, stdin_ours) = io::pipe().map_err(StartError::Pipes)?;
        let (stdout_ours, stdout) = io::pipe().map_err(StartError::Pipes)?;
        let (stderr_ours, stderr) = match self.stderr {
            Stderr::Joined => (None, stdout.try_clone().map_err(StartError::Pipes)?),
            Stderr::Separate => {
                let (ours, theirs) = io::pipe().map_err(StartError::Pipes)?;
                (Some(OwnedFd::from(ours)), theirs)
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the one place where model-chosen code is started")]
        let mut command = std::process::Command::new(&self.program);
        command.args(&self.arguments).envs(self.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::from(stdin)).stdout(Stdio::from(stdout)).stderr(Stdio::from(stderr));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        crate::sys::confine_before_exec(&mut command, domain);
        let pid = reaper::start(&mut command)
            .map_err(|source| StartError::Program { program: self.program.to_string_lossy().into_owned(), source })?;
        Ok(Child { stdin: stdin_ours.into(), stdout: stdout_ours.into(), stderr: stderr_ours, pid })
    }
}

/// A started command. Dropping it closes its pipes and leaves it running: kill it, then wait for it.
#[derive(Debug)]
pub struct Child {
    /// Its standard input.
    pub stdin: OwnedFd,
    /// Its standard output, with standard error when joined.
    pub stdout: OwnedFd,
    /// Its standard error, when separate.
    pub stderr: Option<OwnedFd>,
    pid: rustix::process::Pid,
}

impl Child {
    /// The process, which leads its own session and process group.
    pub fn id(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Kills it and what stayed in its process group. What left the group lives until the sandbox ends.
    pub fn kill(&self) {
        // The group is gone when everything in it already ended.
        let _gone = rustix::process::kill_process_group(self.pid, rustix::process::Signal::KILL);
    }

    /// Sends a signal to its process group.
    pub fn signal(&self, signal: rustix::process::Signal) {
        let _gone = rustix::process::kill_process_group(self.pid, signal);
    }

    /// Waits until it ends. May be called again and from any thread.
    pub fn wait(&self) -> Ended {
        reaper::wait(self.pid)
    }

    /// Waits until it ends, at most so long.
    pub fn wait_for(&self, limit: Duration) -> Option<Ended> {
        reaper::wait_for(self.pid, limit)
    }

    /// How it ended, when it did.
    pub fn try_wait(&self) -> Option<Ended> {
        self.wait_for(Duration::ZERO)
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        reaper::forget(self.pid);
    }
}

#[cfg(test)]
mod tests;
