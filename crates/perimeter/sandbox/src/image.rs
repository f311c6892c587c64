//! The image of process 1: the running binary, copied once to sealed memory that can be executed and not read, so that nobody inside can change or
//! study it, and the process that runs it is undumpable from its first instruction.

mod placed;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, SealFlags};
use rustix::io::Errno;

/// Copies tried before sealing is given up. The kernel refuses to seal memory of which somebody holds a page, and who looks at pages in the
/// background (compaction, reclaim) holds one for a moment: a new copy has other pages.
const COPIES: usize = 8;

/// Copies the program of this process: placed ahead of need where that is possible and the copy then starts, else as it is.
pub(crate) fn copy_of_ourselves() -> io::Result<OwnedFd> {
    let mut program = Vec::new();
    File::open("/proc/self/exe")?.read_to_end(&mut program)?;
    if let Some(placed) = placed::placed(&program, placed::place(random()?)) {
        let image = sealed(&placed)?;
        if starts(&image) {
            return Ok(image);
        }
    }
    sealed(&program)
}

fn sealed(program: &[u8]) -> io::Result<OwnedFd> {
    sealed_one_of(COPIES, || copied(program))
}

/// The first copy that can be sealed.
fn sealed_one_of(copies: usize, mut copied: impl FnMut() -> io::Result<OwnedFd>) -> io::Result<OwnedFd> {
    for _ in 0..copies {
        let copy = copied()?;
        match rustix::fs::fcntl_add_seals(
            &copy,
            SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL,
        ) {
            Ok(()) => return Ok(copy),
            Err(Errno::BUSY) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Err(Errno::BUSY.into())
}

fn copied(program: &[u8]) -> io::Result<OwnedFd> {
    let image = rustix::fs::memfd_create(crate::TOOLS_NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(image);
    copy.write_all(program)?;
    rustix::fs::fchmod(&copy, Mode::XUSR | Mode::XGRP | Mode::XOTH)?;
    Ok(copy.into())
}

/// Whether the image is loaded as it should be by this system's loader: without a channel a tool server ends at once, and says so by its code.
fn starts(image: &OwnedFd) -> bool {
    #[expect(clippy::disallowed_methods, reason = "our own image, tried once before sandboxes run it")]
    let mut command = Command::new(format!("/proc/self/fd/{}", image.as_fd().as_raw_fd()));
    command.arg0(crate::TOOLS_NAME).env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.status().is_ok_and(|status| status.code() == Some(crate::NO_CHANNEL.into()))
}

fn random() -> io::Result<u64> {
    let mut bytes = [0; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(u64::from_le_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use rustix::pipe::{PipeFlags, SpliceFlags};

    use super::*;

    /// A copy of which a pipe holds the first page, as anything may that reads it without copying.
    fn held() -> (OwnedFd, OwnedFd) {
        let copy = copied(b"a program").unwrap();
        let (end, page) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).unwrap();
        let mut start = 0;
        let spliced = rustix::pipe::splice(&copy, Some(&mut start), &page, None, 4096, SpliceFlags::empty());
        assert_eq!(spliced.unwrap(), 9);
        (copy, end)
    }

    #[test]
    fn a_copy_whose_page_somebody_holds_is_left_for_another() {
        let mut pipes = Vec::new();
        let sealed = sealed_one_of(2, || {
            if pipes.is_empty() {
                let (copy, pipe) = held();
                pipes.push(pipe);
                return Ok(copy);
            }
            copied(b"a program")
        });
        let seals = rustix::fs::fcntl_get_seals(sealed.unwrap()).unwrap();
        assert!(seals.contains(SealFlags::WRITE | SealFlags::SEAL), "{seals:?}");
    }

    #[test]
    fn a_copy_that_cannot_be_sealed_is_not_run() {
        let mut pipes = Vec::new();
        let refused = sealed_one_of(1, || {
            let (copy, pipe) = held();
            pipes.push(pipe);
            Ok(copy)
        });
        assert_eq!(refused.unwrap_err().raw_os_error(), Some(Errno::BUSY.raw_os_error()));
    }
}
