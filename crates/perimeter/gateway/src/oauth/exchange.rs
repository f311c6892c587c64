//! What a token endpoint answered: new tokens, or why not (RFC 6749, 5.1 and 5.2).

use postern_policy::{Denial, Reason};
use postern_secret::SecretBytes;
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zeroize::Zeroizing;

use super::{
    captured::error_of,
    once::{Answer, is_plain},
};
use crate::limits;

/// Tokens as they came.
pub(super) struct Tokens {
    pub(super) access: SecretBytes,
    pub(super) refresh: Option<SecretBytes>,
    /// For how long the access token is good.
    pub(super) expires_in_seconds: Option<i64>,
}

#[derive(Deserialize)]
struct Body {
    access_token: Token,
    #[serde(default)]
    token_type: Option<String>,
    #[serde(default)]
    refresh_token: Option<Token>,
    #[serde(default)]
    expires_in: Option<Value>,
}

/// Zeroed when it is dropped.
struct Token(Zeroizing<String>);

impl<'de> Deserialize<'de> for Token {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self(Zeroizing::new(text)))
    }
}

/// The tokens.
///
/// # Errors
/// What the answer means instead, without a word of the endpoint's that is not one of the RFC's.
pub(super) fn tokens(answer: &Answer) -> Result<Tokens, Denial> {
    let status = answer.status;
    if status.is_redirection() {
        return Err(Denial::new(Reason::RedirectRefused));
    }
    if status.is_server_error() || matches!(status.as_u16(), 408 | 429) {
        return Err(Denial::advising(
            Reason::UpstreamUnreachable,
            "the token endpoint has no capacity now; try again later",
        ));
    }
    if !status.is_success() {
        let word = error_word(answer).unwrap_or("no error that is known");
        let next = format!("it says {word}: {}", Reason::RefreshRefused.next_step());
        return Err(Denial::advising(Reason::RefreshRefused, next));
    }
    read(answer).ok_or_else(|| {
        Denial::advising(
            Reason::UpstreamProtocol,
            "the token endpoint's answer is none (RFC 6749, 5.1); tell whoever runs it",
        )
    })
}

/// The endpoint's error, where it is one of the RFC's.
pub(super) fn error_word(answer: &Answer) -> Option<&'static str> {
    let error = error_of(answer)?;
    let said = error.get("error")?.as_str()?;
    WORDS.iter().find(|word| **word == said).copied()
}

fn read(answer: &Answer) -> Option<Tokens> {
    if !answer.whole || !is_plain(&answer.headers) {
        return None;
    }
    let Body { access_token, token_type, refresh_token, expires_in } = serde_json::from_slice(&answer.body).ok()?;
    if token_type.is_some_and(|kind| !kind.eq_ignore_ascii_case("bearer")) {
        return None;
    }
    let expires_in_seconds = expires_in.as_ref().and_then(seconds).map(whole_seconds);
    // An empty one is none: the former stays.
    let refresh = refresh_token.filter(|token| !token.0.is_empty()).map(|token| secret(&token));
    Some(Tokens {
        access: secret(&access_token)?,
        refresh: refresh.map_or(Some(None), |one| one.map(Some))?,
        expires_in_seconds,
    })
}

/// Some endpoints write the number as a text. What is no number is as if nothing were said: the tokens are new, and the former ones may be used up.
fn seconds(said: &Value) -> Option<f64> {
    said.as_f64().or_else(|| said.as_str()?.parse().ok())
}

/// Bounded both ways, for a time must come of it.
#[expect(clippy::cast_possible_truncation, reason = "clamped to what fits before")]
fn whole_seconds(seconds: f64) -> i64 {
    if seconds.is_nan() { 0 } else { seconds.clamp(0.0, LONGEST_SECONDS) as i64 }
}

/// A token as it can stand in a header or a form.
fn secret(Token(token): &Token) -> Option<SecretBytes> {
    let fits = (1..=limits::TOKEN_BYTES).contains(&token.len()) && token.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then(|| SecretBytes::new(token.as_bytes().to_vec()))
}

/// For the fuzz target: whatever an endpoint answers, tokens can stand in a header and their time is bounded, and of an error only a word of the
/// RFC's is repeated.
#[expect(clippy::disallowed_methods, reason = "the fuzzer's own bytes are looked at")]
pub(crate) fn promised(bytes: &[u8]) {
    let Some((first, body)) = bytes.split_first() else { return };
    let status = [200, 400, 401, 302, 503][usize::from(first % 5)];
    let answer = Answer {
        status: http::StatusCode::from_u16(status).expect("one of the above"),
        headers: http::HeaderMap::new(),
        body: Zeroizing::new(body.to_vec()),
        whole: first & 0x80 == 0,
    };
    match tokens(&answer) {
        Ok(Tokens { access, refresh, expires_in_seconds }) => {
            assert!(status == 200 && answer.whole);
            assert!(serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(body).is_ok());
            for token in [Some(access), refresh].into_iter().flatten() {
                let token = token.expose();
                assert!((1..=limits::TOKEN_BYTES).contains(&token.len()) && token.iter().all(u8::is_ascii_graphic));
            }
            assert!(expires_in_seconds.is_none_or(|seconds| (0..=315_360_000).contains(&seconds)));
        }
        Err(denial) => {
            let advice = denial.next_step.to_string();
            let known = [
                Reason::RefreshRefused.next_step(),
                Reason::RedirectRefused.next_step(),
                "try again later",
                "tell whoever runs it",
            ];
            assert!(known.iter().any(|end| advice.ends_with(end)), "{advice}");
            let said = advice.strip_prefix("it says ").and_then(|rest| rest.split_once(':')).map(|(word, _)| word);
            assert!(said.is_none_or(|word| word == "no error that is known" || WORDS.contains(&word)), "{advice}");
        }
    }
}

/// The errors of RFC 6749 (5.2) and RFC 8707 (2).
const WORDS: &[&str] = &[
    "invalid_request",
    "invalid_client",
    "invalid_grant",
    "unauthorized_client",
    "unsupported_grant_type",
    "invalid_scope",
    "invalid_target",
];
/// Ten years.
const LONGEST_SECONDS: f64 = 315_360_000.0;

#[cfg(test)]
mod tests {
    use http::{HeaderMap, StatusCode};

    use super::*;

    fn answer(status: u16, body: &str) -> Answer {
        let body = Zeroizing::new(body.as_bytes().to_vec());
        Answer { status: StatusCode::from_u16(status).unwrap(), headers: HeaderMap::new(), body, whole: true }
    }

    #[test]
    fn what_comes_with_a_200_is_tokens_or_nothing() {
        let good =
            |body: &str| tokens(&answer(200, body)).map(|tokens| (tokens.refresh.is_some(), tokens.expires_in_seconds));
        for (body, expected) in [
            (r#"{"access_token": "a"}"#, (false, None)),
            (r#"{"access_token": "a", "token_type": "Bearer", "expires_in": 3600}"#, (false, Some(3600))),
            (r#"{"access_token": "a", "refresh_token": "r", "expires_in": "60"}"#, (true, Some(60))),
            (
                r#"{"access_token": "a", "refresh_token": "", "expires_in": 1e300, "x": [1]}"#,
                (false, Some(315_360_000)),
            ),
            (r#"{"access_token": "a", "expires_in": -5}"#, (false, Some(0))),
            // Tokens that rotated are not thrown away for it: nothing else is good any more.
            (r#"{"access_token": "a", "refresh_token": "r", "expires_in": "soon"}"#, (true, None)),
            (r#"{"access_token": "a", "refresh_token": "r", "expires_in": [60]}"#, (true, None)),
            (r#"{"access_token": "a", "refresh_token": "r", "expires_in": null}"#, (true, None)),
        ] {
            assert_eq!(good(body).unwrap(), expected, "{body}");
        }
        let long = format!(r#"{{"access_token": "{}"}}"#, "x".repeat(limits::TOKEN_BYTES + 1));
        for body in [
            "",
            "<html>",
            "[]",
            "{}",
            r#"{"access_token": ""}"#,
            r#"{"access_token": 5}"#,
            r#"{"access_token": "a\nb"}"#,
            r#"{"access_token": "a", "token_type": "mac"}"#,
            r#"{"access_token": "a", "access_token": "b"}"#,
            r#"{"access_token": "a", "refresh_token": "a b"}"#,
            &long,
        ] {
            assert_eq!(tokens(&answer(200, body)).err().unwrap().reason, Reason::UpstreamProtocol, "{body}");
        }
    }

    #[test]
    fn every_other_answer_says_whether_the_grant_is_gone_and_repeats_no_text_of_a_strangers() {
        for (status, body, reason) in [
            (400, r#"{"error": "invalid_grant", "error_description": "token s3cret"}"#, Reason::RefreshRefused),
            (401, r#"{"error": "s3cret"}"#, Reason::RefreshRefused),
            (404, "s3cret", Reason::RefreshRefused),
            (302, "s3cret", Reason::RedirectRefused),
            (429, "s3cret", Reason::UpstreamUnreachable),
            (503, "s3cret", Reason::UpstreamUnreachable),
        ] {
            let denial = tokens(&answer(status, body)).err().unwrap();
            assert_eq!(denial.reason, reason, "{status}");
            assert!(!denial.next_step.contains("s3cret"), "{}", denial.next_step);
            assert_eq!(denial.next_step.contains("invalid_grant"), status == 400);
        }
    }
}
