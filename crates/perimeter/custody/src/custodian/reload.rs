//! Taking up another document: read whole, put on record, then in force. Sessions that are open keep the zone they were opened with.

use std::time::Instant;

use postern_audit::{Decision, Durability, Kind, Record};
use postern_policy::AuditMode;

use super::{CallerKind, Custodian, Refusal, blocking, lock};
use crate::generation::Generation;
use crate::message::Reload;
use crate::source::{files, out_of_reach, outside, route_files};

impl Custodian {
    /// As safe as the zone that a session was opened with wants its records, and as the one of that name in force does. Where there is none of that name
    /// any more, another took its place: that may want them on the disk.
    pub(super) fn as_promised(&self, mut record: Record) -> Record {
        let now = lock(&self.generations).now();
        let on_disk = |name| now.zones.named(name).is_none_or(|zone| zone.audit() == AuditMode::Disk);
        if record.zone.as_deref().is_some_and(on_disk) {
            record.durability = Durability::Disk;
        }
        record
    }

    /// Takes up a document for worker or gateway; answers what is wrong with it, and the former stays then.
    pub(crate) async fn reload(&self, caller: CallerKind, reload: Reload) -> Result<Vec<String>, Refusal> {
        super::holding::require_holder(caller)?;
        let _alone = self.reloading.lock().await;
        let (store, before) = (self.store.clone(), lock(&self.generations).now());
        let read = blocking(move || {
            let Reload { document, environments, snapshot } = reload;
            let next = Generation::load(document, &environments, snapshot, &store, Some(&before.sources))?;
            let sources = files(&next.zones).into_iter().chain(route_files(&next.routes));
            let unreachable: Vec<_> = sources.filter(|file| out_of_reach(file)).map(|file| outside(&file)).collect();
            if unreachable.is_empty() { Ok(next) } else { Err(unreachable) }
        });
        let next = match read.await {
            Ok(next) => next,
            Err(problems) => return Ok(problems),
        };
        self.record(loaded(&next, caller)).await?;
        let now = Instant::now();
        let (before, next) = {
            let mut generations = lock(&self.generations);
            let before = generations.succeed(next, now);
            if caller == CallerKind::Worker {
                generations.forget_former(now);
            }
            (before, generations.now())
        };
        self.leases.end_all();
        let ended = before.routes.iter().filter(|route| !next.keeps(route)).map(|route| route.name.as_str());
        self.route_grants().forget(&ended.collect::<Vec<_>>());
        Ok(Vec::new())
    }

    /// The digests of the documents by which a joining process may go: the one in force, and former ones that somebody may still have.
    pub(crate) fn documents(&self, caller: CallerKind) -> Result<Vec<String>, Refusal> {
        super::require(caller, CallerKind::Worker)?;
        Ok(lock(&self.generations).documents())
    }
}

fn loaded(next: &Generation, caller: CallerKind) -> Record {
    let mut record = Record::new(Kind::ConfigurationLoaded, Decision::Info);
    record.outcome = Some(format!("in custody, for the {}", caller.name()));
    record.digests.insert("routes".to_owned(), next.routes.digest().to_owned());
    record.digests.insert("document".to_owned(), format!("sha256:{}", next.document));
    record
}
