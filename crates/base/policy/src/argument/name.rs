//! Naming an argument: by its key at the top, or by a JSON pointer (RFC 6901).

use serde_json::{Map, Value};
use std::fmt;
use std::str::FromStr;

/// Of an object with more members none is looked at: every key is compared with every name, for every rule.
const MOST_MEMBERS: usize = 1000;

/// The way to one argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ArgumentName {
    written: String,
    steps: Vec<String>,
}

/// The text names no argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadName {
    #[error("the name of an argument is empty")]
    Empty,
    #[error("not a JSON pointer: after ~ comes 0 (for ~) or 1 (for /)")]
    Escape,
    #[error("a JSON pointer here has at most 16 steps and 512 bytes")]
    TooLong,
}

/// What stands where a name leads.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Found<'a> {
    /// This.
    Value(&'a Value),
    /// Nothing: its parent is an object without it, or an array that ends before it, or is not there itself.
    Nothing,
    /// The way leads through something that is neither object nor array, which some servers read as one, or through an
    /// object with too many members.
    Unreachable,
    /// On the way stand two keys that servers could take for one.
    TwoSpellings,
}

impl FromStr for ArgumentName {
    type Err = BadName;
    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.is_empty() {
            return Err(BadName::Empty);
        }
        let steps = match text.strip_prefix('/') {
            None => vec![text.to_owned()],
            Some(pointer) => pointer.split('/').map(unescape).collect::<Result<_, _>>()?,
        };
        if steps.len() > 16 || text.len() > 512 {
            return Err(BadName::TooLong);
        }
        Ok(Self { written: text.to_owned(), steps })
    }
}

fn unescape(step: &str) -> Result<String, BadName> {
    let mut rest = step.split('~');
    let mut plain = rest.next().unwrap_or_default().to_owned();
    for piece in rest {
        match piece.chars().next() {
            Some('0') => plain.push('~'),
            Some('1') => plain.push('/'),
            _ => return Err(BadName::Escape),
        }
        plain.push_str(&piece[1..]);
    }
    Ok(plain)
}

impl fmt::Display for ArgumentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}

impl ArgumentName {
    /// What stands there.
    pub(crate) fn find<'a>(&self, arguments: &'a Map<String, Value>) -> Found<'a> {
        let (first, rest) = self.steps.split_first().expect("a name has a step: it is not empty");
        let mut found = member(arguments, first);
        for step in rest {
            found = match found {
                Found::Value(Value::Object(object)) => member(object, step),
                Found::Value(Value::Array(items)) => element(items, step),
                Found::Value(Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_)) => Found::Unreachable,
                Found::Nothing | Found::Unreachable | Found::TwoSpellings => return found,
            };
        }
        found
    }
}

fn member<'a>(object: &'a Map<String, Value>, name: &str) -> Found<'a> {
    if object.len() > MOST_MEMBERS {
        return Found::Unreachable;
    }
    if object.keys().any(|key| key != name && folded(key).eq(folded(name))) {
        return Found::TwoSpellings;
    }
    object.get(name).map_or(Found::Nothing, Found::Value)
}

/// A step that is no index leads to nothing in an array: whatever a server makes of it, it is not what the rule means.
fn element<'a>(items: &'a [Value], step: &str) -> Found<'a> {
    let canonical = step == "0" || !step.starts_with('0');
    let index = (canonical && step.bytes().all(|byte| byte.is_ascii_digit())).then(|| step.parse::<usize>().ok());
    match index.flatten() {
        Some(index) => items.get(index).map_or(Found::Nothing, Found::Value),
        None => Found::Unreachable,
    }
}

/// Keys that are equal when folded are one key to a server that ignores case, takes `max_results` for `maxResults`, or
/// normalises Unicode. Letters of other alphabets that only look alike stay different: no server confuses those.
fn folded(key: &str) -> impl Iterator<Item = char> {
    key.chars()
        .map(halfwidth)
        .filter(|letter| !matches!(letter, '_' | '-' | '.') && !letter.is_whitespace() && !is_invisible(*letter))
        .flat_map(char::to_uppercase)
        .flat_map(char::to_lowercase)
}

/// The fullwidth forms of ASCII (U+FF01 to U+FF5E) as ASCII.
pub(super) fn halfwidth(letter: char) -> char {
    match u32::from(letter) {
        code @ 0xff01..=0xff5e => char::from_u32(code - 0xfee0).unwrap_or(letter),
        _ => letter,
    }
}

fn is_invisible(letter: char) -> bool {
    letter.is_control()
        || matches!(letter, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}')
}
