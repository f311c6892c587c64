//! Files: what clients upload and sessions put out.

use serde::{Deserialize, Serialize};

use crate::Timestamp;
use crate::ids::{FileId, SessionId};

/// The longest name of a file, in bytes: what file systems take.
const MAX_NAME: usize = 255;

/// A file without its bytes (contract 2.9).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileMetadata {
    /// Its id.
    pub id: FileId,
    /// Always `file`.
    #[serde(rename = "type")]
    pub kind: FileTag,
    /// Its name, without directories.
    pub filename: String,
    /// What the uploader said it is.
    pub mime_type: String,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether clients may read it back: what they uploaded themselves they may not.
    pub downloadable: bool,
    /// When it goes away by itself.
    pub expires_at: Option<Timestamp>,
    /// The session it belongs to; null: the workspace's.
    pub scope: Option<FileScope>,
}

/// The constant `file`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileTag {
    /// `file`.
    #[default]
    #[serde(rename = "file")]
    File,
}

/// What a file belongs to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum FileScope {
    /// One session: its own copy of an upload, or something it put out.
    Session {
        /// Which.
        id: SessionId,
    },
}

/// The name that is kept of what an uploader sent: the last component, without control characters, at most 255 bytes.
/// What has none is named by its media type.
pub fn filename(sent: &str, mime_type: &str) -> String {
    let last = sent.rsplit(['/', '\\']).next().unwrap_or_default();
    let mut name: String = last.chars().filter(|character| !character.is_control()).collect();
    while name.len() > MAX_NAME {
        name.pop();
    }
    match name.as_str() {
        "" | "." | ".." => format!("unnamed.{}", extension(mime_type)),
        _ => name,
    }
}

fn extension(mime_type: &str) -> &'static str {
    let essence = mime_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    EXTENSIONS.iter().find(|(known, _)| *known == essence).map_or("bin", |(_, extension)| extension)
}

/// What people send most; the rest is `bin`.
const EXTENSIONS: &[(&str, &str)] = &[
    ("application/json", "json"),
    ("application/pdf", "pdf"),
    ("application/zip", "zip"),
    ("image/gif", "gif"),
    ("image/jpeg", "jpg"),
    ("image/png", "png"),
    ("image/webp", "webp"),
    ("text/csv", "csv"),
    ("text/html", "html"),
    ("text/markdown", "md"),
    ("text/plain", "txt"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_name_only_the_last_component_is_kept() {
        for (sent, kept) in [
            ("report.pdf", "report.pdf"),
            ("../../etc/passwd", "passwd"),
            ("C:\\Users\\me\\report.pdf", "report.pdf"),
            ("a\nb\0c", "abc"),
            ("", "unnamed.txt"),
            ("dir/", "unnamed.txt"),
            ("..", "unnamed.txt"),
        ] {
            assert_eq!(filename(sent, "text/plain; charset=utf-8"), kept, "{sent:?}");
        }
        for (mime_type, kept) in
            [("Image/PNG", "unnamed.png"), ("application/x-strange", "unnamed.bin"), ("", "unnamed.bin")]
        {
            assert_eq!(filename("", mime_type), kept);
        }
        assert_eq!(filename(&"ü".repeat(200), "").len(), 254, "a character is never cut in two");
    }
}
