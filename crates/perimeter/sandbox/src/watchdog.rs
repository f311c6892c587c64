//! Who is over a limit that the kernel does not hold here. Memory where no group holds it: the resident pages of every process below a sandbox's first one,
//! from the host's /proc, and what no process shows. Disk where no quota holds it.

pub(crate) mod disk;
pub(crate) mod unseen;

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::time::{Duration, Instant};

use crate::builder::{Running, number};
use crate::sandbox::Limit;
use disk::{Gauge, Subject};
use unseen::Unseen;

/// How long a sandbox may be over its limit before anybody looks.
pub(crate) const INTERVAL: Duration = Duration::from_millis(250);

/// Looks at all sandboxes in turn, whenever it is time.
pub(crate) struct Watchdog {
    memory_held: bool,
    gauge: Gauge,
    looked: Option<Instant>,
    counted: Option<Instant>,
}

impl Watchdog {
    pub(crate) fn new(memory_held: bool) -> Self {
        Self { memory_held, gauge: Gauge::default(), looked: None, counted: None }
    }

    /// How long until the next look.
    pub(crate) fn pause(&self, now: Instant) -> Duration {
        self.looked.map_or(Duration::ZERO, |last| self.gauge.pause().saturating_sub(now.duration_since(last)))
    }

    /// Who is over which limit; nobody before it is time to look.
    pub(crate) fn look(&mut self, running: &BTreeMap<String, Running>, now: Instant) -> Vec<(String, Limit)> {
        if running.is_empty() || !self.pause(now).is_zero() {
            return Vec::new();
        }
        self.looked = Some(now);
        let memory = self.over_memory(running, now).into_iter().map(|session| (session, Limit::Memory));
        let disk = self.over_disk(running, now).map(|session| (session, Limit::Disk));
        memory.chain(disk).collect()
    }

    fn over_memory(&mut self, running: &BTreeMap<String, Running>, now: Instant) -> Vec<String> {
        let is_early = self.counted.is_some_and(|last| now.duration_since(last) < INTERVAL);
        if self.memory_held || is_early {
            return Vec::new();
        }
        self.counted = Some(now);
        let census = Census::take();
        let over = |running: &Running| {
            let resident = census.resident_bytes(number(running.process.id));
            let unseen = running.unseen.as_ref().map_or(0, Unseen::bytes);
            resident.saturating_add(unseen) > running.memory_bytes
        };
        running.iter().filter(|(_, running)| over(running)).map(|(session, _)| session.clone()).collect()
    }

    fn over_disk(&mut self, running: &BTreeMap<String, Running>, now: Instant) -> Option<String> {
        let subjects = running.iter().map(|(session, running)| Subject {
            session,
            directories: &running.counted,
            limit_bytes: running.disk_bytes,
        });
        self.gauge.look(subjects, now).filter(|_| !postern_danger::off!("disk-watchdog"))
    }
}

/// Processes of the machine: parent and resident bytes of each.
pub(crate) struct Census {
    processes: HashMap<u32, (u32, u64)>,
}

impl Census {
    /// Counts. A process that ends meanwhile counts as nothing.
    pub(crate) fn take() -> Self {
        let page = rustix::param::page_size() as u64;
        let numbers = fs::read_dir("/proc")
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        let processes = numbers
            .filter_map(|id: u32| Some((id, about(&fs::read_to_string(format!("/proc/{id}/stat")).ok()?, page)?)))
            .collect();
        Self { processes }
    }

    /// The resident bytes of a process and of all below it.
    pub(crate) fn resident_bytes(&self, first: u32) -> u64 {
        self.processes.iter().filter(|(id, _)| self.is_below(**id, first)).map(|(_, (_, resident))| resident).sum()
    }

    fn is_below(&self, id: u32, first: u32) -> bool {
        // No chain of parents is longer than there are processes; a number used again in between must not make a circle endless.
        std::iter::successors(Some(id), |id| self.processes.get(id).map(|(parent, _)| *parent))
            .take(self.processes.len() + 1)
            .any(|id| id == first)
    }
}

/// Parent and resident bytes of a line of /proc/PID/stat. The name in parentheses is the process's own and may hold anything.
fn about(stat: &str, page: u64) -> Option<(u32, u64)> {
    let (_, after_name) = stat.rsplit_once(')')?;
    let mut fields = after_name.split_whitespace();
    let parent = fields.nth(1)?.parse().ok()?;
    let resident: u64 = fields.nth(19)?.parse().ok()?;
    Some((parent, resident.saturating_mul(page)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_does_not_shift_the_fields() {
        let line = "42 (a) b (c)) S 7 1 1 0 -1 0 0 0 0 0 0 0 0 0 20 0 1 0 5 1000 33 0 0";
        assert_eq!(about(line, 4096), Some((7, 33 * 4096)));
        assert_eq!(about("42 (x) S", 4096), None);
    }

    #[test]
    fn a_look_is_due_at_once_and_then_when_its_pause_is_over() {
        let (mut watchdog, now) = (Watchdog::new(false), Instant::now());
        assert_eq!(watchdog.pause(now), Duration::ZERO);
        watchdog.looked = Some(now);
        assert_eq!(watchdog.pause(now + INTERVAL / 5), INTERVAL / 5 * 4);
        assert_eq!(watchdog.pause(now + INTERVAL), Duration::ZERO);
    }

    #[test]
    fn all_below_a_process_count_and_circles_end() {
        let processes =
            HashMap::from([(10, (1, 100)), (11, (10, 20)), (12, (11, 3)), (20, (1, 7)), (30, (31, 1)), (31, (30, 1))]);
        assert_eq!(Census { processes }.resident_bytes(10), 123);
    }

    #[test]
    fn this_process_is_seen() {
        assert!(Census::take().resident_bytes(std::process::id()) > 1 << 20);
    }
}
