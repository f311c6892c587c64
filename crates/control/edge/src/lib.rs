//! The tunnel's edge: takes connections that connectors dialled, finds the tunnel for a host, carries ciphertext.
//! Sees no plaintext of a call, holds hashes of tunnel tokens only, dials nothing. It runs in a process of its own ([`serve_process`]), with the server's
//! [`Remote`] at the other end of a channel; whoever needs no such line between the two holds an [`Edge`] itself.

mod accept;
mod carrier;
mod cut;
mod directory;
mod door;
mod edge;
mod hangup;
pub mod limits;
mod link;
mod message;
mod process;
mod pump;
mod remote;
mod serve;
mod status;
mod stream;

pub use carrier::{Carrier, Connections, Doing};
pub use directory::{Directory, TunnelEntry};
pub use edge::{Edge, Settings};
pub use limits::Limits;
pub use process::serve as serve_process;
pub use remote::Remote;
pub use serve::server_config;
pub use status::{ConnectionStatus, ErrorNote, TunnelStatus};
