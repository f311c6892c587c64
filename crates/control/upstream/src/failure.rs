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

/// A failure, and the cause for the server's log: with addresses and the words of systems, which clients are not told.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) failure: ModelFailure,
    pub(crate) cause: String,
}

/// The failure that an HTTP answer other than 200 means.
pub(crate) fn of_status(endpoint: &str, status: u16, body: &[u8], retry_after: Option<Duration>) -> Failed {
    let detail = serde_json::from_slice::<Envelope>(body).ok().map(|envelope| envelope.error);
    let said = detail.as_ref().map(|detail| detail.message.as_str()).unwrap_or_default();
    let kind = match detail.as_ref().and_then(|detail| of_type(&detail.kind)).unwrap_or_else(|| of_code(status)) {
        FailureKind::Rejected if is_too_long(status, said) => FailureKind::TooLong,
        kind => kind,
    };
    let next = next_step(status);
    // What is wrong with the request is the caller's to know; anything else is between the two servers.
    let reason = match (kind, status) {
        (FailureKind::Rejected | FailureKind::TooLong, 400 | 404 | 413 | 422) if !said.is_empty() => {
            format!(": {}", without_address(endpoint, &clean(said)))
        }
        _ => String::new(),
    };
    let message = format!("The model endpoint answered {status}{reason}.{next}");
    let body = String::from_utf8_lossy(&body[..body.len().min(4 * MAX_MESSAGE)]);
    let cause = format!("{endpoint} answered {status}: {}", clean(&body));
    Failed { failure: ModelFailure { kind, message, retry_after, usage: ModelUsage::default() }, cause }
}

/// The failure that an `error` event in a stream means.
pub(crate) fn of_event(endpoint: &str, data: &str, usage: ModelUsage) -> Failed {
    let detail = serde_json::from_str::<Envelope>(data).ok().map(|envelope| envelope.error);
    let kind = detail.and_then(|detail| of_type(&detail.kind)).unwrap_or(FailureKind::Transient);
    let message = "The model endpoint broke its answer off with an error.".to_owned();
    let cause = format!("{endpoint} broke its answer off: {}", clean(data));
    Failed { failure: ModelFailure { kind, message, retry_after: None, usage }, cause }
}

/// No answer began: worth another try.
pub(crate) fn unreached(cause: String) -> Failed {
    let message = "The model endpoint could not be reached or did not begin an answer in time. \
                   Check that it runs and that the server reaches `[model] url`; the server's log says where it failed.";
    transient(message, cause, ModelUsage::default())
}

/// An answer began and did not end as one: worth another try.
pub(crate) fn broken_off(cause: String, usage: ModelUsage) -> Failed {
    transient("The model endpoint's answer broke off.", cause, usage)
}

fn transient(message: &str, cause: String, usage: ModelUsage) -> Failed {
    let failure = ModelFailure { kind: FailureKind::Transient, message: message.to_owned(), retry_after: None, usage };
    Failed { failure, cause }
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

/// Whether the endpoint says that the conversation is longer than the model's window, in the words of those that are known.
fn is_too_long(status: u16, said: &str) -> bool {
    const WORDS: [&str; 6] = [
        "prompt is too long",
        "exceed context limit",
        "maximum context length",
        "context window",
        "context length",
        "request exceeds the maximum size",
    ];
    let said = said.to_ascii_lowercase();
    status == 413 || (matches!(status, 400 | 422) && WORDS.iter().any(|words| said.contains(words)))
}

fn next_step(status: u16) -> &'static str {
    match status {
        401 | 403 => " Check the server's model key (ANTHROPIC_API_KEY or --model-key-file) and `[model] url`.",
        404 => " Check the agent's model and the server's `[model] url`.",
        _ => "",
    }
}

/// One line, bounded: what an endpoint says is shown to clients.
fn clean(said: &str) -> String {
    let line: String = said.chars().map(|c| if c.is_control() { ' ' } else { c }).take(MAX_MESSAGE).collect();
    let line = line.trim().trim_end_matches('.');
    if line.is_empty() { "no reason given".to_owned() } else { line.to_owned() }
}

/// Words that are addresses or name the endpoint's are left out.
fn without_address(endpoint: &str, said: &str) -> String {
    let authority = endpoint.split_once("://").map_or(endpoint, |(_, rest)| rest).split('/').next().unwrap_or_default();
    let is_address = |word: &str| word.contains("://") || (!authority.is_empty() && word.contains(authority));
    let words = said.split(' ').map(|word| if is_address(word) { "[address]" } else { word });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_apart_by_type_and_else_by_status() {
        let typed = |kind: &str| format!(r#"{{"type":"error","error":{{"type":"{kind}","message":"m"}}}}"#);
        let said =
            |said: &str| serde_json::json!({"error": {"type": "invalid_request_error", "message": said}}).to_string();
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
            (413, typed("request_too_large"), FailureKind::TooLong),
            (400, said("prompt is too long: 208310 tokens > 200000 maximum"), FailureKind::TooLong),
            (400, said("input length and `max_tokens` exceed context limit: 1 + 2 > 2"), FailureKind::TooLong),
            (400, said("This model's maximum context length is 8192 tokens."), FailureKind::TooLong),
            (400, said("messages.0: too long a name"), FailureKind::Rejected),
            (401, said("prompt is too long"), FailureKind::Rejected),
            (418, typed("surprise"), FailureKind::Rejected),
        ] {
            assert_eq!(of_status("http://m", status, body.as_bytes(), None).failure.kind, kind, "{status} {body}");
        }
    }

    #[test]
    fn what_an_endpoint_says_of_the_request_is_one_bounded_line() {
        let said = format!("a\nb{}", "x".repeat(9999));
        let body = serde_json::json!({"error": {"type": "invalid_request_error", "message": said}});
        let failure = of_status("http://m", 400, body.to_string().as_bytes(), None).failure;
        assert!(failure.message.starts_with("The model endpoint answered 400: a b"), "{}", failure.message);
        assert!(failure.message.len() < 600 && !failure.message.contains('\n'));
    }

    #[test]
    fn a_wrong_key_names_the_next_step() {
        assert!(of_status("http://m", 401, b"", None).failure.message.contains("ANTHROPIC_API_KEY"));
    }

    #[test]
    fn an_endpoint_that_is_not_reached_names_the_next_step() {
        let told = unreached("connect to http://m: Connection refused".to_owned()).failure.message;
        assert!(told.contains("Check that") && told.contains("`[model] url`"), "{told}");
    }

    #[test]
    fn callers_are_told_no_address_and_the_log_is_told_all() {
        let endpoint = "http://llm.corp.internal:9100/base";
        let body = |kind: &str| {
            let said = "no route via http://10.0.0.7/x or llm.corp.internal:9100, sorry";
            serde_json::json!({"error": {"type": kind, "message": said}}).to_string()
        };
        for failed in [
            of_status(endpoint, 400, body("invalid_request_error").as_bytes(), None),
            of_status(endpoint, 401, body("authentication_error").as_bytes(), None),
            of_status(endpoint, 500, body("api_error").as_bytes(), None),
            of_status(endpoint, 502, b"<html>llm.corp.internal", None),
            of_event(endpoint, &body("overloaded_error"), ModelUsage::default()),
            unreached(format!("connect to {endpoint}: Connection refused (os error 111)")),
            broken_off(format!("{endpoint}: Connection reset by peer (os error 104)"), ModelUsage::default()),
        ] {
            let message = &failed.failure.message;
            let told = ["corp", "10.0.0.7", "9100", "os error"].iter().any(|part| message.contains(part));
            assert!(!told, "{message}");
            assert!(failed.cause.contains("llm.corp.internal"), "{}", failed.cause);
        }
        let told = of_status(endpoint, 400, body("invalid_request_error").as_bytes(), None).failure.message;
        assert_eq!(told, "The model endpoint answered 400: no route via [address] or [address] sorry.");
    }
}
