//! The system calls that no safe wrapper offers. One block, one operation, one argument why it is sound here; everything else in this workspace is safe code.
#![allow(
    unsafe_code,
    reason = "the one module of the workspace that may: clone, execveat, mount_setattr, and what runs between fork and exec"
)]

use std::ffi::{CStr, CString};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use rustix::io::Errno;
use rustix::process::Pid;

use crate::domain::Domain;

/// Which of the two processes this is after [`clone_process`].
pub(crate) enum Cloned {
    /// The new one.
    Child,
    /// The old one; the child and a descriptor that names it for good.
    Parent { child: Pid, pidfd: OwnedFd },
}

/// Clones this process, which must have one thread, into the given new namespaces. Unlike `fork` nothing of the C library runs in between.
pub(crate) fn clone_process(namespaces: libc::c_int) -> Result<Cloned, Errno> {
    let mut pidfd: libc::c_int = -1;
    let flags = namespaces | libc::CLONE_PIDFD | libc::SIGCHLD;
    // SAFETY: no memory is shared (no CLONE_VM), the stack is the caller's own copy (null), and `pidfd` is a valid place for the descriptor
    // that CLONE_PIDFD writes. The caller has one thread, so no lock is held by a thread that the child lacks.
    let result = unsafe { libc::syscall(libc::SYS_clone, flags, 0, &raw mut pidfd, 0, 0) };
    match i32::try_from(result) {
        Ok(0) => Ok(Cloned::Child),
        Ok(child) if child > 0 => {
            // SAFETY: the kernel just opened this descriptor for us and nothing else knows it.
            let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
            let child = Pid::from_raw(child).expect("a positive number was matched in this arm");
            Ok(Cloned::Parent { child, pidfd })
        }
        _ => Err(last_errno()),
    }
}

/// What comes of an attempt in new namespaces, made by a child that ends at once. In a process with threads `attempt` must neither allocate nor lock.
pub(crate) fn try_in_child(namespaces: libc::c_int, attempt: impl FnOnce() -> Result<(), Errno>) -> Result<(), Errno> {
    let child = match clone_process(namespaces)? {
        // Numbers of errors are small, and zero is none of them.
        Cloned::Child => exit_now(attempt().err().map_or(0, |errno| errno.raw_os_error().clamp(1, 254))),
        Cloned::Parent { child, .. } => child,
    };
    match rustix::process::waitpid(Some(child), rustix::process::WaitOptions::empty())? {
        Some((_, status)) if status.exit_status() == Some(0) => Ok(()),
        Some((_, status)) => Err(Errno::from_raw_os_error(status.exit_status().unwrap_or(libc::EIO))),
        None => Err(Errno::CHILD),
    }
}

/// Makes a call whose arguments are numbers and null, as [`crate::attempt`] lists them.
pub(crate) fn call_without_memory(number: libc::c_long, arguments: [libc::c_long; 5]) -> Result<(), Errno> {
    let [first, second, third, fourth, fifth] = arguments;
    // SAFETY: the listed calls get no address but null, so the kernel reads and writes no memory of ours; a page that `mmap` gives is nobody's.
    let result = unsafe { libc::syscall(number, first, second, third, fourth, fifth, 0) };
    if result == -1 { Err(last_errno()) } else { Ok(()) }
}

/// Ends this process without running anything of it: for the child of a clone.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` takes any number, touches no memory and does not return.
    unsafe { libc::_exit(code) }
}

/// Becomes the program behind `image`. Returns only when that failed.
pub(crate) fn execute(image: BorrowedFd<'_>, arguments: &[CString], environment: &[CString]) -> Errno {
    let arguments = null_terminated(arguments);
    let environment = null_terminated(environment);
    // SAFETY: the empty path and both vectors are null-terminated, point at strings that live until after the call, and the kernel only reads them.
    unsafe {
        libc::syscall(
            libc::SYS_execveat,
            image.as_raw_fd(),
            c"".as_ptr(),
            arguments.as_ptr(),
            environment.as_ptr(),
            libc::AT_EMPTY_PATH,
        )
    };
    last_errno()
}

fn null_terminated(strings: &[CString]) -> Vec<*const libc::c_char> {
    strings.iter().map(|string| string.as_ptr()).chain(std::iter::once(std::ptr::null())).collect()
}

/// `struct mount_attr` of `mount_setattr(2)`.
#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns_fd: u64,
}

/// Sets attributes (`MOUNT_ATTR_*`) on a mount and, with `recursive`, on everything mounted below.
pub(crate) fn set_mount_attributes(mount: BorrowedFd<'_>, attributes: u64, recursive: Recursive) -> Result<(), Errno> {
    set_attributes(mount, &MountAttr { set: attributes, clear: 0, propagation: 0, userns_fd: 0 }, recursive)
}

/// Has a copied mount, and with `recursive` everything mounted below, show users as the maps of a user namespace say: all of it, or nothing.
pub(crate) fn map_mount(mount: BorrowedFd<'_>, users: BorrowedFd<'_>, recursive: Recursive) -> Result<(), Errno> {
    let userns_fd = u64::try_from(users.as_raw_fd()).map_err(|_| Errno::BADF)?;
    set_attributes(mount, &MountAttr { set: libc::MOUNT_ATTR_IDMAP, clear: 0, propagation: 0, userns_fd }, recursive)
}

fn set_attributes(mount: BorrowedFd<'_>, attr: &MountAttr, recursive: Recursive) -> Result<(), Errno> {
    let flags = libc::AT_EMPTY_PATH | if recursive == Recursive::Yes { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is an empty null-terminated string, and the kernel reads exactly the size we state of a structure that lives until after the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            flags,
            std::ptr::from_ref(attr),
            size_of::<MountAttr>(),
        )
    };
    outcome(result)
}

/// Whether an operation goes below the named mount.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Recursive {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// The numbers of all mounts of this process's namespace, which the kernel gives once and never again (Linux 6.8). Fails where there are more than `most`.
pub(crate) fn mount_numbers(most: usize) -> Result<Vec<u64>, Errno> {
    /// `struct mnt_id_req` as far as its first version goes.
    #[repr(C)]
    struct Request {
        size: u32,
        spare: u32,
        mount: u64,
        after: u64,
    }
    /// `LSMT_ROOT`.
    const ALL: u64 = u64::MAX;
    /// The same number on all architectures that we run on.
    const SYS_LISTMOUNT: libc::c_long = 458;
    let size = u32::try_from(size_of::<Request>()).expect("a few bytes");
    let request = Request { size, spare: 0, mount: ALL, after: 0 };
    let mut numbers = vec![0_u64; most + 1];
    // SAFETY: the kernel reads exactly the size we state of a structure that lives until after the call, and writes at most as many numbers as we
    // state into memory that holds them.
    let result = unsafe { libc::syscall(SYS_LISTMOUNT, &raw const request, numbers.as_mut_ptr(), numbers.len(), 0) };
    let count = usize::try_from(result).map_err(|_| last_errno())?;
    numbers.truncate(count);
    if count > most { Err(Errno::OVERFLOW) } else { Ok(numbers) }
}

/// A cgroup namespace of this process's own, rooted at the group it is in.
pub(crate) fn new_cgroup_namespace() -> Result<(), Errno> {
    // SAFETY: CLONE_NEWCGROUP changes what this thread sees of groups; descriptors and memory stay as they are.
    let result = unsafe { libc::unshare(libc::CLONE_NEWCGROUP) };
    outcome(result.into())
}

/// A time namespace that this process's children will be in, and itself once it enters. Its clocks are not set yet.
pub(crate) fn new_time_namespace() -> Result<(), Errno> {
    // SAFETY: CLONE_NEWTIME changes what later processes see of two clocks; descriptors and memory stay as they are.
    let result = unsafe { libc::unshare(libc::CLONE_NEWTIME) };
    outcome(result.into())
}

/// Puts a copy of `descriptor` at a fixed number, to be inherited over exec; what was there is closed.
pub(crate) fn place(descriptor: BorrowedFd<'_>, number: i32) -> Result<(), Errno> {
    // SAFETY: dup2 touches no memory. What sits at `number` is not used again: the caller is about to exec, or kept the number free for this.
    let result = unsafe { libc::dup2(descriptor.as_raw_fd(), number) };
    outcome(result.into())
}

/// Takes over a descriptor by its number, one that was inherited over exec or put there by [`place`]; none when nothing is open there or it was taken
/// already.
pub(crate) fn take_inherited(number: i32) -> Option<OwnedFd> {
    use std::sync::atomic::{AtomicU32, Ordering};
    static TAKEN: AtomicU32 = AtomicU32::new(0);
    let bit = 1_u32.checked_shl(number.unsigned_abs())?;
    // SAFETY: F_GETFD on any number touches no memory.
    let open = unsafe { libc::fcntl(number, libc::F_GETFD) } >= 0;
    if !open || TAKEN.fetch_or(bit, Ordering::SeqCst) & bit != 0 {
        return None;
    }
    // SAFETY: it is open, no value of this process owns it since it was inherited or placed by its number, and the bit lets this happen once.
    Some(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every descriptor from `first` upward to be closed at exec.
pub(crate) fn close_at_exec_from(first: u32) -> Result<(), Errno> {
    // SAFETY: close_range with CLOEXEC closes nothing now and touches no memory.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    outcome(result)
}

/// Closes every descriptor above `last`, in a process where no value owns any of them.
pub(crate) fn close_all_above(last: i32) -> Result<(), Errno> {
    close_between(last + 1, i32::MAX)
}

/// Sets variables of this process, which must have one thread.
pub(crate) fn set_environment(variables: &[(String, String)]) {
    for (name, value) in variables {
        // SAFETY: the process has one thread, so nobody reads the environment meanwhile. Neither name nor value holds a null byte, nor the name a `=`:
        // both are ours or were checked with the request.
        unsafe { std::env::set_var(name, value) };
    }
}

/// In the child of a clone that never returns to its caller: closes every descriptor from `first` upward but those two, and puts `nothing` in place of
/// standard input.
pub(crate) fn close_all_but(first: i32, mut kept: [BorrowedFd<'_>; 2], nothing: BorrowedFd<'_>) -> Result<(), Errno> {
    place(nothing, 0)?;
    kept.sort_unstable_by_key(AsRawFd::as_raw_fd);
    let mut from = first;
    for kept in kept.map(|kept| kept.as_raw_fd()) {
        close_between(from, kept - 1)?;
        from = kept + 1;
    }
    close_between(from, i32::MAX)
}

fn close_between(first: i32, last: i32) -> Result<(), Errno> {
    if last < first {
        return Ok(());
    }
    // SAFETY: close_range touches no memory. In the child of a clone the values that own these descriptors are copies of the parent's, which it never
    // uses or drops; in process 1 none is left.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    outcome(result)
}

/// Has the child of `command` confine itself between fork and exec: see [`confine`].
pub(crate) fn confine_before_exec(command: &mut Command, domain: Domain) {
    // SAFETY: `confine` makes system calls on memory prepared before the fork; it neither allocates nor takes a lock.
    unsafe { command.pre_exec(move || confine(&domain)) };
}

/// In the forked child: a session of its own, first in line when memory runs out, no inherited descriptor, and the inner Landlock domain.
/// Only system calls: the other threads' locks may be held for ever in this copy.
fn confine(domain: &Domain) -> io::Result<()> {
    rustix::process::setsid()?;
    volunteer_for_the_memory_killer();
    close_at_exec_from(3)?;
    if let Some(ruleset) = domain.ruleset() {
        rustix::thread::set_no_new_privs(true)?;
        // SAFETY: the descriptor is open, and the call touches no memory.
        let result = unsafe { libc::syscall(libc::SYS_landlock_restrict_self, ruleset.as_raw_fd(), 0) };
        outcome(result)?;
    }
    Ok(())
}

/// The version of Landlock that the kernel offers.
pub(crate) fn landlock_version() -> Option<i32> {
    /// `LANDLOCK_CREATE_RULESET_VERSION`.
    const VERSION: u32 = 1;
    // SAFETY: with this flag the kernel takes a null pointer of size zero and only returns a number.
    let result =
        unsafe { libc::syscall(libc::SYS_landlock_create_ruleset, std::ptr::null::<libc::c_void>(), 0, VERSION) };
    i32::try_from(result).ok().filter(|version| *version > 0)
}

/// Lets go of the pages of this program's code and constants; what is needed of them comes back by itself. What remains is what was written, and the
/// tables through which the rest was reached are the kernel's again (Linux 6.14 frees them, an older one keeps them).
///
/// # Errors
/// The kernel's; then nothing is lost.
pub(crate) fn let_go_of_code() -> Result<(), Errno> {
    unsafe extern "C" {
        // Where the linker begins the program, and where it ends its code: what is written lies behind.
        safe static __executable_start: u8;
        safe static etext: u8;
    }
    let page = rustix::param::page_size();
    let start = (&raw const __executable_start).cast_mut().cast::<libc::c_void>();
    let length = (&raw const etext).addr().saturating_sub(start.addr()) / page * page;
    // SAFETY: the range begins with a page of the program's file and ends before the first that is ever written, so a page that is touched afterwards
    // is read from the file as it was.
    unsafe { rustix::mm::madvise(start, length, rustix::mm::Advice::LinuxDontNeed) }
}

/// When memory runs out inside, a command must die and not the tool server. Best effort: without /proc nothing is lost but the order.
fn volunteer_for_the_memory_killer() {
    use rustix::fs::{Mode, OFlags};
    use rustix::process::DumpableBehavior;
    // The copy of an undumpable process does not own its own /proc entries. What becomes readable for a moment is the tool server's image, which holds no secret.
    let _refused = rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable);
    if let Ok(score) = rustix::fs::open(c"/proc/self/oom_score_adj", OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty()) {
        let _refused = rustix::io::write(&score, b"500");
    }
}

fn outcome(result: libc::c_long) -> Result<(), Errno> {
    if result < 0 { Err(last_errno()) } else { Ok(()) }
}

fn last_errno() -> Errno {
    Errno::from_io_error(&io::Error::last_os_error()).unwrap_or(Errno::INVAL)
}

/// Has the kernel refuse whoever sends descriptors to this Unix socket (Linux 6.16): they are neither queued nor ever closed here.
pub(crate) fn refuse_descriptors(socket: BorrowedFd<'_>) -> Result<(), Errno> {
    /// The same number on all architectures that we run on.
    const SO_PASSRIGHTS: libc::c_int = 83;
    let no: libc::c_int = 0;
    let size = libc::socklen_t::try_from(size_of_val(&no)).expect("four bytes");
    // SAFETY: the kernel reads exactly the size we state of a number that lives until after the call.
    let result =
        unsafe { libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, SO_PASSRIGHTS, (&raw const no).cast(), size) };
    outcome(result.into())
}

/// Makes a C string of text that cannot hold a null byte after [`crate::spec`] was checked; cut at the first one otherwise.
pub(crate) fn c_string(text: &str) -> CString {
    CString::new(text).unwrap_or_else(|error| {
        let end = error.nul_position();
        CStr::from_bytes_until_nul(&error.into_vec()[..=end])
            .expect("the slice ends with the null byte that was found")
            .to_owned()
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::*;

    #[test]
    fn letting_go_of_the_code_keeps_what_was_written() {
        static WRITTEN: AtomicU64 = AtomicU64::new(1);
        WRITTEN.store(2, Ordering::SeqCst);
        let kept = String::from("on the heap");
        assert_eq!(let_go_of_code(), Ok(()));
        assert!(kept == "on the heap" && WRITTEN.load(Ordering::SeqCst) == 2);
        assert_eq!(format!("{:.3}", std::f64::consts::PI), "3.142", "code and constants come back");
    }
}
