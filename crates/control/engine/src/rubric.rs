//! Rubrics that are files: read when they are sent, so that what the work is measured by cannot change under it (contract 3.1).

use postern_model::event::{ClientEvent, LONGEST_RUBRIC};
use postern_model::file::FileScope;
use postern_model::ids::{FileId, SessionId, WorkspaceId};
use postern_model::{Problem, Timestamp};
use postern_store::files::{self, Record};
use postern_store::{Connection, blobs};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::problem;

/// A rubric as it may be sent, besides a text.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Sent {
    File { file_id: String },
}

/// Whose files a rubric may be.
#[derive(Clone, Copy)]
pub(crate) struct Reader<'a> {
    pub(crate) workspace: &'a WorkspaceId,
    pub(crate) session: &'a SessionId,
    pub(crate) now: Timestamp,
}

/// Whether an event's rubric is a file.
pub(crate) fn is_file(event: &ClientEvent) -> bool {
    matches!(event, ClientEvent::UserDefineOutcome { rubric, .. } if rubric["type"] == "file")
}

/// The events with the text of each rubric in place of its file.
///
/// # Errors
/// 400 naming the event where the file is too long, no text, or another session's; 404 `file_not_found`.
pub(crate) async fn resolve(
    connection: &mut Connection,
    reader: Reader<'_>,
    mut events: Vec<ClientEvent>,
) -> Result<Vec<ClientEvent>, Problem> {
    for (index, event) in events.iter_mut().enumerate() {
        if let ClientEvent::UserDefineOutcome { rubric, .. } = event
            && rubric["type"] == "file"
        {
            let at = |problem: Problem| Problem { message: format!("events.{index}: {}", problem.message), ..problem };
            *rubric = read(connection, reader, rubric).await.map_err(at)?;
        }
    }
    Ok(events)
}

async fn read(connection: &mut Connection, reader: Reader<'_>, rubric: &Value) -> Result<Value, Problem> {
    let Sent::File { file_id } = Sent::deserialize(rubric)
        .map_err(|_| Problem::invalid_at("rubric", "must be {\"type\":\"file\",\"file_id\":ID}"))?;
    let file = usable(connection, reader, &file_id).await?;
    // A character has up to four bytes: what is longer is not read at all.
    if file.metadata.size_bytes > 4 * LONGEST_RUBRIC as u64 {
        return Err(Problem::invalid_at("rubric", format!("file {file_id} has more than {LONGEST_RUBRIC} characters")));
    }
    let mut bytes = Vec::new();
    for number in 0..blobs::pieces(file.metadata.size_bytes).map_err(problem)? {
        bytes.extend(blobs::piece(connection, &file.blob_id, number).await.map_err(problem)?.unwrap_or_default());
    }
    let text = String::from_utf8(bytes)
        .map_err(|_| Problem::invalid_at("rubric", format!("file {file_id} is not text in UTF-8")))?;
    Ok(json!({"type": "text", "content": text}))
}

async fn usable(connection: &mut Connection, reader: Reader<'_>, sent: &str) -> Result<Record, Problem> {
    let unknown = || Problem::not_found(format!("File {sent} was not found.")).with_code("file_not_found");
    let id = FileId::parse(sent).map_err(|_| unknown())?;
    let found = files::find(connection, reader.workspace, &id).await.map_err(problem)?;
    let found = found.ok_or_else(unknown)?.unexpired(reader.now)?;
    match &found.metadata.scope {
        Some(FileScope::Session { id }) if id != reader.session => {
            Err(Problem::invalid_at("rubric", format!("file {sent} belongs to another session")))
        }
        Some(FileScope::Session { .. }) | None => Ok(found),
    }
}
