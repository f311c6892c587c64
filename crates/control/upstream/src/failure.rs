//! What kind of failure a failure is, and what to tell people about it.

use std::time::Duration;

use postern_model::event::ModelUsage;
use postern_session::{FailureKind, ModelFailure};
use serde::Deserialize;

/// The longest message of an endpoint that is passed on, in characters.
const MAX_MESSAGE: usize = 500;

#[derive(Deserialize)]
struct Envelope {
    error: Detail,
}

#[derive(Deserialize)]
struct Detail {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    message: String,
}

/// The failure that an HTTP answer other than 200 means.
pub(crate) fn of_status(endpoint: &str, status: u16, body: &[u8], retry_after: Option<Duration>) -> ModelFailure {
    let detail = serde_json::from_slice::<Envelope>(body).ok().map(|envelope| envelope.error);
    let said = detail.as_ref().map(|detail| detail.message.as_str()).unwrap_or_default();
    let kind = detail.as_ref().and_then(|detail| of_type(&detail.kind)).unwrap_or_else(|| of_code(status));
    let next = next_step(status);
    let message = format!("The model endpoint {endpoint} answered {status}: {}.{next}", clean(said));
    ModelFailure { kind, message, retry_after, usage: ModelUsage::default() }
}

/// The failure that an `error` event in a stream means.
pub(crate) fn of_event(endpoint: &str, data: &str, usage: ModelUsage) -> ModelFailure {
    let detail = serde_json::from_str::<Envelope>(data).ok().map(|envelope| envelope.error);
    let (kind, said) = detail.map_or((FailureKind::Transient, String::new()), |detail| {
        (of_type(&detail.kind).unwrap_or(FailureKind::Transient), detail.message)
    });
    let message = format!("The model endpoint {endpoint} broke its answer off: {}.", clean(&said));
    ModelFailure { kind, message, retry_after: None, usage }
}

/// Trouble on the way to the endpoint or in the stream: worth another try.
pub(crate) fn transient(message: String, usage: ModelUsage) -> ModelFailure {
    ModelFailure { kind: FailureKind::Transient, message, retry_after: None, usage }
}

fn of_type(kind: &str) -> Option<FailureKind> {
    Some(match kind {
        "rate_limit_error" => FailureKind::RateLimited,
        "overloaded_error" => FailureKind::Overloaded,
        "api_error" | "timeout_error" => FailureKind::Transient,
        "billing_error" => FailureKind::Billing,
        "invalid_request_error"
        | "authentication_error"
        | "permission_error"
        | "not_found_error"
        | "request_too_large" => FailureKind::Rejected,
        _ => return None,
    })
}

fn of_code(status: u16) -> FailureKind {
    match status {
        402 => FailureKind::Billing,
        408 | 409 => FailureKind::Transient,
        429 => FailureKind::RateLimited,
        503 | 529 => FailureKind::Overloaded,
        500.. => FailureKind::Transient,
        _ => FailureKind::Rejected,
    }
}

fn next_step(status: u16) -> &'static str {
    match status {
        401 | 403 => " Check the model key (ANTHROPIC_API_KEY or --model-key-file) and `[model] url`.",
        404 => " Check the agent's model and `[model] url`.",
        _ => "",
    }
}

/// One line, bounded: what an endpoint says is shown to clients.
fn clean(said: &str) -> String {
    let line: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect();
    let line = line.trim().trim_end_matches('.');
    if line.is_empty() { "no reason given".to_owned() } else { line.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_type_and_else_by_status() {
        let typed = |kind: &str| format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"m"}}}}"#);
        for (status, body, kind) in [
            (429, typed("rate_limit_error"), FailureKind::RateLimited),
            (429, "busy".into(), FailureKind::RateLimited),
            (529, typed("overloaded_error"), FailureKind::Overloaded),
            (503, String::new(), FailureKind::Overloaded),
            (500, typed("api_error"), FailureKind::Transient),
            (502, "<html>".into(), FailureKind::Transient),
            (408, String::new(), FailureKind::Transient),
            (402, typed("billing_error"), FailureKind::Billing),
            (400, typed("invalid_request_error"), FailureKind::Rejected),
            (401, typed("authentication_error"), FailureKind::Rejected),
            (403, String::new(), FailureKind::Rejected),
            (404, String::new(), FailureKind::Rejected),
            (413, typed("request_too_large"), FailureKind::Rejected),
            (418, typed("surprise"), FailureKind::Rejected),
        ] {
            assert_eq!(of_status("http://m", status, body.as_bytes(), None).kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn what_an_endpoint_says_is_one_bounded_line() {
        let body = serde_json::json!({"error": {"type": "api_error", "message": format!("a\nb{}", "x".repeat(9999))}});
        let failure = of_status("http://m", 500, body.to_string().as_bytes(), None);
        assert!(failure.message.starts_with("The model endpoint http://m answered 500: a b"));
        assert!(failure.message.len() < 600 && !failure.message.contains('\n'));
    }

    #[test]
    fn a_wrong_key_names_the_next_step() {
        assert!(of_status("http://m", 401, b"", None).message.contains("ANTHROPIC_API_KEY"));
    }
}
