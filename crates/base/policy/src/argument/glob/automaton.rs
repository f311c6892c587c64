//! A glob as an automaton, for comparing what two globs cover.

use super::{Class, Glob, Token};
use crate::automaton::{Automaton, Positions, cells};

/// One letter of each kind that the classes tell apart, with others where a glob names the first.
const KINDS: &[&[char]] = &[
    &[
        'x', 'a', 'b', 'c', 'd', 'e', 'f', 'g', 'h', 'i', 'j', 'k', 'l', 'm', 'n', 'o', 'p', 'q', 'r', 's', 't', 'u',
        'v', 'w', 'y', 'z', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'A', 'B', 'C', 'D', 'E', 'F', 'G', 'H',
        'I', 'J', 'K', 'L', 'M', 'N', 'O', 'P', 'Q', 'R', 'S', 'T', 'U', 'V', 'W', 'X', 'Y', 'Z', '-', '_', '.',
    ],
    &[
        ' ', '!', '+', ',', ';', '=', '@', '~', '$', '&', '(', ')', '<', '>', '^', '|', '"', '\'', '#', '%', ':',
        '\u{e9}',
    ],
    &['/'],
    &['\\'],
    &['\u{1}', '\u{2}', '\u{3}'],
];

impl Automaton for Glob {
    fn begin(&self) -> Positions {
        self.closed([0])
    }

    fn advance(&self, from: &Positions, letter: char) -> Positions {
        self.closed(from.iter().filter_map(|at| match self.tokens.get(*at) {
            Some(Token::Letter(wanted)) if *wanted == letter => Some(at + 1),
            Some(Token::One(class)) if class.admits(letter) => Some(at + 1),
            Some(Token::Run(class)) if class.admits(letter) => Some(*at),
            Some(Token::Letter(_) | Token::One(_) | Token::Run(_)) | None => None,
        }))
    }

    fn accepts(&self, at: &Positions) -> bool {
        at.contains(&self.tokens.len())
    }

    fn letters(&self) -> Vec<char> {
        self.tokens
            .iter()
            .filter_map(|token| if let Token::Letter(letter) = token { Some(*letter) } else { None })
            .collect()
    }
}

impl Glob {
    /// A run can be empty, so the position after it is reached with it.
    fn closed(&self, positions: impl IntoIterator<Item = usize>) -> Positions {
        let mut closed = Positions::new();
        for mut at in positions {
            while closed.insert(at) && matches!(self.tokens.get(at), Some(Token::Run(_))) {
                at += 1;
            }
        }
        closed
    }

    /// Whether every text of this glob is one of the other's. Where that cannot be found out, no.
    pub(crate) fn within(&self, other: &Glob) -> bool {
        if self.written == other.written || other.tokens == [Token::Run(Class::Any)] {
            return true;
        }
        // Texts that climb are taken by neither where both are guarded.
        let guards_fit = self.guarded || !other.guarded;
        let found = cells(&[self, other], KINDS);
        guards_fit && found.is_ok_and(|cells| cells.iter().all(|cell| cell.matched.iter().ne(&[0])))
    }

    /// Letters of every kind, for cells of globs.
    pub(crate) fn kinds() -> &'static [&'static [char]] {
        KINDS
    }
}
