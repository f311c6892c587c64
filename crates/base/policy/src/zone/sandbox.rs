//! The limits a zone sets for its sandboxes. Stated here, enforced by whoever builds them.

use crate::document::{ByteCount, Table};
use std::path::PathBuf;
use std::str::FromStr;

/// Limits of a sandbox. What is `None` has the builder's default.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SandboxLimits {
    /// Memory.
    pub memory_bytes: Option<u64>,
    /// Processor share, in cores.
    pub cpus: Option<f64>,
    /// Processes and threads at one time.
    pub processes: Option<u32>,
    /// Bytes in the workspace.
    pub disk_bytes: Option<u64>,
    /// Directories of the host.
    pub mounts: Vec<Mount>,
    /// Controls without which the sandbox must not start; `None` means all that kernel and user can do.
    pub require: Option<Vec<Control>>,
}

/// A directory of the host, shown inside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mount {
    /// Absolute path on the host.
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
}

macro_rules! controls {
    ($($variant:ident = $name:literal, $doc:literal;)+) => {
        /// A control that a sandbox can have.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Control { $(#[doc = $doc] $variant,)+ }

        impl Control {
            /// Every control.
            pub const ALL: &'static [Control] = &[$(Control::$variant),+];

            /// The word used in zones and reports.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Control::$variant => $name),+ }
            }
        }
    };
}

controls! {
    Userns = "userns", "A user namespace.";
    Mountns = "mountns", "A mount namespace.";
    Pidns = "pidns", "A process id namespace.";
    Netns = "netns", "A network namespace.";
    Ipcns = "ipcns", "An IPC namespace.";
    Utsns = "utsns", "A host name namespace.";
    Cgroupns = "cgroupns", "A control group namespace.";
    Seccomp = "seccomp", "System call filters.";
    Landlock = "landlock", "A Landlock domain.";
    NoCaps = "no-caps", "No capabilities.";
    MemoryHard = "memory-hard", "Memory limited by a control group.";
    ProcessesHard = "processes-hard", "Processes limited by a control group.";
    DiskHard = "disk-hard", "Disk limited by the file system.";
    CpuHard = "cpu-hard", "Processor time limited by a control group.";
    DistinctUid = "distinct-uid", "A kernel user of its own.";
}

/// No control has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such control; known are userns mountns pidns netns ipcns utsns cgroupns seccomp landlock no-caps memory-hard processes-hard disk-hard cpu-hard distinct-uid"
)]
pub struct UnknownControl;

impl FromStr for Control {
    type Err = UnknownControl;
    fn from_str(text: &str) -> Result<Self, UnknownControl> {
        Self::ALL.iter().copied().find(|control| control.as_str() == text).ok_or(UnknownControl)
    }
}

impl SandboxLimits {
    pub(super) fn read(table: &mut Table<'_>) -> Self {
        let memory_bytes = table.parsed::<ByteCount>("memory").map(|item| item.value.0);
        let cpus = table.number("cpus").and_then(|item| {
            let sensible = (0.01..=1024.0).contains(&item.value);
            if !sensible {
                table.reader().error(item.at, "cpus must be from 0.01 to 1024");
            }
            sensible.then_some(item.value)
        });
        let processes =
            table.bounded("processes", FEWEST_PROCESSES..=1_000_000).and_then(|item| u32::try_from(item.value).ok());
        let disk_bytes = table.parsed::<ByteCount>("disk").map(|item| item.value.0);
        let mounts = table.tables("mounts").iter_mut().filter_map(read_mount).collect();
        let require =
            table.parsed_all::<Control>("require").map(|items| items.into_iter().map(|item| item.value).collect());
        Self { memory_bytes, cpus, processes, disk_bytes, mounts, require }
    }
}

fn read_mount(table: &mut Table<'_>) -> Option<Mount> {
    let host = table.string("host");
    let at = table.string("at");
    let access = table.string("access");
    let access = match access.map(|item| (item.value, item.at)) {
        Some(("read", _)) | None => Some(MountAccess::Read),
        Some(("write", _)) => Some(MountAccess::Write),
        Some((_, place)) => {
            table.reader().error(place, "access must be \"read\" or \"write\"");
            None
        }
    };
    let host = absolute(table, "host", host);
    let at = absolute(table, "at", at);
    Some(Mount { host: host?, at: at?, access: access? })
}

fn absolute(table: &mut Table<'_>, key: &str, item: Option<crate::document::Item<&str>>) -> Option<PathBuf> {
    let item = table.required(key, item)?;
    let path = PathBuf::from(item.value);
    let plain = path.is_absolute() && path.components().all(|part| !matches!(part, std::path::Component::ParentDir));
    if !plain {
        table.reader().error(item.at, format!("{key} must be an absolute path without .."));
    }
    plain.then_some(path)
}

/// The tool server, a shell and what they start; the builder refuses fewer.
const FEWEST_PROCESSES: i64 = 8;
