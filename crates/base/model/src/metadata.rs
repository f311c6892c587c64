//! Free-form pairs that a caller attaches to a resource.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::Problem;

/// The most pairs a resource may carry.
pub const MAX_PAIRS: usize = 16;
/// The longest key, in characters.
pub const MAX_KEY: usize = 64;
/// The longest value, in characters.
pub const MAX_VALUE: usize = 512;

/// Pairs of text, at most 16, keys to 64 and values to 512 characters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Metadata(pub BTreeMap<String, String>);

/// A merge: a value sets its key, `None` deletes it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MetadataPatch(pub BTreeMap<String, Option<String>>);

impl Metadata {
    /// The pairs when they keep within the limits.
    ///
    /// # Errors
    /// 400 `invalid_metadata`, naming the limit.
    pub fn checked(self) -> Result<Self, Problem> {
        if self.0.len() > MAX_PAIRS {
            return Err(invalid(format!("at most {MAX_PAIRS} pairs are allowed, got {}", self.0.len())));
        }
        for (key, value) in &self.0 {
            if key.is_empty() || key.chars().count() > MAX_KEY {
                return Err(invalid(format!("keys have 1 to {MAX_KEY} characters")));
            }
            if value.chars().count() > MAX_VALUE {
                return Err(invalid(format!("the value of `{key}` is longer than {MAX_VALUE} characters")));
            }
        }
        Ok(self)
    }

    /// These pairs with `patch` merged in, checked.
    ///
    /// # Errors
    /// As [`Metadata::checked`].
    pub fn merged(&self, patch: &MetadataPatch) -> Result<Self, Problem> {
        let mut merged = self.clone();
        for (key, value) in &patch.0 {
            match value {
                Some(value) => merged.0.insert(key.clone(), value.clone()),
                None => merged.0.remove(key),
            };
        }
        merged.checked()
    }

    /// Whether there is no pair.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl MetadataPatch {
    /// The same patch where an empty value deletes too: the rule of environments.
    #[must_use]
    pub fn empty_deletes(self) -> Self {
        Self(self.0.into_iter().map(|(key, value)| (key, value.filter(|text| !text.is_empty()))).collect())
    }
}

fn invalid(message: String) -> Problem {
    Problem::invalid_at("metadata", message).with_code("invalid_metadata")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pairs(pairs: &[(&str, &str)]) -> Metadata {
        Metadata(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
    }

    #[test]
    fn a_merge_sets_keeps_and_deletes() {
        let patch: MetadataPatch = serde_json::from_str(r#"{"a":"2","b":null,"d":"4"}"#).unwrap();
        let merged = pairs(&[("a", "1"), ("b", "2"), ("c", "3")]).merged(&patch).unwrap();
        assert_eq!(merged, pairs(&[("a", "2"), ("c", "3"), ("d", "4")]));
    }

    #[test]
    fn an_empty_value_deletes_where_the_route_says_so() {
        let patch: MetadataPatch = serde_json::from_str(r#"{"a":""}"#).unwrap();
        let stored = pairs(&[("a", "1")]);
        assert_eq!(stored.merged(&patch).unwrap(), pairs(&[("a", "")]));
        assert_eq!(stored.merged(&patch.empty_deletes()).unwrap(), Metadata::default());
    }

    #[test]
    fn limits_are_refused_with_their_code() {
        let many = Metadata((0..17).map(|n| (format!("k{n}"), String::new())).collect());
        for too_much in [many, pairs(&[("", "x")]), pairs(&[(&"k".repeat(65), "")]), pairs(&[("k", &"v".repeat(513))])]
        {
            assert_eq!(too_much.checked().unwrap_err().error_code, Some("invalid_metadata"));
        }
        assert!(pairs(&[(&"\u{e9}".repeat(64), &"\u{e9}".repeat(512))]).checked().is_ok());
    }
}
