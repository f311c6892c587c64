//! Server-sent events: bytes in, events out. Pure; it never waits, and it never buffers without a bound.
//! The format is that of the HTML standard, section 9.2.6.

use crate::limits;

/// One event of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Event {
    /// The event's type, `message` where the stream names none.
    pub event: String,
    /// The data lines, joined by line feeds.
    pub data: String,
    /// The last id the stream has sent, with this event or before it.
    pub id: Option<String>,
}

/// Why a stream cannot be read further.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SseError {
    /// A line without an end in sight.
    #[error("a line of the event stream is longer than {0} bytes")]
    LineTooLong(usize),
    /// An event without an end in sight.
    #[error("an event of the event stream is larger than {0} bytes")]
    EventTooLarge(usize),
    /// The format is UTF-8.
    #[error("the event stream is not UTF-8")]
    NotUtf8,
}

/// Decodes one stream, whatever the borders of its chunks.
#[derive(Debug)]
pub struct Decoder {
    line: Vec<u8>,
    after_carriage_return: bool,
    first_line: bool,
    event: String,
    data: String,
    has_data: bool,
    id: Option<String>,
    line_limit: usize,
    event_limit: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self::new(limits::SSE_LINE_BYTES, limits::SSE_EVENT_BYTES)
    }
}

impl Decoder {
    /// A decoder with its own bounds, in bytes.
    #[must_use]
    pub fn new(line_limit: usize, event_limit: usize) -> Self {
        Self {
            line: Vec::new(),
            after_carriage_return: false,
            first_line: true,
            event: String::new(),
            data: String::new(),
            has_data: false,
            id: None,
            line_limit,
            event_limit,
        }
    }

    /// Takes a chunk and returns the events it completes. An event that the stream ends before completing is
    /// not an event.
    ///
    /// # Errors
    /// A bound is exceeded or the bytes are not UTF-8; the stream is to be dropped.
    pub fn push(&mut self, chunk: &[u8]) -> Result<Vec<Event>, SseError> {
        let mut events = Vec::new();
        let mut rest = chunk;
        if self.after_carriage_return && !rest.is_empty() {
            self.after_carriage_return = false;
            rest = rest.strip_prefix(b"\n").unwrap_or(rest);
        }
        while let Some(end) = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r')) {
            self.extend_line(&rest[..end])?;
            events.extend(self.end_line()?);
            rest = self.skip_line_end(&rest[end..]);
        }
        self.extend_line(rest)?;
        Ok(events)
    }

    /// The last id the stream has sent: what a reconnection names in `last-event-id`.
    #[must_use]
    pub fn last_id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    fn skip_line_end<'a>(&mut self, rest: &'a [u8]) -> &'a [u8] {
        match rest {
            [b'\r', b'\n', after @ ..] => after,
            [b'\r'] => {
                self.after_carriage_return = true;
                &[]
            }
            [_, after @ ..] => after,
            [] => rest,
        }
    }

    fn extend_line(&mut self, part: &[u8]) -> Result<(), SseError> {
        if self.line.len() + part.len() > self.line_limit {
            return Err(SseError::LineTooLong(self.line_limit));
        }
        self.line.extend_from_slice(part);
        Ok(())
    }

    fn end_line(&mut self) -> Result<Option<Event>, SseError> {
        let line = std::mem::take(&mut self.line);
        let line = std::str::from_utf8(&line).map_err(|_| SseError::NotUtf8)?;
        let line =
            if std::mem::take(&mut self.first_line) { line.strip_prefix('\u{feff}').unwrap_or(line) } else { line };
        if line.is_empty() {
            return Ok(self.dispatch());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        self.field(field, value.strip_prefix(' ').unwrap_or(value))?;
        Ok(None)
    }

    /// One field; comments have an empty name, unknown fields are ignored by the standard.
    fn field(&mut self, field: &str, value: &str) -> Result<(), SseError> {
        match field {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.data.len() + value.len() + 1 > self.event_limit {
                    return Err(SseError::EventTooLarge(self.event_limit));
                }
                if std::mem::replace(&mut self.has_data, true) {
                    self.data.push('\n');
                }
                self.data.push_str(value);
            }
            "id" if !value.contains('\0') => self.id = Some(value.to_owned()),
            _ => {}
        }
        Ok(())
    }

    fn dispatch(&mut self) -> Option<Event> {
        let event = std::mem::take(&mut self.event);
        let data = std::mem::take(&mut self.data);
        let event = if event.is_empty() { "message".to_owned() } else { event };
        std::mem::take(&mut self.has_data).then(|| Event { event, data, id: self.id.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(chunks: &[&[u8]]) -> Vec<(String, String)> {
        let mut decoder = Decoder::default();
        let events = chunks.iter().flat_map(|chunk| decoder.push(chunk).unwrap());
        events.map(|event| (event.event, event.data)).collect()
    }

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(event, data)| ((*event).to_owned(), (*data).to_owned())).collect()
    }

    #[test]
    fn streams_decode_as_the_standard_says() {
        let table: [(&str, &[(&str, &str)]); 10] = [
            ("data: a\n\n", &[("message", "a")]),
            ("event: ping\ndata: {}\n\n", &[("ping", "{}")]),
            ("data: a\r\ndata: b\r\n\r\ndata: c\r\r", &[("message", "a\nb"), ("message", "c")]),
            (": a comment\n\ndata\n\n", &[("message", "")]),
            ("data:no space\ndata:  two\n\n", &[("message", "no space\n two")]),
            ("event: empty\n\ndata: x\n\n", &[("message", "x")]),
            ("data: unfinished\n", &[]),
            ("\u{feff}data: mark\n\n", &[("message", "mark")]),
            ("retry: 10\nunknown: y\ndata: z\n\n", &[("message", "z")]),
            ("data: a:b: c\n\n", &[("message", "a:b: c")]),
        ];
        for (stream, expected) in table {
            assert_eq!(decode(&[stream.as_bytes()]), pairs(expected), "{stream:?}");
            let bytes: Vec<&[u8]> = stream.as_bytes().chunks(1).collect();
            assert_eq!(decode(&bytes), pairs(expected), "{stream:?} byte by byte");
        }
    }

    #[test]
    fn ids_stay_until_the_stream_names_another() {
        let mut decoder = Decoder::default();
        let events = decoder.push(b"id: 7\ndata: a\n\ndata: b\n\nid: x\0y\ndata: c\n\n").unwrap();
        assert!(events.iter().all(|event| event.id.as_deref() == Some("7")));
        assert_eq!(decoder.last_id(), Some("7"));
    }

    #[test]
    fn endless_lines_and_events_are_refused() {
        let mut decoder = Decoder::new(8, 1000);
        assert_eq!(decoder.push(b"data: 12345"), Err(SseError::LineTooLong(8)));
        let mut decoder = Decoder::new(100, 8);
        assert_eq!(decoder.push(b"data: 1234\ndata: 5678\n"), Err(SseError::EventTooLarge(8)));
        assert_eq!(Decoder::default().push(b"data: \xff\n"), Err(SseError::NotUtf8));
    }

    #[test]
    fn a_character_split_between_chunks_is_whole() {
        assert_eq!(decode(&[b"data: \xc3", b"\xa9\n\n"]), pairs(&[("message", "é")]));
    }
}
