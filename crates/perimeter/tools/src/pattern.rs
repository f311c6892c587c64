//! One component of a glob pattern, matched as Python's `fnmatch` does: `*`, `?`, `[set]`, `[!set]`, case kept, hidden names included.

/// A compiled component.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamePattern(Vec<Piece>);

#[derive(Debug, Clone, PartialEq, Eq)]
enum Piece {
    Any,
    One,
    Literal(char),
    Set { negated: bool, ranges: Vec<(char, char)> },
}

/// Whether a component needs matching at all.
pub(crate) fn has_wildcard(component: &str) -> bool {
    component.contains(['*', '?', '['])
}

impl NamePattern {
    pub(crate) fn new(component: &str) -> Self {
        let characters: Vec<char> = component.chars().collect();
        let (mut pieces, mut at) = (Vec::new(), 0);
        while at < characters.len() {
            let (piece, used) = match characters[at] {
                '*' => (Piece::Any, 1),
                '?' => (Piece::One, 1),
                '[' => set(&characters[at + 1..]).map_or((Piece::Literal('['), 1), |(piece, used)| (piece, used + 1)),
                other => (Piece::Literal(other), 1),
            };
            if piece != Piece::Any || pieces.last() != Some(&Piece::Any) {
                pieces.push(piece);
            }
            at += used;
        }
        Self(pieces)
    }

    /// Whether the whole name matches; time is bounded by pattern times name.
    pub(crate) fn matches(&self, name: &str) -> bool {
        let name: Vec<char> = name.chars().collect();
        let (mut piece, mut at) = (0, 0);
        let mut retry: Option<(usize, usize)> = None;
        while at < name.len() {
            match self.0.get(piece) {
                Some(Piece::Any) => {
                    retry = Some((piece + 1, at));
                    piece += 1;
                    continue;
                }
                Some(one) if one.accepts(name[at]) => {
                    (piece, at) = (piece + 1, at + 1);
                    continue;
                }
                _ => {}
            }
            let Some((after, from)) = retry else { return false };
            retry = Some((after, from + 1));
            (piece, at) = (after, from + 1);
        }
        self.0[piece..].iter().all(|piece| *piece == Piece::Any)
    }
}

impl Piece {
    fn accepts(&self, character: char) -> bool {
        match self {
            Self::Any | Self::One => true,
            Self::Literal(literal) => *literal == character,
            Self::Set { negated, ranges } => {
                ranges.iter().any(|(low, high)| (*low..=*high).contains(&character)) != *negated
            }
        }
    }
}

/// A set after its `[`, and how many characters it took; `None` when it is not closed.
fn set(rest: &[char]) -> Option<(Piece, usize)> {
    let negated = rest.first() == Some(&'!');
    let start = usize::from(negated);
    // A `]` right after the opening belongs to the set.
    let search = start + usize::from(rest.get(start) == Some(&']'));
    let end = search + rest.get(search..)?.iter().position(|c| *c == ']')?;
    let (members, mut ranges, mut at) = (&rest[start..end], Vec::new(), 0);
    while at < members.len() {
        if at + 2 < members.len() && members[at + 1] == '-' {
            ranges.push((members[at], members[at + 2]));
            at += 3;
        } else {
            ranges.push((members[at], members[at]));
            at += 1;
        }
    }
    Some((Piece::Set { negated, ranges }, end + 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_match_as_fnmatch_matches_them() {
        for (pattern, name, expected) in [
            ("*", ".hidden", true),
            ("*.py", "a.py", true),
            ("*.py", "a.pyc", false),
            ("a?c", "abc", true),
            ("a?c", "ac", false),
            ("[ab]x", "bx", true),
            ("[!ab]x", "bx", false),
            ("[!ab]x", "cx", true),
            ("[a-c]x", "bx", true),
            ("[c-a]x", "bx", false),
            ("[]x]", "]", true),
            ("[a-", "[a-", true),
            ("[-a]", "-", true),
            ("[a-c-e]", "-", true),
            ("[a-c-e]", "d", false),
            ("[^a]", "^", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b*c", "aXbYb", false),
            ("A*", "abc", false),
            ("{a,b}", "a", false),
            ("\\*", "*", false),
            ("?", "漢", true),
        ] {
            assert_eq!(NamePattern::new(pattern).matches(name), expected, "{pattern} against {name}");
        }
    }

    #[test]
    fn many_stars_do_not_explode() {
        let pattern = NamePattern::new(&"*a".repeat(40));
        assert!(!pattern.matches(&format!("{}b", "a".repeat(250))));
    }
}
