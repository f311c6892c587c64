//! Writes a parsed TOML value as text on one line: what is read back is the same value. Only what a zone is rewritten with.

use std::fmt::Write as _;

use toml::Value;

/// A value as an inline value.
pub(crate) fn inline(value: &Value) -> String {
    match value {
        Value::String(text) => quoted(text),
        Value::Integer(number) => number.to_string(),
        // `{:?}` keeps the point, without which it would be read as an integer.
        Value::Float(number) => format!("{number:?}"),
        Value::Boolean(truth) => truth.to_string(),
        Value::Datetime(moment) => moment.to_string(),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Table(members) => {
            let members: Vec<_> =
                members.iter().map(|(key, value)| format!("{} = {}", quoted(key), inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
    }
}

fn quoted(text: &str) -> String {
    let mut out = String::from("\"");
    for character in text.chars() {
        match character {
            '"' | '\\' => out.extend(['\\', character]),
            // Writing to a String does not fail.
            control if control.is_control() => drop(write!(out, "\\U{:08X}", u32::from(control))),
            other => out.push(other),
        }
    }
    out + "\""
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_as_the_same() {
        let text = "a = [1, -2, 0.5, 2.0, true, 1979-05-27]\nb = \"q\\\" \\\\ \\n \\u007F é\"\n[c.\"d e\"]\nf = []\n[[c.g]]\nh = {}\n";
        let value: toml::Table = toml::from_str(text).expect("parses");
        let written: String = value.iter().map(|(key, value)| format!("{key} = {}\n", inline(value))).collect();
        assert_eq!(toml::from_str::<toml::Table>(&written).expect("parses again"), value, "{written}");
    }
}
