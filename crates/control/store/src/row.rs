//! Reading and writing the column forms: instants as microseconds, ids and JSON as text.

use aws_lc_rs::digest::{Context, SHA256};
use postern_model::Timestamp;
use serde::{Serialize, de::DeserializeOwned};

use crate::StoreError;

/// An instant as stored.
pub(crate) fn micros(at: Timestamp) -> i64 {
    at.as_microsecond()
}

/// A stored instant.
pub(crate) fn instant(micros: i64, what: &'static str) -> Result<Timestamp, StoreError> {
    Timestamp::from_microsecond(micros).map_err(|_| StoreError::Corrupt { what })
}

/// A stored instant that may be missing.
pub(crate) fn optional_instant(micros: Option<i64>, what: &'static str) -> Result<Option<Timestamp>, StoreError> {
    micros.map(|micros| instant(micros, what)).transpose()
}

/// A value as JSON text.
pub(crate) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).expect("the model's types have string keys and no failing serializers")
}

/// A stored JSON text.
pub(crate) fn from_json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StoreError> {
    serde_json::from_str(text).map_err(|_| StoreError::Corrupt { what })
}

/// A stored id or word.
pub(crate) fn parsed<T, E>(result: Result<T, E>, what: &'static str) -> Result<T, StoreError> {
    result.map_err(|_| StoreError::Corrupt { what })
}

/// SHA-256 of all parts, each with its length: no two lists of parts are one text.
pub(crate) fn digest(parts: &[&[u8]]) -> String {
    let mut context = Context::new(&SHA256);
    for part in parts {
        context.update(&(part.len() as u64).to_be_bytes());
        context.update(part);
    }
    context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
