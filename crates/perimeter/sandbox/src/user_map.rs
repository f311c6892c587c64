//! The map of a sandbox's user namespace: the agent is one user outside, and nobody else is anybody.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use rustix::process::Pid;

use crate::builder::{number, system};
use crate::error::BuildError;
use crate::request::Request;
use crate::spec::AGENT_UID;

/// What mends a map that is refused.
pub(crate) const FIX: &str =
    "run postern as root or as the user that owns its data, and not under a filter that forbids user namespaces";

/// The maps of a stub's namespace, opened ahead of need, for root to write when the session is known.
pub(crate) struct Maps {
    users: File,
    groups: File,
}

impl Maps {
    /// Opens them, and denies the process supplementary groups.
    pub(crate) fn open(process: Pid) -> Result<Self, BuildError> {
        let directory = format!("/proc/{}", number(process));
        open_all(Path::new(&directory)).map_err(|error| failed(&error))
    }

    /// Maps the agent to the session's kernel user.
    pub(crate) fn map(&self, request: &Request) -> Result<(), BuildError> {
        self.write(request.kernel_uid, request.kernel_gid).map_err(|error| failed(&error))
    }

    fn write(&self, uid: u32, gid: u32) -> io::Result<()> {
        (&self.users).write_all(format!("{AGENT_UID} {uid} 1").as_bytes())?;
        (&self.groups).write_all(format!("{AGENT_UID} {gid} 1").as_bytes())
    }
}

/// Maps the agent of this process's own namespace to the only user that an ordinary user has.
pub(crate) fn map_own(uid: u32, gid: u32) -> io::Result<()> {
    open_all(Path::new("/proc/self"))?.write(uid, gid)
}

fn open_all(directory: &Path) -> io::Result<Maps> {
    fs::write(directory.join("setgroups"), "deny")?;
    let open = |name| File::options().write(true).open(directory.join(name));
    Ok(Maps { users: open("uid_map")?, groups: open("gid_map")? })
}

fn failed(error: &io::Error) -> BuildError {
    system("map the user", "write its maps", error, FIX)
}
