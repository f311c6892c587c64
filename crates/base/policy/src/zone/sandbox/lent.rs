//! What of the host a zone lends to its sandboxes besides the system: directories and files, and devices.

use super::system::lendable;
use super::{SandboxLimits, System, absolute, sensitive};
use crate::document::{At, Item, Reader, Table};
use std::collections::HashSet;
use std::path::{Path, PathBuf};

/// A directory or file of the host, shown inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the host, not sensitive by its name.
    pub host: PathBuf,
    /// Absolute path inside.
    pub at: PathBuf,
    /// What may be done there.
    pub access: MountAccess,
}

/// What may be done in a mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MountAccess {
    /// Read only.
    Read,
    /// Read and write.
    Write,
    /// Read only, and what several sandboxes read: nobody that this configuration covers may write there.
    Cache,
}

/// `mounts`. Each stands apart from the others and from the system's directories, so that none hides what another shows.
pub(super) fn read_mounts(table: &mut Table<'_>, system: &System) -> Vec<Mount> {
    let mut tables = table.tables("mounts");
    if tables.len() > MOST_MOUNTS {
        table.reader().error(tables[MOST_MOUNTS].at(), format!("mounts has more than {MOST_MOUNTS} entries"));
    }
    let directories = match system {
        System::Host { directories } => directories.as_slice(),
        System::Image(_) => &[],
    };
    let mut mounts: Vec<Mount> = Vec::new();
    for table in &mut tables {
        let Some(mount) = read_mount(table) else { continue };
        let mut others = mounts.iter().map(|other| &other.at).chain(directories);
        if let Some(other) = others.find(|other| meet(other, &mount.at)) {
            let (at, other) = (mount.at.display(), other.display());
            let message = format!(
                "at: {at} and {other} lie in each other, so one would hide what the other shows; set them apart"
            );
            table.reader().error(table.at(), message);
        }
        mounts.push(mount);
    }
    mounts
}

/// Whether one is, holds or lies in the other.
fn meet(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}

/// A place inside that is not the sandbox's own; the builder refuses those.
pub(super) fn apart(table: &Table<'_>, key: &str, place: Item<&str>, path: PathBuf) -> Option<PathBuf> {
    let ours = OURS.iter().any(|ours| meet(Path::new(ours), &path));
    if ours {
        let message = format!(
            "{key}: {} would cover the sandbox's own directories; choose /data, or a place below /srv or /mnt",
            place.value
        );
        table.reader().error(place.at, message);
    }
    (!ours).then_some(path)
}

fn read_mount(table: &mut Table<'_>) -> Option<Mount> {
    let host = table.string("host");
    let at = table.string("at");
    let access = match table.string("access").map(|item| (item.value, item.at)) {
        Some(("read", _)) | None => Some(MountAccess::Read),
        Some(("write", _)) => Some(MountAccess::Write),
        Some(("cache", _)) => Some(MountAccess::Cache),
        Some((_, place)) => {
            table.reader().error(place, "access must be \"read\", \"write\" or \"cache\"");
            None
        }
    };
    let host = table.required("host", host).and_then(|host| lendable(table, "host", host));
    let at = table.required("at", at).and_then(|at| apart(table, "at", at, absolute(table, "at", at)?));
    Some(Mount { host: host?, at: at?, access: access? })
}

/// What one sandbox writes another must not have as its system or its cache: the writer could choose what the reader runs. Limits of all zones, each with
/// the place of the zone's name.
pub(in crate::zone) fn refuse_written_caches(reader: &Reader<'_>, zones: &[(At, &SandboxLimits)]) {
    let mut told = HashSet::new();
    for shared in zones.iter().flat_map(|(_, limits)| shared(limits)) {
        for (at, limits) in zones {
            for written in limits.mounts.iter().filter(|mount| mount.access == MountAccess::Write) {
                if meet(&written.host, shared) && told.insert((&written.host, shared)) {
                    let (written, shared) = (written.host.display(), shared.display());
                    let message = format!(
                        "mounts: {written} is lent for writing, and other sandboxes run from {shared}; separate them"
                    );
                    reader.error(*at, message);
                }
            }
        }
    }
}

/// Nothing of ours is lent: keys, secrets, the configuration. As far as names tell; what lies there is looked at when a sandbox is built.
pub(in crate::zone) fn refuse_ours(reader: &Reader<'_>, at: At, limits: &SandboxLimits, ours: &[PathBuf]) {
    for lent in limits.mounts.iter().map(|mount| &mount.host).chain(shared(limits)) {
        if let Some(ours) = ours.iter().find(|ours| meet(ours, lent)) {
            let (lent, ours) = (lent.display(), ours.display());
            let message = format!(
                "{lent} is never lent: it is, holds or lies in {ours}, which is Postern's own; lend a directory apart from it"
            );
            reader.error(at, message);
        }
    }
}

/// What several sandboxes have in common and must be able to trust.
fn shared(limits: &SandboxLimits) -> impl Iterator<Item = &PathBuf> {
    let caches = limits.mounts.iter().filter(|mount| mount.access == MountAccess::Cache).map(|mount| &mount.host);
    let system = match &limits.system {
        System::Host { directories } => directories.as_slice(),
        System::Image(root) => std::slice::from_ref(root),
    };
    caches.chain(system)
}

/// `devices`: character devices, each by its path below `/dev`.
pub(super) fn read_devices(table: &mut Table<'_>) -> Vec<PathBuf> {
    let devices = table.strings("devices").unwrap_or_default();
    if devices.len() > MOST_DEVICES {
        table.reader().error(devices[MOST_DEVICES].at, format!("devices has more than {MOST_DEVICES} entries"));
    }
    devices.into_iter().filter_map(|item| read_device(table, item)).collect()
}

fn read_device(table: &Table<'_>, item: Item<&str>) -> Option<PathBuf> {
    let path = absolute(table, "devices", item)?;
    let Some(name) = path.strip_prefix("/dev").ok().and_then(|name| name.to_str()).filter(|name| !name.is_empty())
    else {
        table.reader().error(item.at, "devices: each is one device below /dev");
        return None;
    };
    if let Some(reason) = sensitive::device(name) {
        let message = format!("devices: {} is never lent ({reason})", item.value);
        table.reader().error(item.at, message);
        return None;
    }
    Some(path)
}

const MOST_MOUNTS: usize = 64;
const MOST_DEVICES: usize = 32;
/// Where a sandbox has directories of its own.
const OURS: &[&str] = &[
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/etc",
    "/proc",
    "/dev",
    "/sys",
    "/tmp",
    "/run",
    "/var",
    "/workspace",
    "/mnt/session",
    "/mnt/memory",
];
