//! The encrypted local store: named secrets in one file, each sealed by AES-256-GCM under the master key with its name and generation bound in, so that
//! ciphertext moved to another row does not open. Written whole under a lock; read without one. For `postern secrets` and for custody itself.

mod opened;
mod sealed;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use postern_secret::seal::PerimeterPublicKey;
use postern_secret::{SecretBytes, Weak, admit};
use rustix::fs::{FlockOperation, flock};

use crate::kept::Watched;
use crate::keys::{self, KeyError, PerimeterPair};
use opened::Opened;
use sealed::{Contents, Row};

/// The store of one custody directory. Holds no stored secret in the clear and no lock between calls; what it has read is read again once the files are
/// others. Clones share it.
#[derive(Clone, Debug)]
pub struct Store {
    directory: PathBuf,
    opened: Arc<Opened>,
}

/// What is known of a stored secret without opening it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its name, as in `source = "store:NAME"`.
    pub name: String,
    /// The store's generation when it was set; grows with every change.
    pub generation: u64,
    /// Whether it was admitted although it is weak.
    pub danger_short: bool,
}

/// Whether there was something to remove.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It was there and is gone.
    Gone,
    /// There was none of that name.
    Absent,
}

/// Why the store did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not a name.
    #[error("{name:?} is not a secret's name: 1 to 128 letters, digits, `.`, `_` and `-`")]
    Name {
        /// What was given.
        name: String,
    },
    /// The value is too weak.
    #[error("the value is not accepted: {0}")]
    Weak(#[from] Weak),
    /// A row does not open: its bytes, name or generation were edited, or it belongs to another row or key.
    #[error("the stored secret {name} was changed outside of postern and does not open; set it again, and find out who wrote to {}", file.display())]
    RowChanged {
        /// The row's name.
        name: String,
        /// The store's file.
        file: PathBuf,
    },
    /// The file is not a store.
    #[error("{} is not a store of this version; restore it", file.display())]
    Unreadable {
        /// The store's file.
        file: PathBuf,
    },
    /// Secrets are stored and their master key is gone.
    #[error("{} holds secrets and their master key is missing; restore master.key, or remove the file and set the secrets again", file.display())]
    KeyMissing {
        /// The store's file.
        file: PathBuf,
    },
    /// A key cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The system refused something.
    #[error("use the store in {}", directory.display())]
    System {
        /// The custody directory.
        directory: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl Store {
    /// Opens the store of this directory; makes the directory (0700), the master key and the perimeter's key pair at the first start.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let store = Self::at(directory);
        store.prepare()?;
        Ok(store)
    }

    /// The store of this directory; touches nothing.
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned(), opened: Arc::default() }
    }

    /// Makes what is missing of the directory and its keys.
    pub(crate) fn prepare(&self) -> Result<(), StoreError> {
        let directory = &self.directory;
        DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(|source| self.system(source))?;
        let _lock = self.lock()?;
        if keys::master(directory)?.is_none() {
            if !self.contents()?.rows.is_empty() {
                return Err(StoreError::KeyMissing { file: self.file() });
            }
            keys::make_master(directory)?;
        }
        keys::perimeter(directory)?;
        Ok(())
    }

    /// Stores a secret, replacing one of the same name; answers the store's new generation. Sessions opened from now on use it.
    ///
    /// # Errors
    /// [`StoreError`]; the store is unchanged then.
    pub fn set(&self, name: &str, value: Vec<u8>, danger_short: bool) -> Result<u64, StoreError> {
        let value = admit(value, danger_short)?;
        check_name(name)?;
        let _lock = self.lock()?;
        let mut contents = self.contents()?;
        contents.generation += 1;
        let row = Row::seal(&self.master()?, name, contents.generation, danger_short, &value);
        contents.rows.insert(name.to_owned(), row);
        self.write(&contents)?;
        Ok(contents.generation)
    }

    /// Removes a secret. Sessions that are open keep theirs until they end.
    ///
    /// # Errors
    /// [`StoreError`]; the store is unchanged then.
    pub fn remove(&self, name: &str) -> Result<Removed, StoreError> {
        let _lock = self.lock()?;
        let mut contents = self.contents()?;
        if contents.rows.remove(name).is_none() {
            return Ok(Removed::Absent);
        }
        contents.generation += 1;
        self.write(&contents)?;
        Ok(Removed::Gone)
    }

    /// The stored names, in order; opens nothing.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let rows = self.contents()?.rows.into_iter();
        Ok(rows
            .map(|(name, row)| Listed { name, generation: row.generation, danger_short: row.danger_short })
            .collect())
    }

    /// Grows with every change.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn generation(&self) -> Result<u64, StoreError> {
        Ok(self.contents()?.generation)
    }

    /// The perimeter's public key, to which others seal.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn perimeter_public_key(&self) -> Result<PerimeterPublicKey, StoreError> {
        Ok(self.perimeter()?.public)
    }

    /// The perimeter's key pair, for opening what others sealed.
    pub(crate) fn perimeter(&self) -> Result<PerimeterPair, StoreError> {
        let _lock = self.lock()?;
        Ok(keys::perimeter(&self.directory)?)
    }

    /// What protects less than it could.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        vec![format!(
            "custody keys are bare files in {}: whoever reads them opens the local store",
            self.directory.display()
        )]
    }

    /// Opens one secret, as it stands now; whether it was admitted although weak comes with it.
    pub(crate) fn read(&self, name: &str) -> Result<Option<(SecretBytes, bool)>, StoreError> {
        let contents = self.opened.contents(&self.file(), || self.contents()).map_err(|error| match error {
            opened::Failed::Look(source) => self.system(source),
            opened::Failed::Read(error) => error,
        })?;
        let Some(row) = contents.rows.get(name) else { return Ok(None) };
        let value = row.open(&self.master()?, name);
        let value = value.ok_or_else(|| StoreError::RowChanged { name: name.to_owned(), file: self.file() })?;
        Ok(Some((value, row.danger_short)))
    }

    /// The store's file as it is now, to notice any change of it.
    pub(crate) fn watched(&self) -> io::Result<Watched> {
        Watched::file(&self.file())
    }

    fn master(&self) -> Result<SecretBytes, StoreError> {
        keys::master(&self.directory)?.ok_or_else(|| StoreError::KeyMissing { file: self.file() })
    }

    fn contents(&self) -> Result<Contents, StoreError> {
        match std::fs::read(self.file()) {
            Ok(bytes) => Contents::parse(&bytes).ok_or_else(|| StoreError::Unreadable { file: self.file() }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Contents::default()),
            Err(source) => Err(self.system(source)),
        }
    }

    fn write(&self, contents: &Contents) -> Result<(), StoreError> {
        keys::replace(&self.file(), &contents.bytes()).map_err(|source| self.system(source))
    }

    fn lock(&self) -> Result<File, StoreError> {
        let path = self.directory.join(LOCK_FILE);
        let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path);
        let file = file.map_err(|source| self.system(source))?;
        flock(&file, FlockOperation::LockExclusive).map_err(|errno| self.system(errno.into()))?;
        Ok(file)
    }

    fn file(&self) -> PathBuf {
        self.directory.join(STORE_FILE)
    }

    fn system(&self, source: io::Error) -> StoreError {
        StoreError::System { directory: self.directory.clone(), source }
    }
}

fn check_name(name: &str) -> Result<(), StoreError> {
    let fits = (1..=128).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte));
    if fits { Ok(()) } else { Err(StoreError::Name { name: name.chars().take(128).collect() }) }
}

const STORE_FILE: &str = "store.json";
const LOCK_FILE: &str = "store.lock";

#[cfg(test)]
mod tests;
