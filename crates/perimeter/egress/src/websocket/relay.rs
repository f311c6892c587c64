//! Carries a WebSocket that both sides agreed to. What the upstream says is scrubbed, across the borders of frames and
//! in messages of any kind; what the sandbox says is inspected, and a frame is no exact location: nothing is replaced in
//! one. What is recognised across the border of two messages ends the connection before it is whole.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use postern_policy::{Denial, Found, Place, Reason};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt},
    sync::{mpsc, watch},
    time::timeout,
};

use super::{
    frame::{self, Opcode},
    handshake,
    reader::{Ended, Event, Reader, Side},
};
use crate::{
    limits::{self, Bounds},
    parts::{InspectedParts, ScrubbedParts, Split},
    phases::{identify::Named, inspect::Stopped, intercept::Stream, record::Pending, refuse, scrub, upload},
    recent::RECENT_BYTES,
    recognise::{Keyring, Recognised},
    session::Session,
};

/// How a direction ended: with nothing more to say, or refused.
type Relayed = Result<(), Denial>;

/// Frames on their way to one side.
type Outbox = mpsc::Sender<Bytes>;

/// Relays until either side is done, and records how it ended: a refusal before the sandbox hears of it.
pub(crate) async fn relay<A: Stream, U: Stream>(
    session: &Arc<Session>,
    named: &Named,
    agent: A,
    upstream: U,
    pending: &mut Pending,
) {
    let bounds = session.perimeter.bounds;
    let (agent_in, agent_out) = tokio::io::split(agent);
    let (upstream_in, upstream_out) = tokio::io::split(upstream);
    let (to_agent, agent_frames) = mpsc::channel(FRAMES);
    let (to_upstream, upstream_frames) = mpsc::channel(FRAMES);
    let (heard, hears) = watch::channel(());
    let mut down = Down::new(session.clone());
    let to_agent_too = to_agent.clone();
    let talking = async {
        let mut up = Up::new(session.clone());
        let most = bounds.websocket_message_bytes;
        // Each owns its queue: who writes is done once who reads is, or where the last it read was a close, once both are.
        let downwards = down.run(Reader::new(upstream_in, Side::Server, most), to_agent_too, &heard);
        let upwards = up.run(Reader::new(agent_in, Side::Client, most), to_upstream, &heard);
        until_either_is_done(Box::pin(downwards), Box::pin(upwards), hears, &bounds).await
    };
    let said = async {
        if let Err(denial) = talking.await {
            pending.refused(&denial).await;
            refuse::unanswered(session, named, &denial);
            // Told in the protocol too, as far as the sandbox still listens.
            let _gone = timeout(limits::FAREWELL, to_agent.send(closing(&denial))).await;
        }
        drop(to_agent);
    };
    let writing = async {
        tokio::join!(
            write(agent_out, agent_frames, bounds.body_idle),
            write(upstream_out, upstream_frames, bounds.body_idle)
        )
    };
    let (mut said, mut writing) = (Box::pin(said), Box::pin(writing));
    tokio::select! {
        () = &mut said => {
            // What is under way still goes out.
            let _late = timeout(limits::FAREWELL, &mut writing).await;
        }
        // Neither side reads any more: what is said from now on is said to nobody.
        _ = &mut writing => said.as_mut().await,
    }
    drop(said);
    pending.outcome.received_bytes = down.received_bytes;
    pending.outcome.scrubbed += down.scrubbed();
    pending.outcome.ended = "closed";
    // Nothing more where it was refused: that is recorded.
    pending.ended();
}

/// One side being done, the other has a moment to say the same. Neither speaking, it is over.
async fn until_either_is_done(
    mut downwards: impl Future<Output = Relayed> + Unpin,
    mut upwards: impl Future<Output = Relayed> + Unpin,
    mut hears: watch::Receiver<()>,
    bounds: &Bounds,
) -> Relayed {
    let silence = async { while let Ok(Ok(())) = timeout(bounds.websocket_idle, hears.changed()).await {} };
    tokio::select! {
        done = &mut downwards => {
            done?;
            timeout(limits::WEBSOCKET_CLOSING, upwards).await.unwrap_or(Ok(()))
        }
        done = &mut upwards => {
            done?;
            timeout(limits::WEBSOCKET_CLOSING, downwards).await.unwrap_or(Ok(()))
        }
        () = silence => Err(Denial::new(Reason::LimitTime)),
    }
}

/// A close frame that says why; the code is a policy's violation (RFC 6455, section 7.4.1).
fn closing(denial: &Denial) -> Bytes {
    let code: u16 = match denial.reason {
        Reason::RequestMalformed => 1002,
        Reason::LimitBody => 1009,
        _ => 1008,
    };
    let words = format!("postern: {}", denial.reason.code());
    frame::render(Opcode::Close, true, None, &[&code.to_be_bytes()[..], words.as_bytes()].concat())
}

/// Writes frames whole, one after the other, until nobody has more.
async fn write<W: AsyncWrite + Unpin>(mut to: W, mut frames: mpsc::Receiver<Bytes>, idle: Duration) {
    let one = async |to: &mut W, frame: Bytes| -> io::Result<()> {
        to.write_all(&frame).await?;
        to.flush().await
    };
    while let Some(frame) = frames.recv().await {
        match timeout(idle, one(&mut to, frame)).await {
            Ok(Ok(())) => {}
            // Whoever has more to send finds the queue closed.
            Ok(Err(_)) | Err(_) => return,
        }
    }
    let _gone = timeout(limits::FAREWELL, to.shutdown()).await;
}

/// From the upstream to the sandbox.
struct Down {
    session: Arc<Session>,
    /// What the secrets were when the parts were begun.
    keyring: Arc<Keyring>,
    messages: ScrubbedParts,
    /// Those of the controls, which come between messages and within them.
    controls_keyring: Arc<Keyring>,
    controls: ScrubbedParts,
    /// What the message begins with, until some of it was sent.
    begins: Opcode,
    received_bytes: u64,
}

impl Down {
    fn new(session: Arc<Session>) -> Self {
        let keyring = session.keyring();
        Self {
            messages: ScrubbedParts::new(keyring.scrub()),
            controls: ScrubbedParts::new(keyring.scrub()),
            begins: Opcode::Continuation,
            controls_keyring: Arc::clone(&keyring),
            keyring,
            session,
            received_bytes: 0,
        }
    }

    async fn run<S: AsyncRead + Unpin>(
        &mut self,
        mut reader: Reader<S>,
        to_agent: Outbox,
        heard: &watch::Sender<()>,
    ) -> Relayed {
        loop {
            let event = match reader.next().await {
                Ok(event) => event,
                Err(ended) => return from_upstream(&ended),
            };
            heard.send_replace(());
            let (frame, closes) = match event {
                Event::Data { begins, bytes, last } => (self.data(begins, &bytes, last)?, false),
                Event::Control(opcode, payload) => (Some(self.control(opcode, &payload)?), opcode == Opcode::Close),
            };
            if let Some(frame) = frame
                && to_agent.send(frame).await.is_err()
            {
                return Ok(());
            }
            if closes {
                return Ok(());
            }
        }
    }

    fn data(&mut self, begins: Option<Opcode>, bytes: &[u8], last: bool) -> Result<Option<Bytes>, Denial> {
        if let Some(opcode) = begins {
            self.begins = opcode;
        }
        self.received_bytes += bytes.len() as u64;
        let mut clean = self.learn().map_err(|Split| scrub::split())?;
        clean.extend(self.messages.push(bytes).map_err(|Split| scrub::split())?);
        if last {
            clean.extend(self.messages.end());
        }
        if clean.is_empty() && !last {
            // Held back: the beginning of something, perhaps.
            return Ok(None);
        }
        let opcode = std::mem::replace(&mut self.begins, Opcode::Continuation);
        Ok(Some(frame::render(opcode, last, None, &clean)))
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<Bytes, Denial> {
        let keyring = self.session.keyring();
        if !Arc::ptr_eq(&keyring, &self.controls_keyring) && !keyring.is_empty() {
            // Nothing of a control frame is ever held back.
            self.controls.follow(keyring.scrub()).map_err(|Split| scrub::split())?;
            self.controls_keyring = keyring;
        }
        let mut clean = self.controls.push(payload).map_err(|Split| scrub::split())?;
        clean.extend(self.controls.end());
        Ok(frame::render(opcode, true, None, &clean))
    }

    /// Takes up secrets that came since. Gives what may pass by now of what was held back; a session that ended and
    /// forgot leaves the former secrets in force.
    fn learn(&mut self) -> Result<Vec<u8>, Split> {
        let keyring = self.session.keyring();
        if Arc::ptr_eq(&keyring, &self.keyring) || keyring.is_empty() {
            return Ok(Vec::new());
        }
        let clean = self.messages.follow(keyring.scrub())?;
        self.keyring = keyring;
        Ok(clean)
    }

    fn scrubbed(&self) -> u64 {
        self.messages.replaced() + self.controls.replaced()
    }
}

/// From the sandbox to the upstream.
struct Up {
    session: Arc<Session>,
    messages: InspectedParts,
    controls: InspectedParts,
    begins: Opcode,
    recent: Vec<u8>,
    /// The queue to the upstream once the sandbox said its last: the connection is not ended on our side before the upstream answered that.
    answered: Option<Outbox>,
}

impl Up {
    fn new(session: Arc<Session>) -> Self {
        let recogniser = session.recogniser();
        Self {
            messages: InspectedParts::new(&recogniser),
            controls: InspectedParts::new(&recogniser),
            begins: Opcode::Continuation,
            recent: Vec::new(),
            answered: None,
            session,
        }
    }

    async fn run<S: AsyncRead + Unpin>(
        &mut self,
        mut reader: Reader<S>,
        to_upstream: Outbox,
        heard: &watch::Sender<()>,
    ) -> Relayed {
        loop {
            let event = match reader.next().await {
                Ok(event) => event,
                Err(ended) => return from_agent(&ended),
            };
            heard.send_replace(());
            let (frame, closes) = match event {
                Event::Data { begins, bytes, last } => (self.data(begins, &bytes, last)?, false),
                Event::Control(opcode, payload) => (Some(self.control(opcode, &payload)?), opcode == Opcode::Close),
            };
            if let Some(frame) = frame
                && to_upstream.send(frame).await.is_err()
            {
                return Ok(());
            }
            if closes {
                self.answered = Some(to_upstream);
                return Ok(());
            }
        }
    }

    fn data(&mut self, begins: Option<Opcode>, bytes: &[u8], last: bool) -> Result<Option<Bytes>, Denial> {
        if let Some(opcode) = begins {
            self.begins = opcode;
        }
        self.remember(bytes);
        let passed = self.pass(bytes, last).map_err(|Recognised| self.recognised())?;
        if passed.is_empty() && !last {
            return Ok(None);
        }
        let opcode = std::mem::replace(&mut self.begins, Opcode::Continuation);
        masked(opcode, last, &passed).map(Some)
    }

    fn control(&mut self, opcode: Opcode, payload: &[u8]) -> Result<Bytes, Denial> {
        self.remember(payload);
        self.controls.follow(&self.session.recogniser()).map_err(|Recognised| self.recognised())?;
        let passed = self.controls.push(payload).and_then(|_| self.controls.end());
        passed.map_err(|Recognised| self.recognised())?;
        masked(opcode, true, payload)
    }

    /// What may go on by now of a message, with placeholders and secrets that came since.
    fn pass(&mut self, bytes: &[u8], last: bool) -> Result<Vec<u8>, Recognised> {
        if postern_danger::off!("egress-websockets") {
            return Ok(bytes.to_vec());
        }
        let recogniser = self.session.recogniser();
        let mut passed = self.messages.follow(&recogniser)?;
        passed.extend(self.messages.push(bytes)?);
        if last {
            passed.extend(self.messages.end()?);
        }
        Ok(passed)
    }

    fn remember(&mut self, text: &[u8]) {
        let surplus = self.recent.len().saturating_sub(RECENT_BYTES);
        self.recent.drain(..surplus);
        self.recent.extend_from_slice(text);
    }

    /// What was recognised: a frame is no place for it.
    fn recognised(&self) -> Denial {
        let sightings = self.session.recogniser().find_known(&self.recent);
        let found = |one: crate::recognise::Sighting| Found {
            credential: one.credential,
            value: one.value,
            place: Place::Body,
        };
        let denial = upload::refusal(&Stopped::Recognised(sightings.into_iter().map(found).collect()));
        match denial.reason {
            Reason::PlaceholderWrongLocation => Denial::advising(
                Reason::PlaceholderWrongLocation,
                "put the placeholder into the WebSocket's handshake, never into a message",
            ),
            _ => denial,
        }
    }
}

fn masked(opcode: Opcode, last: bool, payload: &[u8]) -> Result<Bytes, Denial> {
    let mut mask = [0; 4];
    handshake::fill(&mut mask)?;
    Ok(frame::render(opcode, last, Some(mask), payload))
}

fn from_upstream(ended: &Ended) -> Relayed {
    match ended {
        Ended::Gone => Ok(()),
        Ended::Malformed(how) => {
            Err(Denial::advising(Reason::UpstreamUnreachable, format!("the upstream sends no WebSocket: {}", how.0)))
        }
        Ended::TooLong => Err(too_long()),
    }
}

fn from_agent(ended: &Ended) -> Relayed {
    match ended {
        Ended::Gone => Ok(()),
        Ended::Malformed(how) => {
            Err(Denial::advising(Reason::RequestMalformed, format!("send frames of RFC 6455, not {}", how.0)))
        }
        Ended::TooLong => Err(too_long()),
    }
}

fn too_long() -> Denial {
    Denial::advising(Reason::LimitBody, "a WebSocket message is longer than the limit; send it in several messages")
}

/// Frames in flight to one side: the reader's pace is the writer's.
const FRAMES: usize = 2;
