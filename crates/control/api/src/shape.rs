//! The shape of a body that has already parsed: what derived parsers take beyond what their types say.
//!
//! They read a struct from an array by position, a word from an object with that one key, and the last of two equal
//! keys; and they take nesting that fits the request but not what is stored of it. Each of these is refused here.

use std::collections::HashSet;
use std::fmt;

use postern_model::Problem;
use serde::de::{DeserializeSeed, Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// Deeper nesting is refused: what is stored puts a few levels round it and must be readable again.
const MAX_DEPTH: usize = 64;

/// Keys whose value is an array; its elements are objects or words.
const ARRAYS: &[&str] = &[
    "allowed_domains",
    "allowed_hosts",
    "blocked_domains",
    "configs",
    "content",
    "enabled_events",
    "events",
    "initial_events",
    "resources",
    "skills",
    "tools",
    "vault_ids",
    "wraps",
];
/// Keys whose value is, or may be, an object.
const OBJECTS: &[&str] = &[
    "agent",
    "auth",
    "checkout",
    "citations",
    "client_tool_results",
    "context",
    "default_config",
    "effort",
    "error",
    "injection_location",
    "metadata",
    "model",
    "networking",
    "permission_policy",
    "precondition",
    "refresh",
    "schedule",
    "sealed",
    "server_tool_results",
    "source",
    "token_endpoint_auth",
    "url_sources",
    "user_input",
    "user_location",
];
/// Keys whose value is looked at where it is used, not by a derived parser.
const ANYTHING: &[&str] =
    &["budget", "config", "execution_identity", "input_schema", "mcp_servers", "multiagent", "rubric"];

/// Checks a text that is valid JSON and has parsed as the type of its route.
///
/// # Errors
/// 400 naming the place.
pub(crate) fn check(text: &str) -> Result<(), Problem> {
    let mut json = serde_json::Deserializer::from_str(text);
    let root = Path { parent: None, name: Name::Root };
    let node = Node { path: &root, depth: 1, takes: Takes::Object };
    node.deserialize(&mut json).map_err(|error| Problem::invalid(error.to_string()))
}

/// What may stand at a place, besides a plain value.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Nothing,
    Array,
    Object,
    Anything,
}

impl Takes {
    fn of_key(key: &str) -> Self {
        match key {
            key if ARRAYS.contains(&key) => Self::Array,
            key if OBJECTS.contains(&key) => Self::Object,
            key if ANYTHING.contains(&key) => Self::Anything,
            _ => Self::Nothing,
        }
    }

    fn inside(self, otherwise: Self) -> Self {
        if self == Self::Anything { Self::Anything } else { otherwise }
    }
}

struct Path<'a> {
    parent: Option<&'a Path<'a>>,
    name: Name<'a>,
}

enum Name<'a> {
    Root,
    Key(&'a str),
    Index(usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parent = self.parent.filter(|parent| !matches!(parent.name, Name::Root));
        if let Some(parent) = parent {
            parent.fmt(f)?;
        }
        match self.name {
            Name::Root => f.write_str("body"),
            Name::Key(key) if parent.is_some() => write!(f, ".{}", key.chars().take(64).collect::<String>()),
            Name::Key(key) => write!(f, "{}", key.chars().take(64).collect::<String>()),
            Name::Index(index) => write!(f, "[{index}]"),
        }
    }
}

struct Node<'a> {
    path: &'a Path<'a>,
    depth: usize,
    takes: Takes,
}

impl Node<'_> {
    fn enter<E: Error>(&self, wanted: Takes, noun: &str) -> Result<(), E> {
        if self.takes != wanted && self.takes != Takes::Anything {
            return Err(E::custom(format!("{}: {noun} is not expected here", self.path)));
        }
        if self.depth > MAX_DEPTH {
            return Err(E::custom(format!("{}: nested deeper than {MAX_DEPTH} levels", self.path)));
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        self.enter(Takes::Array, "an array")?;
        for index in 0.. {
            let path = Path { parent: Some(self.path), name: Name::Index(index) };
            let takes = self.takes.inside(Takes::Object);
            if items.next_element_seed(Node { path: &path, depth: self.depth + 1, takes })?.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<(), A::Error> {
        self.enter(Takes::Object, "an object")?;
        let mut seen = HashSet::new();
        while let Some(key) = entries.next_key::<String>()? {
            let path = Path { parent: Some(self.path), name: Name::Key(&key) };
            if seen.contains(&key) {
                return Err(A::Error::custom(format!("{path}: the key stands twice")));
            }
            let takes = self.takes.inside(Takes::of_key(&key));
            entries.next_value_seed(Node { path: &path, depth: self.depth + 1, takes })?;
            seen.insert(key);
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_the_place_takes_passes() {
        for text in [
            r#"{"events":[{"type":"user.interrupt"}],"metadata":{"a":"b"}}"#,
            r#"{"agent":"agent_1","vault_ids":["v"],"model":{"effort":{"type":"high"}}}"#,
            r#"{"tools":[{"input_schema":{"type":"object","examples":[[1,[2.5,-3]],{"a":[true,null]}]}}]}"#,
        ] {
            assert_eq!(check(text), Ok(()), "{text}");
        }
        for (text, place) in [
            ("[]", "body: an array"),
            (r#"{"events":[["user.interrupt"]]}"#, "events[0]: an array"),
            (r#"{"events":[{"content":[["text"]]}]}"#, "events[0].content[0]: an array"),
            (r#"{"events":{}}"#, "events: an object"),
            (r#"{"agent":["agent"]}"#, "agent: an array"),
            (r#"{"result":{"allow":null}}"#, "result: an object"),
            (r#"{"a":1,"a":1}"#, "a: the key stands twice"),
            (r#"{"input_schema":{"x":[{"a":1,"\u0061":2}]}}"#, "input_schema.x[0].a: the key stands twice"),
        ] {
            let problem = check(text).unwrap_err();
            assert!(problem.message.starts_with(place), "{text}: {problem}");
        }
    }

    #[test]
    fn nesting_has_a_bound_that_counts_every_level() {
        let nested = |depth: usize| format!(r#"{{"rubric":{}{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert_eq!(check(&nested(MAX_DEPTH - 1)), Ok(()));
        assert!(check(&nested(MAX_DEPTH)).unwrap_err().message.contains("nested deeper"));
    }
}
