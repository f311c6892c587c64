//! What the kernel was told of the sandboxes' share of processor time: on a machine that is busy with other work nobody reaches a limit, and whether there is one
//! shows here alone.

use std::fs;
use std::path::{Path, PathBuf};

use crate::stand::{children_of, processes};

/// The smallest share, in processors, that a control group of the spawner's children has; nothing where none has one or none can be looked at.
pub(crate) fn smallest() -> Option<f64> {
    let spawner = processes().get("spawner").copied()?;
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let groups = children_of(&spawner.to_string()).into_iter().flat_map(|pid| {
        let own = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        directories(&own, &mounts)
    });
    groups.filter_map(|group| share(&group)).min_by(f64::total_cmp)
}

/// The directories of a process's groups for processor time, of either version.
fn directories(own: &str, mounts: &str) -> Vec<PathBuf> {
    let of_version = |kind: &'static str| {
        mounts.lines().filter_map(move |line| {
            let fields: Vec<&str> = line.split(' ').collect();
            let cpu = kind == "cgroup2" || fields.get(3)?.split(',').any(|option| option == "cpu");
            (*fields.get(2)? == kind && cpu).then(|| PathBuf::from(fields[1]))
        })
    };
    let groups = own.lines().filter_map(|line| {
        let mut parts = line.splitn(3, ':').skip(1);
        let (controllers, path) = (parts.next()?, parts.next()?.trim_start_matches('/'));
        match controllers {
            "" => Some(("cgroup2", path)),
            _ => controllers.split(',').any(|one| one == "cpu").then_some(("cgroup", path)),
        }
    });
    groups.flat_map(|(kind, path)| of_version(kind).map(move |mount| mount.join(path))).collect()
}

fn share(group: &Path) -> Option<f64> {
    let read = |name: &str| fs::read_to_string(group.join(name)).ok();
    let numbers =
        |text: String| -> Option<Vec<f64>> { text.split_whitespace().map(|word| word.parse().ok()).collect() };
    let told = match read("cpu.max") {
        Some(told) => numbers(told)?,
        None => numbers(read("cpu.cfs_quota_us")? + " " + &read("cpu.cfs_period_us")?)?,
    };
    // No limit is -1, or a word.
    told.first().filter(|quota| **quota > 0.0).zip(told.get(1)).map(|(quota, period)| quota / period)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_of_both_versions_are_found_where_they_are_mounted() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\ncgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "4:memory:/m\n1:cpu,cpuacct:/a/b\n0::/c\n";
        assert_eq!(directories(own, mounts), ["/sys/fs/cgroup/cpu/a/b", "/sys/fs/cgroup/unified/c"].map(PathBuf::from));
    }

    #[test]
    fn a_share_is_read_in_either_form_and_none_is_none() {
        let group = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| fs::write(group.path().join(name), text).unwrap();
        assert_eq!(share(group.path()), None);
        write("cpu.cfs_quota_us", "50000\n");
        write("cpu.cfs_period_us", "100000\n");
        assert_eq!(share(group.path()), Some(0.5));
        write("cpu.cfs_quota_us", "-1\n");
        assert_eq!(share(group.path()), None);
        write("cpu.max", "200000 100000\n");
        assert_eq!(share(group.path()), Some(2.0));
        write("cpu.max", "max 100000\n");
        assert_eq!(share(group.path()), None);
    }
}
