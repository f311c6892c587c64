//! RFC 8785 (JCS): one byte sequence for one JSON value, and the digest of an agent's effective definition over it.

use std::fmt::Write as _;

use aws_lc_rs::digest::{SHA256, digest};
use serde_json::{Map, Value};

/// The parts of a definition that decide what an agent is.
const PARTS: [&str; 6] = ["model", "system", "tools", "mcp_servers", "skills", "multiagent"];

/// `sha256:` and the hexadecimal digest of an agent's effective definition, as resolved for a session. A part that is absent counts as null.
pub fn definition_digest(agent: &Value) -> String {
    let definition: Map<String, Value> =
        PARTS.iter().map(|part| ((*part).to_owned(), agent.get(*part).cloned().unwrap_or(Value::Null))).collect();
    let canonical = canonical_json(&Value::Object(definition));
    hex(digest(&SHA256, canonical.as_bytes()).as_ref())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The canonical form of a value.
pub fn canonical_json(value: &Value) -> String {
    let mut out = String::new();
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null | Value::Bool(_) | Value::String(_) => out.push_str(&value.to_string()),
        Value::Number(number) => write_number(out, number.as_f64().unwrap_or(0.0)),
        Value::Array(items) => {
            out.push('[');
            for (position, item) in items.iter().enumerate() {
                out.push_str(if position > 0 { "," } else { "" });
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => write_object(out, members),
    }
}

/// Members come in the order of their names' UTF-16 code units.
fn write_object(out: &mut String, members: &Map<String, Value>) {
    let mut names: Vec<&String> = members.keys().collect();
    names.sort_by(|left, right| left.encode_utf16().cmp(right.encode_utf16()));
    out.push('{');
    for (position, name) in names.iter().enumerate() {
        out.push_str(if position > 0 { "," } else { "" });
        out.push_str(&Value::String((*name).clone()).to_string());
        out.push(':');
        write_value(out, &members[*name]);
    }
    out.push('}');
}

/// ECMAScript's shortest form: plain digits from 1e-6 up to 1e21, an exponent beyond.
fn write_number(out: &mut String, number: f64) {
    if number == 0.0 {
        return out.push('0');
    }
    if (1e-6..1e21).contains(&number.abs()) {
        let _ = write!(out, "{number}");
        return;
    }
    let text = format!("{number:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    let _ = write!(out, "{digits}e{sign}{exponent}");
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_examples_of_the_rfc_come_out_as_printed_there() {
        let value: Value = serde_json::from_str(
            r#"{"numbers":[333333333.3333333,1E30,4.50,2e-3,0.000000000000000000000000001],"string":"\u20ac$\u000F\u000aA'\u0042\u0022\u005c\\\"\/","literals":[null,true,false]}"#,
        )
        .expect("JSON");
        assert_eq!(
            canonical_json(&value),
            r#"{"literals":[null,true,false],"numbers":[333333333.3333333,1e+30,4.5,0.002,1e-27],"string":"€$\u000f\nA'B\"\\\\\"/"}"#
        );
    }

    #[test]
    fn names_are_sorted_by_utf16_units() {
        let value = json!({"\u{20ac}": 1, "\r": 2, "\u{fb33}": 3, "1": 4, "\u{1f600}": 5, "\u{80}": 6, "\u{f6}": 7});
        let text = canonical_json(&value);
        let order: Vec<usize> =
            [2, 4, 6, 7, 1, 5, 3].iter().map(|n| text.find(&format!(":{n}")).expect("there")).collect();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn numbers_are_written_as_ecmascript_writes_them() {
        for (number, text) in [
            (json!(-0.0), "0"),
            (json!(1e21), "1e+21"),
            (json!(1e20), "100000000000000000000"),
            (json!(1e-7), "1e-7"),
            (json!(0.000001), "0.000001"),
            (json!(9007199254740993_u64), "9007199254740992"),
            (json!(-5), "-5"),
            (json!(1.5), "1.5"),
        ] {
            assert_eq!(canonical_json(&number), text);
        }
    }

    #[test]
    fn the_digest_covers_the_definition_and_not_the_name() {
        let agent = json!({"id": "agent_1", "name": "a", "model": {"id": "m"}, "system": null, "tools": [], "mcp_servers": [], "skills": [], "multiagent": null});
        let mut renamed = agent.clone();
        renamed["name"] = json!("b");
        let mut retooled = agent.clone();
        retooled["tools"] = json!([{"type": "agent_toolset_20260401"}]);
        assert_eq!(definition_digest(&agent), definition_digest(&renamed));
        assert_ne!(definition_digest(&agent), definition_digest(&retooled));
        let mut without = agent.clone();
        without.as_object_mut().expect("an object").shift_remove("multiagent");
        assert_eq!(definition_digest(&agent), definition_digest(&without));
        assert!(definition_digest(&agent).starts_with("sha256:") && definition_digest(&agent).len() == 71);
    }
}
