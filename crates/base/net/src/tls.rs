//! TLS towards upstreams: whom we trust, and the handshake. Nothing that ships can skip verification.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
pub use tokio_rustls::client::TlsStream;

use crate::limits;

postern_danger::only_with_switches! {
    mod danger;
}

/// Whose signature on an upstream's certificate counts.
#[derive(Debug, Clone, Default)]
pub enum TlsRoots {
    /// The operating system's list.
    #[default]
    Platform,
    /// The operating system's list and these.
    PlatformAnd(Vec<CertificateDer<'static>>),
    /// These alone.
    Only(Vec<CertificateDer<'static>>),
}

/// Why a TLS connection, or what it needs, did not come about.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// A certificate file is missing or unreadable.
    #[error("read certificates from {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// A certificate file has no certificate, or a broken one.
    #[error("no usable PEM certificate in {what}")]
    NoCertificate {
        /// The file, or where else the text came from.
        what: String,
    },
    /// The operating system's list is empty.
    #[error("the system has no trusted certificates: install ca-certificates or name a ca_file")]
    NoPlatformRoots,
    /// The library refused the settings.
    #[error("set up TLS")]
    Setup(#[source] rustls::Error),
    /// The name is neither a DNS name nor an address.
    #[error("{0} cannot be verified as a TLS server name")]
    Name(String),
    /// The peer's certificate or its behaviour was refused.
    #[error("TLS handshake with {name}")]
    Handshake {
        /// The name that was to be proven.
        name: String,
        /// The cause.
        source: io::Error,
    },
    /// The peer took too long.
    #[error("TLS handshake with {0} took longer than {limit:?}", limit = limits::HANDSHAKE)]
    Slow(String),
}

impl TlsRoots {
    /// The certificates of PEM text alone.
    ///
    /// # Errors
    /// There is none, or a broken one.
    pub fn only_pem(pem: &[u8]) -> Result<Self, TlsError> {
        Ok(Self::Only(certificates(pem, "the given text")?))
    }

    /// The certificates of a PEM file alone. Blocks on the file.
    ///
    /// # Errors
    /// The file is unreadable, too large, or holds no usable certificate.
    pub fn only_file(path: &Path) -> Result<Self, TlsError> {
        Ok(Self::Only(read_certificates(path)?))
    }

    /// The operating system's list, and a PEM file where one is given. Blocks on the file.
    ///
    /// # Errors
    /// The file is unreadable, too large, or holds no usable certificate.
    pub fn platform_and_file(path: Option<&Path>) -> Result<Self, TlsError> {
        path.map_or(Ok(Self::Platform), |path| Ok(Self::PlatformAnd(read_certificates(path)?)))
    }

    fn store(&self) -> Result<RootCertStore, TlsError> {
        let mut store = RootCertStore::empty();
        if !matches!(self, Self::Only(_)) {
            store.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
        match self {
            Self::Platform if store.is_empty() => return Err(TlsError::NoPlatformRoots),
            Self::Platform => {}
            Self::PlatformAnd(certificates) | Self::Only(certificates) => {
                for certificate in certificates {
                    store.add(certificate.clone()).map_err(TlsError::Setup)?;
                }
            }
        }
        Ok(store)
    }
}

/// Settings of TLS clients that trust `roots` and offer `alpn` (such as `http/1.1`). Blocks on the system's list:
/// make one and keep it.
///
/// # Errors
/// There is nobody to trust.
pub fn client_config(roots: &TlsRoots, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    with_versions(roots, alpn, rustls::DEFAULT_VERSIONS)
}

/// As [`client_config`], for peers that are ours: TLS 1.3 alone.
///
/// # Errors
/// There is nobody to trust.
pub fn client_config_tls13(roots: &TlsRoots, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    with_versions(roots, alpn, &[&rustls::version::TLS13])
}

fn with_versions(
    roots: &TlsRoots,
    alpn: &[&[u8]],
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(TlsError::Setup)?
        .with_root_certificates(roots.store()?)
        .with_no_client_auth();
    postern_danger::when_off!("upstream-identity", { danger::believe(&mut config) });
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
    Ok(Arc::new(config))
}

/// The handshake over a dialled or carried stream; `name` is what the peer must prove, a DNS name or an address (an IPv6
/// address with or without brackets).
///
/// # Errors
/// The peer is not who it must be, speaks no TLS, or is too slow.
pub async fn connect<S>(config: Arc<ClientConfig>, name: &str, stream: S) -> Result<TlsStream<S>, TlsError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let server_name = server_name(name)?;
    let handshake = TlsConnector::from(config).connect(server_name, stream);
    match tokio::time::timeout(limits::HANDSHAKE, handshake).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(source)) => Err(TlsError::Handshake { name: name.to_owned(), source }),
        Err(_) => Err(TlsError::Slow(name.to_owned())),
    }
}

fn server_name(name: &str) -> Result<ServerName<'static>, TlsError> {
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    ServerName::try_from(bare.to_owned()).map_err(|_| TlsError::Name(name.to_owned()))
}

fn read_certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let read = || {
        let length = std::fs::metadata(path)?.len();
        if length > limits::CERTIFICATE_FILE_BYTES {
            return Err(io::Error::other("the file is too large to be a list of certificates"));
        }
        std::fs::read(path)
    };
    let pem = read().map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    certificates(&pem, &path.display().to_string())
}

fn certificates(pem: &[u8], what: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let parsed: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match parsed {
        Ok(certificates) if !certificates.is_empty() => Ok(certificates),
        _ => Err(TlsError::NoCertificate { what: what.to_owned() }),
    }
}
