//! Lists in pages: the three body shapes of the contract, and the opaque cursor between pages.
//!
//! A cursor holds a position and what the position means (which list, which order, a digest of binding filters); it
//! grants nothing, so it is readable, but one that was changed or belongs to another list is refused.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::{Deserialize, Serialize};

use crate::Problem;

/// `{data, next_page}`: most lists.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Page<T> {
    /// The items of this page.
    pub data: Vec<T>,
    /// The cursor of the next page; null at the end.
    pub next_page: Option<String>,
}

/// `{data, next_page, prev_page}`: the list of sessions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct BidirectionalPage<T> {
    /// The items of this page.
    pub data: Vec<T>,
    /// The cursor of the next page; null at the end.
    pub next_page: Option<String>,
    /// The cursor of the previous page; null at the start.
    pub prev_page: Option<String>,
}

/// `{data, has_more, first_id, last_id}`: the list of models, and of files for older clients.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct IdPage<T> {
    /// The items of this page.
    pub data: Vec<T>,
    /// Whether more items follow.
    pub has_more: bool,
    /// The id of the first item.
    pub first_id: Option<String>,
    /// The id of the last item.
    pub last_id: Option<String>,
}

/// Which end comes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Order {
    /// Oldest first.
    Asc,
    /// Newest first.
    #[default]
    Desc,
}

/// Which way a cursor points.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// Towards the end of the list.
    #[default]
    Next,
    /// Towards its start.
    Prev,
}

/// A position in a list: the sort key and id of the item next to which the page starts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Cursor {
    /// Which list this belongs to, with the id of its owner where it has one (`agents`, `events:sesn_...`).
    #[serde(rename = "l")]
    pub list: String,
    /// The order the list was read in.
    #[serde(rename = "o")]
    pub order: Order,
    /// Which way the page goes from here.
    #[serde(rename = "d", default)]
    pub direction: Direction,
    /// The sort key at the position: microseconds since 1970, a version, or a sequence number.
    #[serde(rename = "k")]
    pub key: i64,
    /// The id at the position, which decides between equal keys; empty where keys are unique.
    #[serde(rename = "i", default, skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// Filters that must not change between pages, as text; empty where none binds.
    #[serde(rename = "f", default, skip_serializing_if = "String::is_empty")]
    pub filters: String,
}

impl Cursor {
    /// The cursor as clients see it.
    pub fn encode(&self) -> String {
        let json = serde_json::to_vec(self).expect("a struct of numbers and strings always serialises");
        format!("page_{}", URL_SAFE_NO_PAD.encode(json))
    }

    /// Reads a cursor that must belong to `list`, read in `order`, under the same binding `filters`.
    ///
    /// # Errors
    /// 400 when it is unreadable or belongs elsewhere.
    pub fn decode(text: &str, list: &str, order: Order, filters: &str) -> Result<Self, Problem> {
        let cursor =
            Self::read(text).ok_or_else(|| Problem::invalid_at("page", "this is not a cursor of this server"))?;
        if cursor.list != list {
            return Err(Problem::invalid_at("page", "this cursor belongs to another list"));
        }
        if cursor.order != order {
            return Err(Problem::invalid_at("page", "this cursor was made with another `order`"));
        }
        if cursor.filters != filters {
            return Err(Problem::invalid_at("page", "this cursor was made with other filters"));
        }
        Ok(cursor)
    }

    fn read(text: &str) -> Option<Self> {
        let json = URL_SAFE_NO_PAD.decode(text.strip_prefix("page_")?).ok()?;
        serde_json::from_slice(&json).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cursor() -> Cursor {
        Cursor {
            list: "agents".into(),
            order: Order::Desc,
            direction: Direction::Next,
            key: 7,
            id: "agent_1".into(),
            filters: "all".into(),
        }
    }

    #[test]
    fn a_cursor_reads_back() {
        assert_eq!(Cursor::decode(&cursor().encode(), "agents", Order::Desc, "all"), Ok(cursor()));
    }

    #[test]
    fn a_cursor_is_bound_to_list_order_and_filters() {
        let text = cursor().encode();
        assert!(Cursor::decode(&text, "work", Order::Desc, "all").is_err());
        assert!(Cursor::decode(&text, "agents", Order::Asc, "all").is_err());
        assert!(Cursor::decode(&text, "agents", Order::Desc, "").is_err());
    }

    #[test]
    fn garbage_is_not_a_cursor() {
        for text in ["", "page_", "page_!!", "page_e30", "agents"] {
            let problem = Cursor::decode(text, "agents", Order::Desc, "").unwrap_err();
            assert_eq!(problem.status(), 400, "{text}");
        }
    }
}
