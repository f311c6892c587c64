//! The peers, each from its start to the exit of its command. What the kernel does after that is not counted.

use std::fs;
use std::os::unix::fs::{chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::{Value, json};

use crate::{Outcome, milliseconds};

/// The links that lead into /usr where the system has them merged.
const LINKS: [&str; 4] = ["bin", "sbin", "lib", "lib64"];

/// Milliseconds of `bwrap`.
#[expect(clippy::disallowed_methods, reason = "a peer to compare with, started by a measurement")]
pub(crate) fn bwrap(directory: &Path) -> Outcome<f64> {
    let workspace = directory.join("peer");
    fs::create_dir_all(&workspace)?;
    let mut command = Command::new("bwrap");
    command.args([
        "--unshare-user",
        "--unshare-pid",
        "--unshare-net",
        "--unshare-ipc",
        "--unshare-uts",
        "--unshare-cgroup",
    ]);
    command.args(["--ro-bind", "/usr", "/usr", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp"]);
    for (link, target) in links() {
        command.arg("--symlink").arg(target).arg(Path::new("/").join(link));
    }
    command.arg("--bind").arg(&workspace).arg("/workspace");
    command.args(["--die-with-parent", "--", "/bin/bash", "-c", "true"]);
    timed(&mut command)
}

/// A bundle for `runc`, which needs root here: its control groups are the system's.
pub(crate) struct Bundle {
    directory: PathBuf,
}

impl Bundle {
    /// None for an ordinary user.
    pub(crate) fn make(directory: &Path) -> Outcome<Option<Self>> {
        if !rustix::process::geteuid().is_root() {
            return Ok(None);
        }
        let directory = directory.join("bundle");
        let root = directory.join("rootfs");
        for place in ["usr", "proc", "dev", "tmp", "workspace"] {
            fs::create_dir_all(root.join(place))?;
            chown(root.join(place), Some(HOST_ID), Some(HOST_ID))?;
        }
        chown(&root, Some(HOST_ID), Some(HOST_ID))?;
        for (link, target) in links() {
            symlink(target, root.join(link))?;
        }
        fs::write(directory.join("config.json"), configuration(&directory.join("rootfs/workspace")).to_string())?;
        Ok(Some(Self { directory }))
    }

    /// Milliseconds of `runc run`, which removes the container too.
    #[expect(clippy::disallowed_methods, reason = "a peer to compare with, started by a measurement")]
    pub(crate) fn run(&self) -> Outcome<f64> {
        let name = format!("postern-bench-{}", std::process::id());
        timed(Command::new("runc").arg("run").arg("--bundle").arg(&self.directory).arg(name).stdin(Stdio::null()))
    }
}

/// Whom user 0 inside is outside.
const HOST_ID: u32 = 300_000;

/// The same namespaces and mounts as for `bwrap`; no filter, no limits.
fn configuration(workspace: &Path) -> Value {
    let kinds = ["user", "pid", "network", "ipc", "uts", "cgroup", "mount"];
    let namespaces: Vec<_> = kinds.iter().map(|kind| json!({"type": kind})).collect();
    let mapping = json!([{"containerID": 0, "hostID": HOST_ID, "size": 1}]);
    json!({
        "ociVersion": "1.0.2",
        "process": {"user": {"uid": 0, "gid": 0}, "args": ["/bin/bash", "-c", "true"], "cwd": "/workspace",
            "env": ["PATH=/usr/local/bin:/usr/bin:/bin"], "noNewPrivileges": true},
        "root": {"path": "rootfs", "readonly": true},
        "mounts": [
            {"destination": "/usr", "type": "bind", "source": "/usr", "options": ["rbind", "ro"]},
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"]},
            {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/workspace", "type": "bind", "source": workspace, "options": ["rbind", "rw"]},
        ],
        "linux": {"namespaces": namespaces, "uidMappings": mapping, "gidMappings": mapping},
    })
}

fn links() -> impl Iterator<Item = (&'static str, PathBuf)> {
    LINKS.into_iter().filter_map(|link| Some((link, fs::read_link(Path::new("/").join(link)).ok()?)))
}

fn timed(command: &mut Command) -> Outcome<f64> {
    let start = Instant::now();
    let status = command.status()?;
    let passed = milliseconds(start);
    if status.success() { Ok(passed) } else { Err(format!("{:?} ended with {status}", command.get_program()).into()) }
}
