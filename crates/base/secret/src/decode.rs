//! Takes content encodings apart as they arrive, so that what is inside can be scrubbed. Never gives more than its
//! ceiling, never more per input than honest data has, and never guesses past damage: the caller fails closed.

mod brotli;
mod flate;
mod zstd;

/// A content encoding that can be taken apart for scrubbing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// RFC 1952, several members allowed.
    Gzip,
    /// `deflate`: zlib (RFC 1950), or raw (RFC 1951) as some servers send it.
    Deflate,
    /// RFC 7932.
    Brotli,
    /// RFC 8878, several frames allowed.
    Zstd,
}

/// Why decoding stopped. The caller fails closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// More output than the ceiling.
    #[error("decoded body exceeds {0} bytes")]
    Ceiling(u64),
    /// More output per input than honest data has.
    #[error("decoded body is more than {RATIO_LIMIT} times its encoded size")]
    Ratio,
    /// Not what its name says.
    #[error("encoded body is damaged")]
    Damaged,
    /// The input ended inside the encoded data.
    #[error("encoded body ends early")]
    Truncated,
    /// It needs more memory at once than a decoder may have.
    #[error("encoded body needs a window of more than {WINDOW_LIMIT} bytes")]
    Window,
}

impl Encoding {
    /// The encoding of one `Content-Encoding` token; `None` for one that cannot be decoded.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        let is = |name: &str| token.trim().eq_ignore_ascii_case(name);
        let table = [
            ("gzip", Self::Gzip),
            ("x-gzip", Self::Gzip),
            ("deflate", Self::Deflate),
            ("br", Self::Brotli),
            ("zstd", Self::Zstd),
        ];
        table.into_iter().find(|(name, _)| is(name)).map(|(_, encoding)| encoding)
    }
}

/// Decodes one body as it arrives.
pub struct Decoder {
    inner: Inner,
    budget: Budget,
    spent: Option<DecodeError>,
}

enum Inner {
    Flate(flate::Flate),
    Brotli(Box<brotli::Brotli>),
    Zstd(Box<zstd::Zstd>),
}

impl Decoder {
    /// A decoder that gives at most `ceiling` bytes.
    #[must_use]
    pub fn new(encoding: Encoding, ceiling: u64) -> Self {
        let inner = match encoding {
            Encoding::Gzip => Inner::Flate(flate::Flate::gzip()),
            Encoding::Deflate => Inner::Flate(flate::Flate::deflate()),
            Encoding::Brotli => Inner::Brotli(Box::new(brotli::Brotli::new())),
            Encoding::Zstd => Inner::Zstd(Box::new(zstd::Zstd::new())),
        };
        Self { inner, budget: Budget::new(ceiling), spent: None }
    }

    /// Takes encoded bytes and returns what they decode to.
    ///
    /// # Errors
    /// The data is damaged or grows beyond a bound. The decoder is spent then: every later call fails the same way.
    pub fn push(&mut self, encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
        if let Some(error) = self.spent {
            return Err(error);
        }
        self.budget.take(encoded.len());
        let mut output = Vec::new();
        let pushed = match &mut self.inner {
            Inner::Flate(flate) => flate.push(encoded, &mut output, &mut self.budget),
            Inner::Brotli(brotli) => brotli.push(encoded, &mut output, &mut self.budget),
            Inner::Zstd(zstd) => zstd.push(encoded, &mut output, &mut self.budget),
        };
        self.spent = pushed.err();
        pushed.map(|()| output)
    }

    /// Ends the body. Nothing is left to give then: every complete part was given before.
    ///
    /// # Errors
    /// The encoded data was damaged, or not complete. No data at all is an empty body.
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        if let Some(error) = self.spent {
            return Err(error);
        }
        let complete = self.budget.all.taken == 0
            || match &self.inner {
                Inner::Flate(flate) => flate.is_complete(),
                Inner::Brotli(brotli) => brotli.is_complete(),
                Inner::Zstd(zstd) => zstd.is_complete(),
            };
        if complete { Ok(()) } else { Err(DecodeError::Truncated) }
    }
}

/// Decodes a complete body.
///
/// # Errors
/// As [`Decoder::push`] and [`Decoder::finish`].
pub fn decode_bounded(encoding: Encoding, encoded: &[u8], ceiling: u64) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(encoding, ceiling);
    let decoded = decoder.push(encoded)?;
    decoder.finish()?;
    Ok(decoded)
}

/// Takes several encodings off one body, one after the other, in pieces: what encodings on top of each other make of a
/// little is bounded like what one makes of it.
pub struct Decoders {
    decoders: Vec<Decoder>,
    budget: Budget,
    spent: Option<DecodeError>,
}

impl Decoders {
    /// For these encodings, the outermost first. Neither the body nor what stands between two of them may have more
    /// than `ceiling` bytes.
    #[must_use]
    pub fn new(encodings: &[Encoding], ceiling: u64) -> Self {
        let decoders: Vec<_> = encodings.iter().map(|encoding| Decoder::new(*encoding, ceiling)).collect();
        let ceiling = ceiling.saturating_mul(decoders.len() as u64);
        Self { decoders, budget: Budget::new(ceiling), spent: None }
    }

    /// Whether there is nothing to take off.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.decoders.is_empty()
    }

    /// As [`Decoder::push`].
    ///
    /// # Errors
    /// As [`Decoder::push`]; also where all encodings together give more per input than honest data has.
    pub fn push(&mut self, encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
        if let Some(error) = self.spent {
            return Err(error);
        }
        self.budget.take(encoded.len());
        let mut output = Vec::new();
        let pushed = through(&mut self.decoders, encoded, &mut output, &mut self.budget);
        self.spent = pushed.err();
        pushed.map(|()| output)
    }

    /// As [`Decoder::finish`], of each.
    ///
    /// # Errors
    /// As [`Decoder::finish`].
    pub fn finish(&mut self) -> Result<(), DecodeError> {
        match self.spent {
            Some(error) => Err(error),
            None => self.decoders.iter_mut().try_for_each(Decoder::finish),
        }
    }
}

/// What each gives counts: a layer that grows and a next one that shrinks again cost the same work.
fn through(
    decoders: &mut [Decoder],
    encoded: &[u8],
    output: &mut Vec<u8>,
    budget: &mut Budget,
) -> Result<(), DecodeError> {
    let Some((first, inner)) = decoders.split_first_mut() else {
        output.extend_from_slice(encoded);
        return Ok(());
    };
    for piece in encoded.chunks(PIECE) {
        let decoded = first.push(piece)?;
        budget.give(decoded.len())?;
        match inner.is_empty() && output.is_empty() {
            true => *output = decoded,
            false => through(inner, &decoded, output, budget)?,
        }
    }
    Ok(())
}

/// How much may still be given.
struct Budget {
    ceiling: u64,
    all: Account,
    /// What was taken last, and what it gave: who gave little for much before has nothing saved up.
    last: Account,
}

#[derive(Default)]
struct Account {
    taken: u64,
    given: u64,
}

impl Budget {
    fn new(ceiling: u64) -> Self {
        Self { ceiling, all: Account::default(), last: Account::default() }
    }

    /// Accounts for `count` more bytes of input.
    fn take(&mut self, count: usize) {
        self.all.taken += count as u64;
        self.last = Account { taken: count as u64, given: 0 };
    }

    /// Accounts for `count` more bytes of output.
    fn give(&mut self, count: usize) -> Result<(), DecodeError> {
        self.all.given += count as u64;
        self.last.given += count as u64;
        if self.all.given > self.ceiling {
            Err(DecodeError::Ceiling(self.ceiling))
        } else if self.all.is_beyond(RATIO_FREE) || self.last.is_beyond(AT_ONCE) {
            Err(DecodeError::Ratio)
        } else {
            Ok(())
        }
    }
}

impl Account {
    fn is_beyond(&self, free: u64) -> bool {
        self.given > free && self.given / RATIO_LIMIT > self.taken
    }
}

/// Deflate itself cannot exceed 1032; brotli and zstd can reach millions.
const RATIO_LIMIT: u64 = 1100;
/// Below this size no ratio matters.
const RATIO_FREE: u64 = 1024 * 1024;
/// Below this size no ratio matters of what is given at once: the end of a frame gives a whole window.
const AT_ONCE: u64 = 2 * WINDOW_LIMIT;
/// RFC 8878 asks decoders for 8 MiB; brotli's largest regular window is 16 MiB.
const WINDOW_LIMIT: u64 = 8 * 1024 * 1024;
/// How much is decoded at once.
const STEP: usize = 16 * 1024;
/// Encoded bytes that one decoder is given at once: what they decode to is held in memory.
pub const PIECE: usize = 4096;

#[cfg(test)]
mod tests;
