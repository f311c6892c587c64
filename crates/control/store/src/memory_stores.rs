//! Memory stores, and which of them a session may use.

use postern_model::ids::{MemoryStoreId, SessionId, WorkspaceId};
use postern_model::memory::{
    Access, CreateMemoryStore, MemoryStore, MemoryStoreTag, StoreDefinition, UpdateMemoryStore,
};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::ListQuery;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, webhooks};

/// Stores a new memory store.
///
/// # Errors
/// Refused with 400 (limits); or the database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    body: CreateMemoryStore,
    now: Timestamp,
) -> Result<MemoryStore, StoreError> {
    let StoreDefinition { name, description, metadata } = body.checked()?;
    let row = sqlx::query(
        "INSERT INTO memory_stores (workspace_id, id, name, description, metadata, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) RETURNING *",
    )
    .bind(workspace.as_str())
    .bind(MemoryStoreId::generate().as_str())
    .bind(name)
    .bind(description)
    .bind(json(&metadata))
    .bind(micros(now))
    .fetch_one(&mut **tx)
    .await?;
    let store = memory_store(&row)?;
    webhooks::announce(tx, workspace, Subject::new(Happening::MemoryStoreCreated, &store.id), now).await?;
    Ok(store)
}

/// One memory store, archived or not.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &MemoryStoreId,
) -> Result<MemoryStore, StoreError> {
    let row = sqlx::query("SELECT * FROM memory_stores WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    let found = row.as_ref().map(memory_store).transpose()?;
    found.ok_or_else(|| not_found(id).into())
}

/// One memory store that is not archived.
///
/// # Errors
/// Refused with 404, or 400 `memory_store_archived`; or the database failed.
pub async fn active(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &MemoryStoreId,
) -> Result<MemoryStore, StoreError> {
    let store = required(connection, workspace, id).await?;
    if store.archived_at.is_some() {
        let message = format!("Memory store {id} is archived for good; it can be read and its memories deleted.");
        return Err(Problem::invalid(message).with_code("memory_store_archived").into());
    }
    Ok(store)
}

/// Makes a store one of a session's resources.
///
/// # Errors
/// The database failed.
pub async fn attach(tx: &mut Tx, store: &MemoryStoreId, session: &SessionId, access: Access) -> Result<(), StoreError> {
    sqlx::query("INSERT INTO session_memory_stores (session_id, memory_store_id, access) VALUES (?1, ?2, ?3)")
        .bind(session.as_str())
        .bind(store.as_str())
        .bind(access.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// What a session may do with a store: nothing unless the store is one of its resources.
///
/// # Errors
/// The database failed.
pub async fn may_session_touch(
    connection: &mut Connection,
    store: &MemoryStoreId,
    session: &SessionId,
) -> Result<Option<Access>, StoreError> {
    let access: Option<String> =
        sqlx::query_scalar("SELECT access FROM session_memory_stores WHERE session_id = ?1 AND memory_store_id = ?2")
            .bind(session.as_str())
            .bind(store.as_str())
            .fetch_optional(connection)
            .await?;
    let corrupt = StoreError::Corrupt { what: "session_memory_stores.access" };
    access.map(|word| Access::parse(&word).ok_or(corrupt)).transpose()
}

/// Applies an update.
///
/// # Errors
/// Refused with 404 or 400 (`memory_store_archived`, limits); or the database failed.
pub async fn update(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &MemoryStoreId,
    body: UpdateMemoryStore,
    now: Timestamp,
) -> Result<MemoryStore, StoreError> {
    let stored = active(tx, workspace, id).await?;
    let StoreDefinition { name, description, metadata } = body.apply(&stored)?;
    if (&name, &description, &metadata) == (&stored.name, &stored.description, &stored.metadata) {
        return Ok(stored);
    }
    sqlx::query("UPDATE memory_stores SET name = ?2, description = ?3, metadata = ?4, updated_at = ?5 WHERE id = ?1")
        .bind(id.as_str())
        .bind(name)
        .bind(description)
        .bind(json(&metadata))
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    required(tx, workspace, id).await
}

/// Archives a memory store for good. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn archive(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &MemoryStoreId,
    now: Timestamp,
) -> Result<MemoryStore, StoreError> {
    let stored = required(tx, workspace, id).await?;
    if stored.archived_at.is_some() {
        return Ok(stored);
    }
    sqlx::query("UPDATE memory_stores SET archived_at = ?2, updated_at = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::MemoryStoreArchived, id), now).await?;
    required(tx, workspace, id).await
}

/// Removes a memory store with its memories, their versions, and what sessions might do with it.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn delete(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &MemoryStoreId,
    now: Timestamp,
) -> Result<(), StoreError> {
    required(tx, workspace, id).await?;
    sqlx::query("DELETE FROM memory_stores WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::MemoryStoreDeleted, id), now).await
}

/// One page of memory stores, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<MemoryStore>, StoreError> {
    let (key, id) = query.below();
    let (least, most) = query.created_at.micros();
    let rows = sqlx::query(
        "SELECT * FROM memory_stores WHERE workspace_id = ?1 AND (created_at < ?2 OR (created_at = ?2 AND id < ?3)) \
           AND created_at BETWEEN ?4 AND ?5 AND (?6 OR archived_at IS NULL) ORDER BY created_at DESC, id DESC LIMIT ?7",
    )
    .bind(workspace.as_str())
    .bind(key)
    .bind(id)
    .bind(least)
    .bind(most)
    .bind(query.include_archived)
    .bind(query.limit_plus_one())
    .fetch_all(connection)
    .await?;
    rows.iter().map(memory_store).collect()
}

/// What a caller is told of a store that is not there, or that it may not know of.
pub fn not_found(id: &MemoryStoreId) -> Problem {
    Problem::not_found(format!("Memory store {id} was not found."))
}

fn memory_store(row: &SqliteRow) -> Result<MemoryStore, StoreError> {
    Ok(MemoryStore {
        id: parsed(MemoryStoreId::parse(row.try_get("id")?), "memory_stores.id")?,
        kind: MemoryStoreTag::MemoryStore,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        metadata: from_json(row.try_get("metadata")?, "memory_stores.metadata")?,
        created_at: instant(row.try_get("created_at")?, "memory_stores.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "memory_stores.updated_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "memory_stores.archived_at")?,
    })
}
