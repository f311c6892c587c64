//! The URLs that a text shows. What ends a URL in running text is a guess, so each is found with and without what may
//! belong to the sentence around it.

use std::collections::BTreeSet;

use super::WebUrl;

/// What certainly ends a URL in a text.
const ENDS: &[char] = &['"', '<', '>', '`', '\\', '|', '^', '{', '}'];
/// What may be the text's own at the end of a URL.
const TRAILING: &[char] = &['.', ',', ';', ':', '!', '?', '\'', '*', '_', ')', ']', '~', '\u{3002}', '\u{2026}'];
/// Where a URL in parentheses or in a list ends, if it is not its own.
const MAY_END: &[char] = &[')', ']', ',', '\''];

/// Every URL that may be fetched and that the text shows, each once.
#[must_use]
pub fn urls_in(text: &str) -> BTreeSet<WebUrl> {
    // JSON in a text may write `\/`.
    let text = text.replace("\\/", "/");
    let mut found = BTreeSet::new();
    let mut rest = text.as_str();
    while let Some(at) = rest.find("://") {
        let scheme = ["https", "http"].into_iter().find(|scheme| ends_with(&rest[..at], scheme));
        let after = &rest[at + 3..];
        if let Some(scheme) = scheme {
            let end = after.find(|c: char| c.is_whitespace() || c.is_control() || ENDS.contains(&c));
            let whole = &after[..end.unwrap_or(after.len())];
            found.extend(candidates(whole).filter_map(|url| format!("{scheme}://{url}").parse().ok()));
        }
        rest = after;
    }
    found
}

fn ends_with(text: &str, scheme: &str) -> bool {
    let tail = text.len().checked_sub(scheme.len()).and_then(|at| text.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(scheme))
}

/// The whole, the whole without what may be the sentence's, and what stands before a bracket or comma.
fn candidates(whole: &str) -> impl Iterator<Item = &str> {
    let trimmed = whole.trim_end_matches(TRAILING);
    let short = whole.find(MAY_END).map(|at| whole[..at].trim_end_matches(TRAILING));
    [Some(whole), Some(trimmed), short].into_iter().flatten()
}
