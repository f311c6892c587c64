//! From a handler's answer to an HTTP response.

use axum::body::Body;
use http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, UPGRADE};
use http::{HeaderValue, Response, StatusCode};
use postern_engine::Subscription;
use postern_model::Problem;
use serde::Serialize;

use crate::sse::{self, Ends};

/// What a handler answers.
pub(crate) enum Reply {
    /// 200 with JSON.
    Json(Vec<u8>),
    /// 200 with JSON and one header more.
    JsonWith(Vec<u8>, (&'static str, &'static str)),
    /// 101: the connection speaks this protocol from now on.
    Switch(&'static str),
    /// 200 with server-sent events, until they end or the caller may not read on.
    Stream(Subscription, Ends),
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
    pub(crate) fn json_with<T: Serialize>(value: &T, header: (&'static str, &'static str)) -> Result<Self, Problem> {
        match Self::json(value)? {
            Self::Json(json) => Ok(Self::JsonWith(json, header)),
            other => Ok(other),
        }
    }

    /// The same answer; a stream ends when `ends` does.
    pub(crate) fn until(self, ends: Ends) -> Self {
        match self {
            Self::Stream(events, _) => Self::Stream(events, ends),
            Self::Json(json) => Self::Json(json),
            Self::JsonWith(json, header) => Self::JsonWith(json, header),
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
                response.headers_mut().insert(name, HeaderValue::from_static(value));
                response
            }
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
    response
}

fn response(status: StatusCode, content_type: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
