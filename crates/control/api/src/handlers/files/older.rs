//! The list of files as clients of the older beta read it: from an id on, or up to one.

use http::HeaderMap;
use postern_model::Problem;
use postern_model::file::FileMetadata;
use postern_model::ids::FileId;
use postern_model::page::{Cursor, Direction, IdPage, Order};
use postern_store::Connection;
use postern_store::files;
use postern_store::list::ListQuery;

use super::{LIST, known};
use crate::app::problem;
use crate::dispatch::{Call, betas};
use crate::reply::Reply;

/// The beta whose clients read lists so.
const OLDER_BETA: &str = "files-api-2025-04-14";

/// Whether the client is one of these.
pub(super) fn is_asked(headers: &HeaderMap) -> bool {
    betas(headers).any(|beta| beta == OLDER_BETA)
}

pub(super) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let limit = call.query.limit(20, 1000)?;
    let (after, before) = (call.query.text("after_id")?, call.query.text("before_id")?);
    let scope = call.query.text("scope_id")?;
    call.finish_query()?;
    if after.is_some() && before.is_some() {
        return Err(Problem::invalid_at("before_id", "cannot be combined with `after_id`"));
    }
    let now = call.app.now();
    let mut reader = call.app.store.read().await.map_err(problem)?;
    let mut query = ListQuery { limit, ..ListQuery::default() };
    let found = match before {
        Some(before) => {
            query.after = Some(place(&call, &mut reader, "before_id", &before, Direction::Prev).await?);
            files::list_before(&mut reader, &call.workspace, &query, scope.as_deref(), now).await
        }
        None => {
            if let Some(after) = after {
                query.after = Some(place(&call, &mut reader, "after_id", &after, Direction::Next).await?);
            }
            files::list(&mut reader, &call.workspace, &query, scope.as_deref(), now).await
        }
    };
    drop(reader);
    Reply::json(&cut(known(&call, found.map_err(problem)?).await?, &query))
}

/// All of these, as one page.
pub(super) fn whole(data: Vec<FileMetadata>) -> IdPage<FileMetadata> {
    let id = |file: &FileMetadata| file.id.to_string();
    IdPage { has_more: false, first_id: data.first().map(id), last_id: data.last().map(id), data }
}

/// A page of what was read, newest first: the one too many lies at the end that it goes on to.
fn cut(mut found: Vec<FileMetadata>, query: &ListQuery) -> IdPage<FileMetadata> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
    let has_more = found.len() > limit;
    let goes_back = query.after.as_ref().is_some_and(|place| place.direction == Direction::Prev);
    if has_more && goes_back {
        found.remove(0);
    }
    found.truncate(limit);
    IdPage { has_more, ..whole(found) }
}

/// Where a file stands in the list. One that is gone has no place: an empty page would look like the end.
async fn place(
    call: &Call,
    reader: &mut Connection,
    name: &'static str,
    sent: &str,
    direction: Direction,
) -> Result<Cursor, Problem> {
    let unknown = || Problem::invalid_at(name, "names no file of this workspace; list from the start");
    let id = FileId::parse(sent).map_err(|_| unknown())?;
    let found = files::find(reader, &call.workspace, &id).await.map_err(problem)?.ok_or_else(unknown)?;
    let key = found.metadata.created_at.as_microsecond();
    Ok(Cursor { list: LIST.to_owned(), order: Order::Desc, direction, key, id: id.to_string(), filters: String::new() })
}
