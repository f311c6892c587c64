//! Vaults' OAuth credentials, as the control stream asks: new tokens from the token endpoint, and whether a credential works. Secrets come from custody for one
//! exchange and go to an endpoint that the operator lists, or to the MCP server that the credential is sealed for. What goes back is sealed or scrubbed.

mod captured;
pub(crate) mod exchange;
mod journal;
mod once;
mod probe;
mod renew;
mod request;

use std::{
    collections::HashMap,
    future::Future,
    sync::{Arc, Mutex, PoisonError},
};

use postern_custody::OauthParts;
use postern_model::control::{self, CommandRefusal, OauthRefreshParts, Reply};
use postern_policy::{Denial, Reason};
use postern_secret::seal::SealedCredential;

use crate::gateway::Gateway;
pub(crate) use journal::Journal;

/// Credentials whose tokens are being renewed: a refresh token is sent by one exchange at a time.
#[derive(Default)]
pub(crate) struct InFlight(Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl InFlight {
    /// The turn of one credential; those that nobody waits for are forgotten.
    fn turn(&self, credential: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, turn| Arc::strong_count(turn) > 1);
        Arc::clone(all.entry(credential.to_owned()).or_default())
    }
}

/// A credential whose parts could be read; whether they are what they say shows when custody opens them.
#[derive(Clone)]
struct Credential {
    access: SealedCredential,
    refresh: Option<Refresh>,
}

/// What it is refreshed with.
#[derive(Clone)]
struct Refresh {
    token: SealedCredential,
    client_secret: Option<SealedCredential>,
    scope: Option<String>,
}

impl Credential {
    fn read(parts: &control::OauthParts) -> Result<Self, CommandRefusal> {
        let read = |text: &String| {
            SealedCredential::decode(text).map_err(|_| refused(&Denial::new(Reason::CredentialUnopenable)))
        };
        let refresh = |asked: &OauthRefreshParts| {
            let client_secret = asked.client_secret.as_ref().map(read).transpose()?;
            Ok(Refresh { token: read(&asked.refresh_token)?, client_secret, scope: asked.scope.clone() })
        };
        Ok(Self { access: read(&parts.access)?, refresh: parts.refresh.as_ref().map(refresh).transpose()? })
    }

    fn name(&self) -> &str {
        &self.access.binding.credential
    }
}

impl Refresh {
    fn parts(&self, access: &SealedCredential) -> OauthParts {
        let (refresh, client_secret) = (self.token.clone(), self.client_secret.clone());
        OauthParts { access: access.clone(), refresh, client_secret }
    }
}

/// Renews a credential's tokens.
pub(crate) async fn refresh(gateway: &Arc<Gateway>, parts: &control::OauthParts) -> Result<Reply, CommandRefusal> {
    let credential = Credential::read(parts)?;
    let own = Arc::clone(gateway);
    to_its_end(gateway, async move {
        let refreshed = renew::renew(&own, &credential).await.into_report();
        Reply::OauthRefreshed(Box::new(refreshed))
    })
    .await
}

/// Finds out whether a credential works, and renews its tokens where that is what it needs.
pub(crate) async fn validate(gateway: &Arc<Gateway>, parts: &control::OauthParts) -> Result<Reply, CommandRefusal> {
    let credential = Credential::read(parts)?;
    let own = Arc::clone(gateway);
    to_its_end(gateway, async move {
        let validated = probe::validate(&own, &credential).await;
        Reply::OauthValidated(Box::new(validated))
    })
    .await
}

/// Whatever becomes of the stream that asked: a token endpoint that took a refresh token is heard out, or the grant would be lost.
async fn to_its_end(
    gateway: &Gateway,
    work: impl Future<Output = Reply> + Send + 'static,
) -> Result<Reply, CommandRefusal> {
    if gateway.drain.is_started() {
        return Err(refused(&Denial::new(Reason::GatewayDraining)));
    }
    gateway.drain.spawn(work).await.map_err(|_| {
        CommandRefusal::new("gateway_failed", "the gateway broke down over the credential", "look at the gateway's log")
    })
}

/// A denial in the words of the control stream.
fn refused(denial: &Denial) -> CommandRefusal {
    CommandRefusal::new(denial.reason.code(), said(denial.reason), denial.next_step.clone())
}

fn said(reason: Reason) -> &'static str {
    match reason {
        Reason::TokenEndpointNotListed => "the perimeter does not list the credential's token endpoint",
        Reason::RefreshRefused => "the token endpoint gave no new tokens",
        Reason::CredentialUnopenable => "the credential does not open in this perimeter",
        Reason::RouteUnknown => "the gateway has no route for the credential's MCP server",
        Reason::UpstreamUnreachable | Reason::Timeout => "it was not reached in time",
        Reason::UpstreamUntrusted => "it could not prove who it is",
        Reason::UpstreamProtocol | Reason::EncodingUnsupported | Reason::ResultTooLarge => {
            "what it answered cannot be used"
        }
        Reason::RedirectRefused => "it answered with a redirect, which is not followed",
        Reason::UpstreamUnauthorized => "the MCP server did not accept the access token",
        _ => "the perimeter did not do it",
    }
}
