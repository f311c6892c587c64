//! The zones in force, and what a change of them means for the sessions that are open: each is told which zone it would
//! get now. Whole or not at all: read here first, then custody takes it up and has it on record, then egress.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use postern_custody::Reload;
use postern_egress::client::{Configuration, Selected};
use postern_policy::document::DocumentText;
use postern_policy::{ConfigError, Denial, Document, Routes, SessionFacts, Zone, ZoneInForce, Zones};
use tokio::sync::{RwLock, RwLockReadGuard};

use super::Parts;
use crate::session::chain;

/// All zones, and the sessions that have one.
pub(crate) struct InForce {
    zones: RwLock<Zones>,
    /// Files that are or were sources of secrets: nothing that a zone lends shows them.
    sources: Mutex<Vec<PathBuf>>,
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
    pub(crate) fn new(zones: Zones, sources: Vec<PathBuf>) -> Self {
        Self { zones: RwLock::new(zones), sources: Mutex::new(sources), open: Mutex::default() }
    }

    /// Files that nothing lent may show, as the configurations in force so far name them.
    pub(super) fn sources(&self) -> Vec<PathBuf> {
        self.sources.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn keep(&self, more: Vec<PathBuf>) {
        let mut sources = self.sources.lock().unwrap_or_else(PoisonError::into_inner);
        for source in more {
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
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
        let (next, sources) = match load(&reload.document, &reload.environments) {
            Ok(next) => next,
            Err(problems) => return problems,
        };
        let mut in_force = self.zones.zones.write().await;
        // From before custody reads them.
        self.zones.keep(sources);
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

/// The zones of a configuration, and the files from which it has secrets taken.
pub(crate) fn load(
    document: &DocumentText,
    environments: &BTreeMap<String, String>,
) -> Result<(Zones, Vec<PathBuf>), Vec<String>> {
    let lines = |errors: Vec<ConfigError>| errors.iter().map(ToString::to_string).collect::<Vec<_>>();
    let document = Document::from_text(document.clone()).map_err(lines)?;
    let zones = Zones::load(&document, environments).map_err(lines)?;
    // Routes that do not load are the gateway's to refuse, and custody's.
    let routes = Routes::load(&document).map(|routes| postern_custody::route_files(&routes)).unwrap_or_default();
    let sources = postern_custody::files(&zones).into_iter().chain(routes).collect();
    Ok((zones, sources))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_a_source_of_a_secret_once_is_not_lent_under_a_later_configuration_either() {
        let document = |name: &str| {
            let text = format!(
                "config = 1\n[zone.a]\nenvironment = \"env_a\"\n[[zone.a.credential]]\nname = \"t\"\nsource = \"file:/srv/{name}\"\ninject = [{{ header = \"x\" }}]\n"
            );
            Document::parse("t", &text).unwrap().text().clone()
        };
        let (zones, sources) = load(&document("former"), &BTreeMap::new()).unwrap();
        let in_force = InForce::new(zones, sources);
        in_force.keep(load(&document("later"), &BTreeMap::new()).unwrap().1);
        assert_eq!(in_force.sources(), [PathBuf::from("/srv/former"), PathBuf::from("/srv/later")]);
    }
}
