//! Server-sent events in whole pieces: an event goes on when it is complete, so a stream that is cut off can still say
//! why in an event of its own. Each is judged, and whether the awaited answer has gone by is noted.

use postern_policy::{Denial, Reason};
use serde_json::Value;

use super::reply::{self, Said};

/// One event stream on its way.
pub(crate) struct Events {
    held: Vec<u8>,
    /// How far `held` was looked at.
    seen: usize,
    line_is_empty: bool,
    after_return: bool,
    /// Whether something was judged: a mark of byte order counts at the very beginning alone.
    begun: bool,
    awaited: Awaited,
}

/// What a stream is to answer.
#[derive(Clone, PartialEq)]
enum Awaited {
    /// Nothing that is known here: a stream that somebody listens to may bring what was asked before.
    Unknown,
    /// The request with this id.
    Answer(Value),
    /// It has been answered.
    Answered,
}

/// One event as a client reads it (HTML, section 9.2.6).
#[derive(Default)]
struct Event {
    kind: Vec<u8>,
    data: Vec<u8>,
}

impl Events {
    /// Of a request that awaits the answer with this id.
    pub(crate) fn awaiting(id: Option<Value>) -> Self {
        let awaited = id.map_or(Awaited::Unknown, Awaited::Answer);
        Self { held: Vec::new(), seen: 0, line_is_empty: true, after_return: false, begun: false, awaited }
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
        let rest = if whole == 0 { std::mem::take(&mut self.held) } else { self.held.split_off(whole) };
        let events = std::mem::replace(&mut self.held, rest);
        self.seen = self.held.len();
        events
    }

    /// Judges whole events before they go on, and answers what the server asks in them. Of some that are refused none goes on, so what was awaited still is.
    pub(crate) fn judge(&mut self, events: &[u8]) -> Result<Vec<Value>, Denial> {
        let (mut awaited, mut asks) = (self.awaited.clone(), Vec::new());
        for event in parsed(self.without_mark(events)).filter(Event::is_message) {
            let said = reply::read(&event.data).map_err(|_| Denial::new(Reason::UpstreamProtocol))?;
            awaited = match (said, awaited) {
                (Said::Answer(id), Awaited::Answer(asked)) if id == asked => Awaited::Answered,
                (Said::Answer(_), Awaited::Answer(_) | Awaited::Answered) => {
                    return Err(Denial::new(Reason::UpstreamProtocol));
                }
                (Said::Request(id), awaited) => {
                    asks.push(id);
                    awaited
                }
                (Said::Answer(_) | Said::Other, awaited) => awaited,
            };
        }
        self.awaited = awaited;
        self.begun |= !events.is_empty();
        Ok(asks)
    }

    /// A reader drops a mark of byte order at the beginning of a stream (HTML, section 9.2.5), so the field behind it counts.
    fn without_mark<'a>(&self, events: &'a [u8]) -> &'a [u8] {
        if self.begun { events } else { events.strip_prefix(MARK).unwrap_or(events) }
    }

    /// Whether an answer is awaited that has not gone by.
    pub(crate) fn awaits(&self) -> bool {
        matches!(self.awaited, Awaited::Answer(_))
    }

    /// Bytes of an event that is not whole yet.
    pub(crate) fn held(&self) -> usize {
        self.held.len()
    }
}

impl Event {
    /// Only these are read as MCP. One without data is there for its id.
    fn is_message(&self) -> bool {
        matches!(self.kind.as_slice(), b"" | b"message") && !self.data.iter().all(u8::is_ascii_whitespace)
    }

    fn take(&mut self, line: &[u8]) {
        if let Some(text) = field(line, b"data") {
            self.data.extend_from_slice(text);
            self.data.push(b'\n');
        } else if let Some(text) = field(line, b"event") {
            self.kind = text.to_vec();
        }
    }
}

/// U+FEFF.
const MARK: &[u8] = b"\xef\xbb\xbf";

fn parsed(events: &[u8]) -> impl Iterator<Item = Event> {
    let mut list = vec![Event::default()];
    let lines = events.split(|byte| *byte == b'\n').flat_map(|line| {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        line.split(|byte| *byte == b'\r')
    });
    for line in lines {
        if line.is_empty() {
            list.push(Event::default());
        } else if let Some(last) = list.last_mut() {
            last.take(line);
        }
    }
    list.into_iter()
}

fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(&[]),
        [b':', b' ', text @ ..] | [b':', text @ ..] => Some(text),
        _ => None,
    }
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
                events.judge(&whole).unwrap();
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

    fn judged(text: &str) -> (Result<(), Denial>, bool) {
        let mut events = Events::awaiting(Some(7.into()));
        let whole = events.push(text.as_bytes());
        (events.judge(&whole).map(drop), events.awaits())
    }

    #[test]
    fn a_mark_of_byte_order_hides_no_event() {
        assert_eq!(judged("\u{feff}data: {\"id\":7,\"result\":{}}\n\n"), (Ok(()), false));
        let refused = (Err(Denial::new(Reason::UpstreamProtocol)), true);
        assert_eq!(judged("\u{feff}data: {\"id\":8,\"result\":{}}\n\n"), refused);
        let answer = "data: {\"id\":7,\"result\":{}}\n\n";
        assert_eq!(judged(&format!("\u{feff}\u{feff}{answer}")), (Ok(()), true), "one alone is dropped");
        let mut events = Events::awaiting(Some(7.into()));
        events.judge(b": hello\n\n").unwrap();
        events.judge(format!("\u{feff}{answer}").as_bytes()).unwrap();
        assert!(events.awaits(), "later it is part of a field's name");
    }

    #[test]
    fn what_the_server_asks_is_told() {
        let mut events = Events::awaiting(Some(7.into()));
        let asks =
            events.judge(b"data: {\"id\":\"a\",\"method\":\"ping\"}\n\ndata: {\"method\":\"notifications/x\"}\n\n");
        assert_eq!(asks.unwrap(), [Value::from("a")]);
    }

    #[test]
    fn only_the_answer_to_what_was_asked_goes_by_as_one_and_once() {
        let answer = "data: {\"id\":7,\"result\":{}}\n\n";
        assert_eq!(judged(answer), (Ok(()), false));
        for data in [r#"{"id":7,"method":"ping"}"#, r#"{"method":"notifications/progress"}"#, "[]", "", " "] {
            assert_eq!(judged(&format!("data: {data}\n\n")), (Ok(()), true), "{data}");
        }
        let refused = (Err(Denial::new(Reason::UpstreamProtocol)), true);
        for data in [r#"{"id":8,"result":{}}"#, r#"{"id":"7","result":{}}"#, r#"{"id":null,"error":{}}"#, "text"] {
            assert_eq!(judged(&format!("data: {data}\n\n")), refused, "{data}");
            assert_eq!(judged(&format!("{answer}event: message\ndata: {data}\n\n")), refused, "after: {data}");
            assert_eq!(judged(&format!("event: ping\ndata: {data}\n\n")), (Ok(()), true), "of another kind: {data}");
        }
        assert_eq!(judged(&format!("{answer}{answer}")), refused, "twice");
    }

    #[test]
    fn who_listens_may_be_brought_answers_to_what_was_asked_before() {
        let mut events = Events::awaiting(None);
        assert_eq!(events.judge(b"data: {\"id\":8,\"result\":{}}\n\n"), Ok(Vec::new()));
        assert!(events.judge(b"data: {\"id\":8,\"id\":9,\"result\":{}}\n\n").is_err());
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
