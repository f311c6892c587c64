//! Phase: puts a granted secret where its placeholder stands, in the permit's exact location and nowhere else, and
//! then makes sure that no placeholder is left in what goes out.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, header, request::Parts};
use postern_custody::{Purpose, UseGrant, VaultGrant};
use postern_policy::{BasicPart, CredentialName, Denial, Injection, Location, Permit, Reason};
use postern_secret::{Placeholder, SecretBytes};
use zeroize::Zeroizing;

use super::{
    render::{self, Exchanged},
    upload::Upload,
};
use crate::{
    basic,
    kept::KeptGrant,
    limits,
    recognise::{Key, Recogniser},
    session::Session,
};

/// What custody granted for one request. The request takes these and no other, whatever is granted beside it: a secret
/// that is replaced meanwhile is not mixed in.
#[derive(Default)]
pub(crate) struct Grants {
    keys: Vec<Arc<Key>>,
    /// Those of them that custody was not asked for, and whose use it has not recorded.
    again: Vec<Arc<KeptGrant>>,
}

impl Grants {
    fn of(&self, credential: &CredentialName) -> Option<&Key> {
        self.keys.iter().find(|key| key.credential == *credential).map(|key| &**key)
    }

    /// Those whose use is still to be recorded.
    pub(crate) fn unrecorded(&self) -> impl Iterator<Item = &Key> {
        self.again.iter().map(|grant| &*grant.key)
    }

    /// Whether all of it may be used still, once that is recorded: the session may have been frozen, or have ended, in between.
    pub(crate) fn in_force(&self) -> Result<(), Denial> {
        let in_force = self.again.iter().all(|grant| grant.word.is_in_force());
        if in_force { Ok(()) } else { Err(Denial::new(Reason::CustodyDenied)) }
    }
}

/// What the permit injects, each credential once. Custody records a use that it is asked for before it answers; one that
/// it granted together with an earlier use is for the caller to record.
pub(crate) async fn grant(session: &Session, permit: &Permit) -> Result<Grants, Denial> {
    let mut grants = Grants::default();
    let known = session.keyring();
    for injection in permit.injections() {
        let credential = injection.credential();
        // What is refused anyway is not asked for.
        within_reach(known.key(credential), permit, injection)?;
        if grants.of(credential).is_some() {
            continue;
        }
        if let Some(kept) = session.kept.take(credential, permit.policy_digest()) {
            grants.keys.push(Arc::clone(&kept.key));
            grants.again.push(kept);
        } else {
            grants.keys.push(asked(session, credential, permit.policy_digest()).await?);
        }
    }
    for injection in permit.injections() {
        within_reach(grants.of(injection.credential()), permit, injection)?;
    }
    if let Some(credential) = permit.client_certificate() {
        let pem = granted(session, credential, permit.policy_digest(), Purpose::Inject).await?.secret;
        session.present(credential, pem).map_err(|error| {
            tracing::warn!(session = %session.id, %credential, %error, "a client certificate cannot be presented");
            let step = format!("the operator must set {credential} to PEM of a certificate chain and its private key");
            Denial::advising(Reason::CustodyDenied, step)
        })?;
    }
    Ok(grants)
}

/// The zone permits it; a vault credential's owner has a word too, which can only narrow.
fn within_reach(key: Option<&Key>, permit: &Permit, injection: &Injection) -> Result<(), Denial> {
    match key.and_then(|key| key.vault.as_ref()) {
        Some(vault) => {
            // As it was sealed, whatever the worker said when it opened the session.
            vault.repository.as_ref().map_or(Ok(()), |repository| repository.admits(permit))?;
            vault.reach.admits(permit.host(), injection.location()).map_err(|denial| denial.by(permit.rule()))
        }
        None => Ok(()),
    }
}

async fn asked(session: &Session, credential: &CredentialName, policy_digest: &str) -> Result<Arc<Key>, Denial> {
    let UseGrant { secret, kept, vault } = granted(session, credential, policy_digest, Purpose::Inject).await?;
    let key = Arc::new(remember(session, credential, secret, vault)?);
    if let Some(word) = kept {
        session.kept.keep(KeptGrant { key: Arc::clone(&key), policy_digest: policy_digest.to_owned(), word });
    }
    Ok(key)
}

/// Asks custody for one secret.
pub(crate) async fn granted(
    session: &Session,
    credential: &CredentialName,
    policy_digest: &str,
    purpose: Purpose,
) -> Result<UseGrant, Denial> {
    session.perimeter.custody.grant(&session.id, credential, policy_digest, purpose).await.map_err(|error| {
        tracing::warn!(session = %session.id, %credential, %error, "custody does not grant a credential");
        Denial::new(Reason::CustodyDenied)
    })
}

/// Keeps a secret for the session, unless it is the one already kept. The placeholder stays what it was, whatever length
/// the secret has by now.
pub(crate) fn remember(
    session: &Session,
    credential: &CredentialName,
    secret: SecretBytes,
    vault: Option<VaultGrant>,
) -> Result<Key, Denial> {
    let placeholder = session.placeholder(credential).ok_or_else(|| Denial::new(Reason::PlaceholderUnresolved))?;
    let key = Key { credential: credential.clone(), placeholder: placeholder.clone(), secret, vault };
    let known = session.keyring();
    if known.key(credential).is_some_and(|present| exposed(&present.secret) == exposed(&key.secret)) {
        if known.key(credential).is_some_and(|present| present.vault != key.vault) {
            session.remember(key.duplicate());
        }
        return Ok(key);
    }
    if known.key(credential).is_some() && known.former() >= limits::FORMER_SECRETS {
        return Err(Denial::advising(
            Reason::CustodyDenied,
            "the credential has changed too often in this session; start a new one",
        ));
    }
    session.remember(key.duplicate());
    Ok(key)
}

/// Replaces placeholders in the head, and in a body that is held whole.
pub(crate) fn inject(grants: &Grants, permit: &Permit, head: &mut Parts, mut upload: Upload) -> Result<Upload, Denial> {
    for injection in permit.injections() {
        let key = grants.of(injection.credential()).ok_or_else(|| Denial::new(Reason::CustodyDenied))?;
        upload = one(injection.location(), key, head, upload)?;
    }
    Ok(upload)
}

/// The last look before a head leaves, as it will leave: a placeholder still in it was never to leave.
pub(crate) fn nothing_left(recogniser: &Recogniser, head: &Parts) -> Result<(), Denial> {
    let clear = |text: &[u8]| recogniser.find(text).is_empty();
    let target = head.uri.path_and_query().map_or("", |target| target.as_str());
    let headers = || {
        head.headers
            .iter()
            .all(|(name, value)| clear(value.as_bytes()) && recogniser.find_in_name(name.as_str()).is_empty())
    };
    let left_clear = clear(head.method.as_str().as_bytes()) && clear(target.as_bytes()) && headers();
    if left_clear { Ok(()) } else { Err(Denial::new(Reason::PlaceholderUnresolved)) }
}

fn one(location: &Location, key: &Key, head: &mut Parts, upload: Upload) -> Result<Upload, Denial> {
    let exchanged = Exchanged { placeholder: key.placeholder.as_bytes(), secret: exposed(&key.secret) };
    match location {
        Location::Header(name) => {
            let name = HeaderName::try_from(name.as_str()).map_err(|_| unresolved())?;
            replace(&mut head.headers, &name, |value| in_text(value, &key.placeholder, &key.secret))?;
        }
        Location::Basic(part) => {
            let basic = |value: &[u8]| in_basic(value, *part, &key.placeholder, &key.secret);
            replace(&mut head.headers, &header::AUTHORIZATION, basic)?;
        }
        Location::Query(_) | Location::Path(_) => render::in_target(location, &exchanged, head)?,
        Location::Json(_) | Location::Form(_) => {
            // A longer body was decided about without its places, so none of them is in the permit.
            let Upload::Whole(body, trailers) = upload else { return Err(unresolved()) };
            let filled = render::in_body(location, &exchanged, &body)?;
            return Ok(Upload::Whole(Bytes::from_owner(filled), trailers));
        }
        // Never where a placeholder stands.
        Location::ClientCertificate => return Err(unresolved()),
    }
    Ok(upload)
}

fn replace(
    headers: &mut HeaderMap,
    name: &HeaderName,
    render: impl Fn(&[u8]) -> Option<Zeroizing<Vec<u8>>>,
) -> Result<(), Denial> {
    let value = headers.get_mut(name).ok_or_else(unresolved)?;
    let rendered = render(value.as_bytes()).ok_or_else(unresolved)?;
    let mut injected = HeaderValue::from_bytes(&rendered).map_err(|_| {
        Denial::advising(Reason::CustodyDenied, "the secret cannot stand in a header; the operator must set another")
    })?;
    injected.set_sensitive(true);
    *value = injected;
    Ok(())
}

fn in_text(value: &[u8], placeholder: &Placeholder, secret: &SecretBytes) -> Option<Zeroizing<Vec<u8>>> {
    let before = value.strip_suffix(placeholder.as_bytes())?;
    Some(Zeroizing::new([before, exposed(secret)].concat()))
}

fn in_basic(
    value: &[u8],
    part: BasicPart,
    placeholder: &Placeholder,
    secret: &SecretBytes,
) -> Option<Zeroizing<Vec<u8>>> {
    let mut pair = basic::parse(value)?;
    let half = match part {
        BasicPart::Username => &mut pair.username,
        BasicPart::Password => &mut pair.password,
    };
    if half.as_slice() != placeholder.as_bytes() {
        return None;
    }
    *half = Zeroizing::new(exposed(secret).to_vec());
    Some(Zeroizing::new(basic::render(&pair).as_bytes().to_vec()))
}

fn unresolved() -> Denial {
    Denial::new(Reason::PlaceholderUnresolved)
}

#[expect(clippy::disallowed_methods, reason = "the upstream needs the secret on the wire")]
fn exposed(secret: &SecretBytes) -> &[u8] {
    secret.expose()
}
