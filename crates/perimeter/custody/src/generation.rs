//! The configuration document as custody read it, and those it read before. A new one comes whole or not at all. What was decided by a former one is not
//! cut off by it: a call on its way keeps its rules for a moment, and a worker that has not read the new document yet goes on with the zones it knows.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use postern_exec::WireBytes;
use postern_policy::document::DocumentText;
use postern_policy::{Document, Route, Routes, Zone, Zones};
use postern_secret::Secret;

use crate::source::{Sources, route_variables, variables};
use crate::store::Store;

/// Zones and routes of one document, and where its secrets come from.
pub(crate) struct Generation {
    pub(crate) zones: Zones,
    pub(crate) routes: Routes,
    pub(crate) sources: Arc<Sources>,
    /// Of the document's content.
    pub(crate) document: String,
}

/// The generation in force and the former ones.
pub(crate) struct Generations {
    now: Arc<Generation>,
    /// The youngest first.
    former: Vec<Former>,
}

struct Former {
    generation: Arc<Generation>,
    until: Instant,
}

impl Generation {
    /// Reads a document. A variable that it names and that is not among `variables` keeps the value that `before` has.
    pub(crate) fn load(
        text: DocumentText,
        environments: &BTreeMap<String, String>,
        given: BTreeMap<String, WireBytes>,
        store: &Store,
        before: Option<&Sources>,
    ) -> Result<Self, Vec<String>> {
        let digest = document_digest(&text);
        let document = Document::from_text(text).map_err(|errors| texts(&errors))?;
        let (zones, routes) = match (Zones::load(&document, environments), Routes::load(&document)) {
            (Ok(zones), Ok(routes)) => (zones, routes),
            (zones, routes) => {
                let mut problems = zones.err().map(|errors| texts(&errors)).unwrap_or_default();
                problems.extend(routes.err().map(|errors| texts(&errors)).unwrap_or_default());
                problems.dedup();
                return Err(problems);
            }
        };
        let mut snapshot: BTreeMap<_, _> =
            given.into_iter().map(|(name, value)| (name, Secret::new(value.into_bytes()))).collect();
        for name in variables(&zones).into_iter().chain(route_variables(&routes)) {
            if let (false, Some(kept)) = (snapshot.contains_key(&name), before.and_then(|one| one.snapshot.get(&name)))
            {
                snapshot.insert(name, kept.duplicate());
            }
        }
        Ok(Self { zones, routes, sources: Arc::new(Sources { store: store.clone(), snapshot }), document: digest })
    }

    /// Whether a route sends here what it sends there.
    pub(crate) fn keeps(&self, route: &Route) -> bool {
        self.routes.by_host_label(&route.name).is_some_and(|now| now.credential == route.credential)
    }
}

impl Generations {
    pub(crate) fn new(first: Generation) -> Self {
        Self { now: Arc::new(first), former: Vec::new() }
    }

    /// The one in force.
    pub(crate) fn now(&self) -> Arc<Generation> {
        Arc::clone(&self.now)
    }

    /// Puts another in force, and gives back the one before.
    pub(crate) fn succeed(&mut self, next: Generation, now: Instant) -> Arc<Generation> {
        let before = std::mem::replace(&mut self.now, Arc::new(next));
        if before.document != self.now.document {
            self.former.retain(|former| former.generation.document != before.document);
            self.former.insert(0, Former { generation: Arc::clone(&before), until: now + ON_ITS_WAY });
        }
        self.former.retain(|former| former.generation.document != self.now.document);
        self.former.truncate(FORMER);
        before
    }

    /// The worker read the document in force: it needs no former one.
    pub(crate) fn forget_former(&mut self, now: Instant) {
        self.former.retain(|former| now < former.until);
    }

    /// For a call: the one in force, then those in force a moment ago.
    pub(crate) fn for_calls(&self, now: Instant) -> Vec<Arc<Generation>> {
        let former = self.former.iter().filter(|former| now < former.until);
        std::iter::once(&self.now).chain(former.map(|former| &former.generation)).map(Arc::clone).collect()
    }

    /// The zone with this name and digest, and the generation it belongs to.
    pub(crate) fn zone(&self, name: &str, digest: &str) -> Option<(Arc<Zone>, Arc<Generation>)> {
        let all = std::iter::once(&self.now).chain(self.former.iter().map(|former| &former.generation));
        let zones = all.filter_map(|one| Some((one.zones.named(name)?, Arc::clone(one))));
        zones.into_iter().find(|(zone, _)| zone.digest() == digest)
    }

    /// The digests of the documents by which somebody may still go.
    pub(crate) fn documents(&self) -> Vec<String> {
        let former = self.former.iter().map(|former| &former.generation);
        std::iter::once(&self.now).chain(former).map(|one| one.document.clone()).collect()
    }
}

/// Of what was written, not of where it was found: two processes may name the file differently.
pub(crate) fn document_digest(document: &DocumentText) -> String {
    let content: (&str, &BTreeMap<String, String>) = (&document.text, &document.attachments);
    let bytes = serde_json::to_vec(&content).expect("texts are JSON");
    digest(&SHA256, &bytes).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn texts<T: ToString>(errors: &[T]) -> Vec<String> {
    errors.iter().map(ToString::to_string).collect()
}

/// How long a call that was decided by the former rules may still ask for its credential: longer than the gateway waits for an answer.
const ON_ITS_WAY: Duration = Duration::from_secs(15);
/// Former documents that a worker may still go by; one that slept through more restarts.
const FORMER: usize = 4;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn former_documents_count_for_calls_on_their_way_and_few_of_them_for_a_worker() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::at(directory.path());
        let document = |number: usize| {
            let text = format!("config = 1 # {number}\n");
            DocumentText { file: "postern.toml".to_owned(), text, attachments: BTreeMap::new() }
        };
        let load = |number| Generation::load(document(number), &BTreeMap::new(), BTreeMap::new(), &store, None);
        let digests =
            |numbers: &[usize]| numbers.iter().map(|number| document_digest(&document(*number))).collect::<Vec<_>>();
        let now = Instant::now();
        let mut generations = Generations::new(load(0).unwrap());
        for number in 1..=FORMER + 1 {
            generations.succeed(load(number).unwrap(), now);
        }
        assert_eq!(generations.documents(), digests(&[5, 4, 3, 2, 1]));
        let for_calls = |at: Instant| generations.for_calls(at).len();
        let almost = ON_ITS_WAY - Duration::from_millis(1);
        assert_eq!([now, now + almost, now + ON_ITS_WAY].map(for_calls), [5, 5, 1]);
        generations.forget_former(now + almost);
        assert_eq!(generations.documents().len(), 5);
        generations.forget_former(now + ON_ITS_WAY);
        assert_eq!(generations.documents(), digests(&[5]));
    }
}
