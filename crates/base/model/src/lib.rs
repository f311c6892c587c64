//! The nouns of the wire: identifiers, resources, pages and problems, as the contract spells them.
//!
//! Pure data and pure checks. Nothing here knows a runtime, a socket, a database or a clock: whoever needs the time
//! passes it in.

pub mod agent;
pub mod content;
pub mod control;
pub mod deployment;
pub mod environment;
pub mod event;
pub mod field;
pub mod file;
pub mod ids;
pub mod key;
pub mod memory;
pub mod metadata;
pub mod model_info;
pub mod money;
pub mod page;
pub mod perimeter;
pub mod problem;
pub mod resource;
pub mod session;
pub mod skill;
pub mod tool;
pub mod tunnel;
pub mod vault;
pub mod webhook;
pub mod work;
pub mod workspace;

pub use field::Field;
pub use metadata::Metadata;
pub use problem::Problem;

/// An instant of the wire: RFC 3339 with an offset, always rendered in UTC.
pub type Timestamp = jiff::Timestamp;
