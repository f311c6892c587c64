//! Connections to the hosts of MCP servers: inner TLS over carried streams for those behind a tunnel, dialled TLS for
//! public ones. A tunnel's pool lives as long as its set of certificates; every request asks for it anew, so a
//! connection that was verified by a certificate since archived takes no further request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use http::HeaderValue;
use ipnet::IpNet;
use postern_net::{Connect, Connecting, Dialer, Duplex, HttpClient, TlsRoots, tls};
use postern_tunnel::certificate;
use postern_tunnel::{Carry, Lane};
use rustls::ClientConfig;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::{of_dial, of_inner_tls, of_public_tls};
use super::target::Target;
use super::{Limits, McpFailure, TunnelFacts, Tunnels};

/// Which public servers may be dialled, and whose word on their certificates counts.
#[derive(Clone, Debug, Default)]
pub struct PublicPolicy {
    /// Private address ranges that the operator allows all the same.
    pub allowed: Vec<IpNet>,
    /// Whose signature on a server's certificate counts.
    pub roots: TlsRoots,
    /// What dials.
    pub dialer: Dialer,
}

/// How a server is reached. Decided once per session with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Via {
    Tunnel,
    Public,
}

/// Makes and keeps connections.
pub(super) struct Reach {
    carry: Arc<dyn Carry>,
    tunnels: Arc<dyn Tunnels>,
    public: PublicPolicy,
    public_tls: OnceLock<Arc<ClientConfig>>,
    pub(super) limits: Limits,
    pools: Mutex<HashMap<String, Pool>>,
}

/// The connections of one tunnel, or of all public servers.
struct Pool {
    fingerprints: Vec<String>,
    tls: Arc<ClientConfig>,
    hosts: HashMap<String, HostPool>,
}

#[derive(Clone)]
struct HostPool {
    interactive: HttpClient,
    bulk: HttpClient,
    places: Arc<Semaphore>,
}

/// The name of the public servers' pool: no tunnel has an empty id.
const PUBLIC: &str = "";

/// How long the steps of making a connection took.
#[derive(Debug, Default)]
pub(super) struct ConnectTimes {
    pub(super) edge: OnceLock<Duration>,
    pub(super) inner_tls: OnceLock<Duration>,
}

impl Reach {
    pub(super) fn new(carry: Arc<dyn Carry>, tunnels: Arc<dyn Tunnels>, public: PublicPolicy, limits: Limits) -> Self {
        Self { carry, tunnels, public, public_tls: OnceLock::new(), limits, pools: Mutex::default() }
    }

    pub(super) fn via(&self, target: &Target) -> Via {
        if self.tunnels.is_tunnel_host(&target.host) { Via::Tunnel } else { Via::Public }
    }

    /// The tunnel of a host and that it may be used: it is active and has certificates.
    pub(super) fn tunnel(&self, target: &Target) -> Result<TunnelFacts, McpFailure> {
        if target.port != 443 {
            return Err(McpFailure::bad_url("a host behind a tunnel has no other port than 443"));
        }
        let tunnel = self.tunnels.tunnel_of(&target.host).ok_or_else(|| McpFailure::unknown_tunnel(&target.host))?;
        if tunnel.cas.is_empty() {
            return Err(McpFailure::no_certificate(&tunnel.id));
        }
        Ok(tunnel)
    }

    /// The tunnel of a host, where it belongs to this workspace; another's is as unknown as none.
    pub(super) fn tunnel_for(&self, workspace: &str, target: &Target) -> Result<TunnelFacts, McpFailure> {
        let tunnel = self.tunnel(target)?;
        if tunnel.workspace == workspace { Ok(tunnel) } else { Err(McpFailure::unknown_tunnel(&target.host)) }
    }

    pub(super) fn tunnel_of_route(&self, workspace: &str, url: &str) -> Option<TunnelFacts> {
        self.tunnels.tunnel_of_route(workspace, url)
    }

    /// The client to send one request with, and the place that the request takes while it is in progress.
    pub(super) async fn client(
        &self,
        via: Via,
        target: &Target,
        lane: Lane,
        until: Instant,
    ) -> Result<(HttpClient, OwnedSemaphorePermit), McpFailure> {
        let host = self.host(via, target)?;
        let place = tokio::time::timeout_at(until.into(), Arc::clone(&host.places).acquire_owned()).await;
        match place {
            Ok(Ok(place)) => Ok((if lane == Lane::Bulk { host.bulk } else { host.interactive }, place)),
            _ => Err(McpFailure::busy()),
        }
    }

    /// A client with connections of its own, which says how long it took to make them.
    pub(super) fn own_client(
        &self,
        via: Via,
        target: &Target,
        times: Arc<ConnectTimes>,
    ) -> Result<HttpClient, McpFailure> {
        let (_, _, tls) = self.trust(via, target)?;
        self.made(via, target, Lane::Interactive, tls, Some(times))
    }

    fn host(&self, via: Via, target: &Target) -> Result<HostPool, McpFailure> {
        let (name, fingerprints, tls) = self.trust(via, target)?;
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        if pools.len() >= self.limits.hosts && !pools.contains_key(&name) {
            pools.clear();
        }
        let pool = pools.entry(name).or_insert_with(|| Pool::new(&fingerprints, &tls));
        if pool.fingerprints != fingerprints {
            *pool = Pool::new(&fingerprints, &tls);
        }
        let key = target.authority();
        if let Some(host) = pool.hosts.get(&key) {
            return Ok(host.clone());
        }
        if pool.hosts.len() >= self.limits.hosts {
            pool.hosts.clear();
        }
        let made = |lane| self.made(via, target, lane, Arc::clone(&pool.tls), None);
        let places = Arc::new(Semaphore::new(self.limits.requests_per_host));
        let host = HostPool { interactive: made(Lane::Interactive)?, bulk: made(Lane::Bulk)?, places };
        pool.hosts.insert(key, host.clone());
        Ok(host)
    }

    /// The pool's name, what its connections were verified by, and how to verify new ones.
    fn trust(&self, via: Via, target: &Target) -> Result<(String, Vec<String>, Arc<ClientConfig>), McpFailure> {
        match via {
            Via::Public => Ok((PUBLIC.to_owned(), Vec::new(), self.public_tls()?)),
            Via::Tunnel => {
                let tunnel = self.tunnel(target)?;
                let fingerprints: Vec<String> = tunnel.cas.iter().map(|ca| ca.fingerprint_sha256_hex.clone()).collect();
                let kept = {
                    let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
                    let pool = pools.get(&tunnel.id).filter(|pool| pool.fingerprints == fingerprints);
                    pool.map(|pool| Arc::clone(&pool.tls))
                };
                let tls = match kept {
                    Some(tls) => tls,
                    None => {
                        certificate::client_config(&tunnel.cas).map_err(|_| McpFailure::no_certificate(&tunnel.id))?
                    }
                };
                Ok((tunnel.id, fingerprints, tls))
            }
        }
    }

    /// Ends the use of every pooled connection of a tunnel; requests in progress end by themselves or with the edge.
    pub(super) fn forget(&self, tunnel_id: &str) {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).remove(tunnel_id);
    }

    fn public_tls(&self) -> Result<Arc<ClientConfig>, McpFailure> {
        if let Some(tls) = self.public_tls.get() {
            return Ok(Arc::clone(tls));
        }
        let tls = tls::client_config(&self.public.roots, &[b"http/1.1"]).map_err(|error| {
            McpFailure::new(
                "upstream_untrusted",
                format!("{error}."),
                "Install the system's certificates on the server.",
            )
        })?;
        Ok(Arc::clone(self.public_tls.get_or_init(|| tls)))
    }

    fn made(
        &self,
        via: Via,
        target: &Target,
        lane: Lane,
        tls: Arc<ClientConfig>,
        times: Option<Arc<ConnectTimes>>,
    ) -> Result<HttpClient, McpFailure> {
        let authority = target.authority();
        let header =
            HeaderValue::try_from(authority.as_str()).map_err(|_| McpFailure::bad_url("its host is malformed"))?;
        let connect: Arc<dyn Connect> = match via {
            Via::Tunnel => {
                let (carry, host) = (Arc::clone(&self.carry), target.host.clone());
                Arc::new(Carried { carry, host, lane, tls, times })
            }
            Via::Public => {
                let permit = postern_policy::public_server(&target.endpoint()?, &self.public.allowed)
                    .map_err(|_| McpFailure::bad_url("it must begin with https://"))?;
                Arc::new(Dialled { permit, dialer: self.public.dialer.clone(), host: target.host.clone(), tls })
            }
        };
        Ok(HttpClient::made_by(connect, authority, header, self.limits.idle_connections, self.limits.idle))
    }
}

impl Pool {
    fn new(fingerprints: &[String], tls: &Arc<ClientConfig>) -> Self {
        Self { fingerprints: fingerprints.to_vec(), tls: Arc::clone(tls), hosts: HashMap::new() }
    }
}

/// Makes connections through a tunnel.
struct Carried {
    carry: Arc<dyn Carry>,
    host: String,
    lane: Lane,
    tls: Arc<ClientConfig>,
    times: Option<Arc<ConnectTimes>>,
}

impl Connect for Carried {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move { Ok(self.made().await?) })
    }
}

impl Carried {
    async fn made(&self) -> Result<Box<dyn Duplex>, McpFailure> {
        let begun = Instant::now();
        let stream = self.carry.open(&self.host, self.lane).await?;
        let opened = Instant::now();
        if let Some(times) = &self.times {
            let _ = times.edge.set(opened - begun);
        }
        let stream = tls::connect(Arc::clone(&self.tls), &self.host, stream).await.map_err(|e| of_inner_tls(&e))?;
        if let Some(times) = &self.times {
            let _ = times.inner_tls.set(opened.elapsed());
        }
        Ok(Box::new(stream))
    }
}

/// Makes connections to a public server.
struct Dialled {
    permit: postern_policy::PublicPermit,
    dialer: Dialer,
    host: String,
    tls: Arc<ClientConfig>,
}

impl Connect for Dialled {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move { Ok(self.made().await?) })
    }
}

impl Dialled {
    async fn made(&self) -> Result<Box<dyn Duplex>, McpFailure> {
        let stream = self.dialer.reach(&self.permit).await.map_err(|error| of_dial(&self.host, &error))?;
        let stream = tls::connect(Arc::clone(&self.tls), &self.host, stream)
            .await
            .map_err(|error| of_public_tls(&self.host, &error))?;
        Ok(Box::new(stream))
    }
}
