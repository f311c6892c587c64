//! Connections to servers that a user named: over TLS, to a public address or one that the operator allows, looked at anew
//! each time a connection is made.

use std::sync::{Arc, OnceLock};

use http::HeaderValue;
use ipnet::IpNet;
use postern_net::dial::DialError;
use postern_net::tls::TlsError;
use postern_net::{Connect, Connecting, Dialer, Duplex, HttpClient, TlsRoots, tls};
use postern_policy::{Endpoint, PublicPermit};
use rustls::ClientConfig;

/// Which servers may be dialled, and whose word on their certificates counts.
#[derive(Debug, Default)]
pub struct Public {
    /// Special address ranges that the operator allows all the same.
    pub allowed: Vec<IpNet>,
    /// Whose signature on a server's certificate counts.
    pub roots: TlsRoots,
    /// What dials.
    pub dialer: Dialer,
    tls: OnceLock<Arc<ClientConfig>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoConnection {
    /// The name has no address that may be dialled, or nobody answers there.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// The server could not prove who it is.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

impl Public {
    /// Servers at public addresses and in these ranges, trusted by these roots.
    #[must_use]
    pub fn new(allowed: Vec<IpNet>, roots: TlsRoots) -> Self {
        Self { allowed, roots, ..Self::default() }
    }

    /// A client of one server, which keeps no connection. Nothing is dialled yet.
    ///
    /// # Errors
    /// The endpoint is not https; or there are no certificates to trust.
    pub(crate) fn client(&self, endpoint: &Endpoint) -> Result<HttpClient, NoClient> {
        let permit = postern_policy::public_server(endpoint, &self.allowed).map_err(|_| NoClient::Insecure)?;
        let authority = endpoint.host.authority(endpoint.scheme, endpoint.port);
        let header = HeaderValue::try_from(authority.as_str()).map_err(|_| NoClient::Insecure)?;
        let connect = Dialled { permit, dialer: self.dialer.clone(), tls: self.tls()? };
        Ok(HttpClient::made_by(Arc::new(connect), authority, header, 0, std::time::Duration::ZERO))
    }

    fn tls(&self) -> Result<Arc<ClientConfig>, TlsError> {
        if let Some(tls) = self.tls.get() {
            return Ok(Arc::clone(tls));
        }
        let tls = tls::client_config(&self.roots, &[b"http/1.1"])?;
        Ok(Arc::clone(self.tls.get_or_init(|| tls)))
    }
}

/// Why there is no client.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NoClient {
    /// Not https, or no host.
    #[error("the URL must begin with https:// and name a host")]
    Insecure,
    /// No certificates to trust.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

struct Dialled {
    permit: PublicPermit,
    dialer: Dialer,
    tls: Arc<ClientConfig>,
}

impl Connect for Dialled {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move { Ok(self.made().await?) })
    }
}

impl Dialled {
    async fn made(&self) -> Result<Box<dyn Duplex>, NoConnection> {
        let host = self.permit.endpoint().host.to_string();
        let stream = self.dialer.reach(&self.permit).await?;
        Ok(Box::new(tls::connect(Arc::clone(&self.tls), &host, stream).await?))
    }
}
