//! What follows a request's body.

use http::{HeaderMap, HeaderName, HeaderValue, header};

use super::place::{PLACEHOLDER, SECRET, session};
use crate::{limits, phases::trailers};

/// Trailers that go on hold nothing of ours, no credential, nothing of the hop and nothing that steers a request.
///
/// # Panics
/// When one of these does not hold.
pub fn trailers(bytes: &[u8]) {
    let Some(fields) = fields(bytes) else { return };
    if trailers::inspect(&session().recogniser(), &fields).is_err() {
        return;
    }
    assert!(fields.len() <= limits::HEADER_LINES);
    let Some(leaving) = trailers::passed_on(fields.clone()) else { return };
    for (name, value) in &leaving {
        assert!(fields.get_all(name).iter().any(|before| before == value), "{name} is added");
        for ours in [SECRET, PLACEHOLDER] {
            // The library writes names small.
            let holds = |text: &[u8], ours: &str| text.windows(ours.len()).any(|window| window == ours.as_bytes());
            let named = holds(name.as_str().as_bytes(), &ours.to_ascii_lowercase());
            assert!(!holds(value.as_bytes(), ours) && !named, "{ours} goes on in {name}");
        }
    }
    let steering = [
        header::HOST,
        header::CONTENT_LENGTH,
        header::TRANSFER_ENCODING,
        header::CONNECTION,
        header::TE,
        header::UPGRADE,
        header::AUTHORIZATION,
        header::PROXY_AUTHORIZATION,
        header::COOKIE,
    ];
    assert!(steering.iter().all(|name| !leaving.contains_key(name)), "{leaving:?}");
}

/// As the library hands them over: each line a field, as its own type takes it.
fn fields(bytes: &[u8]) -> Option<HeaderMap> {
    let mut fields = HeaderMap::new();
    for line in bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let colon = line.iter().position(|byte| *byte == b':')?;
        let name = HeaderName::from_bytes(&line[..colon]).ok()?;
        fields.append(name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?);
    }
    Some(fields)
}
