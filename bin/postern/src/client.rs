//! The command line's own client of the API: over the operator's socket in the data directory, or a URL with a key.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, StatusCode, header};
use http_body_util::Full;
use postern_net::client::{Body, HttpClient};
use postern_net::sse;
use postern_net::tls::TlsRoots;
use postern_policy::{Endpoint, configured};
use serde_json::Value;

use crate::cli::{AtWorkspace, Server};
use crate::failure::{Failure, Or};

const PATIENCE: Duration = Duration::from_secs(60);
const LARGEST_ANSWER: usize = 64 << 20;
const BETA: &str = "managed-agents-2026-04-01,mcp-tunnels-2026-06-22";

/// A client that knows where the server is and who is asking.
#[derive(Clone)]
pub(crate) struct Client {
    http: HttpClient,
    key: Option<String>,
    /// The workspace to act in, where it was named.
    workspace: Option<String>,
}

impl Client {
    /// As the command line's flags say.
    pub(crate) fn of(server: &Server) -> Result<Self, Failure> {
        #[expect(clippy::disallowed_methods, reason = "the command line's documented variables")]
        let (url, key) = (std::env::var("POSTERN_URL").ok(), std::env::var("POSTERN_API_KEY").ok());
        let client = match server.url.clone().or(url) {
            Some(url) => {
                let key = key.ok_or_else(|| Failure::Misused("set POSTERN_API_KEY to a key of that server".into()))?;
                Self::at(&url, key, server.server_ca.as_deref())?
            }
            None => Self::operator(&server.place.data_dir.join("operator.sock")),
        };
        Ok(client.within(&server.at))
    }

    /// The same in the workspace that was named, if one was.
    pub(crate) fn within(self, at: &AtWorkspace) -> Self {
        Self { workspace: at.workspace.clone(), ..self }
    }

    /// The server of this socket, as its operator.
    pub(crate) fn operator(socket: &Path) -> Self {
        Self { http: HttpClient::unix(socket), key: None, workspace: None }
    }

    /// Whether it asks as the operator of this machine's server.
    pub(crate) fn is_operators(&self) -> bool {
        self.key.is_none()
    }

    /// A server at a URL.
    pub(crate) fn at(url: &str, key: String, ca: Option<&Path>) -> Result<Self, Failure> {
        let endpoint: Endpoint = url.parse().or_misused("read the server's URL")?;
        let roots = TlsRoots::platform_and_file(ca).or_misused("load trusted certificates")?;
        let http = HttpClient::new(configured(&endpoint), &roots).or_misused("prepare the client")?;
        Ok(Self { http, key: Some(key), workspace: None })
    }

    /// GET, and the JSON of the answer.
    pub(crate) async fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::GET, path, None).await
    }

    /// POST of a JSON body, and the JSON of the answer.
    pub(crate) async fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(Method::POST, path, Some(body)).await
    }

    /// DELETE, and the JSON of the answer.
    pub(crate) async fn delete(&self, path: &str) -> Result<Value, Failure> {
        self.json(Method::DELETE, path, None).await
    }

    /// Every item of a list, page by page.
    pub(crate) async fn list(&self, path: &str) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut page: Option<String> = None;
        loop {
            let joint = if path.contains('?') { '&' } else { '?' };
            let at = page.map_or_else(|| path.to_owned(), |cursor| format!("{path}{joint}page={cursor}"));
            let mut answer = self.get(&at).await?;
            if let Some(data) = answer["data"].as_array_mut() {
                items.append(data);
            }
            page = answer["next_page"].as_str().map(str::to_owned);
            if page.is_none() {
                return Ok(items);
            }
        }
    }

    /// The events of a session from now on.
    pub(crate) async fn stream(&self, session: &str, deltas: bool) -> Result<Events, Failure> {
        let query = if deltas { "?event_deltas%5B%5D=agent.message" } else { "" };
        let body = self.send(Method::GET, &format!("/v1/sessions/{session}/events/stream{query}"), None).await?;
        Ok(Events { body: body.with_silence(STREAM_SILENCE), decoder: sse::Decoder::default(), ready: Vec::new() })
    }

    async fn json(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Value, Failure> {
        let answer = self.send(method, path, body).await?;
        let bytes = answer.bytes(LARGEST_ANSWER).await.or_unreachable("read the server's answer")?;
        serde_json::from_slice(&bytes).or_unreachable("read the server's answer")
    }

    async fn send(&self, method: Method, path: &str, body: Option<&Value>) -> Result<Body, Failure> {
        let mut request = Request::builder().method(method).uri(path).header("anthropic-beta", BETA);
        request = request.header("anthropic-version", "2026-10-21").header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = &self.key {
            request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        }
        if let Some(workspace) = &self.workspace {
            request = request.header("anthropic-workspace-id", workspace);
        }
        let body = body.map(|json| Bytes::from(json.to_string())).unwrap_or_default();
        let request = request.body(Full::new(body)).or_misused("make the request")?;
        let doing = format!("reach the server at {}; is `postern up` running?", self.http.endpoint());
        let response = self.http.request(request, PATIENCE).await.or_unreachable(&doing)?;
        let status = response.status();
        let body = response.into_body();
        if status.is_success() { Ok(body) } else { Err(refused(status, body).await) }
    }
}

const STREAM_SILENCE: Duration = Duration::from_secs(60);

async fn refused(status: StatusCode, body: Body) -> Failure {
    let bytes = body.bytes(LARGEST_ANSWER).await.unwrap_or_default();
    let answer: Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let text =
        format!("the server answered {status}: {}", answer["error"]["message"].as_str().unwrap_or("without a reason"));
    match status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Failure::Denied(text),
        status if status.is_client_error() => Failure::Misused(text),
        _ => Failure::Unreachable(text),
    }
}

/// A stream of events as JSON.
pub(crate) struct Events {
    body: Body,
    decoder: sse::Decoder,
    ready: Vec<Value>,
}

impl Events {
    /// The next event; `None` when the server ended the stream.
    pub(crate) async fn next(&mut self) -> Result<Option<Value>, Failure> {
        while self.ready.is_empty() {
            let Some(chunk) = self.body.chunk().await.or_unreachable("read the event stream")? else { return Ok(None) };
            let events = self.decoder.push(&chunk).or_unreachable("read the event stream")?;
            let parsed =
                events.iter().filter(|event| event.event != "ping").map(|event| serde_json::from_str(&event.data));
            self.ready = parsed.collect::<Result<_, _>>().or_unreachable("read an event")?;
        }
        Ok(Some(self.ready.remove(0)))
    }
}
