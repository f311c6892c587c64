//! A session's log as stored: ordered by one number per session, which is also the cursor of its list.

use postern_model::Timestamp;
use postern_model::event::{Audience, Event};
use postern_model::ids::{EventId, SessionId, ThreadId, WorkspaceId};
use postern_model::page::Order;
use serde_json::Value;
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::cipher::Cipher;
use crate::list::Range;
use crate::row::{from_json, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, encrypted, webhooks};

/// Where events stand that were accepted and wait: behind everything that took effect.
pub const WAITING: i64 = 1 << 40;

/// Whose log an event goes into.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The workspace.
    pub workspace: WorkspaceId,
    /// The session.
    pub session: SessionId,
    /// The thread.
    pub thread: ThreadId,
    /// The thread that it works for; `None` for the primary one.
    pub parent: Option<ThreadId>,
}

/// Whose events a list shows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Of {
    /// The session's own: its primary thread's, and what it is shown of the others.
    #[default]
    Session,
    /// One thread's.
    Thread(ThreadId),
}

/// Which events a list shows.
#[derive(Clone, Debug, Default)]
pub struct EventList {
    /// Whose.
    pub of: Of,
    /// Only those that took effect in this range.
    pub processed_at: Range,
    /// How many at most.
    pub limit: u32,
    /// Which end comes first.
    pub order: Order,
    /// What the page before this one ended with.
    pub after: Option<After>,
    /// Only these types; empty means all.
    pub types: Vec<String>,
}

/// A position in a log that grows at two ends: behind what took effect, and behind what waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct After {
    /// The last place that was seen of what took effect.
    pub place: i64,
    /// The last place that was seen of what waits, `WAITING - 1` for none.
    pub waiting: i64,
}

impl After {
    /// The position before everything.
    pub const START: Self = Self { place: 0, waiting: WAITING - 1 };

    /// The position once the event at this place was seen, in ascending order.
    #[must_use]
    pub fn past(self, seq: i64) -> Self {
        if seq < WAITING { Self { place: seq, ..self } } else { Self { waiting: seq, ..self } }
    }
}

/// One event of a log with what belongs to it.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Its place in the log.
    pub seq: i64,
    /// The thread that it is of.
    pub thread: ThreadId,
    /// The event.
    pub event: Event,
    /// The model's blocks kept beside it.
    pub kept: Option<Vec<Value>>,
}

/// An event and where it goes.
#[derive(Clone, Debug)]
pub struct Placed<'a> {
    /// Whose log it goes into.
    pub log: Log,
    /// Its place there.
    pub seq: i64,
    /// The event.
    pub event: &'a Event,
    /// Who is shown it.
    pub audience: Audience,
    /// Whether webhooks are told of it, where they have a word for it.
    pub is_news: bool,
}

/// How many events one statement stores: a database takes so many values and no more.
const AT_ONCE: usize = 500;

/// Appends events of one session, each at its place, and notes what they mean to webhooks.
///
/// # Errors
/// The database failed.
pub async fn append(tx: &mut Tx, events: &[Placed<'_>], now: Timestamp) -> Result<(), StoreError> {
    let mut are_heard = false;
    for some in events.chunks(AT_ONCE) {
        are_heard |= insert(tx, some, now).await?;
    }
    if are_heard { webhooks::announce_events(tx, events).await } else { Ok(()) }
}

/// Stores events, and says whether their workspace has a webhook that is told anything: most have none, and whoever
/// asks for that alone waits for one statement more.
async fn insert(tx: &mut Tx, events: &[Placed<'_>], now: Timestamp) -> Result<bool, StoreError> {
    let sealed = |placed: &Placed<'_>| {
        let row = encrypted::of_event(&placed.log.session, &placed.event.id);
        tx.cipher().seal(json(&placed.event.body), encrypted::event(&row))
    };
    let bodies = events.iter().map(sealed).collect::<Result<Vec<String>, StoreError>>()?;
    let mut sql = QueryBuilder::<Sqlite>::new(
        "INSERT INTO session_events (workspace_id, session_id, thread_id, seq, id, type, body, accepted_at, processed_at, \
           in_session) ",
    );
    sql.push_values(events.iter().zip(bodies), |mut row, (Placed { log, seq, event, audience, .. }, body)| {
        row.push_bind(log.workspace.as_str())
            .push_bind(log.session.as_str())
            .push_bind(log.thread.as_str())
            .push_bind(*seq)
            .push_bind(event.id.as_str())
            .push_bind(event.body.kind())
            .push_bind(body)
            .push_bind(micros(now))
            .push_bind(event.processed_at.map(micros))
            .push_bind(*audience == Audience::Session);
    });
    sql.push(
        " RETURNING EXISTS (SELECT 1 FROM webhooks w WHERE w.workspace_id = session_events.workspace_id \
           AND w.state = 'enabled') AS is_heard",
    );
    let rows = sql.build().fetch_all(&mut **tx).await?;
    rows.first().map_or(Ok(false), |row| Ok(row.try_get("is_heard")?))
}

/// Moves an event that waited to the place where it takes effect.
///
/// # Errors
/// The database failed.
pub async fn process(tx: &mut Tx, log: &Log, seq: i64, event: &Event) -> Result<(), StoreError> {
    sqlx::query("UPDATE session_events SET seq = ?3, processed_at = ?4 WHERE session_id = ?1 AND id = ?2")
        .bind(log.session.as_str())
        .bind(event.id.as_str())
        .bind(seq)
        .bind(event.processed_at.map(micros))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Keeps the model's blocks beside an event.
///
/// # Errors
/// The database failed.
pub async fn keep(tx: &mut Tx, log: &Log, event: &EventId, blocks: &[Value]) -> Result<(), StoreError> {
    let row = encrypted::of_event(&log.session, event);
    let blocks = tx.cipher().seal(json(&blocks), encrypted::blocks(&row))?;
    sqlx::query(
        "INSERT INTO model_blocks (workspace_id, session_id, thread_id, event_id, blocks) VALUES (?1, ?2, ?3, ?4, ?5)",
    )
    .bind(log.workspace.as_str())
    .bind(log.session.as_str())
    .bind(log.thread.as_str())
    .bind(event.as_str())
    .bind(blocks)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// A session's log behind a place, in order, for reading it back into a state: from 0 on all of it.
///
/// # Errors
/// The database failed.
pub async fn replay(connection: &mut Connection, session: &SessionId, after: i64) -> Result<Vec<Entry>, StoreError> {
    let cipher = connection.cipher();
    let rows = sqlx::query(
        "SELECT e.seq, e.thread_id, e.id, e.body, e.processed_at, b.blocks FROM session_events e \
         LEFT JOIN model_blocks b ON b.session_id = e.session_id AND b.event_id = e.id \
         WHERE e.session_id = ?1 AND e.seq > ?2 ORDER BY e.seq",
    )
    .bind(session.as_str())
    .bind(after)
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            let entry = entry(row, session, &cipher)?;
            let kept = match row.try_get("blocks")? {
                Some(stored) => {
                    let names = encrypted::of_event(session, &entry.event.id);
                    let text = cipher.open(stored, encrypted::blocks(&names))?;
                    Some(from_json(&text, "model_blocks.blocks")?)
                }
                None => None,
            };
            Ok(Entry { kept, ..entry })
        })
        .collect()
}

/// A page of a session's log, one more than the limit when more follow. Blocks kept beside events are left out.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    session: &SessionId,
    query: &EventList,
) -> Result<Vec<Entry>, StoreError> {
    let cipher = connection.cipher();
    let ascending = query.order == Order::Asc;
    let mut sql = QueryBuilder::<Sqlite>::new(
        "SELECT seq, thread_id, id, body, processed_at FROM session_events WHERE session_id = ",
    );
    sql.push_bind(session.as_str());
    match &query.of {
        Of::Session => sql.push(" AND in_session"),
        Of::Thread(thread) => sql.push(" AND thread_id = ").push_bind(thread.as_str()),
    };
    if query.processed_at != Range::default() {
        let (least, most) = query.processed_at.micros();
        sql.push(" AND processed_at BETWEEN ").push_bind(least).push(" AND ").push_bind(most);
    }
    if !query.types.is_empty() {
        sql.push(" AND type IN (");
        let mut types = sql.separated(", ");
        for kind in &query.types {
            types.push_bind(kind);
        }
        sql.push(")");
    }
    if let Some(after) = query.after {
        if ascending {
            sql.push(" AND seq > ").push_bind(after.place);
            sql.push(" AND (seq < ").push_bind(WAITING).push(" OR seq > ").push_bind(after.waiting).push(")");
        } else {
            sql.push(" AND seq < ").push_bind(if after.waiting < WAITING { after.place } else { after.waiting });
        }
    }
    sql.push(if ascending { " ORDER BY seq LIMIT " } else { " ORDER BY seq DESC LIMIT " });
    sql.push_bind(i64::from(query.limit) + 1);
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(|row| entry(row, session, &cipher)).collect()
}

/// These events of a session, in this order; those that are not there are left out.
///
/// # Errors
/// The database failed.
pub async fn named(
    connection: &mut Connection,
    session: &SessionId,
    ids: &[EventId],
) -> Result<Vec<Event>, StoreError> {
    let cipher = connection.cipher();
    let mut sql = QueryBuilder::<Sqlite>::new(
        "SELECT seq, thread_id, id, body, processed_at FROM session_events WHERE session_id = ",
    );
    sql.push_bind(session.as_str()).push(" AND id IN (");
    let mut listed = sql.separated(", ");
    for id in ids {
        listed.push_bind(id.as_str());
    }
    sql.push(")");
    let rows = sql.build().fetch_all(connection).await?;
    let mut found: Vec<Entry> = rows.iter().map(|row| entry(row, session, &cipher)).collect::<Result<_, _>>()?;
    found.sort_by_key(|entry| ids.iter().position(|id| *id == entry.event.id));
    Ok(found.into_iter().map(|entry| entry.event).collect())
}

fn entry(row: &SqliteRow, session: &SessionId, cipher: &Cipher) -> Result<Entry, StoreError> {
    let id = parsed(EventId::parse(row.try_get("id")?), "session_events.id")?;
    let body = cipher.open(row.try_get("body")?, encrypted::event(&encrypted::of_event(session, &id)))?;
    let event = Event {
        id,
        processed_at: optional_instant(row.try_get("processed_at")?, "session_events.processed_at")?,
        body: from_json(&body, "session_events.body")?,
    };
    let thread = parsed(ThreadId::parse(row.try_get("thread_id")?), "session_events.thread_id")?;
    Ok(Entry { seq: row.try_get("seq")?, thread, event, kept: None })
}
