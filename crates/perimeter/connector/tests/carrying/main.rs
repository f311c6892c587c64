//! Edge and connector in one process, over real sockets and real TLS: what is carried, what is refused, what ends when.
#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    unreachable_pub,
    missing_docs,
    reason = "tests dial what they test, and say what they expect by failing"
)]

mod apart;
mod connectors;
mod doors;
mod ends;
mod peers;
mod relay;
mod streams;
mod world;
