//! Phase: the secret that goes with the call, from custody, which has recorded the use when it answers. Held as long as
//! the session calls, so that it is known when it comes back.

use http::{HeaderMap, HeaderName, HeaderValue, header};
use postern_custody::{RouteGrant, RoutePurpose};
use postern_policy::{
    Denial, McpPermit, Reason,
    gateway::{HeaderFormat, RouteCredential},
};
use postern_secret::{SecretBytes, seal::SealedCredential};
use postern_tunnel::identity::{Claims, Purpose};
use zeroize::Zeroizing;

use super::authority::Destination;
use crate::{
    gateway::{Gateway, Rules},
    sessions::Session,
};

/// A header that only the upstream gets.
pub(crate) struct Injected {
    /// Its name.
    pub(crate) name: HeaderName,
    /// Its value, marked as sensitive.
    pub(crate) value: HeaderValue,
}

/// The credential that came with the request, still sealed.
pub(crate) fn brought(headers: &HeaderMap) -> Result<Option<SealedCredential>, Denial> {
    let unopenable = || Denial::new(Reason::CredentialUnopenable);
    let Some(text) = headers.get(HEADER) else { return Ok(None) };
    let text = text.to_str().map_err(|_| unopenable())?;
    SealedCredential::decode(text).map(Some).map_err(|_| unopenable())
}

/// Asks custody for what the route sends. `None` where it sends nothing.
pub(crate) async fn granted(
    gateway: &Gateway,
    session: &Session,
    rules: &Rules,
    destination: &Destination,
    claims: &Claims,
    permit: &McpPermit,
    headers: &HeaderMap,
) -> Result<Option<Injected>, Denial> {
    let brought = brought(headers)?;
    let bearer = HeaderFormat::bearer();
    let (name, format, sealed) = match &destination.route.credential {
        // A route's own credential is never replaced by one that a caller brings.
        Some(RouteCredential::Own { header, format, .. }) => (header.clone(), format, None),
        Some(RouteCredential::Api) if brought.is_none() => return Ok(None),
        Some(RouteCredential::Api) => (header::AUTHORIZATION, &bearer, brought),
        None if brought.is_some() => return Err(Denial::new(Reason::CredentialNotForRoute)),
        None => return Ok(None),
    };
    let grant = RouteGrant {
        route: destination.route.name.clone(),
        routes_digest: rules.routes.digest().to_owned(),
        session: session.id.clone(),
        agent: Some(agent(claims)),
        tool_use: claims.tool_use.clone(),
        purpose: purpose(claims, permit),
        mcp_url: destination.url.clone(),
        sealed,
    };
    let secret = gateway.custody.grant(grant).await?;
    let value = render(format, &secret)?;
    session.remember(vec![secret])?;
    Ok(Some(Injected { name, value }))
}

/// The agent as records name it.
pub(crate) fn agent(claims: &Claims) -> String {
    format!("{}@{}", claims.agent, claims.agent_version)
}

fn purpose(claims: &Claims, permit: &McpPermit) -> RoutePurpose {
    match claims.purpose {
        Purpose::Probe => RoutePurpose::Probe,
        Purpose::Call => {
            RoutePurpose::Call { zone: permit.zone().to_owned(), policy_digest: permit.policy_digest().to_owned() }
        }
    }
}

/// A header value with the secret in its place.
#[expect(clippy::disallowed_methods, reason = "the upstream needs the secret on the wire")]
pub(crate) fn render(format: &HeaderFormat, secret: &SecretBytes) -> Result<HeaderValue, Denial> {
    let parts = [format.before().as_bytes(), secret.expose(), format.after().as_bytes()];
    let text = Zeroizing::new(parts.concat());
    let mut value = HeaderValue::from_bytes(&text).map_err(|_| {
        Denial::advising(Reason::CustodyDenied, "the secret cannot stand in a header; the operator must set another")
    })?;
    value.set_sensitive(true);
    Ok(value)
}

/// Carries a vault credential from the control plane to here, sealed.
pub(crate) const HEADER: &str = "postern-credential";
