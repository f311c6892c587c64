//! The server as a worker talks to it (contract parts 1.3, 1.5 and 4): requests exactly as the official worker sends them, answers read leniently.
//! One attempt each; who calls decides about retries. Never logs a credential or a body.

mod given;

pub(crate) use given::Fetched;

use std::io;
use std::time::Duration;

use base64::Engine as _;
use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, RETRY_AFTER, USER_AGENT};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use postern_model::resource::RepositoryFault;
use postern_net::sse::{Decoder, SseError};
use postern_net::{Body, ClientError, HttpClient, backoff};
use postern_secret::Secret;
use postern_secret::seal::{LONGEST_VARIABLES, MOST_VARIABLES, SealedVariable};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::lease::Beat;

const API_VERSION: &str = "2026-10-21";
const BETA: &str = "managed-agents-2026-04-01";
const BLOCK_MS: u32 = 999;
const PATIENCE: Duration = Duration::from_secs(60);
const ANSWER_LIMIT: usize = 8 * 1024 * 1024;
/// A thousand events, of which some carry media.
const PAGE_LIMIT: usize = 256 * 1024 * 1024;
/// More pages than a store can fill.
const MEMORY_PAGES: usize = 200;
/// Our server sends it on every answer; the hosted platform does not.
const OURS: &str = "postern-version";

/// A bearer credential of the server: an environment key or a session token.
#[derive(Debug)]
pub struct Bearer(Secret<String>);

impl Bearer {
    /// Takes a credential.
    pub fn new(credential: String) -> Self {
        Self(Secret::new(credential))
    }

    /// The session token in a work item's secret, if there is one (contract section 4.1). Its other members are none of our business.
    pub(crate) fn in_secret(secret: &str) -> Option<Self> {
        #[derive(Deserialize)]
        struct Inner {
            sessions_token: String,
        }
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let bytes = engine.decode(secret.trim_end_matches('=')).ok()?;
        let inner: Inner = serde_json::from_slice(&bytes).ok()?;
        (!inner.sessions_token.is_empty()).then(|| Self::new(inner.sessions_token))
    }

    /// The variables of the session's vaults in a work item's secret, unopened: ours to carry to custody. What does not read as one is passed over.
    pub(crate) fn variables_in(secret: &str) -> Vec<SealedVariable> {
        #[derive(Deserialize)]
        struct Inner {
            #[serde(default)]
            variables: Vec<String>,
        }
        let engine = base64::engine::general_purpose::URL_SAFE_NO_PAD;
        let inner =
            engine.decode(secret.trim_end_matches('=')).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
        sealed(inner.map(|inner: Inner| inner.variables).unwrap_or_default())
    }

    #[expect(clippy::disallowed_methods, reason = "the server needs the bearer on the wire")]
    pub(crate) fn header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::try_from(format!("Bearer {}", self.0.expose())).ok()?;
        value.set_sensitive(true);
        Some(value)
    }
}

/// Sealed values as they came, as texts: bounded, in their order.
pub(crate) fn sealed(texts: Vec<String>) -> Vec<SealedVariable> {
    let mut room = LONGEST_VARIABLES;
    let fits = |text: &String| {
        room = room.saturating_sub(text.len());
        room > 0
    };
    let read = |text: String| {
        SealedVariable::decode(&text).inspect_err(|error| tracing::warn!(%error, "a variable of a vault")).ok()
    };
    texts.into_iter().take(MOST_VARIABLES).take_while(fits).filter_map(read).collect()
}

/// Why a request has no answer to use.
#[derive(Debug, thiserror::Error)]
pub enum RemoteError {
    /// The server refused.
    #[error("{doing}: the server answered {status}: {message}")]
    Refused {
        /// What was asked.
        doing: &'static str,
        /// The status code.
        status: u16,
        /// The server's words, bounded.
        message: String,
        /// When to come again, where it says so.
        retry_after: Option<Duration>,
    },
    /// There is no answer.
    #[error("{doing}")]
    Unreachable {
        /// What was asked.
        doing: &'static str,
        /// Why.
        source: ClientError,
    },
    /// The answer is not what such a request is answered with.
    #[error("{doing}: the answer does not read as expected")]
    Garbled {
        /// What was asked.
        doing: &'static str,
    },
    /// Our own disk does not take it.
    #[error("{doing}: keep it on the worker's disk")]
    Disk {
        /// What was asked.
        doing: &'static str,
        /// Why.
        source: io::Error,
    },
    /// The credential cannot stand in a header.
    #[error("the credential has characters that no key has")]
    Credential,
    /// The event stream is broken.
    #[error("read the event stream")]
    Stream(#[from] SseError),
}

impl RemoteError {
    /// Whether no retry mends it: a 4xx but for timeout, conflict and rate limit.
    pub fn is_fatal(&self) -> bool {
        match self {
            Self::Refused { status, .. } => (400..500).contains(status) && !matches!(status, 408 | 409 | 429),
            Self::Credential | Self::Disk { .. } => true,
            Self::Unreachable { .. } | Self::Garbled { .. } | Self::Stream(_) => false,
        }
    }

    /// Whether it is the asker that is refused: the next item has another credential.
    pub(crate) fn is_of_the_credential(&self) -> bool {
        matches!(self, Self::Credential) || matches!(self.status(), Some(401 | 403))
    }

    /// Whether the server answered, with something that is no answer.
    pub(crate) fn is_garbled(&self) -> bool {
        matches!(self, Self::Garbled { .. } | Self::Stream(_))
    }

    /// Whether it may have been done all the same: nobody answered, or somebody between, or the server failed on the way.
    pub(crate) fn may_be_done(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, .. } => *status >= 500,
            Self::Garbled { .. } | Self::Disk { .. } | Self::Credential | Self::Stream(_) => false,
        }
    }

    /// When the server wants to be asked again.
    pub(crate) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Refused { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Refused { status, .. } => Some(*status),
            _ => None,
        }
    }
}

/// One claimed work item, as far as a worker looks at it.
#[derive(Debug, Deserialize)]
pub(crate) struct WorkItem {
    pub(crate) id: String,
    #[serde(default)]
    pub(crate) data: WorkData,
    #[serde(default)]
    pub(crate) secret: Option<String>,
}

/// What a work item is about.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct WorkData {
    #[serde(rename = "type", default)]
    pub(crate) kind: String,
    #[serde(default)]
    pub(crate) id: String,
}

/// A poll's answer.
#[derive(Debug)]
pub(crate) struct Polled {
    pub(crate) item: Option<WorkItem>,
    /// Whether the server is a Postern, which understands a stop with an error and takes polls without a pause.
    pub(crate) ours: bool,
}

/// A page of a session's events.
#[derive(Debug, Deserialize)]
pub(crate) struct Page {
    pub(crate) data: Vec<Value>,
    #[serde(default)]
    pub(crate) next_page: Option<String>,
}

/// The server, for one environment. Clones share connections.
#[derive(Clone)]
pub struct Remote {
    http: HttpClient,
    environment: String,
    worker: String,
}

impl Remote {
    /// Talks to `http` about `environment` as the worker of this name.
    pub fn new(http: HttpClient, environment: impl Into<String>, worker: impl Into<String>) -> Self {
        Self { http, environment: environment.into(), worker: worker.into() }
    }

    pub(crate) fn environment(&self) -> &str {
        &self.environment
    }

    pub(crate) async fn poll(&self, key: &Bearer) -> Result<Polled, RemoteError> {
        let doing = "poll for work";
        let mut request =
            request(Method::GET, &self.work(&["poll"], &[("block_ms", &BLOCK_MS.to_string())]), key, None)?;
        let worker = HeaderValue::try_from(&self.worker).unwrap_or_else(|_| HeaderValue::from_static("postern"));
        request.headers_mut().insert("anthropic-worker-id", worker);
        let answer = self.send(doing, request, PATIENCE).await?;
        let ours = answer.headers().contains_key(OURS);
        // `null`, no content and an empty body all mean that there is nothing to do.
        let body = read(doing, answer, ANSWER_LIMIT).await?;
        if body.trim_ascii().is_empty() {
            return Ok(Polled { item: None, ours });
        }
        let item = serde_json::from_slice(&body).map_err(|_| RemoteError::Garbled { doing })?;
        Ok(Polled { item, ours })
    }

    pub(crate) async fn acknowledge(&self, key: &Bearer, work: &str) -> Result<(), RemoteError> {
        let request = request(Method::POST, &self.work(&[work, "ack"], &[]), key, None)?;
        self.send("acknowledge the work", request, PATIENCE).await.map(done)
    }

    pub(crate) async fn heartbeat(&self, key: &Bearer, work: &str, expected: &str, patience: Duration) -> Beat {
        let path = self.work(&[work, "heartbeat"], &[("expected_last_heartbeat", expected)]);
        match self.beat(key, &path, patience).await {
            Ok(beat) => beat,
            Err(error) if error.status() == Some(412) => Beat::Conflict,
            Err(error) if error.is_fatal() => {
                tracing::warn!(work, %error, "the heartbeat was rejected");
                Beat::Rejected
            }
            Err(error) => {
                tracing::warn!(work, %error, "a heartbeat failed");
                Beat::Failed
            }
        }
    }

    async fn beat(&self, key: &Bearer, path: &str, patience: Duration) -> Result<Beat, RemoteError> {
        #[derive(Deserialize)]
        struct Answer {
            last_heartbeat: String,
            #[serde(default)]
            lease_extended: bool,
            #[serde(default)]
            state: String,
            #[serde(default)]
            ttl_seconds: u64,
        }
        let request = request(Method::POST, path, key, None)?;
        let answer: Answer = self.read_json("send a heartbeat", request, patience, ANSWER_LIMIT).await?;
        Ok(Beat::Answer {
            last_heartbeat: answer.last_heartbeat,
            extended: answer.lease_extended,
            stopping: matches!(answer.state.as_str(), "stopping" | "stopped"),
            ttl_seconds: answer.ttl_seconds,
        })
    }

    /// Stops an item for good; one that is stopped already is as wanted.
    pub(crate) async fn stop(&self, key: &Bearer, work: &str, error: Option<(&str, &str)>) -> Result<(), RemoteError> {
        let body = match error {
            None => json!({"force": true}),
            Some((code, message)) => json!({"force": true, "error": {"code": code, "message": message}}),
        };
        let request = request(Method::POST, &self.work(&[work, "stop"], &[]), key, Some(&body))?;
        match self.send("stop the work", request, PATIENCE).await {
            Err(error) if error.status() == Some(409) => Ok(()),
            other => other.map(done),
        }
    }

    /// Says of a repository that the session goes on without it.
    pub(crate) async fn repository_failed(
        &self,
        key: &Bearer,
        session: &str,
        resource: &str,
        fault: RepositoryFault,
        message: &str,
    ) -> Result<(), RemoteError> {
        let body = json!({"type": fault, "message": message});
        let path = path(&["v1", "sessions", session, "resources", resource, "failure"], &[]);
        let request = request(Method::POST, &path, key, Some(&body))?;
        self.send("say that a repository is not there", request, PATIENCE).await.map(drop)
    }

    pub(crate) async fn session(&self, key: &Bearer, session: &str) -> Result<Value, RemoteError> {
        let request = request(Method::GET, &path(&["v1", "sessions", session], &[]), key, None)?;
        self.read_json("read the session", request, PATIENCE, ANSWER_LIMIT).await
    }

    pub(crate) async fn events(&self, key: &Bearer, session: &str, page: Option<&str>) -> Result<Page, RemoteError> {
        let mut query = vec![("limit", "1000")];
        query.extend(page.map(|page| ("page", page)));
        let request = request(Method::GET, &path(&["v1", "sessions", session, "events"], &query), key, None)?;
        self.read_json("list the session's events", request, PATIENCE, PAGE_LIMIT).await
    }

    pub(crate) async fn stream(&self, key: &Bearer, session: &str) -> Result<EventStream, RemoteError> {
        let request = request(Method::GET, &path(&["v1", "sessions", session, "events", "stream"], &[]), key, None)?;
        let answer = self.send("open the event stream", request, PATIENCE).await?;
        Ok(EventStream { body: answer.into_body(), decoder: Decoder::default(), ready: Vec::new().into_iter() })
    }

    /// Posts one event.
    pub(crate) async fn post(&self, key: &Bearer, session: &str, event: &Value) -> Result<(), RemoteError> {
        let body = json!({"events": [event]});
        let request = request(Method::POST, &path(&["v1", "sessions", session, "events"], &[]), key, Some(&body))?;
        postern_danger::point!("post.before");
        let posted = self.send("post a result", request, PATIENCE).await.map(done);
        postern_danger::point!("post.after");
        posted
    }

    /// All memories of a store, with their texts.
    pub(crate) async fn memories(&self, key: &Bearer, store: &str) -> Result<Vec<Memory>, RemoteError> {
        #[derive(Deserialize)]
        struct Page {
            data: Vec<Value>,
            next_page: Option<String>,
        }
        let (doing, mut memories, mut page) = ("list a store's memories", Vec::new(), None::<String>);
        for _ in 0..MEMORY_PAGES {
            let mut query = vec![("view", "full"), ("limit", "20")];
            query.extend(page.as_deref().map(|page| ("page", page)));
            let request = request(Method::GET, &path(&["v1", "memory_stores", store, "memories"], &query), key, None)?;
            let Page { data, next_page } = self.read_json(doing, request, PATIENCE, PAGE_LIMIT).await?;
            for item in data.into_iter().filter(|item| item["type"] == "memory") {
                memories.push(serde_json::from_value(item).map_err(|_| RemoteError::Garbled { doing })?);
            }
            match next_page {
                Some(next) if !next.is_empty() => page = Some(next),
                _ => return Ok(memories),
            }
        }
        Err(RemoteError::Garbled { doing })
    }

    /// Creates a memory, or changes the one of this id where its text is still the one of this digest.
    pub(crate) async fn write_memory(
        &self,
        key: &Bearer,
        store: &str,
        of: Option<(&str, &str)>,
        at: &str,
        content: &str,
    ) -> Result<Memory, RemoteError> {
        let (path, body) = match of {
            None => (path(&["v1", "memory_stores", store, "memories"], &[]), json!({"path": at, "content": content})),
            Some((memory, sha256)) => (
                path(&["v1", "memory_stores", store, "memories", memory], &[]),
                json!({"content": content, "precondition": {"type": "content_sha256", "content_sha256": sha256}}),
            ),
        };
        let request = request(Method::POST, &path, key, Some(&body))?;
        self.read_json("write a memory", request, PATIENCE, ANSWER_LIMIT).await
    }

    /// Removes a memory where its text is still the one of this digest.
    pub(crate) async fn forget_memory(
        &self,
        key: &Bearer,
        store: &str,
        memory: &str,
        sha256: &str,
    ) -> Result<(), RemoteError> {
        let path = path(&["v1", "memory_stores", store, "memories", memory], &[("expected_content_sha256", sha256)]);
        let request = request(Method::DELETE, &path, key, None)?;
        self.send("remove a memory", request, PATIENCE).await.map(done)
    }

    /// Sends a file that the session put out.
    pub(crate) async fn put_out(
        &self,
        key: &Bearer,
        session: &str,
        name: &str,
        bytes: Vec<u8>,
    ) -> Result<(), RemoteError> {
        let path = path(&["v1", "sessions", session, "outputs"], &[("path", name)]);
        let mut request = request(Method::POST, &path, key, None)?;
        request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        *request.body_mut() = Full::new(Bytes::from(bytes));
        self.send("send an output", request, PATIENCE).await.map(done)
    }

    fn work(&self, segments: &[&str], query: &[(&str, &str)]) -> String {
        let whole: Vec<&str> =
            ["v1", "environments", &self.environment, "work"].iter().chain(segments).copied().collect();
        path(&whole, query)
    }

    async fn read_json<T: for<'de> Deserialize<'de>>(
        &self,
        doing: &'static str,
        request: Request<Full<Bytes>>,
        patience: Duration,
        limit: usize,
    ) -> Result<T, RemoteError> {
        let answer = self.send(doing, request, patience).await?;
        let body = read(doing, answer, limit).await?;
        serde_json::from_slice(&body).map_err(|_| RemoteError::Garbled { doing })
    }

    async fn send(
        &self,
        doing: &'static str,
        request: Request<Full<Bytes>>,
        patience: Duration,
    ) -> Result<Response<Body>, RemoteError> {
        let answer =
            self.http.request(request, patience).await.map_err(|source| RemoteError::Unreachable { doing, source })?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let header = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = header.and_then(backoff::retry_after);
        let body = answer.into_body().bytes(ANSWER_LIMIT).await.unwrap_or_default();
        Err(RemoteError::Refused { doing, status: status.as_u16(), message: words(&body, status), retry_after })
    }
}

/// An answer that says all with its status: its connection is used again.
fn done(answer: Response<Body>) {
    answer.into_body().finish();
}

async fn read(doing: &'static str, answer: Response<Body>, limit: usize) -> Result<Bytes, RemoteError> {
    answer.into_body().bytes(limit).await.map_err(|source| RemoteError::Unreachable { doing, source })
}

/// The error envelope's sentence, bounded and without control characters: it goes to the log.
fn words(body: &[u8], status: StatusCode) -> String {
    let envelope: Option<Value> = serde_json::from_slice(body).ok();
    let message = envelope.as_ref().and_then(|envelope| envelope["error"]["message"].as_str());
    let text = message.or(status.canonical_reason()).unwrap_or("no reason given");
    text.chars().filter(|character| !character.is_control()).take(500).collect()
}

fn request(
    method: Method,
    path: &str,
    key: &Bearer,
    body: Option<&Value>,
) -> Result<Request<Full<Bytes>>, RemoteError> {
    let authorization = key.header().ok_or(RemoteError::Credential)?;
    let with_type = method != Method::GET;
    let bytes = body.map_or_else(Bytes::new, |body| Bytes::from(body.to_string()));
    let mut builder = Request::builder()
        .method(method)
        .uri(path)
        .header(ACCEPT, "application/json")
        .header(AUTHORIZATION, authorization)
        // By which our server knows who brings the variables of vaults.
        .header(USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
        .header("anthropic-version", API_VERSION)
        .header("anthropic-beta", BETA);
    if with_type {
        builder = builder.header(CONTENT_TYPE, "application/json");
    }
    builder.body(Full::new(bytes)).map_err(|_| RemoteError::Credential)
}

/// A path of these segments, each percent-encoded, so that an id from the server cannot change the route.
fn path(segments: &[&str], query: &[(&str, &str)]) -> String {
    let mut out: String = segments.iter().map(|segment| format!("/{}", encoded(segment))).collect();
    for (position, (name, value)) in query.iter().enumerate() {
        out.push(if position == 0 { '?' } else { '&' });
        out.push_str(&format!("{}={}", encoded(name), encoded(value)));
    }
    out
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'~' => char::from(byte).to_string(),
            // A lone dot segment would be resolved on the way.
            b'.' if !matches!(text, "." | "..") => ".".to_owned(),
            other => format!("%{other:02X}"),
        })
        .collect()
}

/// A memory as the server shows it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Memory {
    pub(crate) id: String,
    pub(crate) path: String,
    pub(crate) content_sha256: String,
    #[serde(default)]
    pub(crate) content: Option<String>,
}

/// A session's live events.
pub(crate) struct EventStream {
    body: Body,
    decoder: Decoder,
    ready: std::vec::IntoIter<postern_net::sse::Event>,
}

impl EventStream {
    /// The next event; `None` when the server ended the stream. Cancel-safe.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, RemoteError> {
        let doing = "read the event stream";
        loop {
            for event in self.ready.by_ref() {
                if matches!(event.event.as_str(), "message" | "ping") {
                    continue;
                }
                if event.event == "error" {
                    return Err(RemoteError::Garbled { doing });
                }
                return serde_json::from_str(&event.data).map(Some).map_err(|_| RemoteError::Garbled { doing });
            }
            match self.body.chunk().await.map_err(|source| RemoteError::Unreachable { doing, source })? {
                Some(chunk) => self.ready = self.decoder.push(&chunk)?.into_iter(),
                None => return Ok(None),
            }
        }
    }
}

#[cfg(test)]
mod tests;
