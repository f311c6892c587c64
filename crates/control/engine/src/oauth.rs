//! New tokens for vaults' OAuth credentials, and whether one works: a gateway of the perimeter is asked over the control stream, and what it sealed is stored in
//! the place of what it was asked with. No token is seen here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use postern_model::Problem;
use postern_model::control::{CommandBody, CommandRefusal, OauthValidated, RenewedTokens, Reply};
use postern_model::ids::{CredentialId, TunnelId, VaultId, WorkspaceId};
use postern_model::vault::{
    Credential, CredentialAuth, CredentialValidation, McpProbe, SecretPart, ValidationTag, Verdict,
};
use postern_secret::seal::{LONGEST_ENCODED, Sealed};
use postern_store::credentials::{self, Renewed, StoredCredential, StoredOauth};
use postern_upstream::mcp::{McpFailure, McpFailureKind};
use tokio::sync::Mutex as Turns;
use tracing::{error, info, warn};

use crate::control::{CommandFailure, Target};
use crate::create::now;
use crate::problem;
use crate::shared::Shared;

/// Why new tokens are wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// The access token expires, or has.
    Expiring,
    /// The MCP server did not accept it.
    Refused,
}

/// Credentials whose tokens are being renewed, or were a moment ago: one exchange at a time, and no more than there is use for.
#[derive(Default)]
pub(crate) struct Renewing(Mutex<HashMap<CredentialId, Arc<Turns<Last>>>>);

/// What became of the last renewal.
#[derive(Default)]
struct Last {
    renewed: Option<Instant>,
    failed: Option<(Instant, CommandRefusal)>,
}

impl Renewing {
    /// What a restart would forget.
    #[cfg(test)]
    pub(crate) fn forget(&self) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Lets so much time pass over what is remembered.
    #[cfg(test)]
    pub(crate) fn pass(&self, time: Duration) {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for mut last in all.values().filter_map(|turn| turn.try_lock().ok()) {
            let before = |at: Instant| at.checked_sub(time).expect("the host runs for longer");
            last.renewed = last.renewed.map(before);
            last.failed = last.failed.take().map(|(at, why)| (before(at), why));
        }
    }

    /// Remembers one more, and says how many there are.
    #[cfg(test)]
    pub(crate) fn remembers(&self, id: &CredentialId) -> usize {
        self.turn(id);
        self.0.lock().unwrap_or_else(PoisonError::into_inner).len()
    }

    fn turn(&self, id: &CredentialId) -> Arc<Turns<Last>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.len() >= REMEMBERED {
            all.retain(|_, turn| Arc::strong_count(turn) > 1);
        }
        Arc::clone(all.entry(id.clone()).or_default())
    }
}

/// The credential with tokens that are newer than those of `had`: whoever comes first has them renewed, and the others get what came of it.
///
/// # Errors
/// Why there are none; the failure is stored, and announced the first time.
pub(crate) async fn renewed(
    shared: &Shared,
    workspace: &WorkspaceId,
    had: &StoredCredential,
    wanted: Wanted,
) -> Result<Option<StoredCredential>, McpFailure> {
    let turn = shared.renewing.turn(&had.id);
    let mut last = turn.lock().await;
    for _ in 0..ROUNDS {
        // Archived meanwhile: what the vaults have without it counts.
        let Some(stored) = read(shared, workspace, &had.id).await? else { return Ok(None) };
        let is_other = !credentials::is_same(&stored.access.sealed, &had.sealed);
        if is_other && !is_expired(&stored.access, Duration::ZERO) {
            return Ok(Some(stored.access));
        }
        if let Some(why) = too_soon(&last, &stored, wanted) {
            return Err(failed(had, &why));
        }
        match ask(shared, workspace, &stored).await {
            Ok(renewed) => {
                store(shared, workspace, &stored, &renewed).await?;
                *last = Last { renewed: Some(Instant::now()), failed: None };
                info!(credential = %had.id, rotated = renewed.refresh_token.is_some(), "the tokens of a credential were renewed");
            }
            Err(why) => {
                last.failed = Some((Instant::now(), why.clone()));
                note(shared, workspace, &stored, &why).await;
                return Err(failed(had, &why));
            }
        }
    }
    let why = CommandRefusal::new(
        "token_expired_at_once",
        "the token endpoint gives tokens that have expired already",
        "compare the clocks of the gateway's machine and this one",
    );
    Err(failed(had, &why))
}

/// A grant that is gone is not asked about again before its owner changed something; an endpoint that failed, and a server that refuses fresh tokens, not at once.
fn too_soon(last: &Last, stored: &StoredOauth, wanted: Wanted) -> Option<CommandRefusal> {
    let gone = stored.failed.as_ref().filter(|why| why.code == GRANT_GONE);
    if gone.is_some() {
        return gone.cloned();
    }
    if let Some((_, why)) = last.failed.as_ref().filter(|(at, _)| at.elapsed() < AFTER_FAILURE) {
        return Some(why.clone());
    }
    let fresh = last.renewed.is_some_and(|at| at.elapsed() < AFTER_RENEWAL);
    (wanted == Wanted::Refused && fresh).then(|| {
        CommandRefusal::new(
            "upstream_unauthorized",
            "the MCP server refuses an access token that was renewed a moment ago",
            "see whether the credential's `scope` and `resource` are what the server wants",
        )
    })
}

/// Whether an access token expires within this time.
pub(crate) fn is_expired(credential: &StoredCredential, within: Duration) -> bool {
    credential.expires_at.is_some_and(|at| at <= now() + within)
}

async fn read(shared: &Shared, workspace: &WorkspaceId, id: &CredentialId) -> Result<Option<StoredOauth>, McpFailure> {
    let found = async {
        let mut reader = shared.store.read().await?;
        credentials::oauth(&mut reader, workspace, id).await
    };
    found.await.map_err(|cause| {
        error!(error = &cause as &dyn std::error::Error, "a credential could not be read");
        unstored("the server could not read the credential")
    })
}

/// Asked again with the same parts, the perimeter answers the same: what cannot be stored now is not lost.
async fn store(
    shared: &Shared,
    workspace: &WorkspaceId,
    used: &StoredOauth,
    renewed: &Renewed,
) -> Result<(), McpFailure> {
    let stored = async {
        let mut tx = shared.store.write().await?;
        credentials::renewed(&mut tx, workspace, used, renewed, now()).await?;
        tx.commit().await
    };
    stored.await.map_err(|cause| {
        error!(
            error = &cause as &dyn std::error::Error,
            "renewed tokens could not be stored; the perimeter keeps them"
        );
        unstored("the server could not store the renewed tokens")
    })
}

async fn note(shared: &Shared, workspace: &WorkspaceId, used: &StoredOauth, why: &CommandRefusal) {
    warn!(credential = %used.access.id, code = why.code, "the tokens of a credential were not renewed");
    let noted = async {
        let mut tx = shared.store.write().await?;
        credentials::refresh_failed(&mut tx, workspace, used, why, now()).await?;
        tx.commit().await
    };
    if let Err(cause) = noted.await {
        error!(error = &cause as &dyn std::error::Error, "that a refresh failed could not be stored");
    }
}

async fn ask(shared: &Shared, workspace: &WorkspaceId, used: &StoredOauth) -> Result<Renewed, CommandRefusal> {
    let body = CommandBody::OauthRefresh { parts: Box::new(used.parts()) };
    match command(shared, workspace, &used.access, body).await? {
        Reply::OauthRefreshed(refreshed) => match refreshed.renewed {
            Some(renewed) => taken(used, &renewed).ok_or_else(misanswered),
            None => Err(refreshed.reason.unwrap_or_else(misanswered)),
        },
        _ => Err(misanswered()),
    }
}

/// Whichever gateway carries the credential's calls.
async fn command(
    shared: &Shared,
    workspace: &WorkspaceId,
    credential: &StoredCredential,
    body: CommandBody,
) -> Result<Reply, CommandRefusal> {
    let (Some(hub), Some(mcp)) = (&shared.surroundings.hub, &shared.surroundings.mcp) else {
        let next = "start the server with an edge, and a gateway for its tunnel";
        return Err(CommandRefusal::new("gateway_none", "this server reaches no perimeter", next));
    };
    let url = credential.binding.mcp_url.as_deref().unwrap_or_default();
    let tunnel = mcp.tunnel_for(workspace.as_str(), url);
    let tunnel = tunnel.map_err(|failure| CommandRefusal::new(&failure.code, failure.message, failure.next_step))?;
    let tunnel = TunnelId::parse(&tunnel).map_err(|_| misanswered())?;
    postern_danger::point!("renewal.before");
    let answer = hub.command(&Target::Tunnel(tunnel), body, PATIENCE).await;
    postern_danger::point!("renewal.after");
    answer.map_err(|failure| CommandRefusal::new(failure.code(), failure.to_string(), failure.next_step()))
}

fn misanswered() -> CommandRefusal {
    let failure = CommandFailure::Misanswered;
    CommandRefusal::new(failure.code(), failure.to_string(), failure.next_step())
}

/// What a perimeter says it sealed: for nobody for whom the former values were not.
fn taken(used: &StoredOauth, renewed: &RenewedTokens) -> Option<Renewed> {
    let read = |text: &String, former: &Sealed| {
        let sealed: Sealed = serde_json::from_str(text).ok().filter(|_| text.len() <= LONGEST_ENCODED)?;
        let known = sealed.wraps.iter().all(|wrap| former.wraps.iter().any(|one| one.public_key == wrap.public_key));
        (known && !sealed.wraps.is_empty()).then_some(sealed)
    };
    let former = &used.refresh.as_ref()?.token.sealed;
    Some(Renewed {
        access: read(&renewed.access, &used.access.sealed)?,
        refresh_token: match &renewed.refresh_token {
            Some(text) => Some(read(text, former)?),
            None => None,
        },
        expires_at: renewed.expires_at,
    })
}

/// Not sent, or not accepted: without tokens the server would refuse it, and nobody would know why.
fn failed(credential: &StoredCredential, why: &CommandRefusal) -> McpFailure {
    McpFailure {
        kind: McpFailureKind::Authentication,
        code: why.code.clone(),
        message: format!("the access token of credential {} could not be renewed: {}", credential.id, why.message),
        next_step: why.next_step.clone(),
        started: false,
    }
}

fn unstored(message: &str) -> McpFailure {
    McpFailure {
        kind: McpFailureKind::Authentication,
        code: "credential_unreadable".to_owned(),
        message: message.to_owned(),
        next_step: "look at the server's log".to_owned(),
        started: false,
    }
}

/// Whether a credential works, as its perimeter finds out.
pub(crate) async fn validate(
    shared: &Shared,
    workspace: &WorkspaceId,
    vault: &VaultId,
    id: &CredentialId,
) -> Result<(CredentialValidation, Option<String>), Problem> {
    let has_refresh_token = {
        let mut reader = shared.store.read().await.map_err(problem)?;
        let (credential, _) = credentials::active(&mut reader, workspace, vault, id).await.map_err(problem)?;
        check_oauth(&credential)?;
        credentials::has_secret(&mut reader, id, SecretPart::RefreshToken).await.map_err(problem)?
    };
    // One that renews is waited for: two exchanges would use one refresh token twice.
    let turn = shared.renewing.turn(id);
    let mut last = turn.lock().await;
    let stored = {
        let mut reader = shared.store.read().await.map_err(problem)?;
        credentials::oauth(&mut reader, workspace, id).await.map_err(problem)?
    };
    let found = match &stored {
        Some(stored) => look(shared, workspace, stored).await,
        // Without an access token nothing can be tried.
        None => Ok(OauthValidated { status: Verdict::Invalid, mcp_probe: None, refresh: None, reason: None }),
    };
    let validated = found.unwrap_or_else(|why| OauthValidated {
        status: Verdict::Unknown,
        // The step that did not succeed, and to which no answer came: nobody could be asked.
        mcp_probe: Some(McpProbe { method: "initialize".to_owned(), http_response: None }),
        refresh: None,
        reason: Some(why),
    });
    if let (Some(stored), Some(refresh)) = (&stored, &validated.refresh) {
        match refresh.renewed.as_ref().map(|renewed| taken(stored, renewed)) {
            Some(Some(renewed)) => {
                let kept = store(shared, workspace, stored, &renewed).await;
                kept.map_err(|_| Problem::internal())?;
                *last = Last { renewed: Some(Instant::now()), failed: None };
            }
            Some(None) => note(shared, workspace, stored, &misanswered()).await,
            None => {
                if let Some(why) = &refresh.reason {
                    note(shared, workspace, stored, why).await;
                }
            }
        }
    }
    let validation = CredentialValidation {
        kind: ValidationTag::VaultCredentialValidation,
        credential_id: id.clone(),
        vault_id: vault.clone(),
        status: validated.status,
        has_refresh_token,
        validated_at: now(),
        mcp_probe: validated.mcp_probe,
        refresh: validated.refresh.map(|refresh| refresh.attempt),
    };
    Ok((validation, validated.reason.map(|reason| reason.code)))
}

async fn look(
    shared: &Shared,
    workspace: &WorkspaceId,
    stored: &StoredOauth,
) -> Result<OauthValidated, CommandRefusal> {
    let body = CommandBody::OauthValidate { parts: Box::new(stored.parts()) };
    match command(shared, workspace, &stored.access, body).await? {
        Reply::OauthValidated(validated) => Ok(*validated),
        _ => Err(misanswered()),
    }
}

fn check_oauth(credential: &Credential) -> Result<(), Problem> {
    match &credential.auth {
        CredentialAuth::McpOauth { .. } => Ok(()),
        CredentialAuth::StaticBearer { .. } | CredentialAuth::EnvironmentVariable { .. } => {
            let kind = credential.auth.kind().as_str();
            Err(Problem::invalid(format!("Only mcp_oauth credentials are validated; this one is of type `{kind}`.")))
        }
    }
}

/// The reason by which a perimeter says that a token endpoint refused.
const GRANT_GONE: &str = "refresh_refused";
/// How long an endpoint that failed is not asked again.
const AFTER_FAILURE: Duration = Duration::from_secs(5);
/// How long a token that was renewed is not renewed again because a server refuses it.
const AFTER_RENEWAL: Duration = Duration::from_secs(60);
/// How long a gateway may take: two requests and a refresh, each within its own bounds.
const PATIENCE: Duration = Duration::from_secs(45);
/// Renewals in a row where each brings tokens that have expired; the second may bring what the first had kept.
const ROUNDS: usize = 3;
/// Credentials of which the last renewal is remembered.
const REMEMBERED: usize = 4096;
