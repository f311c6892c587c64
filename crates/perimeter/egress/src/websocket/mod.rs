//! WebSocket (RFC 6455) between a sandbox and a permitted upstream: handshake, frames, and the relay that scrubs what
//! comes back and inspects what goes out. Compression is never agreed to: it could not be read.

pub(crate) mod frame;
pub(crate) mod handshake;
pub(crate) mod reader;
pub(crate) mod relay;
