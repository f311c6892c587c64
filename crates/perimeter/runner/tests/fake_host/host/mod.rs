//! The strict host: it plays one session by a script and notes every request that the official worker would not send.

mod rules;
pub(crate) mod setting;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll as Ready};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::BodyExt;
use hyper::body::{Body, Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};

pub(crate) const ENVIRONMENT: &str = "env_011CZkZAtmR3yMPDzynEDxu7";
pub(crate) const SESSION: &str = "sesn_011CZkZAtmR3yMPDzynEDxu8";
pub(crate) const KEY: &str = "sk-ant-oat01-environment";
pub(crate) const WORK: &str = "work_011CZkZAtmR3yMPDzynEDxu9";

/// How a poll is answered.
#[derive(Clone, Copy)]
pub(crate) enum Poll {
    Item,
    Healthcheck,
    Null,
    NoContent,
    Empty,
    Trouble,
    Forbidden,
    /// To another address, in the hope that the credential follows.
    Redirect(u16),
    /// An item with this as its secret.
    Secret(&'static str),
}

/// What the host plays.
pub(crate) struct Script {
    pub(crate) polls: Vec<Poll>,
    pub(crate) session: &'static str,
    pub(crate) status: &'static str,
    pub(crate) session_token: Option<&'static str>,
    pub(crate) history: Vec<Value>,
    /// What follows each result that was taken.
    pub(crate) after_result: Vec<Vec<Value>>,
    pub(crate) page_size: usize,
    pub(crate) ttl_seconds: u64,
    /// The last heartbeat of a worker that was killed.
    pub(crate) earlier_heartbeat: Option<&'static str>,
    /// So many acknowledgements are taken, and their connections end without an answer.
    pub(crate) unanswered_acks: usize,
    /// So many are taken after those, and somebody between us and the host answers that there is trouble.
    pub(crate) failing_acks: usize,
    pub(crate) conflict_after: Option<usize>,
    pub(crate) stopping_after: Option<usize>,
    pub(crate) failing_stops: usize,
    pub(crate) failing_posts: usize,
    pub(crate) refused_posts: usize,
    pub(crate) failing_lists: usize,
    pub(crate) garbled_lists: usize,
    /// The agent's tools as each reading of the session shows them; the last one stays.
    pub(crate) definitions: Vec<Value>,
    /// What each stream begins with.
    pub(crate) stream_begins: &'static [u8],
    /// So many streams end as soon as they were opened.
    pub(crate) streams_end_after_history: usize,
    pub(crate) ours: bool,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            polls: vec![Poll::Item],
            session: SESSION,
            status: "running",
            session_token: None,
            history: Vec::new(),
            after_result: Vec::new(),
            page_size: 1_000,
            ttl_seconds: 300,
            earlier_heartbeat: None,
            unanswered_acks: 0,
            failing_acks: 0,
            conflict_after: None,
            stopping_after: None,
            failing_stops: 0,
            failing_posts: 0,
            refused_posts: 0,
            failing_lists: 0,
            garbled_lists: 0,
            definitions: Vec::new(),
            stream_begins: b": hello\n\nevent: ping\ndata: {}\n\n",
            streams_end_after_history: 0,
            ours: false,
        }
    }
}

/// What the host saw.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    pub(crate) polls: usize,
    pub(crate) acknowledged: usize,
    /// How long after the item was handed out it was last acknowledged.
    pub(crate) acknowledged_after: Duration,
    pub(crate) heartbeats: usize,
    pub(crate) conflicts: usize,
    pub(crate) sessions_read: usize,
    pub(crate) streams: usize,
    pub(crate) results: Vec<Value>,
    pub(crate) stops: Vec<Value>,
    pub(crate) violations: Vec<String>,
}

struct State {
    script: Script,
    polls: VecDeque<Poll>,
    after_result: VecDeque<Vec<Value>>,
    events: Vec<Value>,
    streams: Vec<mpsc::UnboundedSender<Bytes>>,
    last_heartbeat: Option<String>,
    handed_out: Instant,
    seen: Seen,
}

/// A running host. It ends with the test's runtime.
pub(crate) struct Host {
    port: u16,
    state: Arc<Mutex<State>>,
    changed: watch::Receiver<u64>,
}

impl Host {
    pub(crate) async fn start(script: Script) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let state = Arc::new(Mutex::new(State {
            polls: script.polls.iter().copied().collect(),
            after_result: script.after_result.iter().cloned().collect(),
            events: script.history.clone(),
            streams: Vec::new(),
            last_heartbeat: script.earlier_heartbeat.map(str::to_owned),
            handed_out: Instant::now(),
            seen: Seen::default(),
            script,
        }));
        let (tell, changed) = watch::channel(0);
        tokio::spawn(accept(listener, Arc::clone(&state), Arc::new(tell)));
        Self { port, state, changed }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(crate) fn seen(&self) -> Seen {
        lock(&self.state).seen.clone()
    }

    pub(crate) async fn wait_for(&self, condition: impl Fn(&Seen) -> bool) {
        let mut changed = self.changed.clone();
        let waiting = async {
            while !condition(&self.seen()) {
                // The double's own progress changes nothing here: look again after a moment at the latest.
                let _ = tokio::time::timeout(Duration::from_millis(50), changed.changed()).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), waiting).await;
        assert!(waited.is_ok(), "it did not come to that: {:#?}", self.seen());
    }

    pub(crate) fn assert_no_violation(&self) {
        let seen = self.seen();
        assert!(
            seen.violations.is_empty(),
            "requests that the official worker does not make:\n{}",
            seen.violations.join("\n")
        );
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().expect("not poisoned")
}

async fn accept(listener: tokio::net::TcpListener, state: Arc<Mutex<State>>, tell: Arc<watch::Sender<u64>>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (state, tell) = (Arc::clone(&state), Arc::clone(&tell));
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&state), Arc::clone(&tell)));
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    state: Arc<Mutex<State>>,
    tell: Arc<watch::Sender<u64>>,
) -> io::Result<Response<Reply>> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let response = {
        let mut state = lock(&state);
        let (session, token) = (state.script.session, state.script.session_token);
        let violations = rules::check(&parts, &body, session, token);
        state.seen.violations.extend(violations);
        let response = state.answer(&parts.method, &parts.uri, &body);
        (!state.ends_unanswered(&parts.method, &parts.uri)).then_some(response)
    };
    tell.send_modify(|count| *count += 1);
    response.ok_or_else(|| io::ErrorKind::ConnectionAborted.into())
}

impl State {
    fn answer(&mut self, method: &Method, uri: &http::Uri, body: &[u8]) -> Response<Reply> {
        let route = rules::route(method, uri.path(), self.script.session);
        match route {
            Some(rules::Route::Poll) => self.poll(),
            Some(rules::Route::Acknowledge) => {
                self.seen.acknowledged += 1;
                self.seen.acknowledged_after = self.handed_out.elapsed();
                if self.script.failing_acks > 0 {
                    self.script.failing_acks -= 1;
                    return self.trouble();
                }
                self.json(200, &item("starting", "session", self.script.session, None))
            }
            Some(rules::Route::Heartbeat) => self.heartbeat(uri.query().unwrap_or_default()),
            Some(rules::Route::Stop) => {
                self.seen.stops.push(serde_json::from_slice(body).unwrap_or_default());
                if self.script.failing_stops > 0 {
                    self.script.failing_stops -= 1;
                    return self.trouble();
                }
                self.json(200, &item("stopped", "session", self.script.session, None))
            }
            Some(rules::Route::Session) => {
                self.seen.sessions_read += 1;
                let mut session = session();
                let reading = self.seen.sessions_read.min(self.script.definitions.len());
                if let Some(tools) = reading.checked_sub(1).and_then(|at| self.script.definitions.get(at)) {
                    session["agent"]["tools"] = tools.clone();
                }
                session["status"] = json!(self.script.status);
                self.json(200, &session)
            }
            Some(rules::Route::List) => self.list(uri.query().unwrap_or_default()),
            Some(rules::Route::Stream) => self.stream(),
            Some(rules::Route::Post) => self.post(body),
            None => self
                .json(404, &json!({"type": "error", "error": {"type": "not_found_error", "message": "no such route"}})),
        }
    }

    fn ends_unanswered(&mut self, method: &Method, uri: &http::Uri) -> bool {
        let route = rules::route(method, uri.path(), self.script.session);
        let ends = route == Some(rules::Route::Acknowledge) && self.script.unanswered_acks > 0;
        self.script.unanswered_acks -= usize::from(ends);
        ends
    }

    fn poll(&mut self) -> Response<Reply> {
        self.seen.polls += 1;
        if self.seen.polls <= self.script.polls.len() {
            self.handed_out = Instant::now();
        }
        let secret = self.script.session_token.map(rules::secret);
        match self.polls.pop_front().unwrap_or(Poll::Null) {
            Poll::Item => self.json(200, &item("queued", "session", self.script.session, secret)),
            Poll::Healthcheck => self.json(200, &item("queued", "healthcheck", "", None)),
            Poll::Null => self.json(200, &Value::Null),
            Poll::NoContent => self.respond(204, Bytes::new()),
            Poll::Empty => self.respond(200, Bytes::new()),
            Poll::Trouble => {
                self.json(503, &json!({"type": "error", "error": {"type": "overloaded_error", "message": "later"}}))
            }
            Poll::Redirect(port) => Response::builder()
                .status(307)
                .header("location", format!("http://127.0.0.1:{port}/v1/environments/{ENVIRONMENT}/work/poll"))
                .body(Reply::Whole(None))
                .expect("a response"),
            Poll::Secret(secret) => {
                self.json(200, &item("queued", "session", self.script.session, Some(secret.to_owned())))
            }
            Poll::Forbidden => self
                .json(403, &json!({"type": "error", "error": {"type": "permission_error", "message": "not this key"}})),
        }
    }

    fn heartbeat(&mut self, query: &str) -> Response<Reply> {
        let expected = self.last_heartbeat.clone().unwrap_or_else(|| "NO_HEARTBEAT".to_owned());
        if rules::parameter(query, "expected_last_heartbeat") != Some(expected) {
            self.seen.violations.push(format!("a heartbeat does not echo the last one: {query}"));
        }
        if self.script.conflict_after.is_some_and(|after| self.seen.heartbeats >= after) {
            self.seen.conflicts += 1;
            let state = json!({"last_heartbeat": "x", "lease_extended": false, "state": "active", "ttl_seconds": 300});
            let details = json!({"error_code": "heartbeat_precondition_failed", "current_state": state});
            return self.json(
                412,
                &json!({"type": "error", "error": {"type": "conflict", "message": "lost", "details": details}}),
            );
        }
        self.seen.heartbeats += 1;
        // An odd spelling on purpose: it must come back byte for byte.
        let last = format!("2026-01-01T00:00:{:02}.5+00:00 #{}", self.seen.heartbeats % 60, self.seen.heartbeats);
        self.last_heartbeat = Some(last.clone());
        let stopping = self.script.stopping_after.is_some_and(|after| self.seen.heartbeats > after);
        let state = if stopping { "stopping" } else { "active" };
        self.json(200, &json!({"type": "work_heartbeat", "last_heartbeat": last, "lease_extended": true, "state": state, "ttl_seconds": self.script.ttl_seconds}))
    }

    fn list(&mut self, query: &str) -> Response<Reply> {
        if self.seen.streams == 0 {
            self.seen.violations.push("the history is read before the stream is open".to_owned());
        }
        if self.script.failing_lists > 0 {
            self.script.failing_lists -= 1;
            return self.trouble();
        }
        if self.script.garbled_lists > 0 {
            self.script.garbled_lists -= 1;
            return self.respond(200, Bytes::from_static(b"{\"data\": 7}"));
        }
        let start: usize = rules::parameter(query, "page").map_or(0, |page| page.parse().unwrap_or(0));
        let end = (start + self.script.page_size).min(self.events.len());
        let next = (end < self.events.len()).then(|| end.to_string());
        let page = json!({"data": &self.events[start..end], "next_page": next});
        self.json(200, &page)
    }

    fn stream(&mut self) -> Response<Reply> {
        self.seen.streams += 1;
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = sender.send(Bytes::from_static(self.script.stream_begins));
        if self.script.streams_end_after_history > 0 {
            self.script.streams_end_after_history -= 1;
        } else {
            self.streams.push(sender);
        }
        Response::builder()
            .header("content-type", "text/event-stream")
            .body(Reply::Stream(receiver))
            .expect("a response")
    }

    fn post(&mut self, body: &[u8]) -> Response<Reply> {
        if self.script.failing_posts > 0 {
            self.script.failing_posts -= 1;
            return self.trouble();
        }
        if self.script.refused_posts > 0 {
            self.script.refused_posts -= 1;
            return self.json(
                400,
                &json!({"type": "error", "error": {"type": "invalid_request_error", "message": "answered already"}}),
            );
        }
        let posted: Value = serde_json::from_slice(body).unwrap_or_default();
        let mut result = posted["events"][0].clone();
        if self.seen.results.iter().any(|earlier| earlier["tool_use_id"] == result["tool_use_id"]) {
            self.seen.violations.push(format!("a second result for {}", result["tool_use_id"]));
        }
        self.seen.results.push(result.clone());
        result["id"] = json!(format!("sevt_result_{}", self.seen.results.len()));
        let stored = result.clone();
        let next = self.after_result.pop_front().unwrap_or_default();
        for event in std::iter::once(result).chain(next) {
            self.emit(event);
        }
        self.json(200, &json!({"data": [stored]}))
    }

    fn emit(&mut self, event: Value) {
        let kind = event["type"].as_str().unwrap_or_default();
        let frame = Bytes::from(format!("event: {kind}\ndata: {event}\n\n"));
        self.streams.retain(|stream| stream.send(frame.clone()).is_ok());
        self.events.push(event);
    }

    fn trouble(&self) -> Response<Reply> {
        self.json(503, &json!({"type": "error", "error": {"type": "api_error", "message": "later"}}))
    }

    fn json(&self, status: u16, value: &Value) -> Response<Reply> {
        self.respond(status, Bytes::from(value.to_string()))
    }

    fn respond(&self, status: u16, body: Bytes) -> Response<Reply> {
        let mut builder =
            Response::builder().status(status).header("content-type", "application/json").header("request-id", "req_1");
        if self.script.ours {
            builder = builder.header("postern-version", "1");
        }
        builder.body(Reply::Whole(Some(body))).expect("a response")
    }
}

fn item(state: &str, kind: &str, session: &str, secret: Option<String>) -> Value {
    json!({"id": WORK, "type": "work", "environment_id": ENVIRONMENT, "data": {"type": kind, "id": session}, "state": state, "metadata": {},
           "secret": secret, "created_at": "2026-01-01T00:00:00Z", "acknowledged_at": null, "started_at": null,
           "latest_heartbeat_at": null, "stop_requested_at": null, "stopped_at": null})
}

/// The session as the host shows it.
pub(crate) fn session() -> Value {
    json!({"id": SESSION, "type": "session", "environment_id": "env_of_somebody_else", "status": "running", "title": null, "metadata": {},
           "agent": {"id": "agent_1", "type": "agent", "version": 3, "name": "a", "description": null, "system": "be good",
                     "model": {"id": "m"}, "mcp_servers": [], "skills": [], "tools": [{"type": "agent_toolset_20260401"}], "multiagent": null},
           "resources": [], "vault_ids": [], "budget": null, "outcome_evaluations": [], "stats": {}, "usage": {},
           "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z", "archived_at": null})
}

/// A body that is there at once, or comes event by event.
pub(crate) enum Reply {
    Whole(Option<Bytes>),
    Stream(mpsc::UnboundedReceiver<Bytes>),
}

impl Body for Reply {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Ready<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            Self::Whole(bytes) => {
                Ready::Ready(bytes.take().filter(|bytes| !bytes.is_empty()).map(|bytes| Ok(Frame::data(bytes))))
            }
            Self::Stream(receiver) => {
                receiver.poll_recv(context).map(|bytes| bytes.map(|bytes| Ok(Frame::data(bytes))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        matches!(self, Self::Whole(None))
    }
}
