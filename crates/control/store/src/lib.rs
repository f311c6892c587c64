//! The control plane's database: SQLite in WAL mode, one writer, many readers.
//!
//! What a function here returns from a committed [`Tx`] survives the death of any process. Keys are stored as digests;
//! no plaintext credential is ever written. Queries keep to common SQL where there is some; they run on SQLite alone, and none
//! has been tried on another database.

pub mod agents;
pub mod answers;
pub mod blobs;
pub mod certificates;
mod cipher;
mod clock;
mod connection;
pub mod credentials;
mod database;
pub mod deployments;
mod encrypted;
pub mod environments;
pub mod events;
pub mod files;
pub mod holds;
pub mod keys;
pub mod list;
pub mod mcp_calls;
pub mod memories;
pub mod memory_stores;
pub mod perimeters;
pub mod repositories;
mod row;
pub mod sessions;
pub mod skills;
pub mod snapshots;
pub mod threads;
pub mod tunnels;
pub mod vaults;
pub mod webhooks;
pub mod work;
pub mod workspaces;
pub mod wraps;

pub use cipher::{BadEventKeys, EventKeys};
pub use clock::{Clock, Jump, Tick, Time};
pub use connection::Connection;
pub use database::{Store, StoreError, Tx};
