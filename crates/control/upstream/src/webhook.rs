//! Posting an event to a webhook: signed, to a server whose address may be dialled, following no redirect and reading no
//! body. What was written by an agent or a user is in no part of it.

use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, USER_AGENT};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::Full;
use postern_model::Timestamp;
use postern_model::webhook::DeliveryError;
use postern_net::client::ClientError;
use postern_net::dial::DialError;
use postern_policy::Endpoint;
use postern_secret::SecretBytes;
use postern_secret::key::WebhookSecret;

pub use crate::public::Public;
use crate::public::{NoClient, NoConnection};

/// How long an endpoint may take to answer.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// One event for one endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The endpoint's id.
    pub webhook: String,
    /// The event's id, the same at every attempt.
    pub event: String,
    /// Where to.
    pub url: String,
    /// The payload.
    pub payload: String,
    /// Which secret signs.
    pub generation: u64,
    /// Whether the secret before signs too.
    pub former: bool,
}

/// Why an endpoint did not take an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Undelivered {
    /// For the list of deliveries.
    pub error: DeliveryError,
    /// It answered 410: it wants no more.
    pub is_gone: bool,
}

/// Posts events.
pub struct Postman {
    server_key: SecretBytes,
    public: Public,
}

impl Postman {
    /// One that derives secrets from the server's key and dials what `public` allows.
    #[must_use]
    pub fn new(server_key: SecretBytes, public: Public) -> Self {
        Self { server_key, public }
    }

    /// Posts an event once. The endpoint took it when it answers with a status between 200 and 299.
    ///
    /// # Errors
    /// Whatever else happens; the endpoint may have it all the same.
    pub async fn post(&self, letter: &Letter, now: Timestamp) -> Result<(), Undelivered> {
        let (endpoint, path) = destination(&letter.url)?;
        let client = self.public.client(&endpoint).map_err(|error| no_client(&error))?;
        let request = self.request(letter, path, now).map_err(|error| not_sent("unreachable", &error.to_string()))?;
        let answer = client.request(request, PATIENCE).await.map_err(|error| of_client(&error))?;
        of_status(answer.status())
    }

    fn request(&self, letter: &Letter, path: Uri, now: Timestamp) -> Result<Request<Full<Bytes>>, http::Error> {
        let timestamp = now.as_second();
        Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(CONTENT_TYPE, "application/json")
            .header(USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
            .header("webhook-id", &letter.event)
            .header("webhook-timestamp", timestamp)
            .header("webhook-signature", self.signatures(letter, timestamp))
            .body(Full::new(Bytes::copy_from_slice(letter.payload.as_bytes())))
    }

    /// The newest secret's signature first; an endpoint takes whichever it can check.
    fn signatures(&self, letter: &Letter, timestamp: i64) -> String {
        let sign = |generation| {
            WebhookSecret::derive(&self.server_key, &letter.webhook, generation).sign(
                &letter.event,
                timestamp,
                letter.payload.as_bytes(),
            )
        };
        let former = letter.former.then(|| letter.generation.saturating_sub(1));
        [Some(letter.generation), former].into_iter().flatten().map(sign).collect::<Vec<_>>().join(" ")
    }
}

/// Takes a webhook's URL apart: who is dialled, and the path with its query.
///
/// # Errors
/// It names no host, or not over https.
pub fn destination(url: &str) -> Result<(Endpoint, Uri), Undelivered> {
    let malformed = || not_sent("unreachable", "The URL cannot be read. Correct the webhook's URL.");
    let uri: Uri = url.parse().map_err(|_| malformed())?;
    let (Some("https"), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(malformed()) };
    let endpoint = format!("https://{authority}").parse::<Endpoint>().map_err(|_| malformed())?;
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    Ok((endpoint, path.parse().map_err(|_| malformed())?))
}

fn of_status(status: StatusCode) -> Result<(), Undelivered> {
    if status.is_success() {
        return Ok(());
    }
    let (kind, message) = if status.is_redirection() {
        ("redirected", "redirects are not followed. Give the webhook the URL where it leads.")
    } else {
        ("status", "a status between 200 and 299 says that it took the event.")
    };
    let message = format!("The endpoint answered {}: {message}", status.as_u16());
    let error = DeliveryError { kind: kind.into(), message, status: Some(status.as_u16()) };
    Err(Undelivered { error, is_gone: status == StatusCode::GONE })
}

fn of_client(error: &ClientError) -> Undelivered {
    match error {
        ClientError::Connect { source, .. } => match source.downcast_ref::<NoConnection>() {
            Some(NoConnection::Dial(DialError::Denied { .. })) => not_sent(
                "address_not_allowed",
                "The host does not lead to a public address. Name its range in `[server] webhook_addresses`.",
            ),
            Some(NoConnection::Dial(
                DialError::Resolve { .. } | DialError::ResolveSlow(_) | DialError::NoAddress(_),
            )) => not_sent("unresolved", "The host has no address. Correct the webhook's URL."),
            Some(NoConnection::Tls(_)) => not_sent(
                "untrusted",
                "The TLS handshake failed. The certificate must be of a public authority, or of one in `[server] ca_file`.",
            ),
            Some(NoConnection::Dial(_)) | None => not_sent("unreachable", "The host does not answer."),
        },
        ClientError::Slow { .. } => {
            not_sent("timeout", &format!("The endpoint did not answer within {} s.", PATIENCE.as_secs()))
        }
        _ => not_sent("unreachable", "The connection broke before an answer."),
    }
}

fn no_client(error: &NoClient) -> Undelivered {
    match error {
        NoClient::Insecure => not_sent("unreachable", "The URL must begin with https:// and name a host."),
        NoClient::Tls(_) => not_sent("untrusted", "The server has no certificates to trust. Install the system's."),
    }
}

fn not_sent(kind: &str, message: &str) -> Undelivered {
    let error = DeliveryError { kind: kind.into(), message: message.into(), status: None };
    Undelivered { error, is_gone: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_url_is_dialled_where_it_says_and_asked_for_its_path_and_query() {
        let (endpoint, path) = destination("https://hooks.example.com:8443/in?from=x").unwrap();
        assert_eq!(
            (endpoint.to_string(), path.to_string()),
            ("https://hooks.example.com:8443".into(), "/in?from=x".into())
        );
        assert_eq!(destination("https://hooks.example.com").unwrap().1, "/");
        for wrong in ["http://a.b/", "https://", "/in", "https://me@a.b/", "https://a.b:0/", "https://a.b:x/"] {
            assert!(destination(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_status_of_success_says_that_it_was_taken_and_only_410_that_no_more_is_wanted() {
        for (status, kind, is_gone) in [
            (301, "redirected", false),
            (304, "redirected", false),
            (400, "status", false),
            (410, "status", true),
            (503, "status", false),
        ] {
            let undelivered = of_status(StatusCode::from_u16(status).unwrap()).unwrap_err();
            assert_eq!((undelivered.error.kind.as_str(), undelivered.is_gone), (kind, is_gone), "{status}");
            assert_eq!(undelivered.error.status, Some(status));
        }
        assert!([200, 202, 204].iter().all(|status| of_status(StatusCode::from_u16(*status).unwrap()).is_ok()));
    }
}
