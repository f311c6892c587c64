//! One module per resource: parse, call store or engine, render.

pub(crate) mod agents;
pub(crate) mod api_keys;
pub(crate) mod certificates;
pub(crate) mod control;
pub(crate) mod credentials;
pub(crate) mod deployments;
pub(crate) mod environment_keys;
pub(crate) mod environments;
pub(crate) mod events;
pub(crate) mod files;
pub(crate) mod memories;
pub(crate) mod memory_stores;
pub(crate) mod memory_versions;
pub(crate) mod models;
pub(crate) mod outputs;
pub(crate) mod perimeter_status;
pub(crate) mod perimeters;
pub(crate) mod resources;
pub(crate) mod sessions;
pub(crate) mod skills;
pub(crate) mod threads;
pub(crate) mod tunnels;
pub(crate) mod vaults;
pub(crate) mod webhooks;
pub(crate) mod work;
pub(crate) mod workspaces;

use postern_model::Problem;
use postern_model::page::{Cursor, Order};
use postern_store::list::{ListQuery, Range};
use serde::Serialize;

use crate::query::Query;

/// `{id, type: "..._deleted"}`.
#[derive(Serialize)]
struct Deleted<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
}

/// `limit` and `page` of a list that is read newest first.
fn list_query(query: &mut Query, list: &str, most: u32) -> Result<ListQuery, Problem> {
    let limit = query.limit(20, most)?;
    let page = query.text("page")?;
    let after = page.map(|text| Cursor::decode(&text, list, Order::Desc, "")).transpose()?;
    Ok(ListQuery { limit, after, created_at: Range::default(), include_archived: false })
}
