//! Repositories that sessions are given: their URLs, and what a repository's token may be used for. A token goes to its own repository, by
//! Git's own requests, as a password: nothing that a zone says widens that.

use crate::credential::{BasicPart, CredentialName, Location};
use crate::permit::Permit;
use crate::reason::{Denial, Reason};
use crate::request::Request;
use crate::{BadHost, BadPath, CanonicalPath, Host, Method, Port, Scheme};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The name under which Cedar knows every token of a repository. No credential of a zone can have it.
pub(crate) const ANY_TOKEN: &str = "repository:token";
/// Where a token may stand, and nowhere else.
pub(crate) const PLACES: &[Location] = &[Location::Basic(BasicPart::Password)];
const LONGEST: usize = 2048;

/// The URL of a Git repository as it is fetched by: https or http, a host, a path, and nothing else. Read from whatever git takes that names a host: what
/// is written for SSH or for git's own protocol is fetched by https, since a token goes by nothing else and the exit of a sandbox sees no other requests.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryUrl {
    scheme: Scheme,
    host: Host,
    port: Port,
    path: CanonicalPath,
}

/// Why a text is no URL of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRepositoryUrl {
    /// Another scheme, or none, or a path on some disk.
    #[error("must name a repository on a host: https://, http://, ssh:// or git:// and a host, or user@host:path")]
    Scheme,
    /// More than 2,048 bytes.
    #[error("must be at most 2048 bytes")]
    TooLong,
    /// A user name or password: a token has a field of its own.
    #[error("must not hold a user name or password: a token goes into authorization_token")]
    Userinfo,
    /// A query or a fragment.
    #[error("must not have a query or a fragment")]
    Tail,
    /// The host is malformed.
    #[error("has a host that is none: {0}")]
    Host(#[from] BadHost),
    /// The port is not a number from 1 to 65535.
    #[error("has a port that is no number from 1 to 65535")]
    Port,
    /// A port of SSH's or of git's own protocol, which says nothing of where https answers.
    #[error("has a port of another protocol, and is fetched by https: write the https:// URL with its port")]
    OtherPort,
    /// The path is malformed.
    #[error("has a path that cannot be used: {0}")]
    Path(#[from] BadPath),
    /// There is no path: a host is no repository.
    #[error("must name a repository: https://<host>/<owner>/<repository>")]
    NoPath,
}

impl RepositoryUrl {
    /// How it is fetched.
    #[must_use]
    pub fn scheme(&self) -> Scheme {
        self.scheme
    }

    /// Its host.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }

    /// Its port.
    #[must_use]
    pub fn port(&self) -> Port {
        self.port
    }

    /// What the repository is called: the last segment, without `.git`.
    #[must_use]
    pub fn name(&self) -> &str {
        let last = self.path.as_str().rsplit('/').next().unwrap_or_default();
        last.strip_suffix(".git").filter(|name| !name.is_empty()).unwrap_or(last)
    }
}

impl FromStr for RepositoryUrl {
    type Err = BadRepositoryUrl;

    fn from_str(text: &str) -> Result<Self, BadRepositoryUrl> {
        if text.len() > LONGEST {
            return Err(BadRepositoryUrl::TooLong);
        }
        let Written { form, authority, path } = Written::read(text)?;
        if path.contains(['?', '#']) || authority.contains(['?', '#']) {
            return Err(BadRepositoryUrl::Tail);
        }
        let (host, port) = read_authority(form.without_user(authority)?)?;
        let scheme = form.fetched_by();
        let port = match (port, form.own_port()) {
            (None, _) => scheme.default_port(),
            (Some(port), None) => port,
            (Some(port), Some(own)) if port.number() == own => scheme.default_port(),
            (Some(_), Some(_)) => return Err(BadRepositoryUrl::OtherPort),
        };
        let path = path.trim_start_matches(|start| start == '/' && form == Form::Copy);
        let path = path.strip_suffix('/').unwrap_or(path);
        if path.is_empty() {
            return Err(BadRepositoryUrl::NoPath);
        }
        Ok(Self { scheme, host, port, path: format!("/{path}").parse()? })
    }
}

/// How a repository's place can be written (git-clone(1), "GIT URLS").
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Web(Scheme),
    /// `ssh://user@host:22/path`.
    Ssh,
    /// `git://host:9418/path`.
    Git,
    /// `user@host:path`, as scp has it.
    Copy,
}

const FORMS: &[(&str, Form)] = &[
    ("https", Form::Web(Scheme::Https)),
    ("http", Form::Web(Scheme::Http)),
    ("ssh", Form::Ssh),
    ("git+ssh", Form::Ssh),
    ("ssh+git", Form::Ssh),
    ("git", Form::Git),
];

impl Form {
    fn fetched_by(self) -> Scheme {
        match self {
            Self::Web(scheme) => scheme,
            Self::Ssh | Self::Git | Self::Copy => Scheme::Https,
        }
    }

    /// The port that means nothing but the protocol it is written for.
    fn own_port(self) -> Option<u16> {
        match self {
            Self::Web(_) => None,
            Self::Ssh | Self::Copy => Some(22),
            Self::Git => Some(9418),
        }
    }

    /// SSH's user is git for everybody, and no secret; a password is one.
    fn without_user(self, authority: &str) -> Result<&str, BadRepositoryUrl> {
        match (authority.rsplit_once('@'), self) {
            (None, _) => Ok(authority),
            (Some((user, host)), Self::Ssh | Self::Copy) if !user.contains([':', '@', '[', ']']) => Ok(host),
            (Some(_), _) => Err(BadRepositoryUrl::Userinfo),
        }
    }
}

/// A text, taken apart.
struct Written<'t> {
    form: Form,
    authority: &'t str,
    path: &'t str,
}

impl<'t> Written<'t> {
    fn read(text: &'t str) -> Result<Self, BadRepositoryUrl> {
        if let Some((scheme, rest)) = text.split_once("://") {
            let known = FORMS.iter().find(|(name, _)| name.eq_ignore_ascii_case(scheme));
            let (_, form) = known.ok_or(BadRepositoryUrl::Scheme)?;
            let (authority, path) = rest.split_once('/').ok_or(BadRepositoryUrl::NoPath)?;
            return Ok(Self { form: *form, authority, path });
        }
        // A colon within brackets is an address's; git takes what has a slash before the colon for a path.
        let bracketed = text.find(']').filter(|_| text.contains('[')).unwrap_or(0);
        let colon = text[bracketed..].find(':').map(|at| bracketed + at).ok_or(BadRepositoryUrl::Scheme)?;
        let (authority, path) = (&text[..colon], &text[colon + 1..]);
        if authority.contains('/') || path.starts_with(':') {
            // A path on a disk; what git hands to a helper program (gitremote-helpers(7)).
            return Err(BadRepositoryUrl::Scheme);
        }
        if path.split('/').next().is_some_and(|first| first.contains('@')) {
            return Err(BadRepositoryUrl::Userinfo);
        }
        // A port of something else, where the scheme was forgotten.
        let first = path.split('/').next().unwrap_or_default();
        if !authority.contains('@') && !first.is_empty() && first.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(BadRepositoryUrl::Scheme);
        }
        Ok(Self { form: Form::Copy, authority, path })
    }
}

fn read_authority(authority: &str) -> Result<(Host, Option<Port>), BadRepositoryUrl> {
    let Some((host, port)) = authority.rsplit_once(':').filter(|(_, port)| !port.contains(']')) else {
        return Ok((authority.parse()?, None));
    };
    let digits = port.bytes().all(|byte| byte.is_ascii_digit());
    let port = port.parse().ok().filter(|_| digits).and_then(Port::new).ok_or(BadRepositoryUrl::Port)?;
    Ok((host.parse()?, Some(port)))
}

impl fmt::Display for RepositoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { scheme, host, port, path } = self;
        write!(f, "{scheme}://{}{}", host.authority(*scheme, *port), path.as_str())
    }
}

impl TryFrom<String> for RepositoryUrl {
    type Error = BadRepositoryUrl;
    fn try_from(text: String) -> Result<Self, BadRepositoryUrl> {
        text.parse()
    }
}

impl From<RepositoryUrl> for String {
    fn from(url: RepositoryUrl) -> Self {
        url.to_string()
    }
}

/// What a session's token is for: its name in the session, and its repository.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepositoryToken {
    credential: CredentialName,
    url: RepositoryUrl,
}

impl RepositoryToken {
    /// How their names begin. A colon is in no name that a zone gives.
    pub const NAMES: &'static str = "repository:";

    /// Of the resource with this id.
    #[must_use]
    pub fn new(resource: &str, url: RepositoryUrl) -> Self {
        Self { credential: CredentialName::new(format!("{}{resource}", Self::NAMES)), url }
    }

    /// Its name in the session: of no credential of any zone.
    #[must_use]
    pub fn credential(&self) -> &CredentialName {
        &self.credential
    }

    /// Its repository.
    #[must_use]
    pub fn url(&self) -> &RepositoryUrl {
        &self.url
    }

    /// Whether it may go with what was permitted.
    ///
    /// # Errors
    /// The refusal: it goes to its own repository, by Git's own requests.
    pub fn admits(&self, permit: &Permit) -> Result<(), Denial> {
        let asked = Asked {
            host: permit.host(),
            port: permit.port(),
            scheme: permit.scheme(),
            method: permit.method(),
            path: permit.path(),
        };
        self.judge(&asked).map_err(|denial| denial.by(permit.rule()))
    }

    pub(crate) fn admits_request(&self, request: &Request) -> Result<(), Denial> {
        let Request { host, port, scheme, method, path, .. } = request;
        self.judge(&Asked { host, port: *port, scheme: *scheme, method, path })
    }

    fn judge(&self, asked: &Asked<'_>) -> Result<(), Denial> {
        let RepositoryUrl { scheme, host, port, path } = &self.url;
        let reason = if asked.host != host {
            Reason::PlaceholderWrongHost
        } else if asked.port != *port {
            Reason::PlaceholderWrongPort
        } else if asked.scheme != *scheme {
            Reason::PlaceholderWrongScheme
        } else {
            let below = asked.path.as_str().strip_prefix(path.as_str());
            let served = SERVED.iter().any(|(method, end)| asked.method.as_str() == *method && below == Some(*end));
            if served {
                return Ok(());
            }
            Reason::PathNotAllowed
        };
        let step = format!("this token is for git and {} alone: clone, fetch and push there", self.url);
        // An honest client sends it nowhere else: it is configured for this one URL.
        Err(Denial { alarm: true, ..Denial::advising(reason, step) })
    }
}

struct Asked<'a> {
    host: &'a Host,
    port: Port,
    scheme: Scheme,
    method: &'a Method,
    path: &'a CanonicalPath,
}

/// Git's smart protocol over HTTP (git's `Documentation/gitprotocol-http`): all that clone, fetch and push ask for.
const SERVED: &[(&str, &str)] = &[("GET", "/info/refs"), ("POST", "/git-upload-pack"), ("POST", "/git-receive-pack")];

#[cfg(test)]
mod tests {
    use super::*;

    fn url(text: &str) -> RepositoryUrl {
        text.parse().unwrap()
    }

    #[test]
    fn a_token_is_for_its_own_host_port_and_scheme_whatever_a_zone_allows() {
        let token = RepositoryToken::new("sesrsc_1", url("https://git.example:8443/acme/ledger"));
        let (method, path) = ("GET".parse().unwrap(), "/acme/ledger/info/refs".parse().unwrap());
        let judged = |host: &str, port: u16, scheme| {
            let (host, port) = (host.parse().unwrap(), Port::new(port).unwrap());
            let asked = Asked { host: &host, port, scheme, method: &method, path: &path };
            token.judge(&asked).map_err(|denial| (denial.reason, denial.alarm))
        };
        assert_eq!(judged("git.example", 8443, Scheme::Https), Ok(()));
        for (host, port, scheme, reason) in [
            ("other.example", 8443, Scheme::Https, Reason::PlaceholderWrongHost),
            ("git.example", 443, Scheme::Https, Reason::PlaceholderWrongPort),
            ("git.example", 8443, Scheme::Http, Reason::PlaceholderWrongScheme),
        ] {
            assert_eq!(judged(host, port, scheme), Err((reason, true)), "{host}:{port}");
        }
    }

    #[test]
    fn what_is_written_for_another_protocol_is_fetched_by_https() {
        for (text, written) in [
            ("git@github.com:acme/ledger.git", "https://github.com/acme/ledger.git"),
            ("GitHub.com:acme/ledger", "https://github.com/acme/ledger"),
            ("git@git.example:/srv/ledger.git/", "https://git.example/srv/ledger.git"),
            ("git@[::1]:acme/ledger", "https://[::1]/acme/ledger"),
            ("ssh://git@github.com/acme/ledger.git", "https://github.com/acme/ledger.git"),
            ("ssh://git@github.com:22/acme/ledger.git", "https://github.com/acme/ledger.git"),
            ("git+ssh://github.com/acme/ledger", "https://github.com/acme/ledger"),
            ("git://git.example/pub/ledger", "https://git.example/pub/ledger"),
            ("git://git.example:9418/pub/ledger", "https://git.example/pub/ledger"),
            ("http://git.example/acme/ledger", "http://git.example/acme/ledger"),
            ("http://git.example:3000/acme/ledger/", "http://git.example:3000/acme/ledger"),
            ("http://git.example:80/acme/ledger", "http://git.example/acme/ledger"),
            ("HTTPS://github.com/a/b", "https://github.com/a/b"),
        ] {
            let url = url(text);
            assert_eq!(url.to_string(), written, "{text}");
            assert_eq!(url, written.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn a_token_for_a_url_in_the_clear_is_for_that_alone() {
        let token = RepositoryToken::new("sesrsc_1", url("http://git.example/acme/ledger"));
        let (method, path) = ("GET".parse().unwrap(), "/acme/ledger/info/refs".parse().unwrap());
        let host = "git.example".parse().unwrap();
        let judged = |port: u16, scheme| {
            let asked = Asked { host: &host, port: Port::new(port).unwrap(), scheme, method: &method, path: &path };
            token.judge(&asked).map_err(|denial| denial.reason)
        };
        assert_eq!(judged(80, Scheme::Http), Ok(()));
        assert_eq!(judged(443, Scheme::Https), Err(Reason::PlaceholderWrongPort));
        assert_eq!(judged(80, Scheme::Https), Err(Reason::PlaceholderWrongScheme));
    }

    #[test]
    fn a_url_is_https_a_host_and_a_path_in_one_form() {
        for (text, written, name) in [
            ("https://github.com/acme/ledger", "https://github.com/acme/ledger", "ledger"),
            ("https://GitHub.com:443/acme/ledger.git/", "https://github.com/acme/ledger.git", "ledger"),
            ("https://git.example:8443/ledger", "https://git.example:8443/ledger", "ledger"),
            ("https://git.example/a/b/c/.git", "https://git.example/a/b/c/.git", ".git"),
            ("https://[::1]:8443/x", "https://[::1]:8443/x", "x"),
        ] {
            let url = url(text);
            assert_eq!((url.to_string().as_str(), url.name()), (written, name), "{text}");
            assert_eq!(url, written.parse().unwrap(), "{text}");
        }
    }

    #[test]
    fn what_else_a_url_may_hold_is_refused_each_for_its_reason() {
        use BadRepositoryUrl::*;
        for (text, error) in [
            ("file:///srv/git/a", Scheme),
            ("/srv/git/a", Scheme),
            ("./a:b", Scheme),
            ("ext::sh -c id", Scheme),
            ("ftp://github.com/a/b", Scheme),
            ("github.com/a/b", Scheme),
            ("ssh://git@github.com:2222/a/b", OtherPort),
            ("git://github.com:443/a/b", OtherPort),
            ("ssh://git:token@github.com/a/b", Userinfo),
            ("git:token@github.com:a/b", Userinfo),
            ("git://user@github.com/a/b", Userinfo),
            ("a@b@github.com:a/b", Userinfo),
            ("http://user:token@github.com/a/b", Userinfo),
            ("git@github.com:", NoPath),
            ("git.internal:8443/acme/ledger", Scheme),
            ("[x]@evil.example:a/b", Userinfo),
            ("ssh://[x]@evil.example/a/b", Userinfo),
            ("git@github.com:a/../b", Path(BadPath::DotSegment)),
            ("git@:a/b", Host(BadHost::Empty)),
            ("git@-oProxyCommand=id:a/b", Host(BadHost::Malformed)),
            ("https://user@github.com/a/b", Userinfo),
            ("https://user:token@github.com/a/b", Userinfo),
            ("https://github.com/a/b?x=1", Tail),
            ("https://github.com/a/b#main", Tail),
            ("https://github.com", NoPath),
            ("https://github.com/", NoPath),
            ("https://github.com/a//b", Path(BadPath::EmptySegment)),
            ("https:///a/b", Host(BadHost::Empty)),
            ("https://github.com:0/a", Port),
            ("https://github.com:+443/a", Port),
            ("https://github.com:/a", Port),
            ("https://github.com/a/../b", Path(BadPath::DotSegment)),
            ("https://github.com/a/%2e%2e/b", Path(BadPath::DotSegment)),
            ("https://github.com/a%2fb", Path(BadPath::EncodedSeparator)),
            ("https://github.com/a\\b", Path(BadPath::EncodedSeparator)),
            ("https://github.com/a b", Path(BadPath::BadCharacter)),
            ("https://github.com/a\nb", Path(BadPath::BadCharacter)),
        ] {
            assert_eq!(text.parse::<RepositoryUrl>(), Err(error), "{text:?}");
        }
        assert_eq!(format!("https://a.example/{}", "a".repeat(2048)).parse::<RepositoryUrl>(), Err(TooLong));
    }
}
