//! The image of process 1: the running binary, copied once to sealed memory that can be executed and not read, so that nobody inside can change or
//! study it, and the process that runs it is undumpable from its first instruction.

mod placed;

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};

use rustix::fs::{MemfdFlags, Mode, SealFlags};

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
    let image = rustix::fs::memfd_create(crate::TOOLS_NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(image);
    copy.write_all(program)?;
    rustix::fs::fchmod(&copy, Mode::XUSR | Mode::XGRP | Mode::XOTH)?;
    rustix::fs::fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
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
