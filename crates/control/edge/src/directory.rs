//! The in-memory truth about tunnels of one process: filled at the start, changed by the API after each commit. Reads never wait for a
//! database, so a revoked token is refused from the next connection on.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use postern_secret::key::KeyDigest;
use postern_tunnel::certificate::Ca;
use postern_tunnel::wire;

/// What the edge, and the caller above it, know of a tunnel.
#[derive(Debug, Clone, PartialEq)]
pub struct TunnelEntry {
    /// `tnl_...`.
    pub id: String,
    /// Its workspace.
    pub workspace: String,
    /// Hosts are `<route>.<domain>`.
    pub domain: String,
    /// Of the live token; none after a revocation.
    pub token_digest: Option<KeyDigest>,
    /// Counts rotations.
    pub token_generation: u64,
    /// The active authorities of the inner TLS.
    pub certificates: Vec<Ca>,
    /// An archived tunnel carries nothing, for ever.
    pub archived: bool,
}

/// All tunnels. `Clone` gives another handle to the same.
#[derive(Debug, Clone, Default)]
pub struct Directory {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    by_id: HashMap<String, TunnelEntry>,
    by_domain: HashMap<String, String>,
    by_digest: HashMap<KeyDigest, String>,
}

impl Directory {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets what it knows and takes these.
    pub fn replace_all(&self, entries: Vec<TunnelEntry>) {
        let mut fresh = Inner::default();
        for entry in entries {
            fresh.put(entry);
        }
        *self.write() = fresh;
    }

    /// Takes one tunnel as it is now, in place of what it was.
    pub fn put(&self, entry: TunnelEntry) {
        self.write().put(entry);
    }

    /// The tunnel of this id, archived or not.
    #[must_use]
    pub fn by_id(&self, id: &str) -> Option<TunnelEntry> {
        self.read().by_id.get(id).cloned()
    }

    /// The live tunnel that `<route>.<domain>` belongs to, and the route. Only the one spelling of a host is found: no port, no upper case.
    #[must_use]
    pub fn by_host(&self, host: &str) -> Option<(TunnelEntry, String)> {
        let name = wire::host_name(host)?;
        let inner = self.read();
        let entry = inner.by_id.get(inner.by_domain.get(name.domain)?)?;
        (!entry.archived).then(|| (entry.clone(), name.route.to_owned()))
    }

    /// The live tunnel whose token has this digest.
    #[must_use]
    pub fn by_token(&self, digest: &KeyDigest) -> Option<TunnelEntry> {
        let inner = self.read();
        let entry = inner.by_id.get(inner.by_digest.get(digest)?)?;
        (!entry.archived).then(|| entry.clone())
    }

    /// Every tunnel, archived or not.
    #[must_use]
    pub fn all(&self) -> Vec<TunnelEntry> {
        self.read().by_id.values().cloned().collect()
    }

    /// The live tunnels of a workspace, in the order of their ids.
    #[must_use]
    pub fn live_in(&self, workspace: &str) -> Vec<TunnelEntry> {
        let inner = self.read();
        let live = inner.by_id.values().filter(|entry| entry.workspace == workspace && !entry.archived);
        let mut live: Vec<_> = live.cloned().collect();
        live.sort_by(|one, other| one.id.cmp(&other.id));
        live
    }

    fn read(&self) -> RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn put(&mut self, entry: TunnelEntry) {
        if let Some(old) = self.by_id.remove(&entry.id) {
            self.by_domain.remove(&old.domain);
            if let Some(digest) = &old.token_digest {
                self.by_digest.remove(digest);
            }
        }
        self.by_domain.insert(entry.domain.clone(), entry.id.clone());
        if let Some(digest) = &entry.token_digest {
            self.by_digest.insert(digest.clone(), entry.id.clone());
        }
        self.by_id.insert(entry.id.clone(), entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(id: &str, domain: &str, token: &str) -> TunnelEntry {
        TunnelEntry {
            id: id.to_owned(),
            workspace: "wrkspc_default".to_owned(),
            domain: domain.to_owned(),
            token_digest: Some(KeyDigest::of(token)),
            token_generation: 1,
            certificates: Vec::new(),
            archived: false,
        }
    }

    #[test]
    fn a_workspace_has_its_live_tunnels_and_no_other() {
        let directory = Directory::new();
        directory.put(entry("tnl_2", "b.tunnel.localhost", "two"));
        directory.put(entry("tnl_1", "a.tunnel.localhost", "one"));
        directory.put(TunnelEntry { archived: true, ..entry("tnl_3", "c.tunnel.localhost", "three") });
        directory
            .put(TunnelEntry { workspace: "wrkspc_other".to_owned(), ..entry("tnl_4", "d.tunnel.localhost", "four") });
        let ids: Vec<_> = directory.live_in("wrkspc_default").into_iter().map(|entry| entry.id).collect();
        assert_eq!(ids, ["tnl_1", "tnl_2"]);
    }

    #[test]
    fn a_host_leads_to_its_tunnel_and_no_other() {
        let directory = Directory::new();
        directory.replace_all(vec![entry("tnl_a", "aaaa.t.localhost", "a"), entry("tnl_b", "bbbb.t.localhost", "b")]);
        let found = |host: &str| directory.by_host(host).map(|(entry, route)| (entry.id, route));
        assert_eq!(found("wiki.aaaa.t.localhost"), Some(("tnl_a".to_owned(), "wiki".to_owned())));
        assert_eq!(found("wiki.bbbb.t.localhost"), Some(("tnl_b".to_owned(), "wiki".to_owned())));
        let nowhere = [
            "aaaa.t.localhost",
            "x.wiki.aaaa.t.localhost",
            "wiki.cccc.t.localhost",
            "WIKI.aaaa.t.localhost",
            "wiki.aaaa.t.localhost:443",
            "wiki.aaaa.t.localhost.",
            "wiki@aaaa.t.localhost",
            "",
        ];
        for host in nowhere {
            assert_eq!(found(host), None, "{host}");
        }
    }

    #[test]
    fn a_put_forgets_the_old_token_at_once() {
        let directory = Directory::new();
        directory.put(entry("tnl_a", "aaaa.t.localhost", "old"));
        directory.put(TunnelEntry { token_generation: 2, ..entry("tnl_a", "aaaa.t.localhost", "new") });
        assert_eq!(directory.by_token(&KeyDigest::of("old")), None);
        assert_eq!(directory.by_token(&KeyDigest::of("new")).map(|entry| entry.token_generation), Some(2));
        directory.put(TunnelEntry { token_digest: None, ..entry("tnl_a", "aaaa.t.localhost", "new") });
        assert_eq!(directory.by_token(&KeyDigest::of("new")), None);
        assert!(directory.by_host("wiki.aaaa.t.localhost").is_some());
    }

    #[test]
    fn an_archived_tunnel_is_found_by_its_id_alone() {
        let directory = Directory::new();
        directory.put(TunnelEntry { archived: true, ..entry("tnl_a", "aaaa.t.localhost", "a") });
        assert_eq!(directory.by_token(&KeyDigest::of("a")), None);
        assert_eq!(directory.by_host("wiki.aaaa.t.localhost"), None);
        assert!(directory.by_id("tnl_a").is_some_and(|entry| entry.archived));
    }
}
