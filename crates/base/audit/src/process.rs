//! The writer process: role `audit`. One log, one lock, a connection from the worker and those it attaches.
//! What comes together over an attached connection is written together, by one `write`. An answer means that it returned, or that the disk has it where the record asks for that. A second task syncs what was written, within 20 ms, or
//! at once for those who wait; a third signs.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use postern_exec::asynchronous::Channel;
use postern_exec::role::{self, First, Starter};
use postern_exec::rpc;
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use crate::client::Client;
use crate::log::{Log, LogError};
use crate::record::{Durability, Kind, Record};

/// The role's name on the command line.
pub const ROLE: &str = "audit";

/// What the role is told at its start.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// Where the log lives; made 0700 if it is not there.
    pub directory: PathBuf,
}

/// The role's first word.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Started {
    /// The log is open.
    Ready {
        /// The key that signs it, in hexadecimal.
        key: String,
        /// The number of its last record.
        last_seq: u64,
    },
    /// The log cannot be opened, and why.
    Refused {
        /// The whole chain of causes.
        reason: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    /// Records that belong together; the strictest of them says when they are answered.
    Append {
        records: Vec<Record>,
    },
    Checkpoint,
    Attach {
        caller: String,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Appended { seq: u64 },
    Attached,
    Unwritable { reason: String },
    Misused,
}

/// Starts the writer process for a directory and waits until its log is open.
///
/// # Errors
/// [`role::StartError`]; a log that cannot be opened is not an error here but [`Started::Refused`].
pub async fn start(starter: &Starter, directory: &Path) -> Result<(role::Child, Client, Started), role::StartError> {
    start_keeping(starter, directory, &[]).await
}

/// As [`start`], with descriptors that stay open as long as the process lives: a lock that must not be free before it ended.
///
/// # Errors
/// As [`start`].
pub async fn start_keeping(
    starter: &Starter,
    directory: &Path,
    kept: &[BorrowedFd<'_>],
) -> Result<(role::Child, Client, Started), role::StartError> {
    let configuration = Configuration { directory: directory.to_owned() };
    let (child, channel, started) = role::start_and_wait(ROLE, &configuration, starter, kept).await?;
    Ok((child, Client::new(channel), started))
}

/// The role itself; ends when descriptor 0 closes, with a last signature and a sync.
pub async fn process_main(first: First<Configuration>) -> ExitCode {
    let (configuration, _kept, mut channel) = match first.into_parts() {
        Ok(parts) => parts,
        Err(error) => return failed(&error),
    };
    let log = match Log::open(&configuration.directory, Timestamp::now()) {
        Ok(log) => log,
        Err(error) => {
            let refused = Started::Refused { reason: chain(&error) };
            // If the starter is gone too, standard error still has the reason.
            let _gone = channel.send(&refused, &[]).await;
            return failed(&error);
        }
    };
    let ready = Started::Ready { key: log.public_key().to_string(), last_seq: log.last_seq() };
    if let Err(error) = channel.send(&ready, &[]).await {
        return failed(&error);
    }
    run(channel, Writer::new(log)).await
}

/// The log as the tasks share it. The lock is held for one `write`, never across an await.
#[derive(Clone)]
struct Writer {
    log: Arc<Mutex<Log>>,
    written: Arc<Notify>,
    /// Somebody waits for the disk: records are not grouped longer than the sync before takes.
    awaited: Arc<Notify>,
    synced: Arc<watch::Sender<Synced>>,
}

/// How far the log is on the disk.
enum Synced {
    UpTo(u64),
    Failed(String),
}

async fn run(channel: Channel, writer: Writer) -> ExitCode {
    let (attached, attachments) = mpsc::channel(ATTACHMENTS);
    let mut tasks = JoinSet::new();
    tasks.spawn(sync_forever(writer.clone()));
    tasks.spawn(sign_forever(writer.clone()));
    tasks.spawn(serve_attached(attachments, writer.clone()));
    let handler = writer.clone();
    let served = rpc::serve(channel, REQUEST_LIMIT, move |ask, descriptors| {
        let (writer, attached) = (handler.clone(), attached.clone());
        async move { (writer.answer_owner(ask, descriptors, &attached).await, Vec::new()) }
    })
    .await;
    if let Err(error) = served {
        tracing::error!(%error, "the audit process lost its worker");
    }
    tasks.shutdown().await;
    let closed = writer.lock().close(Timestamp::now());
    match closed {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => failed(&error),
    }
}

impl Writer {
    fn new(log: Log) -> Self {
        let synced = watch::Sender::new(Synced::UpTo(0));
        Self {
            log: Arc::new(Mutex::new(log)),
            written: Arc::default(),
            awaited: Arc::default(),
            synced: Arc::new(synced),
        }
    }

    async fn answer_owner(
        &self,
        ask: Ask,
        mut descriptors: Vec<OwnedFd>,
        attached: &mpsc::Sender<(String, OwnedFd)>,
    ) -> Answer {
        match (ask, descriptors.pop()) {
            (Ask::Attach { caller }, Some(socket)) => match attached.send((caller, socket)).await {
                Ok(()) => Answer::Attached,
                Err(_ending) => Answer::Misused,
            },
            (Ask::Attach { .. }, None) => Answer::Misused,
            (Ask::Checkpoint, _) => self.append(|log, now| log.checkpoint(now)),
            (Ask::Append { records }, _) if says_what_the_log_says(&records) => Answer::Misused,
            (Ask::Append { records }, _) => self.append_all(records).await,
        }
    }

    /// What came together over an attached connection: one `write` for all of it.
    fn answer_attached(&self, asks: Vec<Ask>) -> Vec<impl Future<Output = Answer> + Send + use<>> {
        let appends: Vec<_> = asks
            .into_iter()
            .map(|ask| match ask {
                Ask::Append { records } => Some(records).filter(|records| !says_what_the_log_says(records)),
                Ask::Checkpoint | Ask::Attach { .. } => None,
            })
            .collect();
        let durabilities: Vec<_> = appends.iter().map(|records| records.as_deref().map(durability)).collect();
        let mut appended = self.append_groups(appends.into_iter().flatten().collect()).into_iter();
        let answers = durabilities.into_iter().map(|durability| match durability {
            Some(durability) => (durability, appended.next().unwrap_or(Answer::Misused)),
            None => (Durability::Written, Answer::Misused),
        });
        answers.map(|(durability, appended)| self.clone().safe(durability, appended)).collect()
    }

    async fn append_all(&self, records: Vec<Record>) -> Answer {
        let durability = durability(&records);
        let appended = self.append(|log, now| log.append_all(records, now));
        self.clone().safe(durability, appended).await
    }

    /// An answer for each group.
    fn append_groups(&self, groups: Vec<Vec<Record>>) -> Vec<Answer> {
        let count = groups.len();
        if count == 0 {
            return Vec::new();
        }
        let appended = self.lock().append_groups(groups, Timestamp::now());
        self.written.notify_one();
        match appended {
            Ok(last) => last.into_iter().map(|seq| Answer::Appended { seq }).collect(),
            Err(error) => {
                std::iter::repeat_with(|| Answer::Unwritable { reason: error.to_string() }).take(count).collect()
            }
        }
    }

    /// The answer once it is as safe as was asked for.
    async fn safe(self, durability: Durability, appended: Answer) -> Answer {
        match (durability, appended) {
            (Durability::Disk, Answer::Appended { seq }) => self.on_disk(seq).await,
            (Durability::Written | Durability::Disk, answer) => answer,
        }
    }

    /// Waits until the disk has everything up to a record.
    async fn on_disk(&self, seq: u64) -> Answer {
        self.awaited.notify_one();
        let mut synced = self.synced.subscribe();
        let known = synced.wait_for(|synced| match synced {
            Synced::UpTo(last) => *last >= seq,
            Synced::Failed(_) => true,
        });
        match known.await.as_deref() {
            Ok(Synced::UpTo(_)) => Answer::Appended { seq },
            Ok(Synced::Failed(reason)) => Answer::Unwritable { reason: reason.clone() },
            Err(_) => Answer::Unwritable { reason: "the audit process ends".to_owned() },
        }
    }

    fn append(&self, append: impl FnOnce(&mut Log, Timestamp) -> Result<u64, LogError>) -> Answer {
        let appended = append(&mut self.lock(), Timestamp::now());
        self.written.notify_one();
        match appended {
            Ok(seq) => Answer::Appended { seq },
            Err(error) => Answer::Unwritable { reason: error.to_string() },
        }
    }

    fn lock(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether one of them speaks of the log itself, which the log alone does: a checkpoint of anybody else's has no signature, and none after it would hold.
fn says_what_the_log_says(records: &[Record]) -> bool {
    let is_the_logs = |kind| matches!(kind, Kind::Checkpoint | Kind::LogOpened | Kind::LogClosed | Kind::Recovered);
    records.iter().any(|record| is_the_logs(record.kind))
}

/// The strictest of records that belong together says when they are answered.
fn durability(records: &[Record]) -> Durability {
    let for_the_disk = records.iter().any(|record| record.durability == Durability::Disk);
    if for_the_disk { Durability::Disk } else { Durability::Written }
}

/// Serves the connections that the worker attaches for custody, egress and others.
async fn serve_attached(mut attachments: mpsc::Receiver<(String, OwnedFd)>, writer: Writer) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            attachment = attachments.recv() => match attachment {
                Some((caller, socket)) => { connections.spawn(serve_one(caller, socket, writer.clone())); }
                None => return,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn serve_one(caller: String, socket: OwnedFd, writer: Writer) {
    let channel = match Channel::new(socket) {
        Ok(channel) => channel,
        Err(error) => return tracing::error!(%caller, %error, "an attached connection is not a stream socket"),
    };
    let answer = |questions: Vec<(Ask, Vec<OwnedFd>)>| {
        let answers = writer.answer_attached(questions.into_iter().map(|(ask, _)| ask).collect());
        answers.into_iter().map(|answer| async move { (answer.await, Vec::new()) }).collect()
    };
    let served = rpc::serve_together(channel, REQUEST_LIMIT, answer).await;
    if let Err(error) = served {
        tracing::error!(%caller, %error, "an attached connection failed");
    }
}

async fn sync_forever(writer: Writer) {
    loop {
        tokio::select! {
            () = writer.awaited.notified() => {}
            () = grouped(&writer.written) => {}
        }
        let (job, last) = {
            let mut log = writer.lock();
            (log.take_sync(), log.last_seq())
        };
        let Some(job) = job else { continue };
        let synced = tokio::task::spawn_blocking(move || job.run())
            .await
            .unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        match synced {
            Ok(()) => drop(writer.synced.send_replace(Synced::UpTo(last))),
            Err(error) => {
                tracing::error!(%error, "the audit log could not be synced; nothing more is acknowledged until a restart");
                writer.lock().sync_failed(&error);
                writer.synced.send_replace(Synced::Failed(format!("sync failed: {error}")));
            }
        }
    }
}

/// A record was written, and those that follow closely are too.
async fn grouped(written: &Notify) {
    written.notified().await;
    tokio::time::sleep(GROUP).await;
}

async fn sign_forever(writer: Writer) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        seconds.tick().await;
        writer.lock().tick(Timestamp::now());
        writer.written.notify_one();
    }
}

fn failed(error: &dyn std::error::Error) -> ExitCode {
    tracing::error!(error = chain(error), "the audit process ends");
    ExitCode::FAILURE
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

/// Records are grouped this long before a sync; with a disk that syncs in 10 ms, what was acknowledged is on it within 20 ms.
const GROUP: Duration = Duration::from_millis(10);
/// A record cut to its bounds, as JSON with every character escaped, fits.
const REQUEST_LIMIT: usize = 256 << 10;
const ATTACHMENTS: usize = 16;

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;
    use crate::record::Decision;

    fn record(durability: Durability) -> Record {
        Record { durability, ..Record::new(Kind::ToolUse, Decision::Allow) }
    }

    fn writer(directory: &Path) -> Writer {
        Writer::new(Log::open(directory, Timestamp::now()).unwrap())
    }

    #[tokio::test]
    async fn a_record_for_the_disk_is_answered_when_the_disk_has_it_and_others_when_they_are_written() {
        let directory = tempfile::tempdir().unwrap();
        let writer = writer(directory.path());
        let mut context = Context::from_waker(Waker::noop());
        let written = pin!(writer.append_all(vec![record(Durability::Written)])).poll(&mut context);
        assert!(matches!(written, Poll::Ready(Answer::Appended { .. })));
        let mut on_disk = pin!(writer.append_all(vec![record(Durability::Disk)]));
        assert!(on_disk.as_mut().poll(&mut context).is_pending(), "nothing was synced");
        let syncing = tokio::spawn(sync_forever(writer.clone()));
        let last = writer.lock().last_seq();
        assert!(matches!(on_disk.await, Answer::Appended { seq } if seq == last));
        syncing.abort();
    }

    #[tokio::test]
    async fn what_came_together_is_answered_each_by_what_it_asked_for() {
        let directory = tempfile::tempdir().unwrap();
        let writer = writer(directory.path());
        let append = |durability| Ask::Append { records: vec![record(durability)] };
        let before = writer.lock().last_seq();
        let asks =
            vec![append(Durability::Written), Ask::Checkpoint, append(Durability::Disk), append(Durability::Written)];
        let mut answers: Vec<_> = writer.answer_attached(asks).into_iter().map(Box::pin).collect();
        let mut context = Context::from_waker(Waker::noop());
        let mut now = |at: usize| answers[at].as_mut().poll(&mut context);
        assert!(matches!(now(0), Poll::Ready(Answer::Appended { seq }) if seq == before + 1));
        assert!(matches!(now(1), Poll::Ready(Answer::Misused)), "an attached connection may only append");
        assert!(now(2).is_pending(), "nothing was synced");
        assert!(matches!(now(3), Poll::Ready(Answer::Appended { seq }) if seq == before + 3));
        let syncing = tokio::spawn(sync_forever(writer.clone()));
        assert!(matches!(answers.remove(2).await, Answer::Appended { seq } if seq == before + 2));
        syncing.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_waits_for_is_synced_together_a_moment_after_the_first() {
        let directory = tempfile::tempdir().unwrap();
        let writer = writer(directory.path());
        let syncing = tokio::spawn(sync_forever(writer.clone()));
        tokio::task::yield_now().await;
        let began = tokio::time::Instant::now();
        for _ in 0..3 {
            assert!(matches!(writer.append_all(vec![record(Durability::Written)]).await, Answer::Appended { .. }));
        }
        let last = writer.lock().last_seq();
        let mut synced = writer.synced.subscribe();
        let all = synced.wait_for(|synced| matches!(synced, Synced::UpTo(seq) if *seq == last)).await.is_ok();
        let waited = began.elapsed();
        assert!(all && waited >= Duration::from_millis(10) && waited < Duration::from_millis(20), "{waited:?}");
        syncing.abort();
    }

    #[tokio::test]
    async fn a_record_for_the_disk_is_refused_when_the_disk_does_not_take_it() {
        let directory = tempfile::tempdir().unwrap();
        let writer = writer(directory.path());
        writer.synced.send_replace(Synced::Failed("sync failed: no disk".to_owned()));
        let answer = writer.append_all(vec![record(Durability::Disk)]).await;
        assert!(matches!(answer, Answer::Unwritable { reason } if reason.contains("no disk")));
    }

    #[tokio::test]
    async fn nobody_but_the_log_says_what_the_log_says() {
        let directory = tempfile::tempdir().unwrap();
        let writer = writer(directory.path());
        let (attached, _attachments) = mpsc::channel(1);
        let before = writer.lock().last_seq();
        for kind in [Kind::Checkpoint, Kind::LogOpened, Kind::LogClosed, Kind::Recovered] {
            let ask = || Ask::Append { records: vec![record(Durability::Written), Record::new(kind, Decision::Info)] };
            let together = vec![Ask::Append { records: vec![record(Durability::Written)] }, ask()];
            let mut answers = writer.answer_attached(together).into_iter();
            assert!(matches!(answers.next().unwrap().await, Answer::Appended { .. }), "{kind:?}: the other is written");
            assert!(matches!(answers.next().unwrap().await, Answer::Misused), "{kind:?}");
            assert!(matches!(writer.answer_owner(ask(), Vec::new(), &attached).await, Answer::Misused), "{kind:?}");
        }
        assert_eq!(writer.lock().last_seq(), before + 4);
        writer.lock().close(Timestamp::now()).unwrap();
        crate::verify(directory.path()).unwrap();
    }
}
