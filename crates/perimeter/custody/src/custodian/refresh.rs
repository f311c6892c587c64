//! Refreshing the tokens of a vault's OAuth credential: the refresh token leaves for an endpoint that the operator lists and the credential was sealed for, and
//! for no other, whatever the control plane says. What the endpoint answers is sealed here, for this perimeter and those that its operator approved.

use std::sync::Arc;
use std::time::Instant;

use jiff::Timestamp;
use postern_audit::{Decision, Destination, Kind, Record};
use postern_exec::WireBytes;
use postern_policy::{RouteCredential, TokenEndpoint, normalise_mcp_url};
use postern_secret::seal::{Binding, PerimeterPublicKey, Recipient, SealError, Sealed, SealedCredential, seal};
use postern_secret::{Secret, SecretBytes};

use super::routes::leads_to;
use super::{Custodian, Refusal, RefusalReason, blocking, lock, require};
use crate::generation::Generation;
use crate::message::{CallerKind, FreshTokens, KeptAnswer, OauthParts, RefreshGrant, Renewed};

/// What a gateway gets to refresh with.
#[derive(Debug)]
pub(crate) enum RefreshGranted {
    /// The secrets of one exchange.
    Secrets { refresh_token: SecretBytes, client_secret: Option<SecretBytes> },
    /// These parts were used before, and this came of it.
    Kept(Box<Renewed>),
}

impl Custodian {
    /// The secrets for one exchange at the credential's token endpoint. On record before they are answered.
    pub(crate) async fn grant_refresh(
        &self,
        caller: CallerKind,
        grant: &RefreshGrant,
    ) -> Result<RefreshGranted, Refusal> {
        require(caller, CallerKind::Gateway)?;
        let name = &grant.parts.refresh.binding.credential;
        let opened = self.may_refresh(&grant.routes_digest, &grant.parts).map_err(|refusal| refusal.about(name));
        let (endpoint, refresh_token, client_secret) = match opened {
            Ok(opened) => opened,
            Err(refusal) => {
                self.note(&refusal, Record::new(refusal.reason.kind(), Decision::Deny)).await;
                return Err(refusal);
            }
        };
        if let Some(renewed) = lock(&self.renewals).of(&grant.parts, Timestamp::now()) {
            return Ok(RefreshGranted::Kept(Box::new(renewed)));
        }
        let mut record = of(Kind::CredentialUse, Decision::Allow, name, &endpoint);
        record.outcome = Some("its refresh token, for its token endpoint".to_owned());
        self.record(record).await?;
        Ok(RefreshGranted::Secrets { refresh_token, client_secret })
    }

    /// Seals what the endpoint answered and keeps it until the control plane has it.
    pub(crate) async fn seal_fresh(&self, caller: CallerKind, fresh: FreshTokens) -> Result<Renewed, Refusal> {
        require(caller, CallerKind::Gateway)?;
        let FreshTokens { routes_digest, parts, access_token, refresh_token, expires_at_seconds } = fresh;
        let name = parts.refresh.binding.credential.clone();
        let (endpoint, ..) = self.may_refresh(&routes_digest, &parts).map_err(|refusal| refusal.about(&name))?;
        let approved = self.approved.clone();
        // A list that cannot be read approves nobody; the tokens must not be lost for it.
        let approved = blocking(move || approved.keys()).await.unwrap_or_default();
        let sealed = |token: WireBytes, former: &SealedCredential| {
            let to = self.recipients(&former.sealed, &approved);
            // As the whole credential is bound now, whenever the former part was sealed.
            let kind = former.binding.kind.clone();
            let binding = Binding { kind, ..parts.refresh.binding.clone() };
            seal(&Secret::new(token.into_bytes()), &binding, &to).map_err(|error| unsealed(&error).about(&name))
        };
        let access = sealed(access_token, &parts.access)?;
        let refresh = refresh_token.map(|token| sealed(token, &parts.refresh)).transpose()?;
        let renewed = Renewed { access, refresh, expires_at_seconds };
        let (renewals, kept) = (Arc::clone(&self.renewals), renewed.clone());
        let former = parts.access.sealed.wraps.len();
        postern_danger::point!("seal.before");
        let written = blocking(move || lock(&renewals).keep(&parts, &kept, Timestamp::now())).await;
        if let Err(error) = written {
            tracing::error!(credential = name, %error, "renewed tokens are kept in memory alone: custody's directory cannot be written");
        }
        postern_danger::point!("seal.after");
        let mut record = of(Kind::CredentialRefreshed, Decision::Info, &name, &endpoint);
        record.outcome = Some("new tokens sealed".to_owned());
        let perimeters = renewed.access.wraps.len();
        record.counts.insert("perimeters".to_owned(), perimeters as u64);
        record.counts.insert("perimeters_not_approved".to_owned(), former.saturating_sub(perimeters) as u64);
        self.record(record).await?;
        Ok(renewed)
    }

    /// The same for what the gateway sealed to this perimeter and kept: it is of the credential whose parts were used, or nothing is opened.
    pub(crate) async fn seal_kept(
        &self,
        caller: CallerKind,
        routes_digest: String,
        answer: KeptAnswer,
    ) -> Result<Renewed, Refusal> {
        require(caller, CallerKind::Gateway)?;
        let KeptAnswer { parts, access, refresh, expires_at_seconds } = answer;
        let name = parts.refresh.binding.credential.clone();
        one_credential(&OauthParts { access: access.clone(), ..parts.clone() })
            .map_err(|refusal| refusal.about(&name))?;
        if refresh.as_ref().is_some_and(|refresh| refresh.binding != parts.refresh.binding) {
            let next = "the kept answer is of another credential: authorize this one anew, and find out who wrote to the gateway's directory";
            return Err(Refusal::new(RefusalReason::CredentialUnopenable, next).about(&name));
        }
        let opened = |sealed: &SealedCredential| self.open_sealed(sealed).map(|token| for_the_wire(&token));
        let access_token = opened(&access)?;
        let refresh_token = refresh.as_ref().map(opened).transpose()?;
        let fresh = FreshTokens { routes_digest, parts, access_token, refresh_token, expires_at_seconds };
        self.seal_fresh(caller, fresh).await
    }

    /// Drops renewed tokens that nobody came for.
    pub(crate) async fn forget_renewals(&self) {
        let renewals = Arc::clone(&self.renewals);
        if let Err(error) = blocking(move || lock(&renewals).forget_old(Timestamp::now())).await {
            tracing::warn!(%error, "the list of renewed tokens could not be shortened");
        }
    }

    /// The endpoint that the operator lists and the credential was sealed for, and what opens of the credential.
    fn may_refresh(
        &self,
        routes_digest: &str,
        parts: &OauthParts,
    ) -> Result<(Arc<TokenEndpoint>, SecretBytes, Option<SecretBytes>), Refusal> {
        let mut generations = lock(&self.generations).for_calls(Instant::now());
        generations.retain(|one| one.routes.digest() == routes_digest);
        let generation = generations.into_iter().next().ok_or_else(|| {
            let next = "the routes were loaded in different versions: reload or restart the gateway";
            Refusal::new(RefusalReason::DigestMismatch, next)
        })?;
        one_credential(parts)?;
        is_served(&generation, &parts.refresh.binding)?;
        let endpoint = parts.refresh.binding.token_endpoint.as_deref().unwrap_or_default();
        let endpoint = generation.routes.token_endpoint(endpoint);
        let endpoint = endpoint
            .map(Arc::clone)
            .map_err(|denial| Refusal::new(RefusalReason::TokenEndpointNotListed, denial.next_step))?;
        self.open_sealed(&parts.access)?;
        let refresh_token = self.open_sealed(&parts.refresh)?;
        let client_secret = parts.client_secret.as_ref().map(|secret| self.open_sealed(secret)).transpose()?;
        Ok((endpoint, refresh_token, client_secret))
    }

    /// Of a former value's recipients this perimeter and those that its operator approved.
    fn recipients(&self, former: &Sealed, approved: &[PerimeterPublicKey]) -> Vec<Recipient> {
        let recipient = |wrap: &postern_secret::seal::Wrap| {
            let public_key: PerimeterPublicKey = wrap.public_key.parse().ok()?;
            let ours = public_key == *self.opener.public_key() || approved.contains(&public_key);
            ours.then(|| Recipient { perimeter_id: wrap.perimeter_id.clone(), public_key })
        };
        former.wraps.iter().filter_map(recipient).collect()
    }
}

/// The parts are of one credential, each the part that it is said to be: what was sealed as one thing is not used as another.
fn one_credential(parts: &OauthParts) -> Result<(), Refusal> {
    if postern_danger::off!("renewal-parts") {
        return Ok(());
    }
    let OauthParts { access, refresh, client_secret } = parts;
    let kinds = [(Some(access), "mcp_oauth"), (Some(refresh), "mcp_oauth.refresh_token")]
        .into_iter()
        .chain([(client_secret.as_ref(), "mcp_oauth.client_secret")]);
    for (part, kind) in kinds.filter_map(|(part, kind)| Some((part?, kind))) {
        if part.binding.kind != kind {
            let next = format!("what should be of the kind {kind} is sealed as another: create the credential again");
            return Err(Refusal::new(RefusalReason::CredentialKindUnsupported, next));
        }
        let whole = Binding { kind: refresh.binding.kind.clone(), ..part.binding.clone() };
        // A part that was sealed before clients or terms were bound says nothing of them.
        let client_id = whole.client_id.clone().or_else(|| refresh.binding.client_id.clone());
        let terms = whole.refresh.clone().or_else(|| refresh.binding.refresh.clone());
        let whole = Binding { client_id, refresh: terms, ..whole };
        if whole != refresh.binding {
            let next =
                "the parts are of different credentials: create it again, and find out who wrote to the database";
            return Err(Refusal::new(RefusalReason::CredentialUnopenable, next));
        }
    }
    if refresh.binding.client_id.is_none() || refresh.binding.refresh.is_none() {
        let next = "the refresh token was sealed before its client, its resource and how the client says who it is were bound to it: send it again in an update of the credential";
        return Err(Refusal::new(RefusalReason::CredentialKindUnsupported, next));
    }
    Ok(())
}

/// A perimeter refreshes what its own routes send.
fn is_served(generation: &Generation, binding: &Binding) -> Result<(), Refusal> {
    let url = binding.mcp_url.as_deref().and_then(|url| normalise_mcp_url(url).ok());
    let serves = |url: &str| {
        let takes = |credential: &Option<RouteCredential>| matches!(credential, Some(RouteCredential::Api));
        generation.routes.iter().any(|route| takes(&route.credential) && leads_to(url, route))
    };
    if url.as_deref().is_some_and(serves) || postern_danger::off!("renewal-parts") {
        return Ok(());
    }
    let next = "no [[gateway.route]] with `credential = { source = \"api:\" }` leads to the credential's MCP server";
    Err(Refusal::new(RefusalReason::NotGranted, next))
}

fn of(kind: Kind, decision: Decision, credential: &str, endpoint: &TokenEndpoint) -> Record {
    let mut record = Record::new(kind, decision);
    record.credential = Some(credential.to_owned());
    record.destination = Some(Destination {
        scheme: Some("https".to_owned()),
        host: Some(endpoint.upstream.host.to_string()),
        port: Some(endpoint.upstream.port.number()),
        ..Destination::default()
    });
    record
}

#[expect(clippy::disallowed_methods, reason = "opened to be sealed for those who are to have it")]
fn for_the_wire(secret: &SecretBytes) -> WireBytes {
    WireBytes::new(secret.expose().clone())
}

fn unsealed(error: &SealError) -> Refusal {
    Refusal::new(RefusalReason::CredentialUnopenable, format!("the new tokens cannot be sealed: {error}"))
}
