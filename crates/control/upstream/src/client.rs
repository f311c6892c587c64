//! Requests over HTTP: one task for each, ended by dropping its receiver.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::Full;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use postern_model::event::ModelUsage;
use postern_model::model_info::ModelInfo;
use postern_net::{HttpClient, backoff, sse};
use postern_secret::SecretBytes;
use postern_session::{ModelEvent, ModelFailure};
use tokio::sync::{Mutex, mpsc};
use tokio::time::Instant;
use tracing::{debug, warn};

use crate::failure::Failed;
use crate::stream::{Decoder, StreamError};
use crate::{Model, failure, models};

/// How many pieces of an answer may wait for the session.
const WAITING_PIECES: usize = 256;
/// The largest error answer or list of models that is read.
const MAX_PLAIN_BODY: usize = 4 << 20;
/// Every model, those that are retired too.
const EVERY_MODEL: &str =
    "/v1/models?limit=1000&lifecycle%5B%5D=active&lifecycle%5B%5D=deprecated&lifecycle%5B%5D=retired";
/// The models that an endpoint lists unasked.
const LISTED_MODELS: &str = "/v1/models?limit=1000";
/// The longest name that the endpoint is asked about, in bytes.
const LONGEST_NAME: usize = 256;
/// What a name may not have in a path as it is.
const NOT_IN_A_SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// How the endpoint is asked.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The model that stands for an endpoint without a list.
    pub default_model: Option<String>,
    /// How long the endpoint may take to begin its answer.
    pub begin: Duration,
    /// How long an answer may stay silent.
    pub silence: Duration,
    /// How long the list of models is good.
    pub models_kept: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            default_model: None,
            begin: Duration::from_secs(300),
            silence: Duration::from_secs(300),
            models_kept: Duration::from_secs(60),
        }
    }
}

/// The client of one endpoint; cheap to clone.
#[derive(Clone)]
pub struct Client {
    shared: Arc<Shared>,
}

struct Shared {
    http: HttpClient,
    key: Option<SecretBytes>,
    settings: Settings,
    models: Mutex<Option<(Instant, Vec<ModelInfo>)>>,
}

impl Client {
    /// A client that sends this key; without one it sends none, which local endpoints accept.
    pub fn new(http: HttpClient, key: Option<SecretBytes>, settings: Settings) -> Self {
        Self { shared: Arc::new(Shared { http, key, settings, models: Mutex::new(None) }) }
    }
}

impl Model for Client {
    fn start(&self, body: Bytes) -> mpsc::Receiver<ModelEvent> {
        let (pieces, receiver) = mpsc::channel(WAITING_PIECES);
        let shared = Arc::clone(&self.shared);
        // Owned by its receiver: dropping that ends the task at its next wait, whatever it waits for.
        tokio::spawn(async move {
            tokio::select! {
                () = pieces.closed() => debug!("model request cancelled"),
                () = shared.answer(body, &pieces) => {}
            }
        });
        receiver
    }

    fn models(&self) -> Pin<Box<dyn Future<Output = Vec<ModelInfo>> + Send + '_>> {
        Box::pin(self.shared.models())
    }

    fn named<'a>(&'a self, name: &'a str) -> Pin<Box<dyn Future<Output = Option<ModelInfo>> + Send + 'a>> {
        Box::pin(self.shared.named(name))
    }
}

impl Shared {
    async fn answer(&self, body: Bytes, pieces: &mpsc::Sender<ModelEvent>) {
        let mut decoder = Decoder::default();
        let ended = match self.stream(body, &mut decoder, pieces).await {
            Ok(()) => return,
            Err(Failed { failure, cause }) => {
                warn!(cause = self.without_key(cause), "a model request failed");
                ModelFailure { message: self.without_key(failure.message), ..failure }
            }
        };
        // The receiver may be gone; then nobody waits for the reason.
        let _ = pieces.send(ModelEvent::Failed(ended)).await;
    }

    async fn stream(
        &self,
        body: Bytes,
        decoder: &mut Decoder,
        pieces: &mpsc::Sender<ModelEvent>,
    ) -> Result<(), Failed> {
        let request = self.request(Method::POST, Uri::from_static("/v1/messages"), body);
        let sent = self.http.request(request, self.settings.begin).await;
        let response = sent.map_err(|error| failure::unreached(chain(&error)))?;
        let status = response.status().as_u16();
        if status != 200 {
            let retry_after = retry_after(response.headers());
            let body = response.into_body().bytes(MAX_PLAIN_BODY).await.unwrap_or_default();
            return Err(failure::of_status(self.http.endpoint(), status, &body, retry_after));
        }
        let mut body = response.into_body().with_silence(self.settings.silence);
        let mut events = sse::Decoder::default();
        loop {
            let read = body.chunk().await.map_err(|error| failure::broken_off(chain(&error), decoder.usage()))?;
            let Some(chunk) = read else {
                let cause = format!("{} ended its answer in the middle", self.http.endpoint());
                return Err(failure::broken_off(cause, decoder.usage()));
            };
            let read = events.push(&chunk).map_err(|error| failure::broken_off(chain(&error), decoder.usage()))?;
            for event in read {
                let Some(news) =
                    decoder.push(&event.event, &event.data).map_err(|e| self.broken(e, decoder.usage()))?
                else {
                    continue;
                };
                let is_last = matches!(news, ModelEvent::Finished(_));
                if pieces.send(news).await.is_err() {
                    return Ok(());
                }
                if is_last {
                    body.finish();
                    return Ok(());
                }
            }
        }
    }

    fn broken(&self, error: StreamError, usage: ModelUsage) -> Failed {
        match error {
            StreamError::Reported(data) => failure::of_event(self.http.endpoint(), &data, usage),
            other => failure::broken_off(format!("{}: {other}", self.http.endpoint()), usage),
        }
    }

    fn request(&self, method: Method, path: Uri, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = path;
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
        if let Some(key) = self.key_header() {
            headers.insert("x-api-key", key);
        }
        request
    }

    #[expect(clippy::disallowed_methods, reason = "the endpoint needs the key on the wire")]
    fn key_header(&self) -> Option<HeaderValue> {
        let mut value = HeaderValue::from_bytes(self.key.as_ref()?.expose()).ok()?;
        value.set_sensitive(true);
        Some(value)
    }

    /// An endpoint may repeat the key in its complaint about it.
    #[expect(clippy::disallowed_methods, reason = "the key is looked for in a text in order to take it out")]
    fn without_key(&self, text: String) -> String {
        match self.key.as_ref().and_then(|key| std::str::from_utf8(key.expose()).ok()) {
            Some(key) if !key.is_empty() => text.replace(key, "[key]"),
            _ => text,
        }
    }

    async fn models(&self) -> Vec<ModelInfo> {
        // Held while asking: others wait for the one answer instead of asking too.
        let mut kept = self.models.lock().await;
        if let Some((at, models)) = &*kept
            && at.elapsed() < self.settings.models_kept
        {
            return models.clone();
        }
        let models = self.ask_models().await.unwrap_or_else(|| self.default_alone());
        *kept = Some((Instant::now(), models.clone()));
        models
    }

    /// Retired ones too, where the endpoint tells of them; where it takes no such question, what it lists.
    async fn ask_models(&self) -> Option<Vec<ModelInfo>> {
        let mut answer = self.ask(Uri::from_static(EVERY_MODEL)).await?;
        if answer.0.is_client_error() {
            answer = self.ask(Uri::from_static(LISTED_MODELS)).await?;
        }
        let (StatusCode::OK, body) = answer else { return None };
        models::read(&body).filter(|models| !models.is_empty())
    }

    /// Looked for in the list; only the endpoint knows its other names.
    async fn named(&self, name: &str) -> Option<ModelInfo> {
        if let Some(model) = self.models().await.into_iter().find(|model| model.id == name) {
            return Some(model);
        }
        if name.len() > LONGEST_NAME || name.chars().all(|character| character == '.') {
            return None;
        }
        let path = format!("/v1/models/{}", utf8_percent_encode(name, NOT_IN_A_SEGMENT));
        let (StatusCode::OK, body) = self.ask(path.parse().ok()?).await? else { return None };
        models::read_one(&body)
    }

    async fn ask(&self, path: Uri) -> Option<(StatusCode, Bytes)> {
        let request = self.request(Method::GET, path, Bytes::new());
        let response = self.http.request(request, Duration::from_secs(10)).await.ok()?;
        let status = response.status();
        Some((status, response.into_body().bytes(MAX_PLAIN_BODY).await.ok()?))
    }

    fn default_alone(&self) -> Vec<ModelInfo> {
        self.settings.default_model.iter().map(|id| ModelInfo::unknown(id)).collect()
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let milliseconds = headers.get("retry-after-ms").and_then(|value| value.to_str().ok()?.trim().parse().ok());
    milliseconds.map(Duration::from_millis).or_else(|| backoff::retry_after(headers.get(RETRY_AFTER)?.to_str().ok()?))
}

/// The whole chain of causes in one line, for the server's log.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests;
