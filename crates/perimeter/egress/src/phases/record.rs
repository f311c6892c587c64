//! Phase: what is written to the audit log, and always before what it says is done. Without a log nothing is done.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use postern_audit::{AuditError, Counted, Decision, Destination, Durability, Kind, Record, Told};
use postern_custody::VaultGrant;
use postern_policy::{AuditMode, Denial, Injection, Location, Permit, Reason, Shadow};

use super::{
    forward::Dialled,
    identify::{Asked, Named},
    inject::Grants,
    pass::Traffic,
};
use crate::{halt::Cut, recognise::Key, session::Session};

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
    /// Of a connection that passes through uninspected: what went each way.
    pub(crate) passed: Option<Arc<Traffic>>,
}

const END_OF_SESSION: &str = "cut short by the end of the session";

/// A permitted request without an outcome yet. However it ends, by a client that goes away or a session that is closed,
/// it has one.
pub(crate) struct Pending {
    session: Option<Arc<Session>>,
    cut: Cut,
    allowed: u64,
    destination: Destination,
    dialled: Dialled,
    /// As far as it came.
    pub(crate) outcome: Outcome,
}

impl Pending {
    /// From the record `allowed` on.
    pub(crate) fn new(session: &Arc<Session>, allowed: u64, destination: Destination, dialled: Dialled) -> Self {
        let cut = session.halt.cut();
        Self { session: Some(session.clone()), cut, allowed, destination, dialled, outcome: Outcome::default() }
    }

    /// The number of the record that it began with.
    pub(crate) fn allowed(&self) -> u64 {
        self.allowed
    }

    /// The same for another task; this one has nothing to say any more.
    pub(crate) fn hand_over(&mut self) -> Self {
        Self {
            session: self.session.take(),
            cut: self.cut.clone(),
            allowed: self.allowed,
            destination: self.destination.clone(),
            dialled: self.dialled.clone(),
            outcome: std::mem::take(&mut self.outcome),
        }
    }

    /// It has ended otherwise, and that is recorded otherwise.
    pub(crate) fn forget(mut self) {
        self.session = None;
    }

    /// It has ended as the outcome says. The record is on its way to the log when this returns, before any other that is
    /// made afterwards; nobody waits for it, for there is nobody left to tell when the log fails now: the next request is refused.
    pub(crate) fn ended(&mut self) {
        let Some(session) = self.session.take() else { return };
        if session.drain.is_started() {
            // What the end of the session looks like to the last to notice.
            self.outcome.ended = END_OF_SESSION;
        }
        let (allowed, outcome) = (self.allowed, std::mem::take(&mut self.outcome));
        let (destination, cut) = (self.dialled.note(self.destination.clone()), self.cut.denial());
        let drain = session.drain.clone();
        // Begun, so that it comes before whatever is written next.
        drain.begin(async move {
            match cut {
                // Cut off all the same where the log fails.
                Some(denial) => {
                    let _unrecorded = refused(&session, Kind::EgressOutcome, destination, &denial, Some(allowed)).await;
                }
                None => ended(&session, allowed, destination, &outcome).await,
            }
        });
    }

    /// It was cut off for a reason.
    pub(crate) async fn refused(&mut self, denial: &Denial) {
        let Some(session) = self.session.clone() else { return };
        let destination = self.dialled.note(self.destination.clone());
        // Cut off all the same where the log fails.
        let _unrecorded = refused(&session, Kind::EgressOutcome, destination, denial, Some(self.allowed)).await;
        self.session = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        if self.session.is_some() {
            self.outcome.ended = "given up by the client";
            self.ended();
        }
    }
}

/// A request is about to be forwarded, with the secrets whose use is recorded before it. One that is given up meanwhile is
/// recorded to its end.
pub(crate) async fn allowed(
    session: &Arc<Session>,
    destination: &Destination,
    permit: &Permit,
    grants: &Grants,
    dialled: &Dialled,
) -> Result<Pending, Denial> {
    if postern_danger::off!("audit-before-act") {
        return Ok(Pending::new(session, 0, destination.clone(), dialled.clone()));
    }
    let mut record = under(session, Kind::EgressRequest, permit);
    record.rule = Some(permit.rule().to_owned());
    record.shadow = permit.shadow().map(shadowed);
    record.destination = Some(destination.clone());
    let placed = permit.injections().first().map(Injection::credential);
    record.credential = placed.or(permit.client_certificate()).map(ToString::to_string);
    let used = |key: &Key| Record {
        credential: Some(key.credential.to_string()),
        outcome: key.vault.as_ref().map(VaultGrant::named),
        ..under(session, Kind::CredentialUse, permit)
    };
    let records = grants.unrecorded().map(used).chain([record]).collect();
    let (session, destination, dialled) = (session.clone(), destination.clone(), dialled.clone());
    let drain = session.drain.clone();
    let begun = async move {
        // The request waits for the answer: until then its record may wait for others.
        let allowed = taken(&session, session.perimeter.audit.record_with_others(records).await)?;
        Ok(Pending::new(&session, allowed, destination, dialled))
    };
    drain.outlasting(begun).await
}

fn under(session: &Session, kind: Kind, permit: &Permit) -> Record {
    let mut record = base(session, kind, Decision::Allow);
    record.digests.insert("policy".to_owned(), permit.policy_digest().to_owned());
    record
}

/// A request or connection is about to be refused, or one that was allowed is cut off, which is always written. Nobody has
/// to wait for it: a client that hangs up hears nothing, and is on record, alarm and all.
pub(crate) async fn refused(
    session: &Arc<Session>,
    kind: Kind,
    destination: Destination,
    denial: &Denial,
    caused_by: Option<u64>,
) -> Result<(), Denial> {
    let (session, denial) = (session.clone(), denial.clone());
    let drain = session.drain.clone();
    drain.outlasting(async move { refusal(&session, kind, destination, &denial, caused_by).await }).await
}

async fn refusal(
    session: &Session,
    kind: Kind,
    destination: Destination,
    denial: &Denial,
    caused_by: Option<u64>,
) -> Result<(), Denial> {
    if postern_danger::off!("refusals-recorded") {
        return Ok(());
    }
    let one = Counted {
        kind,
        reason: denial.reason,
        shadow: denial.shadow.as_deref().map(shadowed),
        refusals: 1,
        alarms: u64::from(denial.alarm),
    };
    if caused_by.is_none() && session.ration.take(&one, Instant::now()) == Told::Counted {
        return Ok(());
    }
    let mut record = base(session, kind, Decision::Deny);
    let destination = withheld(session, destination);
    denied(&mut record, denial);
    record.destination = Some(destination.clone());
    record.caused_by = caused_by;
    let sequence = write(session, record).await?;
    if denial.alarm && !postern_danger::off!("alarms") {
        alarm(session, destination, denial, sequence).await?;
    }
    Ok(())
}

async fn ended(session: &Session, allowed: u64, destination: Destination, outcome: &Outcome) {
    let mut record = base(session, Kind::EgressOutcome, Decision::Info);
    record.caused_by = Some(allowed);
    record.destination = Some(destination);
    record.outcome = Some(outcome.ended.to_owned());
    record.counts.extend(outcome.status.map(|status| ("status".to_owned(), u64::from(status))));
    match &outcome.passed {
        Some(passed) => {
            record.counts.insert("sent_bytes".to_owned(), passed.sent.load(Ordering::Relaxed));
            record.counts.insert("received_bytes".to_owned(), passed.received.load(Ordering::Relaxed));
        }
        None => {
            record.counts.insert("received_bytes".to_owned(), outcome.received_bytes);
            record.counts.insert("scrubbed".to_owned(), outcome.scrubbed);
        }
    }
    if let Err(denial) = write(session, record).await {
        tracing::error!(session = %session.id, reason = denial.reason.code(), "the outcome of a request or connection is not recorded");
    }
}

/// A destination without what is of ours in it: what a refusal is about must not be kept by it.
pub(crate) fn withheld(session: &Session, mut destination: Destination) -> Destination {
    let recogniser = session.recogniser();
    destination.host = destination.host.map(|host| recogniser.withhold(&host));
    destination.path = destination.path.map(|path| recogniser.withhold(&path));
    destination.method = destination.method.map(|method| recogniser.withhold(&method));
    destination
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

/// Where a permitted request goes, without a placeholder that stands in its path.
pub(crate) fn of_permitted(session: &Session, asked: &Asked, permit: &Permit) -> Destination {
    let in_path = permit.injections().iter().any(|injection| matches!(injection.location(), Location::Path(_)));
    if in_path { withheld(session, of_request(asked)) } else { of_request(asked) }
}

/// A record of this session with a reason and nothing else yet.
pub(crate) fn denied(record: &mut Record, denial: &Denial) {
    record.reason = Some(denial.reason.code().to_owned());
    record.next_step = Some(denial.next_step.clone());
    record.rule.clone_from(&denial.rule);
    record.shadow = denial.shadow.as_deref().map(shadowed);
}

/// What a candidate would have done, as it stands in a record.
fn shadowed(shadow: &Shadow) -> postern_audit::Shadow {
    postern_audit::Shadow::new(&shadow.zone, shadow.reason.map(Reason::code), shadow.rule.as_deref())
}

/// A record of this session.
pub(crate) fn base(session: &Session, kind: Kind, decision: Decision) -> Record {
    let mut record = Record::new(kind, decision);
    record.session = Some(session.id.to_string());
    record.agent.clone_from(&session.agent);
    record.tool_use = session.tool_use();
    record.zone = Some(session.zone.name().to_owned());
    record.durability = match session.audit() {
        AuditMode::Written => Durability::Written,
        AuditMode::Disk => Durability::Disk,
    };
    record
}

/// Writes a record; no log, no action.
pub(crate) async fn write(session: &Session, record: Record) -> Result<u64, Denial> {
    write_all(session, vec![record]).await
}

/// Writes records that belong together.
pub(crate) async fn write_all(session: &Session, records: Vec<Record>) -> Result<u64, Denial> {
    taken(session, session.perimeter.audit.record_all(records).await)
}

fn taken(session: &Session, recorded: Result<u64, AuditError>) -> Result<u64, Denial> {
    recorded.map_err(|error| {
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
