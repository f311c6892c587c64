//! The one configuration file: parsed once with positions, read in sections by whoever owns them.
//! Every error of the whole file comes out together; nothing unknown is passed over. Opens no file itself.

#[cfg(test)]
pub(crate) mod asked;
mod literal;
mod reader;
mod size;
mod tree;

pub(crate) use literal::Literal;
pub use reader::{At, Item, Reader, Table};
pub use size::{ByteCount, Duration};

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use tree::Node;

/// Keys in zones and routes that name a file.
const FILE_KEYS: &[&str] = &["policy_file", "ca_file"];

/// Something wrong in the configuration, where it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct ConfigError {
    /// The file as it was named to us.
    pub file: String,
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// What is wrong and what to do.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:{}: {}", self.file, self.line, self.column, self.message)
    }
}

impl std::error::Error for ConfigError {}

/// The text of a configuration and of the files it names: what is sent to another role, which parses it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentText {
    /// The file as it was named to us.
    pub file: String,
    /// Its text.
    pub text: String,
    /// The texts of the files named by `policy_file` and `ca_file`, by the name written there.
    pub attachments: BTreeMap<String, String>,
}

/// A parsed configuration file.
#[derive(Clone, Debug)]
pub struct Document {
    source: DocumentText,
    root: Node,
}

impl Document {
    /// Parses the text. Only TOML and the format number are judged here; sections are read by [`Document::reader`].
    ///
    /// # Errors
    /// Every place where the text is not TOML, or `config` is not the number 1.
    pub fn parse(file_name: &str, text: &str) -> Result<Self, Vec<ConfigError>> {
        Self::from_text(DocumentText {
            file: file_name.to_owned(),
            text: text.to_owned(),
            attachments: BTreeMap::new(),
        })
    }

    /// Parses what another role was given.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn from_text(source: DocumentText) -> Result<Self, Vec<ConfigError>> {
        let (root, broken) = tree::parse(&source.text);
        let document = Self { source, root };
        let mut errors: Vec<_> =
            broken.into_iter().map(|(offset, message)| document.error_at(offset, message)).collect();
        if errors.is_empty() {
            errors.extend(document.check_format());
        }
        errors.sort();
        if errors.is_empty() { Ok(document) } else { Err(errors) }
    }

    /// The configuration of someone who wrote none.
    #[must_use]
    pub fn empty() -> Self {
        Self::parse("(no configuration)", "config = 1\n").expect("the text is fixed and holds the format number")
    }

    /// The texts, for another role.
    #[must_use]
    pub fn text(&self) -> &DocumentText {
        &self.source
    }

    /// Names of the files that zones and routes refer to (`policy_file`, `ca_file`), to be read and attached before
    /// [`crate::Zones::load`] and [`crate::Routes::load`]; relative to the configuration file's directory.
    #[must_use]
    pub fn referenced_files(&self) -> Vec<String> {
        let mut names = Vec::new();
        tree::strings_in(tree::entry_named(&self.root, "zone"), FILE_KEYS, &mut names);
        // Routes and token endpoints only: the section's own `ca_file` is read by the role itself.
        for entry in tree::entry_named(&self.root, "gateway")
            .iter()
            .filter(|entry| matches!(entry.key.as_ref(), "route" | "token_endpoint"))
        {
            tree::strings_under(&entry.node, FILE_KEYS, &mut names);
        }
        names.sort();
        names.dedup();
        names
    }

    /// Attaches the text of a referenced file, under the name written in the configuration.
    pub fn attach(&mut self, name: &str, text: &str) {
        self.source.attachments.insert(name.to_owned(), text.to_owned());
    }

    /// A reader of sections that collects errors.
    #[must_use]
    pub fn reader(&self) -> Reader<'_> {
        Reader::new(self)
    }

    pub(crate) fn attachment(&self, name: &str) -> Option<&str> {
        self.source.attachments.get(name).map(String::as_str)
    }

    pub(crate) fn error_at(&self, offset: usize, message: String) -> ConfigError {
        let before = &self.source.text.as_bytes()[..offset.min(self.source.text.len())];
        let line_start = before.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        ConfigError {
            file: self.source.file.clone(),
            line: before.iter().filter(|byte| **byte == b'\n').count() + 1,
            column: String::from_utf8_lossy(&before[line_start..]).chars().count() + 1,
            message,
        }
    }

    fn check_format(&self) -> Vec<ConfigError> {
        let reader = self.reader();
        let mut root = reader.root();
        root.leave_rest();
        match root.integer("config") {
            Some(Item { value: 1, .. }) => {}
            Some(Item { value, at }) => {
                reader.error(at, format!("config = {value} is not a format this build reads; it reads config = 1"))
            }
            None => reader.error(At::start(), "the file must begin with config = 1".to_owned()),
        }
        drop(root);
        let mut errors = reader.finish();
        errors.truncate(1);
        errors
    }
}

#[cfg(test)]
mod tests;
