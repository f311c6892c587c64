//! A URL that may be fetched. Two spellings of one URL are equal here, or one of them is none.

use std::fmt;
use std::str::FromStr;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};

use crate::{BadHost, Endpoint, Host, Port, Scheme};

/// The longest URL, in bytes: a URL is also what leaves, and what a page needs is shorter.
pub const LONGEST_URL: usize = 2048;

/// What stands encoded in a path and a query, so that one spelling is left.
const ENCODED: &AsciiSet = &CONTROLS.add(b'"').add(b'<').add(b'>').add(b'^').add(b'`').add(b'{').add(b'|').add(b'}');

/// An https URL of a named host, without user, password and fragment. `http://` on its own port is read as https: nothing
/// is fetched in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WebUrl {
    host: Host,
    port: Port,
    /// The path, its dots resolved.
    path: String,
    /// The query with its question mark; empty for none.
    query: String,
}

/// Why a text is no URL that may be fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadWebUrl {
    /// Too long.
    #[error("longer than {LONGEST_URL} bytes")]
    TooLong,
    /// Neither https:// nor http://, or http on a port of its own.
    #[error("must begin with https://")]
    Scheme,
    /// A space, a control character or a backslash, which readers of URLs disagree about.
    #[error("holds a space, a control character or a backslash")]
    Character,
    /// A name or password.
    #[error("must not hold a user name or password")]
    Userinfo,
    /// The host is none.
    #[error("the host: {0}")]
    Host(#[from] BadHost),
    /// The host is an address.
    #[error("the host must be a name, not an address")]
    Address,
    /// The port is none.
    #[error("the port must be a number from 1 to 65535")]
    Port,
}

impl WebUrl {
    /// The host: always a name.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// The path, without the query.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// What is asked for at the host.
    #[must_use]
    pub fn path_and_query(&self) -> String {
        format!("{}{}", self.path, self.query)
    }

    /// Who is dialled.
    #[must_use]
    pub fn endpoint(&self) -> Endpoint {
        Endpoint { scheme: Scheme::Https, host: self.host.clone(), port: self.port, base_path: String::new() }
    }

    /// The URL that a reference in a document at this one means: a redirect's `Location`, a link.
    ///
    /// # Errors
    /// It leads to nothing that may be fetched.
    pub fn join(&self, reference: &str) -> Result<Self, BadWebUrl> {
        let reference = reference.trim();
        let origin = format!("https://{}", self.host.authority(Scheme::Https, self.port));
        if has_scheme(reference) {
            return reference.parse();
        }
        match reference.as_bytes().first() {
            _ if reference.starts_with("//") => format!("https:{reference}").parse(),
            Some(b'/') => format!("{origin}{reference}").parse(),
            Some(b'?') => format!("{origin}{}{reference}", self.path).parse(),
            Some(b'#') | None => Ok(self.clone()),
            Some(_) => {
                let directory = self.path.rfind('/').map_or("/", |at| &self.path[..=at]);
                format!("{origin}{directory}{reference}").parse()
            }
        }
    }
}

impl FromStr for WebUrl {
    type Err = BadWebUrl;

    fn from_str(text: &str) -> Result<Self, BadWebUrl> {
        if text.len() > LONGEST_URL {
            return Err(BadWebUrl::TooLong);
        }
        let (scheme, rest) = split_scheme(text).ok_or(BadWebUrl::Scheme)?;
        if rest.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(BadWebUrl::Character);
        }
        let rest = rest.split_once('#').map_or(rest, |(before, _)| before);
        let (authority, tail) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
        if authority.contains('@') {
            return Err(BadWebUrl::Userinfo);
        }
        let (host, port) = split_port(authority, scheme)?;
        let host: Host = host.parse()?;
        if host.name().is_none() {
            return Err(BadWebUrl::Address);
        }
        let (path, query) = tail.find('?').map_or((tail, ""), |at| tail.split_at(at));
        let url = Self { host, port, path: resolved(&encoded(path)), query: encoded(query) };
        if url.to_string().len() > LONGEST_URL { Err(BadWebUrl::TooLong) } else { Ok(url) }
    }
}

impl fmt::Display for WebUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}{}", self.host.authority(Scheme::Https, self.port), self.path, self.query)
    }
}

fn split_scheme(text: &str) -> Option<(Scheme, &str)> {
    let (scheme, rest) = text.split_once("://")?;
    match () {
        () if scheme.eq_ignore_ascii_case("https") => Some((Scheme::Https, rest)),
        () if scheme.eq_ignore_ascii_case("http") => Some((Scheme::Http, rest)),
        () => None,
    }
}

fn split_port(authority: &str, scheme: Scheme) -> Result<(&str, Port), BadWebUrl> {
    let Some((host, port)) = authority.rsplit_once(':').filter(|(_, port)| !port.ends_with(']')) else {
        return Ok((authority, Scheme::Https.default_port()));
    };
    // `parse` would take a sign.
    let number = port.bytes().all(|byte| byte.is_ascii_digit()).then(|| port.parse().ok()).flatten();
    let port = number.and_then(Port::new).ok_or(BadWebUrl::Port)?;
    match scheme {
        Scheme::Http if port == Scheme::Http.default_port() => Ok((host, Scheme::Https.default_port())),
        Scheme::Http => Err(BadWebUrl::Scheme),
        Scheme::Https => Ok((host, port)),
    }
}

/// Whether a reference names a scheme of its own.
fn has_scheme(reference: &str) -> bool {
    let end = reference.find(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-')));
    end.is_some_and(|end| end > 0 && reference[end..].starts_with(':') && reference.as_bytes()[0].is_ascii_alphabetic())
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, ENCODED).to_string()
}

/// The path without `.` and `..`, however these are written.
fn resolved(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    let mut ends_open = false;
    for segment in path.split('/').skip(1) {
        let plain = segment.to_ascii_lowercase().replace("%2e", ".");
        ends_open = matches!(plain.as_str(), "." | "..");
        match plain.as_str() {
            "." => {}
            ".." => drop(segments.pop()),
            _ => segments.push(segment),
        }
    }
    let end = if ends_open && !segments.is_empty() { "/" } else { "" };
    format!("/{}{end}", segments.join("/"))
}
