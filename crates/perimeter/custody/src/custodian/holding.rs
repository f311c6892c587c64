//! Freezing, thawing and revoking: what an operator's word does to a session's grants, whoever asks for them.

use std::sync::Arc;

use jiff::Timestamp;
use postern_audit::{Decision, Kind, Record};

use super::{Custodian, Refusal, RefusalReason, about, blocking, lock, require};
use crate::holds::{Change, Hold, Holds};
use crate::message::{CallerKind, Purpose};

impl Custodian {
    /// Freezes a session, for worker or gateway.
    pub(crate) async fn freeze(&self, caller: CallerKind, session: &str) -> Result<(), Refusal> {
        self.hold(caller, session, Kind::SessionFrozen, Holds::freeze).await
    }

    /// Thaws a session, for worker or gateway.
    pub(crate) async fn thaw(&self, caller: CallerKind, session: &str) -> Result<(), Refusal> {
        self.hold(caller, session, Kind::SessionThawed, Holds::thaw).await
    }

    /// Revokes a session's grants for good, for worker or gateway.
    pub(crate) async fn revoke_grants(&self, caller: CallerKind, session: &str) -> Result<(), Refusal> {
        require_holder(caller)?;
        let held = self.hold(caller, session, Kind::GrantsRevoked, Holds::revoke).await;
        // Whatever became of the record: what was granted ends.
        let ended = self.end_session(session).await.and(self.close_route_grants(session).await);
        held.and(ended)
    }

    /// The hold comes first, for stopping must not wait for a disk; a thaw is recorded before it is done. Worker and gateway of one host are told
    /// the same thing each: it is on record once.
    async fn hold(
        &self,
        caller: CallerKind,
        session: &str,
        what: Kind,
        change: fn(&mut Holds, &str, Timestamp) -> Change,
    ) -> Result<(), Refusal> {
        require_holder(caller)?;
        let written = if what == Kind::SessionThawed {
            let _turn = self.recording_holds.lock().await;
            if lock(&self.holds).of(session).frozen.is_some() {
                self.record(held_record(what, session)).await?;
            }
            self.change(session, change).await.written
        } else {
            let Change { changed, written } = self.change(session, change).await;
            let mut owed = self.recording_holds.lock().await;
            let this = (session.to_owned(), what);
            if changed || owed.contains(&this) {
                owed.insert(this.clone());
                self.record(held_record(what, session)).await?;
                owed.remove(&this);
            }
            written
        };
        written.map_err(|error| {
            let next = format!("it holds until custody ends: its directory cannot be written ({})", error.kind());
            Refusal::new(RefusalReason::LedgerUnwritable, next)
        })
    }

    async fn change(&self, session: &str, change: fn(&mut Holds, &str, Timestamp) -> Change) -> Change {
        let (holds, leases, name) = (Arc::clone(&self.holds), Arc::clone(&self.leases), session.to_owned());
        // In one piece, whoever waits for it: what is kept elsewhere ends with the change.
        blocking(move || {
            let change = change(&mut lock(&holds), &name, Timestamp::now());
            leases.end(&name);
            change
        })
        .await
    }

    pub(super) fn not_revoked(&self, session: &str) -> Result<(), Refusal> {
        self.not_held(session, Purpose::Recognise)
    }

    /// A frozen session's secrets are still recognised, so that what comes back is scrubbed; none is injected.
    pub(super) fn not_held(&self, session: &str, purpose: Purpose) -> Result<(), Refusal> {
        let Hold { frozen, revoked } = lock(&self.holds).of(session);
        if revoked.is_some() {
            return Err(Refusal::new(
                RefusalReason::GrantsRevoked,
                "an operator revoked this session's grants: start another session",
            ));
        }
        match purpose {
            Purpose::Inject if frozen.is_some() => Err(Refusal::new(
                RefusalReason::SessionFrozen,
                "an operator froze this session: wait until it is thawed",
            )),
            Purpose::Inject | Purpose::Recognise => Ok(()),
        }
    }
}

fn held_record(what: Kind, session: &str) -> Record {
    let mut record = about(what, Decision::Info, session, None, None);
    record.rule = Some("control-stream".to_owned());
    record
}

/// Freezing and revoking is for those who serve the control stream.
pub(super) fn require_holder(caller: CallerKind) -> Result<(), Refusal> {
    match caller {
        CallerKind::Worker | CallerKind::Gateway => Ok(()),
        CallerKind::Egress => require(caller, CallerKind::Worker),
    }
}
