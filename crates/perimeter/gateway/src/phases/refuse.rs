//! Phase: the one place where a refusal becomes an answer: recorded, then told with its reason and the next step. A tool
//! call of a known caller gets a tool result that the model can read; everything else an HTTP status with problem details.

use http::{HeaderValue, Response, StatusCode, header};
use postern_policy::{Denial, Reason};
use serde_json::{Value, json};

use super::{
    message::{Asked, Message},
    record::{self, Known},
};
use crate::{
    body::{self, Body},
    gateway::Gateway,
};

/// Records a refusal and answers it.
pub(crate) async fn answer(gateway: &Gateway, known: &Known, denial: Denial) -> Response<Body> {
    let denial = told(gateway, known, denial).await;
    let result = known.claims.as_ref().and(known.asked.as_ref()).and_then(Asked::call);
    let mut response = match result {
        Some(call) => in_json(StatusCode::OK, "application/json", &tool_result(gateway, known, call.id, &denial)),
        None => {
            let status = status(denial.reason);
            in_json(status, "application/problem+json", &problem(known, status, &denial))
        }
    };
    response.headers_mut().insert(REASON_HEADER, HeaderValue::from_static(denial.reason.code()));
    response
}

/// Records the refusal of an answer that has begun as an event stream, and gives the event that says so. Where nothing
/// is awaited there is nobody to tell.
pub(crate) async fn event(gateway: &Gateway, known: &Known, denial: Denial, awaited: bool) -> Option<Vec<u8>> {
    let denial = told(gateway, known, denial).await;
    let Some(Asked::Message(Message::Request { id, .. })) = known.asked.as_ref().filter(|_| awaited) else {
        return None;
    };
    let is_call = known.asked.as_ref().is_some_and(|asked| asked.call().is_some());
    let message = if is_call { tool_result(gateway, known, id, &denial) } else { error(known, id, &denial) };
    Some(format!("event: message\ndata: {message}\n\n").into_bytes())
}

/// Records it and remembers it for `status`; without a log the refusal is another one.
async fn told(gateway: &Gateway, known: &Known, denial: Denial) -> Denial {
    let recorded = record::refused(gateway, known, &denial).await;
    let denial = recorded.err().unwrap_or(denial);
    let route = known.route.as_ref().map_or(known.host.as_str(), |route| route.name.as_str());
    tracing::info!(route, reason = %denial.reason, "refused");
    if status(denial.reason).is_server_error() || status(denial.reason) == StatusCode::UNAUTHORIZED {
        gateway.troubles.note(denial.reason.code(), format!("route {route}: {}", denial.next_step));
    }
    denial
}

/// What the model reads: the reason and what to do next.
fn tool_result(gateway: &Gateway, known: &Known, id: &Value, denial: &Denial) -> Value {
    let route = known.route.as_ref().map_or("", |route| route.name.as_str());
    let tool = known.asked.as_ref().and_then(Asked::call).map_or("", |call| call.tool);
    let tool = record::withheld(gateway, known, tool);
    let mut text =
        format!("[postern] refused {route} {tool} reason={} next={}", denial.reason.code(), denial.next_step);
    if let Some(detail) = &known.detail {
        text.push_str("\nThe server said: ");
        text.push_str(detail);
    }
    json!({
        "jsonrpc": "2.0",
        "id": id,
        "result": {
            "content": [{"type": "text", "text": text}],
            "isError": true,
            "_meta": {
                "postern/reason": denial.reason.code(),
                "postern/next_step": denial.next_step,
                "postern/started": known.sent,
            },
        },
    })
}

fn error(known: &Known, id: &Value, denial: &Denial) -> Value {
    json!({
        "jsonrpc": "2.0",
        "id": id,
        "error": {
            "code": -32000,
            "message": format!("[postern] {}", denial.reason.code()),
            "data": {"reason": denial.reason.code(), "next_step": denial.next_step, "detail": known.detail},
        },
    })
}

/// RFC 9457.
fn problem(known: &Known, status: StatusCode, denial: &Denial) -> Value {
    let code = denial.reason.code();
    json!({
        "type": format!("urn:postern:refusal:{code}"),
        "title": if status.is_server_error() { "The call could not be carried" } else { "Refused by the gateway" },
        "status": status.as_u16(),
        "reason": code,
        "next_step": denial.next_step,
        "route": known.route.as_ref().map(|route| route.name.as_str()),
        "detail": known.detail,
        "started": known.sent,
    })
}

fn in_json(status: StatusCode, kind: &'static str, value: &Value) -> Response<Body> {
    let mut response = Response::new(body::full(value.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn status(reason: Reason) -> StatusCode {
    match reason {
        Reason::IdentityMissing | Reason::IdentityInvalid | Reason::IdentityExpired | Reason::IdentityReplayed => {
            StatusCode::UNAUTHORIZED
        }
        Reason::RouteUnknown | Reason::McpSessionUnknown => StatusCode::NOT_FOUND,
        Reason::RequestMalformed | Reason::PathAmbiguous | Reason::UpgradeRefused => StatusCode::BAD_REQUEST,
        Reason::MethodNotAllowed => StatusCode::METHOD_NOT_ALLOWED,
        Reason::LimitTime => StatusCode::REQUEST_TIMEOUT,
        Reason::LimitBody => StatusCode::PAYLOAD_TOO_LARGE,
        Reason::LimitHeaders => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
        Reason::GatewayBusy | Reason::GatewayDraining | Reason::AuditUnavailable => StatusCode::SERVICE_UNAVAILABLE,
        Reason::UpstreamUnreachable
        | Reason::UpstreamUntrusted
        | Reason::UpstreamUnauthorized
        | Reason::UpstreamProtocol
        | Reason::RedirectRefused
        | Reason::OutcomeUnknown
        | Reason::ResultTooLarge
        | Reason::EncodingUnsupported
        | Reason::LimitDecoded => StatusCode::BAD_GATEWAY,
        Reason::Timeout => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::FORBIDDEN,
    }
}

/// The header that carries the reason code.
pub(crate) const REASON_HEADER: &str = "postern-reason";
