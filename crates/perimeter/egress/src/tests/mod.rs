//! The request path end to end, without a sandbox: loopback listeners in place of its sockets, real TLS on both sides,
//! the real zone, an audit log in memory.

mod bounds;
mod reflection;
mod requests;
mod stand;
mod transport;
mod tripwires;
mod upstream;
