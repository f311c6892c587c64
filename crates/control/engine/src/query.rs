//! What lists of sessions and events can be asked for, already parsed.

use postern_model::Timestamp;
use postern_model::page::Order;
use postern_model::session::SessionStatus;

/// A range over one timestamp; every bound that is present must hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TimeRange {
    /// Strictly after.
    pub gt: Option<Timestamp>,
    /// At or after.
    pub gte: Option<Timestamp>,
    /// Strictly before.
    pub lt: Option<Timestamp>,
    /// At or before.
    pub lte: Option<Timestamp>,
}

/// Which sessions a list shows (contract 1.4).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SessionQuery {
    /// Only those of this agent.
    pub agent_id: Option<String>,
    /// Only those of this version; needs `agent_id`.
    pub agent_version: Option<u64>,
    /// Only those created in this range.
    pub created_at: TimeRange,
    /// Only those that this deployment started.
    pub deployment_id: Option<String>,
    /// Only those with this memory store.
    pub memory_store_id: Option<String>,
    /// Archived ones too.
    pub include_archived: bool,
    /// Page length: 1 to 1000, 20 when absent.
    pub limit: Option<u32>,
    /// Newest first by default.
    pub order: Order,
    /// A cursor.
    pub page: Option<String>,
    /// Only those that are in one of these; empty means all.
    pub statuses: Vec<SessionStatus>,
}

/// Which events a list shows (contract 1.5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventQuery {
    /// Only those that took effect in this range.
    pub created_at: TimeRange,
    /// Page length: 1 to 1000, 1000 when absent.
    pub limit: Option<u32>,
    /// Oldest first by default.
    pub order: Order,
    /// A cursor.
    pub page: Option<String>,
    /// Only these types; empty means all.
    pub types: Vec<String>,
}

impl Default for EventQuery {
    fn default() -> Self {
        Self { created_at: TimeRange::default(), limit: None, order: Order::Asc, page: None, types: Vec::new() }
    }
}

/// Which threads of a session a list shows (contract 1.6).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ThreadQuery {
    /// Page length: 1 to 1000, 1000 when absent.
    pub limit: Option<u32>,
    /// A cursor.
    pub page: Option<String>,
    /// Only those that are in one of these; empty means all.
    pub statuses: Vec<SessionStatus>,
}
