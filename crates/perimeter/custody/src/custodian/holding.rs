//! Freezing, thawing and revoking: what an operator's word does to a session's grants, whoever asks for them.

use std::sync::Arc;

use jiff::Timestamp;
use postern_audit::{Decision, Kind};

use super::{Custodian, Refusal, RefusalReason, about, blocking, lock, require};
use crate::holds::{Hold, Holds};
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

    /// The hold comes first, for stopping must not wait for a disk; a thaw is recorded before it is done.
    async fn hold(
        &self,
        caller: CallerKind,
        session: &str,
        what: Kind,
        change: fn(&mut Holds, &str, Timestamp) -> std::io::Result<()>,
    ) -> Result<(), Refusal> {
        require_holder(caller)?;
        let mut record = about(what, Decision::Info, session, None, None);
        record.outcome = Some("in custody, for all that is granted from here".to_owned());
        let lifts = what == Kind::SessionThawed;
        if lifts {
            self.record(record.clone()).await?;
        }
        let (holds, name) = (Arc::clone(&self.holds), session.to_owned());
        let written = blocking(move || change(&mut lock(&holds), &name, Timestamp::now())).await;
        if !lifts {
            self.record(record).await?;
        }
        written.map_err(|error| {
            let next = format!("it holds until custody ends: its directory cannot be written ({})", error.kind());
            Refusal::new(RefusalReason::LedgerUnwritable, next)
        })
    }

    pub(super) fn not_revoked(&self, session: &str) -> Result<(), Refusal> {
        self.not_held(session, Purpose::Recognise)
    }

    /// A frozen session's secrets are still recognised, so that what comes back is scrubbed; none is injected.
    pub(super) fn not_held(&self, session: &str, purpose: Purpose) -> Result<(), Refusal> {
        match (lock(&self.holds).of(session), purpose) {
            (None, _) | (Some(Hold::Frozen { .. }), Purpose::Recognise) => Ok(()),
            (Some(Hold::Frozen { .. }), Purpose::Inject) => Err(Refusal::new(
                RefusalReason::SessionFrozen,
                "an operator froze this session: wait until it is thawed",
            )),
            (Some(Hold::Revoked { .. }), _) => Err(Refusal::new(
                RefusalReason::GrantsRevoked,
                "an operator revoked this session's grants: start another session",
            )),
        }
    }
}

/// Freezing and revoking is for those who serve the control stream.
fn require_holder(caller: CallerKind) -> Result<(), Refusal> {
    match caller {
        CallerKind::Worker | CallerKind::Gateway => Ok(()),
        CallerKind::Egress => require(caller, CallerKind::Worker),
    }
}
