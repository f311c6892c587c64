//! Phase: writes a secret as the target or the body of a request needs it, so that the upstream reads the secret and
//! nothing of the secret is read as anything else. What cannot be written so is refused.

use std::ops::Range;

use http::{Uri, request::Parts, uri::PathAndQuery};
use postern_policy::{
    CanonicalPath, Denial, Location, Reason,
    location::{JsonPlaces, value_of},
};
use zeroize::Zeroizing;

/// A placeholder and what takes its place.
pub(crate) struct Exchanged<'s> {
    /// What stands there.
    pub(crate) placeholder: &'s [u8],
    /// What is to stand there.
    pub(crate) secret: &'s [u8],
}

/// Where a text holds the placeholder whole, and how a secret is written there.
struct Gap {
    at: Range<usize>,
    written: Zeroizing<Vec<u8>>,
}

/// Replaces the placeholder in a request's target.
pub(crate) fn in_target(location: &Location, exchanged: &Exchanged<'_>, head: &mut Parts) -> Result<(), Denial> {
    let target = head.uri.path_and_query().map_or("", PathAndQuery::as_str).to_owned();
    let (path, query) = target.split_once('?').map_or((target.as_str(), None), |(path, query)| (path, Some(query)));
    let gap = match location {
        Location::Path(template) => {
            let path: CanonicalPath = path.parse().map_err(|_| unresolved())?;
            Gap { at: template.value_in(&path).ok_or_else(unresolved)?, written: escaped(exchanged.secret, PATH) }
        }
        Location::Query(key) => {
            let at = query.and_then(|query| value_of(query.as_bytes(), key)).ok_or_else(unresolved)?;
            let start = path.len() + 1;
            Gap { at: start + at.start..start + at.end, written: escaped(exchanged.secret, QUERY) }
        }
        Location::Header(_)
        | Location::Basic(_)
        | Location::Json(_)
        | Location::Form(_)
        | Location::ClientCertificate => return Err(unresolved()),
    };
    let filled = fill(target.as_bytes(), &gap, exchanged)?;
    only_canonical(&filled)?;
    head.uri = Uri::try_from(filled.as_slice()).map_err(|_| unfit("in a URL"))?;
    Ok(())
}

/// Replaces the placeholder in a body that is held whole.
pub(crate) fn in_body(
    location: &Location,
    exchanged: &Exchanged<'_>,
    body: &[u8],
) -> Result<Zeroizing<Vec<u8>>, Denial> {
    let gap = match location {
        Location::Json(pointer) => {
            let places = JsonPlaces::of(body, exchanged.placeholder).map_err(|_| unresolved())?;
            Gap { at: places.range(pointer).ok_or_else(unresolved)?, written: in_json(exchanged.secret)? }
        }
        Location::Form(key) => {
            Gap { at: value_of(body, key).ok_or_else(unresolved)?, written: escaped(exchanged.secret, QUERY) }
        }
        Location::Header(_)
        | Location::Basic(_)
        | Location::Query(_)
        | Location::Path(_)
        | Location::ClientCertificate => return Err(unresolved()),
    };
    fill(body, &gap, exchanged)
}

fn fill(text: &[u8], gap: &Gap, exchanged: &Exchanged<'_>) -> Result<Zeroizing<Vec<u8>>, Denial> {
    if text.get(gap.at.clone()) != Some(exchanged.placeholder) {
        return Err(unresolved());
    }
    let (before, after) = (&text[..gap.at.start], &text[gap.at.end..]);
    // Of its full size at once: a vector that grows leaves its beginning behind.
    let mut filled = Zeroizing::new(Vec::with_capacity(before.len() + gap.written.len() + after.len()));
    for part in [before, &gap.written, after] {
        filled.extend_from_slice(part);
    }
    Ok(filled)
}

/// A secret in a path may be no separator, dot segment or anything else that upstreams read in two ways.
fn only_canonical(target: &[u8]) -> Result<(), Denial> {
    let target = std::str::from_utf8(target).map_err(|_| unresolved())?;
    let path = target.split('?').next().unwrap_or_default();
    let canonical = path.parse::<CanonicalPath>().is_ok_and(|canonical| canonical.as_str() == path);
    if canonical { Ok(()) } else { Err(unfit("in a path")) }
}

/// Percent-encoding (RFC 3986): upstreams that decode once read the secret.
fn escaped(secret: &[u8], beside: &[u8]) -> Zeroizing<Vec<u8>> {
    let mut written = Zeroizing::new(Vec::with_capacity(secret.len() * 3));
    for byte in secret {
        if byte.is_ascii_alphanumeric() || beside.contains(byte) {
            written.push(*byte);
        } else {
            written.extend_from_slice(&[b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]);
        }
    }
    written
}

/// The inside of a JSON string (RFC 8259, section 7).
fn in_json(secret: &[u8]) -> Result<Zeroizing<Vec<u8>>, Denial> {
    std::str::from_utf8(secret).map_err(|_| unfit("in JSON"))?;
    let mut written = Zeroizing::new(Vec::with_capacity(secret.len() * 6));
    for byte in secret {
        match byte {
            b'"' | b'\\' => written.extend_from_slice(&[b'\\', *byte]),
            0..0x20 => {
                let (high, low) = (HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]);
                written.extend_from_slice(&[b'\\', b'u', b'0', b'0', high, low]);
            }
            _ => written.push(*byte),
        }
    }
    Ok(written)
}

fn unresolved() -> Denial {
    Denial::new(Reason::PlaceholderUnresolved)
}

fn unfit(place: &str) -> Denial {
    Denial::advising(Reason::CustodyDenied, format!("the secret cannot stand {place}; the operator must set another"))
}

/// Characters that stand for themselves beside letters and digits. In a path also two that no router divides by, and
/// that some upstreams compare undecoded.
const PATH: &[u8] = b"-._~:@";
const QUERY: &[u8] = b"-._~";
const HEX: &[u8; 16] = b"0123456789ABCDEF";

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: &[u8] = b"pstn0123456789abcdef";

    fn target(location: &Location, secret: &str, target: &str) -> Result<String, Reason> {
        let uri = target.replace("PH", std::str::from_utf8(HELD).unwrap());
        let (mut head, ()) = http::Request::builder().uri(uri).body(()).unwrap().into_parts();
        let exchanged = Exchanged { placeholder: HELD, secret: secret.as_bytes() };
        in_target(location, &exchanged, &mut head).map_err(|denial| denial.reason)?;
        Ok(head.uri.to_string())
    }

    #[test]
    fn a_secret_in_a_target_is_read_as_the_secret_alone() {
        let query = Location::Query("key".parse().unwrap());
        let path = Location::Path("/bot{secret}/**".parse().unwrap());
        let table = [
            (&query, "a b&c=d;e+f%#?/é", "/x?a=b&key=PH&c", Ok("/x?a=b&key=a%20b%26c%3Dd%3Be%2Bf%25%23%3F%2F%C3%A9&c")),
            (&query, "~a-b.c_d", "/x?key=PH", Ok("/x?key=~a-b.c_d")),
            (&query, "s", "/x?key=xPH", Err(Reason::PlaceholderUnresolved)),
            (&query, "s", "/x?key=PH&key=y", Err(Reason::PlaceholderUnresolved)),
            (&query, "s", "/x", Err(Reason::PlaceholderUnresolved)),
            (&path, "123:AB-c_d~@e", "/botPH/send?x=1", Ok("/bot123:AB-c_d~@e/send?x=1")),
            (&path, "a;b?c#d", "/botPH/send", Ok("/bota%3Bb%3Fc%23d/send")),
            (&path, "a/b", "/botPH/send", Err(Reason::CustodyDenied)),
            (&path, "a\\b", "/botPH/send", Err(Reason::CustodyDenied)),
            (&path, "a\nb", "/botPH/send", Err(Reason::CustodyDenied)),
            (&path, "a%2fb", "/botPH/send", Err(Reason::CustodyDenied)),
            (&path, "s", "/botx/send", Err(Reason::PlaceholderUnresolved)),
        ];
        for (location, secret, given, expected) in table {
            assert_eq!(target(location, secret, given), expected.map(str::to_owned), "{secret:?} {given}");
        }
        let whole = Location::Path("/{secret}".parse().unwrap());
        for dots in [".", "..", "..;x"] {
            assert_eq!(target(&whole, dots, "/PH"), Err(Reason::CustodyDenied), "{dots}");
        }
    }

    #[test]
    fn a_secret_in_json_leaves_every_other_byte_what_it_was() {
        let location = Location::Json("/auth/token".parse().unwrap());
        let held = std::str::from_utf8(HELD).unwrap();
        let body = format!(
            " {{\"n\" :1e400,\r\n\t\"big\":12345678901234567890123, \"auth\":{{\"token\": \"{held}\"}} , \"é\":\"\\u00e9\" }}\n"
        );
        for secret in ["plain", "q\"uo\\te", "\u{1}\n\u{1f}\u{7f}é\u{1f600}/"] {
            let exchanged = Exchanged { placeholder: HELD, secret: secret.as_bytes() };
            let filled = in_body(&location, &exchanged, body.as_bytes()).unwrap();
            let (before, after) = body.split_once(held).unwrap();
            let inside = filled.strip_prefix(before.as_bytes()).unwrap().strip_suffix(after.as_bytes()).unwrap();
            let read: String = serde_json::from_slice(&[b"\"", inside, b"\""].concat()).unwrap();
            assert_eq!(read, secret);
        }
        let exchanged = Exchanged { placeholder: HELD, secret: b"\xff" };
        assert_eq!(in_body(&location, &exchanged, body.as_bytes()).unwrap_err().reason, Reason::CustodyDenied);
    }

    #[test]
    fn a_secret_in_a_form_is_read_as_the_secret_alone() {
        let location = Location::Form("client_secret".parse().unwrap());
        let body = [b"a=1+2&client_secret=", HELD, b"&b=%zz"].concat();
        let exchanged = Exchanged { placeholder: HELD, secret: b"a b+c&d=\xff" };
        let filled = in_body(&location, &exchanged, &body).unwrap();
        assert_eq!(&filled[..], b"a=1+2&client_secret=a%20b%2Bc%26d%3D%FF&b=%zz");
        let twice = [b"client_secret=", HELD, b"&client_secret=x"].concat();
        assert_eq!(in_body(&location, &exchanged, &twice).unwrap_err().reason, Reason::PlaceholderUnresolved);
    }
}
