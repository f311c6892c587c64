//! Phase: the one place where a refusal becomes an answer: recorded, then told to the agent with its reason and the
//! next step, as problem details (RFC 9457) where there is a response, else in the session's list of refusals.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use postern_audit::{Destination, Kind};
use postern_policy::{Denial, Reason};
use serde::Serialize;

use super::{identify::Named, record};
use crate::{
    body::{self, Body},
    message::Refusal,
    session::Session,
};

/// What a refusal says, for clients that show no problem details.
#[derive(Clone)]
struct Sentence(String);

/// Whether the client is Git, which shows of an error what is plain text, line by line, and nothing else.
pub(crate) fn is_for_git(headers: &HeaderMap) -> bool {
    headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"git/"))
}

/// The same refusal as plain text; anything else as it is.
pub(crate) fn in_plain_text(mut answer: Response<Body>) -> Response<Body> {
    if let Some(Sentence(sentence)) = answer.extensions_mut().remove() {
        *answer.body_mut() = body::full(sentence);
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    }
    answer
}

/// The header that carries the reason code, for clients that show no body.
pub(crate) const REASON_HEADER: &str = "postern-reason";

#[derive(Serialize)]
struct Problem<'a> {
    r#type: String,
    title: &'static str,
    status: u16,
    reason: &'a str,
    next_step: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    host: Option<&'a str>,
}

/// Records a refused request and answers it.
pub(crate) async fn request(
    session: &Session,
    destination: Destination,
    denial: Denial,
    caused_by: Option<u64>,
) -> Response<Body> {
    let kind = if caused_by.is_some() { Kind::EgressOutcome } else { Kind::EgressRequest };
    let destination = record::withheld(session, destination);
    let host = destination.host.clone();
    match record::refused(session, kind, destination, &denial, caused_by).await {
        Ok(()) => problem(&denial, host.as_deref()),
        Err(unrecorded) => problem(&unrecorded, host.as_deref()),
    }
}

/// Records a refused connection, which has no response to say so in.
pub(crate) async fn connection(session: &Session, named: &Named, scheme: &str, denial: &Denial) {
    let destination = record::of_connection(named, scheme);
    // Where the log fails the connection is closed all the same: that is the refusal.
    let _unrecorded = record::refused(session, Kind::EgressConnect, destination, denial, None).await;
    unanswered(session, named, denial);
}

/// Adds a refusal that no body carries to the list that the worker collects.
pub(crate) fn unanswered(session: &Session, named: &Named, denial: &Denial) {
    session.refuse(Refusal {
        host: session.recogniser().withhold(&named.host.to_string()),
        port: named.port.number(),
        reason: denial.reason.code().to_owned(),
        next_step: denial.next_step.clone(),
    });
}

/// The answer to a refused request.
pub(crate) fn problem(denial: &Denial, host: Option<&str>) -> Response<Body> {
    let status = status(denial.reason);
    let code = denial.reason.code();
    let problem = Problem {
        r#type: format!("urn:postern:refusal:{code}"),
        title: if status.is_server_error() {
            "The request could not be carried"
        } else {
            "Refused by the zone's policy"
        },
        status: status.as_u16(),
        reason: code,
        next_step: &denial.next_step,
        host,
    };
    let mut text = serde_json::to_vec(&problem).unwrap_or_default();
    text.push(b'\n');
    let mut response = Response::new(body::full(text));
    *response.status_mut() = status;
    if denial.reason == Reason::RequestMalformed {
        // What can be read in two ways may end in two places: nothing that follows is taken for a request.
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(code));
    let sentence = format!("{} ({code})\n{}\n", problem.title, denial.next_step);
    response.extensions_mut().insert(Sentence(sentence));
    response
}

fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::RequestMalformed | Reason::PathAmbiguous | Reason::HostMalformed => StatusCode::BAD_REQUEST,
        Reason::AuthorityMismatch => StatusCode::MISDIRECTED_REQUEST,
        Reason::LimitBody => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::LimitHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::LimitConnections | Reason::LimitRate => StatusCode::TOO_MANY_REQUESTS,
        Reason::AuditUnavailable | Reason::SessionUnknown => StatusCode::SERVICE_UNAVAILABLE,
        Reason::UpstreamUnreachable
        | Reason::UpstreamUntrusted
        | Reason::EncodingUnsupported
        | Reason::LimitDecoded => StatusCode::BAD_GATEWAY,
        Reason::LimitTime => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::FORBIDDEN,
    }
}
