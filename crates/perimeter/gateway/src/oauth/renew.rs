//! One renewal: custody's secrets for it, the exchange, the new tokens sealed. One at a time for each credential.

use std::{sync::Arc, time::SystemTime};

use jiff::Timestamp;
use postern_audit::{Decision, Destination, Kind, Record};
use postern_custody::{FreshTokens, OauthParts, RefreshGrant, Refreshing, Renewed};
use postern_exec::WireBytes;
use postern_model::{
    control::{OauthRefreshed, RenewedTokens},
    vault::{CapturedResponse, RefreshAttempt, RefreshStatus},
};
use postern_policy::{Denial, Reason, TokenEndpoint};
use postern_secret::{SecretBytes, seal::SealedCredential};

use super::{
    Credential, Refresh, captured,
    exchange::{self, Tokens},
    once::{self, Answer},
    refused, request,
};
use crate::{
    gateway::{Gateway, Rules},
    keyring::Keyring,
    limits,
    phases::record,
};

/// What became of it.
pub(super) enum Outcome {
    /// New tokens.
    Renewed(Box<Renewed>),
    /// The endpoint answered, and not with tokens.
    Refused(Denial, CapturedResponse),
    /// It was not asked, or not reached.
    Unasked(Denial),
    /// There is nothing to refresh with.
    NoRefreshToken,
}

impl Outcome {
    /// As the control plane is told.
    pub(super) fn into_report(self) -> OauthRefreshed {
        let attempt = |status, http_response| RefreshAttempt { status, http_response };
        match self {
            Self::Renewed(renewed) => OauthRefreshed {
                attempt: attempt(RefreshStatus::Succeeded, None),
                reason: None,
                renewed: Some(tokens_of(&renewed)),
            },
            Self::Refused(denial, response) => OauthRefreshed {
                attempt: attempt(RefreshStatus::Failed, Some(response)),
                reason: Some(refused(&denial)),
                renewed: None,
            },
            Self::Unasked(denial) => OauthRefreshed {
                attempt: attempt(RefreshStatus::ConnectError, None),
                reason: Some(refused(&denial)),
                renewed: None,
            },
            Self::NoRefreshToken => {
                OauthRefreshed { attempt: attempt(RefreshStatus::NoRefreshToken, None), reason: None, renewed: None }
            }
        }
    }
}

fn tokens_of(renewed: &Renewed) -> RenewedTokens {
    let text = |sealed| serde_json::to_string(sealed).expect("texts and numbers are JSON");
    let expires_at = renewed.expires_at_seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    RenewedTokens { access: text(&renewed.access), refresh_token: renewed.refresh.as_ref().map(text), expires_at }
}

/// Renews a credential's tokens.
pub(super) async fn renew(gateway: &Gateway, credential: &Credential) -> Outcome {
    let Some(refresh) = &credential.refresh else { return Outcome::NoRefreshToken };
    let turn = gateway.renewing.turn(credential.name());
    let _turn = turn.lock().await;
    let rules = gateway.rules();
    let parts = refresh.parts(&credential.access);
    if let Some(answer) = gateway.answers.of(&parts) {
        // The refresh token is used up: what came of it is handed over, however often that takes.
        let digest = rules.routes.digest().to_owned();
        return handed_over(gateway, &parts, gateway.custody.seal_kept(digest, answer).await).await;
    }
    let grant = RefreshGrant { routes_digest: rules.routes.digest().to_owned(), parts: parts.clone() };
    match gateway.custody.refresh(grant).await {
        Ok(Refreshing::Kept(renewed)) => Outcome::Renewed(renewed),
        Ok(Refreshing::Granted { refresh_token, client_secret }) => {
            let secrets = Secrets { refresh_token, client_secret };
            ask(gateway, &rules, refresh, parts, secrets).await
        }
        Err(denial) => Outcome::Unasked(denial),
    }
}

struct Secrets {
    refresh_token: SecretBytes,
    client_secret: Option<SecretBytes>,
}

async fn ask(gateway: &Gateway, rules: &Rules, refresh: &Refresh, parts: OauthParts, secrets: Secrets) -> Outcome {
    let binding = &refresh.token.binding;
    // Decided here as well as by custody: what is dialled stands in the file.
    let endpoint = match rules.routes.token_endpoint(binding.token_endpoint.as_deref().unwrap_or_default()) {
        Ok(endpoint) => endpoint,
        Err(denial) => return Outcome::Unasked(denial),
    };
    match exchanged(gateway, endpoint, refresh, &secrets).await {
        Ok((answer, keyring)) => match exchange::tokens(&answer) {
            Ok(tokens) => sealed(gateway, rules, parts, tokens).await,
            Err(denial) => {
                note(gateway, &refresh.token, endpoint, &denial, Some(&answer)).await;
                Outcome::Refused(denial, captured::of_endpoint(&answer, &keyring))
            }
        },
        Err(denial) => {
            note(gateway, &refresh.token, endpoint, &denial, None).await;
            Outcome::Unasked(denial)
        }
    }
}

async fn exchanged(
    gateway: &Gateway,
    endpoint: &TokenEndpoint,
    refresh: &Refresh,
    secrets: &Secrets,
) -> Result<(Answer, Keyring), Denial> {
    let Secrets { refresh_token, client_secret } = secrets;
    let (sealed, scope) = (&refresh.token.binding, refresh.scope.as_deref());
    let request = request::refresh(endpoint, sealed, scope, refresh_token, client_secret.as_ref())?;
    let known = std::iter::once(refresh_token).chain(client_secret).map(SecretBytes::duplicate).collect();
    let keyring = Keyring::default().with(known).expect("two secrets are fewer than a keyring holds");
    let most = limits::TOKEN_ANSWER_BYTES;
    let permit = endpoint.permit();
    let answer = once::send(gateway, &permit, request, gateway.bounds.token_endpoint, most, |_, _| false).await?;
    Ok((answer, keyring))
}

async fn sealed(gateway: &Gateway, rules: &Rules, parts: OauthParts, tokens: Tokens) -> Outcome {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let expires_at_seconds = tokens.expires_in_seconds.map(|seconds| now.saturating_add(seconds));
    let (tokens, parts) = kept(gateway, parts, tokens, expires_at_seconds).await;
    postern_danger::point!("exchange.kept");
    let fresh = FreshTokens {
        routes_digest: rules.routes.digest().to_owned(),
        parts: parts.clone(),
        access_token: for_the_wire(&tokens.access),
        refresh_token: tokens.refresh.as_ref().map(for_the_wire),
        expires_at_seconds,
    };
    handed_over(gateway, &parts, gateway.custody.seal(fresh).await).await
}

/// The answer on the disk before anybody is asked to do anything with it.
async fn kept(gateway: &Gateway, parts: OauthParts, tokens: Tokens, expires: Option<i64>) -> (Tokens, OauthParts) {
    let (journal, name) = (Arc::clone(&gateway.answers), parts.refresh.binding.credential.clone());
    let writing = tokio::task::spawn_blocking(move || {
        let kept = journal.keep(&parts, &tokens, expires);
        (tokens, parts, kept)
    });
    let (tokens, parts, kept) = writing.await.expect("keeping an answer does not panic: its errors are values");
    if let Err(error) = kept {
        let error = &error as &dyn std::error::Error;
        tracing::error!(credential = name, error, "a token endpoint's answer is in memory alone until custody has it");
    }
    (tokens, parts)
}

/// What custody has is not kept here any more; what it did not take is handed over when the credential is asked about again.
async fn handed_over(gateway: &Gateway, parts: &OauthParts, sealed: Result<Renewed, Denial>) -> Outcome {
    let renewed = match sealed {
        Ok(renewed) => renewed,
        Err(denial) => return Outcome::Unasked(denial),
    };
    let (journal, parts) = (Arc::clone(&gateway.answers), parts.clone());
    let forgotten = tokio::task::spawn_blocking(move || journal.forget(&parts)).await;
    if let Ok(Err(error)) = forgotten {
        tracing::warn!(%error, "an answer that custody has is still kept here");
    }
    Outcome::Renewed(Box::new(renewed))
}

/// That no tokens came is on record, whatever is said of it elsewhere.
async fn note(
    gateway: &Gateway,
    of: &SealedCredential,
    endpoint: &TokenEndpoint,
    denial: &Denial,
    answer: Option<&Answer>,
) {
    if postern_danger::off!("refusals-recorded") {
        return;
    }
    let mut record = Record::new(Kind::CredentialRefreshed, Decision::Deny);
    record.credential = Some(of.binding.credential.clone());
    record.reason = Some(denial.reason.code().to_owned());
    record.next_step = Some(denial.next_step.clone());
    record.destination = Some(Destination {
        scheme: Some("https".to_owned()),
        host: Some(endpoint.upstream.host.to_string()),
        port: Some(endpoint.upstream.port.number()),
        ..Destination::default()
    });
    if let Some(answer) = answer {
        record.counts.insert("status".to_owned(), u64::from(answer.status.as_u16()));
        record.outcome = exchange::error_word(answer).map(str::to_owned);
    }
    // The refresh did not succeed either way; without a log the next one is refused.
    let _logged = record::write(gateway, record).await;
    gateway.troubles.note(denial.reason.code(), format!("tokens of {} were not renewed", of.binding.credential));
}

#[expect(clippy::disallowed_methods, reason = "custody seals what the token endpoint answered")]
fn for_the_wire(secret: &SecretBytes) -> WireBytes {
    WireBytes::new(secret.expose().clone())
}

/// Whether the endpoint itself said no, so that asking again will not help.
pub(super) fn is_lasting(denial: &Denial) -> bool {
    denial.reason == Reason::RefreshRefused
}
