//! Opening a TCP connection, each time with policy's permit for that very address. Names are looked up here, after
//! the permit and never before. It speaks no protocol over what it opens.

use std::collections::VecDeque;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use postern_policy::{
    ConfiguredPermit, Denial, DialPermit, Host, PassPermit, Permit, PublicPermit, RoutePermit, Target,
};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::limits;

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The resolver failed, or knows no such name.
    #[error("resolve {host}")]
    Resolve {
        /// The name.
        host: String,
        /// The cause.
        source: io::Error,
    },
    /// The resolver took too long.
    #[error("resolving {0} took longer than {limit:?}", limit = limits::RESOLVE)]
    ResolveSlow(String),
    /// The name exists, without an address.
    #[error("{0} has no address")]
    NoAddress(String),
    /// Policy refused every address the name has; this is its word on the last one.
    #[error("no address of {host} may be dialled: {denial:?}")]
    Denied {
        /// The name.
        host: String,
        /// That last address.
        address: IpAddr,
        /// The refusal.
        denial: Box<Denial>,
    },
    /// The peer refused, or the network did.
    #[error("connect to {address}")]
    Connect {
        /// The address that failed last.
        address: SocketAddr,
        /// The cause.
        source: io::Error,
    },
    /// Nobody answered in time.
    #[error("connecting to {0} took too long")]
    ConnectSlow(SocketAddr),
    /// There was no permit to dial.
    #[error("no address to connect to")]
    NoPermit,
}

/// A permit that leads to addresses: each of them is asked about again once it is known.
pub trait Dialable: sealed::Sealed {
    /// How the address is found.
    fn target(&self) -> Target;
    /// Whether this address may be dialled.
    ///
    /// # Errors
    /// Policy refuses the address.
    fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial>;
}

mod sealed {
    pub trait Sealed {}
    impl Sealed for postern_policy::Permit {}
    impl Sealed for postern_policy::PassPermit {}
    impl Sealed for postern_policy::ConfiguredPermit {}
    impl Sealed for postern_policy::RoutePermit {}
    impl Sealed for postern_policy::PublicPermit {}
}

impl Dialable for Permit {
    fn target(&self) -> Target {
        Permit::target(self)
    }

    fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        Permit::dial(self, address)
    }
}

impl Dialable for PassPermit {
    fn target(&self) -> Target {
        PassPermit::target(self)
    }

    fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        PassPermit::dial(self, address)
    }
}

impl Dialable for ConfiguredPermit {
    fn target(&self) -> Target {
        ConfiguredPermit::target(self)
    }

    fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        ConfiguredPermit::dial(self, address)
    }
}

impl Dialable for RoutePermit {
    fn target(&self) -> Target {
        RoutePermit::target(self)
    }

    fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        RoutePermit::dial(self, address)
    }
}

impl Dialable for PublicPermit {
    fn target(&self) -> Target {
        PublicPermit::target(self)
    }

    fn dial(&self, address: IpAddr) -> Result<DialPermit, Denial> {
        PublicPermit::dial(self, address)
    }
}

/// The addresses of a name, or why there are none, when they are known.
pub type LookingUp<'a> = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send + 'a>>;

/// Whoever knows the addresses of names. The system does; no configuration names another. A run of `verify` brings
/// [`crate::Asking`] and a server of its own, and tests bring a liar.
pub trait Resolver: std::fmt::Debug + Send + Sync {
    /// Every address of `host`, in the order in which they should be tried.
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> LookingUp<'a>;
}

/// The operating system's resolver.
#[derive(Debug, Clone, Copy)]
struct System;

impl Resolver for System {
    #[expect(clippy::disallowed_methods, reason = "this is the place where names are looked up, after the permit")]
    fn look_up<'a>(&'a self, host: &'a str, port: u16) -> LookingUp<'a> {
        Box::pin(async move { Ok(tokio::net::lookup_host((host, port)).await?.map(|found| found.ip()).collect()) })
    }
}

/// Opens connections.
#[derive(Debug, Clone)]
pub struct Dialer {
    /// How long one address may take.
    pub connect: Duration,
    /// How long all addresses together may take.
    pub total: Duration,
    /// How long one address may take before the next is tried beside it.
    pub stagger: Duration,
    resolver: Arc<dyn Resolver>,
}

impl Default for Dialer {
    fn default() -> Self {
        Self {
            connect: limits::CONNECT,
            total: limits::CONNECT_TOTAL,
            stagger: limits::CONNECT_STAGGER,
            resolver: Arc::new(System),
        }
    }
}

impl Dialer {
    /// A dialler with the bounds of [`limits`].
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A dialler that asks another resolver, for tests of what a resolver may answer.
    #[must_use]
    pub fn with_resolver(resolver: Arc<dyn Resolver>) -> Self {
        Self { resolver, ..Self::default() }
    }

    /// The addresses that a permit leads to, at most [`limits::ADDRESSES`], in the resolver's order; a fixed address
    /// is not looked up. None of them may be dialled before the permit was asked about it.
    ///
    /// # Errors
    /// The name has no address, or the resolver fails or is too slow.
    pub async fn resolve<P: Dialable>(&self, permit: &P) -> Result<Vec<IpAddr>, DialError> {
        match permit.target() {
            Target::Address(address) => Ok(vec![address.ip()]),
            Target::Resolve(host, port) => self.look_up(&host, port.number()).await,
        }
    }

    /// The addresses a permit leads to and allows. Dialling these permits looks nothing up again.
    ///
    /// # Errors
    /// Nothing resolves, or no address is allowed.
    pub async fn permitted<P: Dialable>(&self, permit: &P) -> Result<Vec<DialPermit>, DialError> {
        let mut allowed = Vec::new();
        let mut refusal = None;
        for address in self.resolve(permit).await? {
            match permit.dial(address) {
                Ok(permit) => allowed.push(permit),
                Err(denial) => refusal = Some((address, denial)),
            }
        }
        match (allowed.is_empty(), refusal) {
            (true, Some((address, denial))) => {
                Err(DialError::Denied { host: describe(&permit.target()), address, denial: Box::new(denial) })
            }
            _ => Ok(allowed),
        }
    }

    /// Connects to the one address of the permit. Cancelling leaves no connection behind.
    ///
    /// # Errors
    /// The peer refuses or does not answer in time.
    pub async fn dial(&self, permit: &DialPermit) -> Result<TcpStream, DialError> {
        connect(permit.address(), self.connect).await
    }

    /// Connects to whichever of the addresses answers first, starting them one after the other (RFC 8305 without
    /// its sorting: the resolver has sorted).
    ///
    /// # Errors
    /// None answers: the failure of the one that failed last.
    pub async fn dial_any(&self, permits: &[DialPermit]) -> Result<TcpStream, DialError> {
        let first = permits.first().ok_or(DialError::NoPermit)?.address();
        timeout(self.total, self.race(permits)).await.unwrap_or(Err(DialError::ConnectSlow(first)))
    }

    /// Resolves, asks the permit about each address, and connects to one of those it allows.
    ///
    /// # Errors
    /// Nothing resolves, no address is allowed, or none answers.
    pub async fn reach<P: Dialable>(&self, permit: &P) -> Result<TcpStream, DialError> {
        self.dial_any(&self.permitted(permit).await?).await
    }

    postern_danger::only_with_switches! {
        /// Looks a name up before anybody decided about it.
        pub async fn look_up_early(&self, host: &str, port: u16) {
            let _whatever = self.resolver.look_up(host, port).await;
        }
    }

    async fn look_up(&self, host: &Host, port: u16) -> Result<Vec<IpAddr>, DialError> {
        let host = host.to_string();
        let found = match timeout(limits::RESOLVE, self.resolver.look_up(&host, port)).await {
            Err(_) => return Err(DialError::ResolveSlow(host)),
            Ok(Err(source)) => return Err(DialError::Resolve { host, source }),
            Ok(Ok(found)) => found,
        };
        let mut addresses: Vec<IpAddr> = Vec::new();
        for address in found.iter().map(IpAddr::to_canonical) {
            if addresses.len() < limits::ADDRESSES && !addresses.contains(&address) {
                addresses.push(address);
            }
        }
        if addresses.is_empty() { Err(DialError::NoAddress(host)) } else { Ok(addresses) }
    }

    async fn race(&self, permits: &[DialPermit]) -> Result<TcpStream, DialError> {
        let mut waiting: VecDeque<SocketAddr> = permits.iter().map(DialPermit::address).collect();
        let mut attempts = JoinSet::new();
        let mut failure = DialError::NoPermit;
        loop {
            if let Some(address) = waiting.pop_front() {
                attempts.spawn(connect(address, self.connect));
            }
            let next_is_due = sleep(self.stagger);
            tokio::select! {
                ended = attempts.join_next() => match ended {
                    Some(Ok(Ok(stream))) => return Ok(stream),
                    Some(Ok(Err(error))) => failure = error,
                    Some(Err(_)) => {}
                    None => return Err(failure),
                },
                () = next_is_due, if !waiting.is_empty() => {}
            }
        }
    }
}

fn describe(target: &Target) -> String {
    match target {
        Target::Resolve(host, _) => host.to_string(),
        Target::Address(address) => address.to_string(),
    }
}

#[expect(clippy::disallowed_methods, reason = "this is the one place that opens outbound connections")]
async fn connect(address: SocketAddr, patience: Duration) -> Result<TcpStream, DialError> {
    match timeout(patience, TcpStream::connect(address)).await {
        Err(_) => Err(DialError::ConnectSlow(address)),
        Ok(Err(source)) => Err(DialError::Connect { address, source }),
        Ok(Ok(stream)) => {
            // Requests are written whole; waiting for more to send only adds delay. A socket that refuses the
            // option works all the same.
            let _ = stream.set_nodelay(true);
            Ok(stream)
        }
    }
}
