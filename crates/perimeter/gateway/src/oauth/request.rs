//! The refresh request (RFC 6749, 6): its form and how the client says who it is (2.3.1), with the resource indicator of RFC 8707.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use postern_model::vault::TokenEndpointAuth;
use postern_policy::{Denial, Reason, TokenEndpoint};
use postern_secret::{
    SecretBytes,
    seal::{Binding, RefreshTerms},
};
use zeroize::Zeroizing;

use crate::body::{self, Body};

/// The request. Endpoint, client, how it says who it is and the resource are those that the credential is sealed for; the scope is the server's word.
pub(super) fn refresh(
    endpoint: &TokenEndpoint,
    sealed: &Binding,
    scope: Option<&str>,
    refresh_token: &SecretBytes,
    client_secret: Option<&SecretBytes>,
) -> Result<Request<Body>, Denial> {
    let mut form = Form::new();
    form.pair("grant_type", b"refresh_token");
    form.pair("refresh_token", exposed(refresh_token));
    let client_id = sealed.client_id.as_deref().unwrap_or_default();
    let unbound = || Denial::new(Reason::CredentialKindUnsupported);
    let RefreshTerms { auth, resource } = sealed.refresh.as_ref().ok_or_else(unbound)?;
    for (name, value) in [("scope", scope), ("resource", resource.as_deref())] {
        if let Some(value) = value {
            form.pair(name, value.as_bytes());
        }
    }
    let unauthenticated = || Denial::advising(Reason::RefreshRefused, "update the credential's `client_secret`");
    let mut basic = None;
    match TokenEndpointAuth::parse(auth).ok_or_else(unbound)? {
        TokenEndpointAuth::None {} => form.pair("client_id", client_id.as_bytes()),
        TokenEndpointAuth::ClientSecretPost {} => {
            form.pair("client_id", client_id.as_bytes());
            form.pair("client_secret", exposed(client_secret.ok_or_else(unauthenticated)?));
        }
        TokenEndpointAuth::ClientSecretBasic {} => {
            basic = Some(authorization(client_id, client_secret.ok_or_else(unauthenticated)?)?);
        }
    }
    let malformed = || Denial::new(Reason::RequestMalformed);
    let mut request = Request::new(body::full(Bytes::from_owner(form.0)));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = endpoint.target.parse().map_err(|_| malformed())?;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    if let Some(basic) = basic {
        headers.insert(header::AUTHORIZATION, basic);
    }
    Ok(request)
}

/// Both halves are encoded as in a form before they are joined (2.3.1).
fn authorization(client_id: &str, client_secret: &SecretBytes) -> Result<HeaderValue, Denial> {
    let mut pair = Form::new();
    pair.encode(client_id.as_bytes());
    pair.0.push(b':');
    pair.encode(exposed(client_secret));
    let text = Zeroizing::new(format!("Basic {}", Zeroizing::new(STANDARD.encode(&*pair.0)).as_str()));
    let mut value = HeaderValue::from_str(&text).map_err(|_| Denial::new(Reason::RequestMalformed))?;
    value.set_sensitive(true);
    Ok(value)
}

/// `application/x-www-form-urlencoded`, zeroed when it is sent.
struct Form(Zeroizing<Vec<u8>>);

impl Form {
    /// With room for the longest values, so that no former buffer is left behind.
    fn new() -> Self {
        Self(Zeroizing::new(Vec::with_capacity(ROOM)))
    }

    fn pair(&mut self, name: &str, value: &[u8]) {
        if !self.0.is_empty() {
            self.0.push(b'&');
        }
        self.0.extend_from_slice(name.as_bytes());
        self.0.push(b'=');
        self.encode(value);
    }

    fn encode(&mut self, value: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789ABCDEF";
        for &byte in value {
            match byte {
                b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => self.0.push(byte),
                b' ' => self.0.push(b'+'),
                _ => {
                    let (high, low) = (usize::from(byte >> 4), usize::from(byte & 15));
                    self.0.extend_from_slice(&[b'%', DIGITS[high], DIGITS[low]]);
                }
            }
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the token endpoint needs the refresh token and the client's secret")]
fn exposed(secret: &SecretBytes) -> &[u8] {
    secret.expose()
}

const ROOM: usize = 256 * 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whatever_stands_in_a_value_adds_no_pair_and_ends_no_value() {
        let mut form = Form::new();
        form.pair("a", b"x&client_id=other+ =%\n\xff");
        form.pair("b", "ü*-._".as_bytes());
        assert_eq!(&*form.0, b"a=x%26client_id%3Dother%2B+%3D%25%0A%FF&b=%C3%BC*-._".as_slice());
    }

    #[test]
    fn a_colon_in_a_client_id_is_no_border() {
        let value = authorization("a:b", &SecretBytes::new(b"p:q r".to_vec())).unwrap();
        assert!(value.is_sensitive());
        let text = STANDARD.decode(&value.as_bytes()["Basic ".len()..]).unwrap();
        assert_eq!(text, b"a%3Ab:p%3Aq+r");
    }
}
