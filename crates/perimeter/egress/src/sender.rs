//! One upstream connection that requests go over: HTTP/1.1, one at a time, or HTTP/2, several at a time. A request is
//! written in the form of whichever it goes over, so that callers need not know.

use std::sync::Arc;

use http::{HeaderValue, Request, Response, Uri, Version, header, uri::PathAndQuery};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use postern_policy::Scheme;

use crate::body::Body;

/// The sending end of a connection.
pub(crate) enum Sender {
    /// Carries one request at a time.
    Http1(http1::SendRequest<Body>),
    /// Carries many; the second part tells connections apart.
    Http2(http2::SendRequest<Body>, Arc<()>),
}

impl Sender {
    /// For a connection that speaks HTTP/2.
    pub(crate) fn http2(sender: http2::SendRequest<Body>) -> Self {
        Self::Http2(sender, Arc::default())
    }

    /// Another handle of the same connection, where it carries several requests.
    pub(crate) fn shared(&self) -> Option<Self> {
        match self {
            Self::Http1(_) => None,
            Self::Http2(sender, which) => Some(Self::Http2(sender.clone(), which.clone())),
        }
    }

    /// Whether both are handles of one connection.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        matches!((self, other), (Self::Http2(_, one), Self::Http2(_, other)) if Arc::ptr_eq(one, other))
    }

    /// Whether nothing can be sent any more.
    pub(crate) fn is_closed(&self) -> bool {
        match self {
            Self::Http1(sender) => sender.is_closed(),
            Self::Http2(sender, _) => sender.is_closed(),
        }
    }

    /// Waits until a request can be sent.
    ///
    /// # Errors
    /// When the connection ended.
    pub(crate) async fn ready(&mut self) -> hyper::Result<()> {
        match self {
            Self::Http1(sender) => sender.ready().await,
            Self::Http2(sender, _) => sender.ready().await,
        }
    }

    /// Sends a request whose `host` header is set, and waits for the head of its answer.
    ///
    /// # Errors
    /// With the request where nothing of it was sent.
    pub(crate) async fn try_send(
        &mut self,
        scheme: Scheme,
        request: Request<Body>,
    ) -> Result<Response<Incoming>, TrySendError<Request<Body>>> {
        match self {
            Self::Http1(sender) => sender.try_send_request(in_origin_form(request)).await,
            Self::Http2(sender, _) => sender.try_send_request(in_absolute_form(scheme, request)).await,
        }
    }
}

/// As RFC 9112, section 3.2.1, wants it.
fn in_origin_form(mut request: Request<Body>) -> Request<Body> {
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    if let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
    }
    // Trailers over HTTP/1.1 are announced in ways that clients do not have; none are asked for.
    request.headers_mut().remove(header::TE);
    *request.uri_mut() = Uri::from(path);
    *request.version_mut() = Version::HTTP_11;
    request
}

/// Scheme and authority become pseudo-header fields (RFC 9113, section 8.3.1); `host` would say the same again.
fn in_absolute_form(scheme: Scheme, mut request: Request<Body>) -> Request<Body> {
    let mut parts = request.uri().clone().into_parts();
    if let Some(host) = request.headers_mut().remove(header::HOST)
        && let Ok(authority) = host.as_bytes().try_into()
    {
        parts.authority = Some(authority);
        parts.scheme = scheme.as_str().parse().ok();
    }
    if let Ok(uri) = Uri::from_parts(parts) {
        *request.uri_mut() = uri;
    }
    *request.version_mut() = Version::HTTP_2;
    request
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::body;

    fn request() -> Request<Body> {
        let request = Request::builder().uri("/v1/x?q=1").header("host", "api.test:8443");
        request.header("te", "trailers").body(body::empty()).unwrap()
    }

    #[test]
    fn a_request_changes_its_form_with_the_connection_and_back() {
        let absolute = in_absolute_form(Scheme::Https, request());
        assert_eq!(absolute.uri(), "https://api.test:8443/v1/x?q=1");
        assert!(!absolute.headers().contains_key("host"));
        assert_eq!(absolute.headers()["te"], "trailers");
        let origin = in_origin_form(in_absolute_form(Scheme::Https, absolute));
        assert_eq!(
            (origin.uri().to_string().as_str(), &origin.headers()["host"]),
            ("/v1/x?q=1", &HeaderValue::from_static("api.test:8443"))
        );
        assert!(!origin.headers().contains_key("te"));
    }
}
