//! The notation of the data: a property is one line, `TYPE [nullable] [required] [LEAST..MOST]`.
//!
//! A type is `string`, `integer`, `number`, `boolean`, `time`, `object`, `any`, `file`, a schema's name, `=one|of|these`, `[TYPE]`, `{TYPE}` for
//! a map, or several of these with `/` between them.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value, json};

/// A property as the data says it.
#[derive(Debug, PartialEq)]
pub(super) struct Property {
    pub(super) schema: Value,
    pub(super) required: bool,
}

/// Schemas as the data says them: by name, their properties.
type Schemas = BTreeMap<String, BTreeMap<String, String>>;

/// The data.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Data {
    /// What is sent: what is not named is refused.
    body: Schemas,
    /// What is answered: more may come.
    answer: Schemas,
}

/// The schemas of the data, as OpenAPI has them.
///
/// # Errors
/// Where the data does not read.
pub(super) fn schemas(text: &str) -> Result<Value, String> {
    let Data { body, answer } = toml::from_str(text).map_err(|error| error.to_string())?;
    let mut all = Map::new();
    let bodies = body.into_iter().map(|(name, properties)| (name, properties, false));
    let answers = answer.into_iter().map(|(name, properties)| (name, properties, true));
    for (name, properties, is_open) in bodies.chain(answers) {
        let (mut required, mut described) = (Vec::new(), Map::new());
        for (key, text) in properties {
            let property = property(&text).map_err(|why| format!("{name}.{key}: {why}"))?;
            if property.required {
                required.push(key.clone());
            }
            described.insert(key, property.schema);
        }
        let schema = json!({
            "type": "object", "properties": described, "required": required, "additionalProperties": is_open,
        });
        all.insert(name, schema);
    }
    Ok(all.into())
}

/// Reads one property.
///
/// # Errors
/// What is wrong with it.
pub(super) fn property(text: &str) -> Result<Property, String> {
    let mut words = text.split_whitespace();
    let mut schema = kind(words.next().ok_or("it is empty")?)?;
    let mut required = false;
    for word in words {
        match (word, word.split_once("..")) {
            ("required", _) => required = true,
            ("nullable", _) => schema = json!({"anyOf": [schema, {"type": "null"}]}),
            (_, Some((least, most))) => bound(&mut schema, least, most)?,
            _ => return Err(format!("`{word}` means nothing")),
        }
    }
    Ok(Property { schema, required })
}

/// A reference to a schema by name.
pub(super) fn reference(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

fn kind(text: &str) -> Result<Value, String> {
    let enclosed = |open, close| text.strip_prefix(open).and_then(|text| text.strip_suffix(close));
    Ok(match text {
        _ if enclosed('[', ']').is_some() => {
            json!({"type": "array", "items": kind(enclosed('[', ']').unwrap_or_default())?})
        }
        _ if enclosed('{', '}').is_some() => {
            json!({"type": "object", "additionalProperties": kind(enclosed('{', '}').unwrap_or_default())?})
        }
        _ if text.contains('/') => json!({"anyOf": text.split('/').map(kind).collect::<Result<Vec<_>, _>>()?}),
        "string" | "integer" | "number" | "boolean" | "object" => json!({"type": text}),
        "time" => json!({"type": "string", "format": "date-time"}),
        "file" => json!({"type": "string", "contentMediaType": "application/octet-stream"}),
        "any" => json!({}),
        _ => match text.strip_prefix('=') {
            Some(words) => json!({"enum": words.split('|').collect::<Vec<_>>()}),
            None if text.starts_with(|first: char| first.is_ascii_uppercase()) => reference(text),
            None => return Err(format!("`{text}` is no type")),
        },
    })
}

/// Bounds mean what they bound: a length, a number, a count.
fn bound(schema: &mut Value, least: &str, most: &str) -> Result<(), String> {
    let (low, high) = match schema["type"].as_str() {
        Some("string") => ("minLength", "maxLength"),
        Some("integer" | "number") => ("minimum", "maximum"),
        Some("array") => ("minItems", "maxItems"),
        Some("object") => ("minProperties", "maxProperties"),
        _ => return Err("only one plain type has bounds, before `nullable`".to_owned()),
    };
    for (key, text) in [(low, least), (high, most)] {
        if !text.is_empty() {
            schema[key] = text.parse::<u64>().map_err(|_| format!("`{text}` is no number"))?.into();
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_schema() {
        let read = |text: &str| property(text).map(|property| (property.schema, property.required));
        for (text, schema, required) in [
            ("string", json!({"type": "string"}), false),
            ("string 1..256 required", json!({"type": "string", "minLength": 1, "maxLength": 256}), true),
            ("integer ..9", json!({"type": "integer", "maximum": 9}), false),
            ("[Skill] ..20", json!({"type": "array", "items": reference("Skill"), "maxItems": 20}), false),
            ("{string}", json!({"type": "object", "additionalProperties": {"type": "string"}}), false),
            ("=a|b", json!({"enum": ["a", "b"]}), false),
            ("string/Model", json!({"anyOf": [{"type": "string"}, reference("Model")]}), false),
            ("time nullable", json!({"anyOf": [{"type": "string", "format": "date-time"}, {"type": "null"}]}), false),
        ] {
            assert_eq!(read(text), Ok((schema, required)), "{text}");
        }
        for text in ["", "strange", "string often", "string 1..x", "Model 1..2"] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
