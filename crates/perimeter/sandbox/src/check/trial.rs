//! Trying what sandboxes are made of, each in the namespaces of a child that ends at once and leaves nothing. The child may be a copy of a process with
//! threads: it makes system calls on what was prepared before, and neither allocates nor locks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use rustix::io::Errno;
use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags};
use seccompiler::sock_filter;

use crate::netlink::filter::{self, Logging};
use crate::netlink::{Socket, route};
use crate::{clocks, sys};

/// What did not work.
pub(super) struct Failed {
    pub(super) trying: Trying,
    pub(super) errno: Errno,
}

/// What was being tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trying {
    /// Making namespaces.
    Namespaces,
    /// Mounting something in them.
    Mounts,
    /// Mounting a /proc of their own.
    Proc,
    /// Routes that lead to loopback.
    Routes,
    /// The rules that redirect and refuse.
    Rules,
    /// Clocks of their own.
    Clocks,
    /// A filter of system calls.
    Filter,
}

fn attempt(trying: Trying, namespaces: libc::c_int, attempt: impl FnOnce() -> Result<(), Errno>) -> Result<(), Failed> {
    sys::try_in_child(namespaces, attempt).map_err(|errno| Failed { trying, errno })
}

fn namespaces(flag: libc::c_int) -> Result<(), Failed> {
    attempt(Trying::Namespaces, libc::CLONE_NEWUSER | flag, || Ok(()))
}

pub(super) fn user() -> Result<(), Failed> {
    namespaces(0)
}

pub(super) fn messages() -> Result<(), Failed> {
    namespaces(libc::CLONE_NEWIPC)
}

pub(super) fn name() -> Result<(), Failed> {
    namespaces(libc::CLONE_NEWUTS)
}

pub(super) fn groups() -> Result<(), Failed> {
    namespaces(libc::CLONE_NEWCGROUP)
}

/// A namespace is of use when something can be mounted in it.
pub(super) fn mounts() -> Result<(), Failed> {
    namespaces(libc::CLONE_NEWNS)?;
    attempt(Trying::Mounts, libc::CLONE_NEWUSER | libc::CLONE_NEWNS, || mount("tmpfs"))
}

/// And of processes, when they have a /proc.
pub(super) fn processes() -> Result<(), Failed> {
    namespaces(libc::CLONE_NEWPID)?;
    let namespaces = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    attempt(Trying::Proc, namespaces, || mount("proc"))
}

fn mount(kind: &str) -> Result<(), Errno> {
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    let context = rustix::mount::fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    rustix::mount::fsconfig_create(&context)?;
    let attributes =
        MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    rustix::mount::fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes).map(drop)
}

/// And of the network, when everything in it leads to our exit.
pub(super) fn exit() -> Result<(), Failed> {
    namespaces(libc::CLONE_NEWNET)?;
    let routes = [
        route::loopback_up(),
        route::everything_is_local(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        route::everything_is_local(IpAddr::V6(Ipv6Addr::LOCALHOST)),
    ];
    attempt(Trying::Routes, libc::CLONE_NEWUSER | libc::CLONE_NEWNET, || {
        let socket = Socket::open(None)?;
        routes.iter().try_for_each(|messages| socket.perform(messages))
    })?;
    let rules = filter::rules(Logging::Off);
    attempt(Trying::Rules, libc::CLONE_NEWUSER | libc::CLONE_NEWNET, || {
        Socket::open(Some(rustix::net::netlink::NETFILTER))?.perform(&rules)
    })
}

pub(super) fn clocks() -> Result<(), Failed> {
    attempt(Trying::Clocks, libc::CLONE_NEWUSER, clocks::begin_now)
}

/// A filter that allows everything.
pub(super) fn filter() -> Result<(), Failed> {
    /// `BPF_RET | BPF_K` with `SECCOMP_RET_ALLOW`.
    const ALLOW: sock_filter = sock_filter { code: 0x06, jt: 0, jf: 0, k: 0x7fff_0000 };
    attempt(Trying::Filter, 0, || {
        rustix::thread::set_no_new_privs(true)?;
        seccompiler::apply_filter(&[ALLOW]).map_err(|_refused| Errno::INVAL)
    })
}
