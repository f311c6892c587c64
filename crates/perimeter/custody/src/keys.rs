//! Custody's own keys: the master key of the local store and the perimeter's key pair. Made at the first start, bare files of mode 0600 (reported as
//! degraded). A key file that others can read is refused; a missing one is never replaced where something was already sealed with it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use aws_lc_rs::agreement::{PrivateKey, X25519};
use aws_lc_rs::encoding::{AsBigEndian, Curve25519SeedBin};
use postern_secret::seal::PerimeterPublicKey;
use postern_secret::{Secret, SecretBytes};
use zeroize::Zeroizing;

use crate::renewals;

/// The perimeter's key pair (X25519).
pub(crate) struct PerimeterPair {
    pub(crate) private: SecretBytes,
    pub(crate) public: PerimeterPublicKey,
}

/// Why a key cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// Others than the owner may read or write it.
    #[error("{} can be read or written by others; run `chmod 600 {}`, and replace the secrets if someone else has used this host", file.display(), file.display())]
    Exposed {
        /// The key file.
        file: PathBuf,
    },
    /// It is gone, and values were sealed to it.
    #[error("{} is missing, and what was sealed to this perimeter opens with it alone; restore it, or remove {} to begin with a new key: register that with `postern perimeter register`, and send the values again", file.display(), traces.display())]
    Missing {
        /// The key file.
        file: PathBuf,
        /// What says that there was one.
        traces: PathBuf,
    },
    /// It is not a key.
    #[error("{} does not hold a key; restore it", file.display())]
    Broken {
        /// The key file.
        file: PathBuf,
    },
    /// The system refused something.
    #[error("use the key {}", file.display())]
    System {
        /// The key file.
        file: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// The master key, if it was made.
pub(crate) fn master(directory: &Path) -> Result<Option<SecretBytes>, KeyError> {
    read(directory.join(MASTER_FILE), MASTER_BYTES)
}

/// Makes the master key; the caller holds the store's lock and knows that nothing was sealed yet.
pub(crate) fn make_master(directory: &Path) -> Result<SecretBytes, KeyError> {
    let file = directory.join(MASTER_FILE);
    let mut key = Zeroizing::new(vec![0; MASTER_BYTES]);
    aws_lc_rs::rand::fill(&mut key).map_err(|_| KeyError::Broken { file: file.clone() })?;
    replace(&file, &key).map_err(|source| KeyError::System { file, source })?;
    Ok(Secret::new(std::mem::take(&mut *key)))
}

/// The perimeter's key pair, made at its first use; the caller holds the store's lock.
pub(crate) fn perimeter(directory: &Path) -> Result<PerimeterPair, KeyError> {
    let file = directory.join(PERIMETER_FILE);
    let broken = || KeyError::Broken { file: file.clone() };
    let private = match read(file.clone(), PERIMETER_BYTES)? {
        Some(seed) => seed,
        None => {
            if let Some(traces) = traces(directory) {
                return Err(KeyError::Missing { file, traces });
            }
            let key = PrivateKey::generate(&X25519).map_err(|_| broken())?;
            let seed: Curve25519SeedBin<'_> = key.as_be_bytes().map_err(|_| broken())?;
            replace(&file, seed.as_ref()).map_err(|source| KeyError::System { file: file.clone(), source })?;
            Secret::new(seed.as_ref().to_vec())
        }
    };
    let key = PrivateKey::from_private_key(&X25519, expose(&private)).map_err(|_| broken())?;
    let public = key.compute_public_key().map_err(|_| broken())?;
    let public = PerimeterPublicKey::from_bytes(public.as_ref()).map_err(|_| broken())?;
    let told = directory.join(PERIMETER_PUBLIC_FILE);
    if !told.exists() {
        replace(&told, format!("{public}\n").as_bytes()).map_err(|source| KeyError::System { file: told, source })?;
    }
    Ok(PerimeterPair { private, public })
}

/// What is written after a key was made, and so says that there was one.
fn traces(directory: &Path) -> Option<PathBuf> {
    [PERIMETER_PUBLIC_FILE, renewals::FILE].map(|name| directory.join(name)).into_iter().find(|file| file.exists())
}

/// Puts a small file of mode 0600 in place whole: written beside, synced, renamed, and the directory synced.
pub(crate) fn replace(file: &Path, bytes: &[u8]) -> io::Result<()> {
    let directory = file.parent().unwrap_or(Path::new("."));
    let name = file.file_name().and_then(|name| name.to_str()).unwrap_or("file");
    let temporary = directory.join(format!(".{name}.new"));
    match std::fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut new = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
    new.write_all(bytes)?;
    new.sync_all()?;
    std::fs::rename(&temporary, file)?;
    File::open(directory)?.sync_all()
}

fn read(file: PathBuf, length: usize) -> Result<Option<SecretBytes>, KeyError> {
    let mut opened = match File::open(&file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(KeyError::System { file, source }),
    };
    let system = |source| KeyError::System { file: file.clone(), source };
    if opened.metadata().map_err(system)?.permissions().mode() & 0o077 != 0 {
        return Err(KeyError::Exposed { file });
    }
    let mut key = Zeroizing::new(vec![0; length]);
    let whole = opened.read_exact(&mut key).and_then(|()| opened.read(&mut [0]));
    match whole {
        Ok(0) => Ok(Some(Secret::new(std::mem::take(&mut *key)))),
        Ok(_) => Err(KeyError::Broken { file }),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Err(KeyError::Broken { file }),
        Err(source) => Err(KeyError::System { file, source }),
    }
}

#[expect(clippy::disallowed_methods, reason = "the key pair is computed from its private bytes")]
fn expose(seed: &SecretBytes) -> &[u8] {
    seed.expose()
}

const MASTER_FILE: &str = "master.key";
const MASTER_BYTES: usize = 32;
const PERIMETER_FILE: &str = "perimeter.key";
/// Its public half.
const PERIMETER_PUBLIC_FILE: &str = "perimeter.pub";
const PERIMETER_BYTES: usize = 32;
