//! The web tools against real sites on loopback, behind names that a resolver of the test's makes lead anywhere.

#![allow(clippy::unwrap_used, reason = "a test says what it expects by failing")]

mod fetching;
mod posting;
mod searching;
mod site;
