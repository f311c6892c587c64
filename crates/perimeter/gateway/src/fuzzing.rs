//! What the gateway's readers make of any bytes, as plain functions: the fuzz targets and the tests over their corpora
//! call them. They panic where a promise is broken.

use serde_json::Value;

use crate::{
    phases::{
        events::Events,
        message::{self, Asked, Message},
        reply::{self, Said},
    },
    strict,
};

/// What is taken as JSON every reader takes alike, and nothing stands in it twice.
///
/// # Panics
/// When it does not.
pub fn strict_json(bytes: &[u8]) {
    let Ok(value) = strict::parse(bytes) else { return };
    assert_eq!(serde_json::from_slice::<Value>(bytes).ok().as_ref(), Some(&value));
    assert_eq!(strict::parse(value.to_string().as_bytes()).ok().as_ref(), Some(&value), "written, it reads again");
    let keys = keys(&value);
    assert!(keys.len() <= bytes.iter().filter(|byte| **byte == b':').count(), "no key without a colon");
}

fn keys(value: &Value) -> Vec<&str> {
    match value {
        Value::Object(members) => {
            members.iter().flat_map(|(key, value)| std::iter::once(key.as_str()).chain(keys(value))).collect()
        }
        Value::Array(items) => items.iter().flat_map(keys).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => Vec::new(),
    }
}

/// A message is one thing: a request with its id, a notification, or an answer; a call names one tool.
///
/// # Panics
/// When it is another.
pub fn message(bytes: &[u8]) {
    let Ok(message) = message::message(bytes) else { return };
    let value: Value = serde_json::from_slice(bytes).expect("a message is JSON");
    let object = value.as_object().expect("a message is an object");
    match &message {
        Message::Request { id, method, .. } => {
            assert_eq!((object.get("id"), object.get("method")), (Some(id), Some(&Value::from(method.as_str()))));
        }
        Message::Notification { method } => {
            assert_eq!((object.get("id"), object.get("method")), (None, Some(&Value::from(method.as_str()))));
        }
        Message::Answer { .. } => assert!(object.get("method").is_none()),
    }
    let asked = Asked::Message(message);
    if let Some(call) = asked.call() {
        assert_eq!(object["params"]["name"], call.tool);
    }
}

/// What is taken for an answer is one to every reader, and has the id that each of them finds.
///
/// # Panics
/// When it is not.
pub fn answer(bytes: &[u8]) {
    let Ok(said) = reply::read(bytes) else { return };
    let value: Value = serde_json::from_slice(bytes).expect("what is read is JSON");
    let written = reply::read(value.to_string().as_bytes());
    assert_eq!(written.ok().as_ref(), Some(&said), "written, it is the same");
    if let Said::Answer(id) = said {
        assert_eq!(value.get("id"), Some(&id));
        assert!(value.get("method").is_none() && (value.get("result").is_some() != value.get("error").is_some()));
    }
}

/// What a token endpoint answers becomes bounded tokens, or a refusal that repeats nothing of it but a word that is known.
///
/// # Panics
/// When it does not.
pub fn token_answer(bytes: &[u8]) {
    crate::oauth::exchange::promised(bytes);
}

/// An event stream passes whole event by whole event, unchanged, whatever the chunks.
///
/// # Panics
/// When it does not.
pub fn events(bytes: &[u8]) {
    let mut ends = Vec::new();
    for size in [1, 3, bytes.len().max(1)] {
        let mut events = Events::awaiting(Some(7.into()));
        let (mut passed, mut judged) = (Vec::new(), Ok(()));
        for chunk in bytes.chunks(size) {
            let whole = events.push(chunk);
            judged = judged.and_then(|()| events.judge(&whole).map(drop));
            passed.extend(whole);
        }
        assert!(bytes.starts_with(&passed), "chunks of {size}");
        ends.push(judged.map(|()| events.awaits()));
    }
    assert!(ends.iter().all(|end| *end == ends[0]), "events are judged alike whatever the chunks: {ends:?}");
}
