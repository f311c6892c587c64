//! What a caller is told when a request is not served: one typed error, one envelope (contract part 6).
//!
//! A problem is written for the caller. Causes that only the operator may see are logged where they happen and reach a
//! caller as [`Problem::internal`].

use serde_json::{Map, Value, json};

/// The kinds of problem, each with its status and its `error.type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// 400 `invalid_request_error`: the request itself is wrong.
    InvalidRequest,
    /// 401 `authentication_error`: no credential, or none that is known.
    Authentication,
    /// 403 `permission_error`: a valid credential that may not do this.
    Permission,
    /// 404 `not_found_error`: it is not there, or the caller may not know that it is.
    NotFound,
    /// 409 `conflict_error`: the state forbids it; the same request will be refused again.
    Conflict,
    /// 409 `memory_path_conflict_error`: another memory lies at the path.
    MemoryPathConflict,
    /// 409 `memory_precondition_failed_error`: the memory is not what the caller knows.
    MemoryPreconditionFailed,
    /// 412 `invalid_request_error`: a precondition the caller named does not hold.
    PreconditionFailed,
    /// 413 `request_too_large`.
    TooLarge,
    /// 429 `rate_limit_error`.
    RateLimited,
    /// 500 `api_error`: our fault.
    Internal,
    /// 503 `api_error`: not now; trying again may help.
    Unavailable,
    /// 529 `overloaded_error`.
    Overloaded,
}

impl Kind {
    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::InvalidRequest => 400,
            Self::Authentication => 401,
            Self::Permission => 403,
            Self::NotFound => 404,
            Self::Conflict | Self::MemoryPathConflict | Self::MemoryPreconditionFailed => 409,
            Self::PreconditionFailed => 412,
            Self::TooLarge => 413,
            Self::RateLimited => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Overloaded => 529,
        }
    }

    /// The `error.type` of the envelope.
    pub fn error_type(self) -> &'static str {
        match self {
            Self::InvalidRequest | Self::PreconditionFailed => "invalid_request_error",
            Self::Authentication => "authentication_error",
            Self::Permission => "permission_error",
            Self::NotFound => "not_found_error",
            Self::Conflict => "conflict_error",
            Self::MemoryPathConflict => "memory_path_conflict_error",
            Self::MemoryPreconditionFailed => "memory_precondition_failed_error",
            Self::TooLarge => "request_too_large",
            Self::RateLimited => "rate_limit_error",
            Self::Internal | Self::Unavailable => "api_error",
            Self::Overloaded => "overloaded_error",
        }
    }
}

/// A refusal or failure, as the caller sees it.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{message}")]
pub struct Problem {
    /// Status and type.
    pub kind: Kind,
    /// One sentence for the caller: what is wrong and, where there is one, what to do next.
    pub message: String,
    /// `error.details`, without `error_code`.
    pub details: Map<String, Value>,
    /// `error.details.error_code`.
    pub error_code: Option<&'static str>,
}

impl Problem {
    /// A problem of any kind.
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), details: Map::new(), error_code: None }
    }

    /// 400: the request is wrong.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(Kind::InvalidRequest, message)
    }

    /// 400 for one named place of the body or query.
    pub fn invalid_at(path: &str, message: impl std::fmt::Display) -> Self {
        Self::new(Kind::InvalidRequest, format!("{path}: {message}"))
    }

    /// 401.
    pub fn authentication(message: impl Into<String>) -> Self {
        Self::new(Kind::Authentication, message)
    }

    /// 403.
    pub fn permission(message: impl Into<String>) -> Self {
        Self::new(Kind::Permission, message)
    }

    /// 404.
    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(Kind::NotFound, message)
    }

    /// 409 that the same request will meet again: sent with `x-should-retry: false`.
    pub fn conflict(message: impl Into<String>) -> Self {
        Self::new(Kind::Conflict, message)
    }

    /// 500; the cause belongs in the log.
    pub fn internal() -> Self {
        Self::new(Kind::Internal, "The server could not complete the request. The server's log has the cause.")
    }

    /// The same problem with an `error_code`.
    #[must_use]
    pub fn with_code(mut self, code: &'static str) -> Self {
        self.error_code = Some(code);
        self
    }

    /// The same problem with one more member of `details`.
    #[must_use]
    pub fn with_detail(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.details.insert(key.to_owned(), value.into());
        self
    }

    /// The HTTP status.
    pub fn status(&self) -> u16 {
        self.kind.status()
    }

    /// What the header `x-should-retry` says, where the client's own table would be wrong: every 409 of ours is
    /// deterministic, and clients retry 409.
    pub fn should_retry(&self) -> Option<bool> {
        (self.status() == 409).then_some(false)
    }

    /// The error envelope.
    pub fn envelope(&self, request_id: &str) -> Value {
        let mut error = json!({"type": self.kind.error_type(), "message": self.message});
        if let Some(details) = self.details_value() {
            error["details"] = details;
        }
        json!({"type": "error", "error": error, "request_id": request_id})
    }

    fn details_value(&self) -> Option<Value> {
        let mut details = Map::new();
        if let Some(code) = self.error_code {
            details.insert("error_code".to_owned(), code.into());
        }
        details.extend(self.details.clone());
        (!details.is_empty()).then_some(Value::Object(details))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_envelope_has_details_only_when_there_are_some() {
        let plain = Problem::not_found("Agent not found.").envelope("req_1");
        assert_eq!(
            plain,
            json!({"type":"error","error":{"type":"not_found_error","message":"Agent not found."},"request_id":"req_1"})
        );
        let coded = Problem::invalid("no").with_code("environment_archived").with_detail("n", 1).envelope("req_1");
        assert_eq!(coded["error"]["details"], json!({"error_code":"environment_archived","n":1}));
    }

    #[test]
    fn only_conflicts_say_that_retrying_is_useless() {
        for kind in [Kind::Conflict, Kind::MemoryPathConflict, Kind::MemoryPreconditionFailed] {
            assert_eq!(Problem::new(kind, "x").should_retry(), Some(false));
        }
        assert_eq!(Problem::internal().should_retry(), None);
        assert_eq!(Problem::invalid("x").should_retry(), None);
    }
}
