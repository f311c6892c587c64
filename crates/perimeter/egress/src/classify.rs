//! Tells by its first bytes what a connection speaks. Knows TLS and HTTP/1; everything else is refused.

/// What the first bytes say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Speech {
    /// A TLS handshake record.
    Tls,
    /// A request line of HTTP/1.
    Http,
    /// Neither, and no further byte can change that.
    Unknown,
    /// Too few bytes to tell.
    Undecided,
}

/// Longest method that is taken for one.
const METHOD_BYTES: usize = 24;
/// The HTTP/2 connection preface (RFC 9113, section 3.4): a method that is no request.
const PREFACE: &[u8] = b"PRI * HTTP/2";

/// Bytes that always suffice for a verdict other than [`Speech::Undecided`].
pub(crate) const ENOUGH: usize = METHOD_BYTES + 1;

/// Reads the verdict off the bytes seen so far.
#[must_use]
pub(crate) fn classify(seen: &[u8]) -> Speech {
    match seen {
        [] | [0x16] => Speech::Undecided,
        // Record type 22, version 3.x (RFC 8446, section 5.1).
        [0x16, 0x03, ..] => Speech::Tls,
        _ => request_line(seen),
    }
}

fn request_line(seen: &[u8]) -> Speech {
    let method = seen.iter().take_while(|byte| is_token(**byte)).count();
    match seen.get(method) {
        _ if method > METHOD_BYTES => Speech::Unknown,
        None => Speech::Undecided,
        Some(b' ') if method > 0 => after_method(seen),
        Some(_) => Speech::Unknown,
    }
}

fn after_method(seen: &[u8]) -> Speech {
    let compared = seen.len().min(PREFACE.len());
    match seen[..compared] == PREFACE[..compared] {
        true if seen.len() >= PREFACE.len() => Speech::Unknown,
        true => Speech::Undecided,
        false => Speech::Http,
    }
}

/// RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_tell_the_protocol() {
        let table: &[(&[u8], Speech)] = &[
            (b"", Speech::Undecided),
            (b"\x16", Speech::Undecided),
            (b"\x16\x03\x01\x02", Speech::Tls),
            (b"\x16\x02", Speech::Unknown),
            (b"\x80\x2e\x01", Speech::Unknown),
            (b"G", Speech::Undecided),
            (b"GET ", Speech::Http),
            (b"PROPFIND /", Speech::Http),
            (b"PRI ", Speech::Undecided),
            (b"PRI * HTTP/2.0\r\n", Speech::Unknown),
            (b"PRI /x", Speech::Http),
            (b"SSH-2.0-OpenSSH_9.2\r\n", Speech::Unknown),
            (b"SSH-2.0", Speech::Undecided),
            (b" GET /", Speech::Unknown),
            (b"\r\nGET /", Speech::Unknown),
            (b"\0\0\0\x08\x04\xd2\x16\x2f", Speech::Unknown),
            (b"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", Speech::Unknown),
        ];
        for (bytes, expected) in table {
            assert_eq!(classify(bytes), *expected, "{:?}", String::from_utf8_lossy(bytes));
        }
    }

    #[test]
    fn enough_bytes_always_decide() {
        for first in 0..=255_u8 {
            let bytes = [first; ENOUGH];
            assert_ne!(classify(&bytes), Speech::Undecided, "{first}");
        }
    }
}
