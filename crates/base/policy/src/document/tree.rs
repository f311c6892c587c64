//! The TOML text as an owned tree whose every key and value knows its place.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// A value and where it begins, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) at: usize,
    pub(super) value: Value,
}

/// A key, where it begins, and its value. In a table they are in the order of the file.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) at: usize,
    pub(super) node: Node,
}

#[derive(Clone, Debug)]
pub(super) enum Value {
    String(String),
    Integer(i64),
    Float(f64),
    Boolean(bool),
    /// Dates, and numbers out of range: no key of ours takes one.
    Other,
    Array(Vec<Node>),
    Table(Vec<Entry>),
}

impl Value {
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Value::String(_) => "a string",
            Value::Integer(_) => "a whole number",
            Value::Float(_) => "a number",
            Value::Boolean(_) => "true or false",
            Value::Other => "a date or a number out of range",
            Value::Array(_) => "an array",
            Value::Table(_) => "a table",
        }
    }
}

/// The tree, as far as it goes, and every place where the text is not TOML.
pub(super) fn parse(text: &str) -> (Node, Vec<(usize, String)>) {
    let (table, errors) = DeTable::parse_recoverable(text);
    let broken =
        errors.iter().map(|error| (error.span().map_or(0, |span| span.start), error.message().to_owned())).collect();
    (Node { at: table.span().start, value: entries(table.get_ref()) }, broken)
}

fn entries(table: &DeTable<'_>) -> Value {
    let mut entries: Vec<Entry> = table
        .iter()
        .map(|(key, value)| Entry { key: key.get_ref().to_string(), at: key.span().start, node: node(value) })
        .collect();
    entries.sort_by_key(|entry| entry.at);
    Value::Table(entries)
}

fn node(spanned: &Spanned<DeValue<'_>>) -> Node {
    let value = match spanned.get_ref() {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => {
            i64::from_str_radix(number.as_str(), number.radix()).map_or(Value::Other, Value::Integer)
        }
        DeValue::Float(number) => {
            number.as_str().parse().ok().filter(|value: &f64| value.is_finite()).map_or(Value::Other, Value::Float)
        }
        DeValue::Boolean(value) => Value::Boolean(*value),
        DeValue::Datetime(_) => Value::Other,
        DeValue::Array(items) => Value::Array(items.iter().map(node).collect()),
        DeValue::Table(table) => entries(table),
    };
    Node { at: spanned.span().start, value }
}

/// What is below the table of this name; nothing where there is none.
pub(super) fn entry_named<'n>(root: &'n Node, key: &str) -> &'n [Entry] {
    let Value::Table(entries) = &root.value else {
        return &[];
    };
    match entries.iter().find(|entry| entry.key == key).map(|entry| &entry.node.value) {
        Some(Value::Table(entries)) => entries,
        _ => &[],
    }
}

/// The texts of all keys of these names, at any depth.
pub(super) fn strings_under(root: &Node, keys: &[&str], found: &mut Vec<String>) {
    match &root.value {
        Value::Table(entries) => strings_in(entries, keys, found),
        Value::Array(items) => items.iter().for_each(|item| strings_under(item, keys, found)),
        Value::String(_) | Value::Integer(_) | Value::Float(_) | Value::Boolean(_) | Value::Other => {}
    }
}

/// The same, below a table.
pub(super) fn strings_in(entries: &[Entry], keys: &[&str], found: &mut Vec<String>) {
    for entry in entries {
        match &entry.node.value {
            Value::String(text) if keys.contains(&entry.key.as_str()) => found.push(text.clone()),
            _ => strings_under(&entry.node, keys, found),
        }
    }
}

/// Bytes that are equal only for equal content: keys sorted, each text with its length, each kind with its letter.
pub(super) fn canonical_table(entries: &[Entry], bytes: &mut Vec<u8>) {
    let mut sorted: Vec<&Entry> = entries.iter().collect();
    sorted.sort_by(|one, other| one.key.cmp(&other.key));
    bytes.push(b't');
    bytes.extend((sorted.len() as u64).to_be_bytes());
    for entry in sorted {
        canonical_text(&entry.key, bytes);
        canonical_node(&entry.node, bytes);
    }
}

/// A text with its length.
pub(super) fn canonical_text(text: &str, bytes: &mut Vec<u8>) {
    bytes.push(b's');
    bytes.extend((text.len() as u64).to_be_bytes());
    bytes.extend(text.as_bytes());
}

fn canonical_node(node: &Node, bytes: &mut Vec<u8>) {
    match &node.value {
        Value::String(text) => canonical_text(text, bytes),
        Value::Integer(number) => {
            bytes.push(b'i');
            bytes.extend(number.to_be_bytes());
        }
        Value::Float(number) => {
            bytes.push(b'f');
            bytes.extend(number.to_bits().to_be_bytes());
        }
        Value::Boolean(value) => bytes.extend([b'b', u8::from(*value)]),
        Value::Other => bytes.push(b'o'),
        Value::Array(items) => {
            bytes.push(b'a');
            bytes.extend((items.len() as u64).to_be_bytes());
            items.iter().for_each(|item| canonical_node(item, bytes));
        }
        Value::Table(entries) => canonical_table(entries, bytes),
    }
}
