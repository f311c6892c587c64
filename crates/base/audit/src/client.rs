//! The other processes' side of the log: append one record, and know that it is written.

use std::os::fd::OwnedFd;
use std::pin::Pin;
use std::time::Duration;

use postern_exec::asynchronous::Channel;
use postern_exec::rpc::{CallError, Caller};

use crate::bounds;
use crate::process::{Answer, Ask};
use crate::record::Record;

/// Why a record was not written; whatever it announced must not happen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AuditError {
    /// The log cannot be written to (full, broken, read-only); every append fails until one succeeds or the process is restarted.
    #[error("the audit log cannot be written: {reason}; free space or repair the disk, then try again")]
    Unwritable {
        /// What the writer said.
        reason: String,
    },
    /// The writer process is gone.
    #[error("the audit process is gone; the worker restarts it")]
    Gone,
    /// The writer process did not answer in time; whether the record was written is unknown.
    #[error("the audit process did not answer in time")]
    Late,
    /// This connection may not do that.
    #[error("this connection to the audit process may only append")]
    Misused,
}

/// A connection to the writer process. Clones share it.
#[derive(Clone)]
pub struct Client {
    caller: Caller<Ask, Answer>,
}

/// Whoever takes records: the writer process, or a test's memory.
pub trait Recorder: Send + Sync {
    /// Writes one record and answers its number once it is written.
    fn record(&self, record: Record) -> Recording<'_> {
        self.record_all(vec![record])
    }

    /// Writes records that belong together, one after the other with nothing between them: all of them or none. Answers the last one's number.
    /// The first poll hands them over; what one connection hands over later is written later.
    fn record_all(&self, records: Vec<Record>) -> Recording<'_>;

    /// The same, for whoever goes on only with the answer: they may be handed over together with what others record in this moment, at the latest with
    /// the next that are handed over at their first poll.
    fn record_with_others(&self, records: Vec<Record>) -> Recording<'_> {
        self.record_all(records)
    }
}

/// A record's number, once it is written.
pub type Recording<'a> = Pin<Box<dyn Future<Output = Result<u64, AuditError>> + Send + 'a>>;

impl Client {
    /// Speaks to the writer process over this channel; must be called inside a runtime.
    #[must_use]
    pub fn new(channel: Channel) -> Self {
        Self { caller: Caller::new(channel, ANSWER_LIMIT).with_deadline(DEADLINE) }
    }

    /// Appends a record: its number, once `write` returned (it survives a kill of any process; the disk has it within 20 ms).
    ///
    /// # Errors
    /// [`AuditError`]: then the action that the record announces must not happen.
    pub async fn append(&self, record: &Record) -> Result<u64, AuditError> {
        self.append_all(vec![record.clone()]).await
    }

    async fn append_all(&self, records: Vec<Record>) -> Result<u64, AuditError> {
        appended(self.ask(append(records), Vec::new()).await?)
    }

    async fn append_with_others(&self, records: Vec<Record>) -> Result<u64, AuditError> {
        appended(self.caller.call_with_others(append(records)).await.map_err(not_asked)?)
    }

    /// Writes a signed checkpoint now and syncs the file: for a drain, and before a log is exported.
    ///
    /// # Errors
    /// [`AuditError`].
    pub async fn checkpoint(&self) -> Result<u64, AuditError> {
        appended(self.ask(Ask::Checkpoint, Vec::new()).await?)
    }

    /// Hands the writer process a further connection, for `caller` (its name stands in the writer's own logs). Such a connection may only append.
    ///
    /// # Errors
    /// [`AuditError`]; [`AuditError::Misused`] on a connection that was itself attached.
    pub async fn attach(&self, caller: &str, socket: OwnedFd) -> Result<(), AuditError> {
        match self.ask(Ask::Attach { caller: caller.to_owned() }, vec![socket]).await? {
            Answer::Attached => Ok(()),
            other => Err(refused(other)),
        }
    }

    /// Waits until the writer process is gone.
    pub async fn gone(&self) {
        self.caller.gone().await;
    }

    async fn ask(&self, ask: Ask, descriptors: Vec<OwnedFd>) -> Result<Answer, AuditError> {
        self.caller.call_with_fds(ask, descriptors).await.map(|(answer, _)| answer).map_err(not_asked)
    }
}

fn append(mut records: Vec<Record>) -> Ask {
    records.iter_mut().for_each(bounds::apply);
    Ask::Append { records }
}

fn appended(answer: Answer) -> Result<u64, AuditError> {
    match answer {
        Answer::Appended { seq } => Ok(seq),
        other => Err(refused(other)),
    }
}

fn not_asked(error: CallError) -> AuditError {
    match error {
        CallError::Gone => AuditError::Gone,
        CallError::Late(_) => AuditError::Late,
        CallError::Misread(reason) => AuditError::Unwritable { reason },
        CallError::Channel(error) => AuditError::Unwritable { reason: error.to_string() },
    }
}

impl Recorder for Client {
    fn record_all(&self, records: Vec<Record>) -> Recording<'_> {
        Box::pin(self.append_all(records))
    }

    fn record_with_others(&self, records: Vec<Record>) -> Recording<'_> {
        Box::pin(self.append_with_others(records))
    }
}

fn refused(answer: Answer) -> AuditError {
    match answer {
        Answer::Unwritable { reason } => AuditError::Unwritable { reason },
        Answer::Misused | Answer::Attached | Answer::Appended { .. } => AuditError::Misused,
    }
}

const ANSWER_LIMIT: usize = 16 << 10;
const DEADLINE: Duration = Duration::from_secs(10);
