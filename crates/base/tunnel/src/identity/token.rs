//! The form of a token: one header, the claims, the signature, each read strictly. Knows no time and no memory.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::Deserialize;

use super::{Claims, ISSUER, IdentityError, KeyError, MAX_TOKEN_BYTES};

/// How long an id of a token may be, in bytes.
const MAX_JTI_BYTES: usize = 64;

/// The whole header of a token: nothing else may stand in it, so no key, no address of a key, nothing critical.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StrictHeader {
    typ: String,
    alg: String,
    kid: String,
}

pub(super) fn encode(claims: &Claims, kid: &str, key: &EncodingKey) -> Result<String, KeyError> {
    let mut header = Header::new(Algorithm::EdDSA);
    header.kid = Some(kid.to_owned());
    jsonwebtoken::encode(&header, claims, key).map_err(|_| KeyError::Read)
}

/// The key that a token names, once its header is found to be one of ours.
pub(super) fn key_id(token: &str) -> Result<String, IdentityError> {
    if token.is_empty() {
        return Err(IdentityError::Missing);
    }
    if token.len() > MAX_TOKEN_BYTES {
        return Err(IdentityError::TooLong);
    }
    let mut parts = token.split('.');
    let header = parts.next().ok_or(IdentityError::Malformed)?;
    if parts.count() != 2 {
        return Err(IdentityError::Malformed);
    }
    let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| IdentityError::Malformed)?;
    let header: StrictHeader = serde_json::from_slice(&header).map_err(|_| IdentityError::Malformed)?;
    if header.alg != "EdDSA" {
        return Err(IdentityError::Algorithm);
    }
    if header.typ != "JWT" {
        return Err(IdentityError::Malformed);
    }
    Ok(header.kid)
}

/// What a token says, once it is found to be signed by this key for this tunnel.
pub(super) fn decode(token: &str, key: &DecodingKey, tunnel: &str) -> Result<Claims, IdentityError> {
    let claims =
        jsonwebtoken::decode::<Claims>(token, key, &validation(tunnel)).map_err(|error| refusal(error.kind()))?.claims;
    // The library passes a token that says its issuer or audience in no form that it knows.
    if claims.iss != ISSUER || claims.aud != tunnel {
        return Err(IdentityError::Audience);
    }
    if claims.jti.is_empty() || claims.jti.len() > MAX_JTI_BYTES {
        return Err(IdentityError::Malformed);
    }
    Ok(claims)
}

/// Times are checked by the caller, who has been told the time.
fn validation(tunnel: &str) -> Validation {
    let mut validation = Validation::new(Algorithm::EdDSA);
    validation.validate_exp = false;
    validation.validate_nbf = false;
    validation.set_audience(&[tunnel]);
    validation.set_issuer(&[ISSUER]);
    validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
    validation
}

fn refusal(error: &ErrorKind) -> IdentityError {
    match error {
        ErrorKind::InvalidSignature => IdentityError::Signature,
        ErrorKind::InvalidAlgorithm | ErrorKind::InvalidAlgorithmName => IdentityError::Algorithm,
        ErrorKind::InvalidAudience | ErrorKind::InvalidIssuer => IdentityError::Audience,
        _ => IdentityError::Malformed,
    }
}
