//! Phase: where a connection or request was meant to go, as one host and port. All that names a destination must
//! agree: redirected address, TLS name, request target and Host header. Resolves nothing.

use std::{net::SocketAddr, sync::PoisonError};

use http::{HeaderMap, Version, header::HOST, request::Parts, uri::Authority};
use postern_policy::{CanonicalPath, Denial, Host, Method, Port, Reason, Scheme, Upgrade};

use crate::{names::Meaning, session::Session, websocket::handshake};

/// One host and port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// The host.
    pub(crate) host: Host,
    /// The port.
    pub(crate) port: Port,
}

/// How the requests of a connection get their destination.
#[derive(Debug, Clone)]
pub(crate) enum Expected {
    /// The connection was made to it.
    Named(Named),
    /// Each request names its own: the explicit proxy.
    Stated,
}

/// What a request asks for, all names in agreement.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    /// Where it goes.
    pub(crate) named: Named,
    /// With or without TLS.
    pub(crate) scheme: Scheme,
    /// Its method.
    pub(crate) method: Method,
    /// Its path.
    pub(crate) path: CanonicalPath,
    /// Its query, raw.
    pub(crate) query: Option<String>,
    /// What it asks its connection to become.
    pub(crate) upgrade: Upgrade,
    /// Whether the target held a name or password.
    pub(crate) userinfo: bool,
}

/// The destination of a redirected connection.
pub(crate) fn destination(session: &Session, original: SocketAddr) -> Result<Named, Denial> {
    let port = Port::new(original.port()).ok_or_else(|| Denial::new(Reason::PortNotAllowed))?;
    let names = session.names.lock().unwrap_or_else(PoisonError::into_inner);
    let host = match names.meaning(original.ip()) {
        Meaning::Name(name) => name.parse().map_err(|_| Denial::new(Reason::HostMalformed))?,
        Meaning::Raw => Host::from(original.ip()),
        Meaning::Unassigned => return Err(Denial::new(Reason::RawAddress)),
    };
    Ok(Named { host, port })
}

/// The destination that a CONNECT names. A synthetic address stands for its name here too.
pub(crate) fn connect_target(session: &Session, target: &Authority) -> Result<Named, Denial> {
    let malformed = || Denial::new(Reason::RequestMalformed);
    if target.as_str().contains('@') {
        return Err(malformed());
    }
    let port = target.port_u16().ok_or_else(malformed)?;
    let host: Host = target.host().parse().map_err(|_| Denial::new(Reason::HostMalformed))?;
    match host.address() {
        Some(address) => destination(session, SocketAddr::new(address, port)),
        None => Ok(Named { host, port: Port::new(port).ok_or_else(malformed)? }),
    }
}

/// What a request asks for, once everything in it that names a destination agrees with `expected`.
pub(crate) fn request(expected: &Expected, scheme: Scheme, parts: &Parts) -> Result<Asked, Denial> {
    let upgrade = handshake::wish(parts)?;
    let stated = stated_authority(parts, scheme)?;
    let hosted = hosted_authority(parts, scheme, stated.is_some())?;
    let named = match (expected, stated) {
        (Expected::Named(named), stated) => {
            agree(named, stated.as_ref().unwrap_or(named))?;
            named.clone()
        }
        (Expected::Stated, Some(stated)) => stated,
        (Expected::Stated, None) => {
            return Err(Denial::advising(
                Reason::RequestMalformed,
                "send the proxy an absolute http:// URL or CONNECT",
            ));
        }
    };
    if let Some(hosted) = hosted {
        agree(&named, &hosted)?;
    }
    Ok(Asked {
        named,
        scheme,
        method: method(parts, upgrade)?,
        path: path(parts)?,
        query: parts.uri.query().map(str::to_owned),
        upgrade,
        userinfo: parts.uri.authority().is_some_and(|authority| authority.as_str().contains('@')),
    })
}

/// A WebSocket is asked for by GET; over HTTP/2 that has another name (RFC 8441, section 5).
fn method(parts: &Parts, upgrade: Upgrade) -> Result<Method, Denial> {
    match upgrade {
        Upgrade::WebSocket => "GET",
        Upgrade::None => parts.method.as_str(),
    }
    .parse()
    .map_err(|_| Denial::new(Reason::RequestMalformed))
}

fn path(parts: &Parts) -> Result<CanonicalPath, Denial> {
    match parts.uri.path() {
        // An absolute URL without a path means the root (RFC 9112, section 3.2.2).
        "" => "/",
        path => path,
    }
    .parse()
    .map_err(|_| Denial::new(Reason::PathAmbiguous))
}

fn agree(one: &Named, other: &Named) -> Result<(), Denial> {
    if one == other || postern_danger::off!("egress-authority") {
        Ok(())
    } else {
        Err(Denial::new(Reason::AuthorityMismatch))
    }
}

/// The authority of an absolute-form target.
fn stated_authority(parts: &Parts, scheme: Scheme) -> Result<Option<Named>, Denial> {
    let Some(stated) = parts.uri.authority() else {
        return Ok(None);
    };
    if parts.uri.scheme_str() != Some(scheme.as_str()) {
        return Err(Denial::advising(Reason::AuthorityMismatch, "use CONNECT for https through the proxy"));
    }
    let without_userinfo = stated.as_str().rsplit('@').next().unwrap_or_default();
    authority(without_userinfo, scheme).map(Some)
}

/// The authority of the Host header. In HTTP/2 `:authority` stands in its place (RFC 9113, section 8.3.1), so there it
/// may be missing, and must agree all the same where it is not.
fn hosted_authority(parts: &Parts, scheme: Scheme, stated: bool) -> Result<Option<Named>, Denial> {
    if parts.version == Version::HTTP_2 && stated && !parts.headers.contains_key(HOST) {
        return Ok(None);
    }
    authority(host_header(&parts.headers)?, scheme).map(Some)
}

/// The one Host header. More than one, or none, can be read in two ways.
fn host_header(headers: &HeaderMap) -> Result<&str, Denial> {
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (Some(host), None) => host.to_str().map_err(|_| Denial::new(Reason::RequestMalformed)),
        _ => Err(Denial::advising(Reason::RequestMalformed, "send exactly one Host header")),
    }
}

fn authority(text: &str, scheme: Scheme) -> Result<Named, Denial> {
    let malformed = || Denial::new(Reason::RequestMalformed);
    let (host, port) = match text.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => {
            let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
            let number = digits.then(|| port.parse().ok()).flatten().ok_or_else(malformed)?;
            (host, Port::new(number).ok_or_else(malformed)?)
        }
        _ => (text, scheme.default_port()),
    };
    let host = host.parse().map_err(|_| Denial::new(Reason::HostMalformed))?;
    Ok(Named { host, port })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(host: &str, port: u16) -> Named {
        Named { host: host.parse().unwrap(), port: Port::new(port).unwrap() }
    }

    fn ask(expected: &Expected, scheme: Scheme, target: &str, hosts: &[&str]) -> Result<Asked, Reason> {
        let mut request = http::Request::builder().uri(target);
        for host in hosts {
            request = request.header("host", *host);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        super::request(expected, scheme, &parts).map_err(|denial| denial.reason)
    }

    #[test]
    fn every_name_in_a_request_must_agree() {
        let api = Expected::Named(named("api.example", 443));
        let odd = Expected::Named(named("api.example", 8443));
        type Row<'a> = (&'a Expected, Scheme, &'a str, &'a [&'a str], Option<Reason>);
        let table: &[Row<'_>] = &[
            (&api, Scheme::Https, "/v1", &["api.example"], None),
            (&api, Scheme::Https, "/v1", &["API.example.:443"], None),
            (&odd, Scheme::Https, "/v1", &["api.example:8443"], None),
            (&odd, Scheme::Https, "/v1", &["api.example"], Some(Reason::AuthorityMismatch)),
            (&api, Scheme::Https, "/v1", &["evil.example"], Some(Reason::AuthorityMismatch)),
            (&api, Scheme::Https, "/v1", &["api.example:80"], Some(Reason::AuthorityMismatch)),
            (&api, Scheme::Https, "/v1", &[], Some(Reason::RequestMalformed)),
            (&api, Scheme::Https, "/v1", &["api.example", "api.example"], Some(Reason::RequestMalformed)),
            (&api, Scheme::Https, "/v1", &["user@api.example"], Some(Reason::HostMalformed)),
            (&api, Scheme::Https, "/v1", &["api.example:4x3"], Some(Reason::RequestMalformed)),
            (&api, Scheme::Https, "/v1", &["api.example:+443"], Some(Reason::RequestMalformed)),
            (&api, Scheme::Https, "https://api.example/v1", &["api.example"], None),
            (&api, Scheme::Https, "https://evil.example/v1", &["api.example"], Some(Reason::AuthorityMismatch)),
            (&api, Scheme::Https, "https://api.example/v1", &["evil.example"], Some(Reason::AuthorityMismatch)),
            (&api, Scheme::Https, "http://api.example/v1", &["api.example"], Some(Reason::AuthorityMismatch)),
            (&api, Scheme::Https, "/a/../b", &["api.example"], Some(Reason::PathAmbiguous)),
            (&Expected::Stated, Scheme::Http, "http://api.example/v1", &["api.example"], None),
            (
                &Expected::Stated,
                Scheme::Http,
                "http://api.example/v1",
                &["evil.example"],
                Some(Reason::AuthorityMismatch),
            ),
            (
                &Expected::Stated,
                Scheme::Http,
                "https://api.example/v1",
                &["api.example"],
                Some(Reason::AuthorityMismatch),
            ),
            (&Expected::Stated, Scheme::Http, "/v1", &["api.example"], Some(Reason::RequestMalformed)),
        ];
        for (expected, scheme, target, hosts, reason) in table {
            let outcome = ask(expected, *scheme, target, hosts).err();
            assert_eq!(outcome, *reason, "{scheme} {target} {hosts:?}");
        }
    }

    #[test]
    fn userinfo_in_the_target_is_noticed() {
        let asked = ask(&Expected::Stated, Scheme::Http, "http://u:p@api.example/v1", &["api.example"]).unwrap();
        assert!(asked.userinfo);
        assert_eq!(asked.named, named("api.example", 80));
    }
}
