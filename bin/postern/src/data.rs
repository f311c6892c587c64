//! The data directory: who may read it, which format it has, who holds it.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

use crate::failure::{Failure, Or};

const FORMAT: &str = "1";

/// A data directory that is ours: private, of a known format.
#[derive(Clone, Debug)]
pub(crate) struct Data {
    root: PathBuf,
}

/// Held while `up` runs over a directory; the kernel releases it with the process.
pub(crate) struct Held {
    _lock: File,
}

impl Data {
    /// Opens the directory, making it at the first start.
    ///
    /// # Errors
    /// It belongs to someone else, others may enter it, or its format is not ours.
    pub(crate) fn open(root: &Path) -> Result<Self, Failure> {
        if !root.exists() {
            DirBuilder::new()
                .mode(0o700)
                .recursive(true)
                .create(root)
                .or_misused(&format!("make {}", root.display()))?;
        }
        let root = root.canonicalize().or_misused(&format!("find {}", root.display()))?;
        let about = fs::metadata(&root).or_misused(&format!("look at {}", root.display()))?;
        if !about.is_dir() {
            return Err(Failure::Misused(format!(
                "{} is no directory; name one with --data-dir, or a path where one can be made",
                root.display()
            )));
        }
        if about.uid() != rustix::process::geteuid().as_raw() || about.mode() & 0o077 != 0 {
            let path = root.display();
            return Err(Failure::Misused(format!(
                "{path} must belong to you alone: chown it to you and chmod 700 {path}"
            )));
        }
        let data = Self { root };
        data.check_format()?;
        for part in ["control", "perimeter"] {
            Self::make_private(&data.root.join(part))?;
        }
        Ok(data)
    }

    /// What the control plane keeps.
    pub(crate) fn control(&self) -> PathBuf {
        self.root.join("control")
    }

    /// What the perimeter keeps.
    pub(crate) fn perimeter(&self) -> PathBuf {
        self.root.join("perimeter")
    }

    /// The operator's socket.
    pub(crate) fn operator_socket(&self) -> PathBuf {
        self.root.join("operator.sock")
    }

    /// Where the worker finds the environment's key.
    pub(crate) fn environment_key(&self) -> PathBuf {
        self.perimeter().join("environment_key")
    }

    /// The tunnel that `up` made: its token, its CA, its certificate.
    pub(crate) fn tunnel(&self) -> PathBuf {
        self.perimeter().join("tunnel")
    }

    /// The edge's own certificate, made on this machine. The server does not reach it.
    pub(crate) fn edge(&self) -> PathBuf {
        self.root.join("edge")
    }

    /// Takes that out of the server's directory, where earlier versions made it: connectors that trust it go on.
    pub(crate) fn part_edge_from_control(&self) {
        let former = self.control().join("edge");
        let Ok(found) = fs::symlink_metadata(&former) else { return };
        // The server writes there: links are not followed out of its directory.
        let mut moved = Err(std::io::ErrorKind::InvalidInput.into());
        if found.is_dir() && fs::read_dir(&former).is_ok_and(all_plain) {
            moved = fs::rename(&former, self.edge());
        }
        if let Err(error) = moved {
            let from = former.display();
            tracing::warn!(%error, %from, "the edge's former certificate is not taken over; remove it");
        }
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// Takes the directory for one `up`.
    ///
    /// # Errors
    /// Another one holds it.
    pub(crate) fn hold(&self) -> Result<Held, Failure> {
        self.hold_as("lock", "`postern up` or `postern worker`")
    }

    /// Takes the directory for one gateway; a worker may use it too.
    ///
    /// # Errors
    /// Another one holds it.
    pub(crate) fn hold_for_gateway(&self) -> Result<Held, Failure> {
        self.hold_as("gateway.lock", "gateway")
    }

    fn hold_as(&self, name: &str, holder: &str) -> Result<Held, Failure> {
        let path = self.root.join(name);
        let lock = OpenOptions::new().create(true).write(true).truncate(false).mode(0o600).open(&path);
        let lock = lock.or_misused(&format!("open {}", path.display()))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Held { _lock: lock }),
            Err(_) => {
                Err(Failure::Misused(format!("another {holder} runs over {}; stop it first", self.root.display())))
            }
        }
    }

    /// Writes a file that only its owner may read, whole or not at all.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
        Self::write_private_bytes(path, text.as_bytes())
    }

    /// As [`Data::write_private`], of bytes.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn write_private_bytes(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
        // What replaces a device or a link would take its place for everybody.
        if fs::symlink_metadata(path).is_ok_and(|found| !found.is_file()) {
            return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it exists and is no ordinary file"));
        }
        let mut new = path.as_os_str().to_owned();
        new.push(".new");
        // What lies there is of a write that was cut short, or somebody else's: it is neither written to nor followed.
        match fs::remove_file(&new) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file = OpenOptions::new().create_new(true).write(true).mode(0o600).open(&new)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(directory)?.sync_all()
    }

    /// Makes a directory that only its owner may enter.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn make_private(path: &Path) -> Result<(), Failure> {
        DirBuilder::new().mode(0o700).recursive(true).create(path).or_misused(&format!("make {}", path.display()))
    }

    fn check_format(&self) -> Result<(), Failure> {
        let path = self.root.join("format");
        match fs::read_to_string(&path) {
            Ok(found) if found.trim() == FORMAT => Ok(()),
            Ok(found) => {
                let (root, found) = (self.root.display(), found.trim());
                Err(Failure::Misused(format!(
                    "{root} has format {found}; this build reads {FORMAT}: use the build that wrote it, or another directory"
                )))
            }
            Err(_) => Self::write_private(&path, FORMAT).or_misused(&format!("write {}", path.display())),
        }
    }
}

/// Whether everything in a directory is a file, and no link to one.
fn all_plain(mut entries: fs::ReadDir) -> bool {
    entries.all(|entry| entry.and_then(|entry| entry.file_type()).is_ok_and(|kind| kind.is_file()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_new_directory_is_private_and_has_a_format() {
        let place = tempfile::tempdir().unwrap();
        let data = Data::open(&place.path().join("data")).unwrap();
        assert_eq!(fs::metadata(data.root()).unwrap().mode() & 0o777, 0o700);
        assert_eq!(fs::read_to_string(data.root().join("format")).unwrap(), FORMAT);
    }

    #[test]
    fn a_certificate_of_the_edge_leaves_the_servers_directory_once() {
        let place = tempfile::tempdir().unwrap();
        let data = Data::open(&place.path().join("data")).unwrap();
        fs::create_dir_all(data.control().join("edge")).unwrap();
        fs::write(data.control().join("edge/key.pem"), "made before").unwrap();
        data.part_edge_from_control();
        assert!(!data.control().join("edge").exists());
        data.part_edge_from_control();
        assert_eq!(fs::read_to_string(data.edge().join("key.pem")).unwrap(), "made before");
    }

    #[test]
    fn a_link_that_the_server_left_leads_the_edge_nowhere() {
        let place = tempfile::tempdir().unwrap();
        let data = Data::open(&place.path().join("data")).unwrap();
        let elsewhere = place.path().join("elsewhere");
        fs::create_dir_all(&elsewhere).unwrap();
        fs::write(elsewhere.join("key.pem"), "another's").unwrap();
        fs::create_dir_all(data.control()).unwrap();
        std::os::unix::fs::symlink(&elsewhere, data.control().join("edge")).unwrap();
        data.part_edge_from_control();
        assert!(!data.edge().exists());
        fs::remove_file(data.control().join("edge")).unwrap();
        fs::create_dir_all(data.control().join("edge")).unwrap();
        std::os::unix::fs::symlink(elsewhere.join("key.pem"), data.control().join("edge/key.pem")).unwrap();
        data.part_edge_from_control();
        assert!(!data.edge().exists());
    }

    #[test]
    fn a_directory_that_others_may_enter_is_refused() {
        let place = tempfile::tempdir().unwrap();
        fs::set_permissions(place.path(), fs::Permissions::from_mode(0o755)).unwrap();
        assert!(Data::open(place.path()).unwrap_err().to_string().contains("chmod 700"));
    }

    #[test]
    fn a_file_is_no_directory() {
        let place = tempfile::tempdir().unwrap();
        let file = place.path().join("data");
        fs::write(&file, "").unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        let refused = Data::open(&file).unwrap_err().to_string();
        assert!(refused.contains("is no directory") && refused.contains("--data-dir"), "{refused}");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_newer_format_is_refused() {
        let place = tempfile::tempdir().unwrap();
        let root = place.path().join("data");
        Data::open(&root).unwrap();
        fs::write(root.join("format"), "2").unwrap();
        assert!(Data::open(&root).unwrap_err().to_string().contains("format 2"));
    }

    #[test]
    fn a_device_or_a_link_is_not_replaced() {
        let place = tempfile::tempdir().unwrap();
        let (link, socket) = (place.path().join("link"), place.path().join("socket"));
        std::os::unix::fs::symlink("elsewhere", &link).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for path in [socket.as_path(), &link, place.path()] {
            assert!(Data::write_private(path, "text").is_err(), "{}", path.display());
        }
    }

    #[test]
    fn what_lies_under_the_name_of_a_file_in_the_making_is_neither_written_to_nor_followed() {
        let place = tempfile::tempdir().unwrap();
        let [path, new, victim, spare] = ["key", "key.new", "victim", "spare"].map(|name| place.path().join(name));
        fs::write(&victim, "theirs").unwrap();
        for lies_there in ["link", "another name", "open to others"] {
            match lies_there {
                "link" => std::os::unix::fs::symlink(&victim, &new).unwrap(),
                "another name" => fs::hard_link(&victim, &new).unwrap(),
                _ => {
                    fs::write(&new, "of a write that was cut short, and longer").unwrap();
                    fs::set_permissions(&new, fs::Permissions::from_mode(0o666)).unwrap();
                    fs::hard_link(&new, &spare).unwrap();
                }
            }
            Data::write_private(&path, "ours").unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), "ours", "{lies_there}");
            let about = fs::symlink_metadata(&path).unwrap();
            assert_eq!((about.is_file(), about.mode() & 0o777, about.nlink()), (true, 0o600, 1), "{lies_there}");
            assert!(!new.exists() && fs::read_to_string(&victim).unwrap() == "theirs", "{lies_there}");
        }
    }

    #[test]
    fn one_up_at_a_time_holds_a_directory() {
        let place = tempfile::tempdir().unwrap();
        let data = Data::open(&place.path().join("data")).unwrap();
        let held = data.hold().unwrap();
        assert!(data.hold().is_err());
        drop(held);
        assert!(data.hold().is_ok());
    }
}
