//! From a handler's answer to an HTTP response.

use axum::body::Body;
use http::header::{
    CACHE_CONTROL, CONNECTION, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_SECURITY_POLICY, CONTENT_TYPE, RETRY_AFTER,
    UPGRADE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use postern_engine::Subscription;
use postern_model::Problem;
use serde::Serialize;

use crate::sse::{self, Ends};

/// What a handler answers.
pub(crate) enum Reply {
    /// 200 with JSON.
    Json(Vec<u8>),
    /// 200 with JSON and one header more.
    JsonWith(Vec<u8>, (&'static str, HeaderValue)),
    /// 200 with the bytes of a file.
    Download(Download),
    /// 101: the connection speaks this protocol from now on.
    Switch(&'static str),
    /// 200 with server-sent events, until they end or the caller may not read on.
    Stream(Subscription, Ends),
}

/// A file on its way to a client.
pub(crate) struct Download {
    /// Its name.
    pub(crate) filename: String,
    /// What the uploader said it is.
    pub(crate) mime_type: String,
    /// How many bytes.
    pub(crate) size_bytes: u64,
    /// The bytes.
    pub(crate) body: Body,
}

impl Reply {
    /// A JSON answer.
    pub(crate) fn json<T: Serialize>(value: &T) -> Result<Self, Problem> {
        serde_json::to_vec(value).map(Self::Json).map_err(|error| {
            tracing::error!(%error, "an answer does not serialise");
            Problem::internal()
        })
    }

    /// A JSON answer with one header more.
    pub(crate) fn json_with<T: Serialize>(value: &T, header: (&'static str, HeaderValue)) -> Result<Self, Problem> {
        match Self::json(value)? {
            Self::Json(json) => Ok(Self::JsonWith(json, header)),
            other => Ok(other),
        }
    }

    /// Whether its body is sent for as long as its reader takes.
    pub(crate) fn lasts(&self) -> bool {
        match self {
            Self::Stream(..) | Self::Download(_) => true,
            Self::Json(json) | Self::JsonWith(json, _) => json.len() > SENT_AT_ONCE,
            Self::Switch(_) => false,
        }
    }

    /// The same answer; a stream ends when `ends` does.
    pub(crate) fn until(self, ends: Ends) -> Self {
        match self {
            Self::Stream(events, _) => Self::Stream(events, ends),
            Self::Json(json) => Self::Json(json),
            Self::JsonWith(json, header) => Self::JsonWith(json, header),
            Self::Download(download) => Self::Download(download),
            Self::Switch(protocol) => Self::Switch(protocol),
        }
    }

    /// A stream that nothing but its events ends.
    pub(crate) fn stream(events: Subscription) -> Self {
        Self::Stream(events, Box::pin(std::future::pending()))
    }

    pub(crate) fn into_response(self, ping_every: std::time::Duration) -> Response<Body> {
        match self {
            Self::Json(json) => response(StatusCode::OK, "application/json", Body::from(json)),
            Self::JsonWith(json, (name, value)) => {
                let mut response = response(StatusCode::OK, "application/json", Body::from(json));
                response.headers_mut().insert(name, value);
                response
            }
            Self::Download(download) => downloaded(download),
            Self::Switch(protocol) => switched(protocol),
            Self::Stream(events, ends) => {
                let body = Body::new(sse::EventStream::new(events, ends, ping_every));
                let mut response = response(StatusCode::OK, "text/event-stream", body);
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
                response
            }
        }
    }
}

/// A stranger's bytes: a browser must neither guess what they are nor show them as a page of ours.
fn downloaded(download: Download) -> Response<Body> {
    let Download { filename, mime_type, size_bytes, body } = download;
    let mut response = response(StatusCode::OK, "application/octet-stream", body);
    let headers = response.headers_mut();
    if let Ok(kind) = HeaderValue::from_str(&mime_type) {
        headers.insert(CONTENT_TYPE, kind);
    }
    headers.insert(CONTENT_LENGTH, HeaderValue::from(size_bytes));
    let name = utf8_percent_encode(&filename, NON_ALPHANUMERIC);
    if let Ok(disposition) = HeaderValue::from_str(&format!("attachment; filename*=UTF-8''{name}")) {
        headers.insert(CONTENT_DISPOSITION, disposition);
    }
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox; default-src 'none'"));
    response
}

fn switched(protocol: &'static str) -> Response<Body> {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static(protocol));
    response
}

/// The error envelope as a response.
pub(crate) fn refusal(problem: &Problem, request_id: &str) -> Response<Body> {
    let status = StatusCode::from_u16(problem.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let body = Body::from(problem.envelope(request_id).to_string());
    let mut response = response(status, "application/json", body);
    if let Some(retry) = problem.should_retry() {
        let value = if retry { "true" } else { "false" };
        response.headers_mut().insert("x-should-retry", HeaderValue::from_static(value));
    }
    if status == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static(PATIENCE_SECONDS));
    }
    response
}

/// An answer of so many bytes is the kernel's, whether its reader takes it or not.
const SENT_AT_ONCE: usize = 64 * 1024;

/// When to ask again for what is full now: others have to finish first, and nobody says when they will.
const PATIENCE_SECONDS: &str = "5";

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

#[cfg(test)]
mod tests {
    use postern_model::problem::Kind;

    use super::*;

    #[test]
    fn an_answer_lasts_where_its_reader_may_leave_it_unread() {
        for (size, lasts) in [(SENT_AT_ONCE, false), (SENT_AT_ONCE + 1, true)] {
            assert_eq!(Reply::Json(vec![b' '; size]).lasts(), lasts, "{size}");
        }
        assert!(!Reply::Switch("x").lasts(), "it has a seat of its own");
    }

    #[test]
    fn what_is_full_now_says_when_to_ask_again_and_nothing_else_does() {
        for (kind, after) in [
            (Kind::RateLimited, Some("5")),
            (Kind::Conflict, None),
            (Kind::InvalidRequest, None),
            (Kind::Unavailable, None),
        ] {
            let response = refusal(&Problem::new(kind, "full"), "req_1");
            let said = response.headers().get(RETRY_AFTER).map(|value| value.to_str().unwrap());
            assert_eq!(said, after, "{kind:?}");
        }
    }
}
