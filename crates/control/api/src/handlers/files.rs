//! Files (contract 1.11).

mod older;

use axum::body::Body;
use bytes::Bytes;
use jiff::SignedDuration;
use postern_model::file::{FileMetadata, FileScope, FileTag, filename};
use postern_model::ids::{FileId, SessionId};
use postern_model::page::Page;
use postern_model::{Problem, Timestamp};
use postern_store::blobs::{self, Blob, Writer};
use postern_store::list::page;
use postern_store::{Store, StoreError, files};

use super::{Deleted, list_query};
use crate::app::problem;
use crate::caller::Kind;
use crate::dispatch::Call;
use crate::multipart::{Contents, Form, Part};
use crate::reply::{Download, Reply};
use crate::scope::Known;

const LIST: &str = "files";
/// The most ids that one list may name.
const MAX_IDS: usize = 100;
/// How long an upload may last that goes away by itself, in seconds.
const EXPIRY: std::ops::RangeInclusive<i64> = 3_600..=7_776_000;
/// The longest media type, in bytes.
const MAX_MIME: usize = 255;
/// What a file is of which nobody says it.
pub(super) const UNSAID: &str = "application/octet-stream";

/// What the parts of an upload come to.
#[derive(Default)]
struct Upload {
    file: Option<(Blob, String, String)>,
    expires_in: Option<SignedDuration>,
}

pub(crate) async fn create(mut call: Call) -> Result<Reply, Problem> {
    std::mem::take(&mut call.query).finish()?;
    let form = call.form()?;
    let now = call.app.now();
    let mut writer =
        Writer::begin(&call.app.store, &call.workspace, call.app.limits.storage, now).await.map_err(problem)?;
    let done = match receive(form, &mut writer).await {
        Ok((upload, contents)) => match call.arrived(&contents).await {
            Ok(Some(before)) => Ok(Done::Before(before)),
            Ok(None) => store(&call, upload, now).await.map(Done::Stored),
            Err(problem) => Err(problem),
        },
        Err(problem) => Err(problem),
    };
    if !matches!(done, Ok(Done::Stored(_))) {
        if let Err(error) = writer.abandon().await {
            tracing::warn!(%error, "an upload that failed is removed later");
        }
        call.app.engine.sweep_soon();
    }
    match done {
        Ok(Done::Before(reply)) => Ok(reply),
        Ok(Done::Stored(metadata)) => call.settled(Reply::json(&metadata)).await,
        Err(problem) => call.settled(Err(problem)).await,
    }
}

/// What became of an upload.
enum Done {
    /// It is a file now.
    Stored(FileMetadata),
    /// It was one before, and is answered so.
    Before(Reply),
}

/// Reads the whole form: what follows the file may still refuse it.
async fn receive(mut form: Form, writer: &mut Writer) -> Result<(Upload, Contents), Problem> {
    let mut upload = Upload::default();
    while let Some(part) = form.next().await? {
        match part.name() {
            "file" if upload.file.is_none() => upload.file = Some(file(part, writer).await?),
            "expires_in_seconds" if upload.expires_in.is_none() => {
                upload.expires_in = Some(expiry(&part.text().await?)?);
            }
            "file" | "expires_in_seconds" => {
                return Err(Problem::invalid_at(part.name(), "was sent more than once"));
            }
            name => {
                return Err(Problem::invalid_at(
                    &name.chars().take(64).collect::<String>(),
                    "is not a part of this form",
                ));
            }
        }
    }
    Ok((upload, form.contents()))
}

async fn file(mut part: Part, writer: &mut Writer) -> Result<(Blob, String, String), Problem> {
    let Some(sent) = part.filename() else { return Err(Problem::invalid_at("file", "is not a file: it has no name")) };
    let mime = part.content_type().unwrap_or(UNSAID).to_owned();
    let name = filename(sent, &mime);
    if mime.len() > MAX_MIME {
        return Err(Problem::invalid_at("file", format!("its media type is longer than {MAX_MIME} bytes")));
    }
    while let Some(bytes) = part.bytes().await? {
        writer.write(&bytes).await.map_err(problem)?;
    }
    Ok((writer.finish().await.map_err(problem)?, name, mime))
}

fn expiry(text: &str) -> Result<SignedDuration, Problem> {
    match text.trim().parse() {
        Ok(seconds) if EXPIRY.contains(&seconds) => Ok(SignedDuration::from_secs(seconds)),
        _ => Err(Problem::invalid_at("expires_in_seconds", "must be a whole number from 3600 to 7776000")),
    }
}

async fn store(call: &Call, upload: Upload, now: Timestamp) -> Result<FileMetadata, Problem> {
    let (blob, filename, mime_type) =
        upload.file.ok_or_else(|| Problem::invalid_at("file", "is missing: send the file as a part of this name"))?;
    let metadata = FileMetadata {
        id: FileId::generate(),
        kind: FileTag::File,
        filename,
        mime_type,
        size_bytes: blob.size_bytes,
        created_at: now,
        downloadable: false,
        expires_at: upload.expires_in.map(|after| now + after),
        scope: None,
    };
    let mut tx = call.app.store.write().await.map_err(problem)?;
    files::create(&mut tx, &call.workspace, &metadata, &blob).await.map_err(problem)?;
    call.remember(&mut tx, &metadata).await?;
    tx.commit().await.map_err(problem)?;
    Ok(metadata)
}

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let ids = call.query.array("ids");
    if !ids.is_empty() {
        return list_by_id(call, ids).await;
    }
    if older::is_asked(&call.headers) {
        return older::list(call).await;
    }
    let query = list_query(&mut call.query, LIST, 1000)?;
    let scope = call.query.text("scope_id")?;
    call.finish_query()?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let found = files::list(&mut reader, &call.workspace, &query, scope.as_deref(), call.app.now());
    let found = found.await.map_err(problem)?;
    drop(reader);
    let mut page = page(found, query.limit, LIST, |file| (file.created_at.as_microsecond(), file.id.to_string()));
    page.data = known(&call, page.data).await?;
    Reply::json(&page)
}

async fn list_by_id(mut call: Call, mut ids: Vec<String>) -> Result<Reply, Problem> {
    call.finish_query()?;
    ids.sort_unstable();
    ids.dedup();
    if ids.len() > MAX_IDS {
        return Err(Problem::invalid_at("ids", format!("at most {MAX_IDS} are allowed, got {}", ids.len())));
    }
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let data = files::list_by_id(&mut reader, &call.workspace, &ids, call.app.now()).await.map_err(problem)?;
    drop(reader);
    let data = known(&call, data).await?;
    if older::is_asked(&call.headers) {
        return Reply::json(&older::whole(data));
    }
    Reply::json(&Page { data, next_page: None })
}

/// Those of the files that are of no session, or of one that the caller may know.
async fn known(call: &Call, mut files: Vec<FileMetadata>) -> Result<Vec<FileMetadata>, Problem> {
    let session = |file: &FileMetadata| file.scope.as_ref().map(|FileScope::Session { id }| id.clone());
    let named: Vec<SessionId> = files.iter().filter_map(session).collect();
    let known = Known::of(&call.app, &call.caller, &call.workspace, &named).await?;
    files.retain(|file| session(file).is_none_or(|session| known.has(&session)));
    Ok(files)
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    call.query.finish()?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let found = files::required(&mut reader, &call.workspace, &id, call.app.now()).await.map_err(problem)?;
    Reply::json(&found.metadata)
}

pub(crate) async fn content(mut call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    std::mem::take(&mut call.query).finish()?;
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let found = files::required(&mut reader, &call.workspace, &id, call.app.now()).await.map_err(problem)?;
    drop(reader);
    match call.caller.kind() {
        Kind::EnvironmentKey | Kind::SessionToken => given_to_its_session(&call, &found.metadata).await?,
        _ if found.metadata.downloadable => {}
        _ => {
            return Err(Problem::invalid(format!(
                "File {id} was uploaded and cannot be downloaded; only what sessions put out can."
            ))
            .with_code("file_not_downloadable"));
        }
    }
    let FileMetadata { filename, mime_type, size_bytes, .. } = found.metadata;
    let body = blob_body(call.app.store, found.blob_id, size_bytes).map_err(problem)?;
    Ok(Reply::Download(Download { filename, mime_type, size_bytes, body }))
}

pub(crate) async fn delete(call: Call) -> Result<Reply, Problem> {
    let id = id(&call)?;
    let (app, workspace) = (call.app.clone(), call.workspace.clone());
    call.finish_without_body()?;
    let mut tx = app.store.write().await.map_err(problem)?;
    files::delete(&mut tx, &workspace, &id).await.map_err(problem)?;
    tx.commit().await.map_err(problem)?;
    app.engine.sweep_soon();
    Reply::json(&Deleted { id: id.as_str(), kind: "file_deleted" })
}

/// A worker reads the files of the sessions that it serves and knows of no others.
async fn given_to_its_session(call: &Call, file: &FileMetadata) -> Result<(), Problem> {
    let unknown = || Problem::not_found(format!("File {} was not found.", file.id));
    let Some(FileScope::Session { id }) = &file.scope else { return Err(unknown()) };
    call.caller.check_session(id).map_err(|_| unknown())?;
    let session = call.app.engine.session(&call.workspace, id).await.map_err(|_| unknown())?;
    call.caller.check_environment(&session.environment_id).map_err(|_| unknown())
}

fn id(call: &Call) -> Result<FileId, Problem> {
    call.id("file", "File")
}

/// The bytes of a blob, read piece by piece as they are sent. A piece that is missing breaks the answer off.
pub(crate) fn blob_body(store: Store, blob: String, size_bytes: u64) -> Result<Body, StoreError> {
    let count = blobs::pieces(size_bytes)?;
    let stream = futures_util::stream::try_unfold(0, move |number| {
        let (store, blob) = (store.clone(), blob.clone());
        async move {
            if number == count {
                return Ok(None);
            }
            let mut reader = store.read().await?;
            match blobs::piece(&mut reader, &blob, number).await? {
                Some(bytes) => Ok(Some((Bytes::from(bytes), number + 1))),
                None => Err(StoreError::Corrupt { what: "blob_chunks.bytes" }),
            }
        }
    });
    Ok(Body::from_stream(stream))
}
