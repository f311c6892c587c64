//! Why something that was tried did not work, as far as it can be seen from here, and what mends it.

use std::fs;

use rustix::io::Errno;

use super::trial::{Failed, Trying};
use crate::request::Builder;

/// What lets a new /proc be mounted.
pub(crate) const PROC_FIX: &str = "uncover the host's /proc: Docker --security-opt systempaths=unconfined, Kubernetes procMount: Unmasked, systemd ProtectKernelTunables=no, ProtectKernelLogs=no and ProcSubset=all; or run outside a container";

const FILTER: &str = "a seccomp filter around postern forbids it";
const FILTER_FIX: &str = "in Docker --security-opt seccomp=unconfined; in systemd no RestrictNamespaces= and no SystemCallFilter= without @mount; in Kubernetes seccompProfile Unconfined instead of RuntimeDefault";

/// Cause and fix.
pub(super) fn of(failed: &Failed, builder: Builder) -> (String, &'static str) {
    let errno = failed.errno;
    if let Some((cause, fix)) = common(failed, builder) {
        return (cause.to_owned(), fix);
    }
    match failed.trying {
        Trying::Namespaces if errno == Errno::NOSPC || errno == Errno::USERS => (
            "the limit of namespaces, or of their nesting, is reached".to_owned(),
            "raise sysctl user.max_*_namespaces, or run postern less deeply nested",
        ),
        Trying::Namespaces if errno == Errno::NOSYS || errno == Errno::INVAL => (
            "the kernel was built without one of the namespaces".to_owned(),
            "boot a kernel with CONFIG_USER_NS, CONFIG_PID_NS, CONFIG_NET_NS and CONFIG_IPC_NS",
        ),
        Trying::Proc if !covered().is_empty() => {
            (format!("the host's /proc is covered at {}, so the kernel gives no other", covered().join(", ")), PROC_FIX)
        }
        Trying::Routes => (
            "the network namespace takes no routes of both IP families".to_owned(),
            "boot a kernel with IPv4 and IPv6 (no ipv6.disable=1)",
        ),
        Trying::Rules => (
            "the kernel takes no packet rules".to_owned(),
            "boot a kernel with CONFIG_NF_TABLES, CONFIG_NFT_REDIR, CONFIG_NFT_REJECT and CONFIG_NFT_CT, or load nf_tables",
        ),
        Trying::Clocks if errno == Errno::INVAL => (
            "the kernel was built without time namespaces: a sandbox sees how long the machine runs".to_owned(),
            "boot a kernel with CONFIG_TIME_NS",
        ),
        Trying::Filter => ("the kernel has no seccomp filters".to_owned(), "boot a kernel with CONFIG_SECCOMP_FILTER"),
        Trying::Mounts | Trying::Proc if errno == Errno::NOSYS => {
            ("the kernel does not know the newer calls for mounts".to_owned(), "boot a kernel from 5.12 on")
        }
        Trying::Mounts | Trying::Proc => (
            "a security module, AppArmor or SELinux, forbids mounts in a user namespace".to_owned(),
            "in Docker --security-opt apparmor=unconfined; else a profile for postern with `userns,` and `mount,`",
        ),
        Trying::Namespaces | Trying::Clocks => {
            ("the kernel or a security module forbids it".to_owned(), "look into the kernel's log")
        }
    }
}

/// What stands in the way of everything.
fn common(failed: &Failed, builder: Builder) -> Option<(&'static str, &'static str)> {
    if setting("user/max_user_namespaces") == Some(0) {
        return Some(("user namespaces are limited to none", "sysctl user.max_user_namespaces=10000"));
    }
    if !matches!(failed.errno, Errno::PERM | Errno::ACCESS | Errno::NOSYS) || failed.trying == Trying::Rules {
        return None;
    }
    if !builder.is_root() && setting("kernel/unprivileged_userns_clone") == Some(0) {
        return Some(("user namespaces are for root alone", "sysctl kernel.unprivileged_userns_clone=1"));
    }
    if !builder.is_root() && setting("kernel/apparmor_restrict_unprivileged_userns") == Some(1) {
        return Some((
            "AppArmor restricts user namespaces",
            "add an AppArmor profile for postern with `userns,`, or sysctl kernel.apparmor_restrict_unprivileged_userns=0",
        ));
    }
    // A new /proc is refused with the same number where the host's is covered: that is looked at first.
    let proc_is_covered = failed.trying == Trying::Proc && !covered().is_empty();
    (filtered() && !proc_is_covered).then_some((FILTER, FILTER_FIX))
}

fn setting(path: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{path}")).ok()?.trim().parse().ok()
}

/// Whether this process runs under a system call filter itself.
fn filtered() -> bool {
    fs::read_to_string("/proc/self/status")
        .is_ok_and(|status| status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])))
}

/// Places of /proc over which something is mounted.
fn covered() -> Vec<String> {
    covered_in(&fs::read_to_string("/proc/self/mountinfo").unwrap_or_default())
}

/// The kernel does not mind what lies over a directory that is always empty.
const ALWAYS_EMPTY: [&str; 2] = ["/proc/sys/fs/binfmt_misc", "/proc/fs/nfsd"];

fn covered_in(mounts: &str) -> Vec<String> {
    let points = mounts.lines().filter_map(|line| line.split(' ').nth(4));
    let mut covered: Vec<String> = points
        .filter(|point| point.starts_with("/proc/") && !ALWAYS_EMPTY.contains(point))
        .map(str::to_owned)
        .collect();
    covered.dedup();
    covered.truncate(SHOWN);
    covered
}

/// A container covers a dozen places; the first tell enough.
const SHOWN: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    const SOMEONE: Builder = Builder { uid: 1000, gid: 1000 };

    #[test]
    fn what_a_container_laid_over_proc_is_named_and_what_hides_nothing_is_not() {
        let mounts = "22 27 0:21 / /proc rw - proc proc rw\n30 22 0:30 / /proc/kcore ro - tmpfs none rw\n31 22 0:21 /sys /proc/sys ro - proc proc rw\n32 22 0:9 / /proc/sys/fs/binfmt_misc rw - binfmt_misc x rw\n";
        assert_eq!(covered_in(mounts), ["/proc/kcore", "/proc/sys"]);
        assert!(covered_in("22 27 0:21 / /proc rw - proc proc rw\n").is_empty());
    }

    #[test]
    fn each_failure_has_a_cause_and_a_fix_of_its_own() {
        let table = [
            (Trying::Namespaces, Errno::NOSPC, "limit of namespaces"),
            (Trying::Namespaces, Errno::INVAL, "built without one of the namespaces"),
            (Trying::Mounts, Errno::INVAL, "security module"),
            (Trying::Routes, Errno::INVAL, "both IP families"),
            (Trying::Rules, Errno::NOENT, "packet rules"),
            (Trying::Clocks, Errno::INVAL, "time namespaces"),
            (Trying::Filter, Errno::INVAL, "no seccomp filters"),
        ];
        for (trying, errno, said) in table {
            let (cause, fix) = of(&Failed { trying, errno }, SOMEONE);
            assert!(cause.contains(said) && !fix.is_empty(), "{trying:?}: {cause}");
        }
    }
}
