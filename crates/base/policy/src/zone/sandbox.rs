//! The limits a zone sets for its sandboxes, and what of the host it lends them. Stated here, enforced by whoever builds them.

mod lent;
mod sensitive;
mod system;

pub use lent::{Mount, MountAccess};
pub(super) use lent::{refuse_ours, refuse_written_caches};
pub use system::{Packages, System};

use crate::document::{ByteCount, Item, Table};
use std::path::{Component, Path, PathBuf};
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
    /// What the read-only system is made of.
    pub system: System,
    /// Whether packages can be installed into it.
    pub packages: Packages,
    /// Directories of the host.
    pub mounts: Vec<Mount>,
    /// Character devices of the host, by their paths below `/dev`.
    pub devices: Vec<PathBuf>,
    /// Controls without which the sandbox must not start; `None` means all that kernel and user can do.
    pub require: Option<Vec<Control>>,
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
    Timens = "timens", "A time namespace.";
    Seccomp = "seccomp", "System call filters.";
    Landlock = "landlock", "A Landlock domain.";
    NoCaps = "no-caps", "No capabilities.";
    MemoryHard = "memory-hard", "Memory limited by a control group.";
    ProcessesHard = "processes-hard", "Processes limited by a control group.";
    DiskHard = "disk-hard", "Disk limited by the file system.";
    CpuHard = "cpu-hard", "Processor time limited by a control group.";
    DistinctUid = "distinct-uid", "A kernel user of its own.";
    ToolOutput = "tool-output", "What a command prints is bounded by the tool server.";
}

/// No control has this name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no such control; known are userns mountns pidns netns ipcns utsns cgroupns timens seccomp landlock no-caps memory-hard processes-hard disk-hard cpu-hard distinct-uid tool-output"
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
        let memory_bytes = bytes(table, "memory", LEAST_MEMORY);
        let cpus = table.number("cpus").and_then(|item| {
            let sensible = (0.01..=1024.0).contains(&item.value);
            if !sensible {
                table.reader().error(item.at, "cpus must be from 0.01 to 1024");
            }
            sensible.then_some(item.value)
        });
        let processes =
            table.bounded("processes", FEWEST_PROCESSES..=1_000_000).and_then(|item| u32::try_from(item.value).ok());
        let disk_bytes = bytes(table, "disk", LEAST_DISK);
        let (system, packages) = (System::read(table), Packages::read(table));
        let (mounts, devices) = (lent::read_mounts(table, &system), lent::read_devices(table));
        let require =
            table.parsed_all::<Control>("require").map(|items| items.into_iter().map(|item| item.value).collect());
        Self { memory_bytes, cpus, processes, disk_bytes, system, packages, mounts, devices, require }
    }
}

fn bytes(table: &mut Table<'_>, key: &str, least: u64) -> Option<u64> {
    let item = table.parsed::<ByteCount>(key)?;
    let sensible = (least..=MOST_BYTES).contains(&item.value.0);
    if !sensible {
        table.reader().error(item.at, format!("{key} must be from {}MiB to 1024TiB", least >> 20));
    }
    sensible.then_some(item.value.0)
}

/// An absolute path as it is written, without `..` and without a second spelling of itself.
fn absolute(table: &Table<'_>, key: &str, item: Item<&str>) -> Option<PathBuf> {
    let path: PathBuf = Path::new(item.value).components().collect();
    let plain = path.is_absolute() && path.components().all(|part| !matches!(part, Component::ParentDir));
    if !plain {
        table.reader().error(item.at, format!("{key} must be an absolute path without .."));
    }
    plain.then_some(path)
}

/// The tool server, a shell and what they start; the builder refuses fewer.
const FEWEST_PROCESSES: i64 = 8;
/// With less no shell starts; the builder refuses less.
const LEAST_MEMORY: u64 = 32 << 20;
/// The builder refuses less.
const LEAST_DISK: u64 = 1 << 20;
/// More than any machine has.
const MOST_BYTES: u64 = 1024 << 40;
