//! What a body says it is. Only what says so in one way, and is not encoded, has places in it.

use http::{HeaderMap, header};

/// A kind of body that has places for a placeholder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BodyKind {
    /// `application/json`, or a type that ends in `+json`.
    Json,
    /// `application/x-www-form-urlencoded`.
    Form,
}

impl BodyKind {
    /// The kind that the headers state: one content-type, in UTF-8 where it names a charset, and no encoding.
    #[must_use]
    pub fn stated(headers: &HeaderMap) -> Option<Self> {
        let mut types = headers.get_all(header::CONTENT_TYPE).iter();
        let (Some(only), None) = (types.next(), types.next()) else {
            return None;
        };
        let mut parts = only.to_str().ok()?.split(';').map(|part| part.trim().to_ascii_lowercase());
        let kind = Self::named(&parts.next()?)?;
        let plain = headers.get_all(header::CONTENT_ENCODING).iter().all(|value| value == "identity");
        (plain && parts.all(|parameter| is_utf8(&parameter))).then_some(kind)
    }

    fn named(essence: &str) -> Option<Self> {
        match essence {
            "application/json" => Some(Self::Json),
            "application/x-www-form-urlencoded" => Some(Self::Form),
            other => (other.starts_with("application/") && other.ends_with("+json")).then_some(Self::Json),
        }
    }
}

/// Any parameter but the usual charset may mean another reading.
fn is_utf8(parameter: &str) -> bool {
    matches!(parameter, "" | "charset=utf-8" | "charset=\"utf-8\"" | "charset=utf8")
}
