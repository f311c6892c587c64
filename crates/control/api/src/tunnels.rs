//! What the API needs of tunnels besides their rows: the key that tokens are derived from, the edge, a prober.

use std::pin::Pin;
use std::sync::Arc;

use postern_edge::{Carrier, Connections, TunnelEntry};
use postern_model::Problem;
use postern_model::ids::{TunnelId, WorkspaceId};
use postern_model::problem::Kind;
use postern_secret::SecretBytes;
use postern_secret::key::{KeyDigest, TunnelToken};
use postern_store::tunnels::{self, EdgeTunnel};
use postern_store::{Store, StoreError, Tx};
use postern_tunnel::certificate::stored_ca;
use serde_json::Value;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::app::{App, problem};

/// The tunnels of a server process.
pub struct Tunnels {
    /// What tokens are derived from: kept by the server alone, the same at every start.
    pub server_key: SecretBytes,
    /// New tunnels get `<label>.<this>`.
    pub domain: String,
    /// The edge, whose directory follows the database.
    pub edge: Arc<dyn Carrier>,
    /// Who probes routes, where somebody does.
    pub prober: Option<Arc<dyn TunnelProber>>,
}

impl Tunnels {
    /// Fills the edge's directory from the database: before anything asks it, sessions that go on after a restart included.
    ///
    /// # Errors
    /// The database failed.
    pub async fn fill_directory(&self, store: &Store) -> Result<(), StoreError> {
        let mut connection = store.read().await?;
        let entries = tunnels::entries(&mut connection).await?;
        self.edge.fill(entries.into_iter().map(edge_entry).collect()).await;
        Ok(())
    }
}

/// Which tunnel to probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TunnelFacts {
    /// The tunnel.
    pub id: TunnelId,
    /// Where.
    pub workspace: WorkspaceId,
    /// Its domain: the host is `<route>.<domain>`.
    pub domain: String,
}

/// Makes a real MCP `initialize` and `tools/list` through a tunnel.
pub trait TunnelProber: Send + Sync {
    /// Probes one route; what it found, hop by hop, as JSON. A failed hop is a finding, not a problem.
    fn probe(&self, tunnel: TunnelFacts, route: String) -> Probing<'_>;
}

/// A probe under way.
pub type Probing<'a> = Pin<Box<dyn Future<Output = Result<Value, Problem>> + Send + 'a>>;

pub(crate) struct TunnelService {
    pub(crate) parts: Tunnels,
    /// Held from before a change to after the directory has it: the directory never goes back to an older state.
    order: Arc<Mutex<()>>,
}

impl From<Tunnels> for TunnelService {
    fn from(parts: Tunnels) -> Self {
        Self { parts, order: Arc::default() }
    }
}

impl TunnelService {
    /// The token of a tunnel's generation.
    pub(crate) fn token(&self, id: &TunnelId, generation: u64) -> TunnelToken {
        TunnelToken::derive(&self.parts.server_key, id.as_str(), generation)
    }

    /// Has the edge let go of all that an erased workspace had. Whatever changed one of its tunnels before the erasure has
    /// told the edge once the order is ours, and nothing finds one to change afterwards.
    pub(crate) async fn forget(&self, workspace: &WorkspaceId) {
        let _order = self.order.lock().await;
        for tunnel in self.parts.edge.directory().live_in(workspace.as_str()) {
            let gone = TunnelEntry { token_digest: None, certificates: Vec::new(), archived: true, ..tunnel };
            self.parts.edge.put(gone, Connections::End).await;
        }
    }

    /// A domain that no tunnel had before, as far as 80 random bits go; the database has the last word.
    pub(crate) fn fresh_domain(&self) -> String {
        let random = TunnelId::generate();
        let label = &random.as_str()[TunnelId::PREFIX.len()..][..LABEL_LENGTH];
        format!("{}.{}", label.to_ascii_lowercase(), self.parts.domain)
    }
}

/// A change of one tunnel, which the directory learns right after the commit.
pub(crate) struct Change {
    pub(crate) tx: Tx,
    service: Arc<TunnelService>,
    _order: OwnedMutexGuard<()>,
}

impl Change {
    /// Makes the change durable and has the edge follow it.
    pub(crate) async fn commit(self, id: &TunnelId) -> Result<(), Problem> {
        self.commit_with(id, Connections::Stay).await
    }

    /// Likewise; every connection of the tunnel ends.
    pub(crate) async fn commit_and_sever(self, id: &TunnelId) -> Result<(), Problem> {
        self.commit_with(id, Connections::End).await
    }

    async fn commit_with(mut self, id: &TunnelId, connections: Connections) -> Result<(), Problem> {
        let entry = tunnels::entry(&mut self.tx, id).await.map_err(problem)?;
        self.tx.commit().await.map_err(problem)?;
        if let Some(entry) = entry {
            self.service.parts.edge.put(edge_entry(entry), connections).await;
        }
        Ok(())
    }
}

impl App {
    /// The same with tunnels. Without them their routes answer 503.
    #[must_use]
    pub fn with_tunnels(mut self, tunnels: Tunnels) -> Self {
        self.tunnels = Some(Arc::new(tunnels.into()));
        self
    }

    pub(crate) fn tunnels(&self) -> Result<&Arc<TunnelService>, Problem> {
        self.tunnels.as_ref().ok_or_else(|| Problem::new(Kind::Unavailable, "This server was started without tunnels."))
    }

    /// Begins a change of a tunnel.
    pub(crate) async fn change_tunnel(&self) -> Result<Change, Problem> {
        let service = Arc::clone(self.tunnels()?);
        let order = Arc::clone(&service.order).lock_owned().await;
        Ok(Change { tx: self.store.write().await.map_err(problem)?, service, _order: order })
    }
}

fn edge_entry(tunnel: EdgeTunnel) -> TunnelEntry {
    let certificates = tunnel.certificates.iter().filter_map(|pem| match stored_ca(pem) {
        Ok(ca) => Some(ca),
        Err(error) => {
            tracing::error!(tunnel = %tunnel.id, %error, "a stored certificate does not read back and is not trusted");
            None
        }
    });
    TunnelEntry {
        certificates: certificates.collect(),
        token_digest: tunnel.token_digest.as_deref().and_then(stored_digest),
        id: tunnel.id.to_string(),
        workspace: tunnel.workspace.to_string(),
        domain: tunnel.domain,
        token_generation: tunnel.token_generation,
        archived: tunnel.archived,
    }
}

/// A digest as the database has it.
fn stored_digest(hex: &str) -> Option<KeyDigest> {
    serde_json::from_value(Value::from(hex)).ok()
}

const LABEL_LENGTH: usize = 16;

#[cfg(test)]
mod tests {
    use std::future::ready;
    use std::sync::PoisonError;

    use postern_edge::{Directory, Doing, TunnelStatus};
    use postern_tunnel::carry::{Carry, CarryError, Opening};
    use postern_tunnel::wire::Lane;

    use super::*;

    /// Writes down what it is told of tunnels.
    #[derive(Default)]
    struct Told {
        directory: Directory,
        changes: std::sync::Mutex<Vec<(String, Connections)>>,
    }

    impl Carry for Told {
        fn open<'a>(&'a self, _: &'a str, _: Lane) -> Opening<'a> {
            Box::pin(ready(Err(CarryError::UnknownHost)))
        }
    }

    impl Carrier for Told {
        fn directory(&self) -> &Directory {
            &self.directory
        }

        fn fill(&self, _: Vec<TunnelEntry>) -> Doing<'_, ()> {
            panic!("everybody's tunnels are cut where the edge is apart")
        }

        fn put(&self, entry: TunnelEntry, connections: Connections) -> Doing<'_, ()> {
            let mut changes = self.changes.lock().unwrap_or_else(PoisonError::into_inner);
            changes.push((entry.id.clone(), connections));
            self.directory.put(entry);
            Box::pin(ready(()))
        }

        fn status<'a>(&'a self, _: &'a str) -> Doing<'a, TunnelStatus> {
            Box::pin(ready(TunnelStatus { connections: Vec::new(), last_errors: Vec::new() }))
        }
    }

    #[tokio::test]
    async fn connections_of_an_erased_workspace_end_and_no_others() {
        let told = Arc::new(Told::default());
        let erased = WorkspaceId::generate();
        for (id, workspace) in [("tnl_1", &erased), ("tnl_2", &WorkspaceId::default()), ("tnl_3", &erased)] {
            told.directory.put(TunnelEntry {
                id: id.to_owned(),
                workspace: workspace.to_string(),
                domain: format!("{id}.tunnel.localhost"),
                token_digest: Some(KeyDigest::of(id)),
                token_generation: 1,
                certificates: Vec::new(),
                archived: false,
            });
        }
        let edge: Arc<dyn Carrier> = told.clone();
        let server_key = postern_secret::Secret::new(vec![7; 32]);
        let service =
            TunnelService::from(Tunnels { server_key, domain: "tunnel.localhost".to_owned(), edge, prober: None });
        service.forget(&erased).await;
        let changes = told.changes.lock().unwrap_or_else(PoisonError::into_inner).clone();
        assert_eq!(changes, [("tnl_1".to_owned(), Connections::End), ("tnl_3".to_owned(), Connections::End)]);
        for (id, opens) in [("tnl_1", false), ("tnl_2", true), ("tnl_3", false)] {
            assert_eq!(told.directory.by_token(&KeyDigest::of(id)).is_some(), opens, "{id}");
        }
    }
}
