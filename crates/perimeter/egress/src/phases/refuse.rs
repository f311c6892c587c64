//! Phase: the one place where a refusal becomes an answer: recorded, then told to the agent with its reason and the
//! next step, as problem details (RFC 9457) where there is a response, else in the session's list of refusals.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use postern_audit::{Destination, Kind};
use postern_policy::{Denial, Reason};
use serde::Serialize;

use super::{identify::Named, record};
use crate::{
    body::{self, Body},
    message::Refusal,
    messages::Messages,
    session::Session,
};

/// What a refusal says, for clients that show no problem details.
#[derive(Clone)]
struct Sentence(String);

/// What a client shows of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shows {
    /// Problem details, and what else a body holds.
    Bodies,
    /// Plain text, line by line, and nothing else: Git.
    Lines,
    /// The status of a call, which follows a success of HTTP: gRPC.
    Statuses,
}

impl Shows {
    /// As its request's headers have it.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if headers.get(header::USER_AGENT).is_some_and(|agent| agent.as_bytes().starts_with(b"git/")) {
            Self::Lines
        } else if Messages::of(headers).is_some() {
            Self::Statuses
        } else {
            Self::Bodies
        }
    }

    /// The refusal as the client shows it; anything else as it is.
    pub(crate) fn shown(self, mut answer: Response<Body>) -> Response<Body> {
        let Some(Sentence(sentence)) = answer.extensions_mut().remove() else { return answer };
        match self {
            Self::Bodies => {}
            Self::Lines => {
                *answer.body_mut() = body::full(sentence);
                answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            }
            Self::Statuses => {
                let code = HeaderValue::from(call_status(answer.status()));
                *answer.status_mut() = StatusCode::OK;
                *answer.body_mut() = body::empty();
                let headers = answer.headers_mut();
                headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
                headers.insert("grpc-status", code);
                headers.extend(in_one_line(&sentence).map(|text| (HeaderName::from_static("grpc-message"), text)));
            }
        }
        answer
    }
}

/// The nearest of the statuses of a gRPC call.
fn call_status(status: StatusCode) -> u16 {
    match status {
        StatusCode::BAD_REQUEST => 3,
        StatusCode::GATEWAY_TIMEOUT => 4,
        StatusCode::TOO_MANY_REQUESTS | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            8
        }
        StatusCode::BAD_GATEWAY | StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 7,
    }
}

/// A text as a status' message holds it: what is no printable ASCII, and `%`, percent-encoded.
fn in_one_line(text: &str) -> Option<HeaderValue> {
    let one = |byte: u8| match byte {
        b' '..=b'~' if byte != b'%' => char::from(byte).to_string(),
        _ => format!("%{byte:02X}"),
    };
    HeaderValue::try_from(text.trim_end().bytes().map(one).collect::<String>()).ok()
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
    session: &Arc<Session>,
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
pub(crate) async fn connection(session: &Arc<Session>, named: &Named, scheme: &str, denial: &Denial) {
    let destination = record::of_connection(named, scheme);
    // Where the log fails the connection is closed all the same: that is the refusal.
    let _unrecorded = record::refused(session, Kind::EgressConnect, destination, denial, None).await;
    unanswered(session, named, denial);
}

/// Tells of a refused datagram. Its record follows what is begun before and is waited for by nobody: nothing is done that it would have to come before.
pub(crate) fn datagram(session: &Arc<Session>, named: &Named, denial: &Denial) {
    let (recording, refused) = (session.clone(), denial.clone());
    let destination = record::of_connection(named, "udp");
    session.drain.begin(async move {
        let _unrecorded = record::refused(&recording, Kind::EgressConnect, destination, &refused, None).await;
    });
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
        | Reason::UpstreamCertificateRequired
        | Reason::EncodingUnsupported
        | Reason::LimitDecoded => StatusCode::BAD_GATEWAY,
        Reason::LimitTime => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::FORBIDDEN,
    }
}
