//! Phase: whether what a server says is JSON that its readers read alike, and an answer to what was asked. Results are the server's own: their numbers
//! and spellings are not judged as those of calls are.

use std::{collections::HashSet, fmt};

use serde::de::{self, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::limits;

/// What one JSON text of a server's is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Said {
    /// The answer to the request with this id.
    Answer(Value),
    /// A request of the server's, with this id.
    Request(Value),
    /// Anything else.
    Other,
}

/// Reads one text: UTF-8, nothing after it, no key twice in one object, bounded depth, and no answer that is two.
///
/// # Errors
/// The reader's words, which repeat nothing of the text but its keys' places.
pub(crate) fn read(text: &[u8]) -> Result<Said, serde_json::Error> {
    let mut reader = serde_json::Deserializer::from_slice(text);
    let said = Outermost.deserialize(&mut reader)?;
    reader.end()?;
    Ok(said)
}

/// The text's one value.
struct Outermost;

impl<'de> DeserializeSeed<'de> for Outermost {
    type Value = Said;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Said, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Outermost {
    type Value = Said;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Said, A::Error> {
        let (mut keys, mut id) = (HashSet::new(), None);
        while let Some(key) = members.next_key::<String>()? {
            if key == "id" {
                id = Some(members.next_value()?);
            } else {
                members.next_value_seed(Within(limits::ANSWER_DEPTH))?;
            }
            once(&mut keys, key)?;
        }
        let has = |key: &str| keys.contains(key);
        match (has("method"), has("result"), has("error"), id) {
            (_, true, true, _) | (true, true, false, _) | (true, false, true, _) => {
                Err(de::Error::custom("one message is several"))
            }
            (false, true, false, Some(id)) | (false, false, true, Some(id)) => Ok(Said::Answer(id)),
            (true, false, false, Some(id)) => Ok(Said::Request(id)),
            _ => Ok(Said::Other),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, items: A) -> Result<Said, A::Error> {
        Within(limits::ANSWER_DEPTH).visit_seq(items).map(|()| Said::Other)
    }

    fn visit_unit<E: de::Error>(self) -> Result<Said, E> {
        Ok(Said::Other)
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<Said, E> {
        Ok(Said::Other)
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<Said, E> {
        Ok(Said::Other)
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<Said, E> {
        Ok(Said::Other)
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<Said, E> {
        Ok(Said::Other)
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<Said, E> {
        Ok(Said::Other)
    }
}

/// A value within the outermost, with so many levels left: read, and kept nowhere.
#[derive(Clone, Copy)]
struct Within(usize);

impl Within {
    fn below<E: de::Error>(self) -> Result<Self, E> {
        self.0.checked_sub(1).map(Self).ok_or_else(|| E::custom("nested too deeply"))
    }
}

impl<'de> DeserializeSeed<'de> for Within {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Within {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let (below, mut keys) = (self.below()?, HashSet::new());
        while let Some(key) = members.next_key::<String>()? {
            members.next_value_seed(below)?;
            once(&mut keys, key)?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let below = self.below()?;
        while items.next_element_seed(below)?.is_some() {}
        Ok(())
    }

    fn visit_unit<E: de::Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E: de::Error>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E: de::Error>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E: de::Error>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E: de::Error>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: de::Error>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
}

fn once<E: de::Error>(keys: &mut HashSet<String>, key: String) -> Result<(), E> {
    if keys.insert(key) { Ok(()) } else { Err(E::custom("an object has one key twice")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_an_id_and_a_result_or_an_error() {
        let table: &[(&str, Said)] = &[
            (r#"{"jsonrpc":"2.0","id":7,"result":{"n":9007199254740993,"a":1,"A":2}}"#, Said::Answer(7.into())),
            (r#"{"jsonrpc":"2.0","id":"x","error":{"code":1,"message":"m"}}"#, Said::Answer("x".into())),
            (r#"{"jsonrpc":"2.0","id":null,"error":{}}"#, Said::Answer(Value::Null)),
            (r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{}}"#, Said::Other),
            (r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#, Said::Request(7.into())),
            (r#"{"jsonrpc":"2.0","result":{}}"#, Said::Other),
            (r#"[{"id":7,"result":{}}]"#, Said::Other),
            ("null", Said::Other),
            ("\"x\"", Said::Other),
        ];
        for (text, said) in table {
            assert_eq!(read(text.as_bytes()).unwrap(), *said, "{text}");
        }
    }

    #[test]
    fn what_two_readers_read_differently_or_none_reads_to_its_end_is_no_answer() {
        let deep = |levels: usize| format!(r#"{{"id":7,"result":{}{}}}"#, "[".repeat(levels), "]".repeat(levels));
        let table = [
            r#"{"id":7,"id":8,"result":{}}"#.to_owned(),
            r#"{"id":7,"result":{},"result":{}}"#.to_owned(),
            r#"{"id":7,"result":{"a":{"b":1,"b":2}}}"#.to_owned(),
            r#"{"id":7,"result":{"a":1,"\u0061":2}}"#.to_owned(),
            r#"{"id":7,"result":{},"error":{}}"#.to_owned(),
            r#"{"id":7,"result":{},"method":"ping"}"#.to_owned(),
            r#"{"id":7,"result":{}} {"id":8,"result":{}}"#.to_owned(),
            r#"{"id":7,"result":{"#.to_owned(),
            r#"{"id":7,"result":NaN}"#.to_owned(),
            deep(limits::ANSWER_DEPTH + 1),
            deep(100_000),
        ];
        for text in table {
            assert!(read(text.as_bytes()).is_err(), "{}", &text[..text.len().min(80)]);
        }
        assert!(read(b"{\"id\":7,\"result\":\"\xff\"}").is_err(), "not UTF-8");
        assert!(read(deep(limits::ANSWER_DEPTH).as_bytes()).is_ok());
    }
}
