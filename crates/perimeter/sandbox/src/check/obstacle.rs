//! Why something that was tried did not work, as far as it can be seen from here, and what mends it.

use std::fs;
use std::path::Path;

use rustix::io::Errno;

use super::trial::{Failed, Trying};
use crate::request::Builder;

/// What lets a new /proc be mounted.
pub(crate) const PROC_FIX: &str = "uncover the host's /proc: Docker --security-opt systempaths=unconfined, Kubernetes procMount: Unmasked, systemd ProtectKernelTunables=no, ProtectKernelLogs=no and ProcSubset=all; or run outside a container";

const FILTER: &str = "a seccomp filter around postern forbids it";
const FILTER_FIX: &str = "in Docker --security-opt seccomp=unconfined; in systemd no RestrictNamespaces= and no SystemCallFilter= without @mount; in Kubernetes seccompProfile Unconfined instead of RuntimeDefault";

/// Cause and fix.
pub(super) fn of(failed: &Failed, builder: Builder) -> (String, &'static str) {
    seen_in(Path::new("/proc"), failed, builder)
}

/// The same by what this directory says of the kernel, of this process and of its mounts.
fn seen_in(proc: &Path, failed: &Failed, builder: Builder) -> (String, &'static str) {
    let errno = failed.errno;
    if let Some((cause, fix)) = common(proc, failed, builder) {
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
        Trying::Proc if !covered(proc).is_empty() => {
            let places = covered(proc).join(", ");
            (format!("the host's /proc is covered at {places}, so the kernel gives no other"), PROC_FIX)
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
fn common(proc: &Path, failed: &Failed, builder: Builder) -> Option<(&'static str, &'static str)> {
    let setting = |path: &str| setting(proc, path);
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
    let proc_is_covered = failed.trying == Trying::Proc && !covered(proc).is_empty();
    (filtered(proc) && !proc_is_covered).then_some((FILTER, FILTER_FIX))
}

fn setting(proc: &Path, path: &str) -> Option<u64> {
    fs::read_to_string(proc.join("sys").join(path)).ok()?.trim().parse().ok()
}

/// Whether this process runs under a system call filter itself.
fn filtered(proc: &Path) -> bool {
    fs::read_to_string(proc.join("self/status"))
        .is_ok_and(|status| status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])))
}

/// Places of /proc over which something is mounted.
fn covered(proc: &Path) -> Vec<String> {
    covered_in(&fs::read_to_string(proc.join("self/mountinfo")).unwrap_or_default())
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
    const ROOT: Builder = Builder { uid: 0, gid: 0 };

    /// What the system says, as files of /proc.
    fn says(files: &[(&str, &str)]) -> tempfile::TempDir {
        let proc = tempfile::tempdir().expect("makes");
        for (name, text) in files {
            let path = proc.path().join(name);
            fs::create_dir_all(path.parent().expect("it lies below")).expect("makes");
            fs::write(path, text).expect("writes");
        }
        proc
    }

    #[test]
    fn the_setting_that_stands_in_the_way_is_named_for_whom_it_stands_there() {
        let apparmor = ("sys/kernel/apparmor_restrict_unprivileged_userns", "1\n");
        let clone = ("sys/kernel/unprivileged_userns_clone", "0\n");
        let none = ("sys/user/max_user_namespaces", "0\n");
        let filter = ("self/status", "Name:\tpostern\nSeccomp:\t2\n");
        let table = [
            (vec![apparmor], SOMEONE, "AppArmor restricts user namespaces", "apparmor_restrict_unprivileged_userns=0"),
            (vec![apparmor], ROOT, "the kernel or a security module", "kernel's log"),
            (vec![(apparmor.0, "0\n")], SOMEONE, "the kernel or a security module", "kernel's log"),
            (vec![clone, apparmor], SOMEONE, "for root alone", "unprivileged_userns_clone=1"),
            (vec![clone], ROOT, "the kernel or a security module", "kernel's log"),
            (vec![none, clone, apparmor], SOMEONE, "limited to none", "max_user_namespaces=10000"),
            (vec![none], ROOT, "limited to none", "max_user_namespaces=10000"),
            (vec![filter], ROOT, "seccomp filter around postern", "seccomp=unconfined"),
            (vec![(filter.0, "Seccomp:\t0\n")], ROOT, "the kernel or a security module", "kernel's log"),
            (vec![(apparmor.0, "nonsense")], SOMEONE, "the kernel or a security module", "kernel's log"),
        ];
        for (files, builder, cause, fix) in table {
            let failed = Failed { trying: Trying::Namespaces, errno: Errno::PERM };
            let (told, mends) = seen_in(says(&files).path(), &failed, builder);
            assert!(told.contains(cause) && mends.contains(fix), "{files:?} for {}: {told}; {mends}", builder.uid);
        }
    }

    #[test]
    fn a_security_module_that_forbids_mounts_and_a_proc_that_is_covered_are_told_apart() {
        let failed = |trying| Failed { trying, errno: Errno::PERM };
        let (cause, fix) = seen_in(says(&[]).path(), &failed(Trying::Mounts), SOMEONE);
        assert!(cause.contains("AppArmor or SELinux") && fix.contains("apparmor=unconfined"), "{cause}");
        let mounts = "30 22 0:30 / /proc/kcore ro - tmpfs none rw\n";
        let covered = says(&[("self/mountinfo", mounts), ("self/status", "Seccomp:\t2\n")]);
        let (cause, fix) = seen_in(covered.path(), &failed(Trying::Proc), SOMEONE);
        assert!(cause.contains("covered at /proc/kcore") && fix == PROC_FIX, "{cause}");
        // The same errno for what has nothing to do with /proc: the filter is what is in the way.
        assert_eq!(seen_in(covered.path(), &failed(Trying::Mounts), SOMEONE).1, FILTER_FIX);
    }

    #[test]
    fn packet_rules_that_are_refused_are_not_blamed_on_namespaces() {
        let restricted = says(&[("sys/kernel/apparmor_restrict_unprivileged_userns", "1\n")]);
        let failed = Failed { trying: Trying::Rules, errno: Errno::PERM };
        assert!(seen_in(restricted.path(), &failed, SOMEONE).0.contains("packet rules"));
    }

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
