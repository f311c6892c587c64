//! Phase: what is written to the audit log, and always before what it says is done. Without a log nothing is done.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use postern_audit::{AuditError, Counted, Decision, Destination, Durability, Kind, Record, Told};
use postern_policy::{AuditMode, Denial, McpPermit, Reason, Shadow, gateway::Route};
use postern_tunnel::identity::{Claims, Purpose};

use super::{credential, message::Asked};
use crate::{gateway::Gateway, sessions::Session};

/// What is known of one request so far: as much as a record or a refusal may say.
#[derive(Clone, Default)]
pub(crate) struct Known {
    /// The TLS name.
    pub(crate) host: String,
    /// Who calls, once that is verified.
    pub(crate) claims: Option<Claims>,
    /// Where to.
    pub(crate) route: Option<Arc<Route>>,
    /// What for.
    pub(crate) asked: Option<Asked>,
    /// The caller's session here.
    pub(crate) session: Option<Arc<Session>>,
    /// The zone's word.
    pub(crate) permit: Option<McpPermit>,
    /// The record that allowed it.
    pub(crate) allowed: Option<u64>,
    /// The upstream's address.
    pub(crate) address: Option<String>,
    /// Whether the upstream may have acted.
    pub(crate) sent: bool,
    /// What the upstream said about it, scrubbed and short.
    pub(crate) detail: Option<String>,
    /// How long the phases took.
    pub(crate) timing: Timing,
}

/// How long the phases took.
#[derive(Clone, Copy, Default)]
pub(crate) struct Timing {
    /// Identity and authority.
    pub(crate) identity: Duration,
    /// From there to the record.
    pub(crate) policy: Duration,
    /// From there to the head of the upstream's answer.
    pub(crate) upstream: Duration,
}

/// A permitted request without an outcome yet. However it ends, by a caller that goes away or a session that is held, it
/// has one.
pub(crate) struct Pending {
    gateway: Arc<Gateway>,
    record: Option<Record>,
}

impl Pending {
    /// From the record that allowed it on.
    pub(crate) fn new(gateway: &Arc<Gateway>, known: &Known) -> Self {
        let mut record = base(gateway, known, Kind::McpOutcome, Decision::Info);
        record.caused_by = known.allowed;
        Self { gateway: Arc::clone(gateway), record: Some(record) }
    }

    /// Something to be counted.
    pub(crate) fn count(&mut self, what: &str, many: u64) {
        if let Some(record) = &mut self.record {
            *record.counts.entry(what.to_owned()).or_default() += many;
        }
    }

    /// It ended so. The record is on its way to the log when this returns, before any other that is made afterwards; nobody waits for it, for there is
    /// nobody left to tell when the log fails now: the next request is refused.
    pub(crate) fn ended(&mut self, how: &str) {
        let Some(mut record) = self.record.take() else { return };
        record.outcome = Some(how.to_owned());
        let gateway = Arc::clone(&self.gateway);
        self.gateway.drain.begin(async move {
            let _logged = write(&gateway, record).await;
        });
    }

    /// The same for another task; this one has nothing to say any more.
    pub(crate) fn hand_over(&mut self) -> Self {
        Self { gateway: Arc::clone(&self.gateway), record: self.record.take() }
    }

    /// It is recorded as a refusal instead.
    pub(crate) fn forget(&mut self) {
        self.record = None;
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.ended("given up by the caller");
    }
}

/// The request is about to go out. Answers the record's number.
pub(crate) async fn allowed(gateway: &Gateway, known: &Known) -> Result<u64, Denial> {
    if postern_danger::off!("audit-before-act") {
        return Ok(0);
    }
    write(gateway, base(gateway, known, Kind::McpCall, Decision::Allow)).await
}

/// The request is about to be refused.
pub(crate) async fn refused(gateway: &Gateway, known: &Known, denial: &Denial) -> Result<(), Denial> {
    if postern_danger::off!("refusals-recorded") {
        return Ok(());
    }
    let kind = if known.allowed.is_some() { Kind::McpOutcome } else { Kind::McpCall };
    if known.allowed.is_none() && ration(gateway, known, kind, denial) == Told::Counted {
        return Ok(());
    }
    let mut record = base(gateway, known, kind, Decision::Deny);
    record.caused_by = known.allowed;
    denied(&mut record, denial);
    let sequence = write(gateway, record).await?;
    if denial.alarm && !postern_danger::off!("alarms") {
        let mut alarm = base(gateway, known, Kind::Alarm, Decision::Info);
        alarm.caused_by = Some(sequence);
        denied(&mut alarm, denial);
        write(gateway, alarm).await?;
    }
    Ok(())
}

/// The connector refused something at its own door, so often: no session is known there, and no call. What is beyond the ration is counted.
pub(crate) async fn refused_outside(gateway: &Gateway, denial: &Denial, times: u64) -> Result<(), Denial> {
    let kind = Kind::McpCall;
    let Some(others) = times.checked_sub(1) else { return Ok(()) };
    if others > 0 {
        gateway.rations.count("", &Counted { refusals: others, ..counts(kind, denial) });
    }
    if gateway.rations.take("", &counts(kind, denial), Instant::now()) == Told::Counted {
        return Ok(());
    }
    let mut record = Record::new(kind, Decision::Deny);
    record.destination =
        Some(Destination { scheme: Some("tunnel".to_owned()), host: gateway.link().domain, ..Destination::default() });
    denied(&mut record, denial);
    write(gateway, record).await.map(drop)
}

/// Takes a refusal's share of its session's ration; whoever is not known shares one.
fn ration(gateway: &Gateway, known: &Known, kind: Kind, denial: &Denial) -> Told {
    let session = known.claims.as_ref().map_or("", |claims| claims.sub.as_str());
    gateway.rations.take(session, &counts(kind, denial), Instant::now())
}

fn counts(kind: Kind, denial: &Denial) -> Counted<Reason> {
    let shadow = denial.shadow.as_deref().map(shadowed);
    Counted { kind, reason: denial.reason, shadow, refusals: 1, alarms: u64::from(denial.alarm) }
}

/// Writes the refusals that were counted until now. What the log does not take stays counted.
pub(crate) async fn counted(gateway: &Gateway) {
    for (session, counted) in gateway.rations.drain(Instant::now()) {
        let base = |kind, decision| {
            let mut record = Record::new(kind, decision);
            record.session = Some(session.clone()).filter(|session| !session.is_empty());
            denied(&mut record, &Denial::new(counted.reason));
            record
        };
        for record in counted.records(base) {
            if write(gateway, record).await.is_err() {
                gateway.rations.count(&session, &counted);
                break;
            }
        }
    }
}

/// A text of an agent's, unless it holds what nobody should keep.
pub(crate) fn withheld(gateway: &Gateway, known: &Known, text: &str) -> String {
    let session = known.claims.as_ref().map_or("", |claims| claims.sub.as_str());
    let ours = gateway.catalogue.listed().refusal(session, text.as_bytes()).is_some()
        || crate::catalogue::marked(text.as_bytes())
        || known.session.as_ref().is_some_and(|session| session.keyring().is_in(text.as_bytes()));
    if ours { "[withheld]".to_owned() } else { text.to_owned() }
}

fn base(gateway: &Gateway, known: &Known, kind: Kind, decision: Decision) -> Record {
    let mut record = Record::new(kind, decision);
    if let Some(claims) = &known.claims {
        record.session = Some(claims.sub.clone());
        record.tool_use.clone_from(&claims.tool_use);
        record.digests.insert("input".to_owned(), format!("sha256:{}", claims.body));
        if claims.purpose == Purpose::Call {
            record.agent = Some(credential::agent(claims));
        }
    }
    if let Some(permit) = &known.permit {
        record.zone = Some(permit.zone().to_owned()).filter(|zone| !zone.is_empty());
        record.rule = Some(permit.rule().to_owned());
        record.shadow = permit.shadow().map(shadowed);
        record.digests.insert("policy".to_owned(), permit.policy_digest().to_owned());
        record.durability = match permit.audit() {
            AuditMode::Written => Durability::Written,
            AuditMode::Disk => Durability::Disk,
        };
    }
    record.credential = known.route.as_ref().filter(|route| route.credential.is_some()).map(|route| route.name.clone());
    record.destination = Some(destination(gateway, known));
    record
}

/// The route as host, the MCP method as method, the tool as path.
fn destination(gateway: &Gateway, known: &Known) -> Destination {
    let asked = known.asked.as_ref();
    Destination {
        scheme: Some("mcp".to_owned()),
        host: Some(known.route.as_ref().map_or_else(|| known.host.clone(), |route| route.name.clone())),
        port: None,
        method: asked.map(|asked| withheld(gateway, known, asked.described())),
        path: asked.and_then(Asked::call).map(|call| withheld(gateway, known, call.tool)),
        address: known.address.clone(),
    }
}

/// What a candidate would have done, as it stands in a record.
fn shadowed(shadow: &Shadow) -> postern_audit::Shadow {
    postern_audit::Shadow::new(&shadow.zone, shadow.reason.map(Reason::code), shadow.rule.as_deref())
}

fn denied(record: &mut Record, denial: &Denial) {
    record.reason = Some(denial.reason.code().to_owned());
    record.next_step = Some(denial.next_step.clone());
    record.shadow = denial.shadow.as_deref().map(shadowed);
    if denial.rule.is_some() {
        record.rule.clone_from(&denial.rule);
    }
}

/// Writes a record.
pub(crate) async fn write(gateway: &Gateway, record: Record) -> Result<u64, Denial> {
    gateway.audit.record(record).await.map_err(|error: AuditError| {
        tracing::error!(%error, "the audit log does not take records");
        gateway.troubles.note(Reason::AuditUnavailable.code(), error.to_string());
        Denial::new(Reason::AuditUnavailable)
    })
}
