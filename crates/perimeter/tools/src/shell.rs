//! The persistent `/bin/bash` of a session: commands go in framed by a nonce, output comes back bounded, the exit status comes by the frame.
//! Never starts a process itself: that is `postern_sandbox::command`'s right.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use postern_sandbox::command::{Child, Command, StartError};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::deadline::{Deadline, LOOK};

const OUTPUT_LIMIT_BYTES: usize = 100 * 1024;

/// A running shell.
#[derive(Debug)]
pub(crate) struct Shell {
    child: Child,
    /// Tells that bash itself is gone even while a job of it keeps the output open; absent where the kernel has none.
    death: Option<OwnedFd>,
}

/// How a command ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// It ran to its end with this status.
    Finished { output: String, status: i32 },
    /// The shell itself ended during the command.
    ShellGone {
        /// What it still said.
        output: String,
        /// The signal that killed it; none when it exited by itself.
        signal: Option<i32>,
    },
    /// The deadline passed.
    TimedOut,
}

impl Shell {
    /// Starts a shell in `workdir` with this process's environment, which is the sandbox's closed list.
    ///
    /// # Errors
    /// The shell could not be started.
    pub(crate) fn start(workdir: &Path) -> Result<Self, StartError> {
        let child = Command::new("/bin/bash")
            .argument("--noprofile")
            .argument("--norc")
            .directory(workdir)
            .environment("PS1", "")
            .environment("PS2", "")
            .environment("TERM", "dumb")
            .start()?;
        for pipe in [&child.stdin, &child.stdout] {
            rustix::io::ioctl_fionbio(pipe, true).map_err(|error| StartError::Pipes(error.into()))?;
        }
        let death = pid(&child).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        Ok(Self { child, death })
    }

    /// Runs one command. After anything but [`Ended::Finished`] the shell is of no more use.
    ///
    /// # Errors
    /// The shell's pipes could not be used.
    pub(crate) fn run(&mut self, command: &str, deadline: &Deadline) -> io::Result<Ended> {
        let nonce = nonce()?;
        let sentinel = format!("__PSTN_CMD_{nonce}_DONE__");
        // The sentinel is split in what the shell reads, so that an echo of the input does not look like the end.
        let (head, tail) = sentinel.split_at(8);
        let framed = format!("{{ {command}\n}} </dev/null 2>&1; printf '\\n{head}''{tail}%d\\n' $?\n");
        let mut exchange = Exchange { unsent: framed.as_bytes(), received: Tail::new(sentinel) };
        loop {
            match exchange.step(self, deadline)? {
                Step::Again => {}
                Step::Complete => return Ok(exchange.received.finished()),
                Step::Closed => {
                    let output = exchange.received.text().trim().to_owned();
                    return Ok(Ended::ShellGone { output, signal: self.killed_by() });
                }
                Step::Expired => return Ok(Ended::TimedOut),
            }
        }
    }
}

impl Shell {
    /// The signal that ended the shell. Its output may be closed a moment before its end is known.
    fn killed_by(&self) -> Option<i32> {
        match self.child.wait_for(Duration::from_secs(1)) {
            Some(postern_sandbox::command::Ended::Signal(signal)) => Some(signal),
            Some(postern_sandbox::command::Ended::Code(_)) | None => None,
        }
    }
}

impl Drop for Shell {
    /// Kills the shell and the jobs of its process group; jobs that left it live until the sandbox ends.
    fn drop(&mut self) {
        self.child.kill();
    }
}

fn pid(child: &Child) -> Option<Pid> {
    i32::try_from(child.id()).ok().and_then(Pid::from_raw)
}

fn nonce() -> io::Result<String> {
    let mut bytes = [0u8; 16];
    let filled = rustix::rand::getrandom(&mut bytes[..], rustix::rand::GetRandomFlags::empty())?;
    if filled < bytes.len() {
        return Err(io::Error::other("no random bytes for the shell's framing"));
    }
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

struct Exchange<'a> {
    unsent: &'a [u8],
    received: Tail,
}

enum Step {
    Again,
    Complete,
    Closed,
    Expired,
}

impl Exchange<'_> {
    fn step(&mut self, shell: &mut Shell, deadline: &Deadline) -> io::Result<Step> {
        let remaining = deadline.remaining();
        if remaining.is_zero() {
            return Ok(Step::Expired);
        }
        let ready = wait(shell, !self.unsent.is_empty(), remaining.min(LOOK))?;
        if ready.input && !self.unsent.is_empty() {
            match rustix::io::write(&shell.child.stdin, self.unsent) {
                Ok(written) => self.unsent = &self.unsent[written..],
                Err(Errno::AGAIN | Errno::INTR) => {}
                // Nobody reads any more; what the shell still said is read below.
                Err(Errno::PIPE) => self.unsent = &[],
                Err(error) => return Err(error.into()),
            }
        }
        match self.receive(shell)? {
            Received::Ended => Ok(Step::Closed),
            _ if self.received.complete() => Ok(Step::Complete),
            Received::Nothing if ready.dead => Ok(Step::Closed),
            Received::Nothing | Received::Some => Ok(Step::Again),
        }
    }

    fn receive(&mut self, shell: &Shell) -> io::Result<Received> {
        let mut chunk = [0u8; 16 * 1024];
        match rustix::io::read(&shell.child.stdout, &mut chunk) {
            Ok(0) => Ok(Received::Ended),
            Ok(length) => {
                self.received.push(&chunk[..length]);
                Ok(Received::Some)
            }
            Err(Errno::AGAIN | Errno::INTR) => Ok(Received::Nothing),
            Err(error) => Err(error.into()),
        }
    }
}

enum Received {
    Some,
    Nothing,
    Ended,
}

struct Ready {
    input: bool,
    dead: bool,
}

fn wait(shell: &Shell, sending: bool, remaining: Duration) -> io::Result<Ready> {
    let timeout = Timespec {
        tv_sec: i64::try_from(remaining.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: remaining.subsec_nanos().into(),
    };
    let mut watched = vec![PollFd::from_borrowed_fd(shell.child.stdout.as_fd(), PollFlags::IN)];
    watched.extend(sending.then(|| PollFd::from_borrowed_fd(shell.child.stdin.as_fd(), PollFlags::OUT)));
    watched.extend(shell.death.as_ref().map(|death| PollFd::from_borrowed_fd(death.as_fd(), PollFlags::IN)));
    match poll(&mut watched, Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let input = sending && !watched[1].revents().is_empty();
    let dead = shell.death.is_some() && watched.last().is_some_and(|last| !last.revents().is_empty());
    Ok(Ready { input, dead })
}

/// The last 100 KiB of what a command printed, in bounded memory, and the search for its end.
struct Tail {
    sentinel: String,
    bytes: Vec<u8>,
    truncated: bool,
    /// Where the sentinel starts, once it has been seen.
    found: Option<usize>,
}

impl Tail {
    fn new(sentinel: String) -> Self {
        Self { sentinel, bytes: Vec::new(), truncated: false, found: None }
    }

    fn push(&mut self, chunk: &[u8]) {
        let searched = self.bytes.len().saturating_sub(self.sentinel.len());
        self.bytes.extend_from_slice(chunk);
        if self.found.is_none() {
            self.found = find(&self.bytes[searched..], self.sentinel.as_bytes()).map(|at| at + searched);
        }
        // Twice the limit before moving bytes: each is moved once, however much is printed.
        if self.found.is_none() && self.bytes.len() > 2 * OUTPUT_LIMIT_BYTES {
            self.trim();
        }
    }

    fn trim(&mut self) {
        if postern_danger::off!("tool-output") {
            return;
        }
        let excess = self.bytes.len().saturating_sub(OUTPUT_LIMIT_BYTES);
        self.bytes.drain(..excess);
        self.truncated |= excess > 0;
        self.found = self.found.map(|at| at.saturating_sub(excess));
    }

    /// Whether the sentinel and the line with the status are there.
    fn complete(&self) -> bool {
        self.found.is_some_and(|at| self.bytes[at + self.sentinel.len()..].contains(&b'\n'))
    }

    fn text(&mut self) -> String {
        self.trim();
        without_escapes(&String::from_utf8_lossy(&self.bytes))
    }

    fn finished(mut self) -> Ended {
        let text = self.text();
        let Some(at) = text.rfind(&self.sentinel) else {
            return Ended::Finished { output: text.trim().to_owned(), status: -1 };
        };
        let status =
            text[at + self.sentinel.len()..].lines().next().and_then(|line| line.trim().parse().ok()).unwrap_or(-1);
        let mark = if self.truncated { "[output truncated]\n" } else { "" };
        Ended::Finished { output: format!("{mark}{}", text[..at].trim_end_matches('\n')), status }
    }
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Drops terminal control sequences: `ESC [ parameters intermediates final`.
fn without_escapes(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("\u{1b}[") {
        out.push_str(&rest[..at]);
        let after = rest[at + 2..]
            .trim_start_matches(|c: char| c.is_ascii_digit() || matches!(c, ';' | '?'))
            .trim_start_matches(|c: char| (' '..='/').contains(&c));
        match after.chars().next() {
            Some('@'..='~') => rest = &after[1..],
            _ => {
                out.push('\u{1b}');
                rest = &rest[at + 1..];
            }
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_sequences_are_removed_and_other_escapes_kept() {
        for (text, expected) in [
            ("\u{1b}[31mred\u{1b}[0m", "red"),
            ("\u{1b}[?25l\u{1b}[2 qx", "x"),
            ("\u{1b}]0;title\u{7}", "\u{1b}]0;title\u{7}"),
            ("\u{1b}[", "\u{1b}["),
            ("\u{1b}[\u{1b}[1mx", "\u{1b}[x"),
            ("a\u{1b}[12é", "a\u{1b}[12é"),
        ] {
            assert_eq!(without_escapes(text), expected);
        }
    }

    #[test]
    fn a_sentinel_across_chunk_borders_is_found() {
        let whole = "out\n__END__7\n";
        for cut in 1..whole.len() {
            let mut tail = Tail::new("__END__".to_owned());
            tail.push(&whole.as_bytes()[..cut]);
            tail.push(&whole.as_bytes()[cut..]);
            assert!(tail.complete(), "cut at {cut}");
            assert_eq!(tail.finished(), Ended::Finished { output: "out".to_owned(), status: 7 });
        }
    }

    #[test]
    fn memory_stays_bounded_however_much_is_printed() {
        let mut tail = Tail::new("__END__".to_owned());
        for _ in 0..2_000 {
            tail.push(&[b'x'; 4096]);
            assert!(tail.bytes.len() <= 2 * OUTPUT_LIMIT_BYTES + 4096);
        }
        tail.push(b"\n__END__0\n");
        let Ended::Finished { output, status } = tail.finished() else { panic!("it finished") };
        assert_eq!(status, 0);
        assert!(output.starts_with("[output truncated]\nxxx"));
        assert!(output.len() <= OUTPUT_LIMIT_BYTES + 20);
    }
}
