//! The spawner's half of a build: takes a stub, maps the user, orders, limits the group, and waits for the report. Steps again, each with its own error.
//! Whatever fails, nothing is left: the child is killed and waited for, its group removed.

use std::borrow::Cow;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use postern_exec::Channel;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions};

use crate::cgroup::{Controller, Group, Limits, Pool};
use crate::clocks::Clocks;
use crate::error::BuildError;
use crate::inside::{Order, Report};
use crate::nobody;
use crate::request::{Builder, Request};
use crate::sandbox::{Exit, Network};
use crate::spec::{Access, Spec};
use crate::stub::{Stub, Stubs};
use crate::system::System;
use crate::watchdog::INTERVAL;
use crate::watchdog::unseen::Unseen;
use postern_confine::seccomp::Filter;

/// The namespaces that a stub is cloned into; the cgroup namespace follows when the group was entered.
pub(crate) const NAMESPACES: libc::c_int = libc::CLONE_NEWUSER
    | libc::CLONE_NEWNS
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUTS;

/// How long a child may take for its steps: they need milliseconds, and a stuck file system needs an end.
const PATIENCE: Duration = Duration::from_secs(20);
const REPORT_LIMIT: usize = 1 << 16;
/// More processes and processors, and more memory, than a machine has: for a test.
const MANY: u32 = 1 << 22;
const WITHOUT_LIMIT: u64 = 1 << 50;
/// How much of a dead sandbox's standard error is kept.
const LAST_WORDS: usize = 4096;

/// What every build shares, prepared once.
pub(crate) struct Tools {
    pub(crate) builder: Builder,
    pub(crate) system: System,
    pub(crate) filter: Filter,
    pub(crate) image: OwnedFd,
    pub(crate) clocks: Clocks,
    /// `/dev/null`.
    pub(crate) nothing: OwnedFd,
    /// The host's bundle of certificate authorities, or `/dev/null`.
    pub(crate) authorities: OwnedFd,
}

/// A running sandbox, as the spawner holds it. Dropping it kills it.
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) group: Option<Group>,
    pub(crate) kernel_uid: u32,
    pub(crate) memory_bytes: u64,
    /// Where no group holds memory: what shows that of no process.
    pub(crate) unseen: Option<Unseen>,
    /// What its disk limit counts: the workspace and the layer of packages.
    pub(crate) counted: Vec<PathBuf>,
    pub(crate) disk_bytes: u64,
    last_words: OwnedFd,
}

/// What goes to the worker.
pub(crate) struct Handed {
    pub(crate) tools: OwnedFd,
    pub(crate) sockets: Vec<OwnedFd>,
    /// What stays with the spawner.
    unseen: Option<Unseen>,
    /// Where it shows something lent to be read that could not be closed to writing as a whole.
    pub(crate) open: Vec<PathBuf>,
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
    pub(crate) fn new(id: Pid, pidfd: OwnedFd) -> Self {
        Self { id, pidfd, waited: false }
    }

    /// Kills it and everything in its namespace; whoever waits for it comes later.
    pub(crate) fn kill(&self) {
        let _ended_already = rustix::process::pidfd_send_signal(&self.pidfd, Signal::KILL);
    }

    /// Kills it, waits, and says how it ended when it had ended before.
    fn end(&mut self) -> String {
        if self.waited {
            return String::new();
        }
        self.waited = true;
        // Its namespace dies with its first process; the wait returns when the last process of it is gone.
        self.kill();
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
        Exit { how, passed: None, last_words: self.last_words() }
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

/// Builds one sandbox: in a stub that was prepared, or in a fresh one when there is none or the prepared one is of no use. `meanwhile` is called again and
/// again while nothing comes from it.
pub(crate) fn build(
    tools: &Tools,
    stubs: &mut Stubs,
    pool: &mut Pool,
    request: &Request,
    meanwhile: &mut dyn FnMut(),
) -> Result<(Running, Handed), BuildError> {
    while let Some(stub) = stubs.take(pool) {
        if let Ok(built) = build_in(tools, stub, pool, request, meanwhile) {
            return Ok(built);
        }
    }
    build_in(tools, Stub::start(tools, pool)?, pool, request, meanwhile)
}

fn build_in(
    tools: &Tools,
    stub: Stub,
    pool: &mut Pool,
    request: &Request,
    meanwhile: &mut dyn FnMut(),
) -> Result<(Running, Handed), BuildError> {
    let built = serve(tools, &stub, pool, request, meanwhile);
    match built {
        Ok((last_words, mut handed)) => {
            let Stub { process, group, .. } = stub;
            let spec = &request.spec;
            let running = Running {
                process,
                group,
                kernel_uid: request.kernel_uid,
                memory_bytes: spec.memory_bytes,
                unseen: handed.unseen.take(),
                counted: spec.counted().cloned().collect(),
                disk_bytes: spec.disk_bytes,
                last_words,
            };
            Ok((running, handed))
        }
        Err(error) => {
            stub.discard(pool);
            Err(error)
        }
    }
}

/// Before anything of the session runs in the group: nothing does until the worker has the tool channel.
fn limit(stub: &Stub, pool: &Pool, request: &Request) -> Result<(), BuildError> {
    let Some(group) = &stub.group else { return Ok(()) };
    let spec = &request.spec;
    let memory_bytes = if postern_danger::off!("memory-hard") { WITHOUT_LIMIT } else { spec.memory_bytes };
    let processes = if postern_danger::off!("processes-hard") { MANY } else { spec.processes };
    let cpus = if postern_danger::off!("cpu-hard") { MANY.into() } else { spec.cpus };
    let limits = Limits { memory_bytes, processes, cpus };
    pool.limit(group, &limits).map_err(|error| {
        let fix = "look at the delegation of the spawner's control group";
        system("limit the control group", "write its limits", &error, fix)
    })
}

fn serve(
    tools: &Tools,
    stub: &Stub,
    pool: &Pool,
    request: &Request,
    meanwhile: &mut dyn FnMut(),
) -> Result<(OwnedFd, Handed), BuildError> {
    let (tools_ours, tools_theirs) = stream_pair()?;
    let (words_ours, words_theirs) =
        rustix::pipe::pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK).map_err(no_sockets)?;
    if let Some(maps) = &stub.maps {
        maps.map(request)?;
    }
    let memory_held = stub.group.as_ref().is_some_and(|group| group.holds(Controller::Memory));
    let order = Order::Serve { request: Box::new(Cow::Borrowed(request)), memory_held };
    // A stub that failed before has said so, and its report tells more than a broken pipe.
    let descriptors = [tools_theirs.as_fd(), words_theirs.as_fd(), tools.authorities.as_fd()];
    let ordered = stub.channel.send(&order, &descriptors);
    drop((tools_theirs, words_theirs));
    // The stub builds meanwhile.
    limit(stub, pool, request)?;
    let Reported { sockets, open, unseen } = wait_for_report(&stub.channel, &request.spec, meanwhile)?;
    ordered.map_err(|error| BuildError::refused("order the build", error.to_string(), "report this as a defect"))?;
    if !memory_held && unseen.is_none() {
        return Err(BuildError::refused("hear from the child", "it shows no memory", "report this as a defect"));
    }
    Ok((words_ours, Handed { tools: tools_ours, sockets, open, unseen }))
}

/// A process id as files of the kernel want it.
pub(crate) fn number(id: Pid) -> u32 {
    id.as_raw_nonzero().get().unsigned_abs()
}

pub(crate) fn stream_pair() -> Result<(OwnedFd, OwnedFd), BuildError> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    rustix::net::socketpair(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None).map_err(no_sockets)
}

fn no_sockets(errno: Errno) -> BuildError {
    BuildError::system("make the sockets", "make a socket pair or pipe", errno, "raise the limit of open files")
}

/// What came from the child until it was process 1.
struct Reported {
    sockets: Vec<OwnedFd>,
    /// Where what was lent stays open.
    open: Vec<PathBuf>,
    unseen: Option<Unseen>,
}

/// Waits until the child is process 1, or says why not.
fn wait_for_report(child: &Channel, spec: &Spec, meanwhile: &mut dyn FnMut()) -> Result<Reported, BuildError> {
    let until = Instant::now() + PATIENCE;
    let mut read = spec.mounts.iter().filter(|mount| mount.access != Access::Write);
    let (mut open, mut unseen) = (Vec::new(), None);
    loop {
        match receive(child, until, meanwhile)? {
            Some((Report::Lent, mounts)) => {
                let closed = nobody::own(&mounts)?;
                open.extend(closed.iter().zip(&mut read).filter(|(is, _)| !**is).map(|(_, mount)| mount.at.clone()));
                // A child that is gone by now is met by the next look.
                let _gone = child.send(&Order::Closed, &[]);
            }
            Some((Report::Memory, shown)) => unseen = Unseen::from_descriptors(shown),
            Some((Report::Ready, sockets)) if sockets.len() >= Network::SOCKETS => {
                return Ok(Reported { sockets, open, unseen });
            }
            Some((Report::Failed(error), _)) => return Err(error),
            Some((Report::Ready, _)) | None => return Err(died()),
        }
    }
}

fn receive(
    child: &Channel,
    until: Instant,
    meanwhile: &mut dyn FnMut(),
) -> Result<Option<(Report, Vec<OwnedFd>)>, BuildError> {
    const STEP: &str = "hear from the child";
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left.min(INTERVAL)).map_err(|_| died())?;
        let mut polled = [PollFd::new(child, PollFlags::IN)];
        match rustix::event::poll(&mut polled, Some(&timeout)) {
            Ok(0) if left <= INTERVAL => {
                return Err(BuildError::refused(
                    STEP,
                    format!("nothing came for {} s", PATIENCE.as_secs()),
                    "look for a file system of the host that does not answer",
                ));
            }
            Ok(0) => meanwhile(),
            Ok(_) | Err(Errno::INTR) => {
                return child
                    .receive(REPORT_LIMIT)
                    .map_err(|error| BuildError::refused(STEP, error.to_string(), "report this as a defect"));
            }
            Err(errno) => return Err(BuildError::system(STEP, "poll", errno, "report this as a defect")),
        }
    }
}

fn died() -> BuildError {
    BuildError::refused("hear from the child", "it ended without a word", "look for a memory limit on postern itself")
}

pub(crate) fn system(step: &str, doing: &str, error: &io::Error, fix: &str) -> BuildError {
    BuildError { step: step.into(), cause: format!("{doing}: {error}"), errno: error.raw_os_error(), fix: fix.into() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_says_nothing_is_given_up_when_its_time_is_over() {
        let (ours, _theirs) = Channel::pair().expect("a pair");
        let mut looks = 0;
        let Err(given_up) = receive(&ours, Instant::now() + INTERVAL * 5 / 2, &mut || looks += 1) else {
            panic!("nothing came")
        };
        assert_eq!(looks, 2, "the others are watched meanwhile");
        assert!(given_up.cause.contains("nothing came for 20 s") && !given_up.fix.is_empty(), "{given_up:?}");
    }
}
