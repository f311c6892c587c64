//! HTTP Basic credentials (RFC 7617): taken apart and put together, byte for byte.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use zeroize::Zeroizing;

/// The two halves.
pub(crate) struct Pair {
    /// Before the first colon.
    pub(crate) username: Zeroizing<Vec<u8>>,
    /// After it.
    pub(crate) password: Zeroizing<Vec<u8>>,
}

/// The halves of an `authorization` value that is Basic and well-formed.
pub(crate) fn parse(value: &[u8]) -> Option<Pair> {
    let (scheme, rest) = value.split_at_checked(SCHEME.len())?;
    if !scheme.eq_ignore_ascii_case(SCHEME.as_bytes()) {
        return None;
    }
    let pair = Zeroizing::new(STANDARD.decode(rest.trim_ascii()).ok()?);
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some(Pair {
        username: Zeroizing::new(pair[..colon].to_vec()),
        password: Zeroizing::new(pair[colon + 1..].to_vec()),
    })
}

/// The `authorization` value of two halves.
pub(crate) fn render(pair: &Pair) -> Zeroizing<String> {
    let mut plain = Zeroizing::new(Vec::with_capacity(pair.username.len() + 1 + pair.password.len()));
    plain.extend_from_slice(&pair.username);
    plain.push(b':');
    plain.extend_from_slice(&pair.password);
    let encoded = Zeroizing::new(STANDARD.encode(&*plain));
    Zeroizing::new(format!("{SCHEME}{}", *encoded))
}

const SCHEME: &str = "Basic ";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pair_survives_both_ways_and_the_password_may_hold_colons() {
        let pair = parse(b"bAsIc dTpwOnc=").unwrap();
        assert_eq!((&pair.username[..], &pair.password[..]), (&b"u"[..], &b"p:w"[..]));
        assert_eq!(&*render(&pair), "Basic dTpwOnc=");
    }

    #[test]
    fn what_is_not_basic_is_not_taken_apart() {
        for value in ["Bearer dTpw", "Basic", "Basic dXB3", "Basic d*pw", ""] {
            assert!(parse(value.as_bytes()).is_none(), "{value}");
        }
    }
}
