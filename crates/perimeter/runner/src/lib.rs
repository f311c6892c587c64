//! The worker: claims sessions from an environment's queue, has their tool uses run inside sandboxes, and reports the results.
//! Speaks the official environment worker's protocol, so it serves our server and the hosted platform alike.
//! Never runs model-chosen code itself, never sees a secret of a credential, and never decides by anything but the perimeter's own zones.

mod boundary;
mod config;
mod control;
mod definition;
pub mod dispatch;
mod event;
#[doc(hidden)]
pub mod fuzzing;
mod hands;
mod item;
mod journal;
mod kernel_users;
mod lease;
mod parcels;
mod perimeter;
mod place;
mod remote;
mod results;
mod roster;
mod session;
#[cfg(test)]
mod stand_in;
mod standing;
mod worker;

pub use boundary::Watch;
pub use config::{Order, Report, SESSIONS, WorkerConfig};
pub use hands::{Hands, Outcome, Passage, Perimeter, Refused, SessionFacts, ToolCall, Way};
pub use kernel_users::KernelUsers;
pub use place::Places;
pub use postern_policy::canonical::{canonical_json, definition_digest};
pub use remote::{Bearer, Remote, RemoteError};
pub use standing::{OpenSession, Standing};
pub use worker::{Ended, Worker, worker_main};
