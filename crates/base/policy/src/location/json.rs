//! The strings of a JSON text, each with its pointer and its place in the bytes, so that one can be replaced and every
//! other byte stays what it was. A text that two parsers could read differently has no places.

use super::pointer::{JsonPointer, Step};
use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::collections::HashSet;
use std::fmt;
use std::ops::Range;

/// The strings of a text without escapes in them, and where each stands, quotes excluded.
#[derive(Debug)]
pub struct JsonPlaces(Vec<(JsonPointer, Range<usize>)>);

/// The text is not JSON in UTF-8, or has a key twice or in two cases in one object, or is nested too deeply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not JSON that every parser reads alike")]
pub struct NotOneReading;

impl JsonPlaces {
    /// Reads the whole text and keeps the strings that read `wanted`, as they stand.
    ///
    /// # Errors
    /// The text has more than one reading, or none.
    pub fn of(text: &[u8], wanted: &[u8]) -> Result<Self, NotOneReading> {
        let text = std::str::from_utf8(text).map_err(|_| NotOneReading)?;
        let root: &RawValue = read(text)?;
        let mut walk = Walk { origin: text.as_ptr().addr(), wanted, way: Vec::new(), found: Vec::new() };
        walk.value(root.get(), DEPTH)?;
        Ok(Self(walk.found))
    }

    /// The pointer of the string that stands at `range`.
    #[must_use]
    pub fn pointer(&self, range: &Range<usize>) -> Option<&JsonPointer> {
        self.0.iter().find(|(_, at)| at == range).map(|(pointer, _)| pointer)
    }

    /// Where the string of this pointer stands.
    #[must_use]
    pub fn range(&self, pointer: &JsonPointer) -> Option<Range<usize>> {
        self.0.iter().find(|(at, _)| at == pointer).map(|(_, range)| range.clone())
    }
}

struct Walk<'w> {
    origin: usize,
    wanted: &'w [u8],
    way: Vec<Step>,
    found: Vec<(JsonPointer, Range<usize>)>,
}

impl Walk<'_> {
    fn value(&mut self, raw: &str, depth: usize) -> Result<(), NotOneReading> {
        let below = depth.checked_sub(1).ok_or(NotOneReading);
        match raw.as_bytes().first() {
            Some(b'{') => {
                let Members(members) = read(raw)?;
                let below = below?;
                members.into_iter().try_for_each(|(key, value)| self.at(Step::Key(key), value, below))
            }
            Some(b'[') => {
                let items: Vec<&RawValue> = read(raw)?;
                let below = below?;
                items.into_iter().enumerate().try_for_each(|(at, item)| self.at(Step::Index(at), item, below))
            }
            _ => {
                self.leaf(raw);
                Ok(())
            }
        }
    }

    fn at(&mut self, step: Step, value: &RawValue, depth: usize) -> Result<(), NotOneReading> {
        self.way.push(step);
        let read = self.value(value.get(), depth);
        self.way.pop();
        read
    }

    fn leaf(&mut self, raw: &str) {
        let inside = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"'));
        if let Some(inside) = inside.filter(|inside| inside.as_bytes() == self.wanted) {
            let start = inside.as_ptr().addr() - self.origin;
            self.found.push((JsonPointer::of(&self.way), start..start + inside.len()));
        }
    }
}

fn read<'t, T: de::Deserialize<'t>>(text: &'t str) -> Result<T, NotOneReading> {
    serde_json::from_str(text).map_err(|_| NotOneReading)
}

/// The members of an object, in their order, no key twice.
struct Members<'t>(Vec<(String, &'t RawValue)>);

impl<'t> de::Deserialize<'t> for Members<'t> {
    fn deserialize<D: Deserializer<'t>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(Collect)
    }
}

struct Collect;

impl<'t> Visitor<'t> for Collect {
    type Value = Members<'t>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'t>>(self, mut map: A) -> Result<Members<'t>, A::Error> {
        let (mut members, mut seen) = (Vec::new(), HashSet::new());
        while let Some((key, value)) = map.next_entry::<String, &RawValue>()? {
            if !seen.insert(fold(&key)) {
                return Err(de::Error::custom("a key twice"));
            }
            members.push((key, value));
        }
        Ok(Members(members))
    }
}

/// What keys are compared by: some parsers take `Token` for `token`, and `ſ` for `s`.
fn fold(key: &str) -> String {
    key.chars().flat_map(char::to_uppercase).flat_map(char::to_lowercase).collect()
}

/// Objects and arrays within each other; each level is read once more.
const DEPTH: usize = 64;
