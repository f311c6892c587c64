//! The perimeter's end of the control stream: dials the server, says who it is, hands each command to the handler,
//! carries the answers back, and dials again when the stream ends. It decides about no command: handlers do.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderMap, HeaderValue, StatusCode};
use postern_model::control::{
    Answer, Command, CommandBody, CommandRefusal, FRAME_BYTES, FromPerimeter, FromServer, Hello, OUTSTANDING, PATH,
    PROTOCOL, Reply, SESSIONS,
};
use postern_model::ids::SessionId;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backoff::Backoff;
use crate::client::HttpClient;
use crate::frames::{FrameError, FrameReader, FrameWriter};
use crate::upgrade::{Stream, Upgrade};

/// A command's outcome, later.
pub type Obeying<'a> = Pin<Box<dyn Future<Output = Result<Reply, CommandRefusal>> + Send + 'a>>;

/// What a perimeter's process does about commands. Whoever sends them may be hostile: obeying is the handler's choice.
pub trait ControlHandler: Send + Sync + 'static {
    /// Who this is, as of now.
    fn hello(&self) -> Hello;

    /// The sessions that this process holds, whenever they change.
    fn sessions(&self) -> watch::Receiver<Vec<SessionId>>;

    /// Obeys a command, or says why not. Dropped when the stream ends; what has begun must be safe to leave so.
    fn obey(&self, command: CommandBody) -> Obeying<'_>;
}

/// The credential for the next attempt; asked for each time, since a token's file may change.
pub type Credential = Arc<dyn Fn() -> Option<HeaderValue> + Send + Sync>;

/// How it stands with the control stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Link {
    /// No stream yet, or not now: it is tried again soon.
    Connecting,
    /// A stream stands.
    Connected,
    /// The server has no control streams: it is another platform, or an older build.
    NotOffered,
    /// The server refuses the credential.
    Rejected,
}

/// Times of the loop; the defaults are the documented ones, tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How often something is sent at least.
    pub ping: Duration,
    /// How long nothing may come.
    pub silence: Duration,
    /// How long dialling and the upgrade may take.
    pub patience: Duration,
    /// Waits between attempts.
    pub backoff: Backoff,
    /// When a server without control streams, or one that refuses the credential, is asked again.
    pub again: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            ping: PING,
            silence: SILENCE,
            patience: Duration::from_secs(15),
            backoff: Backoff {
                base: Duration::from_millis(200),
                cap: Duration::from_secs(2),
                retry_after_cap: Duration::from_secs(30),
            },
            again: Duration::from_secs(60),
        }
    }
}

/// Keeps a control stream up until `end`. `link` always says how it stands.
pub async fn run(
    client: HttpClient,
    credential: Credential,
    handler: Arc<dyn ControlHandler>,
    link: watch::Sender<Link>,
    end: CancellationToken,
) {
    run_with(Settings::default(), client, credential, handler, link, end).await;
}

/// The same with other times.
pub async fn run_with(
    settings: Settings,
    client: HttpClient,
    credential: Credential,
    handler: Arc<dyn ControlHandler>,
    link: watch::Sender<Link>,
    end: CancellationToken,
) {
    let keep_up = async {
        let mut attempt = 0;
        loop {
            let began = Instant::now();
            let wait = match dial(&settings, &client, &credential).await {
                Dialled::Stream(stream) => {
                    tell(&link, Link::Connected);
                    match serve(&settings, stream, &handler).await {
                        Ok(()) => tracing::info!("the server ended the control stream"),
                        Err(error) => tracing::warn!(error = chain(&error), "the control stream broke"),
                    }
                    tell(&link, Link::Connecting);
                    // A stream that ends at once again and again is as bad as none.
                    attempt = if began.elapsed() > STABLE { 0 } else { attempt };
                    None
                }
                Dialled::No(state) => {
                    tell(&link, state);
                    (state != Link::Connecting).then_some(settings.again)
                }
            };
            let wait = wait.unwrap_or_else(|| settings.backoff.delay(attempt, None, random()));
            attempt = attempt.saturating_add(1);
            tokio::time::sleep(wait).await;
        }
    };
    tokio::select! {
        () = keep_up => {}
        () = end.cancelled() => {}
    }
}

/// Said once each time it changes: a loop must not fill a log.
fn tell(link: &watch::Sender<Link>, state: Link) {
    if link.send_if_modified(|link| std::mem::replace(link, state) != state) {
        match state {
            Link::Connecting => {}
            Link::Connected => tracing::info!("the control stream stands"),
            Link::NotOffered => tracing::info!(
                "this server offers no control stream: sessions cannot be frozen from there, and no files come from it"
            ),
            Link::Rejected => tracing::warn!("the server refuses this process' credential for the control stream"),
        }
    }
}

enum Dialled {
    Stream(Stream),
    No(Link),
}

async fn dial(settings: &Settings, client: &HttpClient, credential: &Credential) -> Dialled {
    let Some(authorization) = credential() else {
        tracing::warn!("there is no credential for the control stream");
        return Dialled::No(Link::Rejected);
    };
    match client.upgrade(PATH, PROTOCOL, headers(authorization), settings.patience).await {
        Ok(Upgrade::Switched { stream, .. }) => Dialled::Stream(stream),
        Ok(Upgrade::Answered { head, .. }) => Dialled::No(refused(&head)),
        Err(error) => {
            tracing::debug!(error = chain(&error), "the control stream could not be opened");
            Dialled::No(Link::Connecting)
        }
    }
}

fn headers(authorization: HeaderValue) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, authorization);
    headers.insert("anthropic-version", HeaderValue::from_static("2023-06-01"));
    headers.insert("anthropic-beta", HeaderValue::from_static("managed-agents-2026-04-01"));
    headers
}

/// What another answer than 101 means. Only a Postern names its version, and only it has control streams.
fn refused(head: &http::response::Parts) -> Link {
    let ours = head.headers.contains_key("postern-version");
    match head.status {
        StatusCode::NOT_FOUND => Link::NotOffered,
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => Link::Connecting,
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN if ours => Link::Rejected,
        _ if !ours => Link::NotOffered,
        status => {
            tracing::warn!(status = status.as_u16(), "the server did not open the control stream");
            Link::Connecting
        }
    }
}

/// Serves one stream to its end.
async fn serve(settings: &Settings, stream: Stream, handler: &Arc<dyn ControlHandler>) -> Result<(), FrameError> {
    let (read, write) = tokio::io::split(stream);
    let reader = FrameReader::new(read, FRAME_BYTES, settings.silence);
    let writer = FrameWriter::new(write, FRAME_BYTES, settings.silence);
    let (say, said) = mpsc::channel(OUTSTANDING);
    tokio::select! {
        ended = speak(writer, said, handler, settings.ping) => ended,
        ended = listen(reader, say, handler) => ended,
    }
}

/// Sends the first word, then whatever there is to say, and a ping where there is nothing.
async fn speak<W: tokio::io::AsyncWrite + Unpin>(
    mut writer: FrameWriter<W>,
    mut said: mpsc::Receiver<FromPerimeter>,
    handler: &Arc<dyn ControlHandler>,
    ping: Duration,
) -> Result<(), FrameError> {
    let mut sessions = handler.sessions();
    sessions.mark_unchanged();
    let mut hello = handler.hello();
    hello.sessions.truncate(SESSIONS);
    writer.send(&FromPerimeter::Hello(hello)).await?;
    loop {
        let word = tokio::select! {
            Some(word) = said.recv() => word,
            Ok(()) = sessions.changed() => {
                let held = sessions.borrow_and_update().iter().take(SESSIONS).cloned().collect();
                FromPerimeter::Sessions { sessions: held }
            }
            () = tokio::time::sleep(ping) => FromPerimeter::Ping,
        };
        writer.send(&word).await?;
    }
}

/// Reads commands and has each obeyed beside the others; ends with the server's goodbye.
async fn listen<R: tokio::io::AsyncRead + Unpin>(
    mut reader: FrameReader<R>,
    say: mpsc::Sender<FromPerimeter>,
    handler: &Arc<dyn ControlHandler>,
) -> Result<(), FrameError> {
    // Dropped with the stream, and what is being obeyed with it: nobody waits for its answer any more.
    let mut obeying = JoinSet::new();
    let mut pace = Pace::new(Instant::now());
    while let Some(word) = reader.next::<FromServer>().await? {
        while obeying.try_join_next().is_some() {}
        match word {
            FromServer::Ping => {}
            FromServer::Bye => return Ok(()),
            FromServer::Command(Command { id, .. }) if obeying.len() >= OUTSTANDING || !pace.allows(Instant::now()) => {
                let result = Err(too_many());
                // The speaker ends only with this stream.
                let _ended = say.send(FromPerimeter::Answer(Answer { id, result })).await;
            }
            FromServer::Command(Command { id, body }) => {
                tracing::info!(id, command = body.name(), session = body.session().map(SessionId::as_str), "commanded");
                let (handler, say) = (Arc::clone(handler), say.clone());
                obeying.spawn(async move {
                    let result = handler.obey(body).await;
                    let _ended = say.send(FromPerimeter::Answer(Answer { id, result })).await;
                });
            }
        }
    }
    Ok(())
}

fn too_many() -> CommandRefusal {
    CommandRefusal::new(
        "limit_commands",
        format!("{OUTSTANDING} commands are being obeyed already, or more than {COMMANDS_PER_SECOND} a second came"),
        "wait for one of them to end, then send it again",
    )
}

/// How much is obeyed: every command may leave a record or a file, and a server that floods must not fill a disk with them.
struct Pace {
    left: f64,
    counted: Instant,
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { left: COMMANDS_AT_ONCE, counted: now }
    }

    fn allows(&mut self, now: Instant) -> bool {
        let gained = now.saturating_duration_since(self.counted).as_secs_f64() * COMMANDS_PER_SECOND;
        (self.left, self.counted) = ((self.left + gained).min(COMMANDS_AT_ONCE), now);
        let allowed = self.left >= 1.0;
        if allowed {
            self.left -= 1.0;
        }
        allowed
    }
}

fn random() -> u64 {
    // Without random numbers the jitter is missing, nothing else.
    getrandom::u64().unwrap_or(u64::MAX / 2)
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// How often each side says something.
pub const PING: Duration = Duration::from_secs(15);
/// After so long without a word the other side is gone: a half-open stream ends within 30 s.
pub const SILENCE: Duration = Duration::from_secs(25);
/// How many commands are obeyed in the long run, and how many at once after a quiet time.
const COMMANDS_PER_SECOND: f64 = 20.0;
const COMMANDS_AT_ONCE: f64 = 256.0;
/// A stream that lived so long was a good one.
const STABLE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests;
