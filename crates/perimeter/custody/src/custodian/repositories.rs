//! Tokens of repositories that a session was given: whose they are and where its zone lets them go. What a token is for stands in what it was sealed with:
//! a word of the server's beside it counts for nothing, but for the run that a deployment's token is sent for, which has to come to the session's id.

use postern_policy::{CredentialName, Reach, RepositoryToken, Zone};
use postern_secret::seal::{Binding, Run, SealedCredential, session_of_run};

use super::variables::Variable;
use super::{Refusal, RefusalReason};
use crate::message::{RESOURCE, Withheld, WithheldCode};

/// A session's token, unopened, where it is this session's and the zone takes it.
pub(super) fn judged(
    zone: &Zone,
    session: &str,
    sealed: SealedCredential,
    run: Option<&Run>,
) -> Result<(CredentialName, Variable), Withheld> {
    let withheld = |code, message: String| {
        let credential = resource(&sealed.binding, run).unwrap_or(&sealed.binding.credential).to_owned();
        let vault = sealed.binding.vault.clone();
        Withheld { credential, vault, code, message }
    };
    let token = bound(session, &sealed.binding, run).ok_or_else(|| {
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

/// Whether it is the token of a repository, of a session's own or of a deployment's.
pub(super) fn is_token(binding: &Binding) -> bool {
    matches!(binding.kind.as_str(), Binding::REPOSITORY | Binding::DEPLOYMENT_REPOSITORY)
}

/// What a token was sealed for; `None` where that is no repository, another session's, or a deployment's that did not begin this session.
fn bound(session: &str, binding: &Binding, run: Option<&Run>) -> Option<RepositoryToken> {
    let url = binding.mcp_url.as_deref()?.parse().ok()?;
    let is_ours = match run.filter(|_| is_deployments(binding)) {
        Some(run) => session_of_run(&binding.vault, &run.id) == session,
        None => !is_deployments(binding) && binding.vault == session,
    };
    let resource = resource(binding, run).filter(|_| is_ours)?;
    Some(RepositoryToken::new(resource, url))
}

/// How the session calls what it is the token of.
fn resource<'a>(binding: &'a Binding, run: Option<&'a Run>) -> Option<&'a str> {
    if !is_deployments(binding) {
        return Some(&binding.credential);
    }
    // A word from outside, which records repeat.
    let is_id = |tail: &str| tail.len() <= LONGEST_ID && tail.bytes().all(|byte| byte.is_ascii_alphanumeric());
    run.map(|run| run.resource.as_str()).filter(|named| named.strip_prefix(RESOURCE).is_some_and(is_id))
}

fn is_deployments(binding: &Binding) -> bool {
    binding.kind == Binding::DEPLOYMENT_REPOSITORY
}

const LONGEST_ID: usize = 64;
