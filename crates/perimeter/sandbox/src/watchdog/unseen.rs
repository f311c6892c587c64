//! Memory that no process shows, where no group holds it: files in memory, whoever holds them, and shared segments (System V), which stay when nobody has
//! them in its address space. The sandbox's first process hands over, before anything of the session runs in it, what it takes to look at them.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::os::fd::OwnedFd;

/// What shows the memory of one sandbox that its processes do not show.
pub(crate) struct Unseen {
    files: OwnedFd,
    segments: Option<File>,
}

impl Unseen {
    /// Takes a directory of the file system in memory, then `/proc/sysvipc/shm` as it was opened inside: whoever reads it, it tells of the namespace in
    /// which it was opened. A kernel without System V IPC has none.
    pub(crate) fn from_descriptors(descriptors: Vec<OwnedFd>) -> Option<Self> {
        let mut descriptors = descriptors.into_iter();
        Some(Self { files: descriptors.next()?, segments: descriptors.next().map(File::from) })
    }

    /// How much there is. What cannot be looked at counts as nothing.
    pub(crate) fn bytes(&self) -> u64 {
        let segments = self.segments.as_ref().and_then(|list| read(list).ok()).map_or(0, |list| of_segments(&list));
        self.of_files().saturating_add(segments)
    }

    fn of_files(&self) -> u64 {
        let Ok(about) = rustix::fs::fstatfs(&self.files) else { return 0 };
        about.f_blocks.saturating_sub(about.f_bfree).saturating_mul(u64::try_from(about.f_bsize).unwrap_or(0))
    }
}

fn read(mut list: &File) -> io::Result<String> {
    let mut text = String::new();
    list.rewind()?;
    list.take(LONGEST).read_to_string(&mut text)?;
    Ok(text)
}

/// The pages of every segment, in memory and swapped out, whoever has them in its address space.
fn of_segments(list: &str) -> u64 {
    let lines = list.lines().skip(1).map(|line| {
        let pages = line.split_whitespace().skip(RESIDENT);
        pages.filter_map(|bytes| bytes.parse::<u64>().ok()).fold(0, u64::saturating_add)
    });
    lines.fold(0, u64::saturating_add)
}

/// The column of what is resident; the last one, behind it, is what is swapped out.
const RESIDENT: usize = 14;
/// More than the lines of the 32,768 segments that a namespace may have.
const LONGEST: u64 = 8 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_segments_hold_is_summed_resident_and_swapped() {
        let list = "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  cgid      atime      dtime      ctime                   rss                  swap\n\
                    \x20        0          0   600             314572800    12    12      0  1000  1000  1000  1000          0          0 1700000000              12288000                  4096\n\
                    \x20        0          1   600                  4096    12    12      0  1000  1000  1000  1000          0          0 1700000000                  4096                     0\n";
        assert_eq!(of_segments(list), 12_288_000 + 4096 + 4096);
        assert_eq!(of_segments("no list\nat all\n"), 0);
    }

    #[test]
    fn files_count_by_what_their_file_system_has_given_away() {
        let held = File::open("/dev/shm").expect("files in memory");
        let about = rustix::fs::fstatfs(&held).expect("looked at");
        let unseen = Unseen::from_descriptors(vec![held.into()]).expect("one is enough");
        assert!(unseen.bytes() <= about.f_blocks * 4096);
        assert!(Unseen::from_descriptors(Vec::new()).is_none());
    }
}
