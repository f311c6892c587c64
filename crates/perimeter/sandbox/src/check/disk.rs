//! Whether the kernel holds a sandbox's disk limit. No quota is set here: it is held where the file systems that the sandbox writes to have no more room, all
//! together, than its zone gives. Told for each sandbox, because the limit is its zone's.

use std::collections::BTreeMap;
use std::num::NonZeroU64;
use std::path::PathBuf;

use rustix::io::Errno;

use crate::control::{Control, ControlStatus};
use crate::spec::Spec;

/// Before any sandbox is known: what its file systems are is not.
pub(super) fn in_general() -> ControlStatus {
    soft()
}

/// The statuses of one sandbox: those of the machine, and whether its own disk limit is held.
pub(crate) fn of_sandbox(statuses: &[ControlStatus], spec: &Spec) -> Vec<ControlStatus> {
    let disk = of_directories(spec.counted(), spec.disk_bytes);
    let one = |status: &ControlStatus| match status.control {
        Control::DiskHard => disk.clone(),
        _ => status.clone(),
    };
    statuses.iter().map(one).collect()
}

fn of_directories<'a>(directories: impl Iterator<Item = &'a PathBuf>, limit_bytes: u64) -> ControlStatus {
    match room(directories) {
        Ok(room) if room <= limit_bytes || postern_danger::off!("disk-hard") => {
            ControlStatus::active(Control::DiskHard)
        }
        // What cannot be measured is held by nobody.
        Ok(_) | Err(_) => soft(),
    }
}

/// The size of the file systems of these directories, each counted once.
fn room<'a>(directories: impl Iterator<Item = &'a PathBuf>) -> Result<u64, Errno> {
    let mut sizes = BTreeMap::new();
    for directory in directories {
        let (about, file_system) = (rustix::fs::stat(directory)?, rustix::fs::statvfs(directory)?);
        // One that tells no size, as memory without a limit does, has no end.
        let size = NonZeroU64::new(file_system.f_blocks)
            .map_or(u64::MAX, |blocks| file_system.f_frsize.saturating_mul(blocks.get()));
        sizes.insert(about.st_dev, size);
    }
    Ok(sizes.into_values().fold(0, u64::saturating_add))
}

fn soft() -> ControlStatus {
    ControlStatus::degraded(
        Control::DiskHard,
        "no quota: one file cannot pass the limit; a watchdog that measures every few seconds ends a sandbox whose files together do",
        "put the sessions' workspaces on a file system that has no more room than the zone's disk limit",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::State;

    #[test]
    fn a_limit_is_held_where_the_file_systems_have_no_more_room_than_it() {
        let here = [std::env::temp_dir()];
        let room = room(here.iter()).expect("the system has a directory for temporary files");
        let state = |limit_bytes| of_directories(here.iter(), limit_bytes).state;
        assert_eq!((state(room), state(room - 1)), (State::Active, State::Degraded));
    }

    #[test]
    fn a_file_system_that_tells_no_size_has_no_end() {
        assert_eq!(room([&PathBuf::from("/proc")].into_iter()), Ok(u64::MAX));
    }

    #[test]
    fn a_file_system_counts_once_and_what_cannot_be_measured_is_not_held() {
        let here = std::env::temp_dir();
        assert_eq!(room([&here, &here].into_iter()), room([&here].into_iter()));
        let nowhere = here.join("postern-none");
        assert_eq!(of_directories([&nowhere].into_iter(), u64::MAX).state, State::Degraded);
    }
}
