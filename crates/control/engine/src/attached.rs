//! Pictures and documents that are files (contract 3.1): looked at when they are sent, read each time the model is asked. The
//! log and the conversation keep the file's id; a file that is gone by then is a text that says so, and the turn goes on.

use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use postern_model::content::Block;
use postern_model::event::{ClientEvent, ModelUsage};
use postern_model::file::FileScope;
use postern_model::ids::{FileId, SessionId, WorkspaceId};
use postern_model::problem::Kind;
use postern_model::{Problem, Timestamp};
use postern_session::{Author, Conversation, FailureKind, ModelEvent, ModelFailure};
use postern_store::files::{self, Record};
use postern_store::{Connection, StoreError, blobs};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::problem;
use crate::shared::Shared;

/// The most pictures and documents of one request that are files.
const MOST_FILES: usize = 100;
const MOST_IMAGE_BYTES: u64 = 5_000_000;
const MOST_PDF_BYTES: u64 = 20_000_000;
/// Within the first piece of a blob.
const MOST_TEXT_BYTES: u64 = 1_000_000;
/// How many bytes of files the model is sent with one request, the newest first: in base64 what endpoints take as one body.
const MOST_BYTES_ASKED: u64 = 20_000_000;
/// Pieces of news that wait for the session.
const NEWS: usize = 64;

/// Whose files they may be.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) session: &'a SessionId,
    pub(crate) now: Timestamp,
}

/// Whether an event has a picture or document that is a file.
pub(crate) fn is_in(event: &ClientEvent) -> bool {
    event.blocks().iter().any(|block| block.file().is_some())
}

/// Looks at every file that these events name.
///
/// # Errors
/// 400 naming the place where it is too large, of no type that a model reads, or another session's; 404 `file_not_found`.
pub(crate) async fn check(
    connection: &mut Connection,
    reader: Reader<'_>,
    author: Author,
    events: &[ClientEvent],
) -> Result<(), Problem> {
    let mut count = 0;
    for (index, event) in events.iter().enumerate() {
        for (place, block) in event.blocks().iter().enumerate() {
            let Some(file) = block.file() else { continue };
            count += 1;
            if count > MOST_FILES {
                return Err(Problem::invalid_at(
                    "events",
                    format!("name more than {MOST_FILES} files; send fewer at once"),
                ));
            }
            let place = format!("events.{index}: content.{place}.source");
            look_at(connection, reader, author, (block, file)).await.map_err(|no| at(&place, no))?;
        }
    }
    Ok(())
}

fn at(place: &str, problem: Problem) -> Problem {
    Problem { message: format!("{place}: {}", problem.message), ..problem }
}

async fn look_at(
    connection: &mut Connection,
    reader: Reader<'_>,
    author: Author,
    (block, sent): (&Block, &str),
) -> Result<(), Problem> {
    // A worker names what its session has, and learns of nothing else that it is there.
    let file = match (usable(connection, reader, sent).await, author) {
        (Ok(file), Author::Worker) if file.metadata.scope.is_none() => return Err(unknown(sent)),
        (Err(no), Author::Worker) if matches!(no.kind, Kind::InvalidRequest | Kind::NotFound) => {
            return Err(unknown(sent));
        }
        (found, Author::Client | Author::Worker) => found?,
    };
    let first = blobs::piece(connection, &file.blob_id, 0).await.map_err(problem)?.unwrap_or_default();
    let (most, what) = match (block, Content::of(&first)) {
        (Block::Image { .. }, Content::Image(_)) => (MOST_IMAGE_BYTES, "a picture"),
        (Block::Image { .. }, Content::Pdf | Content::Text | Content::Other) => {
            return Err(Problem::invalid(format!("file {sent} is no JPEG, PNG, GIF or WebP")));
        }
        (_, Content::Pdf) => (MOST_PDF_BYTES, "a PDF"),
        // Of a longer one the first piece may end within a character: its length refuses it.
        (_, Content::Text) => (MOST_TEXT_BYTES, "a text"),
        (_, Content::Image(_) | Content::Other) if file.metadata.size_bytes > MOST_TEXT_BYTES => {
            return Err(Problem::invalid(format!(
                "file {sent} is no PDF, and no text of at most {MOST_TEXT_BYTES} bytes"
            )));
        }
        (_, Content::Image(_) | Content::Other) => {
            return Err(Problem::invalid(format!("file {sent} is no PDF and no text in UTF-8")));
        }
    };
    if file.metadata.size_bytes > most {
        let size = file.metadata.size_bytes;
        return Err(Problem::invalid(format!("file {sent} has {size} bytes; {what} has at most {most}")));
    }
    Ok(())
}

/// A file that the session may use.
///
/// # Errors
/// 404 `file_not_found`, 400 where it belongs to another session.
pub(crate) async fn usable(connection: &mut Connection, reader: Reader<'_>, sent: &str) -> Result<Record, Problem> {
    let id = FileId::parse(sent).map_err(|_| unknown(sent))?;
    let found = files::find(connection, reader.workspace, &id).await.map_err(problem)?;
    let found = found.ok_or_else(|| unknown(sent))?.unexpired(reader.now)?;
    match &found.metadata.scope {
        Some(FileScope::Session { id }) if id != reader.session => {
            Err(Problem::invalid(format!("file {sent} belongs to another session")))
        }
        Some(FileScope::Session { .. }) | None => Ok(found),
    }
}

fn unknown(sent: &str) -> Problem {
    let shown: String = sent.chars().take(100).collect();
    Problem::not_found(format!("File {shown} was not found.")).with_code("file_not_found")
}

/// What bytes are, by themselves: what an uploader said of them no endpoint believes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Content {
    Image(&'static str),
    Pdf,
    Text,
    Other,
}

impl Content {
    fn of(bytes: &[u8]) -> Self {
        let image = IMAGES.iter().find(|(start, _)| bytes.starts_with(start)).map(|(_, media_type)| *media_type);
        match image {
            Some(media_type) => Self::Image(media_type),
            None if bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP") => Self::Image("image/webp"),
            None if bytes.starts_with(b"%PDF-") => Self::Pdf,
            None if !bytes.contains(&0) && std::str::from_utf8(bytes).is_ok_and(|text| !text.trim().is_empty()) => {
                Self::Text
            }
            None => Self::Other,
        }
    }
}

/// How the pictures begin that a model reads.
const IMAGES: &[(&[u8], &str)] = &[
    (b"\x89PNG\r\n\x1a\n", "image/png"),
    (b"\xff\xd8\xff", "image/jpeg"),
    (b"GIF87a", "image/gif"),
    (b"GIF89a", "image/gif"),
];

/// What a file is when the model is asked.
enum Standing {
    There(Vec<u8>),
    /// Deleted, or expired.
    Gone,
    /// Newer ones take all the room.
    LeftOut,
}

/// The conversation with what its files hold in their place.
async fn filled(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    conversation: Conversation,
    now: Timestamp,
) -> Result<Conversation, StoreError> {
    let mut standing = HashMap::new();
    let mut room = MOST_BYTES_ASKED;
    for id in conversation.files() {
        let found = match FileId::parse(&id) {
            Ok(id) => files::find(connection, workspace, &id).await?,
            Err(_) => None,
        };
        let is = match found.and_then(|file| file.unexpired(now).ok()) {
            None => Standing::Gone,
            Some(file) if file.metadata.size_bytes > room => Standing::LeftOut,
            Some(file) => {
                room -= file.metadata.size_bytes;
                Standing::There(read(connection, &file).await?)
            }
        };
        standing.insert(id, is);
    }
    Ok(conversation.replacing_files(|block, id| stand_in(block, id, standing.get(id).unwrap_or(&Standing::Gone))))
}

async fn read(connection: &mut Connection, file: &Record) -> Result<Vec<u8>, StoreError> {
    let mut bytes = Vec::new();
    for number in 0..blobs::pieces(file.metadata.size_bytes)? {
        let piece = blobs::piece(connection, &file.blob_id, number).await?;
        bytes.extend(piece.ok_or(StoreError::Corrupt { what: "blob_chunks.bytes" })?);
    }
    Ok(bytes)
}

/// What the model reads in the place of a block.
fn stand_in(block: &Value, id: &str, standing: &Standing) -> Value {
    let note = |text: String| json!({"type": "text", "text": text});
    let bytes = match standing {
        Standing::There(bytes) => bytes,
        Standing::Gone => {
            return note(format!(
                "[Here stood the file {id}. It was deleted or has expired, and cannot be read any more. Go on without it, or ask for it again.]"
            ));
        }
        Standing::LeftOut => {
            return note(format!(
                "[Here stands the file {id}. It is left out: newer files take all the room that there is. Ask for it again if you need it.]"
            ));
        }
    };
    let source = match Content::of(bytes) {
        Content::Image(media_type) => {
            json!({"type": "base64", "media_type": media_type, "data": STANDARD.encode(bytes)})
        }
        Content::Pdf => json!({"type": "base64", "media_type": "application/pdf", "data": STANDARD.encode(bytes)}),
        Content::Text => {
            json!({"type": "text", "media_type": "text/plain", "data": String::from_utf8_lossy(bytes)})
        }
        Content::Other => return note(format!("[Here stood the file {id}, which is nothing that you can read.]")),
    };
    let mut filled = block.clone();
    filled["source"] = source;
    filled
}

/// Asks the model with a conversation that names files, once these are read. What was not asked yet is dropped with the
/// receiver.
pub(crate) fn ask(
    shared: &Arc<Shared>,
    workspace: WorkspaceId,
    conversation: Conversation,
    body: impl FnOnce(&Conversation) -> Bytes + Send + 'static,
) -> mpsc::Receiver<ModelEvent> {
    let (news, receiver) = mpsc::channel(NEWS);
    let asked = Arc::clone(shared);
    shared.tasks.spawn(async move {
        let answered = async {
            let filled = async {
                let mut reader = asked.store.read().await?;
                filled(&mut reader, &workspace, conversation, Timestamp::now()).await
            };
            let mut of_model = match filled.await {
                Ok(conversation) => asked.model.start(body(&conversation)),
                Err(error) => {
                    tracing::error!(error = &error as &dyn std::error::Error, "files of a conversation were not read");
                    drop(news.send(unread()).await);
                    return;
                }
            };
            while let Some(event) = of_model.recv().await {
                if news.send(event).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            () = news.closed() => {}
            () = answered => {}
        }
    });
    receiver
}

fn unread() -> ModelEvent {
    ModelEvent::Failed(ModelFailure {
        kind: FailureKind::Transient,
        message: "The files of the conversation could not be read.".into(),
        retry_after: None,
        usage: ModelUsage::default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_what_they_begin_with() {
        for (bytes, content) in [
            (&b"\x89PNG\r\n\x1a\n.."[..], Content::Image("image/png")),
            (b"\xff\xd8\xff\xe0", Content::Image("image/jpeg")),
            (b"GIF89a..", Content::Image("image/gif")),
            (b"RIFF\x00\x00\x00\x00WEBPVP8 ", Content::Image("image/webp")),
            (b"RIFF\x00\x00\x00\x00WAVE", Content::Other),
            (b"%PDF-1.7", Content::Pdf),
            ("caf\u{e9}".as_bytes(), Content::Text),
            (b" \n", Content::Other),
            (b"a\0b", Content::Other),
            (b"\xff\xfe", Content::Other),
            (b"", Content::Other),
        ] {
            assert_eq!(Content::of(bytes), content, "{bytes:?}");
        }
    }
}
