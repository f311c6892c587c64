//! What the spawner reads of the host once, at its start: what sandboxes are shown of /etc, the layout of the system directories, the trust bundle.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::etc;

/// Where distributions keep the bundle of certificate authorities.
pub(crate) const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Directories of the root that are links into /usr on a merged system.
const LINKS: [&str; 6] = ["/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32"];

/// Devices that every program may use.
pub(crate) const DEVICES: [&str; 6] = ["null", "zero", "full", "random", "urandom", "tty"];

/// The host, or an image, as sandboxes see it.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct System {
    /// Path and contents: what an image has of /etc.
    pub(crate) copied: Vec<(PathBuf, Vec<u8>)>,
    /// The directory that is shown as /etc; an image's is put together in the sandbox.
    pub(crate) etc: Option<PathBuf>,
    /// What is shown read-only where it lies: /usr, and directories of /etc.
    pub(crate) shown: Vec<PathBuf>,
    /// Links of the root and where they lead.
    pub(crate) links: Vec<(PathBuf, PathBuf)>,
    /// Directories that are covered by an empty one.
    pub(crate) hidden: Vec<PathBuf>,
    /// The bundle's real paths, to be covered by the sandbox's own.
    pub(crate) bundles: Vec<PathBuf>,
}

impl System {
    /// Looks at the host. What is not there is left out.
    pub(crate) fn look(etc: PathBuf) -> Self {
        let mut system = Self { etc: Some(etc), shown: vec![PathBuf::from("/usr")], ..Self::default() };
        for link in LINKS.map(PathBuf::from) {
            match fs::read_link(&link) {
                Ok(target) => system.links.push((link, target)),
                Err(_) if link.is_dir() => system.shown.push(link),
                Err(_) => {}
            }
        }
        system.shown.extend(etc::shown());
        system.hidden.extend(etc::hidden());
        system.look_at_bundles();
        system
    }

    fn look_at_bundles(&mut self) {
        for bundle in BUNDLES.iter().filter_map(|path| fs::canonicalize(path).ok()) {
            if self.shows(&bundle) && !self.bundles.contains(&bundle) {
                self.bundles.push(bundle);
            }
        }
    }

    fn shows(&self, path: &Path) -> bool {
        self.shown.iter().any(|shown| path.starts_with(shown))
    }
}

/// The host's bundle of certificate authorities, opened; none on a host without one.
pub(crate) fn authorities() -> Option<File> {
    BUNDLES.iter().find_map(|path| File::open(path).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_host_of_this_test_has_a_system_and_authorities() {
        let system = System::look("/etc".into());
        assert!(system.shown.contains(&PathBuf::from("/usr")));
        assert!(!system.bundles.is_empty() && authorities().is_some());
    }
}
