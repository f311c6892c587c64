//! Phase: who calls. Before anything else of a request counts its token is verified; its body is then held to the digest
//! that the token names, so nothing is read on behalf of nobody.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::HeaderMap;
use postern_policy::{Denial, Reason};
use postern_tunnel::identity::{self, Claims, IdentityError, MAX_TOKEN_BYTES};
use serde::{Deserialize, de::DeserializeOwned};

use crate::{gateway::Gateway, mark::Unmarked};

/// Verifies the token in the head. It counts as used from here on.
pub(crate) fn head(gateway: &Gateway, headers: &HeaderMap) -> Result<Claims, Denial> {
    let mut tokens = headers.get_all(identity::HEADER).iter();
    let token = match (tokens.next(), tokens.next()) {
        (Some(token), None) => token.to_str().map_err(|_| denied(IdentityError::Malformed))?,
        (None, _) => return Err(denied(IdentityError::Missing)),
        (Some(_), Some(_)) => return Err(denied(IdentityError::Malformed)),
    };
    // What the token says of the body is believed only because the signature is verified over it.
    let Claimed { body } = claimed(token).ok_or_else(|| denied(IdentityError::Malformed))?;
    let verified = gateway.verifier.verify(token, &body, gateway.clock());
    if postern_danger::off!("gateway-identity") {
        return claimed(token).ok_or_else(|| denied(IdentityError::Malformed));
    }
    let claims = verified.map_err(denied)?;
    gateway.mark.take(claims.iat).map_err(|why| unmarked(gateway, why))?;
    Ok(claims)
}

fn unmarked(gateway: &Gateway, why: Unmarked) -> Denial {
    match why {
        Unmarked::Former => Denial::advising(
            Reason::IdentityExpired,
            "the gateway has restarted since this was signed; make the call anew",
        ),
        Unmarked::Unwritable(error) => {
            gateway.troubles.note("mark_unwritable", format!("the gateway's mark cannot be written: {}", error.kind()));
            Denial::advising(Reason::GatewayBusy, "the gateway cannot write to its directory; tell the operator")
        }
    }
}

/// Whether this is the body that the token was signed for.
pub(crate) fn body(claims: &Claims, body: &[u8]) -> Result<(), Denial> {
    let same = identity::body_digest(body) == claims.body || postern_danger::off!("gateway-identity");
    if same { Ok(()) } else { Err(denied(IdentityError::Body)) }
}

#[derive(Deserialize)]
struct Claimed {
    body: String,
}

/// What a token says of itself.
fn claimed<T: DeserializeOwned>(token: &str) -> Option<T> {
    if token.len() > MAX_TOKEN_BYTES {
        return None;
    }
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1)?).ok()?;
    serde_json::from_slice(&claims).ok()
}

fn denied(error: IdentityError) -> Denial {
    let reason = match error {
        IdentityError::Missing => Reason::IdentityMissing,
        IdentityError::Expired | IdentityError::Future => Reason::IdentityExpired,
        IdentityError::Replayed => Reason::IdentityReplayed,
        IdentityError::Full => Reason::GatewayBusy,
        IdentityError::TooLong
        | IdentityError::Malformed
        | IdentityError::Algorithm
        | IdentityError::UnknownKey
        | IdentityError::Signature
        | IdentityError::Audience
        | IdentityError::Lifetime
        | IdentityError::Body => Reason::IdentityInvalid,
    };
    Denial::advising(reason, format!("{error}: {}", error.next_step()))
}
