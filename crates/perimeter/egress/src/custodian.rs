//! What egress asks of custody: a secret for a live session's credential, and the placeholders to recognise.
//! A trait, so that a decision about a refusing custody can be tested without one.

use std::pin::Pin;

use postern_custody::{Purpose, UseGrant};
use postern_policy::CredentialName;
use postern_secret::Placeholder;

/// An answer that comes later.
pub(crate) type Later<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A placeholder that this perimeter issued in the last day, live or dead.
#[derive(Debug, Clone)]
pub(crate) struct IssuedPlaceholder {
    /// The session it was issued to.
    pub(crate) session: String,
    /// The credential it stands for.
    pub(crate) credential: CredentialName,
    /// As the sandbox sees it.
    pub(crate) placeholder: Placeholder,
    /// Whether that session still lives.
    pub(crate) alive: bool,
}

/// Custody said no, or nothing.
#[derive(Debug, thiserror::Error)]
#[error("custody: {0}")]
pub(crate) struct NotGranted(pub(crate) String);

/// Whoever hands out secrets.
pub(crate) trait Custodian: Send + Sync {
    /// The secret of a session's credential; custody has recorded this use when it answers.
    fn grant<'a>(
        &'a self,
        session: &'a str,
        credential: &'a CredentialName,
        policy_digest: &'a str,
        purpose: Purpose,
    ) -> Later<'a, Result<UseGrant, NotGranted>>;

    /// Says that the session's copy of a secret is gone.
    fn revoked<'a>(&'a self, session: &'a str, credential: &'a CredentialName) -> Later<'a, Result<(), NotGranted>>;

    /// Every placeholder to recognise.
    fn placeholders(&self) -> Later<'_, Result<Vec<IssuedPlaceholder>, NotGranted>>;
}

impl Custodian for postern_custody::EgressClient {
    fn grant<'a>(
        &'a self,
        session: &'a str,
        credential: &'a CredentialName,
        policy_digest: &'a str,
        purpose: Purpose,
    ) -> Later<'a, Result<UseGrant, NotGranted>> {
        Box::pin(async move {
            let granted = Self::grant(self, session, credential.as_str(), policy_digest, purpose).await;
            granted.map_err(|error| NotGranted(error.to_string()))
        })
    }

    fn revoked<'a>(&'a self, session: &'a str, credential: &'a CredentialName) -> Later<'a, Result<(), NotGranted>> {
        Box::pin(async move {
            self.revoke(session, credential.as_str()).await.map_err(|error| NotGranted(error.to_string()))
        })
    }

    fn placeholders(&self) -> Later<'_, Result<Vec<IssuedPlaceholder>, NotGranted>> {
        Box::pin(async move {
            let known = Self::placeholders(self).await.map_err(|error| NotGranted(error.to_string()))?;
            Ok(known.into_iter().map(IssuedPlaceholder::from).collect())
        })
    }
}

impl From<postern_custody::KnownPlaceholder> for IssuedPlaceholder {
    fn from(known: postern_custody::KnownPlaceholder) -> Self {
        Self {
            session: known.session,
            credential: CredentialName::new(known.credential),
            placeholder: known.placeholder,
            alive: known.alive,
        }
    }
}
