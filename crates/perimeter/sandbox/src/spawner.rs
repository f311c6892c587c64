//! The spawner role: one thread, one socket on descriptor 0, no runtime, no secret. It builds sandboxes when asked, ends them when told or when its
//! socket closes, and tells when one ends by itself.

use std::collections::{BTreeMap, HashSet};
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use postern_exec::{Channel, ChannelError, role};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::builder::{self, Handed, Running, Tools};
use crate::cgroup::{self, Controller, Pool};
use crate::clocks::Clocks;
use crate::control::{ControlStatus, unsatisfied};
use crate::error::BuildError;
use crate::etc::Etc;
use crate::request::{Builder, Request};
use crate::sandbox::{Exit, Limit};
use crate::seccomp;
use crate::spec::{Settings, Spec};
use crate::stub::Stubs;
use crate::system::{self, System};
use crate::watchdog::Watchdog;
use crate::wire::{Answer, Ask, Asked, MESSAGE_LIMIT, Ready, Told};
use crate::{check, image, pause};

/// The role `spawner`. Returns when the worker's end of its socket closes, with every sandbox ended.
pub fn spawner_main() -> ExitCode {
    // Descriptors 0 to 3 are what process 1 gets: nothing of ours may lie there when it is arranged.
    let _reserved = reserve_low_descriptors();
    let Ok((settings, _, worker)) = role::first_message_blocking::<Settings>() else { return ExitCode::from(2) };
    match Spawner::prepare(settings, &worker) {
        Ok(mut spawner) => {
            if worker.send(&Ready::Ok(()), &[]).is_err() {
                return ExitCode::FAILURE;
            }
            spawner.serve()
        }
        Err(error) => {
            // Nobody to tell is as good as told: the worker is gone.
            let _gone = worker.send(&Ready::Err(error), &[]);
            ExitCode::FAILURE
        }
    }
}

struct Spawner<'a> {
    worker: &'a Channel,
    settings: Settings,
    tools: Tools,
    etc: Etc,
    stubs: Stubs,
    pool: Pool,
    statuses: Vec<ControlStatus>,
    running: BTreeMap<String, Running>,
    /// Which sandboxes are stopped, each with those of its processes that were stopped before.
    paused: BTreeMap<String, HashSet<pause::Member>>,
    watchdog: Watchdog,
}

impl<'a> Spawner<'a> {
    fn prepare(settings: Settings, worker: &'a Channel) -> Result<Self, BuildError> {
        const STEP: &str = "prepare the spawner";
        refuse_threads()?;
        let builder = Builder::ourselves();
        if builder.is_root() {
            // A sandbox's process would keep them: they cannot be dropped once groups are denied to it.
            rustix::thread::set_thread_groups(&[]).map_err(|errno| {
                BuildError::system(STEP, "drop supplementary groups", errno, "report this as a defect")
            })?;
        }
        let groups = cgroup::detect();
        let memory_held = groups.as_ref().is_some_and(|groups| groups.controllers().contains(&Controller::Memory));
        let filter = seccomp::inside(memory_held)
            .map_err(|error| BuildError::refused(STEP, error.to_string(), "report this as a defect"))?;
        let image = image::copy_of_ourselves().map_err(|error| {
            BuildError::refused(STEP, format!("copy this program to memory: {error}"), "free some memory")
        })?;
        let statuses = check::statuses(groups.as_deref(), builder);
        let nothing = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .map_err(|errno| BuildError::system(STEP, "open /dev/null", errno, "mount /dev with its usual devices"))?;
        let clocks = Clocks::promised(&statuses);
        let authorities = match system::authorities() {
            Some(bundle) => bundle.into(),
            None => nothing
                .try_clone()
                .map_err(|error| BuildError::refused(STEP, error.to_string(), "raise the limit of open files"))?,
        };
        let etc = Etc::prepare(&settings.shared).map_err(|error| {
            let cause = format!("put /etc together in {}: {error}", settings.shared.display());
            BuildError::refused(STEP, cause, "make the data directory writable for the user that runs postern")
        })?;
        let tools =
            Tools { builder, system: System::look(etc.directory()), filter, image, clocks, nothing, authorities };
        let (stubs, pool) = (Stubs::new(), Pool::new(groups));
        Ok(Self {
            worker,
            settings,
            tools,
            etc,
            stubs,
            pool,
            statuses,
            running: BTreeMap::new(),
            paused: BTreeMap::new(),
            watchdog: Watchdog::new(memory_held),
        })
    }

    fn serve(&mut self) -> ExitCode {
        loop {
            let ready = match self.wait() {
                Ok(ready) => ready,
                Err(Errno::INTR) => continue,
                Err(_) => return ExitCode::FAILURE,
            };
            for session in ready.ended {
                self.end(&session);
            }
            if ready.asked {
                match self.worker.receive::<Asked>(MESSAGE_LIMIT) {
                    Ok(Some((Asked { id, ask }, _))) => {
                        if self.answer(id, ask).is_err() {
                            return ExitCode::FAILURE;
                        }
                    }
                    Ok(None) => return ExitCode::SUCCESS,
                    Err(_) => return ExitCode::FAILURE,
                }
            }
            // Whatever is asked, and however often.
            self.watch();
        }
    }

    /// Waits for a question, for a sandbox's end or for the watchdog's hour; prepares ahead of need while it is quiet.
    fn wait(&mut self) -> Result<Woken, Errno> {
        loop {
            self.pool.sweep();
            let ahead = self.pool.wanted() || self.stubs.wanted();
            let watched = !self.running.is_empty();
            let timeout = match (ahead, watched) {
                (true, true) => Some(QUIET.min(self.watchdog.pause(Instant::now()))),
                (true, false) => Some(QUIET),
                (false, true) => Some(self.watchdog.pause(Instant::now())),
                (false, false) => None,
            };
            let woken = self.poll(timeout)?;
            let due = watched && self.watchdog.pause(Instant::now()).is_zero();
            if !ahead || due || woken.asked || !woken.ended.is_empty() {
                return Ok(woken);
            }
            if self.stubs.wanted() {
                self.keep_etc_current();
                self.stubs.prepare(&self.tools, &mut self.pool);
            } else {
                self.pool.prepare();
            }
        }
    }

    /// Where it cannot be made anew, sandboxes go on with what was copied.
    fn keep_etc_current(&mut self) {
        if self.etc.renew().unwrap_or(false) {
            self.tools.system.etc = Some(self.etc.directory());
            self.stubs.discard_all(&mut self.pool);
        }
    }

    fn poll(&self, timeout: Option<Duration>) -> Result<Woken, Errno> {
        let mut polled = vec![PollFd::new(self.worker, PollFlags::IN)];
        polled.extend(
            self.running.values().map(|running| PollFd::from_borrowed_fd(running.process.as_fd(), PollFlags::IN)),
        );
        let timeout = timeout.map(|timeout| Timespec::try_from(timeout).expect("a quarter of a second at most"));
        rustix::event::poll(&mut polled, timeout.as_ref())?;
        let mut woken = polled.iter().map(|polled| !polled.revents().is_empty());
        let asked = woken.next().unwrap_or(false);
        let ended =
            self.running.keys().zip(woken).filter(|(_, woken)| *woken).map(|(session, _)| session.clone()).collect();
        Ok(Woken { asked, ended })
    }

    fn answer(&mut self, id: u64, ask: Ask) -> Result<(), ChannelError> {
        match ask {
            Ask::Build(spec) => match self.build(*spec) {
                Ok(Built { pid, controls, open, descriptors }) => {
                    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                    let answer = Answer::Built { pid, controls, open };
                    self.worker.send(&Told::Answer { id, answer }, &borrowed)
                }
                Err(error) => self.worker.send(&Told::Answer { id, answer: Answer::NotBuilt(error) }, &[]),
            },
            Ask::Destroy { session } => {
                self.end(&session);
                self.worker.send(&Told::Answer { id, answer: Answer::Destroyed }, &[])
            }
            Ask::Pause { session } => {
                let found = self.pause(&session);
                self.worker.send(&Told::Answer { id, answer: Answer::Signalled { found } }, &[])
            }
            Ask::Resume { session } => {
                let found = self.resume(&session);
                self.worker.send(&Told::Answer { id, answer: Answer::Signalled { found } }, &[])
            }
            Ask::Controls => {
                self.worker.send(&Told::Answer { id, answer: Answer::Controls(self.statuses.clone()) }, &[])
            }
        }
    }

    /// Stops a sandbox; one that cannot be stopped is ended, for nothing of it may run.
    fn pause(&mut self, session: &str) -> bool {
        let Some(running) = self.running.get(session) else { return false };
        match pause::stop(builder::number(running.process.id)) {
            // Stopped a second time, all are: what was stopped before is known from the first.
            Some(stopped_before) => {
                self.paused.entry(session.to_owned()).or_insert(stopped_before);
            }
            None => self.end_because(session, Ending::Resisted),
        }
        true
    }

    fn resume(&mut self, session: &str) -> bool {
        let Some(running) = self.running.get(session) else { return false };
        if let Some(stopped_before) = self.paused.remove(session) {
            pause::go_on(builder::number(running.process.id), &stopped_before);
        }
        true
    }

    fn build(&mut self, spec: Spec) -> Result<Built, BuildError> {
        if self.running.contains_key(&spec.session) {
            return Err(BuildError::refused(
                "find a free name",
                format!("session {} has a sandbox already", spec.session),
                "destroy it first",
            ));
        }
        let controls = check::of_sandbox(&self.statuses, &spec);
        if let Some(status) = unsatisfied(&spec.require, &controls) {
            let cause =
                format!("the zone requires {}, which is {:?} here: {}", status.control, status.state, status.cause)
                    .to_lowercase();
            return Err(BuildError::refused("check required controls", cause, status.fix));
        }
        let request = Request::check(spec, self.tools.builder, &self.settings.forbidden_mounts)?;
        let taken = self.running.values().any(|running| running.kernel_uid == request.kernel_uid);
        if self.tools.builder.is_root() && taken && !postern_danger::off!("distinct-uid") {
            let cause = format!("the kernel user {} has a sandbox already", request.kernel_uid);
            return Err(BuildError::refused("find a free kernel user", cause, "give each session its own"));
        }
        let (running, handed) = self.build_and_watch(&request)?;
        let pid = builder::number(running.process.id);
        self.running.insert(request.spec.session, running);
        let Handed { tools, sockets, open, .. } = handed;
        let descriptors = std::iter::once(tools).chain(sockets).collect();
        Ok(Built { pid, controls, open, descriptors })
    }

    /// A build may wait for a file system that does not answer; the other sandboxes are watched meanwhile.
    fn build_and_watch(&mut self, request: &Request) -> Result<(Running, Handed), BuildError> {
        let Self { tools, stubs, pool, running, watchdog, .. } = self;
        let mut over = Vec::new();
        let mut meanwhile = || {
            let found = watchdog.look(running, Instant::now());
            found.iter().filter_map(|(session, _)| running.get(session)).for_each(|running| running.process.kill());
            over.extend(found);
        };
        let built = builder::build(tools, stubs, pool, request, &mut meanwhile);
        for (session, limit) in over {
            self.end_because(&session, Ending::Over(limit));
        }
        built
    }

    /// Ends a sandbox, or buries one that ended, and tells.
    fn end(&mut self, session: &str) {
        self.end_because(session, Ending::Asked);
    }

    fn end_because(&mut self, session: &str, ending: Ending) {
        let Some(running) = self.running.remove(session) else { return };
        self.paused.remove(session);
        let mut exit = running.end(&mut self.pool);
        match ending {
            Ending::Asked => {}
            Ending::Over(limit) => exit = Exit { how: limit.how().to_owned(), passed: Some(limit), ..exit },
            Ending::Resisted => exit.how = "its processes could not be stopped when it was frozen".to_owned(),
        }
        // A worker that is gone is noticed by the next wait.
        let _gone = self.worker.send(&Told::Ended { session: session.to_owned(), exit }, &[]);
    }

    /// Ends what is over a limit that the kernel does not hold here, once it is time to look.
    fn watch(&mut self) {
        for (session, limit) in self.watchdog.look(&self.running, Instant::now()) {
            self.end_because(&session, Ending::Over(limit));
        }
    }
}

impl Drop for Spawner<'_> {
    fn drop(&mut self) {
        self.stubs.discard_all(&mut self.pool);
        for (_, running) in std::mem::take(&mut self.running) {
            running.end(&mut self.pool);
        }
    }
}

/// The first descriptor that may be anything: those below are reserved.
pub(crate) const FIRST_FREE: i32 = 10;

/// How long nothing must happen before work ahead of need begins: a sandbox that was just built uses the processor for its first command.
const QUIET: Duration = Duration::from_millis(20);

/// A sandbox that was built: its first process, what holds for it, and the sockets for the worker.
struct Built {
    pid: u32,
    controls: Vec<ControlStatus>,
    open: Vec<PathBuf>,
    descriptors: Vec<OwnedFd>,
}

/// Why a sandbox is ended.
enum Ending {
    /// It was asked for, or the sandbox ended by itself.
    Asked,
    /// It was over a limit.
    Over(Limit),
    /// It was to be stopped and went on.
    Resisted,
}

struct Woken {
    asked: bool,
    ended: Vec<String>,
}

fn reserve_low_descriptors() -> Vec<OwnedFd> {
    let mut reserved = Vec::new();
    while let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let number = std::os::fd::AsRawFd::as_raw_fd(&null);
        reserved.push(null);
        if number + 1 >= FIRST_FREE {
            break;
        }
    }
    reserved
}

/// A clone of a process with threads may find locks held for ever.
fn refuse_threads() -> Result<(), BuildError> {
    let threads = fs::read_dir("/proc/self/task").map_or(0, Iterator::count);
    if threads == 1 {
        return Ok(());
    }
    Err(BuildError::refused(
        "prepare the spawner",
        format!("this process has {threads} threads, not one"),
        "start the role before any runtime",
    ))
}
