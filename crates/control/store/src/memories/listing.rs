//! Listing memories by path, as a tree of directories: all below a prefix, or its direct children with the deeper ones grouped.

use postern_model::ids::MemoryStoreId;
use postern_model::memory::{Memory, MemoryListItem, MemoryPrefix, MemoryPrefixTag, PathPrefix, View};

use super::{content, memory};
use crate::{Connection, StoreError};

/// How far below the prefix a list goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    /// Every memory.
    All,
    /// Direct children; what lies deeper shows as the directory it is in.
    Children,
}

/// One page of a list of memories.
#[derive(Clone, Debug)]
pub struct MemoryQuery {
    /// Below which directory.
    pub prefix: PathPrefix,
    /// How far below.
    pub depth: Depth,
    /// The path of the last item of the page before this one.
    pub after: Option<String>,
    /// How many items at most.
    pub limit: u32,
    /// How much of each.
    pub view: View,
}

/// One page of memories and prefixes in the order of their paths' bytes, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    store: &MemoryStoreId,
    query: &MemoryQuery,
) -> Result<Vec<MemoryListItem>, StoreError> {
    let limit = usize::try_from(query.limit).unwrap_or(usize::MAX).saturating_add(1);
    // Grouping may take all of a store for one page: rows without content, of which a store has few enough.
    let rows_needed = match query.depth {
        Depth::All => i64::from(query.limit) + 1,
        Depth::Children => i64::MAX,
    };
    let rows = sqlx::query(
        "SELECT * FROM memories WHERE memory_store_id = ?1 AND path >= ?2 AND path < ?3 ORDER BY path LIMIT ?4",
    )
    .bind(store.as_str())
    .bind(start(query))
    .bind(end_of(query.prefix.as_str()))
    .bind(rows_needed)
    .fetch_all(&mut *connection)
    .await?;
    let memories = rows.iter().map(memory).collect::<Result<Vec<_>, _>>()?;
    let mut items = grouped(memories, query.prefix.as_str(), query.depth);
    items.truncate(limit);
    if query.view == View::Full {
        for item in &mut items {
            if let MemoryListItem::Memory(memory) = item {
                memory.content = Some(content(connection, store, &memory.content_sha256).await?);
            }
        }
    }
    Ok(items)
}

/// The least path that the page may show.
fn start(query: &MemoryQuery) -> String {
    match &query.after {
        None => query.prefix.as_str().to_owned(),
        // Whatever lies in a directory that was shown was shown with it.
        Some(after) if after.ends_with('/') => end_of(after),
        // No path has a control character: this is less than whatever longer path begins so.
        Some(after) => format!("{after}\u{1}"),
    }
    .max(query.prefix.as_str().to_owned())
}

/// What is greater than every path below a directory and not greater than any other that is: `0` comes after `/`.
fn end_of(directory: &str) -> String {
    format!("{}0", directory.trim_end_matches('/'))
}

/// The memories as the list shows them; they come, and go, in the order of their paths.
fn grouped(memories: Vec<Memory>, prefix: &str, depth: Depth) -> Vec<MemoryListItem> {
    let mut items: Vec<MemoryListItem> = Vec::with_capacity(memories.len());
    for memory in memories {
        let below = memory.path.as_str().strip_prefix(prefix).unwrap_or_default();
        let directory = match depth {
            Depth::All => None,
            Depth::Children => below.split_once('/').map(|(directory, _)| format!("{prefix}{directory}/")),
        };
        match directory {
            None => items.push(MemoryListItem::Memory(memory)),
            Some(path) if items.last().is_some_and(|last| last.path() == path) => {}
            Some(path) => {
                items.push(MemoryListItem::Prefix(MemoryPrefix { kind: MemoryPrefixTag::MemoryPrefix, path }))
            }
        }
    }
    items
}
