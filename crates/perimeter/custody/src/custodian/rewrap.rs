//! Passing on what is sealed to this perimeter: the keys of values are wrapped for another one. The operator of this machine approved it before; the control
//! plane, which asks, could name a key of its own.

use postern_audit::{Decision, Kind, Record};
use postern_secret::seal::{Recipient, SealedCredential, Wrap};

use super::{Custodian, Refusal, RefusalReason, blocking, require};
use crate::message::CallerKind;

impl Custodian {
    /// A wrap for each value, or none for one that does not open here. On record before it is answered.
    pub(crate) async fn rewrap(
        &self,
        caller: CallerKind,
        values: &[SealedCredential],
        to: &Recipient,
    ) -> Result<Vec<Option<Wrap>>, Refusal> {
        require(caller, CallerKind::Worker)?;
        if let Err(refusal) = self.approves(to).await {
            let record = Record::new(refusal.reason.kind(), Decision::Deny);
            self.note(&refusal, record).await;
            return Err(refusal);
        }
        let wraps: Vec<_> = values.iter().map(|value| self.opener.wrap_for(value, to).ok()).collect();
        for (value, _) in values.iter().zip(&wraps).filter(|(_, wrap)| wrap.is_some()) {
            let mut record = Record::new(Kind::CredentialGranted, Decision::Allow);
            record.credential = Some(value.binding.credential.clone());
            record.outcome = Some(format!("its key wrapped for the perimeter {} ({})", to.perimeter_id, to.public_key));
            self.record(record).await?;
        }
        Ok(wraps)
    }

    async fn approves(&self, to: &Recipient) -> Result<(), Refusal> {
        let approved = self.approved.clone();
        let next = match blocking(move || approved.keys()).await {
            Ok(keys) if keys.contains(&to.public_key) => return Ok(()),
            Ok(_) => format!(
                "compare the key with what `postern perimeter key` prints there, then run `postern perimeter approve {}` on this perimeter's machine",
                to.public_key
            ),
            Err(error) => {
                format!("the list of approved perimeters cannot be read ({}): repair custody's directory", error.kind())
            }
        };
        Err(Refusal::new(RefusalReason::PerimeterNotApproved, next))
    }
}
