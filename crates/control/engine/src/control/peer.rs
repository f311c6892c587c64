//! One control stream: its first word, commands out, answers in, and its end. Whoever is at the other end has a valid
//! credential and nothing more: every length, count and rate is bounded, and what does not fit ends the stream.

use std::collections::{HashMap, HashSet};
use std::pin::pin;
use std::sync::Arc;
use std::sync::Mutex;
use std::time::Duration;

use postern_model::Timestamp;
use postern_model::control::{
    Answer, Command, CommandBody, FRAME_BYTES, FromPerimeter, FromServer, HELLO_BYTES, Hello, OUTSTANDING, Reply, Role,
    SESSIONS,
};
use postern_model::ids::{SessionId, WorkspaceId};
use postern_net::frames::{FrameError, FrameReader, FrameWriter};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::holds::{self, Known};
use super::variables;
use super::{CommandFailure, ControlHub, Owner, Peer, Seat, lock};

type Waiting = oneshot::Sender<Result<Reply, CommandFailure>>;

/// Why a stream was broken off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("carry the stream")]
    Frame(#[from] FrameError),
    #[error("no first word within {0:?}")]
    NoHello(Duration),
    #[error("the first word is another than hello, or hello was said twice")]
    OutOfTurn,
    #[error("a {} said that it is a {}", expected.as_str(), said.as_str())]
    Role { expected: Role, said: Role },
    #[error("an answer to a command that was never sent: {0}")]
    UnknownCommand(u64),
    #[error("more than {SESSIONS} sessions were reported")]
    Sessions,
    #[error("more than {WORDS_PER_SECOND} messages came within a second")]
    Flood,
}

impl Broken {
    pub(super) fn chain(&self) -> String {
        let causes = std::iter::successors(Some(self as &dyn std::error::Error), |error| error.source());
        causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
    }
}

/// A connected process, as the hub keeps it.
pub(super) struct Line {
    id: u64,
    workspace: WorkspaceId,
    owner: Owner,
    hello: Hello,
    since: Timestamp,
    sessions: Mutex<HashSet<SessionId>>,
    /// The holds that it obeys, as far as it said so.
    known: Mutex<Known>,
    /// It said which sessions it holds; for those who tell of holds, and for those who tell of vaults.
    reported: Notify,
    reported_too: Notify,
    asks: mpsc::Sender<(CommandBody, Waiting)>,
}

/// What the two halves of a stream share.
#[derive(Default)]
struct Outstanding {
    next: u64,
    waiting: HashMap<u64, Waiting>,
}

impl Line {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn workspace(&self) -> &WorkspaceId {
        &self.workspace
    }

    pub(super) fn owner(&self) -> &Owner {
        &self.owner
    }

    pub(super) fn holds(&self, session: &SessionId) -> bool {
        lock(&self.sessions).contains(session)
    }

    pub(super) fn peer(&self) -> Peer {
        let mut sessions: Vec<_> = lock(&self.sessions).iter().cloned().collect();
        sessions.sort();
        Peer {
            workspace: self.workspace.clone(),
            owner: self.owner.clone(),
            role: self.hello.role,
            name: self.hello.name.clone(),
            version: self.hello.version.clone(),
            since: self.since,
            sessions,
            perimeter_public_key: self.hello.perimeter_public_key.clone(),
        }
    }

    /// Sends a command and waits for its answer.
    pub(super) async fn ask(&self, body: CommandBody, patience: Duration) -> Result<Reply, CommandFailure> {
        let (answer, answered) = oneshot::channel();
        let asked = holds::said(&body);
        self.asks.try_send((body, answer)).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => CommandFailure::Busy,
            mpsc::error::TrySendError::Closed(_) => CommandFailure::Gone,
        })?;
        match timeout(patience, answered).await {
            Err(_) => Err(CommandFailure::Late(patience)),
            Ok(Err(_)) => Err(CommandFailure::Gone),
            Ok(Ok(result)) => {
                if let (Some((session, saying)), Ok(_)) = (asked, &result) {
                    lock(&self.known).obeyed(session, saying);
                }
                result
            }
        }
    }

    pub(super) fn known(&self) -> &Mutex<Known> {
        &self.known
    }

    /// The sessions that it says it holds, where it is one that says so.
    pub(super) fn reported_sessions(&self) -> Option<HashSet<SessionId>> {
        (self.hello.role == Role::Worker).then(|| lock(&self.sessions).clone())
    }

    /// As [`Self::reported`], for the other who waits.
    pub(super) fn reported_too(&self) -> &Notify {
        &self.reported_too
    }

    /// It said anew which sessions it holds.
    pub(super) fn reported(&self) -> &Notify {
        &self.reported
    }
}

/// Serves a stream to its end. Whoever still waits for an answer then learns that the process is gone.
pub(super) async fn serve<S>(
    hub: &ControlHub,
    id: u64,
    seat: &Seat,
    stream: S,
    ends: impl Future<Output = ()>,
) -> Result<(), Broken>
where
    S: AsyncRead + AsyncWrite + Send + Unpin,
{
    let settings = *hub.settings();
    let (read, write) = tokio::io::split(stream);
    let mut reader = FrameReader::new(read, HELLO_BYTES, settings.silence);
    let writer = FrameWriter::new(write, FRAME_BYTES, settings.silence);
    let mut ends = pin!(ends);
    let hello = tokio::select! {
        hello = timeout(settings.hello, first(&mut reader, seat)) => {
            hello.map_err(|_| Broken::NoHello(settings.hello))??
        }
        () = &mut ends => return Ok(()),
    };
    reader.set_limit(FRAME_BYTES);
    let (asks, asked) = mpsc::channel(OUTSTANDING);
    let line = Arc::new(line(id, seat, hello, asks));
    let outstanding = Mutex::default();
    hub.enter(Arc::clone(&line));
    tracing::info!(owner = %line.owner, name = line.hello.name, version = line.hello.version, "a control stream stands");
    let goodbye = CancellationToken::new();
    let mut speaking = pin!(speak(writer, asked, &outstanding, settings.ping, &goodbye));
    tokio::select! {
        ended = &mut speaking => ended,
        ended = listen(reader, &line, &outstanding) => ended,
        never = holds::keep_telling(hub, &line) => match never {},
        never = variables::keep_bringing(hub, &line) => match never {},
        () = ends => {
            goodbye.cancel();
            // Whoever takes nothing gets no goodbye: the end is not held up by it.
            timeout(GOODBYE, speaking).await.unwrap_or(Ok(()))
        }
    }
}

async fn first<R: AsyncRead + Unpin>(reader: &mut FrameReader<R>, seat: &Seat) -> Result<Hello, Broken> {
    match reader.next::<FromPerimeter>().await? {
        Some(FromPerimeter::Hello(hello)) if hello.role != seat.owner.role() => {
            Err(Broken::Role { expected: seat.owner.role(), said: hello.role })
        }
        Some(FromPerimeter::Hello(hello)) if hello.sessions.len() > SESSIONS => Err(Broken::Sessions),
        Some(FromPerimeter::Hello(hello)) => Ok(hello),
        Some(_) => Err(Broken::OutOfTurn),
        None => Err(FrameError::Torn.into()),
    }
}

fn line(id: u64, seat: &Seat, hello: Hello, asks: mpsc::Sender<(CommandBody, Waiting)>) -> Line {
    let Hello { role, version, name, sessions, perimeter_public_key } = hello;
    let hello = Hello {
        role,
        version: bounded(&version),
        name: bounded(&name),
        sessions: Vec::new(),
        perimeter_public_key: perimeter_public_key.map(|key| bounded(&key)),
    };
    Line {
        id,
        workspace: seat.workspace.clone(),
        owner: seat.owner.clone(),
        hello,
        since: Timestamp::now(),
        sessions: Mutex::new(sessions.into_iter().collect()),
        known: Mutex::default(),
        reported: Notify::new(),
        reported_too: Notify::new(),
        asks,
    }
}

/// Words of a stranger's that go to logs and lists.
fn bounded(text: &str) -> String {
    text.chars().filter(|character| !character.is_control()).take(NAME_CHARACTERS).collect()
}

async fn speak<W: AsyncWrite + Unpin>(
    mut writer: FrameWriter<W>,
    mut asked: mpsc::Receiver<(CommandBody, Waiting)>,
    outstanding: &Mutex<Outstanding>,
    ping: Duration,
    goodbye: &CancellationToken,
) -> Result<(), Broken> {
    loop {
        tokio::select! {
            () = goodbye.cancelled() => {
                writer.send(&FromServer::Bye).await?;
                writer.close().await;
                return Ok(());
            }
            Some((body, waiting)) = asked.recv() => {
                let Some(id) = expect(outstanding, waiting) else { continue };
                postern_danger::point!("command.before");
                match writer.send(&FromServer::Command(Command { id, body })).await {
                    Err(FrameError::TooLarge { .. }) => fail(outstanding, id, CommandFailure::TooLarge),
                    other => other?,
                }
            }
            () = tokio::time::sleep(ping) => writer.send(&FromServer::Ping).await?,
        }
    }
}

/// Notes whom the next answer is for; `None` when there are too many, or nobody waits any more.
fn expect(outstanding: &Mutex<Outstanding>, waiting: Waiting) -> Option<u64> {
    if waiting.is_closed() {
        return None;
    }
    let mut outstanding = lock(outstanding);
    // Whoever gave up makes room; an answer that comes nevertheless is not for anyone.
    outstanding.waiting.retain(|_, waiting| !waiting.is_closed());
    if outstanding.waiting.len() >= OUTSTANDING {
        // The asker may have given up in this very moment.
        let _gone = waiting.send(Err(CommandFailure::Busy));
        return None;
    }
    let id = outstanding.next;
    outstanding.next += 1;
    outstanding.waiting.insert(id, waiting);
    Some(id)
}

fn fail(outstanding: &Mutex<Outstanding>, id: u64, failure: CommandFailure) {
    if let Some(waiting) = lock(outstanding).waiting.remove(&id) {
        let _gone = waiting.send(Err(failure));
    }
}

async fn listen<R: AsyncRead + Unpin>(
    mut reader: FrameReader<R>,
    line: &Line,
    outstanding: &Mutex<Outstanding>,
) -> Result<(), Broken> {
    let mut pace = Pace { since: Instant::now(), words: 0 };
    while let Some(word) = reader.next::<FromPerimeter>().await? {
        pace.count()?;
        match word {
            FromPerimeter::Hello(_) => return Err(Broken::OutOfTurn),
            FromPerimeter::Ping => {}
            FromPerimeter::Sessions { sessions } if sessions.len() > SESSIONS => return Err(Broken::Sessions),
            FromPerimeter::Sessions { sessions } => {
                *lock(&line.sessions) = sessions.into_iter().collect();
                line.reported.notify_one();
                line.reported_too.notify_one();
            }
            FromPerimeter::Answer(answer) => {
                postern_danger::point!("command.after");
                answered(outstanding, answer)?;
            }
        }
    }
    Ok(())
}

/// Hands an answer to whoever waits. One that comes late or twice is nobody's; one to a command that never was is a lie.
fn answered(outstanding: &Mutex<Outstanding>, Answer { id, result }: Answer) -> Result<(), Broken> {
    let mut outstanding = lock(outstanding);
    if id >= outstanding.next {
        return Err(Broken::UnknownCommand(id));
    }
    if let Some(waiting) = outstanding.waiting.remove(&id) {
        let _gone = waiting.send(result.map_err(CommandFailure::Refused));
    }
    Ok(())
}

/// How much a process says.
struct Pace {
    since: Instant,
    words: u32,
}

impl Pace {
    fn count(&mut self) -> Result<(), Broken> {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self { since: Instant::now(), words: 0 };
        }
        self.words += 1;
        if self.words > WORDS_PER_SECOND { Err(Broken::Flood) } else { Ok(()) }
    }
}

/// A process that says more within a second floods.
const WORDS_PER_SECOND: u32 = 1000;
const NAME_CHARACTERS: usize = 200;
/// How long the goodbye may take: a revoked key's streams end within a second.
const GOODBYE: Duration = Duration::from_millis(300);
