//! The canary search: every byte a run left behind, searched for the secret in every rendering.

use std::fs;
use std::io;
use std::path::Path;

use postern_secret::canary::Canaries;

/// What a search looked at and found.
pub(crate) struct Search {
    canaries: Canaries,
    /// Files and other sources searched.
    pub(crate) places: u64,
    /// Bytes searched.
    pub(crate) bytes: u64,
    /// One line per finding: where, in which rendering.
    pub(crate) found: Vec<String>,
    /// Places that could not be read: a search that skips silently proves nothing.
    pub(crate) unread: Vec<String>,
}

impl Search {
    /// A search for these.
    pub(crate) fn of(secrets: &[&[u8]]) -> Self {
        Self { canaries: Canaries::new(secrets), places: 0, bytes: 0, found: vec![], unread: vec![] }
    }

    /// Searches one buffer.
    pub(crate) fn bytes(&mut self, place: &str, bytes: &[u8]) {
        self.places += 1;
        self.bytes += bytes.len() as u64;
        for found in self.canaries.search(bytes) {
            self.found.push(format!("{place} at byte {}: {:?}", found.offset, found.kind));
        }
    }

    /// Searches every regular file below `directory`, names included; links are not followed.
    pub(crate) fn tree(&mut self, directory: &Path) {
        match fs::read_dir(directory) {
            Ok(entries) => entries.for_each(|entry| self.entry(entry)),
            Err(cause) => self.unread.push(format!("{}: {cause}", directory.display())),
        }
    }

    fn entry(&mut self, entry: io::Result<fs::DirEntry>) {
        let Ok(entry) = entry else { return };
        let path = entry.path();
        let place = path.display().to_string();
        self.bytes("a file's name", place.as_bytes());
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => self.tree(&path),
            Ok(kind) if kind.is_file() => match fs::read(&path) {
                Ok(bytes) => self.bytes(&place, &bytes),
                Err(cause) => self.unread.push(format!("{place}: {cause}")),
            },
            Ok(_) => {}
            Err(cause) => self.unread.push(format!("{place}: {cause}")),
        }
    }

    /// Whether nothing was found and nothing was left out.
    pub(crate) fn clean(&self) -> bool {
        self.found.is_empty() && self.unread.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &[u8] = b"ledger-canary-0123456789abcdef";

    #[test]
    fn a_planted_secret_is_found_in_a_tree() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("deep")).unwrap();
        fs::write(directory.path().join("deep/log"), [b"x".as_slice(), SECRET, b"y"].concat()).unwrap();
        let mut search = Search::of(&[SECRET]);
        search.tree(directory.path());
        assert!(!search.clean());
        assert!(search.found[0].contains("deep/log"));
    }

    #[test]
    fn a_clean_tree_is_clean_and_counted() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("log"), b"nothing of interest").unwrap();
        let mut search = Search::of(&[SECRET]);
        search.tree(directory.path());
        assert!(search.clean());
        assert!(search.places >= 2 && search.bytes > 19);
    }

    #[test]
    fn a_directory_that_cannot_be_read_is_no_clean_search() {
        let mut search = Search::of(&[SECRET]);
        search.tree(Path::new("/nonexistent-for-this-test"));
        assert!(!search.clean());
    }
}
