//! Versions: who changed a memory, when and to what. Redacting one is the only change that it can have.

use std::time::Duration;

use postern_model::ids::{MemoryId, MemoryStoreId, MemoryVersionId};
use postern_model::memory::{
    ContentDigest, MAX_STORE_BYTES, Memory, MemoryPath, MemoryVersion, MemoryVersionTag, Operation, View,
};
use postern_model::{Problem, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use super::{Change, content, size};
use crate::list::ListQuery;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, memory_stores};

/// How long a version is kept at least.
const KEPT_FOR: Duration = Duration::from_secs(30 * 24 * 3600);
/// How many versions of a memory are kept however old they are.
const KEPT_ALWAYS: i64 = 10;
/// What a version counts besides its text: its path, and who wrote it.
const VERSION_BYTES: i64 = 1024;

/// Which versions a list shows.
#[derive(Clone, Debug, Default)]
pub struct VersionFilter {
    /// Only those of this memory.
    pub memory_id: Option<String>,
    /// Only those that this API key wrote.
    pub api_key_id: Option<String>,
    /// Only those that this session wrote.
    pub session_id: Option<String>,
    /// Only those that this service account wrote: none, for this server has no such accounts.
    pub service_account_id: Option<String>,
    /// Only this kind of change.
    pub operation: Option<Operation>,
}

/// Stores the version that `memory` is now, and forgets what is older than it must be.
///
/// # Errors
/// Refused with 400 `memory_store_full` where the store then keeps more than it may; or the database failed.
pub(super) async fn record(
    tx: &mut Tx,
    change: Change<'_>,
    memory: &Memory,
    operation: Operation,
) -> Result<(), StoreError> {
    let stays = operation != Operation::Deleted;
    if let Some(content) = memory.content.as_ref().filter(|_| stays) {
        keep(tx, change, &memory.content_sha256, content).await?;
    }
    sqlx::query(
        "INSERT INTO memory_versions (workspace_id, id, memory_store_id, memory_id, operation, path, content_sha256, content_size, \
           created_by, api_key_id, session_id, created_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
    )
    .bind(change.workspace.as_str())
    .bind(memory.memory_version_id.as_str())
    .bind(change.store.as_str())
    .bind(memory.id.as_str())
    .bind(operation.as_str())
    .bind(memory.path.as_str())
    .bind(stays.then(|| memory.content_sha256.as_str()))
    .bind(stays.then(|| size(memory)))
    .bind(json(change.by))
    .bind(change.by.api_key().map(|key| key.as_str()))
    .bind(change.by.session().map(|session| session.as_str()))
    .bind(micros(change.now))
    .execute(&mut **tx)
    .await?;
    count(tx, change.store, VERSION_BYTES).await?;
    forget_old(tx, change, memory).await?;
    // A deletion is of something that fitted.
    if stays { check_kept(tx, change.store).await } else { Ok(()) }
}

async fn check_kept(tx: &mut Tx, store: &MemoryStoreId) -> Result<(), StoreError> {
    let kept = count(tx, store, 0).await?;
    if parsed(u64::try_from(kept), "memory_stores.kept_bytes")? <= MAX_STORE_BYTES {
        return Ok(());
    }
    let message = format!(
        "Memory store {store} keeps {} MiB, the most it can, with the former versions of its memories. Redact versions that \
         are not needed, or begin another store: a version is kept for 30 days at least.",
        MAX_STORE_BYTES / (1024 * 1024)
    );
    Err(Problem::invalid(message).with_code("memory_store_full").into())
}

/// Counts what a store keeps from now on more, or less. Returns how much that is.
async fn count(tx: &mut Tx, store: &MemoryStoreId, more: i64) -> Result<i64, StoreError> {
    let kept =
        sqlx::query_scalar("UPDATE memory_stores SET kept_bytes = kept_bytes + ?2 WHERE id = ?1 RETURNING kept_bytes")
            .bind(store.as_str())
            .bind(more)
            .fetch_one(&mut **tx)
            .await?;
    Ok(kept)
}

/// One version.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    store: &MemoryStoreId,
    id: &MemoryVersionId,
    view: View,
) -> Result<MemoryVersion, StoreError> {
    let row = sqlx::query("SELECT * FROM memory_versions WHERE memory_store_id = ?1 AND id = ?2")
        .bind(store.as_str())
        .bind(id.as_str())
        .fetch_optional(&mut *connection)
        .await?;
    let found = row.as_ref().map(version).transpose()?;
    let version = found.ok_or_else(|| not_found(id))?;
    shown(connection, version, view).await
}

/// What is said of a version that no memory has.
pub fn not_found(id: &MemoryVersionId) -> Problem {
    Problem::not_found(format!("Memory version {id} was not found."))
}

/// One page of versions, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    store: &MemoryStoreId,
    query: &ListQuery,
    filter: &VersionFilter,
    view: View,
) -> Result<Vec<MemoryVersion>, StoreError> {
    if filter.service_account_id.is_some() {
        return Ok(Vec::new());
    }
    let ((key, id), (least, most)) = (query.below(), query.created_at.micros());
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM memory_versions WHERE memory_store_id = ");
    sql.push_bind(store.as_str()).push(" AND (created_at, id) < (").push_bind(key).push(", ").push_bind(id);
    sql.push(") AND created_at BETWEEN ").push_bind(least).push(" AND ").push_bind(most);
    for (column, wanted) in [
        (" AND memory_id = ", filter.memory_id.as_deref()),
        (" AND api_key_id = ", filter.api_key_id.as_deref()),
        (" AND session_id = ", filter.session_id.as_deref()),
        (" AND operation = ", filter.operation.map(Operation::as_str)),
    ] {
        if let Some(wanted) = wanted {
            sql.push(column).push_bind(wanted);
        }
    }
    sql.push(" ORDER BY created_at DESC, id DESC LIMIT ").push_bind(query.limit_plus_one());
    let rows = sql.build().fetch_all(&mut *connection).await?;
    let mut versions = Vec::with_capacity(rows.len());
    for row in &rows {
        versions.push(shown(connection, version(row)?, view).await?);
    }
    Ok(versions)
}

/// Takes path and content out of a version for good. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404, or 400 `memory_version_is_current`; or the database failed.
pub async fn redact(tx: &mut Tx, change: Change<'_>, id: &MemoryVersionId) -> Result<MemoryVersion, StoreError> {
    memory_stores::required(tx, change.workspace, change.store).await?;
    let stored = required(tx, change.store, id, View::Basic).await?;
    if stored.redacted_at.is_some() {
        return Ok(stored);
    }
    check_not_head(tx, id).await?;
    sqlx::query(
        "UPDATE memory_versions SET path = NULL, content_sha256 = NULL, content_size = NULL, redacted_at = ?2, redacted_by = ?3 \
         WHERE id = ?1",
    )
    .bind(id.as_str())
    .bind(micros(change.now))
    .bind(json(change.by))
    .execute(&mut **tx)
    .await?;
    forget_contents(tx, change.store).await?;
    required(tx, change.store, id, View::Basic).await
}

async fn check_not_head(tx: &mut Tx, id: &MemoryVersionId) -> Result<(), StoreError> {
    let memory: Option<String> = sqlx::query_scalar("SELECT id FROM memories WHERE version_id = ?1")
        .bind(id.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let Some(memory) = memory else { return Ok(()) };
    let message = format!("Version {id} is what memory {memory} says now. Change or delete the memory first.");
    Err(Problem::invalid(message).with_code("memory_version_is_current").into())
}

async fn keep(tx: &mut Tx, change: Change<'_>, sha256: &ContentDigest, content: &str) -> Result<(), StoreError> {
    let kept = sqlx::query(
        "INSERT INTO memory_contents (workspace_id, memory_store_id, sha256, content) VALUES (?1, ?2, ?3, ?4) \
         ON CONFLICT (memory_store_id, sha256) DO NOTHING",
    )
    .bind(change.workspace.as_str())
    .bind(change.store.as_str())
    .bind(sha256.as_str())
    .bind(content)
    .execute(&mut **tx)
    .await?;
    if kept.rows_affected() > 0 {
        count(tx, change.store, i64::try_from(content.len()).unwrap_or(i64::MAX)).await?;
    }
    Ok(())
}

/// Forgets old versions of the memory that was changed, but not its newest; and all old ones of memories that are deleted.
async fn forget_old(tx: &mut Tx, change: Change<'_>, memory: &Memory) -> Result<(), StoreError> {
    let oldest = change.now.saturating_sub(KEPT_FOR).unwrap_or(Timestamp::MIN);
    let of_memory = sqlx::query(
        "DELETE FROM memory_versions WHERE memory_id = ?1 AND created_at < ?2 AND id <> ?3 AND id NOT IN \
           (SELECT id FROM memory_versions WHERE memory_id = ?1 ORDER BY created_at DESC, id DESC LIMIT ?4)",
    )
    .bind(memory.id.as_str())
    .bind(micros(oldest))
    .bind(memory.memory_version_id.as_str())
    .bind(KEPT_ALWAYS)
    .execute(&mut **tx)
    .await?;
    let of_deleted = sqlx::query(
        "DELETE FROM memory_versions WHERE memory_store_id = ?1 AND created_at < ?2 AND NOT EXISTS \
           (SELECT 1 FROM memories WHERE memories.id = memory_versions.memory_id)",
    )
    .bind(change.store.as_str())
    .bind(micros(oldest))
    .execute(&mut **tx)
    .await?;
    let forgotten = of_memory.rows_affected() + of_deleted.rows_affected();
    if forgotten > 0 {
        count(tx, change.store, -VERSION_BYTES * i64::try_from(forgotten).unwrap_or(i64::MAX / VERSION_BYTES)).await?;
        forget_contents(tx, change.store).await?;
    }
    Ok(())
}

/// Forgets the texts that no version has any more.
async fn forget_contents(tx: &mut Tx, store: &MemoryStoreId) -> Result<(), StoreError> {
    let freed: Vec<i64> = sqlx::query_scalar(
        "DELETE FROM memory_contents WHERE memory_store_id = ?1 AND NOT EXISTS (SELECT 1 FROM memory_versions \
           WHERE memory_versions.memory_store_id = ?1 AND memory_versions.content_sha256 = memory_contents.sha256) \
         RETURNING LENGTH(CAST(content AS BLOB))",
    )
    .bind(store.as_str())
    .fetch_all(&mut **tx)
    .await?;
    count(tx, store, -freed.iter().sum::<i64>()).await?;
    Ok(())
}

async fn shown(connection: &mut Connection, version: MemoryVersion, view: View) -> Result<MemoryVersion, StoreError> {
    let content = match (&version.content_sha256, view) {
        (Some(sha256), View::Full) => Some(content(connection, &version.memory_store_id, sha256).await?),
        (Some(_), View::Basic) | (None, _) => None,
    };
    Ok(MemoryVersion { content, ..version })
}

fn version(row: &SqliteRow) -> Result<MemoryVersion, StoreError> {
    let optional = |column: &'static str| row.try_get::<Option<String>, _>(column);
    let size: Option<i64> = row.try_get("content_size")?;
    let digest = |text: &str| ContentDigest::parse(text, "");
    let operation = Operation::parse(row.try_get("operation")?);
    Ok(MemoryVersion {
        id: parsed(MemoryVersionId::parse(row.try_get("id")?), "memory_versions.id")?,
        kind: MemoryVersionTag::MemoryVersion,
        memory_id: parsed(MemoryId::parse(row.try_get("memory_id")?), "memory_versions.memory_id")?,
        memory_store_id: parsed(
            MemoryStoreId::parse(row.try_get("memory_store_id")?),
            "memory_versions.memory_store_id",
        )?,
        operation: operation.ok_or(StoreError::Corrupt { what: "memory_versions.operation" })?,
        created_at: instant(row.try_get("created_at")?, "memory_versions.created_at")?,
        created_by: Some(from_json(row.try_get("created_by")?, "memory_versions.created_by")?),
        path: parsed(optional("path")?.as_deref().map(MemoryPath::parse).transpose(), "memory_versions.path")?,
        content: None,
        content_sha256: parsed(
            optional("content_sha256")?.as_deref().map(digest).transpose(),
            "memory_versions.content_sha256",
        )?,
        content_size_bytes: parsed(size.map(u64::try_from).transpose(), "memory_versions.content_size")?,
        redacted_at: optional_instant(row.try_get("redacted_at")?, "memory_versions.redacted_at")?,
        redacted_by: optional("redacted_by")?
            .map(|text| from_json(&text, "memory_versions.redacted_by"))
            .transpose()?,
    })
}
