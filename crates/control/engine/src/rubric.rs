//! Rubrics that are files: read when they are sent, so that what the work is measured by cannot change under it (contract 3.1).

use postern_model::Problem;
use postern_model::event::{ClientEvent, LONGEST_RUBRIC};
use postern_model::problem::Kind;
use postern_store::{Connection, blobs};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::attached::{Reader, usable};
use crate::problem;

/// A rubric as it may be sent, besides a text.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum Sent {
    File { file_id: String },
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
    let file = usable(connection, reader, &file_id).await.map_err(|no| match no.kind {
        Kind::InvalidRequest => Problem::invalid_at("rubric", no.message),
        _ => no,
    })?;
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
