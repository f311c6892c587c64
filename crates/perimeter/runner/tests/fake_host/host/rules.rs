//! What the official worker sends (contract parts 0.1, 1.3 to 1.5 and 4), as a table: everything else is a violation.

use base64::Engine as _;
use http::Method;
use http::request::Parts;
use serde_json::{Value, json};

use super::{ENVIRONMENT, KEY, WORK};

/// The routes that a worker uses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    Poll,
    Acknowledge,
    Heartbeat,
    Stop,
    Session,
    List,
    Stream,
    Post,
}

/// The headers that the official client sends on these routes.
const HEADERS: [&str; 9] = [
    "host",
    "accept",
    "authorization",
    "anthropic-version",
    "anthropic-beta",
    "anthropic-worker-id",
    "content-type",
    "content-length",
    "user-agent",
];

pub(crate) fn route(method: &Method, path: &str, session: &str) -> Option<Route> {
    let session: String = session.replace('/', "%2F");
    let work = format!("/v1/environments/{ENVIRONMENT}/work");
    let session = format!("/v1/sessions/{session}");
    let routes = [
        (Method::GET, format!("{work}/poll"), Route::Poll),
        (Method::POST, format!("{work}/{WORK}/ack"), Route::Acknowledge),
        (Method::POST, format!("{work}/{WORK}/heartbeat"), Route::Heartbeat),
        (Method::POST, format!("{work}/{WORK}/stop"), Route::Stop),
        (Method::GET, session.clone(), Route::Session),
        (Method::GET, format!("{session}/events"), Route::List),
        (Method::GET, format!("{session}/events/stream"), Route::Stream),
        (Method::POST, format!("{session}/events"), Route::Post),
    ];
    routes.into_iter().find(|(of, at, _)| of == method && at == path).map(|(_, _, route)| route)
}

/// Everything about a request that the official worker does otherwise.
pub(crate) fn check(parts: &Parts, body: &[u8], session: &str, token: Option<&str>) -> Vec<String> {
    let Some(route) = route(&parts.method, parts.uri.path(), session) else {
        return vec![format!("{} {} is not a route of the worker", parts.method, parts.uri)];
    };
    let mut violations = Vec::new();
    let mut expect = |holds: bool, what: String| {
        if !holds {
            violations.push(format!("{route:?}: {what}"));
        }
    };
    let header =
        |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned();
    for name in parts.headers.keys() {
        expect(HEADERS.contains(&name.as_str()), format!("the header {name}"));
        expect(parts.headers.get_all(name).iter().count() == 1, format!("the header {name} twice"));
    }
    expect(header("accept") == "application/json", format!("accept: {}", header("accept")));
    expect(header("anthropic-version") == "2026-10-21", format!("anthropic-version: {}", header("anthropic-version")));
    expect(
        header("anthropic-beta") == "managed-agents-2026-04-01",
        format!("anthropic-beta: {}", header("anthropic-beta")),
    );
    expect(header("authorization") == format!("Bearer {}", credential(route, token)), "another credential".to_owned());
    let typed = if parts.method == Method::GET { "" } else { "application/json" };
    expect(header("content-type") == typed, format!("content-type: {}", header("content-type")));
    let named = header("anthropic-worker-id");
    expect(named.is_empty() != (route == Route::Poll), format!("anthropic-worker-id: {named}"));
    expect(query_fits(route, parts.uri.query().unwrap_or_default()), format!("the query {:?}", parts.uri.query()));
    expect(body_fits(route, body), format!("the body {}", String::from_utf8_lossy(body)));
    violations
}

/// Poll and ack are the environment key's; the rest belongs to the item's token, where there is one.
fn credential(route: Route, token: Option<&str>) -> &str {
    match (route, token) {
        (Route::Poll | Route::Acknowledge, _) | (_, None) => KEY,
        (_, Some(token)) => token,
    }
}

fn query_fits(route: Route, query: &str) -> bool {
    let names: Vec<&str> = query
        .split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split('=').next().unwrap_or_default())
        .collect();
    match route {
        Route::Poll => query == "block_ms=999",
        Route::Heartbeat => names == ["expected_last_heartbeat"],
        Route::List => {
            names.first() == Some(&"limit")
                && query.starts_with("limit=1000")
                && matches!(names.get(1), None | Some(&"page"))
                && names.len() <= 2
        }
        Route::Acknowledge | Route::Stop | Route::Session | Route::Stream | Route::Post => query.is_empty(),
    }
}

fn body_fits(route: Route, body: &[u8]) -> bool {
    let value: Option<Value> = serde_json::from_slice(body).ok();
    match route {
        Route::Poll | Route::Acknowledge | Route::Heartbeat | Route::Session | Route::List | Route::Stream => {
            body.is_empty()
        }
        // The error beside it is our own servers' extension; whoever is not ours must not get it, which the tests look at.
        Route::Stop => value.is_some_and(|value| value["force"] == json!(true)),
        Route::Post => value.is_some_and(|value| is_one_result(&value)),
    }
}

fn is_one_result(value: &Value) -> bool {
    let (Some(members), Some([event])) = (value.as_object(), value["events"].as_array().map(Vec::as_slice)) else {
        return false;
    };
    let names: Vec<_> = event.as_object().map(|event| event.keys().cloned().collect()).unwrap_or_default();
    let mut sorted: Vec<_> = names.iter().map(String::as_str).collect();
    sorted.sort_unstable();
    members.len() == 1
        && sorted == ["content", "is_error", "tool_use_id", "type"]
        && event["type"] == "user.tool_result"
        && event["is_error"].is_boolean()
        && event["content"].as_array().is_some_and(|blocks| !blocks.is_empty())
}

/// A work item's secret as the platform packs it.
pub(crate) fn secret(token: &str) -> String {
    let text = json!({"sessions_token": token, "ingress_token": "not ours"}).to_string();
    base64::engine::general_purpose::URL_SAFE_NO_PAD.encode(text)
}

/// A query parameter, decoded.
pub(crate) fn parameter(query: &str, name: &str) -> Option<String> {
    let value = query.split('&').find_map(|pair| pair.strip_prefix(name)?.strip_prefix('='))?;
    let bytes = value.as_bytes();
    let (mut out, mut at) = (Vec::new(), 0);
    while at < bytes.len() {
        let hex =
            value.get(at + 1..at + 3).filter(|_| bytes[at] == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok());
        out.push(hex.unwrap_or(bytes[at]));
        at += if hex.is_some() { 3 } else { 1 };
    }
    String::from_utf8(out).ok()
}
