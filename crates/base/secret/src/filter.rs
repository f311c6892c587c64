//! Picks the positions where a rendering may begin, at about a nanosecond a byte, whatever the number of values.
//! It errs on the side of picking; deciding is the matcher's.

use crate::symbols::{HTML_NAMES, JSON_SHORT};
use crate::trie::{Class, Spot, Trie};

/// What a rendering may begin with: pairs of neighbouring bytes, the pairs that follow them by one, and where no
/// escape is near, four bytes.
pub(crate) struct Filter {
    first: Box<[bool; 256]>,
    beginning: Pairs,
    following: Pairs,
    /// Both together.
    either: Pairs,
    fours: Fours,
}

/// A set of pairs of bytes, as bits.
struct Pairs(Box<[u64; 1024]>);

/// A set of four bytes each, as hashed bits: it may hold more than was added, never less.
struct Fours(Box<[u64]>);

impl Filter {
    pub(crate) fn new(tries: &[Trie]) -> Self {
        let (beginning, following) = (Pairs::none(), Pairs::none());
        let (first, either) = (Box::new([false; 256]), Pairs::none());
        let mut filter = Self { first, beginning, following, either, fours: Fours::none() };
        for trie in tries {
            for spot in trie.children(Trie::root()) {
                filter.add(trie, spot);
            }
            filter.add_fours(trie, Trie::root(), &mut Vec::new());
        }
        filter.either = filter.beginning.or(&filter.following);
        filter
    }

    /// Picks where either of two picks.
    pub(crate) fn or(&self, other: &Self) -> Self {
        let both = |one: &[u64], other: &[u64]| one.iter().zip(other).map(|(one, other)| one | other).collect();
        let mut first = self.first.clone();
        first.iter_mut().zip(other.first.iter()).for_each(|(one, other)| *one |= other);
        let beginning = self.beginning.or(&other.beginning);
        let following = self.following.or(&other.following);
        let either = beginning.or(&following);
        Self { first, beginning, following, either, fours: Fours(both(&self.fours.0, &other.fours.0)) }
    }

    /// The first position at or after `from` where a rendering may begin.
    pub(crate) fn next(&self, haystack: &[u8], from: usize) -> Option<usize> {
        let rest = haystack.get(from..)?;
        let picked = self.certain(rest).or_else(|| self.near_end(rest));
        picked.map(|offset| from + offset)
    }

    /// The same in a text that is all there is: no rendering has fewer than four bytes.
    pub(crate) fn next_whole(&self, haystack: &[u8], from: usize) -> Option<usize> {
        self.certain(haystack.get(from..)?).map(|offset| from + offset)
    }

    /// The first position that is followed by three bytes at least. Text is looked at in groups, and of a group at every
    /// second pair: what begins right before such a pair, or with it, shows in it. Where none shows, the group has nothing.
    fn certain(&self, rest: &[u8]) -> Option<usize> {
        let mut at = 0;
        while let Some(group) = rest[at..].first_chunk::<{ GROUP + 3 }>() {
            let shown = self.either.shown(&group[1..=GROUP]);
            if shown != 0
                && let Some(picked) = self.first_of(group, shown)
            {
                return Some(at + picked);
            }
            at += GROUP;
        }
        rest[at..].array_windows().position(|four| self.picks(*four)).map(|picked| at + picked)
    }

    /// The first position of a group that is picked, among those that the pairs at these bits stand for: each for itself and the one before it.
    fn first_of(&self, group: &[u8; GROUP + 3], mut shown: u32) -> Option<usize> {
        if shown.count_ones() > FEW {
            return group.array_windows().position(|four| self.picks(*four));
        }
        while shown != 0 {
            let before = 2 * shown.trailing_zeros() as usize;
            let fours = [before, before + 1].map(|at| (at, group[at..].first_chunk()));
            let picked = fours.into_iter().find(|(_, four)| four.is_some_and(|four| self.picks(*four)));
            if let Some((at, _)) = picked {
                return Some(at);
            }
            shown &= shown - 1;
        }
        None
    }

    fn picks(&self, [a, b, c, d]: [u8; 4]) -> bool {
        self.beginning.has(a, b) && self.following.has(b, c) && self.fours.may_have([a, b, c, d])
    }

    /// The last three bytes, after which too little follows to be sure.
    fn near_end(&self, rest: &[u8]) -> Option<usize> {
        let may_begin = |at: &usize| match rest[*at..] {
            [only] => self.first[usize::from(only)],
            [first, second, ..] => self.beginning.has(first, second),
            [] => false,
        };
        (rest.len().saturating_sub(3)..rest.len()).find(may_begin)
    }

    fn add(&mut self, trie: &Trie, spot: Spot) {
        for byte in trie.class.raw_bytes(trie.key(spot), false) {
            self.first[usize::from(byte)] = true;
            self.begin_raw(trie, spot, byte);
            if trie.class.has_escapes() {
                self.begin_escaped(byte);
            }
        }
    }

    /// A rendering whose first character stands as it is.
    fn begin_raw(&mut self, trie: &Trie, spot: Spot, first: u8) {
        for second_spot in trie.children(spot) {
            for second in trie.class.raw_bytes(trie.key(second_spot), true) {
                self.beginning.add(first, second);
                self.second_escaped(trie.class, first, second);
                for third_spot in trie.children(second_spot) {
                    for third in trie.class.raw_bytes(trie.key(third_spot), true) {
                        self.following.add(second, third);
                        leads(trie.class, third).for_each(|lead| self.following.add(second, lead));
                    }
                }
            }
        }
        if matches!(trie.class, Class::Base64(_)) {
            self.wrapped(trie, spot, first);
        }
    }

    fn second_escaped(&mut self, class: Class, first: u8, second: u8) {
        leads(class, second).for_each(|lead| self.beginning.add(first, lead));
        if class.has_escapes() {
            self.escape(second, |filter, lead, next| filter.following.add(lead, next));
        }
    }

    /// A line end within the first three characters of base64.
    fn wrapped(&mut self, trie: &Trie, spot: Spot, first: u8) {
        for end in *b"\r\n\\" {
            self.beginning.add(first, end);
            self.following.add_all(end);
            for second_spot in trie.children(spot) {
                trie.class.raw_bytes(trie.key(second_spot), true).for_each(|second| self.following.add(second, end));
            }
        }
    }

    /// A rendering whose first character, or the first byte of it, is `byte` and escaped.
    fn begin_escaped(&mut self, byte: u8) {
        leads(Class::Text, byte).for_each(|lead| self.first[usize::from(lead)] = true);
        self.escape(byte, |filter, lead, next| filter.beginning.add(lead, next));
        for high in hex_digits(byte >> 4) {
            hex_digits(byte & 15).iter().for_each(|low| self.following.add(high, *low));
        }
        // What follows the sign of a decimal entity: leading zeros or the number's first digit. Where the byte only
        // begins a character, that may be any.
        let digits = if byte.is_ascii() { byte.to_string() } else { "123456789".to_owned() };
        let first = if byte.is_ascii() { &digits[..1] } else { &digits };
        first.bytes().chain([b'0']).for_each(|digit| self.following.add(b'#', digit));
        self.following.add(b'#', b'x');
        self.following.add(b'#', b'X');
        self.escape(byte, |filter, lead, next| match (lead, next) {
            (b'%', _) | (b'&', b'#') => {}
            (b'\\', b'u') if byte.is_ascii() => filter.following.add(b'u', b'0'),
            _ => filter.following.add_all(next),
        });
    }

    /// The first two bytes of every escape of a character that is, or begins with, `byte`.
    fn escape(&mut self, byte: u8, mut add: impl FnMut(&mut Self, u8, u8)) {
        hex_digits(byte >> 4).iter().for_each(|digit| add(self, b'%', *digit));
        add(self, b'\\', b'u');
        add(self, b'&', b'#');
        for (letter, _) in JSON_SHORT.iter().filter(|(_, meaning)| *meaning == byte) {
            add(self, b'\\', *letter);
        }
        for (name, _) in HTML_NAMES.iter().filter(|(_, meaning)| *meaning == byte) {
            add(self, b'&', name.as_bytes()[0].to_ascii_lowercase());
            add(self, b'&', name.as_bytes()[0].to_ascii_uppercase());
        }
        if byte == b' ' {
            (0..=u8::MAX).for_each(|next| add(self, b'+', next));
        }
    }

    fn add_fours(&mut self, trie: &Trie, spot: Spot, keys: &mut Vec<u8>) {
        if keys.len() == 4 {
            self.fours.add_all(trie.class, keys, [0; 4], 0);
            return;
        }
        for child in trie.children(spot) {
            keys.push(trie.key(child));
            self.add_fours(trie, child, keys);
            keys.pop();
        }
    }
}

/// What may stand in place of a character: the first byte of its escapes.
fn leads(class: Class, byte: u8) -> impl Iterator<Item = u8> {
    let plus: &[u8] = if byte == b' ' { b"+" } else { b"" };
    let escapes: &[u8] = if class.has_escapes() { b"%\\&" } else { b"" };
    escapes.iter().chain(plus).copied()
}

/// Both casings of a hexadecimal digit.
fn hex_digits(value: u8) -> [u8; 2] {
    let digit = crate::trie::nibble(value);
    [digit, digit.to_ascii_uppercase()]
}

impl Pairs {
    fn none() -> Self {
        Self(Box::new([0; 1024]))
    }

    fn add(&mut self, first: u8, second: u8) {
        self.0[usize::from(first) * 4 + usize::from(second >> 6)] |= 1 << (second & 63);
    }

    fn add_all(&mut self, first: u8) {
        self.0[usize::from(first) * 4..][..4].fill(u64::MAX);
    }

    fn has(&self, first: u8, second: u8) -> bool {
        self.bit(first, second) == 1
    }

    /// Which of the pairs that the bytes make up, one after the other; a bit for each, the first the lowest.
    fn shown(&self, bytes: &[u8]) -> u32 {
        let (pairs, _) = bytes.as_chunks();
        (0..).zip(pairs).fold(0, |shown, (at, [first, second])| shown | (self.bit(*first, *second) as u32) << at)
    }

    fn bit(&self, first: u8, second: u8) -> u64 {
        self.0[usize::from(first) * 4 + usize::from(second >> 6)] >> (second & 63) & 1
    }

    fn or(&self, other: &Self) -> Self {
        let mut both = Self::none();
        for (both, (one, other)) in both.0.iter_mut().zip(self.0.iter().zip(other.0.iter())) {
            *both = one | other;
        }
        both
    }
}

impl Fours {
    fn none() -> Self {
        Self(vec![0; FOURS_WORDS].into_boxed_slice())
    }

    /// Adds the keys in every way their characters can stand as they are.
    fn add_all(&mut self, class: Class, keys: &[u8], mut bytes: [u8; 4], at: usize) {
        let Some(key) = keys.get(at) else {
            let (word, bit) = Self::place(bytes);
            self.0[word] |= bit;
            return;
        };
        for byte in class.raw_bytes(*key, at > 0) {
            bytes[at] = byte;
            self.add_all(class, keys, bytes, at + 1);
        }
    }

    /// Whether these bytes may begin a rendering: any that hold a sign of an escape or a line end may.
    fn may_have(&self, bytes: [u8; 4]) -> bool {
        let (word, bit) = Self::place(bytes);
        self.0[word] & bit != 0 || bytes.iter().any(|byte| matches!(byte, b'%' | b'\\' | b'&' | b'+' | b'\r' | b'\n'))
    }

    fn place(bytes: [u8; 4]) -> (usize, u64) {
        let hash = u32::from_le_bytes(bytes).wrapping_mul(0x9E37_79B1) >> 12;
        (hash as usize / 64, 1 << (hash % 64))
    }
}

/// Positions that are looked at together: as many as are passed by where nothing shows.
const GROUP: usize = 32;
/// So many pairs are looked at one by one; with more, the whole group is.
const FEW: u32 = 4;
/// 2^20 bits: with a thousand values one in twenty is set.
const FOURS_WORDS: usize = 1 << 14;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::trie::CLASSES;

    const VALUES: [&[u8]; 2] = [b"sk-live/7Qm2x9Zt4Lw8+Vb3N&\"K", b"another one, with spaces"];

    fn filter() -> Filter {
        let mut tries: Vec<Trie> = CLASSES.into_iter().map(Trie::new).collect();
        for trie in &mut tries {
            VALUES.iter().enumerate().for_each(|(index, value)| trie.insert(index, value));
        }
        Filter::new(&tries)
    }

    /// Pieces of what is looked for, so that much is nearly picked.
    fn text() -> impl Strategy<Value = Vec<u8>> {
        let near = prop_oneof![
            prop::collection::vec(any::<u8>(), 0..8),
            (0..VALUES.len(), 0..20_usize, 1..5_usize)
                .prop_map(|(which, at, length)| VALUES[which][at..at + length].to_vec()),
            prop::sample::select(vec!["c2st", "736b", "%73k", "\\u0073", "&#115;", "ano", "YW5v"])
                .prop_map(|text| text.as_bytes().to_vec()),
            prop::collection::vec(Just(b'.'), 0..70),
        ];
        prop::collection::vec(near, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn groups_pick_what_a_look_at_each_position_picks(text in text(), from in 0_usize..40) {
            let filter = filter();
            let rest = text.get(from..).unwrap_or_default();
            let each = rest.array_windows().position(|four| filter.picks(*four));
            let each = each.or_else(|| filter.near_end(rest)).map(|at| from + at);
            prop_assert_eq!(filter.next(&text, from), each);
        }
    }
}
