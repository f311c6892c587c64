//! MCP's streamable HTTP as rmcp drives it, over our own client: each message is one request with an identity of its own,
//! sent once. It reports no failure in a form that rmcp would repeat a request for, and resumes no stream.

use std::collections::HashMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use futures_util::stream::BoxStream;
use http::header::{ACCEPT, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri};
use http_body_util::Full;
use postern_net::{Body, HttpClient};
use postern_tunnel::Lane;
use postern_tunnel::identity::{self, Claims, Purpose, Signer};
use rmcp::model::{ClientJsonRpcMessage, GetExtensions, RequestId, ServerJsonRpcMessage};
use rmcp::transport::streamable_http_client::{
    SseError, StreamableHttpClient, StreamableHttpError, StreamableHttpPostResponse,
};
use sse_stream::Sse;
use tokio::sync::OwnedSemaphorePermit;

use super::failure::{of_client, of_status};
use super::reach::{Reach, Via};
use super::record::{Mark, Record};
use super::stream::Events;
use super::target::Target;
use super::{CallerFacts, McpFailure, VaultCredential};

/// The header that carries a vault's sealed credential to the gateway, inside the inner TLS only.
pub const CREDENTIAL_HEADER: &str = "postern-credential";
/// The header that names the public server whose requests a gateway's route carries.
pub const ROUTE_URL_HEADER: &str = "postern-route-url";
const SESSION_HEADER: &str = "mcp-session-id";
/// How long the id of an MCP session may be, in bytes.
const MAX_SESSION_BYTES: usize = 1024;
/// How often a connection that closed before it took the request is replaced.
const REPLACEMENTS: usize = 4;
/// How long ending a session may take.
const DELETE_PATIENCE: Duration = Duration::from_secs(5);

/// The HTTP side of one session with a server.
#[derive(Clone)]
pub(super) struct Http {
    inner: Arc<Inner>,
}

/// What every request of the session needs.
pub(super) struct Inner {
    pub(super) reach: Arc<Reach>,
    pub(super) signer: Signer,
    pub(super) via: Via,
    pub(super) target: Target,
    pub(super) facts: CallerFacts,
    pub(super) purpose: Purpose,
    pub(super) credential: Option<VaultCredential>,
    /// The public URL that the gateway's route stands for, where the request is for one.
    pub(super) route_url: Option<String>,
    /// A client with connections of its own, in place of the pool's.
    pub(super) own: Option<HttpClient>,
    /// The record of requests that carry none: `initialize` and notifications.
    pub(super) unmarked: Record,
}

/// A failure in the form that rmcp hands on.
#[derive(Debug, thiserror::Error)]
#[error("{}", .0.code)]
pub(super) struct HttpFailure(McpFailure);

type Failure = StreamableHttpError<HttpFailure>;

/// An answer's head, and the place that its request holds.
struct Answer {
    response: Response<Body>,
    place: Option<OwnedSemaphorePermit>,
}

/// One request as it is sent; signed when it is.
struct Outgoing {
    method: Method,
    body: Bytes,
    headers: HeaderMap,
    lane: Lane,
    tool_use: Option<String>,
}

impl Http {
    pub(super) fn new(inner: Inner) -> Self {
        Self { inner: Arc::new(inner) }
    }

    async fn post(
        &self,
        message: ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        custom: HashMap<HeaderName, HeaderValue>,
    ) -> Result<StreamableHttpPostResponse, Failure> {
        let mark = self.mark(&message);
        match self.posted(&message, session, custom, &mark).await {
            Ok(answer) => Ok(answer),
            Err(failure) => {
                let failure = settled(failure, &mark);
                mark.record.fail(&failure);
                Err(StreamableHttpError::Client(HttpFailure(failure)))
            }
        }
    }

    fn mark(&self, message: &ClientJsonRpcMessage) -> Mark {
        let marked = match message {
            ClientJsonRpcMessage::Request(request) => request.request.extensions().get::<Mark>().cloned(),
            _ => None,
        };
        marked.unwrap_or_else(|| Mark { record: self.inner.unmarked.clone(), tool_use: None })
    }

    async fn posted(
        &self,
        message: &ClientJsonRpcMessage,
        session: Option<Arc<str>>,
        custom: HashMap<HeaderName, HeaderValue>,
        mark: &Mark,
    ) -> Result<StreamableHttpPostResponse, McpFailure> {
        let limits = &self.inner.reach.limits;
        let patience = if mark.tool_use.is_some() { limits.call } else { limits.initialize };
        let until = Instant::now() + patience;
        let body = serde_json::to_vec(message).map_err(|_| McpFailure::bad_url("the message cannot be written"))?;
        if body.len() > limits.request_bytes {
            let message = format!("The call is larger than {} bytes.", limits.request_bytes);
            return Err(McpFailure::new("request_too_large", message, "Send smaller arguments."));
        }
        let had_session = session.is_some();
        let lane = if body.len() > limits.bulk_from { Lane::Bulk } else { Lane::Interactive };
        let mut headers = headers(session.as_deref(), custom)?;
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        let tool_use = mark.tool_use.clone();
        let outgoing = Outgoing { method: Method::POST, body: body.into(), headers, lane, tool_use };
        let exchange = self.exchange(&outgoing, &mark.record, until);
        let answer = tokio::time::timeout_at(until.into(), exchange)
            .await
            .unwrap_or_else(|_| Err(mark.record.late("the request", patience)))?;
        if let Some(timing) = answer.response.headers().get("server-timing").and_then(|value| value.to_str().ok()) {
            mark.record.set_server_timing(timing);
        }
        let expected = match message {
            ClientJsonRpcMessage::Request(request) => Some(&request.id),
            _ => None,
        };
        let read = self.read(answer, expected, had_session, mark, until);
        tokio::time::timeout_at(until.into(), read)
            .await
            .unwrap_or_else(|_| Err(McpFailure::timeout("the request in full", patience)))
    }

    /// Sends a request once. Where a connection turns out to be closed before it took any of it, the next one is
    /// asked, with a fresh identity; from the first byte on there is no second try.
    async fn exchange(&self, outgoing: &Outgoing, record: &Record, until: Instant) -> Result<Answer, McpFailure> {
        let inner = &self.inner;
        let limit = inner.reach.limits.result_bytes;
        for _ in 0..REPLACEMENTS {
            let (client, place) = match &inner.own {
                Some(own) => (own.clone(), None),
                None => {
                    record.set_waiting(true);
                    let reached = inner.reach.client(inner.via, &inner.target, outgoing.lane, until).await;
                    record.set_waiting(false);
                    let (client, place) = reached?;
                    (client, Some(place))
                }
            };
            let connection = client.acquire().await.map_err(|error| of_client(&error, limit))?;
            let request = self.request(outgoing)?;
            record.set_sent(true);
            match connection.send(request).await {
                Ok(response) => return Ok(Answer { response, place }),
                Err(unanswered) if unanswered.unsent.is_some() => record.set_sent(false),
                Err(unanswered) => return Err(of_client(&unanswered.error, limit)),
            }
        }
        Err(McpFailure::broken("it was closed before it took the request, again and again"))
    }

    fn request(&self, outgoing: &Outgoing) -> Result<Request<Full<Bytes>>, McpFailure> {
        let inner = &self.inner;
        let mut request = Request::new(Full::new(outgoing.body.clone()));
        *request.method_mut() = outgoing.method.clone();
        *request.uri_mut() = Uri::from(inner.target.path.clone());
        *request.headers_mut() = outgoing.headers.clone();
        if inner.via == Via::Tunnel {
            let tunnel = inner.reach.tunnel_for(&inner.facts.workspace, &inner.target)?;
            let identity = self.identity(&tunnel.id, outgoing)?;
            request.headers_mut().insert(identity::HEADER, identity);
            if let Some(url) = &inner.route_url {
                request.headers_mut().insert(ROUTE_URL_HEADER, sensitive(url)?);
            }
            if let Some(credential) = &inner.credential {
                request.headers_mut().insert(CREDENTIAL_HEADER, sensitive(&credential.sealed)?);
            }
        }
        Ok(request)
    }

    fn identity(&self, tunnel: &str, outgoing: &Outgoing) -> Result<HeaderValue, McpFailure> {
        let facts = &self.inner.facts;
        let now = identity::seconds(SystemTime::now());
        let claims = Claims {
            iss: identity::ISSUER.to_owned(),
            aud: tunnel.to_owned(),
            sub: facts.session.clone(),
            agent: facts.agent.clone(),
            agent_version: facts.agent_version,
            definition_digest: facts.definition_digest.clone(),
            environment: facts.environment.clone(),
            workspace: facts.workspace.clone(),
            tool_use: outgoing.tool_use.clone(),
            purpose: self.inner.purpose,
            iat: now,
            exp: now + identity::MAX_LIFETIME_SECONDS,
            jti: identity::new_jti(),
            body: identity::body_digest(&outgoing.body),
        };
        let signed = self.inner.signer.sign(&claims);
        let token =
            signed.map_err(|error| McpFailure::new("identity_unsigned", format!("{error}."), "Tell the operator."))?;
        sensitive(&token)
    }

    async fn read(
        &self,
        answer: Answer,
        expected: Option<&RequestId>,
        had_session: bool,
        mark: &Mark,
        until: Instant,
    ) -> Result<StreamableHttpPostResponse, McpFailure> {
        let limits = &self.inner.reach.limits;
        let (head, body) = answer.response.into_parts();
        let kind = head.headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        if !head.status.is_success() {
            let said = body.bytes(limits.error_bytes).await.unwrap_or_default();
            return refused(self.inner.via, head.status, &head.headers, &said, expected, had_session);
        }
        let Some(expected) = expected else {
            // Whatever stands in the answer to a notification; read so that the connection can be used again.
            let _ = body.bytes(limits.error_bytes).await;
            return Ok(StreamableHttpPostResponse::Accepted);
        };
        let session = session_id(&head.headers)?;
        match (head.status, kind.as_str()) {
            (StatusCode::ACCEPTED | StatusCode::NO_CONTENT, _) => {
                Err(McpFailure::protocol("it accepted a request and gave no answer"))
            }
            (_, "application/json") => {
                let whole =
                    body.bytes(limits.result_bytes).await.map_err(|error| of_client(&error, limits.result_bytes))?;
                Ok(StreamableHttpPostResponse::Json(answer_to(expected, &whole)?, session))
            }
            (_, "text/event-stream") => {
                let mark = mark.clone();
                let events = Events::new(body, limits, expected.clone(), mark, until, answer.place);
                Ok(StreamableHttpPostResponse::Sse(events.into_stream(), session))
            }
            _ => Err(McpFailure::protocol("it is neither JSON nor an event stream")),
        }
    }

    async fn delete(&self, session: Arc<str>, custom: HashMap<HeaderName, HeaderValue>) -> Result<(), McpFailure> {
        let headers = headers(Some(&session), custom)?;
        let (body, lane) = (Bytes::new(), Lane::Interactive);
        let outgoing = Outgoing { method: Method::DELETE, body, headers, lane, tool_use: None };
        let until = Instant::now() + DELETE_PATIENCE;
        let exchange = self.exchange(&outgoing, &self.inner.unmarked, until);
        let answer = tokio::time::timeout_at(until.into(), exchange)
            .await
            .unwrap_or_else(|_| Err(McpFailure::timeout("the end of the session", DELETE_PATIENCE)))?;
        // The body is read so that the connection can be used again; servers that do not end sessions say 405.
        let _ = answer.response.into_body().bytes(self.inner.reach.limits.error_bytes).await;
        Ok(())
    }
}

/// What a failure means for this request: a call that was sent and broke off has an unknown outcome; nothing else
/// can have had an effect.
pub(super) fn settled(failure: McpFailure, mark: &Mark) -> McpFailure {
    let is_call = mark.tool_use.is_some();
    match failure.code.as_str() {
        "connection_broken" if is_call && mark.record.was_sent() => McpFailure::outcome_unknown("the connection broke"),
        "timeout" | "protocol_error" | "result_too_large" if is_call && mark.record.was_sent() => failure.after_start(),
        _ if is_call => failure,
        _ => McpFailure { started: false, ..failure },
    }
}

fn headers(session: Option<&str>, custom: HashMap<HeaderName, HeaderValue>) -> Result<HeaderMap, McpFailure> {
    let mut headers: HeaderMap = custom.into_iter().collect();
    if let Some(session) = session {
        let session =
            HeaderValue::try_from(session).map_err(|_| McpFailure::protocol("its session id is malformed"))?;
        headers.insert(SESSION_HEADER, session);
    }
    Ok(headers)
}

fn sensitive(text: &str) -> Result<HeaderValue, McpFailure> {
    let mut value = HeaderValue::try_from(text).map_err(|_| McpFailure::bad_url("a header cannot be written"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn session_id(headers: &HeaderMap) -> Result<Option<String>, McpFailure> {
    let Some(value) = headers.get(SESSION_HEADER) else { return Ok(None) };
    match value.to_str() {
        Ok(id) if (1..=MAX_SESSION_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()) => {
            Ok(Some(id.to_owned()))
        }
        _ => Err(McpFailure::protocol("its session id is malformed")),
    }
}

/// The one message of a JSON answer: the answer to this request.
fn answer_to(expected: &RequestId, body: &[u8]) -> Result<ServerJsonRpcMessage, McpFailure> {
    let message: ServerJsonRpcMessage =
        serde_json::from_slice(body).map_err(|_| McpFailure::protocol("it is not one JSON-RPC message"))?;
    match message {
        ServerJsonRpcMessage::Response(response) if response.id == *expected => {
            Ok(ServerJsonRpcMessage::Response(response))
        }
        ServerJsonRpcMessage::Error(error) if error.id.as_ref().is_none_or(|id| id == expected) => {
            Ok(ServerJsonRpcMessage::error(error.error, Some(expected.clone())))
        }
        ServerJsonRpcMessage::Response(_) | ServerJsonRpcMessage::Error(_) => {
            Err(McpFailure::protocol("it answers another request"))
        }
        _ => Err(McpFailure::protocol("it is no answer")),
    }
}

/// What an answer other than 2xx means. A server's JSON-RPC error is its answer; a gateway's reason comes first.
fn refused(
    via: Via,
    status: StatusCode,
    headers: &HeaderMap,
    body: &[u8],
    expected: Option<&RequestId>,
    had_session: bool,
) -> Result<StreamableHttpPostResponse, McpFailure> {
    let has_reason = via == Via::Tunnel && headers.contains_key(super::failure::REASON_HEADER);
    if !has_reason && status == StatusCode::NOT_FOUND && had_session {
        return Err(McpFailure::session_expired());
    }
    let is_plain = !has_reason && status.is_client_error() && !matches!(status.as_u16(), 401 | 403);
    if is_plain
        && let Some(expected) = expected
        && let Ok(message @ ServerJsonRpcMessage::Error(_)) = answer_to(expected, body)
    {
        return Ok(StreamableHttpPostResponse::Json(message, None));
    }
    Err(of_status(via, status, headers, body))
}

impl StreamableHttpClient for Http {
    type Error = HttpFailure;

    fn post_message(
        &self,
        _uri: Arc<str>,
        message: ClientJsonRpcMessage,
        session_id: Option<Arc<str>>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> impl Future<Output = Result<StreamableHttpPostResponse, Failure>> + Send + '_ {
        self.post(message, session_id, custom_headers)
    }

    async fn delete_session(
        &self,
        _uri: Arc<str>,
        session_id: Arc<str>,
        _auth_header: Option<String>,
        custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<(), Failure> {
        self.delete(session_id, custom_headers)
            .await
            .map_err(|failure| StreamableHttpError::Client(HttpFailure(failure)))
    }

    /// Never: what a server says outside an answer has no reader here, and an answer that broke off is not resumed.
    async fn get_stream(
        &self,
        _uri: Arc<str>,
        _session_id: Option<Arc<str>>,
        _last_event_id: Option<String>,
        _auth_header: Option<String>,
        _custom_headers: HashMap<HeaderName, HeaderValue>,
    ) -> Result<BoxStream<'static, Result<Sse, SseError>>, Failure> {
        Err(StreamableHttpError::ServerDoesNotSupportSse)
    }
}
