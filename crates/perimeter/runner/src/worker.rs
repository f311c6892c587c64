//! The worker itself: polls, bounds how many sessions run at one time, drains. And the role's main, which starts the perimeter around it.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use postern_custody::Reload;
use postern_exec::asynchronous::Channel;
use postern_exec::role::Starter;
use postern_net::control::{Credential, Link};
use postern_net::{Drain, Drained, HttpClient, TlsRoots};
use postern_policy::ConfiguredPermit;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::boundary::{Commands, Reloading};
use crate::config::{ORDER_LIMIT, Order, Report, WorkerConfig};
use crate::control::{Facts, WorkerControl};
use crate::hands::Perimeter;
use crate::item::{self, Shared};
use crate::perimeter::{self, Started};
use crate::place::Places;
use crate::remote::{Bearer, Polled, Remote, RemoteError};
use crate::session::{chain, random};

/// Polls for work and serves it.
pub struct Worker<P> {
    shared: Arc<Shared<P>>,
    drain: Drain,
    room: Arc<Semaphore>,
}

/// Why a worker ended.
#[derive(Debug)]
pub enum Ended {
    /// It was told to, and every item ended.
    Drained,
    /// It was told to, and so many items were still running when patience ended; their journals know.
    DrainedLate(usize),
    /// The server will not give this worker work: the key, the environment or the address is wrong.
    Rejected(RemoteError),
}

impl<P: Perimeter> Worker<P> {
    /// A worker for `remote`'s environment that serves up to `sessions` at one time.
    pub fn new(remote: Remote, key: Bearer, perimeter: P, places: Arc<Places>, sessions: usize) -> Self {
        let drain = Drain::new();
        let shared = Shared::new(remote, key, perimeter, places, drain.token());
        Self { shared: Arc::new(shared), drain, room: Arc::new(Semaphore::new(sessions.max(1))) }
    }

    /// The same with another wait after a finished turn (60 s unless said).
    #[must_use]
    pub fn with_max_idle(mut self, max_idle: Duration) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.shared) {
            shared.max_idle = max_idle;
        }
        self
    }

    /// A handle that starts the drain.
    pub fn drain(&self) -> Drain {
        self.drain.clone()
    }

    /// Polls until the drain starts or the server rejects the worker, then waits for the items, at most `patience`.
    pub async fn run(self, patience: Duration) -> Ended {
        let rejected = tokio::select! {
            error = self.poll() => Some(error),
            () = self.drain.started() => None,
        };
        match (self.drain.finish(patience).await, rejected) {
            (_, Some(error)) => Ended::Rejected(error),
            (Drained::Clean, None) => Ended::Drained,
            (Drained::Late(items), None) => Ended::DrainedLate(items),
        }
    }

    /// Goes on with what an earlier run held: after a crash nobody else would before the leases run out.
    async fn resume(&self) {
        for held in self.shared.places.leases() {
            let room = self.room().await;
            let shared = Arc::clone(&self.shared);
            self.drain.spawn(async move {
                let _room = room;
                item::resume(&shared, held).await;
            });
        }
    }

    /// A place for one more session. A session that only waits for its next turn gives up its own where there is none.
    async fn room(&self) -> OwnedSemaphorePermit {
        if let Ok(room) = Arc::clone(&self.room).try_acquire_owned() {
            return room;
        }
        self.shared.crowded.notify_one();
        Arc::clone(&self.room).acquire_owned().await.expect("nothing closes this semaphore")
    }

    /// Returns only when the server rejects the worker.
    async fn poll(&self) -> RemoteError {
        self.resume().await;
        let mut failures: u32 = 0;
        loop {
            let room = self.room().await;
            let asked = Instant::now();
            match self.shared.remote.poll(&self.shared.key).await {
                Err(error) if error.is_fatal() => return error,
                Err(error) => {
                    failures = failures.saturating_add(1);
                    tracing::warn!(error = chain(&error), failures, "polling failed");
                    tokio::time::sleep(pause_after_failure(failures, error.retry_after())).await;
                }
                Ok(Polled { item: None, ours }) => {
                    failures = 0;
                    drop(room);
                    tokio::time::sleep(pause_after_nothing(ours, asked.elapsed())).await;
                }
                Ok(Polled { item: Some(work), ours }) => {
                    failures = 0;
                    tracing::info!(work = work.id, session = work.data.id, "claimed");
                    let shared = Arc::clone(&self.shared);
                    self.drain.spawn(async move {
                        let _room = room;
                        if acknowledged(&shared, &work.id, asked).await {
                            item::run(&shared, work, ours).await;
                        }
                    });
                }
            }
        }
    }
}

/// Whether the claim stands, of an item that was asked for then. One that cannot be acknowledged is handed out again by the server.
async fn acknowledged<P>(shared: &Shared<P>, work: &str, asked: Instant) -> bool {
    match acknowledge(shared, work, asked).await {
        Ok(()) => true,
        Err(error) => {
            tracing::warn!(work, error = chain(&error), "a claim could not be acknowledged");
            if error.is_fatal() {
                let _stopped_or_gone = shared.remote.stop(&shared.key, work, None).await;
            }
            false
        }
    }
}

/// A server that died after it took an acknowledgement would leave the session to that lease, so what was not answered
/// by it is asked again: it changes nothing where it was taken. Only as long as nobody else can have been handed the item.
async fn acknowledge<P>(shared: &Shared<P>, work: &str, asked: Instant) -> Result<(), RemoteError> {
    let first = shared.remote.acknowledge(&shared.key, work).await;
    if !first.as_ref().is_err_and(RemoteError::may_be_done) {
        return first;
    }
    let again = async {
        loop {
            tokio::time::sleep(ACKNOWLEDGE_PAUSE).await;
            match shared.remote.acknowledge(&shared.key, work).await {
                Err(error) if error.may_be_done() => {}
                answer => return answer,
            }
        }
    };
    tokio::time::timeout_at(asked + ACKNOWLEDGE_TIME, again).await.unwrap_or(first)
}

/// Our server holds a poll for its time and is asked again at once; another is given the official worker's pause of 1 to 3 s.
fn pause_after_nothing(ours: bool, took: Duration) -> Duration {
    if ours { SHORTEST_POLL.saturating_sub(took) } else { Duration::from_millis(1_000 + random() % 2_000) }
}

fn pause_after_failure(failures: u32, retry_after: Option<Duration>) -> Duration {
    let exponential = Duration::from_secs(2u64.saturating_pow(failures).min(60));
    retry_after.unwrap_or(exponential).min(LONGEST_PAUSE) + Duration::from_millis(random() % 1_000)
}

/// The role `worker`: starts the perimeter, serves, drains. `server` is the permit for the configured server, made by `bin`.
/// Its children are executed by `starter`: a worker that has confined itself starts nothing.
/// With a supervisor the configuration came over its channel; when that closes, the worker ends at once, as its children do.
pub async fn worker_main(
    config: WorkerConfig,
    starter: Starter,
    server: ConfiguredPermit,
    mut supervisor: Option<Channel>,
) -> ExitCode {
    let places = Arc::new(Places::new(&config.data_dir).giving(config.kernel_users.clone()));
    let http = match http(&config, server) {
        Ok(http) => http,
        Err(problem) => return refuse(vec![problem], supervisor).await,
    };
    let patience = Duration::from_secs(config.drain_seconds);
    let (environment, sessions) = (config.environment_id.clone(), config.sessions);
    let Started { perimeter, key, children, report } =
        match perimeter::start(config, &starter, Arc::clone(&places)).await {
            Ok(started) => started,
            Err(problems) => return refuse(problems, supervisor).await,
        };
    if let Some(channel) = &mut supervisor
        && channel.send(&report, &[]).await.is_err()
    {
        return ExitCode::FAILURE;
    }
    let (parts, reloading) = (perimeter.watch(), perimeter.reloading());
    let name = worker_name(&places);
    let control = ControlStream::start(http.clone(), &key, Facts::new(name.clone(), &report), perimeter.commands());
    let worker = Worker::new(Remote::new(http, environment, name), key, perimeter, places, sessions);
    let drain = worker.drain();
    let (code, orderly) = tokio::select! {
        ended = worker.run(patience) => (code(&ended), !matches!(ended, Ended::DrainedLate(_))),
        part = parts.gone() => {
            tracing::error!(part, "a part of the perimeter ended; the worker ends with it");
            (ExitCode::FAILURE, false)
        }
        code = orders(supervisor, drain, &reloading) => (code, false),
    };
    drop((parts, reloading));
    control.end().await;
    if orderly {
        children.end().await;
    } else {
        // Items still hold connections to the processes, which end with this one.
        children.leave().await;
    }
    code
}

/// The worker's control stream, for as long as the worker lives: a draining one still obeys.
struct ControlStream {
    end: CancellationToken,
    task: JoinHandle<()>,
}

impl ControlStream {
    fn start(http: HttpClient, key: &Bearer, facts: Facts, commands: Commands) -> Self {
        let (end, header) = (CancellationToken::new(), key.header());
        let credential: Credential = Arc::new(move || header.clone());
        let handler = Arc::new(WorkerControl::new(facts, commands));
        let link = watch::Sender::new(Link::Connecting);
        let task = tokio::spawn(postern_net::control::run(http, credential, handler, link, end.clone()));
        Self { end, task }
    }

    /// Ends it, so that it holds no connection to the perimeter's processes any more.
    async fn end(self) {
        self.end.cancel();
        let _panicked = self.task.await;
    }
}

fn http(config: &WorkerConfig, server: ConfiguredPermit) -> Result<HttpClient, String> {
    let roots = TlsRoots::platform_and_file(config.ca_file.as_deref());
    let client = roots.and_then(|roots| HttpClient::new(server, &roots));
    client.map_err(|error| format!("reach the server {}: {}", config.server_url, chain(&error)))
}

async fn refuse(problems: Vec<String>, supervisor: Option<Channel>) -> ExitCode {
    for problem in &problems {
        tracing::error!(%problem, "the worker does not start");
    }
    if let Some(mut channel) = supervisor {
        // A supervisor that is gone needs no word.
        let _gone = channel.send(&Report::Refused { problems }, &[]).await;
    }
    ExitCode::from(USAGE)
}

fn code(ended: &Ended) -> ExitCode {
    match ended {
        Ended::Drained => ExitCode::SUCCESS,
        Ended::DrainedLate(items) => {
            tracing::warn!(
                items,
                "items were still running at the end of the drain; their journals know what was started"
            );
            ExitCode::SUCCESS
        }
        Ended::Rejected(error) => {
            tracing::error!(
                error = chain(error),
                "the server rejects this worker; check its environment and environment key"
            );
            ExitCode::from(NOT_REACHABLE)
        }
    }
}

/// Starts the drain at the first signal or the supervisor's word. Returns at the second signal or when the supervisor is gone.
async fn orders(mut supervisor: Option<Channel>, drain: Drain, reloading: &Reloading) -> ExitCode {
    let (Ok(mut terminate), Ok(mut interrupt)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt()))
    else {
        tracing::error!("signals cannot be received");
        return ExitCode::FAILURE;
    };
    loop {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            order = next_order(&mut supervisor) => match order {
                Some(Order::Drain) => {
                    drain.start();
                    continue;
                }
                Some(Order::Reload { document, environments, variables }) => {
                    let reload = Reload { document, environments, snapshot: variables };
                    let problems = tell_reload(reloading.reload(reload).await);
                    if let Some(channel) = &mut supervisor
                        && channel.send(&Report::Reloaded { problems }, &[]).await.is_err()
                    {
                        return ExitCode::FAILURE;
                    }
                    continue;
                }
                None => return ExitCode::FAILURE,
            },
        }
        if drain.is_started() {
            return ExitCode::from(SECOND_SIGNAL);
        }
        drain.start();
    }
}

fn tell_reload(problems: Vec<String>) -> Vec<String> {
    for problem in &problems {
        tracing::error!(problem, "the worker keeps the former configuration");
    }
    if problems.is_empty() {
        tracing::info!("the worker took up its zones again");
    }
    problems
}

/// The supervisor's next order; `None` when it is gone. Without a supervisor there is never one.
async fn next_order(supervisor: &mut Option<Channel>) -> Option<Order> {
    match supervisor {
        Some(channel) => channel.receive::<Order>(ORDER_LIMIT).await.ok().flatten().map(|(order, _)| order),
        None => std::future::pending().await,
    }
}

/// Host name and a random part, as the official worker names itself; that part is the same after a restart.
fn worker_name(places: &Places) -> String {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host: String = host.chars().filter(|c| c.is_ascii_alphanumeric() || "-._".contains(*c)).take(64).collect();
    let own = places.name().unwrap_or_else(|error| {
        tracing::warn!(%error, "the worker's name is not remembered: after a restart its sessions wait a moment for it");
        format!("{:012x}", random() & 0xffff_ffff_ffff)
    });
    format!("{host}-{own}")
}

/// An empty answer that came sooner is waited out, so that a server without long polling is not flooded.
const SHORTEST_POLL: Duration = Duration::from_millis(900);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
const ACKNOWLEDGE_PAUSE: Duration = Duration::from_millis(250);
/// An item that was handed out and not acknowledged is handed out anew after 5 s.
const ACKNOWLEDGE_TIME: Duration = Duration::from_secs(4);
const USAGE: u8 = 2;
const NOT_REACHABLE: u8 = 3;
const SECOND_SIGNAL: u8 = 130;

#[cfg(test)]
mod tests;
