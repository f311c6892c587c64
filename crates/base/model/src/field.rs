//! A request field in its three states: absent, null, or a value.
//!
//! Every update route gives each of the three its own meaning (contract 0.2), so an `Option` cannot carry them.

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// What a caller sent for one field. Use with `#[serde(default)]`, which makes a missing key `Absent`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Field<T> {
    /// The key was not in the body: keep what is stored.
    #[default]
    Absent,
    /// The key was there with `null`: clear, delete or refuse, as the route says.
    Null,
    /// The key was there with a value.
    Value(T),
}

impl<T> Field<T> {
    /// The value, when there is one.
    pub fn value(self) -> Option<T> {
        match self {
            Self::Value(value) => Some(value),
            Self::Absent | Self::Null => None,
        }
    }

    /// A reference to the value, when there is one.
    pub fn as_ref(&self) -> Field<&T> {
        match self {
            Self::Absent => Field::Absent,
            Self::Null => Field::Null,
            Self::Value(value) => Field::Value(value),
        }
    }

    /// Whether the key was missing.
    pub fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// Whether the key was sent as `null`.
    pub fn is_null(&self) -> bool {
        matches!(self, Self::Null)
    }

    /// The same state with the value converted.
    pub fn map<U>(self, convert: impl FnOnce(T) -> U) -> Field<U> {
        match self {
            Self::Absent => Field::Absent,
            Self::Null => Field::Null,
            Self::Value(value) => Field::Value(convert(value)),
        }
    }
}

/// `Absent` has to be skipped by whoever holds the field.
impl<T: Serialize> Serialize for Field<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Absent | Self::Null => serializer.serialize_none(),
            Self::Value(value) => value.serialize(serializer),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::<T>::deserialize(deserializer)? {
            None => Self::Null,
            Some(value) => Self::Value(value),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::Field;
    use serde::Deserialize;

    #[derive(Deserialize)]
    struct Body {
        #[serde(default)]
        title: Field<String>,
    }

    #[test]
    fn absent_null_and_value_stay_apart() {
        for (text, expected) in [
            ("{}", Field::Absent),
            (r#"{"title":null}"#, Field::Null),
            (r#"{"title":""}"#, Field::Value(String::new())),
        ] {
            let body: Body = serde_json::from_str(text).unwrap();
            assert_eq!(body.title, expected, "{text}");
        }
    }

    #[test]
    fn a_value_of_the_wrong_type_is_an_error() {
        assert!(serde_json::from_str::<Body>(r#"{"title":1}"#).is_err());
    }
}
