//! Phase: what the request asks for. A POST carries exactly one JSON-RPC message, read strictly; a GET listens to an MCP
//! session, a DELETE ends one. What could be read in two ways is refused; nothing is rewritten.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Method, header, request::Parts};
use http_body_util::BodyExt;
use hyper::body::{Body, Incoming};
use postern_policy::{Denial, Reason};
use serde_json::{Map, Value};
use tokio::time::timeout;

use crate::{
    limits::{self, Bounds},
    strict,
};

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Asked {
    /// One JSON-RPC message.
    Message(Message),
    /// GET: the server's own messages, as an event stream.
    Listen,
    /// DELETE: the end of an MCP session.
    End,
}

/// One JSON-RPC message.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Message {
    /// Wants an answer.
    Request {
        /// Echoed in the answer.
        id: Value,
        /// The MCP method.
        method: String,
        /// Its parameters.
        params: Map<String, Value>,
    },
    /// Wants none.
    Notification {
        /// The MCP method.
        method: String,
    },
    /// The answer to a request of the server's.
    Answer {
        /// The server's.
        id: Value,
    },
}

/// A `tools/call` as far as policy and refusals need it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Call<'a> {
    /// The request's id.
    pub(crate) id: &'a Value,
    /// The tool's name.
    pub(crate) tool: &'a str,
    /// Its arguments.
    pub(crate) arguments: Option<&'a Map<String, Value>>,
}

impl Asked {
    /// The MCP method that policy is asked about. Listening, ending and answering are part of the life of a
    /// connection that some rule allows, as `ping` is.
    pub(crate) fn method(&self) -> &str {
        match self {
            Self::Message(Message::Request { method, .. } | Message::Notification { method }) => method,
            Self::Message(Message::Answer { .. }) | Self::Listen | Self::End => LIFECYCLE,
        }
    }

    /// What a record calls it.
    pub(crate) fn described(&self) -> &str {
        match self {
            Self::Message(Message::Answer { .. }) => "answer",
            Self::Listen => "listen",
            Self::End => "end",
            Self::Message(_) => self.method(),
        }
    }

    /// The tool call, where it is one.
    pub(crate) fn call(&self) -> Option<Call<'_>> {
        let Self::Message(Message::Request { id, method, params }) = self else { return None };
        let tool = params.get("name").and_then(Value::as_str).filter(|_| method == TOOLS_CALL)?;
        Some(Call { id, tool, arguments: params.get("arguments").and_then(Value::as_object) })
    }
}

/// What the head alone says about the request, before its body is read.
pub(crate) fn head(parts: &Parts) -> Result<(), Denial> {
    let malformed = |step: &str| Err(Denial::advising(Reason::RequestMalformed, step));
    if parts.headers.contains_key(header::TRANSFER_ENCODING) && parts.headers.contains_key(header::CONTENT_LENGTH) {
        return malformed("frame the body in one way");
    }
    if parts.headers.contains_key(header::UPGRADE) || parts.headers.contains_key("http2-settings") {
        return Err(Denial::new(Reason::UpgradeRefused));
    }
    if parts.headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Denial::advising(Reason::EncodingUnsupported, "send the body in no encoding"));
    }
    if let Some(twice) = ONCE.iter().find(|name| parts.headers.get_all(**name).iter().nth(1).is_some()) {
        return malformed(&format!("send the header {twice} once"));
    }
    match parts.method {
        Method::POST if is_json(&parts.headers) => Ok(()),
        Method::POST => malformed("send content-type: application/json"),
        Method::GET | Method::DELETE => Ok(()),
        _ => Err(Denial::advising(Reason::MethodNotAllowed, "MCP uses POST, GET and DELETE")),
    }
}

/// Reads the body, up to `most` bytes and within its time.
pub(crate) async fn body(incoming: Incoming, most: u64, bounds: &Bounds) -> Result<Bytes, Denial> {
    let reading = timeout(bounds.request_body, whole(incoming, most, bounds.body_idle)).await;
    reading.unwrap_or_else(|_| Err(Denial::new(Reason::LimitTime)))
}

async fn whole(mut incoming: Incoming, most: u64, idle: Duration) -> Result<Bytes, Denial> {
    if incoming.size_hint().lower() > most {
        return Err(too_large(most));
    }
    let mut whole = BytesMut::new();
    loop {
        let frame = timeout(idle, incoming.frame()).await.map_err(|_| Denial::new(Reason::LimitTime))?;
        let Some(frame) = frame else { return Ok(whole.freeze()) };
        // Trailers are not looked at and not forwarded.
        let Ok(chunk) = frame.map_err(|_| Denial::new(Reason::RequestMalformed))?.into_data() else { continue };
        if (whole.len() + chunk.len()) as u64 > most {
            return Err(too_large(most));
        }
        whole.extend_from_slice(&chunk);
    }
}

/// Reads what a refused caller still sends, within bounds, so that it gets to read the refusal.
pub(crate) async fn discard(mut incoming: Incoming) {
    let reading = async {
        let mut taken = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > limits::REFUSED_BODY_BYTES {
                return;
            }
        }
    };
    // Whoever sends more, or more slowly, has its connection closed.
    let _late = timeout(limits::REFUSED_BODY, reading).await;
}

/// Reads what the request asks for.
pub(crate) fn read(parts: &Parts, body: &[u8]) -> Result<Asked, Denial> {
    let asked = match parts.method {
        Method::GET if body.is_empty() => Asked::Listen,
        Method::DELETE if body.is_empty() => Asked::End,
        Method::POST => Asked::Message(message(body)?),
        _ => return Err(malformed("send GET and DELETE without a body")),
    };
    mirrored(&parts.headers, &asked)?;
    Ok(asked)
}

/// Reads one message.
pub(crate) fn message(body: &[u8]) -> Result<Message, Denial> {
    let value = strict::parse(body).map_err(|error| malformed(&format!("the body is not strict JSON: {error}")))?;
    let Value::Object(mut object) = value else {
        return Err(malformed("send one JSON-RPC object; batches are refused"));
    };
    if object.remove("jsonrpc") != Some(Value::from("2.0")) {
        return Err(malformed("send \"jsonrpc\": \"2.0\""));
    }
    if object.contains_key("method") { asking(object) } else { answering(&object) }
}

fn asking(mut object: Map<String, Value>) -> Result<Message, Denial> {
    let method = match object.remove("method") {
        Some(Value::String(method)) if is_method(&method) => method,
        _ => return Err(malformed("`method` must be an MCP method")),
    };
    let id = object.remove("id");
    let params = match object.remove("params") {
        None => Map::new(),
        Some(Value::Object(params)) => params,
        Some(_) => return Err(malformed("`params` must be an object")),
    };
    if !object.is_empty() {
        return Err(malformed("send no members but jsonrpc, id, method and params"));
    }
    if id.is_none() != method.starts_with(NOTIFICATIONS) {
        // A server that goes by the one and a policy that goes by the other would disagree.
        return Err(malformed("a notification is `notifications/...` without an id, and a request neither"));
    }
    known_spelling(&params)?;
    if method == TOOLS_CALL {
        tools_call(&params)?;
    }
    match id {
        None => Ok(Message::Notification { method }),
        Some(id) if is_id(&id) => Ok(Message::Request { id, method, params }),
        Some(_) => Err(malformed("`id` must be a string or an integer")),
    }
}

/// An answer to a request of the server's: a result or an error.
fn answering(object: &Map<String, Value>) -> Result<Message, Denial> {
    let one_of_two = object.contains_key("result") != object.contains_key("error");
    let known = object.keys().all(|key| ["id", "result", "error"].contains(&key.as_str()));
    match object.get("id").filter(|id| is_id(id)) {
        Some(id) if one_of_two && known => Ok(Message::Answer { id: id.clone() }),
        _ => Err(malformed("send one JSON-RPC message")),
    }
}

fn tools_call(params: &Map<String, Value>) -> Result<(), Denial> {
    let tool = params.get("name").and_then(Value::as_str).unwrap_or_default();
    if tool.is_empty() || tool.len() > limits::NAME_BYTES || tool.chars().any(char::is_control) {
        return Err(malformed("`params.name` must be a tool's name"));
    }
    match params.get("arguments") {
        None | Some(Value::Object(_)) => Ok(()),
        Some(_) => Err(malformed("`params.arguments` must be an object")),
    }
}

/// A parser that ignores case would take `Arguments` for `arguments`.
fn known_spelling(params: &Map<String, Value>) -> Result<(), Denial> {
    let misspelt = |key: &String| {
        let folded = strict::fold(key);
        PARAMS.iter().any(|known| strict::fold(known) == folded && known != key)
    };
    if params.keys().any(misspelt) { Err(malformed("spell the members of `params` as MCP does")) } else { Ok(()) }
}

/// Newer MCP repeats method and name in headers; a server that routes by them must read there what stands in the body.
fn mirrored(headers: &HeaderMap, asked: &Asked) -> Result<(), Denial> {
    let Asked::Message(message) = asked else { return Ok(()) };
    let (method, params) = match message {
        Message::Request { method, params, .. } => (Some(method.as_str()), Some(params)),
        Message::Notification { method } => (Some(method.as_str()), None),
        Message::Answer { .. } => (None, None),
    };
    let name = params.and_then(|params| params.get("name").or_else(|| params.get("uri"))).and_then(Value::as_str);
    let agrees = |header: &str, said: Option<&str>| {
        headers.get(header).is_none_or(|value| said.is_some_and(|said| value.as_bytes() == said.as_bytes()))
    };
    if agrees("mcp-method", method) && agrees("mcp-name", name) {
        Ok(())
    } else {
        Err(malformed("mcp-method and mcp-name must say what the body says"))
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let mut parts = kind.split(';').map(str::trim);
    let json = parts.next().is_some_and(|kind| kind.eq_ignore_ascii_case("application/json"));
    json && parts.all(|parameter| parameter.eq_ignore_ascii_case("charset=utf-8"))
}

fn is_method(text: &str) -> bool {
    (1..=limits::NAME_BYTES).contains(&text.len())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-.$".contains(&byte))
}

pub(crate) fn is_id(id: &Value) -> bool {
    match id {
        Value::String(text) => text.len() <= limits::ID_BYTES,
        Value::Number(number) => number.is_i64() || number.is_u64(),
        _ => false,
    }
}

fn malformed(step: &str) -> Denial {
    Denial::advising(Reason::RequestMalformed, step)
}

fn too_large(most: u64) -> Denial {
    Denial::advising(Reason::LimitBody, format!("send at most {most} bytes"))
}

/// The method by which a tool is used.
pub(crate) const TOOLS_CALL: &str = "tools/call";
/// What every notification's method begins with.
const NOTIFICATIONS: &str = "notifications/";
/// Asked about for what has no method of its own.
const LIFECYCLE: &str = "ping";
/// Members of `params` that decide what happens.
const PARAMS: &[&str] =
    &["name", "arguments", "_meta", "task", "uri", "cursor", "requestId", "protocolVersion", "capabilities"];
/// Headers that must not stand twice: two readers would take different ones.
const ONCE: &[&str] = &[
    "host",
    "content-length",
    "content-type",
    "accept",
    "mcp-session-id",
    "mcp-protocol-version",
    "mcp-method",
    "mcp-name",
    "last-event-id",
    "postern-identity",
    "postern-credential",
    "postern-route-url",
];

#[cfg(test)]
mod tests;
