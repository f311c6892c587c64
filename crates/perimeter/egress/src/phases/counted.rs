//! Phase: the records of refusals that were counted instead of written one by one: one for each kind and reason, a while after the first of them,
//! and when the session ends.

use std::sync::Arc;

use postern_audit::{Decision, Kind, Record};
use postern_policy::Denial;

use super::record;
use crate::{ration::Counted, session::Session};

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

fn records(session: &Session, counted: &Counted) -> Vec<Record> {
    let Counted { kind, reason, refusals, alarms } = *counted;
    let of = |kind, decision, name: &str, number| {
        let mut record = record::base(session, kind, decision);
        // Of no tool use more than of another.
        record.tool_use = None;
        record::denied(&mut record, &Denial::new(reason));
        record.outcome = Some("counted: more refusals of one reason than are written one by one".to_owned());
        record.counts.insert(name.to_owned(), number);
        record
    };
    let alarm = (alarms > 0).then(|| of(Kind::Alarm, Decision::Info, "alarms", alarms));
    [of(kind, Decision::Deny, "refusals", refusals)].into_iter().chain(alarm).collect()
}
