//! What commands need of the perimeter: which sessions there are, a record, and bringing egress, custody and sandbox to what the roster says.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use postern_audit::{AuditError, Record};
use postern_custody::{CustodyError, RefusalReason, Withheld};
use postern_egress::client::EgressError;
use postern_model::control::CommandRefusal;
use postern_model::ids::SessionId;
use postern_secret::seal::{Recipient, SealedCredential, SealedVariable, Wrap};
use tokio::sync::OwnedMutexGuard;

use super::Parts;
use crate::place::{Place, PlaceError};
use crate::roster::{Roster, Standing};
use crate::session::chain;

/// The perimeter as commands reach it; cheap to clone.
#[derive(Clone)]
pub(crate) struct Commands {
    pub(super) parts: Arc<Parts>,
}

impl Commands {
    /// Which sessions there are.
    pub(crate) fn roster(&self) -> &Arc<Roster> {
        &self.parts.roster
    }

    /// The place of a session that was here once, or is.
    pub(crate) fn place(&self, session: &str) -> Option<Place> {
        self.parts.places.existing(session)
    }

    /// Whom files in the session's workspace belong to.
    pub(crate) fn owner(&self, place: &Place) -> Result<Option<u32>, PlaceError> {
        self.parts.places.kernel_uid(place)
    }

    /// Writes a record.
    pub(crate) async fn append(&self, record: &Record) -> Result<u64, AuditError> {
        self.parts.audit.append(record).await
    }

    /// The newest record that this worker wrote.
    pub(crate) fn audit_head(&self) -> Option<u64> {
        self.parts.audit.head()
    }

    /// One command about a session at a time: of a freeze and a thaw that come together, one is in effect, in memory and on disk alike.
    pub(crate) async fn order(&self, session: &str) -> OwnedMutexGuard<()> {
        self.parts.orders.turn(session).await
    }

    /// Custody grants for the session again, to whoever asks on this host; on record when this returns.
    ///
    /// # Errors
    /// It is not on record, or custody does not answer.
    pub(crate) async fn thaw_grants(&self, session: &str) -> Result<(), CommandRefusal> {
        in_custody(self.parts.custody.thaw(session).await)
    }

    /// Tells custody what the session's vaults have now; effective when this returns. Kept, so that a session that is opened again by this worker opens by it.
    /// Answers what its sandbox does not get.
    ///
    /// # Errors
    /// The session is not open here, or a part of the perimeter does not answer.
    pub(crate) async fn refresh(
        &self,
        session: &SessionId,
        place: Place,
        variables: Vec<SealedVariable>,
    ) -> Result<Vec<Withheld>, CommandRefusal> {
        let _alone = self.parts.openings.turn(session.as_str()).await;
        let sent = variables.clone();
        let kept = tokio::task::spawn_blocking(move || place.renew_variables(&sent)).await;
        match self.parts.custody.refresh(session.as_str(), variables).await {
            Ok(withheld) => {
                let kept = kept.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
                kept.map(|()| withheld).map_err(|error| {
                    tracing::error!(%error, "the variables of a session's vaults are in force and not kept");
                    CommandRefusal::new(
                        "worker_storage",
                        "they are in force until the worker is started again",
                        "an operator frees space on the worker's disk",
                    )
                })
            }
            Err(CustodyError::Refused(refusal)) if refusal.reason == RefusalReason::SessionNotOpen => {
                Err(CommandRefusal::not_held(session))
            }
            Err(error) => in_custody(Err(error)).map(|()| Vec::new()),
        }
    }

    /// Has custody wrap keys for another perimeter.
    ///
    /// # Errors
    /// Custody refuses, or does not answer.
    pub(crate) async fn rewrap(
        &self,
        values: Vec<SealedCredential>,
        to: Recipient,
    ) -> Result<Vec<Option<Wrap>>, CommandRefusal> {
        self.parts.custody.rewrap(values, to).await.map_err(|error| match error {
            CustodyError::Refused(refusal) => CommandRefusal::new(
                refusal.reason.code(),
                "the perimeter does not pass on what is sealed to it",
                refusal.next_step,
            ),
            CustodyError::Gone | CustodyError::Misanswered => gone(&error),
        })
    }

    /// Brings the session to what the roster says; effective when this returns.
    ///
    /// # Errors
    /// A part of the perimeter does not answer: then the worker ends with it, and everything of the session.
    pub(crate) async fn apply(&self, session: &str) -> Result<(), CommandRefusal> {
        self.parts.apply(session).await
    }
}

impl Parts {
    /// One change at a time for a session, so that of a freeze and a thaw the later one stays.
    pub(super) async fn apply(&self, session: &str) -> Result<(), CommandRefusal> {
        let _turn = self.turns.turn(session).await;
        let Standing { frozen, revoked } = self.roster.standing(session);
        let traffic =
            async { if frozen { self.egress.freeze(session).await } else { self.egress.thaw(session).await } };
        let processes =
            async { if frozen { self.spawner.pause(session).await } else { self.spawner.resume(session).await } };
        // All at once, and each to its end whatever becomes of the others.
        let (traffic, processes, grants) =
            tokio::join!(traffic, processes, self.hold_grants(session, Standing { frozen, revoked }));
        if_open(traffic)?;
        processes.map_err(|error| gone(&error))?;
        grants
    }

    /// What custody holds back, it holds back from a gateway on this host too; it also keeps the record, once for both.
    async fn hold_grants(&self, session: &str, Standing { frozen, revoked }: Standing) -> Result<(), CommandRefusal> {
        if frozen {
            in_custody(self.custody.freeze(session).await)?;
        }
        if revoked {
            let dropped = if_open(self.egress.revoke(session).await);
            in_custody(self.custody.revoke_grants(session).await)?;
            dropped?;
        }
        Ok(())
    }
}

/// What custody says of a hold. It is in effect even where it is not on record or on disk.
fn in_custody(answer: Result<(), CustodyError>) -> Result<(), CommandRefusal> {
    match answer {
        Ok(()) => Ok(()),
        Err(CustodyError::Refused(refusal)) => {
            tracing::error!(error = chain(&refusal), "custody did not obey in full");
            let code = refusal.reason.code();
            Err(CommandRefusal::new(
                code,
                refusal.to_string(),
                "an operator repairs the audit log or the worker's disk",
            ))
        }
        Err(error @ (CustodyError::Gone | CustodyError::Misanswered)) => Err(gone(&error)),
    }
}

/// A session that has no exit needs none closed.
fn if_open(answer: Result<(), EgressError>) -> Result<(), CommandRefusal> {
    match answer {
        Err(EgressError::Failed { code, .. }) if code == "session_unknown" => Ok(()),
        Err(error) => Err(gone(&error)),
        Ok(()) => Ok(()),
    }
}

fn gone(error: &(dyn std::error::Error + 'static)) -> CommandRefusal {
    tracing::error!(error = chain(error), "a part of the perimeter did not obey");
    CommandRefusal::new(
        "perimeter_part_failed",
        "a part of the perimeter did not answer; the worker ends with it and comes back with the command in force",
        "ask for the perimeter's status, then send it again",
    )
}

/// The audit log, and how far this worker has written it.
pub(super) struct Log {
    client: postern_audit::Client,
    /// One more than the newest, so that 0 is none.
    head: AtomicU64,
}

impl Log {
    pub(super) fn new(client: postern_audit::Client) -> Self {
        Self { client, head: AtomicU64::new(0) }
    }

    pub(super) async fn append(&self, record: &Record) -> Result<u64, AuditError> {
        let seq = self.client.append(record).await?;
        self.head.fetch_max(seq.saturating_add(1), Ordering::Relaxed);
        Ok(seq)
    }

    pub(super) fn client(&self) -> &postern_audit::Client {
        &self.client
    }

    fn head(&self) -> Option<u64> {
        self.head.load(Ordering::Relaxed).checked_sub(1)
    }
}
