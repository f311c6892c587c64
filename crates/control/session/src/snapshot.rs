//! A session's state as text: what a log has come to at one of its events, so that only what follows has to be read.
//!
//! The log stays the truth. A snapshot is of one fold, [`FOLD`], and means nothing to any other; what is not of the log (what
//! runs, what agents and prices are now) is not in it.

use std::borrow::Cow;
use std::io::{self, Write};

use postern_model::Timestamp;
use postern_model::ids::ThreadId;
use serde::{Deserialize, Serialize};

use crate::overall::Overall;
use crate::session::Session;
use crate::sightings::Sightings;
use crate::state::State;
use crate::thread::Thread;
use crate::workflow::Runs;

/// The name of this build's fold: a digest of the sources that it is made of, another for every change of them.
pub const FOLD: &str = env!("POSTERN_FOLD");

/// The largest snapshot, in bytes: several times a conversation that is kept inside a model's window, and what a session remembers
/// of URLs.
const MOST_BYTES: usize = 8 << 20;

/// Why a snapshot is of no use for a session.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// It is not of this shape.
    #[error("the snapshot does not read back")]
    Shape(#[from] serde_json::Error),
    /// It begins with another thread than the session does, or with none.
    #[error("the snapshot is of another session")]
    Stranger,
    /// A thread of it is of an agent that the session's roster does not have.
    #[error("the snapshot has a thread of an agent that is not in the roster")]
    Agent,
}

#[derive(Serialize, Deserialize)]
struct Snapshot<'a> {
    overall: Cow<'a, Overall>,
    sightings: Cow<'a, Sightings>,
    runs: Cow<'a, Runs>,
    threads: Vec<Part<'a>>,
}

/// A thread's part.
#[derive(Serialize, Deserialize)]
struct Part<'a> {
    id: Cow<'a, ThreadId>,
    /// The name of its agent.
    agent: Cow<'a, str>,
    created_at: Option<Timestamp>,
    state: Cow<'a, State>,
}

impl Session {
    /// Whether an accepted event waits to take effect.
    pub fn has_waiting(&self) -> bool {
        self.threads.iter().any(|thread| !thread.state.queue.is_empty())
    }

    /// What the log has come to; `None` where that is larger than a snapshot may be. Of a log with an event that waits it
    /// holds that event too, whose place is still to change: no place says then what is behind the snapshot.
    pub fn snapshot(&self) -> Option<String> {
        let snapshot = Snapshot {
            overall: Cow::Borrowed(&self.overall),
            sightings: Cow::Borrowed(&self.sightings),
            runs: Cow::Borrowed(&self.runs),
            threads: self.threads.iter().map(Part::of).collect(),
        };
        let mut bytes = Bounded(Vec::new());
        serde_json::to_writer(&mut bytes, &snapshot).ok()?;
        String::from_utf8(bytes.0).ok()
    }

    /// Takes in a snapshot in the place of the events before it. On a session whose log is empty; the events behind it are
    /// for [`Session::replay`].
    ///
    /// # Errors
    /// It is none of this session; then the session is as it was.
    pub fn restore(&mut self, snapshot: &str) -> Result<(), Unfit> {
        let Snapshot { overall, sightings, runs, threads } = serde_json::from_str(snapshot)?;
        let mut parts = threads.into_iter();
        let primary = parts.next().filter(|part| *part.id == self.threads[0].id).ok_or(Unfit::Stranger)?;
        // Agents of threads that work for a run are those of its workflow, and all of one run are one.
        self.runs = runs.into_owned();
        for part in parts {
            match self.child(part) {
                Ok(child) => self.threads.push(child),
                Err(unfit) => {
                    self.runs = Runs::default();
                    self.threads.truncate(1);
                    return Err(unfit);
                }
            }
        }
        self.threads[0].state = primary.state.into_owned();
        self.overall = overall.into_owned();
        self.sightings = sightings.into_owned();
        Ok(())
    }

    fn child(&self, part: Part<'_>) -> Result<Thread, Unfit> {
        let agent = self.mind_of(&part.agent, &part.state.origin).ok_or(Unfit::Agent)?;
        let thread = self.child_of(part.id.into_owned(), agent, part.created_at);
        Ok(Thread { state: part.state.into_owned(), ..thread })
    }
}

impl<'a> Part<'a> {
    fn of(thread: &'a Thread) -> Self {
        Self {
            id: Cow::Borrowed(&thread.id),
            agent: Cow::Borrowed(&thread.agent.name),
            created_at: thread.created_at,
            state: Cow::Borrowed(&thread.state),
        }
    }
}

/// Takes so much and no more.
struct Bounded(Vec<u8>);

impl Write for Bounded {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MOST_BYTES {
            return Err(io::Error::from(io::ErrorKind::FileTooLarge));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
