//! Phase: reads a request body before it is forwarded. Its beginning is read before the decision; what is longer is
//! read as it streams. Nothing in which something of ours was recognised goes on, in plain or inside an encoding.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use postern_policy::{Denial, Found, Place, Reason};
use postern_secret::decode::{DecodeError, Decoder, Encoding};
use tokio::time::timeout;

use crate::{
    limits,
    recognise::{Recogniser, StreamRecogniser},
};

/// A request body as far as it is known before the decision.
pub(crate) enum Preview {
    /// Read to its end; these bytes may go on.
    Whole(Bytes),
    /// Longer: these bytes may go on, the rest is inspected on its way.
    Begun(Bytes, Box<Inspection>),
    /// Something of ours is in it. The rest is unread.
    Recognised(Vec<Found>, Option<Incoming>),
}

/// A body on its way.
pub(crate) struct Inspection {
    incoming: Incoming,
    reader: Reader,
    idle: Duration,
}

/// Why a body does not go on.
#[derive(Debug)]
pub(crate) enum Stopped {
    /// Something of ours is in it.
    Recognised(Vec<Found>),
    /// Another reason.
    Denied(Denial),
    /// The client broke off.
    Broken,
}

/// Reads the body's beginning.
pub(crate) async fn preview(
    recogniser: &Recogniser,
    headers: &HeaderMap,
    mut incoming: Incoming,
    idle: Duration,
) -> Result<Preview, Denial> {
    if incoming.is_end_stream() {
        return Ok(Preview::Whole(Bytes::new()));
    }
    if incoming.size_hint().lower() > limits::REQUEST_BODY_BYTES {
        return Err(Denial::new(Reason::LimitBody));
    }
    let mut reader = Reader::new(recogniser, encodings(headers)?);
    let mut passed = Vec::new();
    loop {
        match next(&mut incoming, &mut reader, idle).await {
            Ok(Some(bytes)) => passed.extend_from_slice(&bytes),
            Ok(None) => return Ok(Preview::Whole(passed.into())),
            Err(Stopped::Recognised(found)) => return Ok(Preview::Recognised(found, Some(incoming))),
            Err(Stopped::Denied(denial)) => return Err(denial),
            Err(Stopped::Broken) => return Err(Denial::new(Reason::RequestMalformed)),
        }
        if reader.taken >= limits::BODY_PREVIEW_BYTES as u64 {
            return Ok(Preview::Begun(passed.into(), Box::new(Inspection { incoming, reader, idle })));
        }
    }
}

impl Inspection {
    /// The rest of the client's body, unless it was read to its end.
    pub(crate) fn into_unread(self) -> Option<Incoming> {
        (!self.reader.finished).then_some(self.incoming)
    }

    /// The next bytes that may go on; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Stopped> {
        next(&mut self.incoming, &mut self.reader, self.idle).await
    }
}

/// Reads what a refused client still sends, within bounds, so that it gets to read the refusal.
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

async fn next(incoming: &mut Incoming, reader: &mut Reader, idle: Duration) -> Result<Option<Bytes>, Stopped> {
    if reader.finished {
        return Ok(None);
    }
    loop {
        let frame =
            timeout(idle, incoming.frame()).await.map_err(|_| Stopped::Denied(Denial::new(Reason::LimitTime)))?;
        match frame {
            // Trailers are not forwarded.
            Some(Ok(frame)) => {
                let Ok(chunk) = frame.into_data() else { continue };
                let passed = reader.push(chunk)?;
                return Ok(Some(passed));
            }
            Some(Err(_)) => return Err(Stopped::Broken),
            None => return reader.finish().map(Some),
        }
    }
}

/// The encodings of a body, in the order in which they are to be taken off.
pub(crate) fn encodings(headers: &HeaderMap) -> Result<Vec<Encoding>, Denial> {
    let mut found = Vec::new();
    for value in headers.get_all(header::CONTENT_ENCODING) {
        let value = value.to_str().map_err(|_| Denial::new(Reason::EncodingUnsupported))?;
        for token in value.split(',').map(str::trim) {
            if token.is_empty() || token.eq_ignore_ascii_case("identity") {
                continue;
            }
            found.push(Encoding::from_token(token).ok_or_else(|| Denial::new(Reason::EncodingUnsupported))?);
        }
    }
    if found.len() > ENCODINGS {
        return Err(Denial::new(Reason::EncodingUnsupported));
    }
    found.reverse();
    Ok(found)
}

/// Takes encodings off, one after the other.
pub(crate) struct Unwrapping(Vec<Decoder>);

impl Unwrapping {
    /// For these encodings, the outermost first.
    pub(crate) fn new(encodings: &[Encoding]) -> Self {
        Self(encodings.iter().map(|encoding| Decoder::new(*encoding, limits::DECODED_BODY_BYTES)).collect())
    }

    /// Whether there is nothing to take off.
    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What a chunk decodes to.
    pub(crate) fn push(&mut self, chunk: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let mut decoded = chunk.to_vec();
        for decoder in &mut self.0 {
            decoded = decoder.push(&decoded)?;
        }
        Ok(decoded)
    }

    /// Whether the end is an end of the encoded text too.
    pub(crate) fn finish(&mut self) -> Result<(), DecodeError> {
        self.0.iter_mut().try_for_each(Decoder::finish)
    }
}

/// Reads one body. Where it is encoded, the raw chunks wait until the decoded text that they end in has been released.
struct Reader {
    recogniser: Recogniser,
    stream: StreamRecogniser,
    unwrapping: Unwrapping,
    raw: VecDeque<(Bytes, u64)>,
    taken: u64,
    decoded: u64,
    released: u64,
    recent: Vec<u8>,
    finished: bool,
}

impl Reader {
    fn new(recogniser: &Recogniser, encodings: Vec<Encoding>) -> Self {
        Self {
            recogniser: recogniser.clone(),
            stream: recogniser.stream(),
            unwrapping: Unwrapping::new(&encodings),
            raw: VecDeque::new(),
            taken: 0,
            decoded: 0,
            released: 0,
            recent: Vec::new(),
            finished: false,
        }
    }

    fn push(&mut self, chunk: Bytes) -> Result<Bytes, Stopped> {
        self.taken += chunk.len() as u64;
        if self.taken > limits::REQUEST_BODY_BYTES {
            return Err(Stopped::Denied(Denial::new(Reason::LimitBody)));
        }
        if self.unwrapping.is_empty() {
            return self.read(&chunk).map(Bytes::from);
        }
        let decoded = self.unwrapping.push(&chunk).map_err(undecodable)?;
        self.decoded += decoded.len() as u64;
        self.raw.push_back((chunk, self.decoded));
        let released = self.read(&decoded)?.len() as u64;
        Ok(self.release(released))
    }

    fn finish(&mut self) -> Result<Bytes, Stopped> {
        self.finished = true;
        if self.unwrapping.is_empty() {
            return self.end().map(Bytes::from);
        }
        self.unwrapping.finish().map_err(undecodable)?;
        self.end()?;
        Ok(self.release(self.decoded))
    }

    fn read(&mut self, text: &[u8]) -> Result<Vec<u8>, Stopped> {
        let passed = self.stream.push(text);
        self.remember(text);
        passed.map_err(|_| self.stopped())
    }

    fn end(&mut self) -> Result<Vec<u8>, Stopped> {
        self.stream.finish().map_err(|_| self.stopped())
    }

    /// What was recognised, for the record: read again from the last bytes.
    fn stopped(&self) -> Stopped {
        let sightings = self.recogniser.find_known(&self.recent);
        Stopped::Recognised(
            sightings
                .into_iter()
                .map(|sighting| Found { credential: sighting.credential, value: sighting.value, place: Place::Body })
                .collect(),
        )
    }

    fn remember(&mut self, text: &[u8]) {
        let surplus = self.recent.len().saturating_sub(RECENT_BYTES);
        self.recent.drain(..surplus);
        self.recent.extend_from_slice(text);
    }

    fn release(&mut self, more: u64) -> Bytes {
        self.released += more;
        let mut passed = Vec::new();
        while let Some((chunk, end)) = self.raw.pop_front_if(|(_, end)| *end <= self.released) {
            let _ = end;
            passed.extend_from_slice(&chunk);
        }
        passed.into()
    }
}

fn undecodable(error: DecodeError) -> Stopped {
    Stopped::Denied(not_decoded(error))
}

/// Why a body whose encoding cannot be taken off is refused.
pub(crate) fn not_decoded(error: DecodeError) -> Denial {
    Denial::new(match error {
        DecodeError::Ceiling(_) | DecodeError::Ratio | DecodeError::Window => Reason::LimitDecoded,
        DecodeError::Damaged | DecodeError::Truncated => Reason::EncodingUnsupported,
    })
}

/// Encodings on top of each other that are taken off.
const ENCODINGS: usize = 3;
/// More than the longest rendering of a placeholder.
const RECENT_BYTES: usize = 64 * 1024;
