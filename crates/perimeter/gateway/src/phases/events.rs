//! Server-sent events in whole pieces: an event goes on when it is complete, so a stream that is cut off can still say
//! why in an event of its own. Notes whether the awaited answer has gone by.

use serde::{Deserialize, de::IgnoredAny};
use serde_json::Value;

/// One event stream on its way.
pub(crate) struct Events {
    held: Vec<u8>,
    /// How far `held` was looked at.
    seen: usize,
    line_is_empty: bool,
    after_return: bool,
    awaited: Option<Value>,
}

impl Events {
    /// Of a request that awaits the answer with this id.
    pub(crate) fn awaiting(id: Option<Value>) -> Self {
        Self { held: Vec::new(), seen: 0, line_is_empty: true, after_return: false, awaited: id }
    }

    /// Takes clean bytes, gives whole events.
    pub(crate) fn push(&mut self, clean: &[u8]) -> Vec<u8> {
        self.held.extend_from_slice(clean);
        let mut whole = 0;
        for (at, byte) in self.held.iter().enumerate().skip(self.seen) {
            match byte {
                // The second half of a line's end.
                b'\n' if self.after_return => {
                    self.after_return = false;
                    if whole == at {
                        whole = at + 1;
                    }
                }
                b'\n' | b'\r' => {
                    if self.line_is_empty {
                        whole = at + 1;
                    }
                    self.line_is_empty = true;
                    self.after_return = *byte == b'\r';
                }
                _ => {
                    self.line_is_empty = false;
                    self.after_return = false;
                }
            }
        }
        let rest = self.held.split_off(whole);
        let events = std::mem::replace(&mut self.held, rest);
        self.seen = self.held.len();
        self.note(&events);
        events
    }

    /// Whether an answer is awaited that has not gone by.
    pub(crate) fn awaits(&self) -> bool {
        self.awaited.is_some()
    }

    fn note(&mut self, events: &[u8]) {
        let Some(awaited) = &self.awaited else { return };
        if data(events).iter().any(|data| answers(data, awaited)) {
            self.awaited = None;
        }
    }
}

/// The data of each event (HTML, section 9.2.6).
fn data(events: &[u8]) -> Vec<Vec<u8>> {
    let mut list = vec![Vec::new()];
    let lines = events.split(|byte| *byte == b'\n').flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.split(|byte| *byte == b'\r')
    });
    for line in lines {
        if line.is_empty() {
            list.push(Vec::new());
        } else if let Some(text) = line.strip_prefix(b"data:")
            && let Some(last) = list.last_mut()
        {
            last.extend_from_slice(text.strip_prefix(b" ").unwrap_or(text));
            last.push(b'\n');
        }
    }
    list.retain(|data| !data.is_empty());
    list
}

fn answers(data: &[u8], awaited: &Value) -> bool {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(default)]
        id: Value,
        method: Option<IgnoredAny>,
    }
    serde_json::from_slice::<Answer>(data).is_ok_and(|answer| answer.method.is_none() && answer.id == *awaited)
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = ": hello\r\n\r\nid: 1\ndata: {\"jsonrpc\":\"2.0\",\"method\":\"notifications/progress\",\"params\":{}}\n\nevent: message\r\ndata: {\"jsonrpc\":\"2.0\",\r\ndata: \"id\":7,\"result\":{}}\r\n\r\n";

    #[test]
    fn events_pass_whole_whatever_the_chunks() {
        for size in 1..STREAM.len() {
            let mut events = Events::awaiting(Some(7.into()));
            let mut passed = Vec::new();
            for chunk in STREAM.as_bytes().chunks(size) {
                let whole = events.push(chunk);
                assert!(whole.is_empty() || whole.ends_with(b"\n") || whole.ends_with(b"\r"), "chunks of {size}");
                passed.extend(whole);
            }
            assert_eq!(String::from_utf8_lossy(&passed), STREAM, "chunks of {size}");
            assert!(!events.awaits(), "chunks of {size}");
        }
    }

    #[test]
    fn an_unfinished_event_is_held() {
        let mut events = Events::awaiting(Some(7.into()));
        assert_eq!(events.push(b"data: a\n\ndata: {\"id\":7"), b"data: a\n\n");
        assert_eq!(events.held, b"data: {\"id\":7");
        assert!(events.awaits());
    }

    #[test]
    fn another_answer_or_a_request_with_the_same_id_is_not_the_awaited_one() {
        for data in [r#"{"id":8,"result":{}}"#, r#"{"id":7,"method":"ping"}"#, r#"{"id":"7","result":{}}"#, "text"] {
            let mut events = Events::awaiting(Some(7.into()));
            events.push(format!("data: {data}\n\n").as_bytes());
            assert!(events.awaits(), "{data}");
        }
    }

    proptest::proptest! {
        #[test]
        fn whatever_comes_in_whatever_chunks_goes_on_unchanged_or_is_held(
            text in proptest::collection::vec(proptest::sample::select(&b"\r\n:data id7{}\"\xff\0"[..]), 0..200),
            sizes in proptest::collection::vec(1_usize..9, 200),
        ) {
            let (mut events, mut passed, mut rest) = (Events::awaiting(Some(7.into())), Vec::new(), text.as_slice());
            for size in sizes {
                let (chunk, after) = rest.split_at(size.min(rest.len()));
                passed.extend(events.push(chunk));
                rest = after;
            }
            passed.extend(events.push(rest));
            passed.extend_from_slice(&events.held);
            proptest::prop_assert_eq!(passed, text);
        }
    }
}
