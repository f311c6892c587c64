//! What all requests share: the rules in force, whom to believe, whom to ask, and where to write it down.

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use postern_audit::{Rations, Recorder};
use postern_net::{Dialer, Drain};
use postern_policy::{Reason, Zones, gateway::Routes};
use postern_tunnel::{
    Welcome,
    handover::ConnectorStatus,
    identity::{IdentityKey, Verifier},
};
use tokio::sync::Semaphore;

use crate::{
    binding::Binding,
    catalogue::Catalogue,
    custodian::Custodian,
    leaf::Leaf,
    limits::{self, Bounds},
    mark::Mark,
    oauth::{InFlight, Journal},
    phases::record,
    sessions::Sessions,
    troubles::Troubles,
    trust::Trust,
};

/// The gateway.
pub(crate) struct Gateway {
    /// The tunnel it ends.
    pub(crate) tunnel_id: String,
    /// Whose identities count.
    pub(crate) verifier: Verifier,
    /// Whether the keys are the operator's word, so that the edge's does not count.
    pub(crate) pinned: bool,
    /// The audit log.
    pub(crate) audit: Arc<dyn Recorder>,
    /// Whoever has the secrets.
    pub(crate) custody: Arc<dyn Custodian>,
    /// Opens connections, for a permit.
    pub(crate) dialer: Dialer,
    /// Credentials whose tokens are being renewed.
    pub(crate) renewing: InFlight,
    /// Whom upstreams are signed by.
    pub(crate) trust: Trust,
    /// The sessions that call.
    pub(crate) sessions: Sessions,
    /// Whose MCP sessions are whose.
    pub(crate) binding: Binding,
    /// The youngest identity that counted.
    pub(crate) mark: Mark,
    /// What token endpoints answered and custody has not taken.
    pub(crate) answers: Arc<Journal>,
    /// The perimeter's placeholders.
    pub(crate) catalogue: Catalogue,
    /// The end of the inner TLS.
    pub(crate) leaf: Leaf,
    /// Which refusals of a session are written one by one.
    pub(crate) rations: Rations<Reason>,
    /// What went wrong lately.
    pub(crate) troubles: Troubles,
    /// What takes long to reach.
    pub(crate) bounds: Bounds,
    /// Every task of the gateway.
    pub(crate) drain: Drain,
    /// Inner connections that may still come.
    pub(crate) connections: Arc<Semaphore>,
    /// Memory that answers may still take, in units of [`HELD_UNIT`].
    pub(crate) memory: Arc<Semaphore>,
    rules: RwLock<Arc<Rules>>,
    link: RwLock<Link>,
}

/// Zones and routes of one document: in force whole, or not at all.
pub(crate) struct Rules {
    /// Which session may do what.
    pub(crate) zones: Zones,
    /// Where hosts lead.
    pub(crate) routes: Routes,
}

/// What the connector told.
#[derive(Default, Clone)]
pub(crate) struct Link {
    /// The tunnel's domain, once the edge has said it.
    pub(crate) domain: Option<String>,
    /// How the connections stand.
    pub(crate) status: ConnectorStatus,
}

/// The parts that a gateway is made of.
pub(crate) struct Parts {
    /// The tunnel.
    pub(crate) tunnel_id: String,
    /// Pinned keys, or none.
    pub(crate) identity_keys: Vec<IdentityKey>,
    /// The rules in force first.
    pub(crate) rules: Rules,
    /// The audit log.
    pub(crate) audit: Arc<dyn Recorder>,
    /// Custody.
    pub(crate) custody: Arc<dyn Custodian>,
    /// Seals MCP session ids.
    pub(crate) binding: Binding,
    /// What counted before a restart.
    pub(crate) mark: Mark,
    /// What token endpoints answered and custody has not taken.
    pub(crate) answers: Arc<Journal>,
    /// The inner TLS.
    pub(crate) leaf: Leaf,
    /// Times.
    pub(crate) bounds: Bounds,
}

impl Gateway {
    /// Puts the parts together.
    pub(crate) fn new(parts: Parts) -> Self {
        Self {
            verifier: Verifier::new(parts.identity_keys.clone(), parts.tunnel_id.clone()),
            tunnel_id: parts.tunnel_id,
            pinned: !parts.identity_keys.is_empty(),
            audit: parts.audit,
            custody: parts.custody,
            dialer: Dialer::new(),
            renewing: InFlight::default(),
            trust: Trust::default(),
            sessions: Sessions::default(),
            binding: parts.binding,
            mark: parts.mark,
            answers: parts.answers,
            catalogue: Catalogue::default(),
            leaf: parts.leaf,
            rations: Rations::new(limits::REFUSALS_RECORDED, limits::SESSIONS),
            troubles: Troubles::default(),
            bounds: parts.bounds,
            drain: Drain::new(),
            connections: Arc::new(Semaphore::new(limits::CONNECTIONS)),
            memory: Arc::new(Semaphore::new(limits::HELD_ANSWER_BYTES / HELD_UNIT)),
            rules: RwLock::new(Arc::new(parts.rules)),
            link: RwLock::default(),
        }
    }

    /// The rules in force now. A request keeps those it began with.
    pub(crate) fn rules(&self) -> Arc<Rules> {
        self.rules.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Puts other rules in force for requests from now on.
    pub(crate) fn replace_rules(&self, rules: Rules) {
        *self.rules.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(rules);
    }

    /// What the connector told.
    pub(crate) fn link(&self) -> Link {
        self.link.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The edge let the connector in.
    pub(crate) fn welcome(&self, welcome: Welcome) {
        if welcome.tunnel_id != self.tunnel_id {
            tracing::error!(tunnel = %self.tunnel_id, "the edge speaks of another tunnel than the configuration; its word is not taken");
            self.troubles.note("tunnel_mismatch", "the edge's welcome is for another tunnel than `[gateway] tunnel`");
            return;
        }
        if !self.pinned {
            self.verifier.replace_keys(welcome.identity_keys);
        }
        self.link.write().unwrap_or_else(PoisonError::into_inner).domain = Some(welcome.domain);
    }

    /// How the connector's connections stand.
    pub(crate) fn connected(&self, status: ConnectorStatus) {
        let mut link = self.link.write().unwrap_or_else(PoisonError::into_inner);
        // A status repeats what did not change, the last errors of connections that stand again included.
        let news = status
            .connections
            .iter()
            .enumerate()
            .filter(|(place, one)| link.status.connections.get(*place) != Some(one));
        for error in news.filter(|(_, one)| !one.connected).filter_map(|(_, one)| one.last_error.as_ref()) {
            self.troubles.note(&error.code, &error.message);
        }
        link.status = status;
    }

    /// Looks after what changes by itself until the drain: leaf, counts of refusals, placeholders, idle sessions.
    pub(crate) async fn look_after(self: Arc<Self>) {
        let mut tick = tokio::time::interval(limits::LEAF_LOOK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.look_at_leaf().await;
            record::counted(&self).await;
            if let Err(denial) = self.catalogue.refresh(&*self.custody).await {
                self.troubles.note(denial.reason.code(), "custody does not tell the placeholders");
            }
            for forgotten in self.sessions.forget_idle(self.bounds.session_idle, Instant::now()) {
                if let Err(denial) = self.custody.close(&forgotten).await {
                    tracing::warn!(session = %forgotten, reason = %denial.reason, "custody did not hear that a session is idle");
                }
            }
        }
    }

    async fn look_at_leaf(self: &Arc<Self>) {
        let gateway = Arc::clone(self);
        let looked = tokio::task::spawn_blocking(move || gateway.leaf.look()).await;
        match looked {
            Ok(Ok(true)) => tracing::info!(days_left = self.leaf.days_left(), "a new leaf is in use"),
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the leaf on disk is not used; the former one stays"
                );
                self.troubles.note("leaf_unusable", error.to_string());
            }
        }
    }

    /// The time by which identities are judged.
    pub(crate) fn clock(&self) -> SystemTime {
        SystemTime::now()
    }
}

/// One unit of [`Gateway::memory`].
pub(crate) const HELD_UNIT: usize = 64 * 1024;

/// Milliseconds with two places, as `server-timing` has them.
pub(crate) fn milliseconds(duration: Duration) -> String {
    format!("{:.2}", duration.as_secs_f64() * 1000.0)
}
