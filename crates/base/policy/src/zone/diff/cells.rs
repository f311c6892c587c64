//! The cells of egress: hosts, methods and paths that no rule of either zone tells apart.

use super::super::rule::Rule;
use crate::automaton::{Automaton, Positions, TooComplex, cells};
use crate::{Host, HostPattern, Method, PathGlob};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// Hosts that are told apart by nothing: one that is named, or all below a suffix that are not named otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Hosts {
    One(Host),
    Below(String),
}

/// Methods that are told apart by nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Methods {
    One(Method),
    /// All that no rule names.
    Others,
}

/// Paths that are told apart by nothing: the globs that cover them, by their text, and one of the paths.
#[derive(Clone, Debug)]
pub(super) struct Paths {
    covered_by: BTreeSet<String>,
    pub(super) example: String,
}

impl Hosts {
    /// All kinds of hosts that the rules tell apart. What no rule names is reached by none.
    pub(super) fn of<'r>(rules: impl Iterator<Item = &'r Rule>) -> Vec<Self> {
        let mut all = Vec::new();
        for rule in rules {
            let hosts = match &rule.host {
                HostPattern::Exact(host) => Self::One(host.clone()),
                HostPattern::Below(suffix) => Self::Below(suffix.clone()),
            };
            if !all.contains(&hosts) {
                all.push(hosts);
            }
        }
        all
    }

    /// Whether a rule's pattern covers them.
    pub(super) fn covered_by(&self, rule: &Rule) -> bool {
        match (self, &rule.host) {
            (Self::One(host), pattern) => pattern.covers(host),
            (Self::Below(_), HostPattern::Exact(_)) => false,
            (Self::Below(suffix), HostPattern::Below(other)) => {
                suffix.strip_suffix(other.as_str()).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
            }
        }
    }
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(host) => host.fmt(f),
            Self::Below(suffix) => write!(f, "*.{suffix}"),
        }
    }
}

impl Methods {
    /// All kinds of methods that the rules tell apart.
    pub(super) fn of(rules: &[&Rule]) -> BTreeSet<Self> {
        let named = rules.iter().flat_map(|rule| rule.methods.iter().flatten()).cloned().map(Self::One);
        named.chain([Self::Others]).collect()
    }

    /// Whether a rule covers them.
    pub(super) fn covered_by(&self, rule: &Rule) -> bool {
        match self {
            Self::One(method) => rule.covers_method(method),
            Self::Others => rule.methods.is_none(),
        }
    }
}

impl fmt::Display for Methods {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::One(method) => method.fmt(f),
            Self::Others => f.write_str("*"),
        }
    }
}

impl Paths {
    /// All kinds of paths that the rules tell apart.
    pub(super) fn of(rules: &[&Rule]) -> Result<Vec<Self>, TooComplex> {
        let globs: BTreeMap<String, &PathGlob> =
            rules.iter().flat_map(|rule| rule.paths.iter().flatten()).map(|glob| (glob.to_string(), glob)).collect();
        let walk = Walk { globs: globs.values().copied().collect(), texts: globs.keys().cloned().collect() };
        walk.all()
    }

    /// Whether a rule covers them.
    pub(super) fn covered_by(&self, rule: &Rule) -> bool {
        rule.paths.as_ref().is_none_or(|globs| globs.iter().any(|glob| self.covered_by.contains(&glob.to_string())))
    }
}

/// Walks segment by segment through all globs together.
struct Walk<'g> {
    globs: Vec<&'g PathGlob>,
    texts: Vec<String>,
}

/// The globs whose segments have all agreed so far.
type Alive = BTreeSet<usize>;

impl Walk<'_> {
    fn all(&self) -> Result<Vec<Paths>, TooComplex> {
        let deepest = self.globs.iter().map(|glob| glob.segments().len()).max().unwrap_or_default();
        let mut found: BTreeMap<Alive, String> = BTreeMap::new();
        let mut here: BTreeMap<Alive, String> = BTreeMap::from([((0..self.globs.len()).collect(), String::new())]);
        // One segment beyond the longest glob: what follows after that is told apart by none.
        for depth in 0..=deepest {
            let mut next = BTreeMap::new();
            for (alive, path) in here {
                for (agreeing, segment) in self.segments(&alive, depth)? {
                    let path = format!("{path}/{segment}");
                    found.entry(self.ending(&agreeing, depth)).or_insert_with(|| path.clone());
                    if !segment.is_empty() {
                        next.entry(agreeing).or_insert(path);
                    }
                }
            }
            if next.len() > MOST_AT_A_DEPTH {
                return Err(TooComplex);
            }
            here = next;
        }
        let text = |index: &usize| self.texts[*index].clone();
        Ok(found
            .into_iter()
            .map(|(globs, example)| Paths { covered_by: globs.iter().map(text).collect(), example })
            .collect())
    }

    /// What the next segment may be, with the globs that are alive after it.
    fn segments(&self, alive: &Alive, depth: usize) -> Result<Vec<(Alive, String)>, TooComplex> {
        let (wanting, beyond): (Vec<usize>, Vec<usize>) =
            alive.iter().partition(|index| self.globs[**index].segments().len() > depth);
        let open: Alive = beyond.into_iter().filter(|index| self.globs[*index].is_open()).collect();
        let patterns: Vec<Segment<'_>> =
            wanting.iter().map(|index| Segment(self.globs[*index].segments()[depth].as_bytes())).collect();
        let automata: Vec<&dyn Automaton> = patterns.iter().map(|pattern| pattern as &dyn Automaton).collect();
        let after = |matched: &BTreeSet<usize>| -> Alive {
            matched.iter().map(|at| wanting[*at]).chain(open.iter().copied()).collect()
        };
        let found = cells(&automata, SEGMENT_KINDS)?;
        Ok(found.into_iter().map(|cell| (after(&cell.matched), cell.example)).collect())
    }

    /// The globs that cover a path which ends with the segment at this depth.
    fn ending(&self, alive: &Alive, depth: usize) -> Alive {
        let covers = |glob: &PathGlob| match glob.is_open() {
            true => glob.segments().len() <= depth,
            false => glob.segments().len() == depth + 1,
        };
        alive.iter().copied().filter(|index| covers(self.globs[*index])).collect()
    }
}

/// One segment of a glob: `*` stands for one or more characters.
struct Segment<'g>(&'g [u8]);

impl Automaton for Segment<'_> {
    fn begin(&self) -> Positions {
        Positions::from([0])
    }

    fn advance(&self, from: &Positions, letter: char) -> Positions {
        let mut next = Positions::new();
        for at in from {
            match self.0.get(*at) {
                Some(b'*') => drop(next.insert(at + 1)),
                Some(byte) if char::from(*byte) == letter => drop(next.insert(at + 1)),
                Some(_) | None => {}
            }
            // Within a star it can go on.
            if *at > 0 && self.0[at - 1] == b'*' {
                next.insert(*at);
            }
        }
        next
    }

    fn accepts(&self, at: &Positions) -> bool {
        at.contains(&self.0.len())
    }

    fn letters(&self) -> Vec<char> {
        self.0.iter().filter(|byte| **byte != b'*').map(|byte| char::from(*byte)).collect()
    }
}

/// All characters of a segment that no glob names are alike.
const SEGMENT_KINDS: &[&[char]] = &[&[
    'x', 'y', 'z', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't',
    'u', 'v', 'w', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H', 'I', 'J',
    'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', '-', '_', '~', '!', '$', '&', '\'',
    '(', ')', '+', ',', ';', '=', ':', '@', '.', '%', '*',
]];
const MOST_AT_A_DEPTH: usize = 2_000;
