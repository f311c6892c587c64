//! The spawner's half of a build: clones, maps the user, enters the group, and waits for the child's report. Steps again, each with its own error.
//! Whatever fails, nothing is left: the child is killed and waited for, its group removed.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use postern_exec::Channel;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::cgroup::{Controller, Group, Limits, Pool};
use crate::error::BuildError;
use crate::inside::{self, Inside, Report};
use crate::request::{Builder, Request};
use crate::sandbox::{Exit, Network};
use crate::seccomp::Filter;
use crate::spec::AGENT_UID;
use crate::sys::{self, Cloned};
use crate::system::System;

/// The namespaces that are made at once; the cgroup namespace follows when the group was entered.
pub(crate) const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// How long a child may take for its steps: they need milliseconds, and a stuck file system needs an end.
const PATIENCE: Duration = Duration::from_secs(20);
const REPORT_LIMIT: usize = 1 << 16;
/// How much of a dead sandbox's standard error is kept.
const LAST_WORDS: usize = 4096;

/// What every build shares, prepared once.
pub(crate) struct Tools {
    pub(crate) builder: Builder,
    pub(crate) system: System,
    pub(crate) filter: Filter,
    pub(crate) image: OwnedFd,
}

/// A running sandbox, as the spawner holds it. Dropping it kills it.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) group: Option<Group>,
    pub(crate) kernel_uid: u32,
    pub(crate) memory_bytes: u64,
    last_words: OwnedFd,
}

/// What goes to the worker.
pub(crate) struct Handed {
    pub(crate) tools: OwnedFd,
    pub(crate) sockets: Vec<OwnedFd>,
}

/// The first process of a sandbox. Dropping it kills it and everything in its namespace, and waits for that.
pub(crate) struct Process {
    pub(crate) id: Pid,
    pidfd: OwnedFd,
    waited: bool,
}

impl AsFd for Process {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.pidfd.as_fd()
    }
}

impl Process {
    /// Kills it, waits, and says how it ended when it had ended before.
    fn end(&mut self) -> String {
        if self.waited {
            return String::new();
        }
        self.waited = true;
        // Its namespace dies with its first process; the wait returns when the last process of it is gone.
        let _ended_already = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
        loop {
            match rustix::process::waitid(WaitId::PidFd(self.pidfd.as_fd()), WaitIdOptions::EXITED) {
                Err(Errno::INTR) => {}
                Ok(Some(status)) => {
                    return match (status.exit_status(), status.terminating_signal()) {
                        (Some(code), _) => format!("exited with code {code}"),
                        (None, Some(signal)) => format!("killed by signal {signal}"),
                        (None, None) => "ended".into(),
                    };
                }
                Ok(None) | Err(_) => return "ended".into(),
            }
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end();
    }
}

impl Running {
    /// Ends it and everything inside; the group goes back to the pool's waste.
    pub(crate) fn end(mut self, pool: &mut Pool) -> Exit {
        let how = self.process.end();
        if let Some(group) = self.group.take() {
            pool.discard(group);
        }
        Exit { how, last_words: self.last_words() }
    }

    fn last_words(&self) -> String {
        let mut words = Vec::new();
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = rustix::io::read(&self.last_words, &mut buffer) {
            words.extend_from_slice(&buffer[..count]);
        }
        let start = words.len().saturating_sub(LAST_WORDS);
        String::from_utf8_lossy(&words[start..]).into_owned()
    }
}

/// Builds one sandbox.
pub(crate) fn build(tools: &Tools, pool: &mut Pool, request: &Request) -> Result<(Running, Handed), BuildError> {
    let spec = &request.spec;
    let group = pool
        .take(&Limits { memory_bytes: spec.memory_bytes, processes: spec.processes, cpus: spec.cpus })
        .map_err(|error| {
            system(
                "make a control group",
                "write its limits",
                &error,
                "look at the delegation of the spawner's control group",
            )
        })?;
    match build_in(tools, group.as_ref(), request) {
        Ok((process, last_words, handed)) => Ok((
            Running { process, group, kernel_uid: request.kernel_uid, memory_bytes: spec.memory_bytes, last_words },
            handed,
        )),
        Err(error) => {
            if let Some(group) = group {
                pool.discard(group);
            }
            Err(error)
        }
    }
}

fn build_in(tools: &Tools, group: Option<&Group>, request: &Request) -> Result<(Process, OwnedFd, Handed), BuildError> {
    let sockets = |error: Errno| {
        BuildError::system("make the sockets", "make a socket pair or pipe", error, "raise the limit of open files")
    };
    let (tools_ours, tools_theirs) = stream_pair().map_err(sockets)?;
    let (report_ours, report_theirs) = stream_pair().map_err(sockets)?;
    let (go_theirs, go_ours) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(sockets)?;
    let (words_ours, words_theirs) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(sockets)?;
    let cloned = sys::clone_process(NAMESPACES).map_err(|errno| crate::check::no_namespaces(errno, tools.builder))?;
    let (id, pidfd) = match cloned {
        Cloned::Child => {
            // Only the parent's copies keep these open, so that its death is seen.
            drop((tools_ours, report_ours, go_ours, words_ours));
            let spawner = Channel::new(report_theirs);
            let held = group.is_some_and(|group| group.holds(Controller::Memory));
            inside::run(Inside::new(
                request,
                &tools.system,
                &tools.filter,
                &tools.image,
                tools_theirs,
                words_theirs,
                go_theirs,
                spawner,
                held,
            ))
        }
        Cloned::Parent { child, pidfd } => (child, pidfd),
    };
    let process = Process { id, pidfd, waited: false };
    drop((tools_theirs, report_theirs, go_theirs, words_theirs));
    map_user(id, request)?;
    go(&go_ours)?;
    // Entering takes milliseconds: the child works on its mounts meanwhile and waits before it needs the group.
    if let Some(group) = group {
        group.enter(number(id)).map_err(|error| {
            system(
                "enter the control group",
                "move the first process",
                &error,
                "look at the delegation of the spawner's control group",
            )
        })?;
    }
    // A child that failed meanwhile has said so, and its report tells more than a broken pipe.
    let went_on = go(&go_ours);
    let sockets = wait_for_report(&Channel::new(report_ours))?;
    went_on?;
    Ok((process, words_ours, Handed { tools: tools_ours, sockets }))
}

fn go(pipe: &OwnedFd) -> Result<(), BuildError> {
    rustix::io::write(pipe, b"g")
        .map(drop)
        .map_err(|errno| BuildError::system("let the child go", "write to its pipe", errno, "report this as a defect"))
}

/// A process id as files of the kernel want it.
pub(crate) fn number(id: Pid) -> u32 {
    id.as_raw_nonzero().get().unsigned_abs()
}

fn stream_pair() -> Result<(OwnedFd, OwnedFd), Errno> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Maps the agent to the kernel user, and nobody else.
fn map_user(child: Pid, request: &Request) -> Result<(), BuildError> {
    let fix =
        "run postern as root or as the user that owns its data, and not under a filter that forbids user namespaces";
    for (file, contents) in [
        ("setgroups", "deny".to_owned()),
        ("uid_map", format!("{AGENT_UID} {} 1", request.kernel_uid)),
        ("gid_map", format!("{AGENT_UID} {} 1", request.kernel_gid)),
    ] {
        fs::write(format!("/proc/{}/{file}", number(child)), contents)
            .map_err(|error| system("map the user", &format!("write {file}"), &error, fix))?;
    }
    Ok(())
}

/// Waits until the child has become process 1, or says why not.
fn wait_for_report(child: &Channel) -> Result<Vec<OwnedFd>, BuildError> {
    let until = Instant::now() + PATIENCE;
    let sockets = match receive(child, until)? {
        Some((Report::Ready, sockets)) if sockets.len() >= Network::SOCKETS => sockets,
        Some((Report::Failed(error), _)) => return Err(error),
        Some((Report::Ready, _)) | None => return Err(died()),
    };
    // The exec closes the channel; a message now is its failure.
    match receive(child, until)? {
        None => Ok(sockets),
        Some((Report::Failed(error), _)) => Err(error),
        Some((Report::Ready, _)) => Err(died()),
    }
}

fn receive(child: &Channel, until: Instant) -> Result<Option<(Report, Vec<OwnedFd>)>, BuildError> {
    const STEP: &str = "hear from the child";
    let left = until.saturating_duration_since(Instant::now());
    let timeout = Timespec::try_from(left).map_err(|_| died())?;
    let mut polled = [PollFd::new(child, PollFlags::IN)];
    match rustix::event::poll(&mut polled, Some(&timeout)) {
        Ok(0) => Err(BuildError::refused(
            STEP,
            format!("nothing came for {} s", PATIENCE.as_secs()),
            "look for a file system of the host that does not answer",
        )),
        Ok(_) | Err(Errno::INTR) => child
            .receive(REPORT_LIMIT)
            .map_err(|error| BuildError::refused(STEP, error.to_string(), "report this as a defect")),
        Err(errno) => Err(BuildError::system(STEP, "poll", errno, "report this as a defect")),
    }
}

fn died() -> BuildError {
    BuildError::refused("hear from the child", "it ended without a word", "look for a memory limit on postern itself")
}

fn system(step: &str, doing: &str, error: &io::Error, fix: &str) -> BuildError {
    BuildError { step: step.into(), cause: format!("{doing}: {error}"), errno: error.raw_os_error(), fix: fix.into() }
}
