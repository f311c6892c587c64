//! Phase: brings the upstream's answer to the caller, scrubbed. A plain answer is read whole first, so that whatever is
//! wrong with it can still be said; an event stream goes on event by event, within its bounds. How it ended is on record
//! before its end is said.

use std::{sync::Arc, time::Instant};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode, header};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use postern_policy::{Denial, Reason, RoutePermit};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use super::{
    forward::{self, MCP_SESSION, Sent},
    message::{Asked, Message},
    record::{Known, Pending},
    refuse,
    reply::{self, Said},
    scrub::{self, Cleaner},
};
use crate::{
    body::{self, Body, Piece, Pipe},
    gateway::{Gateway, HELD_UNIT},
    keyring::Keyring,
    pool::{Connection, PoolKey},
    sessions::{Place, Session},
};

/// What an answer is brought with.
pub(crate) struct Bringing<'a> {
    /// The gateway.
    pub(crate) gateway: &'a Arc<Gateway>,
    /// The request's place, taken over by a stream.
    pub(crate) place: &'a mut Option<Place>,
    /// What is known of the request.
    pub(crate) known: &'a mut Known,
    /// Its outcome.
    pub(crate) pending: &'a mut Pending,
    /// Where it went.
    pub(crate) permit: &'a RoutePermit,
    /// Until when the answer must be whole.
    pub(crate) deadline: tokio::time::Instant,
}

impl Bringing<'_> {
    /// Brings it.
    pub(crate) async fn answer(&mut self, sent: Sent) -> Result<Response<Body>, Denial> {
        let keyring = self.keyring()?;
        let Sent { response, connection } = sent;
        let (parts, incoming) = response.into_parts();
        self.pending.count("status", u64::from(parts.status.as_u16()));
        if parts.status.is_success() && is_stream(&parts.headers) {
            return self.stream(&keyring, parts.status, &parts.headers, incoming, connection);
        }
        let most = self.most();
        let (body, scrubbed, places) =
            whole(self.gateway, self.session(), &keyring, &parts.headers, incoming, most).await.map_err(
                // The upstream broke off: the tool may have run all the same.
                |stopped| stopped.unwrap_or_else(|| forward::broken(self.known)),
            )?;
        if parts.status != StatusCode::SWITCHING_PROTOCOLS {
            let key = PoolKey::from(self.permit);
            self.session().pool.put(key, connection, Instant::now());
        }
        let (mut headers, in_headers) = scrub::headers(&keyring, &parts.headers);
        self.pending.count("received_bytes", body.len() as u64);
        self.pending.count("scrubbed", scrubbed + in_headers);
        self.judge(&keyring, parts.status, &parts.headers, &body)?;
        self.seal(&keyring, &parts.headers, &mut headers)?;
        self.pending.ended("answered");
        let mut answer = Response::new(if body.is_empty() { body::empty() } else { body::held(body, places) });
        *answer.status_mut() = parts.status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// Whether a plain answer is one of MCP. What is not is refused, with a short and scrubbed word of the upstream's.
    fn judge(&mut self, keyring: &Keyring, status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Result<(), Denial> {
        let reason = match status {
            _ if status.is_informational() => Reason::UpstreamProtocol,
            _ if status.is_redirection() && !postern_danger::off!("gateway-redirects") => Reason::RedirectRefused,
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::PROXY_AUTHENTICATION_REQUIRED => {
                Reason::UpstreamUnauthorized
            }
            _ if status.is_server_error() => Reason::UpstreamUnreachable,
            _ if status.is_success() && !body.is_empty() && !(is_json(headers) && self.replies(body)) => {
                Reason::UpstreamProtocol
            }
            _ => return Ok(()),
        };
        let mut said = vec![status.to_string()];
        // Whoever refuses a key may name the one it expects, which nobody here knows and nothing would scrub.
        if reason == Reason::UpstreamUnauthorized {
            self.known.detail = said.pop();
            return Err(Denial::new(reason));
        }
        if let Some(challenge) = headers.get(header::WWW_AUTHENTICATE) {
            let (text, scrubbed) = scrub::header_text(keyring, challenge);
            self.pending.count("scrubbed", scrubbed);
            said.push(text);
        }
        said.push(scrub::short(body));
        said.retain(|text| !text.is_empty());
        self.known.detail = Some(said.join("; "));
        Err(Denial::new(reason))
    }

    /// Whether a body is JSON and, where something was asked, the answer to it.
    fn replies(&self, body: &[u8]) -> bool {
        match (reply::read(body), &self.known.asked) {
            (Err(_), _) => false,
            (Ok(said), Some(Asked::Message(Message::Request { id, .. }))) => said == Said::Answer(id.clone()),
            (Ok(_), _) => true,
        }
    }

    /// An MCP session's id goes on sealed for this caller.
    fn seal(&self, keyring: &Keyring, from: &HeaderMap, into: &mut HeaderMap) -> Result<(), Denial> {
        let Some(id) = from.get(MCP_SESSION) else { return Ok(()) };
        let protocol = || {
            Denial::advising(Reason::UpstreamProtocol, "the MCP server's session id cannot be used; tell the operator")
        };
        if keyring.is_in(id.as_bytes()) {
            return Err(protocol());
        }
        let sealed = self.gateway.binding.seal(&self.session().id, self.permit.route(), id.as_bytes());
        into.insert(MCP_SESSION, sealed.ok_or_else(protocol)?);
        Ok(())
    }

    fn stream(
        &mut self,
        keyring: &Arc<Keyring>,
        status: StatusCode,
        from: &HeaderMap,
        incoming: Incoming,
        connection: Connection,
    ) -> Result<Response<Body>, Denial> {
        let most = self.most();
        let cleaner = Cleaner::new(Arc::clone(keyring), from, most)?;
        let (mut headers, scrubbed) = scrub::headers(keyring, from);
        self.pending.count("scrubbed", scrubbed);
        self.seal(keyring, from, &mut headers)?;
        let awaited = match &self.known.asked {
            Some(Asked::Message(Message::Request { id, .. })) => Some(id.clone()),
            _ => None,
        };
        let listens = self.known.asked == Some(Asked::Listen);
        let (pipe, body) = body::pipe();
        let stream = Stream {
            gateway: Arc::clone(self.gateway),
            place: self.place.take().expect("a request has its place until its answer takes it"),
            known: self.known.clone(),
            pending: self.pending.hand_over(),
            cleaner,
            events: super::events::Events::awaiting(awaited),
            incoming,
            pipe,
            taken: 0,
            held: Vec::new(),
            most,
            deadline: (!listens).then_some(self.deadline),
        };
        let key = PoolKey::from(self.permit);
        self.gateway.drain.spawn(stream.run(key, connection));
        let mut answer = Response::new(body);
        *answer.status_mut() = status;
        *answer.headers_mut() = headers;
        Ok(answer)
    }

    /// What the session knows; a session that was held has forgotten, and its answers could not be scrubbed any more.
    fn keyring(&self) -> Result<Arc<Keyring>, Denial> {
        let (session, keyring) = (self.session(), self.session().keyring());
        if session.ended.is_cancelled() { Err(self.gateway.sessions.held(&session.id)) } else { Ok(keyring) }
    }

    fn session(&self) -> &Session {
        &self.place.as_ref().expect("a request has its place until its answer takes it").session
    }

    fn most(&self) -> u64 {
        self.known.route.as_ref().map_or(0, |route| route.max_response_bytes)
    }
}

/// Reads a body whole: clean, and how many secrets were in it. `None` as error: the upstream broke off.
async fn whole(
    gateway: &Gateway,
    session: &Session,
    keyring: &Arc<Keyring>,
    headers: &HeaderMap,
    mut incoming: Incoming,
    most: u64,
) -> Result<(Vec<u8>, u64, Vec<OwnedSemaphorePermit>), Option<Denial>> {
    let mut cleaner = Cleaner::new(Arc::clone(keyring), headers, most)?;
    let (mut body, mut held) = (Vec::new(), Vec::new());
    while let Some(frame) = incoming.frame().await {
        // Trailers are dropped.
        let Ok(chunk) = frame.map_err(|_| None)?.into_data() else { continue };
        body.extend(cleaner.follow(session.keyring()));
        body.extend(cleaner.push(&chunk)?);
        if body.len() as u64 > most {
            return Err(Some(Denial::new(Reason::ResultTooLarge)));
        }
        while held.len() * HELD_UNIT < body.len() {
            let unit = Arc::clone(&gateway.memory).try_acquire_owned();
            held.push(unit.map_err(|_| Some(Denial::new(Reason::GatewayBusy)))?);
        }
    }
    body.extend(cleaner.finish()?);
    Ok((body, cleaner.scrubbed(), held))
}

/// An event stream on its way.
struct Stream {
    gateway: Arc<Gateway>,
    place: Place,
    known: Known,
    pending: Pending,
    cleaner: Cleaner,
    events: super::events::Events,
    incoming: Incoming,
    pipe: Pipe,
    taken: u64,
    /// Places in memory of an event that is not whole yet.
    held: Vec<OwnedSemaphorePermit>,
    most: u64,
    deadline: Option<tokio::time::Instant>,
}

/// How a stream ended.
enum Ended {
    /// The upstream ended it.
    Whole,
    /// The caller reads no more.
    Abandoned,
}

impl Stream {
    async fn run(mut self, key: PoolKey, connection: Connection) {
        match self.bring().await {
            Ok(Ended::Whole) => {
                self.count();
                self.pending.ended("answered");
                self.place.session.pool.put(key, connection, Instant::now());
                self.say_end(None).await;
            }
            Ok(Ended::Abandoned) => {
                self.count();
                self.pending.ended("cut short by the caller");
            }
            Err(denial) => {
                let awaited = self.events.awaits();
                self.pending.forget();
                let event = refuse::event(&self.gateway, &self.known, denial, awaited).await;
                self.say_end(event).await;
            }
        }
    }

    async fn bring(&mut self) -> Result<Ended, Denial> {
        let held = self.place.session.ended.clone();
        let drain = self.gateway.drain.clone();
        let listens = self.deadline.is_none();
        let deadline = self.deadline;
        let late = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        let gone = self.pipe.clone();
        tokio::select! {
            biased;
            () = held.cancelled() => Err(self.gateway.sessions.held(&self.place.session.id)),
            // A stream that only listens never ends by itself.
            () = drain.started(), if listens => Ok(Ended::Whole),
            () = late => Err(Denial::new(Reason::Timeout)),
            () = gone.closed() => Ok(Ended::Abandoned),
            flowed = self.flow() => flowed,
        }
    }

    async fn flow(&mut self) -> Result<Ended, Denial> {
        let idle = self.gateway.bounds.stream_idle;
        loop {
            let frame = timeout(idle, self.incoming.frame()).await.map_err(|_| Denial::new(Reason::Timeout))?;
            let clean = match frame {
                None => {
                    let clean = self.cleaner.finish()?;
                    self.pass(&clean).await?;
                    // An upstream that ends without the answer broke off.
                    let cut = self.events.awaits();
                    return if cut { Err(forward::broken(&self.known)) } else { Ok(Ended::Whole) };
                }
                Some(Err(_)) if !self.events.awaits() => return Ok(Ended::Whole),
                Some(Err(_)) => return Err(forward::broken(&self.known)),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => {
                        let mut clean = self.cleaner.follow(self.place.session.keyring());
                        clean.extend(self.cleaner.push(&chunk)?);
                        clean
                    }
                    Err(_trailers) => continue,
                },
            };
            if let Ended::Abandoned = self.pass(&clean).await? {
                return Ok(Ended::Abandoned);
            }
        }
    }

    async fn pass(&mut self, clean: &[u8]) -> Result<Ended, Denial> {
        self.taken += clean.len() as u64;
        if self.taken > self.most {
            return Err(Denial::new(Reason::ResultTooLarge));
        }
        let events = self.events.push(clean);
        self.hold()?;
        let asks = self.events.judge(&events)?;
        let route = self.known.route.as_ref().map_or("", |route| route.name.as_str());
        self.place.session.questions.asked(route, asks);
        if events.is_empty() {
            return Ok(Ended::Whole);
        }
        let idle = self.gateway.bounds.stream_idle;
        match timeout(idle, self.pipe.send(Piece::Bytes(Bytes::from(events)))).await {
            Ok(Ok(())) => Ok(Ended::Whole),
            Ok(Err(_)) | Err(_) => Ok(Ended::Abandoned),
        }
    }

    /// An event is held until it is whole, and counts among what all answers may take. A small one is not counted.
    fn hold(&mut self) -> Result<(), Denial> {
        let units = self.events.held() / HELD_UNIT;
        self.held.truncate(units);
        while self.held.len() < units {
            let unit = Arc::clone(&self.gateway.memory).try_acquire_owned();
            self.held.push(unit.map_err(|_| Denial::new(Reason::GatewayBusy))?);
        }
        Ok(())
    }

    fn count(&mut self) {
        self.pending.count("received_bytes", self.taken);
        self.pending.count("scrubbed", self.cleaner.scrubbed());
    }

    /// The end, after a last event where there is one. A caller that reads no more does not miss it.
    async fn say_end(&self, event: Option<Vec<u8>>) {
        let idle = self.gateway.bounds.stream_idle;
        let last = event.map(|event| Piece::Bytes(event.into()));
        for piece in last.into_iter().chain([Piece::End]) {
            let _gone = timeout(idle, self.pipe.send(piece)).await;
        }
    }
}

fn is_stream(headers: &HeaderMap) -> bool {
    kind(headers).eq_ignore_ascii_case("text/event-stream")
}

fn is_json(headers: &HeaderMap) -> bool {
    kind(headers).eq_ignore_ascii_case("application/json")
}

fn kind(headers: &HeaderMap) -> &str {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim()
}
