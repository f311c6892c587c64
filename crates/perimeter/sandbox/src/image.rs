//! The image of process 1: the running binary, copied once to sealed memory that can be executed and not read, so that nobody inside can change or
//! study it, and the process that runs it is undumpable from its first instruction.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::{MemfdFlags, Mode, SealFlags};

/// Copies the program of this process.
pub(crate) fn copy_of_ourselves() -> io::Result<OwnedFd> {
    let mut program = File::open("/proc/self/exe")?;
    let image = rustix::fs::memfd_create(crate::TOOLS_NAME, MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut copy = File::from(image);
    io::copy(&mut program, &mut copy)?;
    rustix::fs::fchmod(&copy, Mode::XUSR | Mode::XGRP | Mode::XOTH)?;
    rustix::fs::fcntl_add_seals(&copy, SealFlags::WRITE | SealFlags::GROW | SealFlags::SHRINK | SealFlags::SEAL)?;
    Ok(copy.into())
}
