//! A request's head from the sandbox's bytes to the head that leaves.

use bytes::Bytes;
use http::{Request, header, request::Parts};
use postern_policy::{Permit, Port, Scheme};

use super::{
    at_once,
    place::{PLACEHOLDER, SECRET, session},
};
use crate::{
    phases::{
        decide::{self, Form},
        forward,
        identify::{self, Asked, Expected, Named},
        inject,
        upload::Upload,
    },
    recognise::{Keyring, Recogniser},
};

/// Whatever a head says: what leaves goes where the connection went, names one host and no hop, holds no placeholder, and
/// the secret only where the zone put it.
///
/// # Panics
/// When one of these does not hold.
pub fn http_request(bytes: &[u8]) {
    let Some(parts) = head(bytes) else { return };
    let at = |host: &str, port| {
        Expected::Named(Named {
            host: host.parse().expect("a host of ours"),
            port: Port::new(port).expect("a port of ours"),
        })
    };
    for (expected, scheme) in
        [(at("api.test", 443), Scheme::Https), (at("plain.test", 80), Scheme::Http), (Expected::Stated, Scheme::Http)]
    {
        if let Some((asked, permit, leaving)) = carried(&parts, &expected, scheme) {
            check(&expected, &asked, &permit, &leaving);
        }
    }
}

/// As hyper would hand it over: the line and the headers, each as its own type takes it.
fn head(bytes: &[u8]) -> Option<Parts> {
    let mut lines = bytes.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let mut line = lines.next()?.split(|byte| *byte == b' ');
    let mut request = Request::builder().method(line.next()?).uri(line.next()?);
    for header in lines.take_while(|line| !line.is_empty()) {
        let colon = header.iter().position(|byte| *byte == b':')?;
        request = request.header(&header[..colon], header[colon + 1..].trim_ascii());
    }
    Some(request.body(()).ok()?.into_parts().0)
}

/// The phases of a request in their order, up to what would be sent.
fn carried(parts: &Parts, expected: &Expected, scheme: Scheme) -> Option<(Asked, Permit, Parts)> {
    let session = session();
    let recogniser = session.recogniser();
    decide::framed_once(&parts.headers).ok()?;
    let asked = identify::request(expected, scheme, parts).ok()?;
    let permit = decide::decide(session, &recogniser, &asked, parts, &[], &Form::None).ok()?;
    let granted = at_once(inject::grant(session, &permit));
    let mut leaving = forward::head(parts, asked.query.as_deref(), &permit, true).ok()?;
    inject::inject(&granted.ok()?, &permit, &mut leaving, Upload::Whole(Bytes::new(), None)).ok()?;
    let catalogue_only = Recogniser { keyring: Keyring::empty(), ..recogniser };
    inject::nothing_left(&catalogue_only, &leaving).ok()?;
    Some((asked, permit, leaving))
}

fn check(expected: &Expected, asked: &Asked, permit: &Permit, leaving: &Parts) {
    if let Expected::Named(named) = expected {
        assert_eq!(&asked.named, named);
    }
    assert_eq!((permit.host(), permit.port(), permit.scheme()), (&asked.named.host, asked.named.port, asked.scheme));
    let hosts: Vec<_> = leaving.headers.get_all(header::HOST).iter().collect();
    assert_eq!(hosts, [permit.host().authority(permit.scheme(), permit.port()).as_str()]);
    assert_eq!((leaving.uri.authority(), leaving.uri.path()), (None, permit.path().as_str()));
    assert!(leaving.headers.get_all(header::CONTENT_LENGTH).iter().count() <= 1, "framed once");
    let mut secrets = 0;
    for (name, value) in &leaving.headers {
        // Trailers are taken on either side, so that much of the hop is said anew.
        let said_anew = *name == header::TE && value == "trailers";
        assert!(said_anew || !forward::is_hop(name, &leaving.headers), "{name} is of the hop");
        let places = count(value.as_bytes(), SECRET.as_bytes());
        assert!(places == 0 || ["authorization", "x-api-key"].contains(&name.as_str()), "{name} holds the secret");
        secrets += places;
    }
    assert!(secrets <= permit.injections().len(), "{secrets} places");
    let target = leaving.uri.path_and_query().map_or("", |target| target.as_str());
    let rest = leaving.headers.iter().map(|(_, value)| value.as_bytes());
    for text in rest.chain([target.as_bytes(), leaving.method.as_str().as_bytes()]) {
        assert_eq!(count(text, PLACEHOLDER.as_bytes()), 0, "a placeholder leaves");
    }
    assert_eq!(count(target.as_bytes(), SECRET.as_bytes()), 0);
}

fn count(text: &[u8], part: &[u8]) -> usize {
    text.windows(part.len()).filter(|window| *window == part).count()
}
