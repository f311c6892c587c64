//! Clocks of a sandbox's own: a time namespace in which the machine seems to have started with the sandbox. The time of day is the machine's.

use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::thread::{ClockId, LinkNameSpaceType};

use crate::control::{Control, ControlStatus, State};
use crate::sys;

/// Whose clocks sandboxes have.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Clocks {
    /// Their own.
    Own,
    /// The machine's: it has no time namespaces, or not for this user.
    Machine,
}

impl Clocks {
    /// What the statuses promise.
    pub(crate) fn promised(statuses: &[ControlStatus]) -> Self {
        let own = statuses.iter().any(|status| status.control == Control::Timens && status.state == State::Active);
        if own { Self::Own } else { Self::Machine }
    }
}

/// Makes the namespace, sets both of its clocks back to zero and enters it. Only system calls, for the child of a process with threads.
pub(crate) fn begin_now() -> Result<(), Errno> {
    sys::new_time_namespace()?;
    let offsets = rustix::fs::open(c"/proc/self/timens_offsets", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())?;
    for (clock, number) in [(ClockId::Monotonic, b'1'), (ClockId::Boottime, b'7')] {
        let mut line = Line::default();
        line.push(&[number, b' ', b'-']);
        line.number(rustix::time::clock_gettime(clock).tv_sec.unsigned_abs());
        line.push(b" 0\n");
        rustix::io::write(&offsets, line.written())?;
    }
    enter()
}

/// Made, it is the children's alone. Before Linux 6.3 an exec does not enter it either, and whoever stays outside may start no thread.
fn enter() -> Result<(), Errno> {
    let of_children = c"/proc/self/ns/time_for_children";
    let made = rustix::fs::open(of_children, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    rustix::thread::move_into_link_name_space(made.as_fd(), Some(LinkNameSpaceType::Time))
}

/// A short line, written without memory of its own.
#[derive(Default)]
struct Line {
    bytes: [u8; 32],
    length: usize,
}

impl Line {
    /// What does not fit is left out: the kernel refuses such a line.
    fn push(&mut self, bytes: &[u8]) {
        for (place, byte) in self.bytes.iter_mut().skip(self.length).zip(bytes) {
            *place = *byte;
            self.length += 1;
        }
    }

    fn number(&mut self, number: u64) {
        if number >= 10 {
            self.number(number / 10);
        }
        self.push(&[b'0' + u8::try_from(number % 10).expect("a digit")]);
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_makes_clocks_is_in_them_at_once_and_may_start_threads_on_every_kernel() {
        let inside = sys::try_in_child(libc::CLONE_NEWUSER, || {
            begin_now()?;
            let namespace = |path| rustix::fs::stat(path).map(|found| found.st_ino);
            let is_inside = namespace(c"/proc/self/ns/time")? == namespace(c"/proc/self/ns/time_for_children")?;
            is_inside.then_some(()).ok_or(Errno::XDEV)
        });
        assert_eq!(inside, Ok(()));
    }

    #[test]
    fn a_line_is_written_digit_by_digit_and_never_past_its_end() {
        for (number, text) in [(0, "0"), (7, "7"), (10, "10"), (u64::MAX, "18446744073709551615")] {
            let mut line = Line::default();
            line.number(number);
            assert_eq!(line.written(), text.as_bytes());
        }
        let mut line = Line::default();
        line.push(&[b'x'; 40]);
        assert_eq!(line.written().len(), 32);
    }
}
