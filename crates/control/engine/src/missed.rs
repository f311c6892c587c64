//! What a reader of a stream missed while it was away: read from the store page by page, as fast as the reader takes it.

use std::collections::VecDeque;

use postern_model::Problem;
use postern_model::ids::SessionId;
use postern_model::page::Order;
use postern_store::events::{self, After, Entry, EventList, Of, WAITING};
use postern_store::{Store, StoreError};

/// How many events are held at once.
const AT_ONCE: u32 = 256;

/// The events between the place a reader saw last and the moment it came back.
#[derive(Debug)]
pub(crate) struct Missed {
    store: Store,
    session: SessionId,
    of: Of,
    /// What was read so far.
    after: After,
    /// Where the live stream begins: the next place, and the next among those that wait.
    end: After,
    read: VecDeque<Entry>,
    is_over: bool,
}

impl Missed {
    /// What lies behind the place `last`, up to `end`.
    ///
    /// # Errors
    /// 400 for a place that the log has not reached.
    pub(crate) fn between(store: &Store, session: &SessionId, of: Of, last: i64, end: After) -> Result<Self, Problem> {
        if !(0..end.place).contains(&last) {
            let message = format!(
                "must be an `id` that a stream of this session showed: 0 to {}. Leave it out, then list the events.",
                end.place - 1
            );
            return Err(Problem::invalid_at("Last-Event-ID", message));
        }
        Ok(Self {
            store: store.clone(),
            session: session.clone(),
            of,
            after: After::START.past(last),
            end,
            read: VecDeque::new(),
            is_over: false,
        })
    }

    /// The next one; `None` once the live stream can go on.
    ///
    /// # Errors
    /// The database failed.
    pub(crate) async fn next(&mut self) -> Result<Option<Entry>, StoreError> {
        loop {
            if let Some(entry) = self.read.pop_front() {
                return Ok(Some(entry));
            }
            if self.is_over {
                return Ok(None);
            }
            self.read_on().await?;
        }
    }

    async fn read_on(&mut self) -> Result<(), StoreError> {
        let wanted = EventList {
            of: self.of.clone(),
            after: Some(self.after),
            limit: AT_ONCE,
            order: Order::Asc,
            ..EventList::default()
        };
        let mut reader = self.store.read().await?;
        let entries = events::list(&mut reader, &self.session, &wanted).await?;
        drop(reader);
        self.is_over = entries.len() <= usize::try_from(AT_ONCE).unwrap_or(usize::MAX);
        for entry in entries {
            self.after = self.after.past(entry.seq);
            // Whatever came since is shown by the live stream.
            let end = if entry.seq < WAITING { self.end.place } else { self.end.waiting };
            if entry.seq < end {
                self.read.push_back(entry);
            }
        }
        Ok(())
    }
}
