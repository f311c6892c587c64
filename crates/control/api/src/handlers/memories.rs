//! The memories of a store (contract 1.12): for clients, and for the workers of sessions that have the store.

use postern_model::ids::{MemoryId, MemoryStoreId, MemoryVersionId};
use postern_model::memory::{
    ContentDigest, CreateMemory, Memory, MemoryListItem, MemoryTag, PathPrefix, UpdateMemory, View,
};
use postern_model::page::{Cursor, Direction, Order, Page};
use postern_model::{Problem, Timestamp};
use postern_store::memories::{self, listing};
use serde::{Deserialize, Serialize};

use super::Deleted;
use super::memory_stores::{Use, actor, change, page_length, usable, view};
use crate::app::problem;
use crate::body;
use crate::dispatch::Call;
use crate::query::Query;
use crate::reply::Reply;

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let view = view(&mut call.query, View::Basic)?;
    call.finish_query()?;
    let (by, body) = (actor(&call.caller)?, call.body::<CreateMemory>()?);
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let store = usable(&call, &mut tx, Use::Write).await?;
    let memory = memories::create(&mut tx, change(&call, &store, &by), body).await.map_err(problem)?;
    call.remember(&mut tx, &Kept::of(&memory)).await?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&seen(memory, view))
}

/// What is kept of the answer to a creation with a key: nothing that a redaction would have to find.
#[derive(Serialize, Deserialize)]
struct Kept {
    id: MemoryId,
    memory_store_id: MemoryStoreId,
    memory_version_id: MemoryVersionId,
    created_at: Timestamp,
}

impl Kept {
    fn of(memory: &Memory) -> Self {
        Self {
            id: memory.id.clone(),
            memory_store_id: memory.memory_store_id.clone(),
            memory_version_id: memory.memory_version_id.clone(),
            created_at: memory.created_at,
        }
    }

    /// The memory as it was made from this body.
    fn made(self, body: CreateMemory) -> Result<Memory, Problem> {
        let (path, content) = body.checked()?;
        Ok(Memory {
            id: self.id,
            kind: MemoryTag::Memory,
            memory_store_id: self.memory_store_id,
            memory_version_id: self.memory_version_id,
            path,
            content_sha256: memories::digest_of(&content),
            content_size_bytes: content.len() as u64,
            created_at: self.created_at,
            updated_at: self.created_at,
            content: Some(content),
        })
    }
}

/// The answer to a creation that comes again with its query and its body, from what was kept of it.
pub(crate) fn told_again(kept: &str, query: &str, body: &[u8]) -> Result<Vec<u8>, Problem> {
    let kept: Kept = serde_json::from_str(kept).map_err(|_| Problem::internal())?;
    let view = view(&mut Query::parse(query)?, View::Basic)?;
    let memory = seen(kept.made(body::parse(body)?)?, view);
    serde_json::to_vec(&memory).map_err(|_| Problem::internal())
}

pub(crate) async fn get(mut call: Call) -> Result<Reply, Problem> {
    let view = view(&mut call.query, View::Full)?;
    call.finish_query()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let store = usable(&call, &mut connection, Use::Read).await?;
    let id = id(&call)?;
    Reply::json(&memories::required(&mut connection, &store, &id, view).await.map_err(problem)?)
}

pub(crate) async fn update(mut call: Call) -> Result<Reply, Problem> {
    let view = view(&mut call.query, View::Basic)?;
    call.finish_query()?;
    let (by, body) = (actor(&call.caller)?, call.body::<UpdateMemory>()?);
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let store = usable(&call, &mut tx, Use::Write).await?;
    let id = id(&call)?;
    let memory = memories::update(&mut tx, change(&call, &store, &by), &id, body).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&seen(memory, view))
}

pub(crate) async fn delete(mut call: Call) -> Result<Reply, Problem> {
    const EXPECTED: &str = "expected_content_sha256";
    let expected = call.query.text(EXPECTED)?.map(|text| ContentDigest::parse(&text, EXPECTED)).transpose()?;
    let by = actor(&call.caller)?;
    call.expect_no_body()?;
    call.finish_query()?;
    let mut tx = call.app.store.write().await.map_err(problem)?;
    let store = usable(&call, &mut tx, Use::Write).await?;
    let id = id(&call)?;
    memories::delete(&mut tx, change(&call, &store, &by), &id, expected.as_ref()).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Reply::json(&Deleted { id: id.as_str(), kind: "memory_deleted" })
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let view = view(&mut call.query, View::Basic)?;
    let limit = page_length(call.query.limit(20, 100)?, view);
    let prefix = call.query.text("path_prefix")?.map(|text| PathPrefix::parse(&text)).transpose()?.unwrap_or_default();
    let depth = depth(&mut call.query)?;
    let page = call.query.text("page")?;
    call.finish_query()?;
    let mut connection = call.app.store.read().await.map_err(problem)?;
    let store = usable(&call, &mut connection, Use::Read).await?;
    let position = Position { list: format!("memories:{store}"), filters: format!("{depth:?} {}", prefix.as_str()) };
    let after = page.map(|text| position.read(&text)).transpose()?;
    let query = listing::MemoryQuery { prefix, depth, after, limit, view };
    let found = listing::list(&mut connection, &store, &query).await.map_err(problem)?;
    Reply::json(&position.page(found, limit))
}

/// What a cursor of one list says besides the path where the page before it ended.
struct Position {
    list: String,
    filters: String,
}

impl Position {
    fn read(&self, text: &str) -> Result<String, Problem> {
        Cursor::decode(text, &self.list, Order::Asc, &self.filters).map(|cursor| cursor.id)
    }

    fn page(self, mut items: Vec<MemoryListItem>, limit: u32) -> Page<MemoryListItem> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let last = items.last().filter(|_| more).map(|item| item.path().to_owned());
        let Self { list, filters } = self;
        let next_page =
            last.map(|id| Cursor { list, order: Order::Asc, direction: Direction::Next, key: 0, id, filters }.encode());
        Page { data: items, next_page }
    }
}

fn depth(query: &mut Query) -> Result<listing::Depth, Problem> {
    Ok(match query.number("depth", 0, 1)? {
        Some(1) => listing::Depth::Children,
        Some(_) | None => listing::Depth::All,
    })
}

fn seen(memory: Memory, view: View) -> Memory {
    match view {
        View::Full => memory,
        View::Basic => Memory { content: None, ..memory },
    }
}

fn id(call: &Call) -> Result<MemoryId, Problem> {
    call.id("memory", "Memory")
}
