//! What a session puts out, sent by the worker that serves it: an addition to the contract, which has it on the hosted platform's sandboxes alone.

use postern_model::Problem;
use postern_model::file::{FileMetadata, FileScope, FileTag, filename};
use postern_model::ids::{FileId, SessionId};
use postern_store::blobs::{Blob, Writer};
use postern_store::files;

use super::files::UNSAID;
use super::sessions::visible;
use crate::app::problem;
use crate::dispatch::Call;
use crate::reply::Reply;

/// The longest path of an output, in bytes.
const MAX_PATH: usize = 1024;
/// The most outputs of a session.
const MAX_OUTPUTS: u64 = 1000;

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    let session = visible(&call).await?;
    let path = call.query.text("path")?.ok_or_else(|| Problem::invalid_at("path", "is missing"))?;
    std::mem::take(&mut call.query).finish()?;
    check(&path)?;
    if session.archived_at.is_some() {
        return Err(Problem::invalid("The session is archived and takes no outputs."));
    }
    let now = call.app.now();
    let mut body = call.bytes()?;
    let mut writer =
        Writer::begin(&call.app.store, &call.workspace, call.app.limits.storage, now).await.map_err(problem)?;
    let stored = async {
        while let Some(bytes) = body.next().await? {
            writer.write(&bytes).await.map_err(problem)?;
        }
        let blob = writer.finish().await.map_err(problem)?;
        store(&call, &session.id, &path, &blob).await
    };
    let stored = stored.await;
    if stored.is_err()
        && let Err(error) = writer.abandon().await
    {
        tracing::warn!(%error, "an output that failed is removed later");
    }
    call.app.engine.sweep_soon();
    Reply::json(&stored?)
}

async fn store(call: &Call, session: &SessionId, path: &str, blob: &Blob) -> Result<FileMetadata, Problem> {
    let metadata = FileMetadata {
        id: FileId::generate(),
        kind: FileTag::File,
        filename: filename(path, UNSAID),
        mime_type: UNSAID.to_owned(),
        size_bytes: blob.size_bytes,
        created_at: call.app.now(),
        downloadable: true,
        expires_at: None,
        scope: Some(FileScope::Session { id: session.clone() }),
    };
    let mut tx = call.app.store.write().await.map_err(problem)?;
    if files::outputs_besides(&mut tx, session, path).await.map_err(problem)? >= MAX_OUTPUTS {
        return Err(Problem::invalid(format!("The session has {MAX_OUTPUTS} outputs already; delete some.")));
    }
    files::put_out(&mut tx, &call.workspace, &metadata, blob, path).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    Ok(metadata)
}

fn check(path: &str) -> Result<(), Problem> {
    let plain = |segment: &str| !matches!(segment, "" | "." | "..");
    if path.len() <= MAX_PATH && path.split('/').all(plain) && !path.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Problem::invalid_at("path", format!("must be a plain relative path of at most {MAX_PATH} bytes")))
}
