//! The zones in force, and what a change of them means for the sessions that are open: each is told which zone it would
//! get now. Whole or not at all: read here first, then custody takes it up and has it on record, then egress.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_custody::Reload;
use postern_egress::client::{Configuration, Selected};
use postern_policy::{Denial, Document, SessionFacts, Zone, ZoneInForce, Zones};
use tokio::sync::{RwLock, RwLockReadGuard};

use super::Parts;
use crate::session::chain;

/// All zones, and the sessions that have one.
pub(super) struct InForce {
    zones: RwLock<Zones>,
    open: Mutex<BTreeMap<String, Open>>,
}

/// A session that is open.
struct Open {
    facts: SessionFacts,
    zone: ZoneInForce,
}

/// Takes up changed configurations; cheap to clone.
#[derive(Clone)]
pub(crate) struct Reloading {
    pub(super) parts: Arc<Parts>,
}

impl Reloading {
    /// Takes up a configuration; answers what is wrong with it, and then the former stays in force.
    pub(crate) async fn reload(&self, reload: Reload) -> Vec<String> {
        self.parts.reload(reload).await
    }
}

impl InForce {
    pub(super) fn new(zones: Zones) -> Self {
        Self { zones: RwLock::new(zones), open: Mutex::default() }
    }

    /// The zones, to open a session by: none of them changes until it is open.
    pub(super) async fn for_opening(&self) -> RwLockReadGuard<'_, Zones> {
        self.zones.read().await
    }

    /// The session is open from now on, under this zone.
    pub(super) fn opened(&self, session: &str, facts: SessionFacts, zone: &Arc<Zone>) {
        let zone = ZoneInForce::new(Arc::clone(zone));
        self.lock().insert(session.to_owned(), Open { facts, zone });
    }

    /// The session is open no more.
    pub(super) fn closed(&self, session: &str) {
        self.lock().remove(session);
    }

    /// What decides for a session that was opened with this zone.
    pub(super) fn of(&self, session: &str, opened: &Arc<Zone>) -> ZoneInForce {
        self.lock().get(session).map_or_else(|| ZoneInForce::new(Arc::clone(opened)), |open| open.zone.clone())
    }

    /// What other zones select for each open session.
    fn selected(&self, zones: &Zones) -> BTreeMap<String, Result<Arc<Zone>, Denial>> {
        self.lock().iter().map(|(session, open)| (session.clone(), zones.select(&open.facts))).collect()
    }

    fn succeeded(&self, selected: BTreeMap<String, Result<Arc<Zone>, Denial>>) {
        let mut open = self.lock();
        for (session, zone) in selected {
            if let Some(open) = open.get_mut(&session) {
                open.zone = open.zone.succeeded(zone);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Open>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Parts {
    async fn reload(&self, reload: Reload) -> Vec<String> {
        let next = match load(&reload) {
            Ok(next) => next,
            Err(problems) => return problems,
        };
        let mut in_force = self.zones.zones.write().await;
        let (document, environments) = (reload.document.clone(), reload.environments.clone());
        match self.custody.reload(reload).await {
            Ok(problems) if problems.is_empty() => {}
            Ok(problems) => return problems,
            Err(error) => return vec![chain(&error)],
        }
        let selected = self.zones.selected(&next);
        let told = selected.iter().map(|(session, zone)| (session.clone(), in_words(zone))).collect();
        // What custody could read egress reads too; one that does not answer is about to end, and the worker with it.
        match self.egress.reload(Configuration { document, environments, names: None }, told).await {
            Ok(problems) if problems.is_empty() => {}
            Ok(problems) => return problems,
            Err(error) => return vec![chain(&error)],
        }
        for (session, zone) in &selected {
            tell(session, zone);
        }
        self.zones.succeeded(selected);
        *in_force = next;
        Vec::new()
    }
}

fn load(reload: &Reload) -> Result<Zones, Vec<String>> {
    Document::from_text(reload.document.clone())
        .and_then(|document| Zones::load(&document, &reload.environments))
        .map_err(|errors| errors.iter().map(ToString::to_string).collect())
}

fn in_words(selected: &Result<Arc<Zone>, Denial>) -> Selected {
    match selected {
        Ok(zone) => Selected::Zone { name: zone.name().to_owned(), digest: zone.digest().to_owned() },
        Err(denial) => Selected::Nothing { next_step: denial.next_step.clone() },
    }
}

fn tell(session: &str, selected: &Result<Arc<Zone>, Denial>) {
    match selected {
        Ok(zone) => tracing::info!(session, zone = zone.name(), "an open session goes by this zone besides its own"),
        Err(denial) => tracing::warn!(session, next = denial.next_step, "no zone covers an open session any more"),
    }
}
