//! Request bodies: read within bounds, then parsed so that an error names its place.

use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_LENGTH};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use postern_model::Problem;
use postern_model::problem::Kind;
use serde::de::DeserializeOwned;

use crate::shape;

/// Reads a body of at most `limit` bytes.
///
/// # Errors
/// 413 when it is longer, 400 when it is encoded, slow or cut off.
pub(crate) async fn read(
    headers: &HeaderMap,
    body: axum::body::Body,
    limit: usize,
    time: Duration,
) -> Result<Bytes, Problem> {
    refuse_encoded(headers)?;
    let declared = headers.get(CONTENT_LENGTH).and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|length| length > limit as u64) {
        return Err(too_large(limit));
    }
    let collected = tokio::time::timeout(time, Limited::new(body, limit).collect()).await;
    match collected {
        Err(_) => Err(Problem::invalid("The request body did not arrive in time.").with_code("request_body_timeout")),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(limit)),
        Ok(Err(_)) => Err(Problem::invalid("The request body was cut off.")),
        Ok(Ok(body)) => Ok(body.to_bytes()),
    }
}

/// Nobody decodes what a stranger compressed.
///
/// # Errors
/// 400 `request_body_encoding_unsupported`.
pub(crate) fn refuse_encoded(headers: &HeaderMap) -> Result<(), Problem> {
    match headers.get(CONTENT_ENCODING) {
        Some(encoding) if !encoding.as_bytes().eq_ignore_ascii_case(b"identity") => {
            Err(Problem::invalid("Encoded request bodies are not supported; send the body as it is.")
                .with_code("request_body_encoding_unsupported"))
        }
        _ => Ok(()),
    }
}

/// Parses a JSON body into the type a route expects.
///
/// # Errors
/// 400 naming the path: broken UTF-8, malformed JSON, an unknown field, a wrong type, a missing field.
pub(crate) fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    parse_with(body, refused)
}

/// The same for a body that holds a secret: an error says what was expected, never what was there.
///
/// # Errors
/// As [`parse`].
pub(crate) fn parse_confidential<T: DeserializeOwned>(body: &[u8]) -> Result<T, Problem> {
    parse_with(body, refused_without_values)
}

type Refuse = fn(&serde_path_to_error::Error<serde_json::Error>) -> Problem;

fn parse_with<T: DeserializeOwned>(body: &[u8], refuse: Refuse) -> Result<T, Problem> {
    let text = std::str::from_utf8(body).map_err(|error| {
        Problem::invalid(format!("The request body is not UTF-8: the byte at offset {} is wrong.", error.valid_up_to()))
    })?;
    if text.trim().is_empty() {
        return Err(Problem::invalid("The request body is empty; a JSON object is expected."));
    }
    if !text.trim_start().starts_with('{') {
        return Err(Problem::invalid("The request body must be a JSON object."));
    }
    let mut json = serde_json::Deserializer::from_str(text);
    let value = serde_path_to_error::deserialize(&mut json).map_err(|error| refuse(&error))?;
    json.end().map_err(|error| Problem::invalid(format!("The request body has text after its JSON: {error}")))?;
    shape::check(text)?;
    Ok(value)
}

/// A body on a route that takes none: empty, or an empty object.
///
/// # Errors
/// 400 when there is anything else.
pub(crate) fn expect_none(body: &[u8]) -> Result<(), Problem> {
    let body = body.trim_ascii();
    if body.is_empty() || body == b"{}" || body == b"null" {
        return Ok(());
    }
    Err(Problem::invalid("This route takes no request body."))
}

fn refused(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (path, inner) = (error.path().to_string(), error.inner());
    if inner.is_syntax() || inner.is_eof() {
        return Problem::invalid(format!("The request body is not valid JSON: {inner}"));
    }
    match path.as_str() {
        "." => Problem::invalid(inner.to_string()),
        path => Problem::invalid_at(path, inner),
    }
}

/// The parser repeats a value of the wrong type; what it expected comes last and is ours.
fn refused_without_values(error: &serde_path_to_error::Error<serde_json::Error>) -> Problem {
    let (path, inner) = (error.path().to_string(), error.inner());
    let text = inner.to_string();
    let ours = ["missing field ", "duplicate field ", "unknown field "].iter().any(|start| text.starts_with(start));
    if inner.is_syntax() || inner.is_eof() || ours {
        return refused(error);
    }
    let expected = text.rsplit_once("expected ").map_or("another value", |(_, expected)| expected);
    Problem::invalid_at(if path == "." { "body" } else { &path }, format!("expected {expected}"))
}

fn too_large(limit: usize) -> Problem {
    Problem::new(Kind::TooLarge, format!("The request body is larger than {} MB.", limit / (1024 * 1024)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Outer {
        #[expect(dead_code, reason = "only parsed")]
        items: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Inner {
        #[expect(dead_code, reason = "only parsed")]
        name: String,
    }

    #[test]
    fn every_defect_is_a_400_that_names_its_place() {
        for (body, expected) in [
            (&b""[..], "empty"),
            (b"{", "not valid JSON"),
            (b"{\"items\":[]} x", "after its JSON"),
            (b"\xff{}", "not UTF-8"),
            (b"[[]]", "must be a JSON object"),
            (b"\"x\"", "must be a JSON object"),
            (b"{}", "missing field `items`"),
            (b"{\"items\":[{\"name\":1}]}", "items[0].name: invalid type"),
            (b"{\"items\":[{\"name\":\"a\",\"nam\":1}]}", "items[0].nam: unknown field `nam`"),
            (b"{\"items\":[{\"name\":\"\xc3\"}]}", "not UTF-8"),
        ] {
            let problem = parse::<Outer>(body).unwrap_err();
            assert_eq!(problem.status(), 400);
            assert!(problem.message.contains(expected), "{:?} should contain {expected:?}", problem.message);
        }
    }

    #[test]
    fn an_error_about_a_confidential_body_names_the_place_and_repeats_no_value() {
        for (body, expected) in [
            (&b"{\"items\":\"s3cret\"}"[..], "items: expected a sequence"),
            (b"{\"items\":[\"s3cret, expected nothing\"]}", "items[0]: expected struct Inner"),
            (b"{\"items\":[{\"name\":[\"s3cret\"]}]}", "items[0].name: expected a string"),
            (b"{\"items\":[{\"name\":53732323}]}", "items[0].name: expected a string"),
            (b"{\"items\":[{}]}", "missing field `name`"),
            (b"{\"items\":[{\"nam\":\"s3cret\"}]}", "unknown field `nam`"),
            (b"{\"items\":\"s3cret", "not valid JSON"),
            (b"\"s3cret\"", "must be a JSON object"),
        ] {
            let message = parse_confidential::<Outer>(body).unwrap_err().message;
            assert!(message.contains(expected), "{message:?} should contain {expected:?}");
            assert!(!message.contains("s3cret") && !message.contains("53732323"), "{message}");
        }
    }

    #[tokio::test]
    async fn a_longer_body_is_413_with_and_without_a_declared_length() {
        let second = Duration::from_secs(1);
        let body = || axum::body::Body::from("123456");
        let mut declared = HeaderMap::new();
        declared.insert(CONTENT_LENGTH, "6".parse().unwrap());
        for headers in [HeaderMap::new(), declared] {
            assert_eq!(read(&headers, body(), 5, second).await.unwrap_err().status(), 413);
            assert_eq!(read(&headers, body(), 6, second).await.unwrap(), "123456");
        }
    }

    #[tokio::test]
    async fn an_encoded_body_is_refused_not_misread() {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_ENCODING, "gzip".parse().unwrap());
        let problem = read(&headers, axum::body::Body::from("x"), 9, Duration::from_secs(1)).await.unwrap_err();
        assert_eq!(problem.error_code, Some("request_body_encoding_unsupported"));
    }
}
