//! The hosts of the run's own, all on loopback: who has the canary credential, who takes client certificates, whose credential comes from a vault, who
//! has repositories, a listener that nothing should reach, and a server of names whose answers change.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use postern_testkit::certificate::{Asks, Client, make_client};
use postern_testkit::collector::Collector;
use postern_testkit::names::{Has, Names, Table};
use postern_testkit::private_api::{PrivateApi, Seen, StartError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::run::VerifyError;
use crate::zone::{
    API_HOST, BARE_HOST, CERTIFIED_HOST, GIT_HOST, IMPOSTOR_HOST, OTHER_HOST, REBOUND_HOST, Upstream, Upstreams,
    VAULT_HOST,
};

/// Everybody to be reached.
pub(crate) struct Hosts {
    /// Has the canary credential.
    pub(crate) api: PrivateApi,
    /// Is allowed without one, and takes a client certificate from whoever presents one.
    pub(crate) other: PrivateApi,
    /// Is presented the client certificate, and answers nobody without.
    pub(crate) certified: PrivateApi,
    /// Answers nobody without it either, and no rule presents it there.
    pub(crate) bare: PrivateApi,
    /// Knows the neighbour's value of the vault credential.
    pub(crate) vault: PrivateApi,
    /// Knows the token of the attacker's repository.
    pub(crate) git: PrivateApi,
    /// Nobody's.
    pub(crate) collector: Collector,
    /// Tells where names lead, each time as it likes.
    pub(crate) names: Names,
    /// Where names lead that change: here to whom a rule allows, and at the same port of [`FORBIDDEN`] to nobody's.
    pub(crate) changing: SocketAddr,
    /// Who listens there.
    pub(crate) forbidden: Collector,
}

/// What they take.
pub(crate) struct Keys {
    /// The canary of the API's credential.
    pub(crate) api: String,
    /// The neighbour's value of the vault credential.
    pub(crate) vault: String,
    /// The token of the attacker's repository, and that of the neighbour's.
    pub(crate) repositories: [String; 2],
    /// The client certificate.
    pub(crate) client: Client,
}

impl Keys {
    /// Fresh ones.
    pub(crate) fn fresh(canary: impl Fn() -> Result<String, VerifyError>) -> Result<Self, VerifyError> {
        let client = make_client("postern-verify").map_err(|error| VerifyError::stand("make a certificate", &error))?;
        Ok(Self { api: canary()?, vault: canary()?, repositories: [canary()?, canary()?], client })
    }
}

impl Hosts {
    /// Starts them.
    pub(crate) async fn start(keys: &Keys) -> Result<Self, VerifyError> {
        Self::started(keys).await.map_err(|error| VerifyError::stand("start an upstream or a listener", &error))
    }

    async fn started(keys: &Keys) -> Result<Self, StartError> {
        let authority = &keys.client.authority;
        let (changing, forbidden) = changing().await?;
        Ok(Self {
            api: PrivateApi::start(API_HOST, &keys.api).await?,
            other: PrivateApi::start_asking(OTHER_HOST, NOBODYS, Asks::Whoever(authority)).await?,
            certified: PrivateApi::start_asking(CERTIFIED_HOST, NOBODYS, Asks::Everybody(authority)).await?,
            bare: PrivateApi::start_asking(BARE_HOST, NOBODYS, Asks::Everybody(authority)).await?,
            vault: PrivateApi::start(VAULT_HOST, &keys.vault).await?,
            git: PrivateApi::start(GIT_HOST, &keys.repositories[0]).await?,
            collector: Collector::start().await?,
            names: Names::start(table()).await?,
            changing,
            forbidden,
        })
    }

    /// Every request that reached one of them.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let hosts = [&self.api, &self.other, &self.certified, &self.bare, &self.vault, &self.git];
        hosts.into_iter().flat_map(PrivateApi::seen).collect()
    }

    /// Where the zone finds them.
    pub(crate) fn in_zone(&self) -> Upstreams<'_> {
        fn at(host: &PrivateApi) -> Upstream<'_> {
            Upstream { address: host.address, ca: &host.ca_pem }
        }
        Upstreams {
            api: at(&self.api),
            other: at(&self.other),
            certified: at(&self.certified),
            bare: at(&self.bare),
            vault: at(&self.vault),
            git: at(&self.git),
            impostor: Upstream { address: self.other.address, ca: &self.api.ca_pem },
            collector: self.collector.address,
            changing: self.changing.port(),
        }
    }

    /// Who plays which host for the control runs.
    pub(crate) fn outside(&self) -> BTreeMap<String, String> {
        let played = [
            (API_HOST, &self.api),
            (OTHER_HOST, &self.other),
            (CERTIFIED_HOST, &self.certified),
            (BARE_HOST, &self.bare),
            (VAULT_HOST, &self.vault),
            (GIT_HOST, &self.git),
            (IMPOSTOR_HOST, &self.other),
        ];
        played.into_iter().map(|(host, api)| (host.to_owned(), api.address.to_string())).collect()
    }
}

/// An upstream that answers every request with 204, and a listener at the same port of [`FORBIDDEN`].
async fn changing() -> io::Result<(SocketAddr, Collector)> {
    let mut refused = io::Error::other("no port is free at both addresses");
    for _ in 0..TRIES {
        let listener = TcpListener::bind((PERMITTED, 0)).await?;
        let address = listener.local_addr()?;
        match Collector::start_at((FORBIDDEN, address.port()).into()).await {
            Ok(collector) => {
                tokio::spawn(answer(listener));
                return Ok((address, collector));
            }
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

async fn answer(listener: TcpListener) {
    while let Ok((mut stream, _)) = listener.accept().await {
        tokio::spawn(async move {
            let mut head = [0; 1024];
            if let Ok(Ok(_)) = timeout(PATIENCE, stream.read(&mut head)).await {
                // Closed after each answer, so that the next request has its name looked up again.
                let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n").await;
            }
        });
    }
}

/// What the names that a rule allows have, one question after the other.
fn table() -> Table {
    let at = |addresses: &[IpAddr]| Has::Addresses(addresses.to_vec());
    let (good, bad) = (IpAddr::V4(PERMITTED), IpAddr::V4(FORBIDDEN));
    let mapped = IpAddr::V6(FORBIDDEN.to_ipv6_mapped());
    let translated = IpAddr::V6(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0x7f00, 2));
    let then = |address: [u8; 4]| vec![at(&[good]), at(&[address.into()])];
    Table::from([
        ("between.changing.postern-verify.internal", vec![at(&[good]), at(&[bad])]),
        ("later.changing.postern-verify.internal", vec![at(&[good]), at(&[bad])]),
        ("metadata.changing.postern-verify.internal", then([169, 254, 169, 254])),
        ("private.changing.postern-verify.internal", then([10, 9, 8, 7])),
        ("alias.changing.postern-verify.internal", vec![Has::Alias("second.changing.postern-verify.internal")]),
        ("second.changing.postern-verify.internal", vec![Has::Alias("third.changing.postern-verify.internal")]),
        ("third.changing.postern-verify.internal", vec![at(&[bad])]),
        ("mixed.changing.postern-verify.internal", vec![at(&[bad, good])]),
        ("mapped.changing.postern-verify.internal", vec![at(&[mapped])]),
        ("translated.changing.postern-verify.internal", vec![at(&[translated])]),
        ("six.changing.postern-verify.internal", vec![at(&[Ipv6Addr::LOCALHOST.into()])]),
        // Where a rule leads that does not name it.
        ("unlisted.postern-verify.internal", vec![at(&[good])]),
        // What the operating system would say of it.
        (REBOUND_HOST, vec![at(&[good])]),
    ])
}

const PERMITTED: Ipv4Addr = Ipv4Addr::LOCALHOST;
/// Another address of this machine, which no rule allows.
const FORBIDDEN: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const PATIENCE: Duration = Duration::from_secs(10);
const TRIES: usize = 10;
const NOBODYS: &str = "nobody-has-this-token";
