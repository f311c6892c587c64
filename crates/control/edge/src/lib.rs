//! The tunnel's edge: takes connections that connectors dialled, finds the tunnel for a host, carries ciphertext.
//! Sees no plaintext of a call, holds hashes of tunnel tokens only, dials nothing.

mod accept;
mod carrier;
mod cut;
mod directory;
mod door;
mod edge;
pub mod limits;
mod link;
mod serve;
mod status;
mod stream;

pub use carrier::{Carrier, Connections, Doing};
pub use directory::{Directory, TunnelEntry};
pub use edge::{Edge, Settings};
pub use limits::Limits;
pub use serve::server_config;
pub use status::{ConnectionStatus, ErrorNote, TunnelStatus};
