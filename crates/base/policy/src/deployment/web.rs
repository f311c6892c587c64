//! Reading `[web]`.

use super::read::{is_this_machine, read_path};
use super::{Search, SearchKind, Web};
use crate::document::{Item, Table};
use crate::zone::reading::read_nets;
use crate::{Endpoint, Scheme};
use std::path::Path;

/// Where the Brave Search API is.
const BRAVE: &str = "https://api.search.brave.com";

pub(super) fn read(table: &mut Table<'_>, directory: &Path) -> Web {
    Web {
        fetch: table.boolean("fetch").is_none_or(|item| item.value),
        addresses: read_nets(table, "addresses").unwrap_or_default(),
        search: table.table("search").and_then(|mut table| read_search(&mut table, directory)),
    }
}

fn read_search(table: &mut Table<'_>, directory: &Path) -> Option<Search> {
    let kind = read_kind(table);
    let url = table.parsed::<Endpoint>("url");
    let key_file = read_path(table, "key_file", directory);
    let kind = kind?;
    let url = match (url, kind) {
        (Some(item), _) => checked(table, item, key_file.is_some())?,
        (None, SearchKind::Brave) if !table.has("url") => BRAVE.parse().ok()?,
        (None, _) => table.required("url", None)?,
    };
    let key_file = match kind {
        SearchKind::Searxng => key_file,
        SearchKind::Brave => Some(table.required("key_file", key_file)?),
    };
    Some(Search { kind, url, key_file })
}

fn read_kind(table: &mut Table<'_>) -> Option<SearchKind> {
    let item = table.string("kind");
    match table.required("kind", item)? {
        Item { value: "searxng", .. } => Some(SearchKind::Searxng),
        Item { value: "brave", .. } => Some(SearchKind::Brave),
        Item { at, .. } => {
            table.reader().error(at, "kind must be \"searxng\" or \"brave\"");
            None
        }
    }
}

/// What agents look for, and the key, are not sent in the clear.
fn checked(table: &Table<'_>, item: Item<Endpoint>, has_key: bool) -> Option<Endpoint> {
    let url = item.value;
    if url.scheme == Scheme::Http && !is_this_machine(&url.host) {
        let what = if has_key { "a key" } else { "a query" };
        let message = format!("url: {what} is not sent in the clear; use https://, or http:// to loopback");
        table.reader().error(item.at, message);
        return None;
    }
    Some(url)
}
