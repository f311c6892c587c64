//! Reading sections of a document: each key asked for is checked, each key not asked for is an error.
//!
//! ```text
//! let reader = document.reader();
//! let mut root = reader.root();
//! root.leave("zone");                                    // read by Zones::load
//! if let Some(mut model) = root.table("model") {
//!     let url = model.parsed::<Endpoint>("url");         // a wrong type or value is recorded, None returned
//! }                                                      // dropped: unknown keys are recorded
//! drop(root);
//! let errors = reader.finish();
//! ```

use super::tree::{Entry, Node, Value};
use super::{ConfigError, Document, Literal};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::str::FromStr;

/// A place in the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct At(usize);

impl At {
    /// The first character.
    #[must_use]
    pub fn start() -> Self {
        Self(0)
    }
}

/// A value and where it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Item<T> {
    /// The value.
    pub value: T,
    /// Its place.
    pub at: At,
}

/// Collects what is wrong while sections are read.
#[derive(Debug)]
pub struct Reader<'d> {
    document: &'d Document,
    errors: RefCell<Vec<ConfigError>>,
    warnings: RefCell<Vec<ConfigError>>,
}

impl<'d> Reader<'d> {
    pub(super) fn new(document: &'d Document) -> Self {
        Self { document, errors: RefCell::default(), warnings: RefCell::default() }
    }

    /// The whole file as a table. The format number has been read already.
    #[must_use]
    pub fn root(&self) -> Table<'_> {
        let mut root = Table::new(self, String::new(), At(self.document.root.at), entries_of(&self.document.root));
        root.leave("config");
        root
    }

    /// Records an error.
    pub fn error(&self, at: At, message: impl Into<String>) {
        self.errors.borrow_mut().push(self.document.error_at(at.0, message.into()));
    }

    /// The line of a place, from 1.
    #[must_use]
    pub fn line(&self, at: At) -> usize {
        self.document.error_at(at.0, String::new()).line
    }

    /// Records something the operator should know.
    pub fn warn(&self, at: At, message: impl Into<String>) {
        self.warnings.borrow_mut().push(self.document.error_at(at.0, message.into()));
    }

    /// All errors in the order of the file; empty if there is none.
    #[must_use]
    pub fn finish(self) -> Vec<ConfigError> {
        self.finish_with_warnings().0
    }

    /// All errors, and all warnings, each in the order of the file.
    #[must_use]
    pub fn finish_with_warnings(self) -> (Vec<ConfigError>, Vec<ConfigError>) {
        (in_order(self.errors.into_inner()), in_order(self.warnings.into_inner()))
    }
}

fn in_order(mut found: Vec<ConfigError>) -> Vec<ConfigError> {
    found.sort();
    found.dedup();
    found
}

fn entries_of(node: &Node) -> &[Entry] {
    match &node.value {
        Value::Table(entries) => entries,
        _ => &[],
    }
}

/// One table of the file. Dropping it records every key that was not asked for.
#[derive(Debug)]
pub struct Table<'r> {
    reader: &'r Reader<'r>,
    name: String,
    at: At,
    entries: &'r [Entry],
    asked: BTreeSet<String>,
    lenient: bool,
}

impl<'r> Table<'r> {
    fn new<'d: 'r>(reader: &'r Reader<'d>, name: String, at: At, entries: &'r [Entry]) -> Self {
        Self { reader, name, at, entries, asked: BTreeSet::new(), lenient: false }
    }

    /// Where the table begins.
    #[must_use]
    pub fn at(&self) -> At {
        self.at
    }

    /// Its dotted name, empty for the whole file.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The reader, to record errors.
    #[must_use]
    pub fn reader(&self) -> &'r Reader<'r> {
        self.reader
    }

    /// This key is read by someone else.
    pub fn leave(&mut self, key: &str) {
        self.asked.insert(key.to_owned());
    }

    /// All keys not asked for are read by someone else.
    pub fn leave_rest(&mut self) {
        self.lenient = true;
    }

    /// These keys of the schema cannot be enforced by this build: each one present is an error.
    pub fn not_in_this_build(&mut self, keys: &[&str]) {
        for key in keys {
            if let Some(entry) = self.entry(key) {
                self.reader.error(At(entry.at), format!("not in this build: {key}"));
            }
        }
    }

    /// Whether the key is there; it counts as asked for.
    pub fn has(&mut self, key: &str) -> bool {
        self.entry(key).is_some()
    }

    /// Whether the key is written as an array in which nothing stands.
    pub(crate) fn is_empty_array(&self, key: &str) -> bool {
        let written = self.entries.iter().find(|entry| entry.key == key);
        written.is_some_and(|entry| matches!(&entry.node.value, Value::Array(items) if items.is_empty()))
    }

    /// A key that must be there: `None` is recorded as missing (unless the key is there and was wrong).
    pub fn required<T>(&mut self, key: &str, value: Option<T>) -> Option<T> {
        if value.is_none() && self.entry(key).is_none() {
            let of = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
            self.reader.error(self.at, format!("missing key: {key}{of}"));
        }
        value
    }

    /// A string.
    pub fn string(&mut self, key: &str) -> Option<Item<&'r str>> {
        self.typed(key, "a string", as_string)
    }

    /// A string that is parsed; what does not parse is recorded with the parser's own words.
    pub fn parsed<T: FromStr<Err: Display>>(&mut self, key: &str) -> Option<Item<T>> {
        let text = self.string(key)?;
        self.parse(key, text)
    }

    /// A whole number.
    pub fn integer(&mut self, key: &str) -> Option<Item<i64>> {
        self.typed(key, "a whole number", |value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        })
    }

    /// A whole number within bounds.
    pub fn bounded(&mut self, key: &str, bounds: std::ops::RangeInclusive<i64>) -> Option<Item<i64>> {
        let item = self.integer(key)?;
        if bounds.contains(&item.value) {
            return Some(item);
        }
        self.reader.error(item.at, format!("{key} must be from {} to {}", bounds.start(), bounds.end()));
        None
    }

    /// A number, with or without a fraction.
    pub fn number(&mut self, key: &str) -> Option<Item<f64>> {
        self.typed(key, "a number", |value| match value {
            Value::Float(number) => Some(*number),
            // Configuration numbers are small; what is beyond 2^52 is refused by its bounds.
            #[expect(clippy::cast_precision_loss, reason = "bounds are checked by the caller and lie far below 2^52")]
            Value::Integer(number) => Some(*number as f64),
            _ => None,
        })
    }

    /// A value of any kind but a table or a date.
    pub(crate) fn literal(&mut self, key: &str) -> Option<Item<Literal>> {
        let node = &self.entry(key)?.node;
        let value = self.literal_of(key, node, 0)?;
        Some(Item { value, at: At(node.at) })
    }

    /// Its keys, in the order of the file.
    #[must_use]
    pub fn keys(&self) -> Vec<Item<&'r str>> {
        self.entries.iter().map(|entry| Item { value: entry.key.as_str(), at: At(entry.at) }).collect()
    }

    /// True or false.
    pub fn boolean(&mut self, key: &str) -> Option<Item<bool>> {
        self.typed(key, "true or false", |value| match value {
            Value::Boolean(value) => Some(*value),
            _ => None,
        })
    }

    /// An array of strings; absent is `None`, which is not the same as empty.
    pub fn strings(&mut self, key: &str) -> Option<Vec<Item<&'r str>>> {
        let array = self.typed(key, "an array of strings", as_array)?.value;
        Some(self.each(key, array, "a string", as_string))
    }

    /// An array of strings, each parsed.
    pub fn parsed_all<T: FromStr<Err: Display>>(&mut self, key: &str) -> Option<Vec<Item<T>>> {
        let texts = self.strings(key)?;
        Some(texts.into_iter().filter_map(|text| self.parse(key, text)).collect())
    }

    /// An array of whole numbers.
    pub fn integers(&mut self, key: &str) -> Option<Vec<Item<i64>>> {
        let array = self.typed(key, "an array of whole numbers", as_array)?.value;
        Some(self.each(key, array, "a whole number", |value| match value {
            Value::Integer(number) => Some(*number),
            _ => None,
        }))
    }

    /// A table within.
    pub fn table(&mut self, key: &str) -> Option<Table<'r>> {
        let name = self.name_of(key);
        let entry = self.entry(key)?;
        let Value::Table(entries) = &entry.node.value else {
            self.wrong_type(key, &entry.node, "a table");
            return None;
        };
        Some(Table::new(self.reader, name, At(entry.at), entries))
    }

    /// An array of tables, `[[key]]` or inline; absent is empty.
    pub fn tables(&mut self, key: &str) -> Vec<Table<'r>> {
        let name = self.name_of(key);
        let Some(array) = self.typed(key, "an array of tables", as_array) else {
            return Vec::new();
        };
        let mut tables = Vec::new();
        for node in array.value {
            match &node.value {
                Value::Table(entries) => tables.push(Table::new(self.reader, name.clone(), At(node.at), entries)),
                _ => self.wrong_type(key, node, "a table"),
            }
        }
        tables
    }

    /// The tables below a key by their names, as in `[zone.NAME]`; absent is empty.
    pub fn named_tables(&mut self, key: &str) -> Vec<(Item<&'r str>, Table<'r>)> {
        let Some(mut outer) = self.table(key) else {
            return Vec::new();
        };
        let names = outer.keys();
        names.into_iter().filter_map(|name| Some((name, outer.table(name.value)?))).collect()
    }

    /// Everything in the table, and the files it names, as bytes that are equal only for equal content: for digests.
    #[must_use]
    pub fn canonical(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        super::tree::canonical_table(self.entries, &mut bytes);
        let mut files = Vec::new();
        super::tree::strings_in(self.entries, super::FILE_KEYS, &mut files);
        files.sort();
        for file in files {
            super::tree::canonical_text(&file, &mut bytes);
            super::tree::canonical_text(self.reader.document.attachment(&file).unwrap_or_default(), &mut bytes);
        }
        bytes
    }

    fn name_of(&self, key: &str) -> String {
        if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) }
    }

    fn entry(&mut self, key: &str) -> Option<&'r Entry> {
        self.asked.insert(key.to_owned());
        #[cfg(test)]
        super::asked::note(&self.name, key);
        self.entries.iter().find(|entry| entry.key == key)
    }

    fn typed<T>(&mut self, key: &str, expected: &str, pick: impl Fn(&'r Value) -> Option<T>) -> Option<Item<T>> {
        let node = &self.entry(key)?.node;
        match pick(&node.value) {
            Some(value) => Some(Item { value, at: At(node.at) }),
            None => {
                self.wrong_type(key, node, expected);
                None
            }
        }
    }

    fn each<T>(
        &self,
        key: &str,
        array: &'r [Node],
        expected: &str,
        pick: impl Fn(&'r Value) -> Option<T>,
    ) -> Vec<Item<T>> {
        let mut items = Vec::new();
        for node in array {
            match pick(&node.value) {
                Some(value) => items.push(Item { value, at: At(node.at) }),
                None => self.wrong_type(key, node, expected),
            }
        }
        items
    }

    fn parse<T: FromStr<Err: Display>>(&self, key: &str, text: Item<&str>) -> Option<Item<T>> {
        match text.value.parse() {
            Ok(value) => Some(Item { value, at: text.at }),
            Err(cause) => {
                self.reader.error(text.at, format!("{key}: {cause}"));
                None
            }
        }
    }

    fn literal_of(&self, key: &str, node: &Node, depth: usize) -> Option<Literal> {
        match &node.value {
            Value::String(text) => Some(Literal::Text(text.clone())),
            Value::Integer(number) => Some(Literal::Integer(*number)),
            Value::Float(number) => Some(Literal::Float(*number)),
            Value::Boolean(flag) => Some(Literal::Flag(*flag)),
            Value::Array(items) if depth < Literal::DEEPEST => {
                let values: Vec<Literal> =
                    items.iter().filter_map(|item| self.literal_of(key, item, depth + 1)).collect();
                (values.len() == items.len()).then_some(Literal::List(values))
            }
            Value::Array(_) | Value::Table(_) | Value::Other => {
                self.wrong_type(key, node, "a string, a number, true, false, or an array of these");
                None
            }
        }
    }

    fn wrong_type(&self, key: &str, node: &Node, expected: &str) {
        self.reader.error(At(node.at), format!("{key} must be {expected}, not {}", node.value.kind()));
    }
}

fn as_string(value: &Value) -> Option<&str> {
    match value {
        Value::String(text) => Some(text),
        _ => None,
    }
}

fn as_array(value: &Value) -> Option<&[Node]> {
    match value {
        Value::Array(items) => Some(items),
        _ => None,
    }
}

impl Drop for Table<'_> {
    fn drop(&mut self) {
        if self.lenient {
            return;
        }
        for entry in self.entries.iter().filter(|entry| !self.asked.contains(&entry.key)) {
            let of = if self.name.is_empty() { String::new() } else { format!(" in [{}]", self.name) };
            self.reader.error(At(entry.at), format!("unknown key: {}{of}", entry.key));
        }
    }
}
