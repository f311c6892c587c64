//! System calls that a confined process must not get away with, each made with arguments that achieve nothing: for probes that show that a filter stands.
//! Without a filter the kernel answers by the arguments (EFAULT, EINVAL, EBADF) or lets them pass; with one, EPERM or ENOSYS.

use rustix::io::Errno;

use crate::sys;

/// One call, by the name that probes use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Its name.
    pub name: &'static str,
    number: libc::c_long,
    arguments: [libc::c_long; 5],
}

impl Attempt {
    /// The attempt of this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        ALL.into_iter().find(|attempt| attempt.name == name)
    }

    /// Makes the call.
    ///
    /// # Errors
    /// What the kernel answered.
    pub fn make(self) -> Result<(), Errno> {
        sys::call_without_memory(self.number, self.arguments)
    }
}

/// Every attempt. No argument is an address but null, so none reads or writes memory of ours.
pub const ALL: [Attempt; 15] = [
    attempt("execve", libc::SYS_execve, [0; 5]),
    attempt("execveat", libc::SYS_execveat, [-1, 0, 0, 0, 0]),
    // PTRACE_SEIZE of this process: EPERM from the kernel too, so it goes for a process that is not there (ESRCH).
    attempt("ptrace", libc::SYS_ptrace, [0x4206, 0x7fff_ffff, 0, 0, 0]),
    attempt("process-memory", libc::SYS_process_vm_readv, [0x7fff_ffff, 0, 0, 0, 0]),
    attempt("foreign-descriptor", libc::SYS_pidfd_getfd, [-1, 0, 0, 0, 0]),
    attempt("io-uring", libc::SYS_io_uring_setup, [1, 0, 0, 0, 0]),
    attempt("bpf", libc::SYS_bpf, [-1, 0, 0, 0, 0]),
    attempt("keyring", libc::SYS_keyctl, [-1, 0, 0, 0, 0]),
    // New attributes of nothing.
    attempt("mount", libc::SYS_mount_setattr, [-1, 0, 0, 0, 0]),
    attempt("namespace", libc::SYS_unshare, [libc::CLONE_NEWUSER as libc::c_long, 0, 0, 0, 0]),
    attempt("join-namespace", libc::SYS_setns, [-1, 0, 0, 0, 0]),
    attempt("userfault", libc::SYS_userfaultfd, [-1, 0, 0, 0, 0]),
    // A page that can be written and executed.
    attempt("writable-program", libc::SYS_mmap, [0, 4096, 7, 0x22, -1]),
    attempt("signal", libc::SYS_kill, [0x7fff_ffff, 0, 0, 0, 0]),
    // SO_LINGER, of no socket.
    attempt(
        "linger",
        libc::SYS_setsockopt,
        [-1, libc::SOL_SOCKET as libc::c_long, libc::SO_LINGER as libc::c_long, 0, 0],
    ),
];

const fn attempt(name: &'static str, number: libc::c_long, arguments: [libc::c_long; 5]) -> Attempt {
    Attempt { name, number, arguments }
}
