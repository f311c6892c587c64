//! Globs over texts that an agent chose: tools' names, and arguments that are often paths or URLs.

mod automaton;

use super::name::halfwidth;
use std::fmt;
use std::str::FromStr;

/// A compiled glob. In arguments `*` is any run within one segment, `**` any run at all, `?` one character of a
/// segment; between `://` and the next slash all three stay within a host name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Glob {
    written: String,
    tokens: Vec<Token>,
    /// Whether the text must not climb out of a path.
    guarded: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token {
    Letter(char),
    One(Class),
    Run(Class),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Any,
    Segment,
    Host,
}

/// The text is no glob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadGlob {
    #[error("the glob is empty")]
    Empty,
    #[error("a glob has at most 256 characters")]
    TooLong,
    #[error("a glob has at most 16 wildcards")]
    TooMany,
    #[error("globs know *, ** and ? only; write several, or use eq or in for a text with [ ] {{ }} or \\")]
    Syntax,
    #[error("*** means nothing; * stays within a segment, ** does not")]
    Stars,
}

const LONGEST_GLOB: usize = 256;
/// Each can keep a position alive, and each position costs time with each character of a text.
const MOST_WILDCARDS: usize = 16;
/// A longer text does not match anything but `**`.
const LONGEST_TEXT: usize = 1 << 20;

impl FromStr for Glob {
    type Err = BadGlob;

    /// A glob over an argument.
    fn from_str(text: &str) -> Result<Self, BadGlob> {
        let tokens = compile(text, |at| if in_authority(text, at) { Class::Host } else { Class::Segment })?;
        Ok(Self { written: text.to_owned(), tokens, guarded: text != "**" })
    }
}

impl Glob {
    /// A glob over names, in which `*` is any run.
    pub(crate) fn of_names(text: &str) -> Result<Self, BadGlob> {
        let tokens = compile(text, |_| Class::Any)?;
        Ok(Self { written: text.to_owned(), tokens, guarded: false })
    }

    /// Whether the whole text matches; the time is bounded by the product of both lengths.
    pub(crate) fn matches(&self, text: &str) -> bool {
        if self.tokens == [Token::Run(Class::Any)] {
            return true;
        }
        text.len() <= LONGEST_TEXT && !(self.guarded && climbs(text)) && self.walk(text)
    }

    /// Every position that the glob can be at, character by character.
    fn walk(&self, text: &str) -> bool {
        let (mut here, mut next) = (Positions::new(self), Positions::new(self));
        here.add(0);
        for letter in text.chars() {
            if here.accepts_all() {
                return true;
            }
            next.clear();
            for at in here.list() {
                match self.tokens.get(at) {
                    Some(Token::Letter(wanted)) if *wanted == letter => next.add(at + 1),
                    Some(Token::One(class)) if class.admits(letter) => next.add(at + 1),
                    Some(Token::Run(class)) if class.admits(letter) => next.add(at),
                    Some(Token::Letter(_) | Token::One(_) | Token::Run(_)) | None => {}
                }
            }
            std::mem::swap(&mut here, &mut next);
        }
        here.has(self.tokens.len())
    }
}

/// A set of positions in a glob.
struct Positions<'g> {
    tokens: &'g [Token],
    present: Vec<bool>,
    order: Vec<usize>,
}

impl<'g> Positions<'g> {
    fn new(glob: &'g Glob) -> Self {
        Self { tokens: &glob.tokens, present: vec![false; glob.tokens.len() + 1], order: Vec::new() }
    }

    fn clear(&mut self) {
        for at in self.order.drain(..) {
            self.present[at] = false;
        }
    }

    /// A run can be empty, so the position after it is reached with it.
    fn add(&mut self, at: usize) {
        let mut at = at;
        while !self.present[at] {
            self.present[at] = true;
            self.order.push(at);
            if !matches!(self.tokens.get(at), Some(Token::Run(_))) {
                return;
            }
            at += 1;
        }
    }

    fn has(&self, at: usize) -> bool {
        self.present[at]
    }

    fn list(&self) -> impl Iterator<Item = usize> {
        self.order.iter().copied()
    }

    /// Whether a last `**` is reached: the rest is its own.
    fn accepts_all(&self) -> bool {
        let last = self.tokens.len() - 1;
        self.tokens[last] == Token::Run(Class::Any) && self.has(last)
    }
}

impl Class {
    fn admits(self, letter: char) -> bool {
        match self {
            Self::Any => true,
            Self::Segment => !matches!(letter, '/' | '\\') && !letter.is_control(),
            Self::Host => letter.is_ascii_alphanumeric() || matches!(letter, '.' | '-' | '_'),
        }
    }
}

fn compile(text: &str, single: impl Fn(usize) -> Class) -> Result<Vec<Token>, BadGlob> {
    if text.is_empty() {
        return Err(BadGlob::Empty);
    }
    if text.chars().count() > LONGEST_GLOB {
        return Err(BadGlob::TooLong);
    }
    if text.contains("***") {
        return Err(BadGlob::Stars);
    }
    let mut tokens = Vec::new();
    let mut letters = text.char_indices().peekable();
    while let Some((at, letter)) = letters.next() {
        tokens.push(match letter {
            '[' | ']' | '{' | '}' | '\\' => return Err(BadGlob::Syntax),
            '?' => Token::One(single(at)),
            '*' if letters.next_if(|(_, next)| *next == '*').is_some() => Token::Run(double(single(at))),
            '*' => Token::Run(single(at)),
            letter => Token::Letter(letter),
        });
    }
    let wildcards = tokens.iter().filter(|token| !matches!(token, Token::Letter(_))).count();
    if wildcards > MOST_WILDCARDS { Err(BadGlob::TooMany) } else { Ok(tokens) }
}

/// What `**` crosses that `*` does not: all, but never the end of a host.
fn double(single: Class) -> Class {
    match single {
        Class::Any | Class::Segment => Class::Any,
        Class::Host => Class::Host,
    }
}

/// Whether this byte of a glob stands between `://` and the slash after it.
fn in_authority(glob: &str, at: usize) -> bool {
    glob.find("://").is_some_and(|scheme_end| {
        let begin = scheme_end + 3;
        let end = glob[begin..].find('/').map_or(glob.len(), |length| begin + length);
        (begin..end).contains(&at)
    })
}

/// Whether the text, read as a path or URL by anyone, leaves a directory that it began with. An encoded separator or
/// NUL is no text that a rule means either.
fn climbs(text: &str) -> bool {
    let plain: String = text.chars().map(halfwidth).flat_map(char::to_lowercase).collect();
    let plain = plain.replace('\u{2024}', ".").replace('\u{2025}', "..");
    if plain.contains('\0') || ["%2f", "%5c", "%00", "%25"].iter().any(|escape| plain.contains(escape)) {
        return true;
    }
    plain.replace("%2e", ".").split(['/', '\\', '?', '#']).any(|segment| {
        let name = segment.split(';').next().unwrap_or_default().trim();
        !name.is_empty() && name.bytes().all(|byte| byte == b'.')
    })
}

impl fmt::Display for Glob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.written)
    }
}
