//! The gateway's end of the inner TLS: TLS 1.3 alone, with the leaf in the tls directory. The files are looked at each
//! second; a new pair serves connections from then on, those that stand are left alone. A bad pair changes nothing.

use std::{
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::SystemTime,
};

use rustls::ServerConfig;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use zeroize::Zeroizing;

use crate::limits;

/// The leaf as it is used now.
pub(crate) struct Leaf {
    certificate: PathBuf,
    key: PathBuf,
    current: RwLock<Current>,
}

struct Current {
    settings: Arc<ServerConfig>,
    pem: Arc<str>,
    seen: Seen,
}

/// What tells one pair of files from the next.
type Seen = [Option<(SystemTime, u64)>; 2];

/// The leaf cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LeafError {
    /// A file cannot be read.
    #[error("read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A file holds no PEM of its kind.
    #[error("{} holds no PEM of a {what}", path.display())]
    Pem {
        /// Which.
        path: PathBuf,
        /// `certificate` or `private key`.
        what: &'static str,
    },
    /// Certificate and key do not belong together, or are of a kind that is not used.
    #[error("use the leaf with its key")]
    Use(#[source] rustls::Error),
}

impl Leaf {
    /// Reads `leaf.pem` and `leaf.key`.
    pub(crate) fn open(directory: &Path) -> Result<Self, LeafError> {
        let (certificate, key) = (directory.join("leaf.pem"), directory.join("leaf.key"));
        let current = RwLock::new(load(&certificate, &key)?);
        Ok(Self { certificate, key, current })
    }

    /// For the next connection.
    pub(crate) fn settings(&self) -> Arc<ServerConfig> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).settings.clone()
    }

    /// Whole days until the leaf expires; negative after.
    pub(crate) fn days_left(&self) -> Option<i64> {
        let pem = self.current.read().unwrap_or_else(PoisonError::into_inner).pem.clone();
        postern_tunnel::certificate::days_left(&pem, SystemTime::now()).ok()
    }

    /// Looks at the files; whether there was a new pair. After an error it is tried again at the next look. Blocks on
    /// the files.
    pub(crate) fn look(&self) -> Result<bool, LeafError> {
        let seen = [state(&self.certificate), state(&self.key)];
        if self.current.read().unwrap_or_else(PoisonError::into_inner).seen == seen {
            return Ok(false);
        }
        let loaded = load(&self.certificate, &self.key)?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }
}

fn load(certificate: &Path, key: &Path) -> Result<Current, LeafError> {
    // Looked at before they are read: a pair that is replaced meanwhile is read again.
    let seen = [state(certificate), state(key)];
    let pem = read(certificate)?;
    let no_pem = |path: &Path, what| LeafError::Pem { path: path.to_owned(), what };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|_| no_pem(certificate, "certificate"))?;
    let private = PrivateKeyDer::from_pem_slice(read_key(key)?.as_bytes()).map_err(|_| no_pem(key, "private key"))?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut settings = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(LeafError::Use)?
        .with_no_client_auth()
        .with_single_cert(chain, private)
        .map_err(LeafError::Use)?;
    settings.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Early data could be replayed to this process and to another one.
    settings.max_early_data_size = 0;
    Ok(Current { settings: Arc::new(settings), pem: pem.as_str().into(), seen })
}

fn read(path: &Path) -> Result<Zeroizing<String>, LeafError> {
    File::open(path).and_then(whole).map_err(|source| LeafError::Read { path: path.to_owned(), source })
}

/// The same, of a file that keeps others out.
fn read_key(path: &Path) -> Result<Zeroizing<String>, LeafError> {
    let opened = File::open(path).and_then(|file| postern_secret::guarded(&file, path).map(|()| file));
    opened.and_then(whole).map_err(|source| LeafError::Read { path: path.to_owned(), source })
}

fn whole(file: File) -> io::Result<Zeroizing<String>> {
    let mut text = Zeroizing::new(String::new());
    file.take(limits::PEM_BYTES).read_to_string(&mut text)?;
    Ok(text)
}

fn state(path: &Path) -> Option<(SystemTime, u64)> {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

#[cfg(test)]
mod tests {
    use postern_tunnel::certificate;

    use super::*;

    #[test]
    fn a_leaf_that_is_too_long_is_not_used_and_the_former_stays() {
        let directory = tempfile::tempdir().unwrap();
        let ca = certificate::new_ca("t1.tunnel.localhost", SystemTime::now()).unwrap();
        crate::tests::write_leaf(directory.path(), &ca);
        let leaf = Leaf::open(directory.path()).unwrap();
        let (file, former) = (directory.path().join("leaf.pem"), leaf.settings());
        let certificate = std::fs::read_to_string(&file).unwrap();
        let padded = |bytes: u64| format!("{}\n{certificate}", "#".repeat(usize::try_from(bytes).unwrap()));
        std::fs::write(&file, padded(limits::PEM_BYTES)).unwrap();
        assert!(leaf.look().is_err());
        assert!(Arc::ptr_eq(&former, &leaf.settings()));
        std::fs::write(&file, padded(limits::PEM_BYTES / 2)).unwrap();
        assert!(leaf.look().unwrap());
    }

    #[test]
    fn a_leafs_key_that_others_can_read_is_not_used() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let ca = certificate::new_ca("t1.tunnel.localhost", SystemTime::now()).unwrap();
        crate::tests::write_leaf(directory.path(), &ca);
        let key = directory.path().join("leaf.key");
        for (mode, is_used) in [(0o600, true), (0o440, true), (0o644, false), (0o660, false)] {
            std::fs::set_permissions(&key, std::fs::Permissions::from_mode(mode)).unwrap();
            match Leaf::open(directory.path()) {
                Ok(_) => assert!(is_used, "{mode:o}"),
                Err(error) => {
                    let why = std::error::Error::source(&error).unwrap().to_string();
                    assert!(!is_used && why.contains("chmod 600"), "{mode:o}: {why}");
                }
            }
        }
    }
}
