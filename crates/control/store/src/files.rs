//! Files: uploads of a workspace, and the copies and outputs of its sessions.

use postern_model::file::{FileMetadata, FileScope, FileTag};
use postern_model::ids::{FileId, SessionId, WorkspaceId};
use postern_model::{Problem, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::blobs::{self, Blob};
use crate::list::ListQuery;
use crate::row::{instant, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx};

/// For how long an expired file says that it expired.
const REMEMBERED_MICROS: i64 = 24 * 60 * 60 * 1_000_000;

/// A file as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the contract shows.
    pub metadata: FileMetadata,
    /// Where its bytes are.
    pub blob_id: String,
}

impl Record {
    /// Refuses what has expired.
    ///
    /// # Errors
    /// 404 `file_expired`.
    pub fn unexpired(self, now: Timestamp) -> Result<Self, Problem> {
        match self.metadata.expires_at {
            Some(at) if at <= now => {
                Err(Problem::not_found(format!("File {} expired at {at}.", self.metadata.id)).with_code("file_expired"))
            }
            _ => Ok(self),
        }
    }
}

/// Stores a file whose bytes have arrived.
///
/// # Errors
/// The database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    metadata: &FileMetadata,
    blob: &Blob,
) -> Result<(), StoreError> {
    blobs::complete(tx, workspace, blob, metadata.created_at).await?;
    insert(tx, workspace, &Record { metadata: metadata.clone(), blob_id: blob.id.clone() }, None).await
}

/// Stores what a session put out at a path, in place of what it put out there before.
///
/// # Errors
/// The database failed.
pub async fn put_out(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    metadata: &FileMetadata,
    blob: &Blob,
    path: &str,
) -> Result<(), StoreError> {
    if let Some(FileScope::Session { id }) = &metadata.scope {
        sqlx::query("DELETE FROM files WHERE session_id = ?1 AND output_path = ?2")
            .bind(id.as_str())
            .bind(path)
            .execute(&mut **tx)
            .await?;
    }
    blobs::complete(tx, workspace, blob, metadata.created_at).await?;
    insert(tx, workspace, &Record { metadata: metadata.clone(), blob_id: blob.id.clone() }, Some(path)).await
}

/// How many files a session has put out at other paths than this.
///
/// # Errors
/// The database failed.
pub async fn outputs_besides(connection: &mut Connection, session: &SessionId, path: &str) -> Result<u64, StoreError> {
    // What is no output has no path, and is not another than this one either.
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM files WHERE session_id = ?1 AND output_path <> ?2")
        .bind(session.as_str())
        .bind(path)
        .fetch_one(connection)
        .await?;
    parsed(u64::try_from(count), "a count of files")
}

/// Gives a session its own copy of an upload; the bytes are shared.
///
/// # Errors
/// Refused with 404 `file_not_found`; or the database failed.
pub async fn copy(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    file: &str,
    session: &SessionId,
    now: Timestamp,
) -> Result<FileMetadata, StoreError> {
    let unknown =
        || StoreError::from(Problem::not_found(format!("File {file} was not found.")).with_code("file_not_found"));
    let id = FileId::parse(file).map_err(|_| unknown())?;
    let found = find(tx, workspace, &id).await?.ok_or_else(unknown)?.unexpired(now)?;
    if found.metadata.scope.as_ref().is_some_and(|scope| *scope != (FileScope::Session { id: session.clone() })) {
        return Err(Problem::invalid(format!(
            "File {file} belongs to another session. Download it and upload it to the workspace to use it here."
        ))
        .into());
    }
    let metadata = FileMetadata {
        id: FileId::generate(),
        created_at: now,
        downloadable: false,
        expires_at: None,
        scope: Some(FileScope::Session { id: session.clone() }),
        ..found.metadata
    };
    insert(tx, workspace, &Record { metadata: metadata.clone(), blob_id: found.blob_id }, None).await?;
    Ok(metadata)
}

async fn insert(tx: &mut Tx, workspace: &WorkspaceId, record: &Record, path: Option<&str>) -> Result<(), StoreError> {
    let Record { metadata, blob_id } = record;
    let session = metadata.scope.as_ref().map(|FileScope::Session { id }| id.as_str());
    sqlx::query(
        "INSERT INTO files (workspace_id, id, blob_id, filename, mime_type, size_bytes, downloadable, session_id, output_path, \
           created_at, expires_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )
    .bind(workspace.as_str())
    .bind(metadata.id.as_str())
    .bind(blob_id)
    .bind(&metadata.filename)
    .bind(&metadata.mime_type)
    .bind(i64::try_from(metadata.size_bytes).unwrap_or(i64::MAX))
    .bind(metadata.downloadable)
    .bind(session)
    .bind(path)
    .bind(micros(metadata.created_at))
    .bind(metadata.expires_at.map(micros))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// One file, expired or not.
///
/// # Errors
/// The database failed.
pub async fn find(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &FileId,
) -> Result<Option<Record>, StoreError> {
    let row = sqlx::query("SELECT * FROM files WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(record).transpose()
}

/// One file that has not expired.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &FileId,
    now: Timestamp,
) -> Result<Record, StoreError> {
    let found = find(connection, workspace, id).await?;
    let found = found.ok_or_else(|| Problem::not_found(format!("File {id} was not found.")))?;
    Ok(found.unexpired(now)?)
}

/// One page of files, newest first, and one more when another page follows: those of a session, or those of no session.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
    session: Option<&str>,
    now: Timestamp,
) -> Result<Vec<FileMetadata>, StoreError> {
    let (key, id) = query.below();
    let rows = sqlx::query(
        "SELECT * FROM files WHERE workspace_id = ?1 AND (created_at < ?2 OR (created_at = ?2 AND id < ?3)) \
           AND (expires_at IS NULL OR expires_at > ?4) \
           AND ((?5 IS NULL AND session_id IS NULL) OR session_id = ?5) ORDER BY created_at DESC, id DESC LIMIT ?6",
    )
    .bind(workspace.as_str())
    .bind(key)
    .bind(id)
    .bind(micros(now))
    .bind(session)
    .bind(query.limit_plus_one())
    .fetch_all(connection)
    .await?;
    rows.iter().map(|row| Ok(record(row)?.metadata)).collect()
}

/// The page that ends before a position, newest first, and one more at its start when another precedes it.
///
/// # Errors
/// The database failed.
pub async fn list_before(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
    session: Option<&str>,
    now: Timestamp,
) -> Result<Vec<FileMetadata>, StoreError> {
    let (key, id) = query.below();
    let rows = sqlx::query(
        "SELECT * FROM files WHERE workspace_id = ?1 AND (created_at > ?2 OR (created_at = ?2 AND id > ?3)) \
           AND (expires_at IS NULL OR expires_at > ?4) \
           AND ((?5 IS NULL AND session_id IS NULL) OR session_id = ?5) ORDER BY created_at, id LIMIT ?6",
    )
    .bind(workspace.as_str())
    .bind(key)
    .bind(id)
    .bind(micros(now))
    .bind(session)
    .bind(query.limit_plus_one())
    .fetch_all(connection)
    .await?;
    rows.iter().rev().map(|row| Ok(record(row)?.metadata)).collect()
}

/// Those of these files that there are, newest first.
///
/// # Errors
/// The database failed.
pub async fn list_by_id(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    ids: &[String],
    now: Timestamp,
) -> Result<Vec<FileMetadata>, StoreError> {
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM files WHERE workspace_id = ");
    sql.push_bind(workspace.as_str()).push(" AND (expires_at IS NULL OR expires_at > ");
    sql.push_bind(micros(now)).push(") AND id IN (");
    let mut list = sql.separated(", ");
    for id in ids {
        list.push_bind(id);
    }
    sql.push(") ORDER BY created_at DESC, id DESC");
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(|row| Ok(record(row)?.metadata)).collect()
}

/// Removes a file; its bytes go when nothing else names them.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn delete(tx: &mut Tx, workspace: &WorkspaceId, id: &FileId) -> Result<(), StoreError> {
    let deleted = sqlx::query("DELETE FROM files WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    if deleted.rows_affected() == 0 {
        return Err(Problem::not_found(format!("File {id} was not found.")).into());
    }
    Ok(())
}

/// Forgets files that expired a day ago.
///
/// # Errors
/// The database failed.
pub async fn forget_expired(tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM files WHERE expires_at < ?1")
        .bind(micros(now).saturating_sub(REMEMBERED_MICROS))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let session: Option<String> = row.try_get("session_id")?;
    let session = session.map(|id| parsed(SessionId::parse(&id), "files.session_id")).transpose()?;
    let metadata = FileMetadata {
        id: parsed(FileId::parse(row.try_get("id")?), "files.id")?,
        kind: FileTag::File,
        filename: row.try_get("filename")?,
        mime_type: row.try_get("mime_type")?,
        size_bytes: parsed(u64::try_from(row.try_get::<i64, _>("size_bytes")?), "files.size_bytes")?,
        created_at: instant(row.try_get("created_at")?, "files.created_at")?,
        downloadable: row.try_get("downloadable")?,
        expires_at: optional_instant(row.try_get("expires_at")?, "files.expires_at")?,
        scope: session.map(|id| FileScope::Session { id }),
    };
    Ok(Record { metadata, blob_id: row.try_get("blob_id")? })
}
