//! The six tools over one configuration: dispatches a call, keeps the session's shell, and words every outcome.

use std::time::Duration;

use serde_json::{Map, Value};

use crate::arguments::{Arguments, ToolError};
use crate::deadline::Deadline;
use crate::paths::PathPolicy;
use crate::shell::{Ended, Shell};
use crate::wire::{Block, CallTool, Configuration, ToolOutcome};
use crate::{files, glob, grep};

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(120);

/// The tools of one session.
#[derive(Debug)]
pub struct Toolbox {
    policy: PathPolicy,
    shell: ShellState,
}

#[derive(Debug)]
enum ShellState {
    NotStarted,
    Running(Box<Shell>),
    /// It ended by itself or was killed at a deadline: following commands say that a restart is required.
    Ended,
}

impl Toolbox {
    /// Tools for this configuration; the shell starts with its first command.
    pub fn new(configuration: &Configuration) -> Self {
        Self { policy: PathPolicy::new(configuration), shell: ShellState::NotStarted }
    }

    pub(crate) fn configure(&mut self, configuration: &Configuration) {
        self.policy = PathPolicy::new(configuration);
    }

    /// Runs one call to its end or its deadline.
    pub fn call(&mut self, call: &CallTool) -> ToolOutcome {
        let deadline = Deadline::after(Duration::from_millis(call.deadline_ms));
        let (is_error, block) = match self.dispatch(call, &deadline) {
            Ok(block) => (false, block),
            Err(ToolError(text)) => (true, Block::text(text)),
        };
        ToolOutcome { id: call.id.clone(), is_error, content: vec![block] }
    }

    fn dispatch(&mut self, call: &CallTool, deadline: &Deadline) -> Result<Block, ToolError> {
        match call.name.as_str() {
            "bash" => self.bash(&call.input, deadline),
            "read" => files::read(&self.policy, &call.input),
            "write" => files::write(&self.policy, &call.input),
            "edit" => files::edit(&self.policy, &call.input),
            "glob" => glob::glob(&self.policy, &call.input, deadline),
            "grep" => grep::grep(&self.policy, &call.input, deadline),
            other => Err(ToolError(format!("{other}: not a tool of this sandbox"))),
        }
    }

    fn bash(&mut self, input: &Map<String, Value>, outer: &Deadline) -> Result<Block, ToolError> {
        let arguments = Arguments::new("bash", input, &["command", "restart", "timeout_ms"])?;
        let command = arguments.optional_text("command")?;
        let restart = arguments.optional_flag("restart")?.unwrap_or(false);
        let timeout_ms = arguments.optional_integer("timeout_ms")?.filter(|ms| *ms != 0);
        if restart {
            self.shell = ShellState::NotStarted;
            self.started_shell()?;
            return Ok(Block::text("bash session restarted"));
        }
        let Some(command) = command.filter(|command| !command.is_empty()) else {
            return Err(ToolError::new("bash: command is required"));
        };
        let own = patience(timeout_ms);
        let limit = Limit { own, outer_first: outer.remaining() <= own, timeout_ms };
        let own = Deadline::after(own);
        self.run(command, if limit.outer_first { outer } else { &own }, &limit)
    }

    fn run(&mut self, command: &str, deadline: &Deadline, limit: &Limit) -> Result<Block, ToolError> {
        let ended = self
            .started_shell()?
            .run(command, deadline)
            .map_err(|error| ToolError(format!("bash: the shell cannot be reached: {error}; restart required")));
        match ended {
            Ok(Ended::Finished { output, status: 0 }) => Ok(Block::text(output)),
            Ok(Ended::Finished { output, .. }) => Err(ToolError(output)),
            Ok(Ended::ShellGone { output, signal }) => {
                self.shell = ShellState::Ended;
                Err(ToolError(match signal {
                    None => output,
                    Some(signal) => {
                        format!("{output}\n[postern] {}; restart required", killed(signal)).trim_start().to_owned()
                    }
                }))
            }
            Ok(Ended::TimedOut) => {
                self.shell = ShellState::Ended;
                Err(limit.passed())
            }
            Err(error) => {
                self.shell = ShellState::Ended;
                Err(error)
            }
        }
    }

    fn started_shell(&mut self) -> Result<&mut Shell, ToolError> {
        if matches!(self.shell, ShellState::NotStarted) {
            let shell = Shell::start(self.policy.workdir())
                .map_err(|error| ToolError(format!("bash: the shell did not start: {}", chain(&error))))?;
            self.shell = ShellState::Running(Box::new(shell));
        }
        match &mut self.shell {
            ShellState::Running(shell) => Ok(shell),
            ShellState::NotStarted | ShellState::Ended => {
                Err(ToolError::new("bash: bash session terminated; restart required"))
            }
        }
    }
}

/// In here nobody can tell who sent a signal: who may have is said.
fn killed(signal: i32) -> String {
    let by = if signal == rustix::process::Signal::KILL.as_raw() {
        ": by something that the command did, or by the kernel because the sandbox had used up its memory"
    } else {
        ""
    };
    format!("the shell was killed by signal {signal}{by}")
}

/// Which of the two times ends a command: the one it asked for, or the bound on every call.
struct Limit {
    own: Duration,
    outer_first: bool,
    timeout_ms: Option<i64>,
}

impl Limit {
    #[expect(clippy::cast_precision_loss, reason = "a time of this size prints exactly")]
    fn passed(&self) -> ToolError {
        if self.outer_first {
            return ToolError::new("tool 'bash' timed out");
        }
        let seconds = self.timeout_ms.map_or(self.own.as_secs_f64(), |ms| ms as f64 / 1000.0);
        ToolError(format!("bash: bash command timed out after {seconds:?}s"))
    }
}

/// How long a command may take: as long as was asked, which is never less than no time.
fn patience(timeout_ms: Option<i64>) -> Duration {
    timeout_ms.map_or(DEFAULT_TIMEOUT, |ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0)))
}

fn chain(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {}", chain(source)),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests;
