//! The places of a request: what is replaced there is what was decided on, and nothing else changes.

use std::ops::Range;

use percent_encoding::percent_decode;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::CanonicalPath;
use crate::location::{JsonPlaces, JsonPointer, PathTemplate, Segment, key_of, value_of};

/// Stands for a placeholder in what is read.
const HELD: &str = "pstnHeld0123456789";
/// Stands for a secret in its place.
const PUT: &str = "put-there";

/// A key of a query or a form has one value, whatever reader is asked, and replacing it leaves all others alone.
///
/// # Panics
/// When one of these does not hold.
pub fn pairs(bytes: &[u8]) {
    for range in holding(bytes) {
        let Some(key) = key_of(bytes, &range) else { continue };
        assert_eq!(value_of(bytes, &key), Some(range.clone()));
        let named = |pairs: &[(String, String)]| {
            pairs.iter().filter(|(name, _)| name.eq_ignore_ascii_case(key.as_str())).count()
        };
        let (before, after) = (read_pairs(bytes), read_pairs(&replaced(bytes, &range)));
        assert_eq!((named(&before), named(&after)), (1, 1), "{key} stands there once");
        assert_eq!(before.len(), after.len());
        for (one, other) in before.iter().zip(&after) {
            let here = one.0 == key.as_str();
            let expected = if here { (HELD, PUT) } else { (one.1.as_str(), one.1.as_str()) };
            assert_eq!((one.1.as_str(), other.1.as_str()), expected, "{}", one.0);
        }
    }
}

/// Pairs as a server reads them that decodes, each byte one character.
fn read_pairs(bytes: &[u8]) -> Vec<(String, String)> {
    let text = |raw: &[u8]| {
        let spaced: Vec<u8> = raw.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        percent_decode(&spaced).map(char::from).collect::<String>()
    };
    let pair = |pair: &[u8]| {
        let equals = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
        (text(&pair[..equals]), text(pair.get(equals + 1..).unwrap_or_default()))
    };
    bytes.split(|byte| *byte == b'&').map(pair).collect()
}

/// A pointer leads another parser to the same string, and replacing it changes that string alone.
///
/// # Panics
/// When it does not.
pub fn json(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes)
        && let Ok(pointer) = text.parse::<JsonPointer>()
    {
        assert_eq!(pointer.to_string(), text);
    }
    let Ok(places) = JsonPlaces::of(bytes, HELD.as_bytes()) else { return };
    // This reader takes no number beyond its own; what has places is JSON for the rest.
    let Ok(value) = serde_json::from_slice::<Value>(bytes) else {
        return assert!(serde_json::from_slice::<&RawValue>(bytes).is_ok(), "what has places is JSON");
    };
    for range in holding(bytes) {
        let Some(pointer) = places.pointer(&range) else { continue };
        assert_eq!(places.range(pointer), Some(range.clone()));
        // The root itself is no place that a zone could name.
        let pointer = pointer.to_string();
        assert_eq!(value.pointer(&pointer), Some(&Value::from(HELD)), "{pointer}");
        let mut expected = value.clone();
        *expected.pointer_mut(&pointer).expect("it is there") = Value::from(PUT);
        assert_eq!(serde_json::from_slice::<Value>(&replaced(bytes, &range)).ok(), Some(expected), "{pointer}");
    }
}

/// The template on the first line covers the path on the second only where what is put in stands in the one segment that
/// it names, and the path around it stays.
///
/// # Panics
/// When it does not.
pub fn template(bytes: &[u8]) {
    let Some((template, path)) = std::str::from_utf8(bytes).ok().and_then(|text| text.split_once('\n')) else { return };
    let (Ok(template), Ok(path)) = (template.parse::<PathTemplate>(), path.parse::<CanonicalPath>()) else { return };
    assert_eq!(template.to_string().parse::<PathTemplate>().as_ref(), Ok(&template));
    if !Segment::holding(&path, HELD).is_some_and(|held| template.covers(&path, &held)) {
        return;
    }
    let range = template.value_in(&path).expect("what is covered has its place");
    assert_eq!(&path.as_str()[range.clone()], HELD);
    let put = replaced(path.as_str().as_bytes(), &range);
    let put = String::from_utf8(put).expect("text in text");
    let put: CanonicalPath = put.parse().expect("a word in a path is a path");
    let differing = path.segments().zip(put.segments()).filter(|(before, after)| before != after).count();
    assert_eq!((differing, put.segments().count()), (1, path.segments().count()));
    assert!(!put.as_str().contains(HELD), "it stands there once");
}

/// Where the stand-in stands.
fn holding(bytes: &[u8]) -> Vec<Range<usize>> {
    let held = HELD.as_bytes();
    (0..bytes.len()).filter(|at| bytes[*at..].starts_with(held)).map(|at| at..at + held.len()).collect()
}

fn replaced(bytes: &[u8], range: &Range<usize>) -> Vec<u8> {
    [&bytes[..range.start], PUT.as_bytes(), &bytes[range.end..]].concat()
}
