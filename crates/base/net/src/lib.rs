//! The only code that opens outbound connections, each with a permit of policy's in hand: resolution after the
//! permit, dialling, TLS, an HTTP client for endpoints named in configuration. And what every role shares about
//! streams: server-sent events, backoff, limits, drain, what a library refuses unsaid. It decides nothing and holds no credential.

mod asking;
pub mod backoff;
pub mod client;
pub mod control;
pub mod dial;
pub mod drain;
pub mod frames;
#[doc(hidden)]
pub mod fuzzing;
pub mod limits;
pub mod places;
pub mod resets;
pub mod sse;
pub mod tap;
pub mod tls;
pub mod upgrade;

pub use asking::Asking;
pub use backoff::Backoff;
pub use client::{Acquired, Body, ClientError, Connect, Connecting, Duplex, HttpClient, Unanswered};
pub use dial::{DialError, Dialer, LookingUp, Resolver};
pub use drain::{Drain, Drained};
pub use places::{Asks, Busy, Place, Places};
pub use tls::{TlsError, TlsRoots};
