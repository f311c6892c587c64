//! The audit log: what was decided, for whom, and how it ended, in a hash chain with signed checkpoints, one writer process per perimeter directory.
//! It never holds a secret or a payload (digests stand for values), and it never says yes to a record that is not written.

mod bounds;
mod client;
#[doc(hidden)]
pub mod fuzzing;
mod key;
mod line;
mod log;
mod memory;
mod ocsf;
mod process;
mod ration;
mod reader;
mod record;
mod verify;

pub use client::{AuditError, Client, Recorder, Recording};
pub use key::{BadKey, PublicKey};
pub use line::Entry;
pub use log::{Log, LogError, OpenError, SyncJob};
pub use memory::Memory;
pub use process::{Configuration, ROLE, Started, process_main, start, start_keeping};
pub use ration::{Counted, Ration, Rations, Told};
pub use reader::{Entries, ReadError, entries};
pub use record::{Decision, Destination, Durability, Kind, Record, Shadow};
pub use verify::{Anchor, BadAnchor, Broken, Noted, Problem, Report, verify, verify_with};
