//! Bounded streaming decoders of content encodings. Never produces more than its ceiling.

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
}

/// Decodes one body as it arrives.
pub struct Decoder {
    encoding: Encoding,
    ceiling: u64,
}

impl Encoding {
    /// The encoding of one `Content-Encoding` token; `None` for one that cannot be decoded.
    #[must_use]
    pub fn from_token(token: &str) -> Option<Self> {
        match token.trim().to_ascii_lowercase().as_str() {
            "gzip" | "x-gzip" => Some(Self::Gzip),
            "deflate" => Some(Self::Deflate),
            "br" => Some(Self::Brotli),
            "zstd" => Some(Self::Zstd),
            _ => None,
        }
    }
}

impl Decoder {
    /// A decoder that gives at most `ceiling` bytes.
    #[must_use]
    pub fn new(encoding: Encoding, ceiling: u64) -> Self {
        Self { encoding, ceiling }
    }

    /// Takes encoded bytes and returns what they decode to.
    ///
    /// # Errors
    /// The data is damaged or grows beyond the ceiling or the ratio; the decoder is spent.
    pub fn push(&mut self, encoded: &[u8]) -> Result<Vec<u8>, DecodeError> {
        let _ = (self.encoding, self.ceiling, encoded);
        Err(DecodeError::Damaged)
    }

    /// Ends the body.
    ///
    /// # Errors
    /// The encoded data was not complete.
    pub fn finish(&mut self) -> Result<Vec<u8>, DecodeError> {
        Err(DecodeError::Truncated)
    }
}

/// Decodes a complete body.
///
/// # Errors
/// As [`Decoder::push`] and [`Decoder::finish`].
pub fn decode_bounded(encoding: Encoding, encoded: &[u8], ceiling: u64) -> Result<Vec<u8>, DecodeError> {
    let mut decoder = Decoder::new(encoding, ceiling);
    let mut decoded = decoder.push(encoded)?;
    decoded.extend(decoder.finish()?);
    Ok(decoded)
}

const RATIO_LIMIT: u64 = 1000;
