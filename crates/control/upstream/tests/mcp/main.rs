//! The MCP client against servers that keep to the protocol and servers that do not, through inner TLS over a carrier
//! that remembers what it carried.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod bounds;
mod calls;
mod harness;
mod hostile;
mod paths;
mod public;
