//! Waiting for children, in the first process of a sandbox and elsewhere. As process 1 the tool server also inherits every orphan inside: one
//! thread reaps them all and keeps the endings of those that were started here.

use std::collections::HashMap;
use std::io;
use std::process::Command;
use std::sync::{Condvar, Mutex, MutexGuard, Once, PoisonError};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, WaitId, WaitIdOptions, WaitOptions, WaitStatus};

use crate::command::Ended;

static CHILDREN: Children = Children { endings: Mutex::new(None), changed: Condvar::new() };
static REAPER: Once = Once::new();

type Endings = HashMap<i32, Option<Ended>>;

struct Children {
    endings: Mutex<Option<Endings>>,
    changed: Condvar,
}

impl Children {
    fn lock(&self) -> MutexGuard<'_, Option<Endings>> {
        self.endings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Starts a command whose ending this module will keep.
pub(crate) fn start(command: &mut Command) -> io::Result<Pid> {
    let first_process = rustix::process::getpid() == Pid::INIT;
    if first_process {
        REAPER.call_once(|| drop(std::thread::spawn(reap_everyone)));
    }
    // Held across the fork, so that the reaper cannot meet a child that is not in the table yet.
    let mut endings = CHILDREN.lock();
    let pid = Pid::from_child(&command.spawn()?);
    endings.get_or_insert_default().insert(key(pid), None);
    CHILDREN.changed.notify_all();
    drop(endings);
    if !first_process {
        std::thread::spawn(move || reap_one(pid));
    }
    Ok(pid)
}

/// Blocks until the child ended.
pub(crate) fn wait(pid: Pid) -> Ended {
    let mut endings = CHILDREN.lock();
    loop {
        if let Some(ended) = ending(&endings, pid) {
            return ended;
        }
        endings = CHILDREN.changed.wait(endings).unwrap_or_else(PoisonError::into_inner);
    }
}

/// Blocks until the child ended, at most so long.
pub(crate) fn wait_for(pid: Pid, limit: Duration) -> Option<Ended> {
    let until = Instant::now().checked_add(limit)?;
    let mut endings = CHILDREN.lock();
    loop {
        if let Some(ended) = ending(&endings, pid) {
            return Some(ended);
        }
        let left = until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())?;
        endings = CHILDREN.changed.wait_timeout(endings, left).unwrap_or_else(PoisonError::into_inner).0;
    }
}

/// Gives up a child; it is still reaped when it ends.
pub(crate) fn forget(pid: Pid) {
    if let Some(endings) = CHILDREN.lock().as_mut() {
        endings.remove(&key(pid));
    }
}

fn key(pid: Pid) -> i32 {
    pid.as_raw_nonzero().get()
}

fn ending(endings: &Option<Endings>, pid: Pid) -> Option<Ended> {
    endings.as_ref().and_then(|endings| endings.get(&key(pid)).copied()).flatten()
}

/// As process 1: blocks until anyone has ended, then collects all who have.
fn reap_everyone() {
    loop {
        // The peek blocks without the lock and takes nothing; only the collection under the lock does.
        match rustix::process::waitid(WaitId::All, WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
            Ok(_someone) => collect(),
            Err(Errno::CHILD) => wait_for_a_start(),
            Err(_interrupted) => {}
        }
    }
}

fn collect() {
    let mut endings = CHILDREN.lock();
    while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
        record(&mut endings, pid, status);
    }
    CHILDREN.changed.notify_all();
}

fn wait_for_a_start() {
    let endings = CHILDREN.lock();
    // A child started since the look is in the table already, and its start's notice is past.
    if endings.iter().flat_map(HashMap::values).any(Option::is_none) {
        return;
    }
    // An orphan whose parent dies between the peek and here waits as a zombie until the next start or the sandbox's end, at worst this long.
    drop(CHILDREN.changed.wait_timeout(endings, Duration::from_secs(1)));
}

fn reap_one(pid: Pid) {
    let status = loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Ok(Some((_, status))) => break Some(status),
            Ok(None) | Err(Errno::INTR) => {}
            Err(_not_ours) => break None,
        }
    };
    let mut endings = CHILDREN.lock();
    match (status, endings.as_mut().and_then(|endings| endings.get_mut(&key(pid)))) {
        (Some(status), _) => record(&mut endings, pid, status),
        (None, Some(ended)) => *ended = Some(Ended::Code(-1)),
        (None, None) => {}
    }
    CHILDREN.changed.notify_all();
}

/// Keeps the ending of a child that was started here; an orphan's is dropped.
fn record(endings: &mut Option<Endings>, pid: Pid, status: WaitStatus) {
    if let Some(ended) = endings.as_mut().and_then(|endings| endings.get_mut(&key(pid))) {
        *ended = Some(match (status.exit_status(), status.terminating_signal()) {
            (Some(code), _) => Ended::Code(code),
            (None, Some(signal)) => Ended::Signal(signal),
            (None, None) => Ended::Code(-1),
        });
    }
}
