//! The shape of our reviewed lists: `WORD WORD ... -- REASON`, one entry a line. A line without a reason is a defect that a test finds.

use std::collections::HashSet;

/// One entry: its words and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry<'a> {
    /// What is listed, the first word often a verb.
    pub words: Vec<&'a str>,
    /// Why.
    pub reason: &'a str,
}

/// The entries of a list, comments and empty lines left out.
pub fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (words, reason) = line.split_once(" -- ").unwrap_or((line, ""));
        Entry { words: words.split_whitespace().collect(), reason: reason.trim() }
    })
}

/// What is wrong with a list: entries of fewer than two words or without a reason.
pub fn unreasoned(text: &str) -> Vec<Entry<'_>> {
    entries(text).filter(|entry| entry.words.len() < 2 || entry.reason.is_empty()).collect()
}

/// Names that stand in more than one entry without a condition, and names that an entry allows while another denies them whatever their arguments: one of
/// the two entries is dead.
pub fn dead_names<'a>(entries: impl Iterator<Item = Entry<'a>>) -> Vec<&'a str> {
    let mut seen = HashSet::new();
    let unconditional = entries.filter(|entry| !entry.words.iter().any(|word| word.contains('=')));
    unconditional.flat_map(|entry| entry.words.into_iter().skip(1)).filter(|name| !seen.insert(*name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_without_a_reason_or_without_a_second_word_is_found() {
        let list = "# comment\n\nallow read -- needed\nallow write\nallow -- why\nallow close -- \n";
        assert_eq!(unreasoned(list).len(), 3);
    }

    #[test]
    fn a_name_that_stands_twice_without_a_condition_is_found() {
        let list = "allow read write -- a\nallow socket -- b\ndeny write -- c\ndeny socket arg0=1 -- d\n";
        assert_eq!(dead_names(entries(list)), ["write"]);
    }
}
