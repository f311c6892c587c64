//! The handshakes of a WebSocket: what a sandbox may ask (RFC 6455 over HTTP/1.1, RFC 8441 over HTTP/2), what the
//! upstream is asked in its place, always over HTTP/1.1, and whether it agreed.

use base64::Engine;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, Version, header, request::Parts};
use hyper::ext::Protocol;
use postern_policy::{Denial, Reason, Upgrade};

/// A handshake that the sandbox began.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Handshake {
    /// Over HTTP/1.1, to be answered with this proof.
    Http1(HeaderValue),
    /// Over HTTP/2, which needs none.
    Http2,
}

/// What a request asks its connection to become.
///
/// # Errors
/// It asks for something that is not carried, or not in the way of the RFC.
pub(crate) fn wish(parts: &Parts) -> Result<Upgrade, Denial> {
    handshake(parts).map(|begun| begun.map_or(Upgrade::None, |_| Upgrade::WebSocket))
}

/// The handshake in a request, if it is one.
///
/// # Errors
/// As for [`wish`].
pub(crate) fn handshake(parts: &Parts) -> Result<Option<Handshake>, Denial> {
    if parts.method == Method::CONNECT {
        return extended(parts).map(Some);
    }
    let headers = &parts.headers;
    let asks = headers.contains_key(header::UPGRADE)
        || headers.contains_key("http2-settings")
        || mentions(headers, &header::CONNECTION, "upgrade");
    if asks { upgrade(parts).map(Some) } else { Ok(None) }
}

/// RFC 8441, section 5.
fn extended(parts: &Parts) -> Result<Handshake, Denial> {
    let protocol = parts.extensions.get::<Protocol>().map(Protocol::as_str);
    let websocket = parts.version == Version::HTTP_2 && protocol == Some(WEBSOCKET);
    if websocket && only(&parts.headers, &header::SEC_WEBSOCKET_VERSION) == Some(VERSION) {
        Ok(Handshake::Http2)
    } else {
        Err(Denial::new(Reason::UpgradeRefused))
    }
}

/// RFC 6455, section 4.1.
fn upgrade(parts: &Parts) -> Result<Handshake, Denial> {
    let headers = &parts.headers;
    let websocket = parts.method == Method::GET
        && parts.version == Version::HTTP_11
        && !headers.contains_key("http2-settings")
        && mentions(headers, &header::CONNECTION, "upgrade")
        && only(headers, &header::UPGRADE).is_some_and(|named| named.eq_ignore_ascii_case(WEBSOCKET));
    if !websocket {
        return Err(Denial::new(Reason::UpgradeRefused));
    }
    let whole = only(headers, &header::SEC_WEBSOCKET_VERSION) == Some(VERSION)
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && only(headers, &header::CONTENT_LENGTH).unwrap_or("0") == "0";
    let key = only(headers, &header::SEC_WEBSOCKET_KEY).filter(|key| is_key(key));
    match key {
        Some(key) if whole => Ok(Handshake::Http1(proof(key))),
        _ => Err(Denial::advising(Reason::RequestMalformed, "send a WebSocket handshake of RFC 6455, version 13")),
    }
}

/// Turns a head into the upstream's handshake; answers the key that it sends.
///
/// # Errors
/// Without random numbers.
pub(crate) fn ask(headers: &mut HeaderMap) -> Result<String, Denial> {
    let mut random = [0; KEY_BYTES];
    fill(&mut random)?;
    let key = base64::engine::general_purpose::STANDARD.encode(random);
    // No extension is agreed to: what is compressed could not be read.
    headers.remove(header::SEC_WEBSOCKET_EXTENSIONS);
    headers.remove(header::CONTENT_LENGTH);
    headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
    headers.insert(header::SEC_WEBSOCKET_VERSION, HeaderValue::from_static(VERSION));
    headers.insert(header::SEC_WEBSOCKET_KEY, HeaderValue::try_from(&key).map_err(|_| no_random())?);
    Ok(key)
}

/// Checks that the upstream agreed to what it was asked with `key`, and to nothing else.
///
/// # Errors
/// It did not.
pub(crate) fn agreed<B>(response: &Response<B>, key: &str) -> Result<(), Denial> {
    let headers = response.headers();
    let sound = response.status() == StatusCode::SWITCHING_PROTOCOLS
        && only(headers, &header::UPGRADE).is_some_and(|named| named.eq_ignore_ascii_case(WEBSOCKET))
        && mentions(headers, &header::CONNECTION, "upgrade")
        && headers.get_all(header::SEC_WEBSOCKET_ACCEPT).iter().eq([&proof(key)]);
    if !sound {
        return Err(Denial::advising(
            Reason::UpstreamUnreachable,
            "the upstream does not answer like a WebSocket server",
        ));
    }
    if headers.contains_key(header::SEC_WEBSOCKET_EXTENSIONS) {
        return Err(Denial::advising(
            Reason::EncodingUnsupported,
            "the upstream wants an extension of WebSocket that it was not asked for",
        ));
    }
    Ok(())
}

/// The head of the answer to the sandbox, from the upstream's scrubbed headers.
pub(crate) fn answer(handshake: &Handshake, mut headers: HeaderMap) -> Response<()> {
    headers.remove(header::SEC_WEBSOCKET_ACCEPT);
    let mut response = Response::new(());
    match handshake {
        Handshake::Http1(proof) => {
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
            headers.insert(header::UPGRADE, HeaderValue::from_static(WEBSOCKET));
            headers.insert(header::SEC_WEBSOCKET_ACCEPT, proof.clone());
        }
        Handshake::Http2 => *response.status_mut() = StatusCode::OK,
    }
    *response.headers_mut() = headers;
    response
}

/// Fills with random bytes.
///
/// # Errors
/// When the system has none.
pub(crate) fn fill(bytes: &mut [u8]) -> Result<(), Denial> {
    aws_lc_rs::rand::fill(bytes).map_err(|_| no_random())
}

fn no_random() -> Denial {
    Denial::advising(Reason::UpstreamUnreachable, "the proxy has no random numbers; tell the operator")
}

/// What proves that a server understood a key (RFC 6455, section 4.2.2).
fn proof(key: &str) -> HeaderValue {
    let digest = aws_lc_rs::digest::digest(
        &aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY,
        format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11").as_bytes(),
    );
    let text = base64::engine::general_purpose::STANDARD.encode(digest);
    HeaderValue::try_from(text).expect("base64 is visible ASCII")
}

fn is_key(key: &str) -> bool {
    base64::engine::general_purpose::STANDARD.decode(key).is_ok_and(|random| random.len() == KEY_BYTES)
}

/// The value of a header that stands there once.
fn only<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().ok().map(str::trim),
        _ => None,
    }
}

fn mentions(headers: &HeaderMap, name: &HeaderName, token: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|value| value.trim().eq_ignore_ascii_case(token))
}

const WEBSOCKET: &str = "websocket";
const VERSION: &str = "13";
const KEY_BYTES: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

    fn parts(method: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().method(method).uri("/chat");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn the_proof_is_the_rfc_s() {
        assert_eq!(proof(KEY), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn a_handshake_is_the_rfc_s_or_refused() {
        let sound = [
            ("connection", "keep-alive, Upgrade"),
            ("upgrade", "WebSocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", KEY),
        ];
        assert_eq!(wish(&parts("GET", &[])).unwrap(), Upgrade::None);
        assert_eq!(handshake(&parts("GET", &sound)).unwrap(), Some(Handshake::Http1(proof(KEY))));
        let instead = |name: &str, value: &'static str| {
            sound.map(|(field, was)| (field, if field == name { value } else { was })).to_vec()
        };
        let and = |name: &'static str, value: &'static str| [&sound[..], &[(name, value)]].concat();
        let table = [
            ("POST", sound.to_vec(), Reason::UpgradeRefused),
            ("CONNECT", sound.to_vec(), Reason::UpgradeRefused),
            ("GET", instead("upgrade", "h2c"), Reason::UpgradeRefused),
            ("GET", instead("upgrade", "websocket, h2c"), Reason::UpgradeRefused),
            ("GET", instead("connection", "close"), Reason::UpgradeRefused),
            ("GET", and("upgrade", "h2c"), Reason::UpgradeRefused),
            ("GET", and("http2-settings", "AAMAAABkAAQAAP__"), Reason::UpgradeRefused),
            ("GET", vec![("connection", "upgrade")], Reason::UpgradeRefused),
            ("GET", instead("sec-websocket-version", "8"), Reason::RequestMalformed),
            ("GET", instead("sec-websocket-key", "short"), Reason::RequestMalformed),
            ("GET", and("sec-websocket-key", KEY), Reason::RequestMalformed),
            ("GET", and("content-length", "5"), Reason::RequestMalformed),
            ("GET", and("transfer-encoding", "chunked"), Reason::RequestMalformed),
        ];
        for (method, headers, reason) in table {
            assert_eq!(
                wish(&parts(method, &headers)).map_err(|denial| denial.reason),
                Err(reason),
                "{method} {headers:?}"
            );
        }
    }

    #[test]
    fn an_answer_agrees_to_the_key_that_was_sent_or_to_nothing() {
        let mut asked = HeaderMap::new();
        asked.insert("sec-websocket-extensions", HeaderValue::from_static("permessage-deflate"));
        let key = ask(&mut asked).unwrap();
        assert!(is_key(&key) && !asked.contains_key("sec-websocket-extensions"));
        let answering = |status: u16, more: &[(&str, &str)]| {
            let mut response =
                Response::builder().status(status).header("connection", "Upgrade").header("upgrade", "websocket");
            for (name, value) in more {
                response = response.header(*name, *value);
            }
            agreed(&response.body(()).unwrap(), &key).map_err(|denial| denial.reason)
        };
        let proof = proof(&key);
        let proof = proof.to_str().unwrap();
        assert_eq!(answering(101, &[("sec-websocket-accept", proof)]), Ok(()));
        let refused = Err(Reason::UpstreamUnreachable);
        assert_eq!(answering(200, &[("sec-websocket-accept", proof)]), refused);
        assert_eq!(answering(101, &[]), refused);
        assert_eq!(answering(101, &[("sec-websocket-accept", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=")]), refused);
        assert_eq!(answering(101, &[("sec-websocket-accept", proof), ("sec-websocket-accept", proof)]), refused);
        let compressed = [("sec-websocket-accept", proof), ("sec-websocket-extensions", "permessage-deflate")];
        assert_eq!(answering(101, &compressed), Err(Reason::EncodingUnsupported));
    }
}
