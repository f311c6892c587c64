//! The URLs that a text shows. What ends a URL in running text is a guess, so each is found with and without what may
//! belong to the sentence around it.

use std::collections::BTreeSet;

use super::{LONGEST_URL, WebUrl};

/// What certainly ends a URL in a text.
const ENDS: &[char] = &['"', '<', '>', '`', '\\', '|', '^', '{', '}'];
/// What may be the text's own at the end of a URL.
const TRAILING: &[char] = &['.', ',', ';', ':', '!', '?', '\'', '*', '_', ')', ']', '~', '\u{3002}', '\u{2026}'];
/// Where a URL in parentheses or in a list ends, if it is not its own.
const MAY_END: &[char] = &[')', ']', ',', '\''];

/// Every URL that may be fetched and that the text shows, each once. Takes time and memory that grow with the text alone: what is longer than a URL
/// may be is none, and where a text has URLs in one another, those that come after [`MOST_LOOKED_AT`] are not found, and so not fetched.
#[must_use]
pub fn urls_in(text: &str) -> BTreeSet<WebUrl> {
    // JSON in a text may write `\/`.
    let text = text.replace("\\/", "/");
    let (mut end, mut may_end) = (Next::of(&text, is_end), Next::of(&text, |c| MAY_END.contains(&c)));
    let (mut found, mut looked_at) = (BTreeSet::new(), 0);
    for (at, mark) in text.match_indices("://") {
        let Some(scheme) = ["https", "http"].into_iter().find(|scheme| ends_with(&text[..at], scheme)) else {
            continue;
        };
        let begin = at + mark.len();
        let (end, may_end) = (end.from(begin), may_end.from(begin));
        for url in candidates(&text[begin..end], may_end - begin) {
            looked_at += url.len();
            found.extend(format!("{scheme}://{url}").parse());
        }
        if looked_at > MOST_LOOKED_AT {
            break;
        }
    }
    found
}

fn is_end(c: char) -> bool {
    c.is_whitespace() || c.is_control() || ENDS.contains(&c)
}

/// Where the next of some characters stands. It is looked for again only once it is passed: a text is read once, however many marks are before it.
struct Next<'t> {
    text: &'t str,
    wanted: fn(char) -> bool,
    at: usize,
}

impl<'t> Next<'t> {
    fn of(text: &'t str, wanted: fn(char) -> bool) -> Self {
        Self { text, wanted, at: 0 }
    }

    /// From here on; the text's end where there is none.
    fn from(&mut self, begin: usize) -> usize {
        if self.at < begin {
            let rest = &self.text[begin..];
            self.at = begin + rest.find(self.wanted).unwrap_or(rest.len());
        }
        self.at
    }
}

fn ends_with(text: &str, scheme: &str) -> bool {
    let tail = text.len().checked_sub(scheme.len()).and_then(|at| text.get(at..));
    tail.is_some_and(|tail| tail.eq_ignore_ascii_case(scheme))
}

/// The whole, the whole without what may be the sentence's, and what stands before a bracket or comma.
fn candidates(whole: &str, may_end: usize) -> impl Iterator<Item = &str> {
    let fits = |text: &&str| text.len() <= LONGEST_URL;
    let whole_of_it = Some(whole).filter(fits);
    let short = whole.get(..may_end).filter(|_| may_end < whole.len()).filter(fits);
    let trimmed = |text: &'_ str| text.trim_end_matches(TRAILING).len();
    let trimmed = [whole_of_it, short].map(|text| text.map(|text| &whole[..trimmed(text)]));
    whole_of_it.into_iter().chain(trimmed.into_iter().flatten())
}

/// So many bytes of what may be URLs are looked at in one text; a byte counts once for each that it may belong to.
const MOST_LOOKED_AT: usize = 16 << 20;
