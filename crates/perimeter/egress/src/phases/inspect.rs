//! Phase: reads a request body before it is forwarded. Its beginning is read before the decision; what is longer is
//! read as it streams. Nothing in which something of ours was recognised goes on, in plain or inside an encoding: an
//! encoded body is read as it is and as what it decodes to, for encodings have headers and comments of their own.

use std::{collections::VecDeque, time::Duration};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use postern_policy::{BodyKind, Denial, Found, Place, Reason, location};
use postern_secret::decode::{DecodeError, Decoders, Encoding, PIECE};
use tokio::time::timeout;

use super::{
    decide::Form,
    places, trailers,
    upload::{Interrupted, Uploading},
};
use crate::{
    limits::{self, Bounds},
    messages::{self, End, Messages},
    parts::InspectedParts,
    recent::Recent,
    recognise::{Recognised, Recogniser, StreamRecogniser},
};

/// A request body as far as it is known before the decision.
pub(crate) enum Preview {
    /// Read to its end; these bytes, and what followed them, may go on.
    Whole(Bytes, Option<HeaderMap>),
    /// Read to its end, with something of ours in it. Whether that may stand where it does is for the zone to say. What
    /// followed it may go on.
    Held(Bytes, Option<HeaderMap>, Vec<Found>),
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

/// Reads the body's beginning; one of a kind in which places are looked for is held until it is whole or too long.
pub(crate) async fn preview(
    recogniser: &Recogniser,
    headers: &HeaderMap,
    mut incoming: Incoming,
    bounds: &Bounds,
    kind: Option<BodyKind>,
) -> Result<Preview, (Denial, Option<Incoming>)> {
    if incoming.is_end_stream() {
        return Ok(Preview::Whole(Bytes::new(), None));
    }
    let encodings = match readable(headers, &incoming, bounds) {
        Ok(encodings) => encodings,
        Err(denial) => return Err((denial, Some(incoming))),
    };
    let idle = bounds.body_idle;
    let messages = Messages::of(headers).filter(|_| encodings.is_empty());
    let mut reader = Reader::new(recogniser, encodings, bounds);
    if let Some(messages) = messages {
        // Whoever speaks in turns waits for an answer before it says more: inspected on its way from the beginning.
        reader.messages = Some((messages, InspectedParts::new(recogniser)));
        return Ok(Preview::Begun(Bytes::new(), Box::new(Inspection { incoming, reader, idle })));
    }
    let mut passed = Vec::new();
    let mut held = match kind {
        Some(_) => Some(hold(&mut incoming, &mut reader, idle).await),
        None => None,
    };
    if let (Some(kind), Some(Ok(Hold { text, whole: true }))) = (kind, &held) {
        let found = places::in_body(recogniser, kind, text);
        if !found.is_empty() {
            return Ok(Preview::Held(text.clone(), reader.trailers, found));
        }
    }
    loop {
        let read = match held.take() {
            Some(held) => held.and_then(|Hold { text, .. }| reader.push(text).map(Some)),
            None => next(&mut incoming, &mut reader, idle).await,
        };
        match read {
            Ok(Some(bytes)) => passed.extend_from_slice(&bytes),
            Ok(None) => return Ok(Preview::Whole(passed.into(), reader.trailers)),
            Err(Stopped::Recognised(found)) => return Ok(Preview::Recognised(found, Some(incoming))),
            Err(Stopped::Denied(denial)) => return Err((denial, Some(incoming))),
            Err(Stopped::Broken) => return Err((Denial::new(Reason::RequestMalformed), None)),
        }
        if reader.taken >= limits::BODY_PREVIEW_BYTES as u64 {
            return Ok(Preview::Begun(passed.into(), Box::new(Inspection { incoming, reader, idle })));
        }
    }
}

/// The encodings of a body that can be looked into, in the order in which they are to be taken off.
fn readable(headers: &HeaderMap, incoming: &Incoming, bounds: &Bounds) -> Result<Vec<Encoding>, Denial> {
    if incoming.size_hint().lower() > bounds.request_body_bytes {
        return Err(Denial::new(Reason::LimitBody));
    }
    let encodings = encodings(headers)?;
    if encodings.len() > 1 {
        return Err(Denial::advising(Reason::EncodingUnsupported, "send the body in one encoding at most"));
    }
    if messages::compressed(headers) {
        return Err(Denial::advising(Reason::EncodingUnsupported, "send messages that are not compressed one by one"));
    }
    Ok(encodings)
}

/// A body as far as it was read before anything in it was looked at.
struct Hold {
    text: Bytes,
    whole: bool,
}

async fn hold(incoming: &mut Incoming, reader: &mut Reader, idle: Duration) -> Result<Hold, Stopped> {
    let mut text = BytesMut::new();
    while text.len() <= location::BODY_BYTES {
        match chunk(incoming, reader, idle).await? {
            Some(chunk) => text.extend_from_slice(&chunk),
            None => return Ok(Hold { text: text.freeze(), whole: true }),
        }
    }
    Ok(Hold { text: text.freeze(), whole: false })
}

impl Inspection {
    /// The rest of the client's body, unless it was read to its end.
    pub(crate) fn into_unread(self) -> Option<Incoming> {
        (!self.reader.finished).then_some(self.incoming)
    }

    /// What followed the body, once it was read to its end.
    pub(crate) fn trailers(&mut self) -> Option<HeaderMap> {
        self.reader.trailers.take()
    }

    /// How long either side may be silent.
    pub(crate) fn idle(&self) -> Duration {
        self.idle
    }

    /// The next bytes that may go on; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Stopped> {
        next(&mut self.incoming, &mut self.reader, self.idle).await
    }
}

/// What a client still sends of a refused request.
pub(crate) enum Unread {
    /// The rest of its body.
    Body(Incoming),
    /// An upload that has nowhere to go any more, which its next bytes end.
    Upload(Uploading),
}

/// Reads what a refused client still sends, within bounds, so that it gets to read the refusal.
pub(crate) async fn discard(unread: Unread, within: Duration) {
    let reading = async {
        let mut incoming = match unread {
            Unread::Body(incoming) => incoming,
            Unread::Upload(upload) => match upload.await {
                Err(Interrupted { unread: Some(incoming), .. }) => incoming,
                Ok(()) | Err(Interrupted { unread: None, .. }) => return,
            },
        };
        let mut taken = 0;
        while let Some(Ok(frame)) = incoming.frame().await {
            taken += frame.data_ref().map_or(0, Bytes::len);
            if taken > limits::REFUSED_BODY_BYTES {
                return;
            }
        }
    };
    // Whoever sends more, or more slowly, has its connection closed.
    let _late = timeout(within, reading).await;
}

async fn next(incoming: &mut Incoming, reader: &mut Reader, idle: Duration) -> Result<Option<Bytes>, Stopped> {
    if reader.finished {
        return Ok(None);
    }
    match chunk(incoming, reader, idle).await? {
        Some(chunk) => reader.push(chunk).map(Some),
        None => reader.finish().map(Some),
    }
}

/// The next bytes as they were sent; trailers are looked through and kept for whoever asks.
async fn chunk(incoming: &mut Incoming, reader: &mut Reader, idle: Duration) -> Result<Option<Bytes>, Stopped> {
    loop {
        let frame =
            timeout(idle, incoming.frame()).await.map_err(|_| Stopped::Denied(Denial::new(Reason::LimitTime)))?;
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(chunk) => return Ok(Some(chunk)),
                Err(frame) => {
                    let Ok(trailers) = frame.into_trailers() else { continue };
                    trailers::inspect(&reader.recogniser, &trailers)?;
                    reader.trailers = Some(trailers);
                }
            },
            Some(Err(_)) => return Err(Stopped::Broken),
            None => return Ok(None),
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

/// What a whole body says that may be a form, however it is encoded.
pub(crate) fn form(headers: &HeaderMap, body: &Bytes) -> Form {
    let unwrapped = || {
        let mut unwrapping = Decoders::new(&encodings(headers).ok()?, limits::FORM_BYTES);
        let decoded = unwrapping.push(body).ok()?;
        unwrapping.finish().ok()?;
        Some(decoded.into())
    };
    match is_form(headers) {
        false => Form::None,
        true => unwrapped().map_or(Form::TooLong, Form::Text),
    }
}

/// Whether any of its types says so: with several, upstreams choose differently.
pub(crate) fn is_form(headers: &HeaderMap) -> bool {
    headers.get_all(header::CONTENT_TYPE).iter().any(|value| {
        let kind = value.as_bytes().split(|byte| *byte == b';').next().unwrap_or_default();
        kind.trim_ascii().eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
    })
}

/// Reads one body. Where it is encoded, the raw chunks wait until the decoded text that they end in has been released.
pub(crate) struct Reader {
    recogniser: Recogniser,
    stream: StreamRecogniser,
    /// In the place of `stream`, for a body that is made of messages.
    messages: Option<(Messages, InspectedParts)>,
    unwrapping: Decoders,
    /// Reads an encoded body as it is.
    as_sent: StreamRecogniser,
    raw: VecDeque<Waiting>,
    taken: u64,
    gone_on: u64,
    limit: u64,
    cleared: u64,
    decoded: u64,
    released: u64,
    recent: Recent,
    trailers: Option<HeaderMap>,
    finished: bool,
}

impl Reader {
    /// Of a body with these encodings, the outermost first.
    pub(crate) fn new(recogniser: &Recogniser, encodings: Vec<Encoding>, bounds: &Bounds) -> Self {
        Self {
            recogniser: recogniser.clone(),
            stream: recogniser.stream(),
            messages: None,
            unwrapping: Decoders::new(&encodings, bounds.decoded_body_bytes),
            as_sent: recogniser.stream(),
            raw: VecDeque::new(),
            taken: 0,
            gone_on: 0,
            limit: bounds.request_body_bytes,
            cleared: 0,
            decoded: 0,
            released: 0,
            recent: Recent::default(),
            trailers: None,
            finished: false,
        }
    }

    /// Takes a chunk and gives what may go on.
    pub(crate) fn push(&mut self, chunk: Bytes) -> Result<Bytes, Stopped> {
        self.taken += chunk.len() as u64;
        if self.taken > self.limit {
            return Err(Stopped::Denied(Denial::new(Reason::LimitBody)));
        }
        if self.unwrapping.is_empty() {
            return self.read(&chunk);
        }
        let mut released = 0;
        for step in chunk.chunks(PIECE) {
            let decoded = Bytes::from(self.unwrapping.push(step).map_err(undecodable)?);
            self.decoded += decoded.len() as u64;
            released += self.read(&decoded)?.len() as u64;
        }
        let cleared = self.as_sent.push(&chunk);
        self.cleared += cleared.map_err(|_| self.stopped_at(&chunk))?.len() as u64;
        self.raw.push_back(Waiting { chunk, end: self.taken, decoded: self.decoded });
        let passed = self.release(released);
        self.gone_on += passed.len() as u64;
        // What decodes to nothing never tells whether what waits before it may go on.
        if self.taken - self.gone_on > limits::WAITING_BYTES {
            let step = "send the body without an encoding: this one says nothing for too long";
            return Err(Stopped::Denied(Denial::advising(Reason::EncodingUnsupported, step)));
        }
        Ok(passed)
    }

    /// Ends the body and gives the rest.
    pub(crate) fn finish(&mut self) -> Result<Bytes, Stopped> {
        self.finished = true;
        if self.unwrapping.is_empty() {
            return self.end().map(Bytes::from);
        }
        self.unwrapping.finish().map_err(undecodable)?;
        self.end()?;
        self.as_sent.finish().map_err(|_| self.stopped())?;
        self.cleared = self.taken;
        Ok(self.release(self.decoded))
    }

    fn read(&mut self, text: &Bytes) -> Result<Bytes, Stopped> {
        let passed = match &mut self.messages {
            Some((messages, parts)) => in_messages(messages, parts, text).map(Bytes::from),
            None => self.stream.pass(text),
        };
        self.recent.remember(text);
        passed.map_err(|_| self.stopped())
    }

    fn end(&mut self) -> Result<Vec<u8>, Stopped> {
        let held = match &mut self.messages {
            Some((_, parts)) => parts.end(),
            None => self.stream.finish(),
        };
        held.map_err(|_| self.stopped())
    }

    /// What was recognised, for the record: read again from the last bytes.
    fn stopped(&self) -> Stopped {
        self.stopped_at(&self.recent.text())
    }

    fn stopped_at(&self, text: &[u8]) -> Stopped {
        let sightings = self.recogniser.find_known(text);
        Stopped::Recognised(
            sightings
                .into_iter()
                .map(|sighting| Found { credential: sighting.credential, value: sighting.value, place: Place::Body })
                .collect(),
        )
    }

    fn release(&mut self, more: u64) -> Bytes {
        self.released += more;
        let mut passed = Vec::new();
        let (released, cleared) = (self.released, self.cleared);
        while let Some(next) = self.raw.pop_front_if(|next| next.decoded <= released && next.end <= cleared) {
            passed.extend_from_slice(&next.chunk);
        }
        passed.into()
    }
}

/// Each message passes whole at its end: none waits for the next.
fn in_messages(messages: &mut Messages, parts: &mut InspectedParts, mut text: &[u8]) -> Result<Vec<u8>, Recognised> {
    let mut passed = Vec::with_capacity(text.len());
    while !text.is_empty() {
        let (message, after, end) = messages.split(text);
        passed.extend(parts.push(message)?);
        if end == End::Here {
            passed.extend(parts.end()?);
        }
        text = after;
    }
    Ok(passed)
}

/// An encoded chunk that waits until it is certain that nothing of ours is in it.
struct Waiting {
    chunk: Bytes,
    /// Where it ends in the body as sent.
    end: u64,
    /// How far the body is decoded with it.
    decoded: u64,
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
