//! What the gateway asks of custody. A trait, so that a decision about a refusing custody can be tested without one.

use std::pin::Pin;

use postern_custody::{
    CustodyError, FreshTokens, GatewayClient, KeptAnswer, KnownPlaceholder, RefreshGrant, Refreshing, RefusalReason,
    Reload, Renewed, RouteGrant,
};
use postern_policy::{Denial, Reason};
use postern_secret::SecretBytes;
use tokio::time::timeout;

use crate::limits;

/// An answer that comes later.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Whoever hands out secrets.
pub(crate) trait Custodian: Send + Sync {
    /// The secret for one call; custody has recorded the use when it answers.
    fn grant(&self, grant: RouteGrant) -> Later<'_, Result<SecretBytes, Denial>>;

    /// What one refresh takes; on record when it is answered.
    fn refresh(&self, grant: RefreshGrant) -> Later<'_, Result<Refreshing, Denial>>;

    /// Seals what a token endpoint answered, and keeps it.
    fn seal(&self, fresh: FreshTokens) -> Later<'_, Result<Renewed, Denial>>;

    /// The same for what was sealed to this perimeter and kept here, because custody could not take it then.
    fn seal_kept(&self, routes_digest: String, answer: KeptAnswer) -> Later<'_, Result<Renewed, Denial>>;

    /// Every placeholder to recognise.
    fn placeholders(&self) -> Later<'_, Result<Vec<KnownPlaceholder>, Denial>>;

    /// Says that the session's copies are gone here.
    fn close<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>>;

    /// Holds back all grants of a session until it is thawed.
    fn freeze<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>>;

    /// Ends a freeze.
    fn thaw<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>>;

    /// Ends a session's grants for good.
    fn revoke<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>>;

    /// Puts another document in force; what is wrong with it, where it does not.
    fn reload(&self, reload: Reload) -> Later<'_, Result<(), Vec<String>>>;
}

impl Custodian for GatewayClient {
    fn grant(&self, grant: RouteGrant) -> Later<'_, Result<SecretBytes, Denial>> {
        Box::pin(in_time(async move { Self::grant(self, grant).await }))
    }

    fn refresh(&self, grant: RefreshGrant) -> Later<'_, Result<Refreshing, Denial>> {
        Box::pin(in_time(Self::refresh(self, grant)))
    }

    fn seal(&self, fresh: FreshTokens) -> Later<'_, Result<Renewed, Denial>> {
        Box::pin(in_time(Self::seal(self, fresh)))
    }

    fn seal_kept(&self, routes_digest: String, answer: KeptAnswer) -> Later<'_, Result<Renewed, Denial>> {
        Box::pin(in_time(Self::seal_kept(self, routes_digest, answer)))
    }

    fn placeholders(&self) -> Later<'_, Result<Vec<KnownPlaceholder>, Denial>> {
        Box::pin(in_time(Self::placeholders(self)))
    }

    fn close<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        Box::pin(in_time(Self::close(self, session)))
    }

    fn freeze<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        Box::pin(in_time(Self::freeze(self, session)))
    }

    fn thaw<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        Box::pin(in_time(Self::thaw(self, session)))
    }

    fn revoke<'a>(&'a self, session: &'a str) -> Later<'a, Result<(), Denial>> {
        Box::pin(in_time(self.revoke_grants(session)))
    }

    fn reload(&self, reload: Reload) -> Later<'_, Result<(), Vec<String>>> {
        Box::pin(async move {
            match timeout(limits::CUSTODY_RELOADS, Self::reload(self, reload)).await {
                Ok(Ok(problems)) if problems.is_empty() => Ok(()),
                Ok(Ok(problems)) => Err(problems),
                Ok(Err(error)) => Err(vec![error.to_string()]),
                Err(_) => Err(vec!["custody does not answer; restart the gateway".to_owned()]),
            }
        })
    }
}

async fn in_time<T>(asking: impl Future<Output = Result<T, CustodyError>>) -> Result<T, Denial> {
    match timeout(limits::CUSTODY, asking).await {
        Ok(answer) => answer.map_err(|error| denied(&error)),
        Err(_) => Err(Denial::advising(Reason::CustodyDenied, "custody does not answer; tell the operator")),
    }
}

/// Custody's refusal in the words of policy. Its own next step is the operator's; a record of custody's has it.
fn denied(error: &CustodyError) -> Denial {
    tracing::warn!(%error, "custody does not grant a route's credential");
    let CustodyError::Refused(refusal) = error else { return Denial::new(Reason::CustodyDenied) };
    let reason = match refusal.reason {
        RefusalReason::SessionFrozen => Reason::SessionFrozen,
        RefusalReason::GrantsRevoked => Reason::GrantsRevoked,
        RefusalReason::RouteUnknown => Reason::RouteUnknown,
        RefusalReason::CredentialUnopenable => Reason::CredentialUnopenable,
        RefusalReason::CredentialNotForRoute => Reason::CredentialNotForRoute,
        RefusalReason::CredentialKindUnsupported => Reason::CredentialKindUnsupported,
        RefusalReason::AuditUnavailable => Reason::AuditUnavailable,
        // Its next step has the lines to add, and nothing that is secret.
        RefusalReason::TokenEndpointNotListed => {
            return Denial::advising(Reason::TokenEndpointNotListed, refusal.next_step.clone());
        }
        _ => Reason::CustodyDenied,
    };
    Denial::new(reason)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use postern_exec::asynchronous::Channel;
    use postern_policy::document::DocumentText;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_custody_that_does_not_answer_is_waited_for_ten_seconds_and_twenty_for_a_document() {
        let (ours, _silent) = Channel::pair().unwrap();
        let custody = GatewayClient::new(ours);
        let began = Instant::now();
        let denial = Custodian::placeholders(&custody).await.err().unwrap();
        assert_eq!((denial.reason, began.elapsed().as_secs()), (Reason::CustodyDenied, 10));

        let document = DocumentText { file: String::new(), text: String::new(), attachments: BTreeMap::new() };
        let reload = Reload { document, environments: BTreeMap::new(), snapshot: BTreeMap::new() };
        let began = Instant::now();
        assert!(Custodian::reload(&custody, reload).await.is_err());
        assert_eq!(began.elapsed().as_secs(), 20);
    }
}
