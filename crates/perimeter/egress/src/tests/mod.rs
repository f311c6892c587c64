//! The request path end to end, without a sandbox: loopback listeners in place of its sockets, real TLS on both sides,
//! the real zone, an audit log in memory.

#![expect(clippy::disallowed_methods, reason = "the tests are the sandbox's clients")]

mod addresses;
mod again;
mod bounds;
mod counted;
mod differential;
mod garbage;
mod halted;
mod hostile;
mod hostile_streams;
mod identities;
mod kept;
mod locations;
mod passing;
mod process;
mod reach;
mod recorder;
mod reflection;
mod reloading;
mod requests;
mod rotation;
mod shadow;
mod smuggling;
mod stand;
mod streams;
mod transport;
mod tripwires;
mod upstream;
mod upstream_http2;
mod vectors;
mod websocket;
