//! What the running processes of the perimeter wear: filters and capabilities, as the kernel tells of each thread.

use std::fs;

use postern_confine::Role;

use super::{Pair, word};
use crate::stand::processes;

/// Whether each thread of each running process of the perimeter is under a filter of its own and gains nothing by what it executes. This process is under
/// none but its container's.
pub(super) fn filtered() -> Pair {
    let ours = filters("self");
    let before = ours.iter().copied().flatten().max().unwrap_or(0);
    let worn = |threads: &[Option<u32>]| {
        !threads.is_empty() && threads.iter().all(|worn| worn.is_some_and(|filters| filters > before))
    };
    let running = processes();
    let all = running.values().all(|pid| worn(&filters(&pid.to_string())));
    (word(all, "filtered", "bare"), word(worn(&ours), "filtered", "bare"))
}

/// Whether each thread of each running role of the perimeter holds no capability but its role's, and as root can be given none. Starter and spawner build
/// sandboxes, which takes what root may do; this process is no role.
pub(super) fn powerless() -> Pair {
    let roles: Vec<(Role, u32)> =
        processes().into_iter().filter_map(|(name, pid)| Some((Role::named(&name)?, pid))).collect();
    let within = |role: Role, pid: &str| {
        let threads = threads(pid);
        !threads.is_empty() && threads.iter().all(|status| holds_only(status, postern_confine::capabilities_of(role)))
    };
    let all = roles.len() >= ROLES_WITH_POWERS && roles.iter().all(|(role, pid)| within(*role, &pid.to_string()));
    (word(all, "within", "beyond"), word(within(Role::Egress, "self"), "within", "beyond"))
}

fn holds_only(status: &str, kept: u64) -> bool {
    let set = |name: &str| u64::from_str_radix(field(status, name).unwrap_or_default(), 16).unwrap_or(u64::MAX);
    let beyond = |name: &&str| set(name) & !kept != 0;
    // Whoever is not root may not shrink the bounding set, and gains nothing by it.
    let bounds = if rustix::process::geteuid().is_root() { &["CapBnd:"][..] } else { &[] };
    !["CapEff:", "CapPrm:", "CapInh:", "CapAmb:"].iter().chain(bounds).any(beyond)
}

/// The number of filters on each thread of a process; nothing for one that may gain privileges.
fn filters(pid: &str) -> Vec<Option<u32>> {
    let number = |status: &str, name: &str| -> Option<u32> { field(status, name)?.parse().ok() };
    let worn = |status: String| {
        let privileges = number(&status, "NoNewPrivs:");
        number(&status, "Seccomp_filters:").filter(|_| privileges == Some(1))
    };
    threads(pid).into_iter().map(worn).collect()
}

/// What the kernel says of each thread of a process.
fn threads(pid: &str) -> Vec<String> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    threads.filter_map(|thread| fs::read_to_string(thread.path().join("status")).ok()).collect()
}

fn field<'a>(status: &'a str, name: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim)
}

/// Custody, egress, audit.
const ROLES_WITH_POWERS: usize = 3;
