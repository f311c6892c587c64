//! What of a server's refusal a client is shown: scrubbed, then cut. Nothing of what may hold a secret that nobody here knows.

use http::{StatusCode, header};
use postern_model::vault::CapturedResponse;
use serde_json::{Map, Value};

use super::once::{Answer, is_plain};
use crate::{keyring::Keyring, limits, phases::scrub};

/// An MCP server's refusal. Whoever refuses a key may name the one it expects, so the body of such a one is not shown.
pub(super) fn of_server(answer: &Answer, keyring: &Keyring) -> CapturedResponse {
    let withheld = matches!(
        answer.status,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED
    );
    if withheld || !is_plain(&answer.headers) {
        return captured(answer, keyring, None);
    }
    captured(answer, keyring, Some(&answer.body))
}

/// A token endpoint's: the members of an error as RFC 6749 (5.2) has them, and nothing else that a body may hold, least of all of one that was meant to be a
/// success.
pub(super) fn of_endpoint(answer: &Answer, keyring: &Keyring) -> CapturedResponse {
    let error = (!answer.status.is_success() && is_plain(&answer.headers)).then(|| error_of(answer)).flatten();
    let text = error.map(|error| Value::Object(error).to_string());
    captured(answer, keyring, text.as_deref().map(str::as_bytes))
}

/// The error's members, where the body is one.
pub(super) fn error_of(answer: &Answer) -> Option<Map<String, Value>> {
    let body: Map<String, Value> = serde_json::from_slice(&answer.body).ok()?;
    let members = body.into_iter().filter(|(name, value)| {
        matches!(name.as_str(), "error" | "error_description" | "error_uri") && value.is_string()
    });
    let members: Map<String, Value> = members.collect();
    members.contains_key("error").then_some(members)
}

fn captured(answer: &Answer, keyring: &Keyring, body: Option<&[u8]>) -> CapturedResponse {
    let content_type = answer.headers.get(header::CONTENT_TYPE);
    let content_type = content_type.map(|value| scrub::header_text(keyring, value).0).unwrap_or_default();
    let (clean, _) = keyring.clean(body.unwrap_or_default());
    let text = String::from_utf8_lossy(&clean);
    let end = text.char_indices().map(|(at, one)| at + one.len_utf8()).take_while(|end| *end <= limits::SHOWN_BYTES);
    let shown = &text[..end.last().unwrap_or(0)];
    // PostgreSQL takes no NUL in a text, nor does a terminal.
    let shown: String = shown.chars().filter(|one| !one.is_control() || matches!(one, '\n' | '\t')).collect();
    let all = body.is_some() && answer.whole && text.len() <= limits::SHOWN_BYTES;
    CapturedResponse {
        status_code: answer.status.as_u16(),
        content_type,
        body: shown,
        body_truncated: !all && !answer.body.is_empty(),
    }
}
