//! A model that plays a script: it speaks the streaming Messages API and decides nothing itself.
//!
//! The script travels in the conversation: the newest user text that starts with `rehearse:` carries a JSON array of
//! [`Turn`]s, and the number of assistant turns after it picks the turn to play. So the server holds no state, and a
//! request repeated after a crash gets the same answer. Past the script's end, or without one, it says "done"; asked for
//! a summary of the conversation, it gives one; asked to judge calls, it says what the turn has for `judge`.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::serve::ListenerExt;
use http_body_util::channel::{Channel, Sender};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;

const PREFIX: &str = "rehearse:";
/// What the last text of a request begins with that asks for a summary of the conversation.
const SUMMARY: &str = "Stop here: the conversation grows too long";
/// What the system text of a judge begins with.
const JUDGE: &str = "You decide whether calls of an autonomous agent may run.";
/// What the system text of a grader begins with, and what the agent is told after each iteration but the last.
const GRADER: &str = "You grade the work of an autonomous agent.";
const REVISE: &str = "The outcome does not hold yet.";
const KEPT_BYTES: usize = 256 << 20;
/// The model's name in requests and in its list.
pub const MODEL: &str = "rehearsal-1";

/// One assistant turn of a script.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Turn {
    /// Thinking before the answer, sent with a signature.
    pub thinking: Option<String>,
    /// Text of the answer.
    pub text: Option<String>,
    /// Tools the model asks for, in order.
    pub tool_uses: Vec<ToolUse>,
    /// `end_turn` or `tool_use` by what the turn holds, unless given.
    pub stop_reason: Option<String>,
    /// Pause before the first byte and between text chunks.
    pub delay_ms: u64,
    /// Answer with this error instead. Played once per recorded request count, see [`Fault::times`].
    pub error: Option<Fault>,
    /// What the judge of the turn's calls says; "done" unless given.
    pub judge: Option<String>,
    /// What the grader says when the turn has ended an iteration; "done" unless given.
    pub grade: Option<String>,
    /// Break the connection after this many text chunks.
    pub disconnect_after: Option<usize>,
}

/// A tool use the script asks for.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolUse {
    /// The tool's name.
    pub name: String,
    /// Its input, as JSON.
    pub input: Value,
}

/// An error answer.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// HTTP status.
    pub status: u16,
    /// `error.type` of the envelope.
    #[serde(rename = "type")]
    pub kind: String,
    /// Seconds for the `retry-after` header.
    pub retry_after: Option<u64>,
    /// How many times it fails before the turn plays; always when absent.
    pub times: Option<usize>,
}

/// A running rehearsal model.
#[derive(Clone)]
pub struct Rehearsal {
    /// Base URL for `[model] url`.
    pub url: String,
    requests: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Rehearsal {
    /// Listens on `listen` and serves until the runtime ends.
    ///
    /// # Errors
    /// When the address cannot be bound.
    pub async fn start(listen: SocketAddr) -> std::io::Result<Self> {
        let listener = TcpListener::bind(listen).await?;
        let url = format!("http://{}", listener.local_addr()?);
        let requests = Arc::new(Mutex::new(Vec::new()));
        let router = Router::new()
            .route("/v1/messages", post(messages))
            .route("/v1/models", get(models))
            .route("/v1/models/rehearsal-latest", get(async || json_answer(StatusCode::OK, &model())))
            .route("/requests", get(recorded))
            .with_state(requests.clone())
            .layer(axum::extract::DefaultBodyLimit::max(64 << 20));
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Ok(Self { url, requests })
    }

    /// Every request body received so far: what a model endpoint gets to see.
    #[must_use]
    pub fn requests(&self) -> Vec<Vec<u8>> {
        self.requests.lock().map(|kept| kept.clone()).unwrap_or_default()
    }
}

type Requests = Arc<Mutex<Vec<Vec<u8>>>>;

fn model() -> Value {
    json!({"type": "model", "id": MODEL, "display_name": "Rehearsal", "created_at": "2026-01-01T00:00:00Z"})
}

async fn models() -> Response {
    json_answer(StatusCode::OK, &json!({"data": [model()], "has_more": false, "first_id": MODEL, "last_id": MODEL}))
}

async fn recorded(State(requests): State<Requests>) -> Response {
    let kept: Vec<Value> = requests
        .lock()
        .map(|kept| kept.iter().map(|body| Value::String(String::from_utf8_lossy(body).into_owned())).collect())
        .unwrap_or_default();
    json_answer(StatusCode::OK, &Value::Array(kept))
}

async fn messages(State(requests): State<Requests>, headers: HeaderMap, body: Bytes) -> Response {
    let same = remember(&requests, &headers, &body);
    let Ok(request) = serde_json::from_slice::<Value>(&body) else {
        return fault(StatusCode::BAD_REQUEST, "invalid_request_error", "the body is not JSON", None);
    };
    let (turn, number) = match next_turn(&request) {
        Ok(found) => found,
        Err(cause) => return fault(StatusCode::BAD_REQUEST, "invalid_request_error", &cause, None),
    };
    if let Some(error) = turn.error.as_ref().filter(|error| error.times.is_none_or(|times| same <= times)) {
        let status = StatusCode::from_u16(error.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        return fault(status, &error.kind, "the script asks for this error", error.retry_after);
    }
    let (sender, body) = Channel::<Bytes, Infallible>::new(64);
    tokio::spawn(play(turn, number, sender));
    ([(header::CONTENT_TYPE, "text/event-stream")], Body::new(body)).into_response()
}

/// Records the body; returns how often this very body has been received, this time included.
fn remember(requests: &Requests, headers: &HeaderMap, body: &[u8]) -> usize {
    let Ok(mut kept) = requests.lock() else { return 1 };
    let mut entry = Vec::new();
    for (name, value) in headers.iter().filter(|(name, _)| *name != "x-api-key" && *name != header::AUTHORIZATION) {
        entry.extend_from_slice(format!("{name}: ").as_bytes());
        entry.extend_from_slice(value.as_bytes());
        entry.push(b'\n');
    }
    entry.extend_from_slice(body);
    let total: usize = kept.iter().map(Vec::len).sum();
    let same = kept.iter().filter(|earlier| earlier.ends_with(body)).count() + 1;
    if total < KEPT_BYTES {
        kept.push(entry);
    }
    same
}

fn next_turn(request: &Value) -> Result<(Turn, usize), String> {
    let none = Vec::new();
    let messages = request["messages"].as_array().unwrap_or(&none);
    // System text in mid-conversation stands behind what it belongs to.
    if messages.iter().rev().find(|message| message["role"] != "system").is_some_and(asks_for_summary) {
        let text = format!("a rehearsed summary of {} messages", messages.len());
        return Ok((Turn { text: Some(text), ..Turn::default() }, 0));
    }
    if request["system"][0]["text"].as_str().is_some_and(|text| text.starts_with(JUDGE)) {
        return Ok((judged(messages), 0));
    }
    if request["system"][0]["text"].as_str().is_some_and(|text| text.starts_with(GRADER)) {
        return Ok((graded(messages), 0));
    }
    let script = messages.iter().enumerate().rev().find_map(|(at, message)| {
        let text = script_text(message)?;
        Some((at, text))
    });
    let Some((at, script)) = script else { return Ok((done(), 0)) };
    let turns: Vec<Turn> =
        serde_json::from_str(&script).map_err(|cause| format!("the script does not parse: {cause}"))?;
    let number = messages[at..].iter().filter(|message| message["role"] == "assistant").count();
    Ok((turns.into_iter().nth(number).unwrap_or_else(done), number))
}

/// The judge is shown the script as what the user said: its first turn that has a judge's words has these.
fn judged(messages: &[Value]) -> Turn {
    let shown = messages.first().and_then(|message| message["content"][0]["text"].as_str()).unwrap_or_default();
    let shown: Value = serde_json::from_str(shown).unwrap_or_default();
    let said = shown["intent"].as_array().into_iter().flatten().rev().filter_map(Value::as_str);
    let turns = said.filter_map(|text| serde_json::from_str::<Vec<Turn>>(text.trim_start().strip_prefix(PREFIX)?).ok());
    let words = turns.flatten().find_map(|turn| turn.judge);
    Turn { text: words.or_else(|| Some("done".into())), ..Turn::default() }
}

/// The grader is shown the script in the transcript: each iteration has the next of its grades.
fn graded(messages: &[Value]) -> Turn {
    let shown = messages.first().and_then(|message| message["content"][0]["text"].as_str()).unwrap_or_default();
    let shown: Value = serde_json::from_str(shown).unwrap_or_default();
    let texts: Vec<_> =
        shown["transcript"].as_array().into_iter().flatten().filter_map(|entry| entry["text"].as_str()).collect();
    let iteration = texts.iter().filter(|text| text.starts_with(REVISE)).count();
    let scripts = texts.iter().filter_map(|text| text.trim_start().strip_prefix(PREFIX));
    let turns = scripts.filter_map(|script| serde_json::from_str::<Vec<Turn>>(script).ok()).flatten();
    let words = turns.filter_map(|turn| turn.grade).nth(iteration);
    Turn { text: words.or_else(|| Some("done".into())), ..Turn::default() }
}

fn asks_for_summary(message: &Value) -> bool {
    let last = message["content"].as_array().and_then(|blocks| blocks.last());
    last.and_then(|block| block["text"].as_str()).is_some_and(|text| text.starts_with(SUMMARY))
}

fn script_text(message: &Value) -> Option<String> {
    if message["role"] != "user" {
        return None;
    }
    let texts: Vec<&str> = match &message["content"] {
        Value::String(text) => vec![text],
        Value::Array(blocks) => blocks.iter().filter_map(|block| block["text"].as_str()).collect(),
        _ => vec![],
    };
    texts.iter().rev().find_map(|text| text.trim_start().strip_prefix(PREFIX)).map(str::to_owned)
}

fn done() -> Turn {
    Turn { text: Some("done".into()), ..Turn::default() }
}

async fn play(turn: Turn, number: usize, mut out: Sender<Bytes, Infallible>) {
    // A reader that went away ends the play: nothing is left to do for it.
    let _ = stream(&turn, number, &mut out).await;
}

async fn stream(turn: &Turn, number: usize, out: &mut Sender<Bytes, Infallible>) -> Option<()> {
    pause(turn).await;
    let usage = json!({"input_tokens": 100 + number, "output_tokens": 1, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0});
    let message = json!({"id": format!("msg_rehearsal_{number}"), "type": "message", "role": "assistant", "model": MODEL,
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage});
    send(out, "message_start", json!({"message": message})).await?;
    let mut index = 0;
    if let Some(thinking) = &turn.thinking {
        let start = json!({"type": "thinking", "thinking": "", "signature": ""});
        let deltas = vec![
            json!({"type": "thinking_delta", "thinking": thinking}),
            json!({"type": "signature_delta", "signature": format!("rehearsed-signature-{number}")}),
        ];
        block(out, turn, &mut index, start, deltas).await?;
    }
    if let Some(text) = &turn.text {
        let start = json!({"type": "text", "text": ""});
        let deltas = chunks(text).map(|chunk| json!({"type": "text_delta", "text": chunk})).collect();
        block(out, turn, &mut index, start, deltas).await?;
    }
    for (order, tool) in turn.tool_uses.iter().enumerate() {
        let start =
            json!({"type": "tool_use", "id": format!("toolu_{number}_{order}"), "name": tool.name, "input": {}});
        let input = tool.input.to_string();
        let deltas = chunks(&input).map(|part| json!({"type": "input_json_delta", "partial_json": part})).collect();
        block(out, turn, &mut index, start, deltas).await?;
    }
    let natural = if turn.tool_uses.is_empty() { "end_turn" } else { "tool_use" };
    let reason = turn.stop_reason.as_deref().unwrap_or(natural);
    let delta = json!({"stop_reason": reason, "stop_sequence": null});
    send(out, "message_delta", json!({"delta": delta, "usage": {"output_tokens": 20 + index}})).await?;
    send(out, "message_stop", json!({})).await
}

async fn block(
    out: &mut Sender<Bytes, Infallible>,
    turn: &Turn,
    index: &mut usize,
    start: Value,
    deltas: Vec<Value>,
) -> Option<()> {
    send(out, "content_block_start", json!({"index": *index, "content_block": start})).await?;
    for (sent, delta) in deltas.into_iter().enumerate() {
        if turn.disconnect_after == Some(sent) {
            return None;
        }
        if sent > 0 {
            pause(turn).await;
        }
        send(out, "content_block_delta", json!({"index": *index, "delta": delta})).await?;
    }
    send(out, "content_block_stop", json!({"index": *index})).await?;
    *index += 1;
    Some(())
}

async fn send(out: &mut Sender<Bytes, Infallible>, name: &str, mut data: Value) -> Option<()> {
    data["type"] = name.into();
    out.send_data(Bytes::from(format!("event: {name}\ndata: {data}\n\n"))).await.ok()
}

async fn pause(turn: &Turn) {
    if turn.delay_ms > 0 {
        tokio::time::sleep(Duration::from_millis(turn.delay_ms)).await;
    }
}

/// Pieces of a few dozen characters, as a model would stream them.
fn chunks(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let cut = rest.char_indices().nth(32).map_or(rest.len(), |(at, _)| at);
        let (head, tail) = rest.split_at(cut);
        rest = tail;
        Some(head)
    })
}

fn fault(status: StatusCode, kind: &str, message: &str, retry_after: Option<u64>) -> Response {
    let body = json!({"type": "error", "error": {"type": kind, "message": message}});
    let mut response = json_answer(status, &body);
    if let Some(seconds) = retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    response
}

fn json_answer(status: StatusCode, body: &Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(messages: Value) -> Value {
        json!({ "messages": messages })
    }

    #[test]
    fn the_number_of_assistant_turns_picks_the_turn() {
        let script = r#"rehearse: [{"text": "one"}, {"text": "two"}]"#;
        let first = request(json!([{"role": "user", "content": script}]));
        let second = request(json!([{"role": "user", "content": [{"type": "text", "text": script}]},
            {"role": "assistant", "content": "one"}, {"role": "user", "content": "go on"}]));
        assert_eq!(next_turn(&first).unwrap().0.text.as_deref(), Some("one"));
        assert_eq!(next_turn(&second).unwrap().0.text.as_deref(), Some("two"));
    }

    #[test]
    fn past_the_end_and_without_a_script_it_is_done() {
        for messages in
            [json!([{"role": "user", "content": "hello"}]), json!([{"role": "user", "content": "rehearse: []"}])]
        {
            assert_eq!(next_turn(&request(messages)).unwrap().0.text.as_deref(), Some("done"));
        }
    }

    #[test]
    fn a_request_for_a_summary_is_no_turn_of_the_script() {
        let messages = json!([{"role": "user", "content": [{"type": "text", "text": r#"rehearse: [{"text": "one"}]"#},
            {"type": "text", "text": format!("{SUMMARY}: write")}]}]);
        assert!(next_turn(&request(messages)).unwrap().0.text.unwrap().contains("summary of 1"));
    }

    #[test]
    fn a_newer_script_replaces_an_older_one() {
        let messages = json!([{"role": "user", "content": r#"rehearse: [{"text": "old"}]"#},
            {"role": "assistant", "content": "old"}, {"role": "user", "content": r#"rehearse: [{"text": "new"}]"#}]);
        assert_eq!(next_turn(&request(messages)).unwrap().0.text.as_deref(), Some("new"));
    }

    #[test]
    fn a_broken_script_is_named() {
        let broken = request(json!([{"role": "user", "content": "rehearse: [{"}]));
        assert!(next_turn(&broken).unwrap_err().contains("does not parse"));
    }
}
