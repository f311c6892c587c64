//! Which kernel users sandboxes may be given: numbers that nobody else on this host has. Looked at once, by a worker that still reads the host's files.

use std::fs;
use std::io;
use std::ops::RangeInclusive;

use postern_sandbox::LOWEST_KERNEL_UID;
use serde::{Deserialize, Serialize};

/// Where they are taken from first. Below lie people and services, the containers of ordinary users (`/etc/subuid`, by default from 100,000 up to
/// 600,100,000), systemd's (524,288 to 1,879,048,191), and what directories of people are mapped to (up to 2,000,200,000); above lie systemd's users of
/// foreign images (from 2,147,352,576), and numbers that some programs take for negative.
const FIRST_CHOICE: RangeInclusive<u32> = 2_100_000_000..=2_147_352_575;
/// Where none of those is mapped, as in a container with users of its own: numbers that neither people nor systemd have.
const SECOND_CHOICE: RangeInclusive<u32> = LOWEST_KERNEL_UID..=524_287;

const NONE: &str = "no user is free for sandboxes: of 100,000 to 524,287 and 2,100,000,000 to 2,147,352,575 none is both mapped in this user namespace (/proc/self/uid_map, gid_map) and nobody's in /etc/subuid and /etc/subgid. Next step: map such users into the container, or run the worker as an ordinary user";

/// The numbers that may be given, in order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelUsers(Vec<RangeInclusive<u32>>);

impl Default for KernelUsers {
    /// Those of a host on which nobody else has any of them.
    fn default() -> Self {
        Self(vec![FIRST_CHOICE])
    }
}

impl KernelUsers {
    /// Those of this host: mapped in our own user namespace, and given to nobody in `/etc/subuid` and `/etc/subgid`. What a directory service says of
    /// subordinate users is not seen.
    ///
    /// # Errors
    /// A file that is there cannot be read: then nobody knows whose numbers they are. Or there is no such number: then no sandbox could be built.
    pub fn of_this_host() -> io::Result<Self> {
        if !rustix::process::geteuid().is_root() {
            // It gives none.
            return Ok(Self::default());
        }
        let maps = [read("/proc/self/uid_map")?, read("/proc/self/gid_map")?];
        let subordinate = [read("/etc/subuid")?, read("/etc/subgid")?];
        Self::among(&maps, &subordinate).not_none()
    }

    fn among(maps: &[Option<String>], subordinate: &[Option<String>]) -> Self {
        let free = |choice: RangeInclusive<u32>| {
            let mut free = vec![choice];
            for map in maps.iter().flatten() {
                let mapped: Vec<_> = map.lines().filter_map(mapped).collect();
                free = free.iter().flat_map(|free| mapped.iter().filter_map(|mapped| both(free, mapped))).collect();
            }
            let taken: Vec<_> = subordinate.iter().flatten().flat_map(|text| text.lines()).filter_map(lent).collect();
            taken.iter().fold(free, |free, taken| free.iter().flat_map(|free| without(free, taken)).collect())
        };
        let mut numbers = [FIRST_CHOICE, SECOND_CHOICE].map(free).into_iter().find(|free| !free.is_empty());
        numbers.iter_mut().for_each(|free| free.sort_unstable_by_key(|range| *range.start()));
        Self(numbers.unwrap_or_default())
    }

    fn not_none(self) -> io::Result<Self> {
        if self.0.is_empty() { Err(io::Error::other(NONE)) } else { Ok(self) }
    }

    /// The number after the highest that was ever given. One of another choice was given elsewhere, or by an earlier version.
    pub(crate) fn after(&self, highest: Option<u32>) -> Option<u32> {
        let first = *self.0.first()?.start();
        let choice = [FIRST_CHOICE, SECOND_CHOICE].into_iter().find(|choice| choice.contains(&first));
        let highest = highest.filter(|highest| choice.is_some_and(|choice| choice.contains(highest)));
        let least = highest.map_or(Some(first), |highest| highest.checked_add(1))?;
        let next = self.0.iter().find(|range| least <= *range.end())?;
        Some(least.max(*next.start()))
    }
}

fn read(path: &str) -> io::Result<Option<String>> {
    match fs::read(path) {
        Ok(text) => Ok(Some(String::from_utf8_lossy(&text).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io::Error::new(error.kind(), format!("{path}: {error}"))),
    }
}

/// A line of a user namespace's map: the first number inside, the first outside, how many.
fn mapped(line: &str) -> Option<RangeInclusive<u32>> {
    let mut fields = line.split_whitespace();
    let (first, _outside, count) = (fields.next()?, fields.next()?, fields.next()?);
    range(first, count)
}

/// A line of `/etc/subuid`: whose they are, the first number, how many.
fn lent(line: &str) -> Option<RangeInclusive<u32>> {
    let mut fields = line.trim().split(':');
    let (_whose, first, count) = (fields.next()?, fields.next()?, fields.next()?);
    range(first, count)
}

fn range(first: &str, count: &str) -> Option<RangeInclusive<u32>> {
    let (first, count): (u32, u64) = (first.parse().ok()?, count.parse().ok()?);
    let last = u64::from(first).checked_add(count.checked_sub(1)?)?;
    Some(first..=u32::try_from(last).unwrap_or(u32::MAX))
}

fn both(one: &RangeInclusive<u32>, other: &RangeInclusive<u32>) -> Option<RangeInclusive<u32>> {
    let both = *one.start().max(other.start())..=*one.end().min(other.end());
    (!both.is_empty()).then_some(both)
}

fn without(free: &RangeInclusive<u32>, taken: &RangeInclusive<u32>) -> impl Iterator<Item = RangeInclusive<u32>> {
    let below = taken.start().checked_sub(1).and_then(|last| both(free, &(0..=last)));
    let above = taken.end().checked_add(1).and_then(|first| both(free, &(first..=u32::MAX)));
    below.into_iter().chain(above)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: &str = "         0          0 4294967295\n";

    fn among(map: &str, subordinate: &str) -> Vec<RangeInclusive<u32>> {
        KernelUsers::among(&[Some(map.to_owned()), Some(map.to_owned())], &[Some(subordinate.to_owned()), None]).0
    }

    #[test]
    fn what_ordinary_users_and_systemd_give_to_their_containers_is_given_to_no_sandbox() {
        let common = "alice:100000:65536\nbob:165536:65536\n";
        assert_eq!(among(ALL, common), KernelUsers::default().0);
        for others in
            [100_000..=600_100_000_u32, 524_288..=1_879_048_191, 61_184..=65_519, 2_147_352_576..=2_147_418_111]
        {
            assert_eq!(both(&FIRST_CHOICE, &others), None);
        }
        assert_eq!(both(&SECOND_CHOICE, &(524_288..=u32::MAX)), None);
        assert!(*FIRST_CHOICE.start() >= LOWEST_KERNEL_UID && i32::try_from(*FIRST_CHOICE.end()).is_ok());
    }

    #[test]
    fn numbers_that_somebody_has_are_passed_over_wherever_they_lie() {
        let (first, last) = (*FIRST_CHOICE.start(), *FIRST_CHOICE.end());
        for (taken, free) in [
            (format!("a:{first}:10"), vec![first + 10..=last]),
            (format!("a:{}:10\n", first + 5), vec![first..=first + 4, first + 15..=last]),
            (format!("a:{}:10\nb:1:2\n:::\nc:x:1\nd:7\n\n", last - 9), vec![first..=last - 10]),
            (format!("a:{}:1\nb:{}:1", first + 2, first + 1), vec![first..=first, first + 3..=last]),
            (format!("a:{first}:4294967295"), vec![SECOND_CHOICE]),
            (format!("a:{first}:0"), vec![FIRST_CHOICE]),
            ("a:0:18446744073709551615".to_owned(), vec![]),
        ] {
            assert_eq!(among(ALL, &taken), free, "{taken}");
        }
    }

    #[test]
    fn what_is_not_mapped_is_nobodys_to_give() {
        assert_eq!(among("0 100000 65536", ""), []);
        assert_eq!(among("0 1000 1\n1 100000 1000000000\n", ""), [SECOND_CHOICE]);
        assert_eq!(among("0 0 300000", "a:100000:65536"), [165_536..=299_999]);
        let other_groups = KernelUsers::among(&[Some(ALL.into()), Some("0 0 65536".into())], &[]);
        assert_eq!(other_groups.0, []);
        assert_eq!(KernelUsers::among(&[None, None], &[None, None]), KernelUsers::default());
        let refused = other_groups.not_none().expect_err("a worker that could build no sandbox takes no work");
        assert!(refused.to_string().contains("Next step: "), "{refused}");
        assert!(KernelUsers::default().not_none().is_ok());
    }

    #[test]
    fn the_next_number_is_above_all_that_were_given_and_none_is_given_twice() {
        let first = *FIRST_CHOICE.start();
        let users = KernelUsers(vec![first + 10..=first + 11, first + 20..=first + 20]);
        for (highest, next) in [
            (None, Some(first + 10)),
            (Some(100_007), Some(first + 10)),
            (Some(first), Some(first + 10)),
            (Some(first + 10), Some(first + 11)),
            (Some(first + 11), Some(first + 20)),
            (Some(first + 15), Some(first + 20)),
            (Some(first + 20), None),
            (Some(first + 30), None),
            (Some(u32::MAX), Some(first + 10)),
        ] {
            assert_eq!(users.after(highest), next, "{highest:?}");
        }
        assert_eq!(KernelUsers(Vec::new()).after(None), None);
    }
}
