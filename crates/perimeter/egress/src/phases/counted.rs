//! Phase: the records of refusals that were counted instead of written one by one: one for each kind and reason, a while after the first of them,
//! and when the session ends.

use std::sync::Arc;

use postern_audit::{Counted, Record};
use postern_policy::{Denial, Reason};

use super::record;
use crate::session::Session;

/// Writes counts whenever there are some, until the session ends.
pub(crate) async fn write_in_time(session: Arc<Session>) {
    loop {
        session.ration.counting().await;
        tokio::time::sleep(session.perimeter.bounds.refusals_counted).await;
        write(&session).await;
    }
}

/// Writes what was counted until now. What the log does not take stays counted.
pub(crate) async fn write(session: &Session) {
    for counted in session.ration.drain() {
        let written = record::write_all(session, records(session, &counted)).await;
        if written.is_err() {
            let Counted { reason, refusals, .. } = &counted;
            tracing::error!(session = %session.id, reason = reason.code(), refusals, "refusals without a record of their own");
            session.ration.count(&counted);
        }
    }
}

fn records(session: &Session, counted: &Counted<Reason>) -> Vec<Record> {
    counted.records(|kind, decision| {
        let mut record = record::base(session, kind, decision);
        record::denied(&mut record, &Denial::new(counted.reason));
        record
    })
}
