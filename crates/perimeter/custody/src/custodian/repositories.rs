//! Tokens of repositories that a session was given: whose they are and where its zone lets them go. What a token is for stands in what it was sealed with:
//! a word of the server's beside it counts for nothing.

use postern_policy::{CredentialName, Reach, RepositoryToken, Zone};
use postern_secret::seal::{Binding, SealedCredential};

use super::variables::Variable;
use super::{Refusal, RefusalReason};
use crate::message::{Withheld, WithheldCode};

/// A session's token, unopened, where it is this session's and the zone takes it.
pub(super) fn judged(
    zone: &Zone,
    session: &str,
    sealed: SealedCredential,
) -> Result<(CredentialName, Variable), Withheld> {
    let withheld = |code, message: String| {
        let (credential, vault) = (sealed.binding.credential.clone(), sealed.binding.vault.clone());
        Withheld { credential, vault, code, message }
    };
    let token = bound(session, &sealed.binding).ok_or_else(|| {
        let message = "the token of a repository was sealed for another session or for no URL. Next step: find out who wrote to the database, and send the token again";
        withheld(WithheldCode::Unusable, message.to_owned())
    })?;
    zone.grant_repository(&token).map_err(|denial| {
        let message =
            format!("zone {} takes no token for {}. Next step: {}", zone.name(), token.url(), denial.next_step);
        withheld(WithheldCode::NotNamed, message)
    })?;
    let reach = Reach { hosts: vec![token.url().host().to_string()], header: true, body: false };
    let name = token.credential().clone();
    Ok((name, Variable { sealed, reach, repository: Some(token) }))
}

/// A token that the session has no more, or whose zone lets it go nowhere.
pub(super) fn gone() -> Refusal {
    let next =
        "the session has no token for this repository any more: send one to its resource, or start another session";
    Refusal::new(RefusalReason::SourceMissing, next)
}

/// What a token was sealed for; `None` where that is no repository, or another session's.
fn bound(session: &str, binding: &Binding) -> Option<RepositoryToken> {
    let url = binding.mcp_url.as_deref()?.parse().ok()?;
    (binding.vault == session).then(|| RepositoryToken::new(&binding.credential, url))
}
