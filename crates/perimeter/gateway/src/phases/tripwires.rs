//! Phase: what an honest agent does not send: a placeholder of any session, or the plaintext of a secret. Neither has any
//! business in an MCP call; each is refused, recorded and alarmed.

use http::{HeaderMap, HeaderName};
use postern_policy::{Denial, Reason};

use crate::{catalogue, gateway::Gateway, keyring::Keyring, sessions::Session};

/// Looks at everything the caller wrote.
pub(crate) async fn check(
    gateway: &Gateway,
    session: &Session,
    headers: &HeaderMap,
    body: &[u8],
) -> Result<(), Denial> {
    if postern_danger::off!("gateway-tripwire") {
        return Ok(());
    }
    let marked = catalogue::marked(body) || written(headers).any(|(_, value)| catalogue::marked(value));
    if marked {
        // It may have been issued since the list was read.
        gateway.catalogue.refresh(&*gateway.custody).await?;
    }
    secrets(&session.keyring(), headers, body)?;
    let listed = gateway.catalogue.listed();
    let found = std::iter::once(body)
        .chain(written(headers).map(|(_, value)| value))
        .find_map(|text| listed.refusal(&session.id, text));
    if let Some(denial) = found {
        return Err(denial);
    }
    if written(headers).any(|(name, value)| listed.names(name.as_str()) || catalogue::marked(value)) {
        return Err(Denial::new(Reason::PlaceholderUnresolved));
    }
    Ok(())
}

/// Looks for secrets alone: again, once a new one is known.
pub(crate) fn secrets(keyring: &Keyring, headers: &HeaderMap, body: &[u8]) -> Result<(), Denial> {
    let seen = !keyring.is_empty()
        && (keyring.is_in(body)
            || written(headers).any(|(name, value)| keyring.is_in(value) || keyring.is_in(name.as_str().as_bytes())));
    if seen { Err(Denial::new(Reason::RealSecretSeen)) } else { Ok(()) }
}

/// The headers but those that the control plane itself writes and that end here: random texts, never forwarded.
fn written(headers: &HeaderMap) -> impl Iterator<Item = (&HeaderName, &[u8])> {
    headers.iter().filter(|(name, _)| !OURS.contains(&name.as_str())).map(|(name, value)| (name, value.as_bytes()))
}

const OURS: &[&str] = &["postern-identity", "postern-credential"];
