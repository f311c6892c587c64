//! One request and its answer, phase by phase. Every refusal of every phase comes back to one place, where it is recorded
//! and answered.

use std::{sync::Arc, time::Instant};

use http::{HeaderValue, Request, Response, request::Parts};
use hyper::body::Incoming;
use postern_policy::{Denial, McpPermit, Reason, RoutePermit};
use tokio::time::timeout_at;

use super::{
    address,
    answer::Bringing,
    authority::{self, Destination},
    credential, forward, identity,
    message::{self, Asked, Message},
    record::{self, Known, Pending},
    refuse, tripwires, zone,
};
use crate::{
    body::Body,
    gateway::{Gateway, Rules, milliseconds},
    keyring::Keyring,
    sessions::Place,
};

/// Answers a request that came in under this TLS name: with the upstream's scrubbed answer, or with a recorded refusal.
pub(crate) async fn exchange(gateway: &Arc<Gateway>, host: &str, request: Request<Incoming>) -> Response<Body> {
    let (parts, incoming) = request.into_parts();
    let mut known = Known { host: host.to_owned(), ..Known::default() };
    let mut unread = Some(incoming);
    let mut response = match carry(gateway, &parts, &mut unread, &mut known).await {
        Ok(response) => response,
        Err(denial) => refuse::answer(gateway, &known, denial).await,
    };
    if let Some(unread) = unread {
        // Beside the answer: a caller that is still sending gets to read it.
        gateway.drain.spawn_until_drain(message::discard(unread));
    }
    let timing = &known.timing;
    let timing = format!(
        "identity;dur={}, policy;dur={}, upstream;dur={}",
        milliseconds(timing.identity),
        milliseconds(timing.policy),
        milliseconds(timing.upstream)
    );
    if let Ok(timing) = HeaderValue::try_from(timing) {
        response.headers_mut().insert("server-timing", timing);
    }
    response
}

async fn carry(
    gateway: &Arc<Gateway>,
    parts: &Parts,
    unread: &mut Option<Incoming>,
    known: &mut Known,
) -> Result<Response<Body>, Denial> {
    let began = Instant::now();
    let claims = known.claims.insert(identity::head(gateway, &parts.headers)?).clone();
    if gateway.drain.is_started() {
        return Err(Denial::new(Reason::GatewayDraining));
    }
    let rules = gateway.rules();
    let destination = authority::find(&rules, &known.host, parts)?;
    known.route = Some(Arc::clone(&destination.route));
    known.timing.identity = began.elapsed();

    message::head(parts)?;
    let incoming = unread.take().expect("nothing but this takes the body");
    let body = message::body(incoming, destination.route.max_request_bytes, &gateway.bounds).await?;
    identity::body(&claims, &body)?;
    known.asked = Some(message::read(parts, &body)?);

    let place = gateway.sessions.enter(&claims.sub, Instant::now())?;
    known.session = Some(Arc::clone(&place.session));
    let held = place.session.ended.clone();
    let deadline = tokio::time::Instant::from_std(began) + destination.route.timeout;
    let step = Step { gateway, parts, rules: &rules, destination: &destination, body, deadline };
    let mut pending = None;
    let done = tokio::select! {
        biased;
        () = held.cancelled() => Err(gateway.sessions.held(&claims.sub)),
        done = timeout_at(deadline, step.proceed(place, known, &mut pending)) => {
            done.unwrap_or_else(|_| Err(Denial::new(Reason::Timeout)))
        }
    };
    if let (Err(_), Some(pending)) = (&done, &mut pending) {
        // The refusal is its outcome.
        pending.forget();
    }
    done
}

/// A request whose caller, destination and message are known.
struct Step<'a> {
    gateway: &'a Arc<Gateway>,
    parts: &'a Parts,
    rules: &'a Rules,
    destination: &'a Destination,
    body: bytes::Bytes,
    deadline: tokio::time::Instant,
}

/// What the phases before the record have found.
struct Passed {
    /// The MCP session's id as the server knows it.
    mcp_session: Option<HeaderValue>,
    /// The zone's word.
    permit: McpPermit,
    /// The right to dial.
    to: RoutePermit,
    /// Where to.
    way: address::Way,
    /// The secrets that the request was searched for.
    searched: Arc<Keyring>,
}

impl Step<'_> {
    /// Zone, tripwires, address, record, and on.
    async fn proceed(
        self,
        place: Place,
        known: &mut Known,
        pending: &mut Option<Pending>,
    ) -> Result<Response<Body>, Denial> {
        let (gateway, route, began) = (self.gateway, &self.destination.route, Instant::now());
        let (claims, asked) = known.claims.as_ref().zip(known.asked.as_ref()).expect("both were put there before");
        let mcp_session = match self.parts.headers.get(forward::MCP_SESSION) {
            None => None,
            Some(id) => {
                let opened = gateway.binding.open(&claims.sub, &route.name, id.as_bytes());
                Some(opened.map_err(|_| Denial::new(Reason::McpSessionUnknown))?)
            }
        };
        let permit = zone::decide(self.rules, claims, route, asked)?;
        known.permit = Some(permit.clone());
        let searched = place.session.keyring();
        tripwires::check(gateway, &place.session, &self.parts.headers, &self.body).await?;
        let to = route.permit(&permit)?;
        let way = address::find(gateway, &place.session, &to).await?;
        known.address = way.address();
        if let Asked::Message(Message::Answer { id }) = asked
            && !place.session.questions.answered(&route.name, id)
        {
            return Err(Denial::advising(Reason::McpMethodNotAllowed, "answer what the server asked, once"));
        }
        known.allowed = Some(record::allowed(gateway, known).await?);
        known.timing.policy = began.elapsed();
        let pending = pending.insert(Pending::new(gateway, known));
        self.act(place, known, pending, Passed { mcp_session, permit, to, way, searched }).await
    }

    /// What happens after the record: the secret, the request, the answer.
    async fn act(
        self,
        place: Place,
        known: &mut Known,
        pending: &mut Pending,
        passed: Passed,
    ) -> Result<Response<Body>, Denial> {
        let Passed { mcp_session, permit, to, way, searched } = passed;
        let (gateway, headers) = (self.gateway, &self.parts.headers);
        let claims = known.claims.clone().expect("put there before");
        let injected =
            credential::granted(gateway, &place.session, self.rules, self.destination, &claims, &permit, headers)
                .await?;
        // The secret may be known only now.
        let keyring = place.session.keyring();
        if !Arc::ptr_eq(&keyring, &searched) {
            tripwires::secrets(&keyring, headers, &self.body)?;
        }
        let request = forward::request(self.parts, self.destination, &to, mcp_session, injected, self.body)?;
        let began = Instant::now();
        let sent = forward::send(gateway, &place.session, &to, way, request, known).await;
        known.timing.upstream = began.elapsed();
        let (mut place, deadline) = (Some(place), self.deadline);
        let mut bringing = Bringing { gateway, place: &mut place, known, pending, permit: &to, deadline };
        bringing.answer(sent?).await
    }
}
