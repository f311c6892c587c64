//! The sandbox: limits raised, directories shown, controls no longer required.

use super::super::sandbox::{Control, Mount, MountAccess, Packages, SandboxLimits, System};
use super::{Change, ChangeKind};
use std::path::Path;

/// Everything in which the second is looser than the first.
pub(super) fn widenings(from: &SandboxLimits, to: &SandboxLimits) -> Vec<Change> {
    let SandboxLimits { memory_bytes, cpus, processes, disk_bytes, system, packages, mounts, devices, require } = to;
    let limits = [
        raised("memory, in bytes", from.memory_bytes, *memory_bytes),
        raised("cpus", from.cpus, *cpus),
        raised("processes", from.processes, *processes),
        raised("disk, in bytes", from.disk_bytes, *disk_bytes),
    ];
    let mut changes: Vec<Change> = limits.into_iter().flatten().collect();
    changes.extend(lent_system(&from.system, system));
    if (from.packages, *packages) == (Packages::None, Packages::Session) {
        changes.push(Change::shown(ChangeKind::SandboxSystem, "packages can be installed for the session"));
    }
    let new_devices = devices.iter().filter(|device| !from.devices.contains(device));
    changes.extend(
        new_devices.map(|device| Change::shown(ChangeKind::SandboxMount, format!("the device {}", device.display()))),
    );
    changes.extend(mounts.iter().filter_map(|mount| shown(mount, &from.mounts)));
    changes.extend(uncovered(&from.mounts, mounts, system));
    changes.extend(dropped(from.require.as_deref(), require.as_deref()));
    changes
}

/// What a zone does not say is the builder's default, which this code does not know.
fn raised<T: PartialOrd + ToString + Copy>(what: &str, from: Option<T>, to: Option<T>) -> Option<Change> {
    let words = |limit: Option<T>| limit.map_or("the default".to_owned(), |limit| limit.to_string());
    let change = match (from, to) {
        (None, None) => return None,
        (Some(before), Some(after)) if after <= before => return None,
        (Some(_), Some(_)) => Change::shown(ChangeKind::SandboxLimit, what),
        (None, Some(_)) | (Some(_), None) => Change::possible(ChangeKind::SandboxLimit, what),
    };
    Some(change.between(words(from), words(to)))
}

/// Directories that are shown besides the host's own system; of an image nothing is known here.
fn lent_system(from: &System, to: &System) -> Vec<Change> {
    let shown = |what: String| Change::shown(ChangeKind::SandboxSystem, what);
    match (from, to) {
        (System::Host { directories: before }, System::Host { directories: after }) => {
            let new = after.iter().filter(|directory| !before.iter().any(|outer| directory.starts_with(outer)));
            new.map(|directory| shown(format!("{} is part of the system", directory.display()))).collect()
        }
        (System::Image(before), System::Image(after)) if before == after => Vec::new(),
        (_, System::Image(image)) => vec![shown(format!("the system is the image {}", image.display()))],
        (System::Image(_), System::Host { .. }) => vec![shown("the system is the host's".to_owned())],
    }
}

/// A mount is inside another that is shown already, at the same place below it and with no more access. A cache that
/// becomes an ordinary mount is one that other zones may lend for writing now.
fn shown(mount: &Mount, before: &[Mount]) -> Option<Change> {
    let Mount { host, at, access } = mount;
    let inside = |outer: &&Mount| -> bool {
        let rest = |inner: &Path, outer: &Path| inner.strip_prefix(outer).ok().map(Path::to_path_buf);
        let same_place = rest(host, &outer.host).is_some_and(|below| rest(at, &outer.at) == Some(below));
        same_place && (outer.access == MountAccess::Write || *access != MountAccess::Write)
    };
    if let Some(outer) = before.iter().find(inside) {
        let lost = outer.access == MountAccess::Cache && *access == MountAccess::Read;
        let what = format!("{} may be lent to others for writing", host.display());
        return lost.then(|| Change::shown(ChangeKind::SandboxMount, what).between("cache", "read"));
    }
    let what = format!("{} at {}, to {}", host.display(), at.display(), words(*access));
    Some(Change::shown(ChangeKind::SandboxMount, what))
}

/// What an image has where something was mounted over it; mounts themselves stand apart from each other.
fn uncovered(from: &[Mount], to: &[Mount], system: &System) -> Vec<Change> {
    let System::Image(image) = system else { return Vec::new() };
    let gone = from.iter().filter(|mount| !to.iter().any(|other| mount.at.starts_with(&other.at)));
    let what = |mount: &Mount| format!("what {} has at {}", image.display(), mount.at.display());
    gone.map(|mount| Change::possible(ChangeKind::SandboxSystem, what(mount))).collect()
}

fn words(access: MountAccess) -> &'static str {
    match access {
        MountAccess::Read | MountAccess::Cache => "read",
        MountAccess::Write => "read and write",
    }
}

/// A list replaces the default, which is every control that is active at the worker's start.
fn dropped(from: Option<&[Control]>, to: Option<&[Control]>) -> Vec<Change> {
    match (from, to) {
        (None, None) => Vec::new(),
        (None, Some(listed)) => {
            let all = Control::ALL.iter().all(|control| listed.contains(control));
            let change = Change::possible(ChangeKind::SandboxControl, "required controls");
            (!all).then(|| change.between("all that are active", list(listed))).into_iter().collect()
        }
        (Some(listed), None) => {
            let change = Change::possible(ChangeKind::SandboxControl, "required controls");
            vec![change.between(list(listed), "all that are active")]
        }
        (Some(before), Some(after)) => before
            .iter()
            .filter(|control| !after.contains(control))
            .map(|control| Change::shown(ChangeKind::SandboxControl, format!("{} is not required", control.as_str())))
            .collect(),
    }
}

fn list(controls: &[Control]) -> String {
    controls.iter().map(|control| control.as_str()).collect::<Vec<_>>().join(" ")
}
