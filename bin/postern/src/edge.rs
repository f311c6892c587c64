//! The edge's role, and its TLS: a certificate that `up` makes for loopback, or the operator's files.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use postern_exec::role::First;

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs::default_provider;
use rustls_pki_types::pem::{self, PemObject};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

use crate::data::Data;
use crate::failure::{Failure, Or, chain as chain_of};
use crate::{listening, secret_file};

/// What `up`'s edge is called in its certificate.
const NAMES: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

const SWAPPED: &str = "`tls` is { cert, key }, each a PEM file: see that they are not swapped";

/// The first frame to the role; its listening socket comes with it.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Configuration {
    /// The chain of the outer TLS.
    pub(crate) certificate: PathBuf,
    /// The key of that.
    pub(crate) key: PathBuf,
}

/// The role: says whether it can serve, then serves for the server to whom the other end of its channel was handed, until that closes.
pub(crate) async fn main(first: First<Configuration>) -> ExitCode {
    let (configuration, sockets, mut channel) = match first.into_parts() {
        Ok(parts) => parts,
        Err(error) => return refuse(&error.to_string()),
    };
    let ready = prepared(&configuration, sockets);
    let word = ready.as_ref().map(|_| ()).map_err(ToString::to_string);
    if channel.send(&word, &[]).await.is_err() {
        return ExitCode::FAILURE;
    }
    match ready {
        Ok((listener, tls)) => match postern_edge::serve_process(channel, listener, tls).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refuse(&error.to_string()),
        },
        Err(failure) => refuse(&failure.to_string()),
    }
}

fn prepared(configuration: &Configuration, sockets: Vec<OwnedFd>) -> Result<(TcpListener, Arc<ServerConfig>), Failure> {
    let socket = sockets.into_iter().next();
    let socket = socket.ok_or_else(|| Failure::Misused("the edge expects its listening socket".into()))?;
    Ok((listening::taken(socket)?, tls(&configuration.certificate, &configuration.key, &[b"http/1.1"])?))
}

fn refuse(why: &str) -> ExitCode {
    tracing::error!(why, "the edge does not serve");
    ExitCode::from(2)
}

/// The directory of a self-made edge certificate: `ca.pem` for connectors, `cert.pem` and `key.pem` for the edge.
///
/// # Errors
/// The files cannot be made.
pub(crate) fn own_certificate(directory: &Path) -> Result<(), Failure> {
    if directory.join("key.pem").exists() {
        return Ok(());
    }
    Data::make_private(directory)?;
    let (ca, certificate, key) = issue().or_misused("make the edge's certificate")?;
    for (name, text) in [("ca.pem", ca), ("cert.pem", certificate), ("key.pem", key)] {
        let path = directory.join(name);
        Data::write_private(&path, &text).or_misused(&format!("write {}", path.display()))?;
    }
    Ok(())
}

/// CA, certificate and key, PEM. The CA's key is dropped: nothing else is ever signed by it.
fn issue() -> Result<(String, String, String), rcgen::Error> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::<String>::new())?;
    ca.distinguished_name.push(DnType::CommonName, "postern edge");
    ca.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    ca.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let ca_certificate = ca.self_signed(&ca_key)?;
    let key = KeyPair::generate()?;
    let mut leaf = CertificateParams::new(NAMES.map(str::to_owned))?;
    leaf.distinguished_name.push(DnType::CommonName, "postern edge");
    let certificate = leaf.signed_by(&key, &Issuer::new(ca, ca_key))?;
    Ok((ca_certificate.pem(), certificate.pem(), key.serialize_pem()))
}

/// TLS 1.3 with a certificate chain and key from files.
///
/// # Errors
/// They cannot be read, or do not fit.
pub(crate) fn tls(certificate: &Path, key: &Path, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, Failure> {
    let doing = |path: &Path| format!("read {}", path.display());
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(&fs::read(certificate).or_misused(&doing(certificate))?)
            .collect::<Result<_, _>>()
            .or_misused(&doing(certificate))?;
    if chain.is_empty() {
        return Err(Failure::Misused(format!("{} holds no certificate; {SWAPPED}", certificate.display())));
    }
    let key = PrivateKeyDer::from_pem_slice(&secret_file::bytes(key)?).map_err(|error| match error {
        pem::Error::NoItemsFound => Failure::Misused(format!("{} holds no private key; {SWAPPED}", key.display())),
        other => Failure::Misused(chain_of(&doing(key), &other)),
    })?;
    let versions = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .or_misused("prepare TLS")?;
    let mut config = versions.with_no_client_auth().with_single_cert(chain, key).or_misused("use the certificate")?;
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_made_certificate_is_usable_and_made_once() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("edge");
        own_certificate(&directory).unwrap();
        let key = fs::read_to_string(directory.join("key.pem")).unwrap();
        own_certificate(&directory).unwrap();
        assert_eq!(fs::read_to_string(directory.join("key.pem")).unwrap(), key);
        tls(&directory.join("cert.pem"), &directory.join("key.pem"), &[b"http/1.1"]).unwrap();
        assert!(tls(&directory.join("ca.pem"), &directory.join("key.pem"), &[]).is_err());
    }

    #[test]
    fn a_certificate_and_a_key_in_each_others_place_are_named() {
        let place = tempfile::tempdir().unwrap();
        let directory = place.path().join("edge");
        own_certificate(&directory).unwrap();
        let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.join(name));
        for (certificate, private, said) in [
            (&key, &cert, "key.pem holds no certificate"),
            (&cert, &cert, "cert.pem holds no private key"),
            (&key, &key, "key.pem holds no certificate"),
        ] {
            let refused = tls(certificate, private, &[]).unwrap_err().to_string();
            assert!(refused.contains(said) && refused.contains("swapped"), "{refused}");
        }
    }
}
