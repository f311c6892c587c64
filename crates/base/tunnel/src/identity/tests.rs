use std::time::Duration;

use jsonwebtoken::{Algorithm, Header};
use serde_json::{Value, json};

use super::*;

const TUNNEL: &str = "tnl_1";
const NOW: u64 = 1_800_000_000;

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn claims() -> Claims {
    Claims {
        iss: ISSUER.to_owned(),
        aud: TUNNEL.to_owned(),
        sub: "sesn_1".to_owned(),
        agent: "agent_1".to_owned(),
        agent_version: 3,
        definition_digest: "sha256:00".to_owned(),
        environment: "env_1".to_owned(),
        workspace: "wrkspc_1".to_owned(),
        tool_use: Some("sevt_1".to_owned()),
        purpose: Purpose::Call,
        iat: NOW,
        exp: NOW + 60,
        jti: new_jti(),
        body: body_digest(b"{}"),
    }
}

fn pair() -> (Signer, Verifier) {
    let signer = Signer::generate().unwrap();
    let verifier = Verifier::new(vec![signer.key()], TUNNEL);
    (signer, verifier)
}

fn verify(verifier: &Verifier, token: &str) -> Result<Claims, IdentityError> {
    verifier.verify(token, &body_digest(b"{}"), at(NOW + 1))
}

/// A token of any header and claims, signed as its key signs.
fn forged(signer: &Signer, header: &Value, claims: &str) -> String {
    let text = format!("{}.{}", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(claims));
    let signature = jsonwebtoken::crypto::sign(text.as_bytes(), &signer.shared.encoding, Algorithm::EdDSA).unwrap();
    format!("{text}.{signature}")
}

fn header(signer: &Signer) -> Value {
    json!({"typ": "JWT", "alg": "EdDSA", "kid": signer.key().kid})
}

#[test]
fn what_is_signed_is_what_is_read() {
    let (signer, verifier) = pair();
    let claims = claims();
    assert_eq!(verify(&verifier, &signer.sign(&claims).unwrap()).unwrap(), claims);
    let probe = Claims { tool_use: None, purpose: Purpose::Probe, jti: new_jti(), ..claims };
    assert_eq!(verify(&verifier, &signer.sign(&probe).unwrap()).unwrap(), probe);
}

#[test]
fn a_key_survives_being_kept() {
    let signer = Signer::generate().unwrap();
    let again = Signer::from_pkcs8(signer.to_pkcs8()).unwrap();
    assert_eq!(again.key(), signer.key());
    let verifier = Verifier::new(vec![signer.key()], TUNNEL);
    verify(&verifier, &again.sign(&claims()).unwrap()).unwrap();
    assert!(Signer::from_pkcs8(Secret::new(b"no key".to_vec())).is_err());
}

#[test]
fn a_token_counts_once() {
    let (signer, verifier) = pair();
    let token = signer.sign(&claims()).unwrap();
    verify(&verifier, &token).unwrap();
    assert_eq!(verify(&verifier, &token), Err(IdentityError::Replayed));
    verifier.replace_keys(vec![signer.key()]);
    assert_eq!(verify(&verifier, &token), Err(IdentityError::Replayed), "also after the keys were replaced");
}

#[test]
fn the_same_id_in_another_token_is_a_replay() {
    let (signer, verifier) = pair();
    let first = claims();
    verify(&verifier, &signer.sign(&first).unwrap()).unwrap();
    let second = Claims { exp: first.exp - 1, sub: "sesn_2".to_owned(), ..first };
    assert_eq!(verify(&verifier, &signer.sign(&second).unwrap()), Err(IdentityError::Replayed));
}

#[test]
fn a_refused_token_is_not_used_up() {
    let (signer, verifier) = pair();
    let token = signer.sign(&claims()).unwrap();
    assert_eq!(verifier.verify(&token, &body_digest(b"[]"), at(NOW)), Err(IdentityError::Body));
    verify(&verifier, &token).unwrap();
}

#[test]
fn a_full_memory_refuses() {
    let signer = Signer::generate().unwrap();
    let verifier = Verifier::remembering(vec![signer.key()], TUNNEL, 2);
    for _ in 0..2 {
        verify(&verifier, &signer.sign(&claims()).unwrap()).unwrap();
    }
    assert_eq!(verify(&verifier, &signer.sign(&claims()).unwrap()), Err(IdentityError::Full));
}

type Change = fn(&mut Claims);

#[test]
fn claims_are_held_to_their_bounds() {
    let table: [(&str, Change, Result<(), IdentityError>); 13] = [
        ("as it is", |_| {}, Ok(())),
        ("another tunnel's", |claims| claims.aud = "tnl_2".to_owned(), Err(IdentityError::Audience)),
        ("no tunnel's", |claims| claims.aud = String::new(), Err(IdentityError::Audience)),
        ("another issuer's", |claims| claims.iss = "somebody".to_owned(), Err(IdentityError::Audience)),
        ("expired", |claims| (claims.iat, claims.exp) = (NOW - 60, NOW), Err(IdentityError::Expired)),
        ("expires this second", |claims| claims.exp = NOW + 1, Err(IdentityError::Expired)),
        ("lives a second too long", |claims| claims.exp = NOW + 61, Err(IdentityError::Lifetime)),
        ("lives for ever", |claims| claims.exp = u64::MAX, Err(IdentityError::Lifetime)),
        ("ends before it begins", |claims| claims.exp = NOW - 1, Err(IdentityError::Lifetime)),
        ("5 s ahead", |claims| (claims.iat, claims.exp) = (NOW + 6, NOW + 60), Ok(())),
        ("6 s ahead", |claims| (claims.iat, claims.exp) = (NOW + 7, NOW + 60), Err(IdentityError::Future)),
        ("no id", |claims| claims.jti = String::new(), Err(IdentityError::Malformed)),
        ("an endless id", |claims| claims.jti = "x".repeat(65), Err(IdentityError::Malformed)),
    ];
    let (signer, verifier) = pair();
    for (what, change, expected) in table {
        let mut claims = claims();
        change(&mut claims);
        assert_eq!(verify(&verifier, &signer.sign(&claims).unwrap()).map(drop), expected, "{what}");
    }
}

#[test]
fn a_clock_before_1970_takes_nothing() {
    let (signer, verifier) = pair();
    let token = signer.sign(&claims()).unwrap();
    let before = UNIX_EPOCH - Duration::from_secs(1);
    assert_eq!(verifier.verify(&token, &body_digest(b"{}"), before), Err(IdentityError::Future));
}

#[test]
fn headers_other_than_ours_are_refused() {
    let (signer, verifier) = pair();
    let kid = signer.key().kid;
    let claims = || serde_json::to_string(&claims()).unwrap();
    for (header, expected) in [
        (json!({"typ": "JWT", "alg": "none", "kid": kid}), IdentityError::Algorithm),
        (json!({"typ": "JWT", "alg": "NONE", "kid": kid}), IdentityError::Algorithm),
        (json!({"typ": "JWT", "alg": "HS256", "kid": kid}), IdentityError::Algorithm),
        (json!({"typ": "JWT", "alg": "ES256", "kid": kid}), IdentityError::Algorithm),
        (json!({"typ": "JWT", "alg": "EdDSA"}), IdentityError::Malformed),
        (json!({"alg": "EdDSA", "kid": kid}), IdentityError::Malformed),
        (json!({"typ": "at+jwt", "alg": "EdDSA", "kid": kid}), IdentityError::Malformed),
        (json!({"typ": "JWT", "alg": "EdDSA", "kid": "0123456789abcdef"}), IdentityError::UnknownKey),
        (json!({"typ": "JWT", "alg": "EdDSA", "kid": kid, "crit": ["b64"]}), IdentityError::Malformed),
        (json!({"typ": "JWT", "alg": "EdDSA", "kid": kid, "jku": "https://evil.example"}), IdentityError::Malformed),
        (json!({"typ": "JWT", "alg": "EdDSA", "kid": kid, "jwk": {"kty": "OKP"}}), IdentityError::Malformed),
        (json!({"typ": "JWT", "alg": ["EdDSA"], "kid": kid}), IdentityError::Malformed),
        (json!([]), IdentityError::Malformed),
    ] {
        assert_eq!(verify(&verifier, &forged(&signer, &header, &claims())), Err(expected), "{header}");
    }
    verify(&verifier, &forged(&signer, &self::header(&signer), &claims())).unwrap();
}

#[test]
fn an_unsigned_token_is_refused() {
    let (signer, verifier) = pair();
    let claims = serde_json::to_string(&claims()).unwrap();
    for header in [json!({"typ": "JWT", "alg": "none", "kid": signer.key().kid}), header(&signer)] {
        let text = format!("{}.{}.", URL_SAFE_NO_PAD.encode(header.to_string()), URL_SAFE_NO_PAD.encode(&claims));
        let refusal = verify(&verifier, &text).unwrap_err();
        assert!(matches!(refusal, IdentityError::Algorithm | IdentityError::Signature), "{refusal:?}");
    }
}

#[test]
fn the_public_key_as_a_shared_secret_signs_nothing() {
    let (signer, verifier) = pair();
    let public = URL_SAFE_NO_PAD.decode(signer.key().public_key).unwrap();
    for secret in [public.as_slice(), signer.key().public_key.as_bytes()] {
        let mut header = Header::new(Algorithm::HS256);
        header.kid = Some(signer.key().kid);
        let token = jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap();
        assert_eq!(verify(&verifier, &token), Err(IdentityError::Algorithm));
        // And under a header that lies about it.
        let mut parts = token.split('.').skip(1);
        let (claims, signature) = (parts.next().unwrap(), parts.next().unwrap());
        let lying = format!("{}.{claims}.{signature}", URL_SAFE_NO_PAD.encode(self::header(&signer).to_string()));
        assert_eq!(verify(&verifier, &lying), Err(IdentityError::Signature));
    }
}

#[test]
fn another_key_under_a_known_id_is_refused() {
    let (signer, verifier) = pair();
    let another = Signer::generate().unwrap();
    let token = forged(&another, &header(&signer), &serde_json::to_string(&claims()).unwrap());
    assert_eq!(verify(&verifier, &token), Err(IdentityError::Signature));
    assert_eq!(verify(&verifier, &another.sign(&claims()).unwrap()), Err(IdentityError::UnknownKey));
}

#[test]
fn keys_that_are_not_what_they_say_are_left_out() {
    let (good, other) = (Signer::generate().unwrap().key(), Signer::generate().unwrap().key());
    let swapped = IdentityKey { kid: good.kid.clone(), public_key: other.public_key };
    let short = IdentityKey { kid: good.kid, public_key: "AAAA".to_owned() };
    assert!(!Verifier::new(vec![swapped, short], TUNNEL).has_keys());
}

#[test]
fn claims_are_read_strictly() {
    let (signer, verifier) = pair();
    let whole = || serde_json::to_value(claims()).unwrap();
    let without = |name: &str| {
        let mut claims = whole();
        claims.as_object_mut().unwrap().remove(name);
        claims.to_string()
    };
    let with = |name: &str, value: Value| {
        let mut claims = whole();
        claims[name] = value;
        claims.to_string()
    };
    let twice = |name: &str, value: &str| whole().to_string().replacen('{', &format!("{{\"{name}\":{value},"), 1);
    let mut table: Vec<String> = ["iss", "aud", "sub", "agent", "purpose", "iat", "exp", "jti", "body", "workspace"]
        .into_iter()
        .map(without)
        .collect();
    table.extend([
        with("unknown", json!(1)),
        with("aud", json!([TUNNEL])),
        with("iss", json!([ISSUER])),
        with("exp", json!(NOW as f64 + 30.5)),
        with("exp", json!((NOW + 30).to_string())),
        with("exp", json!(-1)),
        with("purpose", json!("admin")),
        with("nbf", json!(NOW)),
        twice("sub", "\"sesn_2\""),
        twice("aud", "\"tnl_2\""),
        twice("exp", "1"),
        twice("jti", "\"x\""),
        "[]".to_owned(),
        "null".to_owned(),
        format!("{} {{}}", whole()),
    ]);
    for claims in table {
        let refusal = verify(&verifier, &forged(&signer, &header(&signer), &claims)).unwrap_err();
        assert!(matches!(refusal, IdentityError::Malformed | IdentityError::Audience), "{refusal:?} for {claims}");
    }
}

#[test]
fn tokens_cut_short_or_changed_are_refused() {
    let (signer, verifier) = pair();
    let token = signer.sign(&claims()).unwrap();
    for length in 0..token.len() {
        verify(&verifier, &token[..length]).unwrap_err();
    }
    for position in (0..token.len()).step_by(7) {
        let mut changed = token.clone().into_bytes();
        changed[position] = if changed[position] == b'A' { b'B' } else { b'A' };
        verify(&verifier, &String::from_utf8(changed).unwrap()).unwrap_err();
    }
    for odd in [
        format!("{token}."),
        format!(".{token}"),
        format!("{token}.{token}"),
        token.replace('.', ""),
        format!(" {token}"),
        format!("{token}="),
    ] {
        verify(&verifier, &odd).unwrap_err();
    }
    verify(&verifier, &token).unwrap();
}

#[test]
fn endless_tokens_are_refused_unread() {
    let (signer, verifier) = pair();
    let big = Claims { sub: "x".repeat(MAX_TOKEN_BYTES), ..claims() };
    assert_eq!(verify(&verifier, &signer.sign(&big).unwrap()), Err(IdentityError::TooLong));
    assert_eq!(verify(&verifier, &"A".repeat(10_000_000)), Err(IdentityError::TooLong));
    assert_eq!(verify(&verifier, ""), Err(IdentityError::Missing));
}

#[test]
fn each_refusal_has_a_reason_and_a_next_step() {
    for (error, code) in [
        (IdentityError::Missing, "identity_missing"),
        (IdentityError::Expired, "identity_expired"),
        (IdentityError::Replayed, "identity_replayed"),
        (IdentityError::Audience, "identity_invalid"),
        (IdentityError::Full, "gateway_busy"),
    ] {
        assert_eq!(error.code(), code);
        assert!(error.next_step().ends_with('.'));
    }
}
