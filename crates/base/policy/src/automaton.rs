//! What several patterns have in common: the cells into which they cut all texts, found by walking through their
//! positions together. Bounded; a walk that would grow too large is said to be so.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A set of positions in a pattern.
pub(crate) type Positions = BTreeSet<usize>;

/// A pattern over texts, read letter by letter.
pub(crate) trait Automaton {
    /// Where it stands before the first letter.
    fn begin(&self) -> Positions;
    /// Where it stands after one more.
    fn advance(&self, from: &Positions, letter: char) -> Positions;
    /// Whether a text that ends here matches.
    fn accepts(&self, at: &Positions) -> bool;
    /// The letters that it names; all letters of one kind that it does not name are alike to it.
    fn letters(&self) -> Vec<char>;
}

/// All texts that match these patterns and none of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cell {
    /// The patterns, by their place in the list.
    pub(crate) matched: BTreeSet<usize>,
    /// One of the texts, a shortest one.
    pub(crate) example: String,
}

/// The patterns cut the texts into more pieces than are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TooComplex;

/// Every cell, that of no pattern included where it is not empty. `kinds` are letters of which each stands for all of
/// its kind that no pattern names: of each kind the first that none names is taken.
pub(crate) fn cells(patterns: &[&dyn Automaton], kinds: &[&[char]]) -> Result<Vec<Cell>, TooComplex> {
    let letters = alphabet(patterns, kinds);
    let begin: Vec<Positions> = patterns.iter().map(|pattern| pattern.begin()).collect();
    let mut seen = BTreeSet::from([begin.clone()]);
    let mut waiting = VecDeque::from([(begin, String::new())]);
    let mut found: BTreeMap<BTreeSet<usize>, String> = BTreeMap::new();
    while let Some((state, text)) = waiting.pop_front() {
        found.entry(matched(patterns, &state)).or_insert_with(|| text.clone());
        for letter in &letters {
            let next: Vec<Positions> =
                patterns.iter().zip(&state).map(|(pattern, from)| pattern.advance(from, *letter)).collect();
            if seen.insert(next.clone()) {
                waiting.push_back((next, format!("{text}{letter}")));
            }
        }
        if seen.len() > MOST_STATES {
            return Err(TooComplex);
        }
    }
    Ok(found.into_iter().map(|(matched, example)| Cell { matched, example }).collect())
}

fn matched(patterns: &[&dyn Automaton], state: &[Positions]) -> BTreeSet<usize> {
    let accepting = patterns.iter().zip(state).enumerate().filter(|(_, (pattern, at))| pattern.accepts(at));
    accepting.map(|(index, _)| index).collect()
}

fn alphabet(patterns: &[&dyn Automaton], kinds: &[&[char]]) -> Vec<char> {
    let named: BTreeSet<char> = patterns.iter().flat_map(|pattern| pattern.letters()).collect();
    let unnamed = kinds.iter().filter_map(|kind| kind.iter().copied().find(|letter| !named.contains(letter)));
    // What nobody names first: examples then read like names, not like the patterns.
    let unnamed: Vec<char> = unnamed.collect();
    unnamed.iter().copied().chain(named).collect()
}

/// Beyond this the answer is "possibly", and not waited for.
const MOST_STATES: usize = 4_000;
