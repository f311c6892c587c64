//! Reading sessions and logs: straight from the store, which is never behind what streams have shown.

use std::sync::Arc;

use postern_model::event::{Event, EventBody};
use postern_model::ids::{SessionId, ThreadId, WorkspaceId};
use postern_model::page::{BidirectionalPage, Cursor, Direction, Order, Page};
use postern_model::session::{Session, Thread};
use postern_model::{Problem, Timestamp};
use postern_store::events::{self, After, EventList, Of, WAITING};
use postern_store::list::{self, Range};
use postern_store::sessions::{self, Record, SessionList};
use postern_store::threads::{self, ThreadList};

use crate::query::{EventQuery, SessionQuery, ThreadQuery, TimeRange};
use crate::shared::Shared;
use crate::{problem, session_not_found};

const SESSIONS: &str = "sessions";
const SESSIONS_PER_PAGE: u32 = 20;
const EVENTS_PER_PAGE: u32 = 1000;
const THREADS_PER_PAGE: u32 = 1000;
const MOST_PER_PAGE: u32 = 1000;

pub(crate) async fn record(shared: &Arc<Shared>, workspace: &WorkspaceId, id: &SessionId) -> Result<Record, Problem> {
    let mut reader = shared.store.read().await.map_err(problem)?;
    let found = sessions::find(&mut reader, id).await.map_err(problem)?;
    found.filter(|record| record.workspace_id == *workspace).ok_or_else(|| session_not_found(id))
}

pub(crate) async fn sessions(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    query: &SessionQuery,
) -> Result<BidirectionalPage<Session>, Problem> {
    if query.agent_version.is_some() && query.agent_id.is_none() {
        return Err(Problem::invalid_at("agent_version", "needs `agent_id`"));
    }
    let limit = limit(query.limit, SESSIONS_PER_PAGE)?;
    let created_at = range(&query.created_at);
    let decode = |text: &String| Cursor::decode(text, SESSIONS, query.order, "");
    let cursor = query.page.as_ref().map(decode).transpose()?;
    check_position(cursor.as_ref(), created_at)?;
    let list = SessionList {
        agent_id: query.agent_id.clone(),
        agent_version: query.agent_version,
        deployment_id: query.deployment_id.clone(),
        memory_store_id: query.memory_store_id.clone(),
        created_at,
        include_archived: query.include_archived,
        limit,
        order: query.order,
        cursor: cursor.clone(),
        statuses: query.statuses.clone(),
    };
    let mut reader = shared.store.read().await.map_err(problem)?;
    let records = sessions::list(&mut reader, workspace, &list).await.map_err(problem)?;
    Ok(page_of_sessions(records, limit, query.order, cursor))
}

fn page_of_sessions(
    mut records: Vec<Record>,
    limit: u32,
    order: Order,
    cursor: Option<Cursor>,
) -> BidirectionalPage<Session> {
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let has_more = records.len() > limit;
    records.truncate(limit);
    let backwards = cursor.as_ref().is_some_and(|cursor| cursor.direction == Direction::Prev);
    if backwards {
        records.reverse();
    }
    let (has_next, has_prev) = if backwards { (true, has_more) } else { (has_more, cursor.is_some()) };
    let position = |record: &Record, direction| {
        let (key, id) = (record.created_at.as_microsecond(), record.id.as_str().to_owned());
        Cursor { list: SESSIONS.into(), order, direction, key, id, filters: String::new() }.encode()
    };
    let next_page = records.last().filter(|_| has_next).map(|record| position(record, Direction::Next));
    let prev_page = records.first().filter(|_| has_prev).map(|record| position(record, Direction::Prev));
    let now = Timestamp::now();
    BidirectionalPage { data: records.iter().map(|record| record.render(now)).collect(), next_page, prev_page }
}

pub(crate) async fn events(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    id: &SessionId,
    of: Of,
    query: &EventQuery,
) -> Result<Page<Event>, Problem> {
    let limit = limit(query.limit, EVENTS_PER_PAGE)?;
    if let Some(unknown) = query.types.iter().find(|kind| !EventBody::TYPES.contains(&kind.as_str())) {
        return Err(Problem::invalid_at("types[]", format!("`{unknown}` is no type of event that a list shows")));
    }
    record(shared, workspace, id).await?;
    let list = match &of {
        Of::Session => format!("events:{id}"),
        Of::Thread(thread) => format!("events:{thread}"),
    };
    let decode = |text: &String| Cursor::decode(text, &list, query.order, "");
    let cursor = query.page.as_ref().map(decode).transpose()?;
    let after = cursor.as_ref().map(position).transpose()?;
    let wanted = EventList {
        of,
        processed_at: range(&query.created_at),
        limit,
        order: query.order,
        after,
        types: query.types.clone(),
    };
    let mut reader = shared.store.read().await.map_err(problem)?;
    let mut entries = events::list(&mut reader, id, &wanted).await.map_err(problem)?;
    let has_more = entries.len() > usize::try_from(limit).unwrap_or(usize::MAX);
    entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    let next_page = entries.last().filter(|_| has_more).map(|_| {
        let mut seen = entries.iter().map(|entry| entry.seq);
        let next = match query.order {
            Order::Asc => seen.fold(after.unwrap_or(After::START), After::past),
            Order::Desc => seen.next_back().map_or(After::START, |last| After::START.past(last)),
        };
        next_events(&list, query.order, next)
    });
    Ok(Page { data: entries.into_iter().map(|entry| entry.event).collect(), next_page })
}

pub(crate) async fn threads(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    id: &SessionId,
    query: &ThreadQuery,
) -> Result<Page<Thread>, Problem> {
    let limit = limit(query.limit, THREADS_PER_PAGE)?;
    let session = record(shared, workspace, id).await?;
    let list = format!("threads:{id}");
    let decode = |text: &String| Cursor::decode(text, &list, Order::Asc, "");
    let after = query.page.as_ref().map(decode).transpose()?;
    let wanted = ThreadList { limit, after, statuses: query.statuses.clone() };
    let mut reader = shared.store.read().await.map_err(problem)?;
    let threads = threads::list(&mut reader, &session, &wanted, Timestamp::now()).await.map_err(problem)?;
    let position = |thread: &Thread| (thread.created_at.as_microsecond(), thread.id.to_string());
    Ok(list::page_in(Order::Asc, threads, limit, &list, position))
}

pub(crate) async fn thread(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    id: &SessionId,
    thread: &ThreadId,
) -> Result<Thread, Problem> {
    let session = record(shared, workspace, id).await?;
    let mut reader = shared.store.read().await.map_err(problem)?;
    threads::required(&mut reader, &session, thread, Timestamp::now()).await.map_err(problem)
}

/// A cursor in a log: its key is the place among what took effect, its id the one among what waits. What waited on one
/// page and took effect since is shown again by the next, at its place.
fn next_events(list: &str, order: Order, next: After) -> String {
    let id = if next.waiting < WAITING { String::new() } else { next.waiting.to_string() };
    Cursor { list: list.into(), order, direction: Direction::Next, key: next.place, id, filters: String::new() }
        .encode()
}

fn position(cursor: &Cursor) -> Result<After, Problem> {
    let unreadable = |_| Problem::invalid_at("page", "this is not a cursor of this server");
    let waiting = if cursor.id.is_empty() { WAITING - 1 } else { cursor.id.parse().map_err(unreadable)? };
    Ok(After { place: cursor.key, waiting })
}

fn limit(sent: Option<u32>, default: u32) -> Result<u32, Problem> {
    match sent.unwrap_or(default) {
        limit @ 1..=MOST_PER_PAGE => Ok(limit),
        other => Err(Problem::invalid_at("limit", format!("must be 1 to {MOST_PER_PAGE}, is {other}"))),
    }
}

fn range(sent: &TimeRange) -> Range {
    Range { gt: sent.gt, gte: sent.gte, lt: sent.lt, lte: sent.lte }
}

/// A filter that was moved past the position would skip what lies between.
fn check_position(cursor: Option<&Cursor>, created_at: Range) -> Result<(), Problem> {
    let (least, most) = created_at.micros();
    match cursor {
        Some(cursor) if !(least..=most).contains(&cursor.key) => {
            Err(Problem::invalid_at("page", "this cursor's position is outside the `created_at` filter"))
        }
        _ => Ok(()),
    }
}
