//! Questions and answers over a channel: correlation ids, many in flight at once, descriptors both ways.
//! What happens when either side dies is part of the type: the caller gets [`CallError::Gone`], the server's loop ends.
//! A question without an answer is never repeated here.

mod caller;
mod outbox;
mod server;

pub use caller::{CallError, Caller};
pub use server::{ServeError, serve, serve_together};

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// A question on the wire.
#[derive(Serialize)]
struct Asked<'a, Q> {
    id: u64,
    ask: &'a Q,
}

/// A question as received.
#[derive(Deserialize)]
struct Heard<Q> {
    id: u64,
    ask: Q,
}

/// One that does not read as a question of its type: its text is read apart, so that it gets an answer instead of ending the connection.
#[derive(Deserialize)]
struct AskedText<'a> {
    id: u64,
    #[serde(borrow)]
    ask: &'a RawValue,
}

/// An answer on the wire: exactly one of the two fields is there.
#[derive(Serialize)]
struct Answered<A> {
    id: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer: Option<A>,
    #[serde(skip_serializing_if = "Option::is_none")]
    misread: Option<String>,
}

/// An answer as received.
#[derive(Deserialize)]
struct Told<A> {
    id: u64,
    answer: A,
}

/// One that is none, or of another type.
#[derive(Deserialize)]
struct AnsweredText<'a> {
    id: u64,
    #[serde(borrow, default)]
    answer: Option<&'a RawValue>,
    #[serde(default)]
    misread: Option<String>,
}

/// Questions one side may have in flight on one connection; more of them wait.
pub const IN_FLIGHT: usize = 256;

#[cfg(test)]
mod tests;
