//! JSON that every parser reads alike. What two parsers could read differently is refused, not repaired: policy would
//! decide on one reading and the MCP server act on the other.

use std::{collections::HashSet, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::limits;

/// Why a text is not taken as JSON, in words that repeat nothing of it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NotStrict(String);

/// Reads one JSON value: UTF-8, nothing after it, no key twice or in two cases in one object, no number that a
/// double does not hold, bounded depth.
pub(crate) fn parse(text: &[u8]) -> Result<Value, NotStrict> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Level(limits::JSON_DEPTH).deserialize(&mut reader).map_err(|error| NotStrict(error.to_string()))?;
    reader.end().map_err(|error| NotStrict(error.to_string()))?;
    Ok(value)
}

/// What keys are compared by: parsers that ignore case take `Path` for `path`, and some `ſ` for `s`.
pub(crate) fn fold(key: &str) -> String {
    key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

#[derive(Clone, Copy)]
struct Level(usize);

impl Level {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Level {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Level {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Value, E> {
        if value > EXACT { Err(inexact()) } else { Ok(value.into()) }
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Value, E> {
        if value.unsigned_abs() > EXACT { Err(inexact()) } else { Ok(value.into()) }
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Value, E> {
        #[expect(clippy::cast_precision_loss, reason = "2^53 - 1 is a double")]
        let beyond = value.abs() > EXACT as f64;
        if beyond {
            return Err(inexact());
        }
        Number::from_f64(value).map(Value::Number).ok_or_else(inexact)
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let mut list = Vec::new();
        while let Some(item) = items.next_element_seed(below)? {
            list.push(item);
        }
        Ok(Value::Array(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Value, A::Error> {
        let below = self.below()?;
        let (mut object, mut seen) = (Map::new(), HashSet::new());
        while let Some(key) = members.next_key::<String>()? {
            if key.contains('\0') {
                return Err(de::Error::custom("a key holds a NUL, at which some parsers end it"));
            }
            if !seen.insert(fold(&key)) {
                return Err(de::Error::custom("an object has one key twice, or in two cases"));
            }
            object.insert(key, members.next_value_seed(below)?);
        }
        Ok(Value::Object(object))
    }
}

fn inexact<E: de::Error>() -> E {
    E::custom("a number is beyond 2^53 - 1, where parsers differ; send it as a string")
}

/// The largest integer up to which a double holds every one (RFC 8259, section 6).
const EXACT: u64 = (1 << 53) - 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_two_parsers_read_differently_is_refused() {
        let deep = format!("{}1{}", "[".repeat(65), "]".repeat(65));
        let table: &[(&str, &str)] = &[
            ("a key twice", r#"{"a":1,"a":2}"#),
            ("a key twice, deep", r#"{"x":[{"y":{"a":1,"a":1}}]}"#),
            ("a key twice, escaped", r#"{"a":1,"\u0061":2}"#),
            ("a key in two cases", r#"{"path":1,"Path":2}"#),
            ("a key that folds to another", "{\"session\":1,\"ſession\":2}"),
            ("a NUL in a key", r#"{"a\u0000b":1}"#),
            ("text after the end", r#"{"a":1} {"b":2}"#),
            ("a comment", "{\"a\":1}//x"),
            ("a byte order mark", "\u{feff}{}"),
            ("half of a surrogate pair", r#"{"a":"\ud800"}"#),
            ("a raw control character", "{\"a\":\"\u{1}\"}"),
            ("a trailing comma", r#"{"a":1,}"#),
            ("a number too large", r#"{"a":9007199254740993}"#),
            ("a negative number too large", r#"{"a":-9007199254740993}"#),
            ("a number beyond all integers", r#"{"a":123456789012345678901234567890}"#),
            ("a number that is infinite", r#"{"a":1e400}"#),
            ("a leading zero", r#"{"a":01}"#),
            ("NaN", r#"{"a":NaN}"#),
            ("single quotes", "{'a':1}"),
            ("too deep", &deep),
            ("nothing", ""),
        ];
        for (what, text) in table {
            assert!(parse(text.as_bytes()).is_err(), "{what}");
        }
        assert!(parse(b"{\"a\":\"\xff\"}").is_err(), "not UTF-8");
    }

    #[test]
    fn ordinary_json_is_read_as_it_is() {
        for text in [
            r#"{"a":[1,-2,0.5,9007199254740991,-9007199254740991,true,false,null,"\u00e9\n"],"b":{"a":{}}}"#,
            r#"[{"a":1},{"A":1}]"#,
            "7",
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap(), serde_json::from_str::<Value>(text).unwrap());
        }
    }

    #[test]
    fn a_refusal_repeats_nothing_of_the_text() {
        let error = parse(br#"{"hunter2hunter2":1,"hunter2hunter2":2}"#).unwrap_err();
        assert!(!error.to_string().contains("hunter2"), "{error}");
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_bring_the_reader_down_and_what_it_takes_other_readers_take_alike(
            text in proptest::collection::vec(
                proptest::sample::select(&b"{}[]\",:\\u0061dpqt8eE+-.129 \n\0\x7f\xc3\xa9\xff"[..]), 0..64
            ),
        ) {
            if let Ok(value) = parse(&text) {
                proptest::prop_assert_eq!(&serde_json::from_slice::<Value>(&text).unwrap(), &value);
                proptest::prop_assert_eq!(&parse(value.to_string().as_bytes()).unwrap(), &value);
            }
        }
    }
}
