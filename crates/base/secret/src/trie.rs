//! Values as paths of keys, one tree for each way of writing them, so that thousands of values cost no more at a
//! position than one. The keys are the characters that remain after escapes are read.

use zeroize::Zeroize;

use crate::symbols::{Form, Reading, Readings};

/// A way of writing a whole value, before escapes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Class {
    Text,
    Base64(Alignment),
    Hex,
    Utf16Le,
    Utf16Be,
}

/// Where, in a group of three bytes, a value begins when something before it is encoded with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alignment {
    Zero = 0,
    One = 1,
    Two = 2,
}

/// All classes, in the order of the trie's roots.
pub(crate) const CLASSES: [Class; 7] = [
    Class::Text,
    Class::Base64(Alignment::Zero),
    Class::Base64(Alignment::One),
    Class::Base64(Alignment::Two),
    Class::Hex,
    Class::Utf16Le,
    Class::Utf16Be,
];

/// A value's keys in one class; in base64 the last character may belong to the value in part.
pub(crate) struct Path {
    pub(crate) keys: Vec<u8>,
    pub(crate) tail: Option<Tail>,
}

/// The part of base64's last character that belongs to the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Tail {
    pub(crate) mask: u8,
    pub(crate) bits: u8,
}

impl Tail {
    /// Whether the character's part is the value's.
    pub(crate) fn fits(self, bytes: &[u8]) -> bool {
        matches!(bytes, [byte] if sextet(*byte).is_some_and(|sextet| sextet & self.mask == self.bits))
    }
}

impl Class {
    /// The path of `value`.
    pub(crate) fn path(self, value: &[u8]) -> Path {
        let keys = match self {
            Self::Text => value.to_vec(),
            Self::Base64(alignment) => return alignment.path(value),
            Self::Hex => value.iter().flat_map(|byte| [nibble(byte >> 4), nibble(byte & 15)]).collect(),
            Self::Utf16Le => utf16(value).into_iter().flat_map(u16::to_le_bytes).collect(),
            Self::Utf16Be => utf16(value).into_iter().flat_map(u16::to_be_bytes).collect(),
        };
        Path { keys, tail: None }
    }

    /// Whether its characters may be escaped in turn.
    pub(crate) fn has_escapes(self) -> bool {
        !matches!(self, Self::Utf16Le | Self::Utf16Be)
    }

    /// The key of a character that was read, at the start of a value or inside it.
    pub(crate) fn key(self, byte: u8, inside: bool) -> Option<u8> {
        match self {
            Self::Text | Self::Utf16Le | Self::Utf16Be => Some(byte),
            Self::Base64(alignment) => Some(sextet(byte)? & alignment.mask(inside)),
            Self::Hex => byte.is_ascii_hexdigit().then(|| byte.to_ascii_lowercase()),
        }
    }

    /// Whether the character may stand between two of a value's: the line ends of wrapped base64, and the indentation
    /// after them.
    pub(crate) fn skips(self, reading: &Reading, inside: bool, after_line_end: bool) -> bool {
        let white = match reading.bytes() {
            b"\r" | b"\n" => true,
            b" " | b"\t" => after_line_end && reading.form != Form::Plus,
            _ => false,
        };
        inside && white && matches!(self, Self::Base64(_))
    }

    /// Every raw byte that has this key.
    pub(crate) fn raw_bytes(self, key: u8, inside: bool) -> impl Iterator<Item = u8> {
        let (pair, rest) = match self {
            Self::Text | Self::Utf16Le | Self::Utf16Be => ([Some(key), None], 0),
            Self::Hex => ([Some(key), Some(key.to_ascii_uppercase()).filter(|upper| *upper != key)], 0),
            Self::Base64(alignment) if alignment.mask(inside) == 0x3F => (characters(key), 0),
            // The first character of an alignment: all that share the value's bits.
            Self::Base64(_) => ([None, None], 256_u16),
        };
        let searched = (0..rest).filter_map(|byte| u8::try_from(byte).ok());
        pair.into_iter().flatten().chain(searched.filter(move |byte| self.key(*byte, inside) == Some(key)))
    }
}

/// Both characters of a base64 number, where base64 and base64url differ.
fn characters(sextet: u8) -> [Option<u8>; 2] {
    let place = usize::from(sextet & 63);
    [Some(BASE64[place]), Some(BASE64_URL[place]).filter(|url| *url != BASE64[place])]
}

impl Alignment {
    /// What of a character counts: of the first one only the bits that are the value's.
    pub(crate) fn mask(self, inside: bool) -> u8 {
        match (self, inside) {
            (Self::One, false) => 0x0F,
            (Self::Two, false) => 0x03,
            _ => 0x3F,
        }
    }

    fn path(self, value: &[u8]) -> Path {
        let bits: Vec<u8> = std::iter::repeat_n(0, self as usize)
            .chain(value.iter().copied())
            .flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit & 1))
            .collect();
        let (whole, rest) = bits.as_chunks::<6>();
        let number = |bits: &[u8]| bits.iter().fold(0, |number, bit| number << 1 | bit);
        let missing = 6 - rest.len();
        let tail = || Tail { mask: (0x3F << missing) & 0x3F, bits: number(rest) << missing };
        // The characters that hold filler alone are not the value's.
        let keys = whole.iter().skip(self as usize).map(|bits| number(bits)).collect();
        Path { keys, tail: (!rest.is_empty()).then(tail) }
    }
}

/// The characters a value has, as UTF-16; a value that is no UTF-8 counts as Latin-1.
fn utf16(value: &[u8]) -> Vec<u16> {
    match std::str::from_utf8(value) {
        Ok(text) => text.encode_utf16().collect(),
        Err(_) => value.iter().copied().map(u16::from).collect(),
    }
}

pub(crate) fn nibble(value: u8) -> u8 {
    b"0123456789abcdef"[usize::from(value & 15)]
}

/// The number of a base64 or base64url character.
pub(crate) fn sextet(byte: u8) -> Option<u8> {
    match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    }
}

/// A position in the tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Spot(u32);

/// The paths of all values in one class.
pub(crate) struct Trie {
    pub(crate) class: Class,
    nodes: Vec<Node>,
    /// The children of the root, by key: the one step that is taken at most positions.
    first: Box<[Option<Spot>; 256]>,
}

struct Node {
    key: u8,
    child: Option<Spot>,
    sibling: Option<Spot>,
    end: Option<End>,
}

/// A value whose path ends here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct End {
    pub(crate) index: usize,
    pub(crate) tail: Option<Tail>,
}

impl Trie {
    pub(crate) fn new(class: Class) -> Self {
        let root = Node { key: 0, child: None, sibling: None, end: None };
        Self { class, nodes: vec![root], first: Box::new([None; 256]) }
    }

    pub(crate) fn root() -> Spot {
        Spot(0)
    }

    /// Adds a value; of two equal ones the first stays.
    pub(crate) fn insert(&mut self, index: usize, value: &[u8]) {
        let mut path = self.class.path(value);
        let mut spot = Self::root();
        for key in &path.keys {
            spot = self.child(spot, *key).unwrap_or_else(|| self.grow(spot, *key));
        }
        path.keys.zeroize();
        self.node_mut(spot).end.get_or_insert(End { index, tail: path.tail });
    }

    pub(crate) fn child(&self, spot: Spot, key: u8) -> Option<Spot> {
        if spot == Self::root() {
            return self.first[usize::from(key)];
        }
        self.children(spot).find(|child| self.node(*child).key == key)
    }

    /// Whether any of the readings leads into a value.
    pub(crate) fn may_begin(&self, readings: &Readings) -> bool {
        readings.iter().any(|reading| {
            let first = reading.bytes().first().and_then(|byte| self.class.key(*byte, false));
            first.is_some_and(|key| self.first[usize::from(key)].is_some())
        })
    }

    pub(crate) fn end(&self, spot: Spot) -> Option<End> {
        self.node(spot).end
    }

    pub(crate) fn key(&self, spot: Spot) -> u8 {
        self.node(spot).key
    }

    pub(crate) fn children(&self, spot: Spot) -> impl Iterator<Item = Spot> {
        std::iter::successors(self.node(spot).child, |child| self.node(*child).sibling)
    }

    fn grow(&mut self, parent: Spot, key: u8) -> Spot {
        let spot =
            Spot(u32::try_from(self.nodes.len()).expect("values are bounded far below four thousand million keys"));
        let sibling = self.node_mut(parent).child.replace(spot);
        self.nodes.push(Node { key, child: None, sibling, end: None });
        if parent == Self::root() {
            self.first[usize::from(key)] = Some(spot);
        }
        spot
    }

    fn node(&self, spot: Spot) -> &Node {
        &self.nodes[spot.0 as usize]
    }

    fn node_mut(&mut self, spot: Spot) -> &mut Node {
        &mut self.nodes[spot.0 as usize]
    }
}

impl Drop for Trie {
    /// The paths spell secrets.
    fn drop(&mut self) {
        for node in &mut self.nodes {
            node.key.zeroize();
        }
    }
}

/// RFC 4648, section 4.
pub(crate) const BASE64: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
/// RFC 4648, section 5.
pub(crate) const BASE64_URL: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
