//! Phase: what is written to the audit log, and always before what it says is done. Without a log nothing is done.

use postern_audit::{AuditError, Decision, Destination, Kind, Record};
use postern_policy::{Denial, Permit, Reason};

use super::identify::{Asked, Named};
use crate::session::Session;

/// How a permitted request ended.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// In a few words: `answered`, `cut short by the client`, ...
    pub(crate) ended: &'static str,
    /// The upstream's status.
    pub(crate) status: Option<u16>,
    /// Bytes of the response body, decoded.
    pub(crate) received_bytes: u64,
    /// Secrets put back to placeholders.
    pub(crate) scrubbed: u64,
}

/// A request is about to be forwarded. Answers the record's number.
pub(crate) async fn allowed(session: &Session, asked: &Asked, permit: &Permit) -> Result<u64, Denial> {
    let mut record = base(session, Kind::EgressRequest, Decision::Allow);
    record.rule = Some(permit.rule().to_owned());
    record.destination = Some(of_request(asked));
    record.credential = permit.injections().first().map(|injection| injection.credential().as_str().to_owned());
    record.digests.insert("policy".to_owned(), permit.policy_digest().to_owned());
    write(session, record).await
}

/// A request is about to be refused.
pub(crate) async fn refused(
    session: &Session,
    kind: Kind,
    destination: Destination,
    denial: &Denial,
    caused_by: Option<u64>,
) -> Result<u64, Denial> {
    let mut record = base(session, kind, Decision::Deny);
    denied(&mut record, denial);
    record.destination = Some(destination.clone());
    record.caused_by = caused_by;
    let sequence = write(session, record).await?;
    if denial.alarm {
        alarm(session, destination, denial, sequence).await?;
    }
    Ok(sequence)
}

/// A permitted request has ended. There is nobody left to tell when the log fails now; the next request is refused.
pub(crate) async fn ended(session: &Session, allowed: u64, outcome: &Outcome) {
    let mut record = base(session, Kind::EgressOutcome, Decision::Info);
    record.caused_by = Some(allowed);
    record.outcome = Some(outcome.ended.to_owned());
    record.counts.extend(outcome.status.map(|status| ("status".to_owned(), u64::from(status))));
    record.counts.insert("received_bytes".to_owned(), outcome.received_bytes);
    record.counts.insert("scrubbed".to_owned(), outcome.scrubbed);
    if let Err(denial) = write(session, record).await {
        tracing::error!(session = %session.id, reason = denial.reason.code(), "the outcome of a request is not recorded");
    }
}

/// A connection ended before there was a request.
pub(crate) fn of_connection(named: &Named, scheme: &str) -> Destination {
    Destination {
        scheme: Some(scheme.to_owned()),
        host: Some(named.host.to_string()),
        port: Some(named.port.number()),
        ..Destination::default()
    }
}

/// Where a request goes. The query is left out: it may hold what nobody should keep.
pub(crate) fn of_request(asked: &Asked) -> Destination {
    Destination {
        method: Some(asked.method.as_str().to_owned()),
        path: Some(asked.path.as_str().to_owned()),
        ..of_connection(&asked.named, asked.scheme.as_str())
    }
}

/// A record of this session with a reason and nothing else yet.
pub(crate) fn denied(record: &mut Record, denial: &Denial) {
    record.reason = Some(denial.reason.code().to_owned());
    record.next_step = Some(denial.next_step.clone());
    record.rule.clone_from(&denial.rule);
}

/// A record of this session.
pub(crate) fn base(session: &Session, kind: Kind, decision: Decision) -> Record {
    let mut record = Record::new(kind, decision);
    record.session = Some(session.id.to_string());
    record.agent.clone_from(&session.agent);
    record.tool_use = session.tool_use();
    record.zone = Some(session.zone.name().to_owned());
    record
}

/// Writes a record; no log, no action.
pub(crate) async fn write(session: &Session, record: Record) -> Result<u64, Denial> {
    session.perimeter.audit.record(record).await.map_err(|error: AuditError| {
        tracing::error!(session = %session.id, %error, "the audit log does not take records");
        Denial::new(Reason::AuditUnavailable)
    })
}

async fn alarm(session: &Session, destination: Destination, denial: &Denial, caused_by: u64) -> Result<u64, Denial> {
    let mut record = base(session, Kind::Alarm, Decision::Info);
    denied(&mut record, denial);
    record.destination = Some(destination);
    record.caused_by = Some(caused_by);
    write(session, record).await
}
