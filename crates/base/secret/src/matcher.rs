//! Finds many values in all their renderings, and in every mixture of escapes, in one pass. It reports what it found
//! and where; it never changes text.
//!
//! A filter over three neighbouring bytes picks the positions where some rendering could begin; there, each class of
//! renderings is walked character by character, every character read in all the forms it may be written in. Nothing
//! is enumerated that an upstream could mix in its own way.

use std::ops::Range;

use crate::Kind;
use crate::filter::Filter;
use crate::symbols::{Form, Reading, Readings};
use crate::trie::{CLASSES, Class, End, Spot, Tail, Trie};

/// Finds the renderings of a fixed list of values.
pub struct Matcher {
    tries: Vec<Trie>,
    filter: Filter,
    /// The length of the shortest value: no rendering of it is shorter.
    shortest: usize,
}

/// One value found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hit {
    /// Which value: its position in the list the matcher was made of.
    pub index: usize,
    /// In which form.
    pub kind: Kind,
    /// Where.
    pub range: Range<usize>,
}

/// What a search came to.
pub(crate) enum Search {
    Found(Match),
    /// Nothing before this position; from it on, more input decides.
    Open(usize),
    Nothing,
}

/// A value found, with the form of each of its characters.
pub(crate) struct Match {
    pub(crate) index: usize,
    pub(crate) class: Class,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) steps: Vec<Step>,
}

/// One character on the way through a value.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Step {
    pub(crate) start: usize,
    pub(crate) reading: Reading,
}

/// Whether the input is all there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Input {
    Partial,
    Complete,
}

impl Matcher {
    /// A matcher of `values`. Those of fewer than four bytes are never found: they are in every text.
    #[must_use]
    pub fn new<'a>(values: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let mut tries: Vec<Trie> = CLASSES.into_iter().map(Trie::new).collect();
        let mut shortest = usize::MAX;
        for (index, value) in values.into_iter().enumerate().filter(|(_, value)| value.len() >= SHORTEST_VALUE) {
            shortest = shortest.min(value.len());
            for trie in &mut tries {
                trie.insert(index, value);
            }
        }
        let filter = Filter::new(&tries);
        Self { tries, filter, shortest }
    }

    /// Where a rendering may begin.
    pub(crate) fn filter(&self) -> &Filter {
        &self.filter
    }

    /// Every value in `haystack`, from left to right, without overlaps, the longest where several begin.
    #[must_use]
    pub fn find_all(&self, haystack: &[u8]) -> Vec<Hit> {
        let mut hits = Vec::new();
        let mut from = 0;
        while let Search::Found(found) = self.search(haystack, from, Input::Complete) {
            from = found.end;
            hits.push(found.hit());
        }
        hits
    }

    /// Whether any value is in `haystack`.
    #[must_use]
    pub fn is_in(&self, haystack: &[u8]) -> bool {
        matches!(self.search(haystack, 0, Input::Complete), Search::Found(_))
    }

    /// The first value at or after `from`.
    pub(crate) fn search(&self, haystack: &[u8], from: usize, input: Input) -> Search {
        let mut scratch = Scratch::default();
        let mut at = from;
        while let Some(candidate) = self.candidate(haystack, at, input) {
            match self.longest(haystack, candidate, input, &mut scratch) {
                Search::Nothing => at = candidate + 1,
                decided => return decided,
            }
        }
        Search::Nothing
    }

    /// Whether a value begins here, or may once more text follows.
    pub(crate) fn may_begin(&self, haystack: &[u8], start: usize) -> bool {
        !matches!(self.longest(haystack, start, Input::Partial, &mut Scratch::default()), Search::Nothing)
    }

    /// Where the next rendering may begin: in a complete text nowhere too near its end.
    fn candidate(&self, haystack: &[u8], from: usize, input: Input) -> Option<usize> {
        match input {
            Input::Partial => self.filter.next(haystack, from),
            Input::Complete if haystack.len().saturating_sub(from) < self.shortest => None,
            Input::Complete => self.filter.next_whole(haystack, from),
        }
    }

    /// The longest value that begins at `start`, in any class. While a longer one may still come, nothing is decided.
    fn longest(&self, haystack: &[u8], start: usize, input: Input, scratch: &mut Scratch) -> Search {
        let readings = Readings::of(&haystack[start..], true);
        let mut longest: Option<Match> = None;
        for trie in self.tries.iter().filter(|trie| readings.open || trie.may_begin(&readings)) {
            let outcome = Walk { trie, haystack, start, scratch }.run();
            if outcome.open && input == Input::Partial {
                return Search::Open(start);
            }
            longest = longer(longest, outcome.found);
        }
        longest.map_or(Search::Nothing, Search::Found)
    }
}

fn longer(one: Option<Match>, other: Option<Match>) -> Option<Match> {
    match (one, other) {
        (Some(one), Some(other)) => Some(if other.end > one.end { other } else { one }),
        (one, other) => one.or(other),
    }
}

impl Match {
    pub(crate) fn hit(&self) -> Hit {
        Hit { index: self.index, kind: self.kind(), range: self.start..self.end }
    }

    fn kind(&self) -> Kind {
        match self.class {
            Class::Text => escapes(self.steps.iter().map(|step| step.reading.form)),
            Class::Base64(_) => Kind::Base64,
            Class::Hex => Kind::Hex,
            Class::Utf16Le => Kind::Utf16Le,
            Class::Utf16Be => Kind::Utf16Be,
        }
    }
}

/// The family that all escapes belong to.
fn escapes(forms: impl Iterator<Item = Form>) -> Kind {
    let family = |form| match form {
        Form::Raw | Form::Skipped => Kind::Plain,
        Form::Plus | Form::Percent => Kind::Percent,
        Form::JsonShort | Form::JsonUnicode => Kind::Json,
        Form::HtmlDecimal | Form::HtmlHex | Form::HtmlNamed => Kind::Html,
    };
    forms.map(family).fold(Kind::Plain, |all, one| match (all, one) {
        (Kind::Plain, one) => one,
        (all, Kind::Plain) => all,
        (all, one) if all == one => all,
        _ => Kind::Mixed,
    })
}

/// One attempt to read a value of one class from `start` on, along every reading of its characters.
struct Walk<'a> {
    trie: &'a Trie,
    haystack: &'a [u8],
    start: usize,
    scratch: &'a mut Scratch,
}

/// What a walk remembers, kept from one walk to the next for the memory's sake.
#[derive(Default)]
struct Scratch {
    /// Every character taken, with the one before it: a tree of which one branch is the value found.
    visits: Vec<Visit>,
    waiting: Vec<Place>,
}

struct Visit {
    before: Option<usize>,
    step: Step,
}

/// Where a branch of the walk stands.
#[derive(Clone, Copy)]
struct Place {
    spot: Spot,
    position: usize,
    last: Option<usize>,
    skipped: usize,
}

struct Outcome {
    found: Option<Match>,
    open: bool,
}

impl Walk<'_> {
    fn run(mut self) -> Outcome {
        self.scratch.visits.clear();
        let mut outcome = Outcome { found: None, open: false };
        self.scratch.waiting.push(Place { spot: Trie::root(), position: self.start, last: None, skipped: 0 });
        while let Some(place) = self.scratch.waiting.pop() {
            if let Some(end) = self.trie.end(place.spot) {
                let (found, open) = self.ended(place, end);
                outcome.found = longer(outcome.found, Some(found));
                outcome.open |= open;
            }
            if self.trie.children(place.spot).next().is_some() {
                outcome.open |= self.advance(place);
            }
        }
        outcome
    }

    /// Takes every reading of the next character that leads on; tells whether more input could give another.
    fn advance(&mut self, place: Place) -> bool {
        let rest = &self.haystack[place.position..];
        if rest.is_empty() {
            return true;
        }
        let readings = Readings::of(rest, self.trie.class.has_escapes());
        for reading in readings.iter() {
            if self.trie.class.skips(reading, place.spot != Trie::root(), place.skipped > 0) {
                if place.skipped < MOST_SKIPPED {
                    self.visit(place, place.spot, reading.skipped(), place.skipped + 1);
                }
            } else if let Some(spot) = self.follow(place.spot, reading.bytes()) {
                self.visit(place, spot, *reading, 0);
            }
        }
        readings.open
    }

    fn follow(&self, spot: Spot, bytes: &[u8]) -> Option<Spot> {
        bytes.iter().try_fold(spot, |spot, byte| {
            let key = self.trie.class.key(*byte, spot != Trie::root())?;
            self.trie.child(spot, key)
        })
    }

    fn visit(&mut self, place: Place, spot: Spot, reading: Reading, skipped: usize) {
        let step = Step { start: place.position, reading };
        self.scratch.visits.push(Visit { before: place.last, step });
        let last = Some(self.scratch.visits.len() - 1);
        self.scratch.waiting.push(Place { spot, position: place.position + reading.length, last, skipped });
    }

    /// A value that ends here, with base64's last character where that belongs to it in part.
    fn ended(&self, place: Place, end: End) -> (Match, bool) {
        let mut steps: Vec<Step> = std::iter::successors(place.last, |at| self.scratch.visits[*at].before)
            .map(|at| self.scratch.visits[at].step)
            .collect();
        steps.reverse();
        let (tail, open) = end.tail.map_or((Vec::new(), false), |tail| self.tail(place.position, tail));
        steps.extend(tail);
        let position = steps.last().map_or(self.start, |step| step.start + step.reading.length);
        (Match { index: end.index, class: self.trie.class, start: self.start, end: position, steps }, open)
    }

    /// The last character, after a line end at most; nothing where another stands there.
    fn tail(&self, mut position: usize, tail: Tail) -> (Vec<Step>, bool) {
        let mut steps = Vec::new();
        while steps.len() <= MOST_SKIPPED {
            let rest = &self.haystack[position..];
            if rest.is_empty() {
                return (Vec::new(), true);
            }
            let readings = Readings::of(rest, true);
            if readings.open {
                return (Vec::new(), true);
            }
            if let Some(reading) = readings.iter().find(|reading| tail.fits(reading.bytes())) {
                steps.push(Step { start: position, reading: *reading });
                return (steps, false);
            }
            let Some(white) = readings.iter().find(|reading| self.trie.class.skips(reading, true, !steps.is_empty()))
            else {
                break;
            };
            steps.push(Step { start: position, reading: white.skipped() });
            position += white.length;
        }
        (Vec::new(), false)
    }
}

const SHORTEST_VALUE: usize = 4;
/// White space within a value in wrapped base64: a line end and its indentation.
const MOST_SKIPPED: usize = 64;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::renderings;

    const VALUES: [&[u8]; 3] = [b"a+ b", b"sk-live/7Qm2x9Zt4Lw8", b"\xffeed\n!"];

    /// Every value in the text, by a look at each position.
    fn each_position(matcher: &Matcher, text: &[u8]) -> Vec<Hit> {
        let (mut hits, mut at) = (Vec::new(), 0);
        while at < text.len() {
            match matcher.longest(text, at, Input::Complete, &mut Scratch::default()) {
                Search::Found(found) => {
                    at = found.end;
                    hits.push(found.hit());
                }
                Search::Open(_) | Search::Nothing => at += 1,
            }
        }
        hits
    }

    /// Values and their beginnings, rendered, among what is nothing of them.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let rendered = (0..VALUES.len(), 1..21_usize, any::<prop::sample::Index>()).prop_map(|(which, length, how)| {
            let renderings = renderings::of(&VALUES[which][..length.min(VALUES[which].len())]);
            renderings[how.index(renderings.len())].bytes.clone()
        });
        let noise = prop::collection::vec(any::<u8>(), 0..6);
        prop::collection::vec(prop_oneof![3 => rendered, 1 => noise], 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn a_complete_text_is_searched_as_by_a_look_at_each_position(text in text()) {
            let matcher = Matcher::new(VALUES);
            prop_assert_eq!(matcher.find_all(&text), each_position(&matcher, &text));
        }
    }
}
