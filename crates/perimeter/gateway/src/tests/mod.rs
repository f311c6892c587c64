//! Tests of the whole request path: a real inner TLS client, a real upstream on loopback, decisions by the real zones.

mod bounds;
mod handover;
mod held;
mod hostile;
mod journeys;
mod oauth;
mod peers;
mod real;
mod reflection;
mod refusals;
mod stand;
mod streams;

pub(crate) use stand::write_leaf;
