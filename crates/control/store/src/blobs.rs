//! Bytes of files and skills, in pieces: written as they arrive, read as they are sent, gone when nothing names them.
//!
//! They lie in the database, so that one backup has all and several servers see the same. A piece is a transaction of its own: no
//! upload holds up the sessions.

use postern_model::ids::WorkspaceId;
use postern_model::{Problem, Timestamp};
use sqlx::Row;

use crate::row::{micros, parsed};
use crate::{Connection, Store, StoreError, Tx, workspaces};

#[cfg(test)]
mod tests;

/// The length of every piece but the last.
const PIECE: usize = 1024 * 1024;
/// How many pieces one transaction removes: the longest that anybody else waits for it.
const REMOVED_AT_ONCE: i64 = 8;
/// An upload that has not ended by then never will.
const LONGEST_UPLOAD_MICROS: i64 = 2 * 60 * 60 * 1_000_000;

/// Bytes that were stored whole, and are kept once something names them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its name in the database.
    pub id: String,
    /// How many bytes.
    pub size_bytes: u64,
}

/// How much may be stored.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// Bytes of one blob.
    pub blob: u64,
    /// Bytes of a workspace, what was deleted and not yet removed included.
    pub workspace: u64,
}

/// A blob that is being written.
#[derive(Debug)]
pub struct Writer {
    store: Store,
    workspace: WorkspaceId,
    id: String,
    buffer: Vec<u8>,
    pieces: i64,
    size: u64,
    most: u64,
    quota: Quota,
}

impl Writer {
    /// Begins a blob of a workspace.
    ///
    /// # Errors
    /// Refused with 400 `storage_quota_exceeded` when the workspace has no room; or the database failed.
    pub async fn begin(
        store: &Store,
        workspace: &WorkspaceId,
        quota: Quota,
        now: Timestamp,
    ) -> Result<Self, StoreError> {
        let mut tx = store.write().await?;
        let free = quota.workspace.saturating_sub(used(&mut tx, workspace).await?);
        if free == 0 {
            return Err(no_room(quota.workspace));
        }
        let id = format!("blob_{}", &WorkspaceId::generate().as_str()[WorkspaceId::PREFIX.len()..]);
        sqlx::query("INSERT INTO blobs (id, workspace_id, size_bytes, begun_at) VALUES (?1, ?2, 0, ?3)")
            .bind(&id)
            .bind(workspace.as_str())
            .bind(micros(now))
            .execute(&mut *tx)
            .await?;
        tx.commit().await?;
        Ok(Self {
            store: store.clone(),
            workspace: workspace.clone(),
            id,
            buffer: Vec::new(),
            pieces: 0,
            size: 0,
            most: free.min(quota.blob),
            quota,
        })
    }

    /// Writes on.
    ///
    /// # Errors
    /// Refused with 413 or 400 `storage_quota_exceeded` at a bound; or the database failed.
    pub async fn write(&mut self, mut bytes: &[u8]) -> Result<(), StoreError> {
        self.size = self.size.saturating_add(bytes.len() as u64);
        if self.size > self.quota.blob {
            return Err(too_large(self.quota.blob));
        }
        if self.size > self.most {
            return Err(no_room(self.quota.workspace));
        }
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(PIECE - self.buffer.len()));
            self.buffer.extend_from_slice(now);
            bytes = later;
            if self.buffer.len() == PIECE {
                self.flush().await?;
            }
        }
        Ok(())
    }

    /// Writes the rest. The blob is kept when something names it in the transaction that completes it: [`complete`].
    ///
    /// # Errors
    /// The database failed.
    pub async fn finish(&mut self) -> Result<Blob, StoreError> {
        if !self.buffer.is_empty() {
            self.flush().await?;
        }
        Ok(Blob { id: self.id.clone(), size_bytes: self.size })
    }

    /// Gives the blob up: the sweeper takes it.
    ///
    /// # Errors
    /// The database failed; the sweeper takes it later.
    pub async fn abandon(self) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        give_up(&mut tx, &self.id).await?;
        tx.commit().await
    }

    async fn flush(&mut self) -> Result<(), StoreError> {
        let mut tx = self.store.write().await?;
        sqlx::query("INSERT INTO blob_chunks (blob_id, number, bytes) VALUES (?1, ?2, ?3)")
            .bind(&self.id)
            .bind(self.pieces)
            .bind(&self.buffer[..])
            .execute(&mut *tx)
            .await?;
        let grown = sqlx::query("UPDATE blobs SET size_bytes = ?2 WHERE id = ?1 AND complete_at IS NULL")
            .bind(&self.id)
            .bind(i64::try_from(self.size).unwrap_or(i64::MAX))
            .execute(&mut *tx)
            .await?;
        // Nothing counts or removes the bytes of one that was given up.
        if grown.rows_affected() == 0 {
            return Err(given_up(&mut tx, &self.workspace).await);
        }
        // Again: others write too.
        if used(&mut tx, &self.workspace).await? > self.quota.workspace {
            return Err(no_room(self.quota.workspace));
        }
        tx.commit().await?;
        self.buffer.clear();
        self.pieces += 1;
        Ok(())
    }
}

/// How many bytes a workspace has stored.
async fn used(tx: &mut Tx, workspace: &WorkspaceId) -> Result<u64, StoreError> {
    let used: i64 =
        sqlx::query_scalar("SELECT CAST(COALESCE(SUM(size_bytes), 0) AS BIGINT) FROM blobs WHERE workspace_id = ?1")
            .bind(workspace.as_str())
            .fetch_one(&mut **tx)
            .await?;
    parsed(u64::try_from(used), "a sum of blobs.size_bytes")
}

/// Marks a blob as whole, in the transaction that stores what names it: whatever names it is in a workspace that stands.
///
/// # Errors
/// Refused with 400 `request_body_timeout` when its upload was given up, with 404 when its workspace is gone; or the
/// database failed.
pub async fn complete(tx: &mut Tx, workspace: &WorkspaceId, blob: &Blob, now: Timestamp) -> Result<(), StoreError> {
    let completed = sqlx::query(
        "UPDATE blobs SET complete_at = ?3 WHERE id = ?1 AND workspace_id = ?2 AND complete_at IS NULL \
         AND EXISTS (SELECT 1 FROM workspaces WHERE workspaces.id = ?2)",
    )
    .bind(&blob.id)
    .bind(workspace.as_str())
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    if completed.rows_affected() == 0 { Err(given_up(tx, workspace).await) } else { Ok(()) }
}

/// Leaves all that is being written for a workspace to the sweeper, as when the workspace is erased.
///
/// # Errors
/// The database failed.
pub(crate) async fn give_up_all(tx: &mut Tx, workspace: &WorkspaceId) -> Result<(), StoreError> {
    sqlx::query("UPDATE blobs SET complete_at = 0 WHERE workspace_id = ?1 AND complete_at IS NULL")
        .bind(workspace.as_str())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Leaves a blob that is being written to the sweeper; its writer is refused from now on.
async fn give_up(tx: &mut Tx, id: &str) -> Result<(), StoreError> {
    sqlx::query("UPDATE blobs SET complete_at = 0 WHERE id = ?1 AND complete_at IS NULL")
        .bind(id)
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// One piece, from 0; none past the end.
///
/// # Errors
/// The database failed.
pub async fn piece(connection: &mut Connection, blob: &str, number: i64) -> Result<Option<Vec<u8>>, StoreError> {
    let row = sqlx::query("SELECT bytes FROM blob_chunks WHERE blob_id = ?1 AND number = ?2")
        .bind(blob)
        .bind(number)
        .fetch_optional(connection)
        .await?;
    Ok(row.map(|row| row.try_get("bytes")).transpose()?)
}

/// How many pieces a blob of this length has.
///
/// # Errors
/// The length is none.
pub fn pieces(size_bytes: u64) -> Result<i64, StoreError> {
    parsed(i64::try_from(size_bytes.div_ceil(PIECE as u64)), "blobs.size_bytes")
}

/// Removes a little of what nothing names any more, and of uploads that never ended. Whether there may be more.
///
/// # Errors
/// The database failed.
pub async fn sweep(tx: &mut Tx, now: Timestamp) -> Result<bool, StoreError> {
    let unnamed: Option<String> = sqlx::query_scalar(
        "SELECT id FROM blobs WHERE (complete_at IS NOT NULL \
             AND NOT EXISTS (SELECT 1 FROM files WHERE files.blob_id = blobs.id) \
             AND NOT EXISTS (SELECT 1 FROM skill_versions WHERE skill_versions.blob_id = blobs.id)) \
           OR (complete_at IS NULL AND begun_at < ?1) ORDER BY begun_at LIMIT 1",
    )
    .bind(micros(now).saturating_sub(LONGEST_UPLOAD_MICROS))
    .fetch_optional(&mut **tx)
    .await?;
    let Some(id) = unnamed else { return Ok(false) };
    // Its bytes go in several transactions: one that still arrives must not end with some of them gone.
    give_up(tx, &id).await?;
    let removed = sqlx::query(
        "DELETE FROM blob_chunks WHERE blob_id = ?1 AND number IN \
           (SELECT number FROM blob_chunks WHERE blob_id = ?1 ORDER BY number LIMIT ?2)",
    )
    .bind(&id)
    .bind(REMOVED_AT_ONCE)
    .execute(&mut **tx)
    .await?;
    if removed.rows_affected() == 0 {
        sqlx::query("DELETE FROM blobs WHERE id = ?1").bind(&id).execute(&mut **tx).await?;
    }
    Ok(true)
}

/// Why an upload goes on no longer.
async fn given_up(tx: &mut Tx, workspace: &WorkspaceId) -> StoreError {
    if let Err(error) = workspaces::required(tx, workspace).await {
        return error;
    }
    Problem::invalid("The upload took longer than 2 hours and was given up.").with_code("request_body_timeout").into()
}

fn too_large(most: u64) -> StoreError {
    let message = format!("The file is larger than {} MB.", most / 1_000_000);
    Problem::new(postern_model::problem::Kind::TooLarge, message).into()
}

fn no_room(most: u64) -> StoreError {
    Problem::invalid(format!(
        "The workspace's files and skills may take {} MB together; delete some, or wait a minute for what was deleted to be \
         removed.",
        most / 1_000_000
    ))
    .with_code("storage_quota_exceeded")
    .into()
}
