//! One request over a connection of its own, to a place for which there is a permit: within its time, up to a number of bytes, no redirect followed.

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::BodyExt;
use postern_policy::{Denial, Reason, RoutePermit};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::{
    body::Body,
    gateway::Gateway,
    phases::{address, forward},
};

/// An answer, as far as it was read.
pub(super) struct Answer {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// May hold tokens.
    pub(super) body: Zeroizing<Vec<u8>>,
    /// Whether it is all of it.
    pub(super) whole: bool,
}

/// Sends it and reads the answer until it ends, is longer than `most`, or `enough` of it is there.
pub(super) async fn send(
    gateway: &Gateway,
    permit: &RoutePermit,
    mut request: Request<Body>,
    patience: Duration,
    most: usize,
    enough: impl Fn(&HeaderMap, &[u8]) -> bool,
) -> Result<Answer, Denial> {
    let (patience, most) = match postern_danger::off!("renewal-bounds") {
        true => (patience * 10, most * 100),
        false => (patience, most),
    };
    let host = permit.host().authority(permit.scheme(), permit.port());
    let host = HeaderValue::try_from(host).map_err(|_| Denial::new(Reason::RequestMalformed))?;
    let headers = request.headers_mut();
    headers.insert(header::HOST, host);
    headers.insert(header::USER_AGENT, HeaderValue::from_static("postern-gateway"));
    // An encoding would only have to be taken off again to be scrubbed.
    headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let sent = async {
        let addresses = address::look_up(gateway, permit).await?;
        let mut connection = forward::connect(gateway, permit, &addresses).await?;
        let unanswered = |error: hyper::Error| {
            let reason = if error.is_parse() { Reason::UpstreamProtocol } else { Reason::UpstreamUnreachable };
            Denial::new(reason)
        };
        let response = connection.sender.send_request(request).await.map_err(unanswered)?;
        let (parts, mut incoming) = response.into_parts();
        // Never more than this is allocated, so no former buffer with a token in it is left behind.
        let mut body = Zeroizing::new(Vec::with_capacity(most));
        let mut whole = true;
        while let Some(frame) = incoming.frame().await {
            let Ok(data) = frame.map_err(unanswered)?.into_data() else { continue };
            let taken = data.len().min(most - body.len());
            body.extend_from_slice(&data[..taken]);
            whole = taken == data.len();
            if !whole || enough(&parts.headers, &body) {
                break;
            }
        }
        Ok(Answer { status: parts.status, headers: parts.headers, body, whole })
    };
    timeout(patience, sent).await.unwrap_or_else(|_| Err(Denial::new(Reason::Timeout)))
}

/// Whether the body is as it stands, with no encoding around it.
pub(super) fn is_plain(headers: &HeaderMap) -> bool {
    let encodings = headers.get_all(header::CONTENT_ENCODING).iter();
    encodings.into_iter().all(|encoding| encoding.as_bytes().eq_ignore_ascii_case(b"identity"))
}
