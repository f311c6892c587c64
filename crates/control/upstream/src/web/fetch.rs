//! Fetching one page: a GET with nothing of ours in it, its redirects each decided anew.

use bytes::Bytes;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, LOCATION, USER_AGENT};
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::Full;
use postern_net::client::ClientError;
use postern_net::dial::DialError;
use postern_net::{Body, HttpClient};
use postern_policy::web::{DomainRules, WebUrl};
use postern_session::{WebErrorCode, WebFailure};

use super::page::{self, Received};
use super::{BODY_BYTES, PATIENCE, REDIRECTS};
use crate::public::{NoConnection, Public};

pub(super) async fn fetch(
    public: &Public,
    mut url: WebUrl,
    rules: &DomainRules,
    max_content_tokens: Option<u64>,
) -> Result<String, WebFailure> {
    for _ in 0..=REDIRECTS {
        let response = get(public, &url).await?;
        match redirect(&response) {
            Some(location) => url = next(&url, location, rules)?,
            None => {
                let received = receive(url, response).await?;
                return page::read(received)?.shown(max_content_tokens);
            }
        }
    }
    Err(not_accessible(format!("It redirected more than {REDIRECTS} times.")))
}

async fn get(public: &Public, url: &WebUrl) -> Result<Response<Body>, WebFailure> {
    let client: HttpClient = public.client(&url.endpoint()).map_err(|error| {
        // Not the URL: it is https and names a host.
        tracing::error!(error = &error as &dyn std::error::Error, "pages cannot be fetched");
        super::unavailable("This server cannot fetch pages: look at its log.")
    })?;
    let request = Request::builder()
        .method(Method::GET)
        .uri(url.path_and_query())
        .header(ACCEPT, "text/html, text/markdown, text/plain, application/json;q=0.9, */*;q=0.1")
        .header(ACCEPT_ENCODING, "gzip")
        .header(USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
        .body(Full::new(Bytes::new()))
        .map_err(|_| not_accessible("The URL cannot be asked for.".into()))?;
    client.request(request, PATIENCE).await.map_err(|error| of_client(&error))
}

/// Where a response redirects to.
fn redirect(response: &Response<Body>) -> Option<&str> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    response.headers().get(LOCATION).filter(|_| is_redirect)?.to_str().ok()
}

/// The URL that a redirect leads to, decided as the first was.
fn next(url: &WebUrl, location: &str, rules: &DomainRules) -> Result<WebUrl, WebFailure> {
    let refused = |why: &str| {
        let message = format!("It redirects to where this agent may not go: {why}. Use another source.");
        WebFailure::new(WebErrorCode::UrlNotAllowed, message)
    };
    let url = url.join(location).map_err(|error| refused(&error.to_string()))?;
    rules.check(&url).map_err(|error| refused(&error.to_string()))?;
    Ok(url)
}

async fn receive(url: WebUrl, response: Response<Body>) -> Result<Received, WebFailure> {
    let (head, mut body) = response.into_parts();
    of_status(head.status)?;
    let content_type = text(&head.headers, &CONTENT_TYPE);
    page::check(content_type.as_deref())?;
    let mut whole = Vec::new();
    let mut is_cut = false;
    while let Some(chunk) = body.chunk().await.map_err(|error| of_client(&error))? {
        let room = BODY_BYTES - whole.len();
        whole.extend_from_slice(&chunk[..chunk.len().min(room)]);
        if chunk.len() > room {
            is_cut = true;
            break;
        }
    }
    let (bytes, is_cut) = page::decoded(whole, is_cut, text(&head.headers, &CONTENT_ENCODING).as_deref())?;
    Ok(Received { url, content_type, bytes, is_cut })
}

fn text(headers: &HeaderMap, name: &http::HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.trim().to_ascii_lowercase())
}

fn of_status(status: StatusCode) -> Result<(), WebFailure> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::TOO_MANY_REQUESTS => Err(WebFailure::new(
            WebErrorCode::TooManyRequests,
            "The site wants fewer requests. Wait, or use another source.",
        )),
        status => Err(not_accessible(format!("The site answered {}.", status.as_u16()))),
    }
}

/// What the model is told of a connection that failed. Not whether a name is unknown or leads to an address that is not
/// public: that would answer questions about the names of this network.
fn of_client(error: &ClientError) -> WebFailure {
    not_accessible(match error {
        ClientError::Connect { source, .. } => match source.downcast_ref::<NoConnection>() {
            Some(NoConnection::Dial(
                DialError::Denied { .. }
                | DialError::Resolve { .. }
                | DialError::ResolveSlow(_)
                | DialError::NoAddress(_),
            )) => "The host has no public address.".into(),
            Some(NoConnection::Tls(_)) => "The site could not prove who it is.".into(),
            Some(NoConnection::Dial(_)) | None => "The host does not answer.".into(),
        },
        ClientError::Slow { .. } | ClientError::Silent(_) => "The site does not answer in time.".into(),
        _ => "The connection broke.".into(),
    })
}

fn not_accessible(what: String) -> WebFailure {
    WebFailure::new(WebErrorCode::UrlNotAccessible, format!("{what} Use another source, or go on without it."))
}
