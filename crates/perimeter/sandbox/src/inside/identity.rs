//! The steps about the process itself: who it is, what it may use, and what it may do.

use std::ffi::CStr;
use std::os::fd::AsFd;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::process::{DumpableBehavior, Gid, Resource, Rlimit, Signal, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::entrance::Entrance;
use super::{Ahead, Doing, Failure, Inside, Order, hear};
use crate::clocks::{self, Clocks};
use crate::spec::{AGENT_UID, Access, OUTPUTS};
use crate::{TOOLS_DESCRIPTOR, domain, environment, sys};

/// Where the agent may write, for Landlock: mounts and permissions narrow it further.
const WRITABLE: [&str; 6] = ["/workspace", "/tmp", "/dev", "/proc", OUTPUTS, "/mnt/memory"];

/// What process 1 is called in the host's list of processes.
const SERVING: &CStr = c"postern-tools";

/// Open files: enough for any build, few enough that a leak is noticed.
const OPEN_FILES: u64 = 16_384;

/// Step: a cgroup namespace whose root is the group that was just entered.
pub(super) fn own_cgroup_view(ahead: &mut Ahead) -> Result<(), Failure> {
    let (Order::Entered, _) = hear(&ahead.spawner)? else {
        return Err(Failure::other("the spawner skipped the group"));
    };
    if postern_danger::off!("cgroupns") {
        return Ok(());
    }
    sys::new_cgroup_namespace().doing(|| "make a cgroup namespace".into())
}

/// Step: a time namespace whose clocks begin now, where the kernel has one.
pub(super) fn own_clocks(entrance: &mut Entrance<'_>) -> Result<(), Failure> {
    match entrance.clocks {
        Clocks::Own => clocks::begin_now().doing(|| "make a time namespace".into()),
        Clocks::Machine => Ok(()),
    }
}

/// Step: user and group 1000, with no other group. As root, supplementary groups were dropped by the spawner at its start.
pub(super) fn become_agent(inside: &mut Inside) -> Result<(), Failure> {
    if postern_danger::off!("userns") {
        return become_kernel_user(inside);
    }
    let (uid, gid) = (Uid::from_raw(AGENT_UID), Gid::from_raw(AGENT_UID));
    rustix::thread::set_thread_res_gid(gid, gid, gid).doing(|| "become group agent".into())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).doing(|| "become user agent".into())?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    Ok(())
}

/// In a test-only build, where nobody is mapped: becomes who the agent is outside, with the capabilities that the steps to come need.
fn become_kernel_user(inside: &Inside) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(inside.request.kernel_uid), Gid::from_raw(inside.request.kernel_gid));
    rustix::thread::set_keep_capabilities(true).doing(|| "keep capabilities over the change of user".into())?;
    rustix::thread::set_thread_res_gid(gid, gid, gid).doing(|| "become the kernel group".into())?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).doing(|| "become the kernel user".into())?;
    let held = rustix::thread::capabilities(None).doing(|| "read the capability sets".into())?;
    let effective = CapabilitySets { effective: held.permitted, ..held };
    rustix::thread::set_capabilities(None, effective).doing(|| "take the capabilities back".into())?;
    rustix::process::umask(Mode::WGRP | Mode::WOTH);
    Ok(())
}

/// Step: the kernel kills this process when the spawner dies. A spawner that died before is noticed by the end of its channel.
pub(super) fn die_with_spawner_unordered(_entrance: &mut Entrance<'_>) -> Result<(), Failure> {
    set_death_signal()
}

/// Step: the same once more.
pub(super) fn die_with_spawner(_inside: &mut Inside) -> Result<(), Failure> {
    set_death_signal()
}

fn set_death_signal() -> Result<(), Failure> {
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL)).doing(|| "set the death signal".into())
}

/// Step: the host name.
pub(super) fn name_host(_ahead: &mut Ahead) -> Result<(), Failure> {
    rustix::system::sethostname(b"sandbox").doing(|| "set the host name".into())
}

/// Step: resource limits, hard and soft alike: they only sink.
pub(super) fn limit_resources(inside: &mut Inside) -> Result<(), Failure> {
    let spec = &inside.request.spec;
    let mut limits = vec![
        // A helper that the host pipes dumps to runs even at a limit of none. At one byte, alone, the kernel makes no dump of either kind.
        (Resource::Core, 1),
        (Resource::Nofile, OPEN_FILES),
        (Resource::Fsize, spec.disk_bytes),
        (Resource::Memlock, 8 << 20),
        (Resource::Msgqueue, 1 << 20),
        (Resource::Rtprio, 0),
        (Resource::Nice, 0),
    ];
    if !inside.memory_held {
        limits.push((Resource::Data, spec.memory_bytes));
    }
    if !postern_danger::off!("processes-hard") {
        limits.push((Resource::Nproc, spec.processes.into()));
    }
    for (resource, value) in limits {
        let ceiling = rustix::process::getrlimit(resource).maximum;
        let value = Some(ceiling.map_or(value, |ceiling| ceiling.min(value)));
        rustix::process::setrlimit(resource, Rlimit { current: value, maximum: value })
            .doing(|| format!("limit {resource:?}"))?;
    }
    Ok(())
}

/// Step: what a process of a new user namespace may do goes over to the image, for the steps that follow.
pub(super) fn keep_capabilities(_entrance: &mut Entrance<'_>) -> Result<(), Failure> {
    let held = rustix::thread::capabilities(None).doing(|| "read the capability sets".into())?;
    let inherited = CapabilitySets { inheritable: held.permitted, ..held };
    rustix::thread::set_capabilities(None, inherited).doing(|| "make capabilities inheritable".into())?;
    held.permitted.intersection(CapabilitySet::all()).iter().try_for_each(|capability| {
        rustix::thread::configure_capability_in_ambient_set(capability, true)
            .doing(|| format!("keep capability {capability:?}"))
    })
}

/// Step: nobody but root outside may look into this process.
pub(super) fn be_unreadable_ahead(_ahead: &mut Ahead) -> Result<(), Failure> {
    set_unreadable()
}

/// Step: the same once more.
pub(super) fn be_unreadable(_inside: &mut Inside) -> Result<(), Failure> {
    set_unreadable()
}

fn set_unreadable() -> Result<(), Failure> {
    rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable).doing(|| "become undumpable".into())
}

/// Step: no program that is executed can bring a capability.
pub(super) fn empty_bounding_set(_ahead: &mut Ahead) -> Result<(), Failure> {
    for number in 0..64 {
        match rustix::thread::remove_capability_from_bounding_set(CapabilitySet::from_bits_retain(1 << number)) {
            // Past the last one this kernel knows.
            Err(Errno::INVAL) => break,
            other => other.doing(|| format!("drop capability {number}"))?,
        }
    }
    Ok(())
}

/// Step: no capability in any set.
pub(super) fn drop_capabilities(_inside: &mut Inside) -> Result<(), Failure> {
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    rustix::thread::set_capabilities(None, none).doing(|| "empty the capability sets".into())?;
    rustix::thread::set_no_new_privs(true).doing(|| "refuse new privileges".into())
}

/// Step: descriptors 0 to 3. Everything else is closed when the steps are done.
pub(super) fn arrange_descriptors(inside: &mut Inside) -> Result<(), Failure> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .doing(|| "open /dev/null".into())?;
    for (descriptor, number) in
        [(null.as_fd(), 0), (null.as_fd(), 1), (inside.last_words.as_fd(), 2), (inside.tools.as_fd(), TOOLS_DESCRIPTOR)]
    {
        sys::place(descriptor, number).doing(|| format!("place descriptor {number}"))?;
    }
    Ok(())
}

/// Step: the variables, which every command inherits.
pub(super) fn set_environment(inside: &mut Inside) -> Result<(), Failure> {
    sys::set_environment(&environment::variables(&inside.request.spec));
    rustix::thread::set_name(SERVING).doing(|| "change the name that lists of processes show".into())
}

/// Step: the outer Landlock domain, as far as this kernel has it.
pub(super) fn enter_domain(inside: &mut Inside) -> Result<(), Failure> {
    // Where reading is lent, a mount that is read-only still lets pipes be written to.
    let lent = inside.request.spec.mounts.iter().filter(|mount| mount.access == Access::Write);
    let lent = lent.filter_map(|mount| mount.at.to_str());
    let layered = inside.request.spec.packages.iter().map(|_| "/usr");
    let writable: Vec<&str> = WRITABLE.into_iter().chain(layered).chain(lent).collect();
    domain::enter_outer(&writable).map_err(|error| Failure::other(error.to_string()))
}

/// Step: the system call filter.
pub(super) fn filter_calls(inside: &mut Inside) -> Result<(), Failure> {
    inside.ahead.filter.install().map_err(|error| Failure::other(error.to_string()))
}
