//! Who executes roles. A process that confines itself can start nothing afterwards, and what it would start should not wear its parent's filter: so worker
//! and gateway put a small process beside them first, the role `starter`, which executes roles from a fixed list when asked and does nothing else.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;

use super::child::{self, StartError};
use super::{LANG, PATH};
use crate::{Channel, socket};

/// The role's name on the command line.
pub const ROLE: &str = "starter";

/// What roles are started by: this process itself, or a starter beside it. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Starter(Way);

#[derive(Clone, Debug)]
enum Way {
    Itself(PathBuf),
    Beside(Arc<Beside>),
}

#[derive(Debug)]
struct Beside {
    exe: PathBuf,
    /// A question and its answer are one turn.
    channel: Mutex<Turns>,
}

struct Turns(Channel);

impl std::fmt::Debug for Turns {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Turns")
    }
}

/// A process that a starter beside us executed.
#[derive(Debug)]
pub(super) struct Executed {
    pub(super) id: u32,
    /// Readable when it has ended.
    pub(super) watch: OwnedFd,
}

/// What a starter is told first.
#[derive(Serialize, Deserialize)]
struct Settings {
    exe: PathBuf,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Ask {
    /// Execute this role; its descriptor 0 comes along.
    Start {
        role: String,
    },
    /// How it ended; asked when it has.
    Ended {
        id: u32,
    },
    Kill {
        id: u32,
    },
    /// Nothing more will be started.
    Enough,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Answer {
    Started { id: u32 },
    Ended { status: i32 },
    Killed,
    Enough,
    Failed { errno: i32 },
}

impl Starter {
    /// This process executes roles of `exe` itself.
    pub fn itself(exe: PathBuf) -> Self {
        Self(Way::Itself(exe))
    }

    /// Executes a starter of `exe` and has it execute roles from now on. It ends when the last clone of this is dropped, or this process ends. Blocks for as
    /// long as an exec takes; needs no runtime.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn beside(exe: PathBuf) -> Result<Self, StartError> {
        let (ours, theirs) = socket::pair().map_err(StartError::Socket)?;
        let mut command = command(ROLE, &exe, theirs).map_err(StartError::Socket)?;
        let execute = |source| StartError::Execute { role: ROLE, exe: exe.clone(), source };
        // Nobody waits for it: it ends with its socket, and this process with it or soon after.
        let _process = command.spawn().map_err(execute)?;
        let channel = Channel::new(ours);
        channel.send(&Settings { exe: exe.clone() }, &[]).map_err(StartError::Configure)?;
        Ok(Self(Way::Beside(Arc::new(Beside { exe, channel: Mutex::new(Turns(channel)) }))))
    }

    /// A starter beside us starts nothing more, and gives up what it needed for that: for good. This process itself gives nothing up here. Blocks for a moment.
    ///
    /// # Errors
    /// It does not answer.
    pub fn enough(&self) -> io::Result<()> {
        match &self.0 {
            Way::Itself(_) => Ok(()),
            Way::Beside(_) => match self.ask(&Ask::Enough)? {
                Answer::Enough => Ok(()),
                answer => Err(unexpected(&answer)),
            },
        }
    }

    /// The program whose roles it executes.
    pub fn exe(&self) -> &Path {
        match &self.0 {
            Way::Itself(exe) => exe,
            Way::Beside(beside) => &beside.exe,
        }
    }

    pub(super) fn execute(&self, role: &'static str, stdin: OwnedFd) -> Result<child::Process, StartError> {
        let execute = |source| StartError::Execute { role, exe: self.exe().to_owned(), source };
        match &self.0 {
            Way::Itself(exe) => {
                let command = command(role, exe, stdin).map_err(StartError::Socket)?;
                tokio::process::Command::from(command).spawn().map(child::Process::Own).map_err(execute)
            }
            Way::Beside(beside) => {
                // What the system said to the starter has a number; anything else is that it does not answer.
                let failed = |source: io::Error| match source.raw_os_error() {
                    Some(_) => execute(source),
                    None => StartError::StarterGone(source),
                };
                let executed = beside.execute(role, &stdin).map_err(failed)?;
                child::Process::watched(executed, self.clone()).map_err(StartError::Socket)
            }
        }
    }

    pub(super) fn ended(&self, id: u32) -> io::Result<ExitStatus> {
        match self.ask(&Ask::Ended { id })? {
            Answer::Ended { status } => Ok(ExitStatus::from_raw(status)),
            answer => Err(unexpected(&answer)),
        }
    }

    pub(super) fn kill(&self, id: u32) -> io::Result<()> {
        match self.ask(&Ask::Kill { id })? {
            Answer::Killed => Ok(()),
            answer => Err(unexpected(&answer)),
        }
    }

    fn ask(&self, ask: &Ask) -> io::Result<Answer> {
        match &self.0 {
            Way::Beside(beside) => beside.turn(ask, None).map(|(answer, _)| answer),
            Way::Itself(_) => Err(io::ErrorKind::Unsupported.into()),
        }
    }
}

impl Beside {
    fn execute(&self, role: &str, stdin: &OwnedFd) -> io::Result<Executed> {
        let (answer, descriptors) = self.turn(&Ask::Start { role: role.to_owned() }, Some(stdin))?;
        match (answer, descriptors.into_iter().next()) {
            (Answer::Started { id }, Some(watch)) => Ok(Executed { id, watch }),
            (answer, _) => Err(unexpected(&answer)),
        }
    }

    fn turn(&self, ask: &Ask, descriptor: Option<&OwnedFd>) -> io::Result<(Answer, Vec<OwnedFd>)> {
        let turns = self.channel.lock().unwrap_or_else(PoisonError::into_inner);
        let descriptors: Vec<_> = descriptor.into_iter().map(AsFd::as_fd).collect();
        turns.0.send(ask, &descriptors).map_err(io::Error::other)?;
        turns.0.receive(MESSAGE_BYTES).map_err(io::Error::other)?.ok_or_else(|| io::ErrorKind::BrokenPipe.into())
    }
}

fn unexpected(answer: &Answer) -> io::Error {
    match answer {
        Answer::Failed { errno } => io::Error::from_raw_os_error(*errno),
        _ => io::ErrorKind::InvalidData.into(),
    }
}

/// What a starter executes.
#[derive(Debug, Clone, Copy)]
pub struct Roles {
    /// Once each: at its parent's own start, before anything hostile was heard.
    pub once: &'static [&'static str],
    /// As often as asked.
    pub again: &'static [&'static str],
    /// What it gives up when it has started enough.
    pub settle: fn() -> io::Result<()>,
}

/// The role itself: executes these roles, one question after the other, until descriptor 0 closes. Has one thread.
pub fn starter_main(roles: Roles) -> ExitCode {
    let Ok((settings, _, channel)) = super::first_message_blocking::<Settings>() else { return ExitCode::from(2) };
    let mut executed = Executions { roles, started: Vec::new(), children: Vec::new(), enough: false };
    while let Ok(Some((ask, descriptors))) = channel.receive::<Ask>(MESSAGE_BYTES) {
        let (answer, watch) = match executed.answer(ask, descriptors, &settings.exe) {
            Ok(answered) => answered,
            Err(error) => (Answer::Failed { errno: error.raw_os_error().unwrap_or(INVALID) }, None),
        };
        let watch: Vec<_> = watch.iter().map(AsFd::as_fd).collect();
        if channel.send(&answer, &watch).is_err() {
            break;
        }
    }
    ExitCode::SUCCESS
}

/// What a starter executed so far.
struct Executions {
    roles: Roles,
    started: Vec<&'static str>,
    children: Vec<std::process::Child>,
    enough: bool,
}

impl Executions {
    fn answer(&mut self, ask: Ask, mut descriptors: Vec<OwnedFd>, exe: &Path) -> io::Result<(Answer, Option<OwnedFd>)> {
        match ask {
            Ask::Start { role } => {
                let role = self.may_start(&role)?;
                let process = command(role, exe, descriptors.pop().ok_or_else(invalid)?)?.spawn()?;
                self.started.push(role);
                let id = process.id();
                self.children.push(process);
                let pid = i32::try_from(id).ok().and_then(Pid::from_raw).ok_or_else(invalid)?;
                Ok((Answer::Started { id }, Some(pidfd_open(pid, PidfdFlags::empty())?)))
            }
            Ask::Ended { id } => {
                let index = self.children.iter().position(|child| child.id() == id).ok_or_else(invalid)?;
                // Asked too early it is not waited for.
                self.children[index].try_wait()?.ok_or_else(invalid)?;
                let status = self.children.swap_remove(index).wait()?;
                Ok((Answer::Ended { status: status.into_raw() }, None))
            }
            Ask::Kill { id } => {
                self.children.iter_mut().find(|child| child.id() == id).ok_or_else(invalid)?.kill()?;
                Ok((Answer::Killed, None))
            }
            Ask::Enough => {
                self.enough = true;
                (self.roles.settle)()?;
                Ok((Answer::Enough, None))
            }
        }
    }

    fn may_start(&self, role: &str) -> io::Result<&'static str> {
        let known = |list: &'static [&'static str]| list.iter().copied().find(|known| *known == role);
        match (known(self.roles.again), known(self.roles.once)) {
            _ if self.enough => Err(io::Error::from_raw_os_error(rustix::io::Errno::PERM.raw_os_error())),
            (Some(role), _) => Ok(role),
            (None, Some(role)) if !self.started.contains(&role) => Ok(role),
            (None, _) => Err(io::Error::from_raw_os_error(rustix::io::Errno::PERM.raw_os_error())),
        }
    }
}

fn invalid() -> io::Error {
    io::Error::from_raw_os_error(INVALID)
}

/// How a role is executed: see [`super`].
fn command(role: &str, exe: &Path, stdin: OwnedFd) -> io::Result<std::process::Command> {
    let output = io::stderr().as_fd().try_clone_to_owned()?;
    #[expect(clippy::disallowed_methods, reason = "roles of our own are started here, and only here")]
    let mut command = std::process::Command::new(exe);
    if !postern_danger::off!("closed-environment") {
        command.env_clear();
    }
    command.arg(role).args(log()).env("PATH", PATH).env("LANG", LANG);
    command.stdin(Stdio::from(stdin)).stdout(Stdio::from(output)).stderr(Stdio::inherit());
    command.process_group(0);
    Ok(command)
}

/// Level and, where one was chosen, format of the role's log: this process's own, where it logs at all.
fn log() -> Vec<String> {
    if !tracing::dispatcher::has_been_set() {
        return Vec::new();
    }
    let format = LOG_FORMAT.get().map(|format| (*format).to_owned());
    std::iter::once(LevelFilter::current().to_string()).chain(format).collect()
}

/// Has the roles that this process starts log in a format that somebody chose, by its name. The first word counts, as for the log itself; without one each
/// role chooses by where its output goes.
pub fn log_as(format: &'static str) {
    let _chosen_already = LOG_FORMAT.set(format);
}

static LOG_FORMAT: OnceLock<&'static str> = OnceLock::new();

const MESSAGE_BYTES: usize = 4096;
/// EINVAL: not a question that this starter answers.
const INVALID: i32 = rustix::io::Errno::INVAL.raw_os_error();
