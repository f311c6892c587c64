//! The one request that opens a carrying connection, read strictly: whatever two parsers could read differently is refused. Pure.

use http::header::{AUTHORIZATION, CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use http::request::Parts;
use http::{HeaderName, Method, StatusCode, Version};
use postern_secret::key::{KeyDigest, TunnelToken};
use postern_tunnel::wire::{self, Lane, reason};

/// A well-formed request for a carrying connection; whether its token opens anything is not decided yet.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Knock {
    pub(crate) token: KeyDigest,
    pub(crate) lane: Lane,
    pub(crate) connector: String,
}

/// Why a connection is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    pub(crate) reason: &'static str,
    pub(crate) message: &'static str,
}

/// Reads the head of the request.
pub(crate) fn read(head: &Parts) -> Result<Knock, Refusal> {
    request_line(head)?;
    if [CONTENT_LENGTH, TRANSFER_ENCODING, EXPECT, TE, TRAILER].iter().any(|name| head.headers.contains_key(name)) {
        return Err(malformed("the request has no body and says nothing of one"));
    }
    if head.headers.keys().any(|name| name.as_str().bytes().any(|byte| byte == b'_')) {
        return Err(malformed("header names have no underscores"));
    }
    single(head, &HOST)?;
    if single(head, &UPGRADE)? != wire::PROTOCOL || !single(head, &CONNECTION)?.eq_ignore_ascii_case("upgrade") {
        return Err(malformed("the request upgrades to postern-tunnel/1"));
    }
    let lane = single(head, &HeaderName::from_static(wire::LANE))?;
    let lane = lane.parse().map_err(|_| malformed("postern-lane is interactive or bulk"))?;
    let connector = single(head, &HeaderName::from_static(wire::CONNECTOR))?;
    if !wire::is_connector_id(connector) {
        return Err(malformed("postern-connector is 8 to 64 letters, digits, - or _"));
    }
    Ok(Knock { token: token(head)?, lane, connector: connector.to_owned() })
}

fn request_line(head: &Parts) -> Result<(), Refusal> {
    let uri = &head.uri;
    let origin_form = uri.scheme().is_none() && uri.authority().is_none() && uri.query().is_none();
    if head.version != Version::HTTP_11
        || head.method != Method::GET
        || !origin_form
        || uri.path() != wire::CONNECT_PATH
    {
        return Err(Refusal {
            status: StatusCode::NOT_FOUND,
            reason: reason::REQUEST_MALFORMED,
            message: "this listener answers GET /v1/tunnels/connect of a connector and nothing else",
        });
    }
    Ok(())
}

fn token(head: &Parts) -> Result<KeyDigest, Refusal> {
    let mut values = head.headers.get_all(AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(TOKEN_MISSING) };
    let text = value.to_str().ok().and_then(|text| text.strip_prefix("Bearer ")).ok_or(TOKEN_MISSING)?;
    TunnelToken::parse(text).map(|token| token.digest()).map_err(|_| TOKEN_MISSING)
}

fn single<'a>(head: &'a Parts, name: &HeaderName) -> Result<&'a str, Refusal> {
    let mut values = head.headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (Some(value), None) => value.to_str().map_err(|_| malformed("a header is not readable text")),
        _ => Err(malformed("each header of the upgrade stands there once")),
    }
}

fn malformed(message: &'static str) -> Refusal {
    Refusal { status: StatusCode::BAD_REQUEST, reason: reason::REQUEST_MALFORMED, message }
}

/// No token, or nothing that could be one.
const TOKEN_MISSING: Refusal = Refusal {
    status: StatusCode::UNAUTHORIZED,
    reason: reason::TOKEN_MISSING,
    message: "send Authorization: Bearer pst_tun_...; `postern tunnel token TUNNEL --out FILE` writes it",
};
/// A token that opens nothing. The same for one that was rotated, revoked, archived or never issued.
pub(crate) const TOKEN_REFUSED: Refusal = Refusal {
    status: StatusCode::UNAUTHORIZED,
    reason: reason::TOKEN_REFUSED,
    message: "this token opens no tunnel: it was rotated or revoked, or its tunnel is archived; give the gateway the current one",
};
/// As many connections as a tunnel may have.
pub(crate) const CONNECTIONS_FULL: Refusal = Refusal {
    status: StatusCode::TOO_MANY_REQUESTS,
    reason: reason::CONNECTIONS_FULL,
    message: "the tunnel has as many connections as it may: stop a gateway, or wait for dead connections to be noticed",
};

#[cfg(test)]
mod tests;
