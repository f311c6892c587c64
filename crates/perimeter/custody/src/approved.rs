//! The perimeters to which this one passes on what is sealed to it. The operator of this machine approves each by its public key; whoever asks over the control
//! stream approves nothing.

use std::io;
use std::path::{Path, PathBuf};

use postern_secret::seal::PerimeterPublicKey;

use crate::keys;

/// The list, in custody's directory. Read anew at each question.
#[derive(Clone, Debug)]
pub struct Approved {
    file: PathBuf,
}

impl Approved {
    /// Of this custody.
    #[must_use]
    pub fn at(directory: &Path) -> Self {
        Self { file: directory.join(FILE) }
    }

    /// Approves a key. A second time changes nothing.
    ///
    /// # Errors
    /// The file cannot be read or written, or more than [`MOST`] are approved.
    pub fn add(&self, key: &PerimeterPublicKey) -> io::Result<()> {
        let mut keys = self.keys()?;
        if keys.contains(key) {
            return Ok(());
        }
        if keys.len() >= MOST {
            return Err(io::Error::new(
                io::ErrorKind::QuotaExceeded,
                format!("at most {MOST} perimeters are approved"),
            ));
        }
        keys.push(key.clone());
        self.write(&keys)
    }

    /// Takes an approval back; what was passed on stays where it is. Answers whether there was one.
    ///
    /// # Errors
    /// The file cannot be read or written.
    pub fn remove(&self, key: &PerimeterPublicKey) -> io::Result<bool> {
        let mut keys = self.keys()?;
        let before = keys.len();
        keys.retain(|one| one != key);
        if keys.len() == before {
            return Ok(false);
        }
        self.write(&keys).map(|()| true)
    }

    /// The keys approved.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn keys(&self) -> io::Result<Vec<PerimeterPublicKey>> {
        match std::fs::read(&self.file) {
            Ok(bytes) => Ok(serde_json::from_slice(&bytes)?),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }

    fn write(&self, approved: &[PerimeterPublicKey]) -> io::Result<()> {
        keys::replace(&self.file, &serde_json::to_vec(approved)?)
    }
}

/// Perimeters approved at most.
pub const MOST: usize = 32;
const FILE: &str = "approved.json";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approval_is_kept_once_and_can_be_taken_back() {
        let directory = tempfile::tempdir().unwrap();
        let approved = Approved::at(directory.path());
        let key = keys::perimeter(directory.path()).unwrap().public;
        assert_eq!(approved.keys().unwrap(), []);
        approved.add(&key).unwrap();
        approved.add(&key).unwrap();
        assert_eq!(Approved::at(directory.path()).keys().unwrap(), std::slice::from_ref(&key));
        assert!(approved.remove(&key).unwrap());
        assert!(!approved.remove(&key).unwrap());
        std::fs::write(directory.path().join(FILE), "damaged").unwrap();
        assert!(approved.keys().is_err() && approved.add(&key).is_err(), "a damaged list approves nobody");
    }
}
