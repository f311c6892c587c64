//! Stubs: processes that did every step ahead of need (namespaces, control group, network) and wait for a session. A few are kept ready, so that a
//! session does not wait for what takes the kernel longest. A stub serves one session or none, and holds nothing of any: its order comes as a message.

use std::borrow::Cow;
use std::os::fd::AsFd;

use postern_exec::Channel;

use crate::builder::{Process, Tools, number, system};
use crate::cgroup::{Group, Pool};
use crate::danger;
use crate::error::BuildError;
use crate::inside::{Order, entrance};
use crate::mounts::{Mounts, Moved};
use crate::sys::{self, Cloned};
use crate::user_map::Maps;

/// How many are kept. Each takes some hundred kilobytes of the kernel's memory; a burst of more sessions waits a few milliseconds more for each.
const READY: usize = 2;

/// A process that waits for its session. Dropping it kills it; its group is the pool's to remove.
pub(crate) struct Stub {
    pub(crate) process: Process,
    pub(crate) channel: Channel,
    pub(crate) group: Option<Group>,
    /// As root: an ordinary user's stub has mapped itself.
    pub(crate) maps: Option<Maps>,
}

impl Stub {
    /// Clones one and lets it work; it need not be ready when this returns.
    pub(crate) fn start(tools: &Tools, pool: &mut Pool) -> Result<Self, BuildError> {
        let (channel, process) = clone_one(tools)?;
        let mapped = tools.builder.is_root() && !postern_danger::off!("userns");
        let maps = mapped.then(|| Maps::open(process.id)).transpose()?;
        let group = pool.take().map_err(|error| group_error("make a control group", "make its directories", &error))?;
        let stub = Self { process, channel, group, maps };
        stub.instruct(tools);
        match stub.enter() {
            Ok(()) => Ok(stub),
            Err(error) => {
                stub.discard(pool);
                Err(error)
            }
        }
    }

    /// What every sandbox is made of. A stub that failed before has said so, and its report is heard when it is used.
    fn instruct(&self, tools: &Tools) {
        let prepare = Order::Prepare { system: Cow::Borrowed(&tools.system), filter: Cow::Borrowed(&tools.filter) };
        let _gone = self.channel.send(&prepare, &[]);
    }

    /// Entering takes milliseconds: the stub works on its network meanwhile and waits before it needs the group.
    fn enter(&self) -> Result<(), BuildError> {
        if let Some(group) = &self.group {
            group
                .enter(number(self.process.id))
                .map_err(|error| group_error("enter the control group", "move the first process", &error))?;
        }
        let _gone = self.channel.send(&Order::Entered, &[]);
        Ok(())
    }

    /// Ends it unused.
    pub(crate) fn discard(self, pool: &mut Pool) {
        drop(self.process);
        if let Some(group) = self.group {
            pool.discard(group);
        }
    }
}

fn group_error(step: &str, doing: &str, error: &std::io::Error) -> BuildError {
    system(step, doing, error, "look at the delegation of the spawner's control group")
}

fn clone_one(tools: &Tools) -> Result<(Channel, Process), BuildError> {
    let (ours, theirs) = crate::builder::stream_pair()?;
    match sys::clone_process(danger::namespaces()).map_err(|errno| crate::check::no_namespaces(errno, tools.builder))? {
        Cloned::Child => {
            // Other sandboxes' pipes and the worker's socket are not its business, and it may wait for long.
            let kept = [theirs.as_fd(), tools.image.as_fd()];
            if sys::close_all_but(crate::spawner::FIRST_FREE, kept, tools.nothing.as_fd()).is_err() {
                sys::exit_now(1);
            }
            entrance::enter(tools, Channel::new(theirs))
        }
        Cloned::Parent { child, pidfd } => Ok((Channel::new(ours), Process::new(child, pidfd))),
    }
}

/// The stubs that are ready, for as long as the host's mounts are what they saw.
pub(crate) struct Stubs {
    ready: Vec<Stub>,
    /// The host's mounts; who cannot tell whether a stub's are still the host's keeps none.
    mounts: Option<Mounts>,
    /// The last one could not be started: whoever needs one next meets the error and reports it.
    failed: bool,
}

impl Stubs {
    pub(crate) fn new() -> Self {
        Self { ready: Vec::new(), mounts: Mounts::of_this_process(), failed: false }
    }

    /// Whether one more should be made.
    pub(crate) fn wanted(&self) -> bool {
        self.mounts.is_some() && !self.failed && self.ready.len() < READY
    }

    /// Makes one more.
    pub(crate) fn prepare(&mut self, tools: &Tools, pool: &mut Pool) {
        self.discard_outdated(pool);
        let Ok(stub) = Stub::start(tools, pool) else {
            // Whoever needs one is told why.
            self.failed = true;
            return;
        };
        self.ready.push(stub);
        // What was mounted while it was cloned, and perhaps is not any more, may be in its copy.
        match self.mounts.as_mut().map_or(Moved::ForGood, Mounts::moved) {
            Moved::No => {}
            Moved::ForAMoment => self.ready.drain(self.ready.len() - 1..).for_each(|stub| stub.discard(pool)),
            Moved::ForGood => self.discard_all(pool),
        }
    }

    /// One that was prepared, the oldest first: it is the readiest.
    pub(crate) fn take(&mut self, pool: &mut Pool) -> Option<Stub> {
        self.failed = false;
        self.discard_outdated(pool);
        (!self.ready.is_empty()).then(|| self.ready.remove(0))
    }

    /// A stub sees the mounts of the moment it was cloned. A directory that was mounted since would be missing in it.
    fn discard_outdated(&mut self, pool: &mut Pool) {
        if self.mounts.as_mut().map_or(Moved::ForGood, Mounts::moved) == Moved::ForGood {
            self.discard_all(pool);
        }
    }

    pub(crate) fn discard_all(&mut self, pool: &mut Pool) {
        for stub in self.ready.drain(..) {
            stub.discard(pool);
        }
    }
}
