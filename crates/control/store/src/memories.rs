//! Memories: texts at paths of a store. Each change leaves a version; each text is kept once, under its SHA-256.

pub mod listing;
pub mod versions;

#[cfg(test)]
mod tests;

use aws_lc_rs::digest::{SHA256, digest};
use postern_model::ids::{MemoryId, MemoryStoreId, MemoryVersionId, WorkspaceId};
use postern_model::memory::{
    Actor, ContentDigest, CreateMemory, MAX_MEMORIES, Memory, MemoryPath, MemoryTag, Operation, UpdateMemory, View,
};
use postern_model::problem::Kind;
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{instant, micros, parsed};
use crate::{Connection, StoreError, Tx, memory_stores};

/// Who changes a memory of which store, and when.
#[derive(Clone, Copy, Debug)]
pub struct Change<'a> {
    /// Whose store.
    pub workspace: &'a WorkspaceId,
    /// Which one.
    pub store: &'a MemoryStoreId,
    /// Who.
    pub by: &'a Actor,
    /// When.
    pub now: Timestamp,
}

/// Stores a new memory and its first version.
///
/// # Errors
/// Refused with 404, 400 (`memory_store_archived`, `memory_store_full`, limits) or 409 (the path is taken); or the database failed.
pub async fn create(tx: &mut Tx, change: Change<'_>, body: CreateMemory) -> Result<Memory, StoreError> {
    let (path, content) = body.checked()?;
    memory_stores::active(tx, change.workspace, change.store).await?;
    check_free(tx, change.store, &path).await?;
    check_room(tx, change.store).await?;
    let memory = Memory {
        id: MemoryId::generate(),
        kind: MemoryTag::Memory,
        memory_store_id: change.store.clone(),
        memory_version_id: MemoryVersionId::generate(),
        path,
        content_sha256: digest_of(&content),
        content_size_bytes: content.len() as u64,
        created_at: change.now,
        updated_at: change.now,
        content: Some(content),
    };
    sqlx::query(
        "INSERT INTO memories (workspace_id, id, memory_store_id, version_id, path, content_sha256, content_size, created_at, \
           updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?8)",
    )
    .bind(change.workspace.as_str())
    .bind(memory.id.as_str())
    .bind(change.store.as_str())
    .bind(memory.memory_version_id.as_str())
    .bind(memory.path.as_str())
    .bind(memory.content_sha256.as_str())
    .bind(size(&memory))
    .bind(micros(change.now))
    .execute(&mut **tx)
    .await?;
    versions::record(tx, change, &memory, Operation::Created).await?;
    Ok(memory)
}

/// One memory.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    store: &MemoryStoreId,
    id: &MemoryId,
    view: View,
) -> Result<Memory, StoreError> {
    let row = sqlx::query("SELECT * FROM memories WHERE memory_store_id = ?1 AND id = ?2")
        .bind(store.as_str())
        .bind(id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    let found = row.as_ref().map(memory).transpose()?;
    let mut memory = found.ok_or_else(|| Problem::not_found(format!("Memory {id} was not found.")))?;
    if view == View::Full {
        memory.content = Some(content(connection, store, &memory.content_sha256).await?);
    }
    Ok(memory)
}

/// Changes content or path; what changes nothing leaves no version.
///
/// # Errors
/// Refused with 404, 400 (`memory_store_archived`, `memory_store_full`, limits) or 409 (the precondition fails, the path is taken); or the database failed.
pub async fn update(tx: &mut Tx, change: Change<'_>, id: &MemoryId, body: UpdateMemory) -> Result<Memory, StoreError> {
    let wanted = body.checked()?;
    memory_stores::active(tx, change.workspace, change.store).await?;
    let stored = required(tx, change.store, id, View::Full).await?;
    check_expected(&stored, wanted.expected.as_ref())?;
    let path = wanted.path.unwrap_or_else(|| stored.path.clone());
    let content = wanted.content.or_else(|| stored.content.clone()).unwrap_or_default();
    let content_sha256 = digest_of(&content);
    if (&path, &content_sha256) == (&stored.path, &stored.content_sha256) {
        return Ok(stored);
    }
    if path != stored.path {
        check_free(tx, change.store, &path).await?;
    }
    let memory = Memory {
        memory_version_id: MemoryVersionId::generate(),
        path,
        content_sha256,
        content_size_bytes: content.len() as u64,
        updated_at: change.now,
        content: Some(content),
        ..stored.clone()
    };
    replace(tx, &stored, &memory).await?;
    versions::record(tx, change, &memory, Operation::Modified).await?;
    Ok(memory)
}

/// Deletes a memory; its versions stay, with one more that says so.
///
/// # Errors
/// Refused with 404 or 409 (the content is not the expected one); or the database failed.
pub async fn delete(
    tx: &mut Tx,
    change: Change<'_>,
    id: &MemoryId,
    expected: Option<&ContentDigest>,
) -> Result<(), StoreError> {
    memory_stores::required(tx, change.workspace, change.store).await?;
    let stored = required(tx, change.store, id, View::Basic).await?;
    check_expected(&stored, expected)?;
    let gone = sqlx::query("DELETE FROM memories WHERE id = ?1 AND version_id = ?2")
        .bind(id.as_str())
        .bind(stored.memory_version_id.as_str())
        .execute(&mut **tx)
        .await?;
    check_was_head(gone.rows_affected(), &stored)?;
    let last = Memory { memory_version_id: MemoryVersionId::generate(), ..stored };
    versions::record(tx, change, &last, Operation::Deleted).await
}

/// Writes `memory` over `stored`, unless somebody else did meanwhile.
async fn replace(tx: &mut Tx, stored: &Memory, memory: &Memory) -> Result<(), StoreError> {
    let replaced = sqlx::query(
        "UPDATE memories SET version_id = ?3, path = ?4, content_sha256 = ?5, content_size = ?6, updated_at = ?7 \
         WHERE id = ?1 AND version_id = ?2",
    )
    .bind(stored.id.as_str())
    .bind(stored.memory_version_id.as_str())
    .bind(memory.memory_version_id.as_str())
    .bind(memory.path.as_str())
    .bind(memory.content_sha256.as_str())
    .bind(size(memory))
    .bind(micros(memory.updated_at))
    .execute(&mut **tx)
    .await?;
    check_was_head(replaced.rows_affected(), stored)
}

fn check_expected(stored: &Memory, expected: Option<&ContentDigest>) -> Result<(), StoreError> {
    match expected {
        Some(expected) if *expected != stored.content_sha256 => Err(changed(stored).into()),
        Some(_) | None => Ok(()),
    }
}

/// SQLite has one writer, who has read what it writes over; a database with more shows here who was first.
fn check_was_head(rows: u64, stored: &Memory) -> Result<(), StoreError> {
    if rows == 1 { Ok(()) } else { Err(changed(stored).into()) }
}

fn changed(stored: &Memory) -> Problem {
    let message =
        format!("Memory {} has another content than expected. Read it again and repeat the change.", stored.id);
    Problem::new(Kind::MemoryPreconditionFailed, message)
}

async fn check_free(tx: &mut Tx, store: &MemoryStoreId, path: &MemoryPath) -> Result<(), StoreError> {
    let taken: Option<String> = sqlx::query_scalar("SELECT id FROM memories WHERE memory_store_id = ?1 AND path = ?2")
        .bind(store.as_str())
        .bind(path.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(id) = taken else { return Ok(()) };
    let problem = Problem::new(Kind::MemoryPathConflict, format!("Memory {id} already lies at `{path}`."));
    Err(problem.with_detail("conflicting_memory_id", id).with_detail("conflicting_path", path.as_str()).into())
}

async fn check_room(tx: &mut Tx, store: &MemoryStoreId) -> Result<(), StoreError> {
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM memories WHERE memory_store_id = ?1")
        .bind(store.as_str())
        .fetch_one(&mut **tx)
        .await?;
    if parsed(u64::try_from(count), "a count of memories")? < MAX_MEMORIES {
        return Ok(());
    }
    let message = format!("Memory store {store} holds {MAX_MEMORIES} memories, the most it can. Delete some first.");
    Err(Problem::invalid(message).with_code("memory_store_full").into())
}

async fn content(
    connection: &mut Connection,
    store: &MemoryStoreId,
    sha256: &ContentDigest,
) -> Result<String, StoreError> {
    let content = sqlx::query_scalar("SELECT content FROM memory_contents WHERE memory_store_id = ?1 AND sha256 = ?2")
        .bind(store.as_str())
        .bind(sha256.as_str())
        .fetch_optional(connection)
        .await?;
    content.ok_or(StoreError::Corrupt { what: "memory_contents.content" })
}

/// The SHA-256 of a text.
pub fn digest_of(content: &str) -> ContentDigest {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest(&SHA256, content.as_bytes()).as_ref());
    ContentDigest::from_bytes(bytes)
}

fn size(memory: &Memory) -> i64 {
    i64::try_from(memory.content_size_bytes).unwrap_or(i64::MAX)
}

fn memory(row: &SqliteRow) -> Result<Memory, StoreError> {
    let size: i64 = row.try_get("content_size")?;
    Ok(Memory {
        id: parsed(MemoryId::parse(row.try_get("id")?), "memories.id")?,
        kind: MemoryTag::Memory,
        memory_store_id: parsed(MemoryStoreId::parse(row.try_get("memory_store_id")?), "memories.memory_store_id")?,
        memory_version_id: parsed(MemoryVersionId::parse(row.try_get("version_id")?), "memories.version_id")?,
        path: parsed(MemoryPath::parse(row.try_get("path")?), "memories.path")?,
        content_sha256: parsed(ContentDigest::parse(row.try_get("content_sha256")?, ""), "memories.content_sha256")?,
        content_size_bytes: parsed(u64::try_from(size), "memories.content_size")?,
        created_at: instant(row.try_get("created_at")?, "memories.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "memories.updated_at")?,
        content: None,
    })
}
