//! Stopping every process of a sandbox, and letting them go on: SIGSTOP from outside its process namespace, which no process inside can catch or
//! refuse, its first process included. Nothing inside runs meanwhile, so nothing inside can undo it.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rustix::event::Timespec;
use rustix::process::{Pid, PidfdFlags, Signal};

/// Stops a sandbox by its first process, and answers which of its processes were stopped before: they stay so when it goes on. Stopped is what was
/// seen stopped twice, thread by thread, and left no processor in between: a look takes its time, and processes that hand a turn to run around could be
/// stopped each time that it comes to them. Between the two looks nobody inside ran then who could let another go on.
///
/// `None`: after [`PATIENCE`] something still runs. Processes inside that keep letting each other go on can achieve that; the sandbox must end then.
pub(crate) fn stop(first: u32) -> Option<HashSet<Member>> {
    let until = Instant::now() + PATIENCE;
    let (mut told, mut stopped_before) = (HashSet::new(), HashSet::new());
    let mut stillness = Stillness(None);
    loop {
        let (mut calm, mut turns) = (true, Turns::new());
        for member in family(first) {
            let activity = look(member.id, &mut turns);
            if told.insert(member) {
                calm = false;
                if activity == Activity::Stopped {
                    stopped_before.insert(member);
                }
            }
            calm &= activity != Activity::Running;
            if activity != Activity::Stopped {
                // Again and again: another may have let it go on.
                signal(member, Signal::STOP);
            }
        }
        if stillness.lasts(calm.then_some(turns)) {
            return Some(stopped_before);
        }
        if Instant::now() > until {
            return None;
        }
        // A wait for nothing: this thread has no runtime.
        let _over = rustix::event::poll(&mut [], Some(&LOOK));
    }
}

/// Lets it go on but for those that were stopped before, the first process last: whoever waits for it finds the others running.
pub(crate) fn go_on(first: u32, stopped_before: &HashSet<Member>) {
    let mut members = family(first);
    members.retain(|member| member.id == first || !stopped_before.contains(member));
    members.sort_by_key(|member| member.id == first);
    for member in members {
        signal(member, Signal::CONT);
    }
}

/// What a process does, as its busiest thread has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Activity {
    /// Nothing, until it is let go on; or it has ended.
    Stopped,
    /// It is in the kernel and takes no signal there (a parent after vfork, say): it is stopped before it runs another instruction of its own.
    Uninterruptible,
    /// It runs, or may at any moment.
    Running,
}

/// What the last look found, where nothing ran in it.
struct Stillness(Option<Turns>);

impl Stillness {
    /// Whether nothing ran in this look, nor since the last one, in which nothing ran either.
    fn lasts(&mut self, now: Option<Turns>) -> bool {
        let lasts = now.is_some() && self.0 == now;
        self.0 = now;
        lasts
    }
}

/// How often each thread has left a processor. One that is stopped and has run in between has left it once more.
type Turns = HashMap<PathBuf, Option<u64>>;

/// Every thread counts: the first of them may have ended while another goes on.
fn look(id: u32, turns: &mut Turns) -> Activity {
    let threads = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let states = threads.filter_map(|thread| {
        let path = thread.path();
        let state = state_of(&fs::read_to_string(path.join("stat")).ok()?);
        // After the state: what was seen stopped first and counted then stood still from the counting on, if both are the same the next time.
        let status = fs::read_to_string(path.join("status")).ok()?;
        turns.insert(path, turns_of(&status));
        state
    });
    states.map(Activity::of).max().unwrap_or(Activity::Stopped)
}

/// Of its own will and against it.
fn turns_of(status: &str) -> Option<u64> {
    let of = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok());
    Some(of("voluntary_ctxt_switches:")? + of("nonvoluntary_ctxt_switches:")?)
}

impl Activity {
    fn of(state: char) -> Self {
        match state {
            'T' | 't' | 'Z' | 'X' | 'x' => Self::Stopped,
            'D' => Self::Uninterruptible,
            _ => Self::Running,
        }
    }
}

/// A process that is still the one that was seen: numbers are used again, the time of a start is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Member {
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

fn state_of(stat: &str) -> Option<char> {
    stat.rsplit_once(')')?.1.trim_start().chars().next()
}

/// A command of the operator's is effective within a second, and the spawner serves others too.
const PATIENCE: Duration = Duration::from_millis(700);
const LOOK: Timespec = Timespec { tv_sec: 0, tv_nsec: 1_000_000 };

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use super::*;

    /// A shell and what it starts, in a process group of their own; killed in the end.
    struct Tree(Child);

    impl Drop for Tree {
        fn drop(&mut self) {
            for member in family(self.0.id()) {
                signal(member, Signal::KILL);
            }
            let _ended = self.0.wait();
        }
    }

    #[expect(clippy::disallowed_methods, reason = "the test's own children stand for a sandbox's")]
    fn tree(script: &str) -> Tree {
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", script]).stdout(Stdio::piped());
        std::os::unix::process::CommandExt::process_group(&mut shell, 0);
        let mut tree = Tree(shell.spawn().expect("a shell"));
        let mut output = tree.0.stdout.take().expect("piped");
        std::io::Read::read_exact(&mut output, &mut [0; 5]).expect("ready");
        tree
    }

    fn activity(id: u32) -> Activity {
        look(id, &mut Turns::new())
    }

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !holds() {
            assert!(Instant::now() < until, "{what}");
            std::thread::yield_now();
        }
    }

    #[test]
    fn everyone_below_the_first_process_is_stopped_and_goes_on_again() {
        let tree = tree("sleep 60 & (sleep 60 & sleep 60) & echo ready; wait");
        let first = tree.0.id();
        let stopped_before = stop(first).expect("nobody resists");
        assert_eq!(stopped_before, HashSet::new());
        let members = family(first);
        assert!(members.len() >= 3, "{members:?}");
        assert!(members.iter().all(|member| activity(member.id) == Activity::Stopped));
        go_on(first, &stopped_before);
        until("all go on", || members.iter().all(|member| activity(member.id) != Activity::Stopped));
    }

    #[test]
    fn what_was_stopped_before_stays_stopped() {
        let tree = tree("sleep 60 & sleep 60 & kill -STOP $!; echo ready; wait");
        let first = tree.0.id();
        until("one is stopped", || family(first).iter().any(|member| activity(member.id) == Activity::Stopped));
        let stopped_before = stop(first).expect("nobody resists");
        assert_eq!(stopped_before.len(), 1);
        go_on(first, &stopped_before);
        until("the others go on", || {
            family(first).iter().filter(|member| activity(member.id) == Activity::Stopped).count() == 1
        });
        assert!(family(first).iter().any(|member| stopped_before.contains(member)));
    }

    #[test]
    fn processes_that_let_each_other_go_on_are_stopped_for_good_or_said_to_resist() {
        let resisting = "while :; do kill -CONT 0; done";
        let tree = tree(&format!("for i in 1 2 3 4 5 6; do ({resisting}) & done; echo ready; {resisting}"));
        let first = tree.0.id();
        let began = Instant::now();
        match stop(first) {
            None => assert!(began.elapsed() >= PATIENCE),
            Some(_) => {
                for _ in 0..50 {
                    assert!(family(first).iter().all(|member| activity(member.id) == Activity::Stopped));
                    std::thread::yield_now();
                }
            }
        }
        assert!(began.elapsed() < PATIENCE * 20);
    }

    /// As one of several does that hand a turn around: at each look it is another that runs.
    #[test]
    fn a_process_that_ran_between_two_looks_and_stopped_itself_again_is_not_still() {
        let tree = tree("echo ready; while :; do kill -STOP $$; done");
        let first = tree.0.id();
        let mut still = Stillness(None);
        let mut look = || {
            let mut turns = Turns::new();
            (look(first, &mut turns) == Activity::Stopped).then_some(turns)
        };
        until("it is stopped", || look().is_some());
        // The kernel counts a moment after it says so.
        let before = turns_that_stay(&mut look);
        assert!(!still.lasts(Some(before.clone())), "one look tells nothing");
        signal(family(first)[0], Signal::CONT);
        until("it ran and is stopped again", || look().is_some_and(|turns| turns != before));
        let after = turns_that_stay(&mut look);
        assert!(!still.lasts(Some(after)), "it ran in between");
        assert!(!still.lasts(None), "something runs");
        assert!(!still.lasts(look()), "it ran in the look before");
        assert!(still.lasts(look()));
    }

    /// Counted the same a hundred times.
    fn turns_that_stay(look: &mut impl FnMut() -> Option<Turns>) -> Turns {
        let (mut turns, mut same) = (None, 0);
        until("nothing is counted any more", || {
            let now = look();
            same = if now.is_some() && now == turns { same + 1 } else { 0 };
            turns = now;
            same == 100
        });
        turns.expect("it is stopped")
    }

    #[test]
    fn a_process_whose_first_thread_has_ended_still_counts() {
        let script = "import threading, time, ctypes\n\
            threading.Thread(target=lambda: (print('ready', end='', flush=True), time.sleep(60))).start()\n\
            ctypes.CDLL(None).pthread_exit(None)";
        let tree = tree(&format!("exec /usr/bin/python3 -c \"{script}\""));
        let first = tree.0.id();
        let leader = || state_of(&fs::read_to_string(format!("/proc/{first}/stat")).expect("there"));
        until("the first thread has ended", || leader() == Some('Z'));
        assert_ne!(activity(first), Activity::Stopped);
        stop(first).expect("nobody resists");
        assert_eq!(activity(first), Activity::Stopped);
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
