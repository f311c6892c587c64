//! Stopping every process of a sandbox, and letting them go on: SIGSTOP from outside its process namespace, which no process inside can catch or
//! refuse, its first process included. Nothing inside runs meanwhile, so nothing inside can undo it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal};

/// Stops a sandbox by its first process. A process that forked before it was stopped has its child found by the next look.
pub(crate) fn stop(first: u32) {
    let mut told = HashSet::new();
    let until = Instant::now() + PATIENCE;
    loop {
        let fresh: Vec<_> = family(first).into_iter().filter(|member| !told.contains(member)).collect();
        if fresh.is_empty() || Instant::now() > until {
            return;
        }
        for member in fresh {
            signal(member, Signal::STOP);
            told.insert(member);
        }
    }
}

/// Lets it go on, the first process last: whoever waits for it finds the others running.
pub(crate) fn go_on(first: u32) {
    let mut members = family(first);
    members.sort_by_key(|member| member.id == first);
    for member in members {
        signal(member, Signal::CONT);
    }
}

/// A process that is still the one that was seen: numbers are used again, the time of a start is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct Member {
    id: u32,
    started: u64,
}

/// Sends to exactly this process.
fn signal(member: Member, signal: Signal) {
    let Some(id) = i32::try_from(member.id).ok().and_then(Pid::from_raw) else { return };
    // Whoever ended meanwhile is as wanted.
    let Ok(process) = rustix::process::pidfd_open(id, PidfdFlags::empty()) else { return };
    if about(member.id).is_some_and(|about| about.started == member.started) {
        let _ended = rustix::process::pidfd_send_signal(&process, signal);
    }
}

/// The first process and all below it: orphans are its children.
fn family(first: u32) -> Vec<Member> {
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let all: HashMap<u32, About> = numbers
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter_map(|id: u32| Some((id, about(id)?)))
        .collect();
    // No chain of parents is longer than there are processes; a number used again in between must not make a circle endless.
    let below = |id: u32| {
        std::iter::successors(Some(id), |id| all.get(id).map(|about| about.parent))
            .take(all.len() + 1)
            .any(|id| id == first)
    };
    all.iter().filter(|(id, _)| below(**id)).map(|(id, about)| Member { id: *id, started: about.started }).collect()
}

struct About {
    parent: u32,
    started: u64,
}

fn about(id: u32) -> Option<About> {
    read(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?)
}

/// Parent and start of a line of /proc/PID/stat. The name in parentheses is the process's own and may hold anything.
fn read(stat: &str) -> Option<About> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let started = fields.nth(17)?.parse().ok()?;
    Some(About { parent, started })
}

/// A command of the operator's is effective within a second, and the spawner serves others too.
const PATIENCE: Duration = Duration::from_millis(300);

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    fn state(id: u32) -> Option<String> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        stat.rsplit_once(')')?.1.split_whitespace().next().map(str::to_owned)
    }

    #[expect(clippy::disallowed_methods, reason = "the test's own children stand for a sandbox's")]
    fn tree() -> Child {
        let script = "sleep 60 & (sleep 60 & sleep 60) & echo ready; wait";
        Command::new("/bin/sh").args(["-c", script]).stdout(Stdio::piped()).spawn().expect("a shell")
    }

    #[test]
    fn everyone_below_the_first_process_is_stopped_and_goes_on_again() {
        let mut shell = tree();
        let mut output = shell.stdout.take().expect("piped");
        std::io::Read::read_exact(&mut output, &mut [0; 5]).expect("ready");
        let first = shell.id();
        stop(first);
        let members = family(first);
        assert!(members.len() >= 3, "{members:?}");
        let until = Instant::now() + Duration::from_secs(5);
        while members.iter().any(|member| state(member.id).is_some_and(|state| state != "T")) {
            assert!(Instant::now() < until, "not all are stopped");
            std::thread::yield_now();
        }
        go_on(first);
        while members.iter().any(|member| state(member.id).is_some_and(|state| state == "T")) {
            assert!(Instant::now() < until, "not all go on");
            std::thread::yield_now();
        }
        for member in members {
            signal(member, Signal::KILL);
        }
        let _ended = shell.wait();
    }

    #[test]
    fn a_process_that_is_another_by_now_is_not_told() {
        let me = std::process::id();
        let mut about = about(me).expect("this process");
        about.started += 1;
        // This very test would be stopped.
        signal(Member { id: me, started: about.started }, Signal::STOP);
    }

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 1000 33 0 0";
        let about = read(line).expect("a line");
        assert_eq!((about.parent, about.started), (7, 5));
    }
}
