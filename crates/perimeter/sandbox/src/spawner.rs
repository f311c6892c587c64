//! The spawner role: one thread, one socket on descriptor 0, no runtime, no secret. It builds sandboxes when asked, ends them when told or when its
//! socket closes, and tells when one ends by itself.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

use postern_exec::{Channel, ChannelError, role};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::builder::{self, Running, Tools};
use crate::cgroup::{self, Controller, Pool};
use crate::control::{ControlStatus, unsatisfied};
use crate::error::BuildError;
use crate::request::{Builder, Request};
use crate::sandbox::Exit;
use crate::seccomp::Filter;
use crate::spec::{Settings, Spec};
use crate::system::System;
use crate::watchdog::{self, Census};
use crate::wire::{Answer, Ask, Asked, MESSAGE_LIMIT, Ready, Told};
use crate::{check, image};

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
    pool: Pool,
    statuses: Vec<ControlStatus>,
    memory_held: bool,
    running: BTreeMap<String, Running>,
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
        let filter = Filter::compile()
            .map_err(|error| BuildError::refused(STEP, error.to_string(), "report this as a defect"))?;
        let image = image::copy_of_ourselves().map_err(|error| {
            BuildError::refused(STEP, format!("copy this program to memory: {error}"), "free some memory")
        })?;
        let groups = cgroup::detect();
        let statuses = check::statuses(groups.as_deref(), builder);
        let memory_held = groups.as_ref().is_some_and(|groups| groups.controllers().contains(&Controller::Memory));
        let tools = Tools { builder, system: System::look(), filter, image };
        Ok(Self { worker, settings, tools, pool: Pool::new(groups), statuses, memory_held, running: BTreeMap::new() })
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
            } else if !self.memory_held {
                self.end_the_oversized();
            }
        }
    }

    /// Waits for a question or for a sandbox's end; prepares groups while there is neither.
    fn wait(&mut self) -> Result<Woken, Errno> {
        loop {
            let more_to_prepare = self.pool.prepare();
            let timeout = if more_to_prepare {
                Some(Duration::ZERO)
            } else {
                (!self.memory_held && !self.running.is_empty()).then_some(Duration::from_millis(watchdog::INTERVAL_MS))
            };
            let woken = self.poll(timeout)?;
            if woken.asked || !woken.ended.is_empty() || !more_to_prepare {
                return Ok(woken);
            }
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
                Ok((pid, descriptors)) => {
                    let borrowed: Vec<_> = descriptors.iter().map(AsFd::as_fd).collect();
                    let answer = Answer::Built { pid, controls: self.statuses.clone() };
                    self.worker.send(&Told::Answer { id, answer }, &borrowed)
                }
                Err(error) => self.worker.send(&Told::Answer { id, answer: Answer::NotBuilt(error) }, &[]),
            },
            Ask::Destroy { session } => {
                self.end(&session);
                self.worker.send(&Told::Answer { id, answer: Answer::Destroyed }, &[])
            }
            Ask::Controls => {
                self.worker.send(&Told::Answer { id, answer: Answer::Controls(self.statuses.clone()) }, &[])
            }
        }
    }

    fn build(&mut self, spec: Spec) -> Result<(u32, Vec<OwnedFd>), BuildError> {
        if self.running.contains_key(&spec.session) {
            return Err(BuildError::refused(
                "find a free name",
                format!("session {} has a sandbox already", spec.session),
                "destroy it first",
            ));
        }
        if let Some(status) = unsatisfied(&spec.require, &self.statuses) {
            let cause =
                format!("the zone requires {}, which is {:?} here: {}", status.control, status.state, status.cause)
                    .to_lowercase();
            return Err(BuildError::refused("check required controls", cause, status.fix));
        }
        let request = Request::check(spec, self.tools.builder, &self.settings.forbidden_mounts)?;
        if self.tools.builder.is_root() && self.running.values().any(|running| running.kernel_uid == request.kernel_uid)
        {
            let cause = format!("the kernel user {} has a sandbox already", request.kernel_uid);
            return Err(BuildError::refused("find a free kernel user", cause, "give each session its own"));
        }
        let (running, handed) = builder::build(&self.tools, &mut self.pool, &request)?;
        let pid = builder::number(running.process.id);
        self.running.insert(request.spec.session, running);
        Ok((pid, std::iter::once(handed.tools).chain(handed.sockets).collect()))
    }

    /// Ends a sandbox, or buries one that ended, and tells.
    fn end(&mut self, session: &str) {
        self.end_because(session, None);
    }

    fn end_because(&mut self, session: &str, reason: Option<&str>) {
        let Some(running) = self.running.remove(session) else { return };
        let exit = running.end(&mut self.pool);
        let exit = Exit { how: reason.map_or(exit.how, str::to_owned), last_words: exit.last_words };
        // A worker that is gone is noticed by the next wait.
        let _gone = self.worker.send(&Told::Ended { session: session.to_owned(), exit }, &[]);
    }

    fn end_the_oversized(&mut self) {
        let census = Census::take();
        let oversized: Vec<String> = self
            .running
            .iter()
            .filter(|(_, running)| census.resident_bytes(builder::number(running.process.id)) > running.memory_bytes)
            .map(|(session, _)| session.clone())
            .collect();
        for session in oversized {
            self.end_because(&session, Some("ended by the watchdog: over its memory limit"));
        }
    }
}

impl Drop for Spawner<'_> {
    fn drop(&mut self) {
        for (_, running) in std::mem::take(&mut self.running) {
            running.end(&mut self.pool);
        }
    }
}

struct Woken {
    asked: bool,
    ended: Vec<String>,
}

fn reserve_low_descriptors() -> Vec<OwnedFd> {
    const FIRST_FREE: i32 = 10;
    let mut reserved = Vec::new();
    while let Ok(null) = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty()) {
        let number = std::os::fd::AsRawFd::as_raw_fd(&null);
        reserved.push(null);
        if number >= FIRST_FREE {
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
