//! The hosts of the run's own, all on loopback: who has the canary credential, who takes client certificates, whose credential comes from a vault, and a
//! listener that nothing should reach.

use std::collections::BTreeMap;

use postern_testkit::certificate::{Asks, Client, make_client};
use postern_testkit::collector::Collector;
use postern_testkit::private_api::{PrivateApi, Seen, StartError};

use crate::run::VerifyError;
use crate::zone::{API_HOST, BARE_HOST, CERTIFIED_HOST, OTHER_HOST, Upstream, Upstreams, VAULT_HOST};

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
    /// Nobody's.
    pub(crate) collector: Collector,
}

/// What they take.
pub(crate) struct Keys {
    /// The canary of the API's credential.
    pub(crate) api: String,
    /// The neighbour's value of the vault credential.
    pub(crate) vault: String,
    /// The client certificate.
    pub(crate) client: Client,
}

impl Keys {
    /// Fresh ones.
    pub(crate) fn fresh(canary: impl Fn() -> Result<String, VerifyError>) -> Result<Self, VerifyError> {
        let client = make_client("postern-verify").map_err(|error| VerifyError::stand("make a certificate", &error))?;
        Ok(Self { api: canary()?, vault: canary()?, client })
    }
}

impl Hosts {
    /// Starts them.
    pub(crate) async fn start(keys: &Keys) -> Result<Self, VerifyError> {
        Self::started(keys).await.map_err(|error| VerifyError::stand("start an upstream or a listener", &error))
    }

    async fn started(keys: &Keys) -> Result<Self, StartError> {
        let authority = &keys.client.authority;
        Ok(Self {
            api: PrivateApi::start(API_HOST, &keys.api).await?,
            other: PrivateApi::start_asking(OTHER_HOST, NOBODYS, Asks::Whoever(authority)).await?,
            certified: PrivateApi::start_asking(CERTIFIED_HOST, NOBODYS, Asks::Everybody(authority)).await?,
            bare: PrivateApi::start_asking(BARE_HOST, NOBODYS, Asks::Everybody(authority)).await?,
            vault: PrivateApi::start(VAULT_HOST, &keys.vault).await?,
            collector: Collector::start().await?,
        })
    }

    /// Every request that reached one of them.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let hosts = [&self.api, &self.other, &self.certified, &self.bare, &self.vault];
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
            collector: self.collector.address,
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
        ];
        played.into_iter().map(|(host, api)| (host.to_owned(), api.address.to_string())).collect()
    }
}

const NOBODYS: &str = "nobody-has-this-token";
