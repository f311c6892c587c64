//! The shape of our reviewed lists: `WORD WORD ... -- REASON`, one entry a line. A line without a reason is a defect that a test finds.

/// One entry: its words and why it is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry<'a> {
    pub(crate) words: Vec<&'a str>,
    pub(crate) reason: &'a str,
}

/// The entries of a list, comments and empty lines left out.
pub(crate) fn entries(text: &str) -> impl Iterator<Item = Entry<'_>> {
    text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')).map(|line| {
        let (words, reason) = line.split_once(" -- ").unwrap_or((line, ""));
        Entry { words: words.split_whitespace().collect(), reason: reason.trim() }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_entry_of_every_shipped_list_has_a_reason_and_at_least_two_words() {
        for list in [
            include_str!("../data/seccomp.list"),
            include_str!("../data/etc.list"),
            include_str!("../data/proc-masks.list"),
            include_str!("../../../base/policy/data/sensitive_paths.txt"),
        ] {
            assert!(entries(list).count() > 5);
            for entry in entries(list) {
                assert!(entry.words.len() >= 2 && !entry.reason.is_empty(), "{entry:?}");
            }
        }
    }
}
