//! Credentials in a request that are not ours: an allowed host is an exfiltration channel to whoever brings a key.
//! Looks at headers, cookies, query and form keys by a reviewed list (`data/foreign_credentials.txt`); bodies are
//! not inspected otherwise (a stated limit). Never keeps or returns a value.

use crate::location::{KeyName, value_of};
use base64::Engine;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// Where a credential that is not ours was seen. Never its value.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForeignCredential {
    /// A header of the reviewed list.
    Header(String),
    /// A query key of the reviewed list.
    Query(String),
    /// A form key of the reviewed list.
    Form(String),
    /// Cookies that this upstream did not set in this session. The name is the agent's choice, so it is not kept.
    Cookie,
    /// A name or password in the URL.
    Userinfo,
}

impl std::fmt::Display for ForeignCredential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Header(name) => write!(f, "header {name}"),
            Self::Query(name) => write!(f, "query key {name}"),
            Self::Form(name) => write!(f, "form key {name}"),
            Self::Cookie => f.write_str("cookie"),
            Self::Userinfo => f.write_str("user name in the URL"),
        }
    }
}

/// What the detector looks at.
#[derive(Clone, Copy, Debug)]
pub struct Evidence<'a> {
    /// The request's headers, as received.
    pub headers: &'a http::HeaderMap,
    /// The raw query without the question mark.
    pub query: Option<&'a [u8]>,
    /// The body, where its type is application/x-www-form-urlencoded and it has been read whole.
    pub form: Option<&'a [u8]>,
    /// Whether the request target held a name or password.
    pub userinfo: bool,
    /// The placeholders of this session: a header that holds one of them, and nothing but a scheme word besides, is ours.
    pub ours: &'a [&'a str],
    /// The cookies that this upstream set in this session, as `name=value`.
    pub cookies: &'a BTreeSet<String>,
}

/// Every credential in the request that is not ours.
#[must_use]
pub fn find(evidence: &Evidence<'_>) -> Vec<ForeignCredential> {
    let mut found = foreign_headers(evidence);
    if has_foreign_cookie(evidence) {
        found.push(ForeignCredential::Cookie);
    }
    found.extend(foreign_keys(evidence.query, evidence.ours).map(ForeignCredential::Query));
    found.extend(foreign_keys(evidence.form, evidence.ours).map(ForeignCredential::Form));
    if evidence.userinfo {
        found.push(ForeignCredential::Userinfo);
    }
    found
}

fn foreign_headers(evidence: &Evidence<'_>) -> Vec<ForeignCredential> {
    let listed = LIST.iter().filter(|(kind, ..)| *kind == Kind::Header);
    let foreign = listed.filter(|(_, name, _)| {
        let values =
            evidence.headers.iter().filter(|(sent, _)| same_header(sent.as_str(), name)).map(|(_, value)| value);
        values.into_iter().any(|value| !value.is_empty() && !is_ours(value.as_bytes(), evidence.ours))
    });
    foreign.map(|(_, name, _)| ForeignCredential::Header((*name).to_owned())).collect()
}

/// Gateways hand `X_Api_Key` and `X-Api-Key` to their programs under one name.
pub(crate) fn same_header(sent: &str, listed: &str) -> bool {
    sent.len() == listed.len()
        && sent.bytes().zip(listed.bytes()).all(|(sent, listed)| sent == listed || (sent == b'_' && listed == b'-'))
}

/// Whether a header value is one of our placeholders and nothing else: alone, after a scheme word, or as a half of
/// Basic. Anything beside it could be a key that the upstream takes instead.
#[must_use]
pub fn is_ours(value: &[u8], ours: &[&str]) -> bool {
    let Ok(text) = std::str::from_utf8(value) else {
        return false;
    };
    let text = text.trim_matches([' ', '\t']);
    let is_placeholder = |text: &str| ours.contains(&text);
    match text.split_once(' ') {
        None => is_placeholder(text),
        Some((scheme, rest)) if scheme.eq_ignore_ascii_case("basic") => {
            is_our_basic(rest.trim_matches([' ', '\t']), ours)
        }
        Some((scheme, rest)) => {
            SCHEME_WORDS.iter().any(|word| scheme.eq_ignore_ascii_case(word))
                && is_placeholder(rest.trim_matches([' ', '\t']))
        }
    }
}

/// Our placeholder as the password, with any user name; or as the user name, with a password that no service reads.
fn is_our_basic(encoded: &str, ours: &[&str]) -> bool {
    let Some((username, password)) = decode_basic(encoded) else {
        return false;
    };
    let unread = matches!(password.as_str(), "" | "x-oauth-basic" | "X" | "x");
    ours.contains(&password.as_str()) || (ours.contains(&username.as_str()) && unread)
}

/// The halves of Basic credentials, where they are text.
#[must_use]
pub fn decode_basic(encoded: &str) -> Option<(String, String)> {
    let engine = base64::engine::GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        base64::engine::GeneralPurposeConfig::new()
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    let text = String::from_utf8(engine.decode(encoded).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

/// Words before a token in a header. A free word would itself be room for a key.
const SCHEME_WORDS: &[&str] = &["bearer", "token", "apikey", "api-key", "key", "genie", "pat", "bot"];

fn has_foreign_cookie(evidence: &Evidence<'_>) -> bool {
    evidence.headers.get_all(http::header::COOKIE).iter().any(|value| match value.to_str() {
        Ok(text) => text.split(';').map(str::trim).any(|pair| !pair.is_empty() && !evidence.cookies.contains(pair)),
        Err(_) => true,
    })
}

/// The listed keys, except one whose whole value is a placeholder of ours: where that may stand is decided elsewhere.
fn foreign_keys<'a>(pairs: Option<&'a [u8]>, ours: &'a [&'a str]) -> impl Iterator<Item = String> + 'a {
    pairs.into_iter().flat_map(move |pairs| {
        let foreign = move |key: String| {
            let listed = listed_in(&LIST, Kind::Key, &key)?;
            (!holds_ours(pairs, &key, ours)).then(|| listed.to_owned())
        };
        keys(pairs).filter_map(foreign)
    })
}

fn holds_ours(pairs: &[u8], key: &str, ours: &[&str]) -> bool {
    let value = key.parse::<KeyName>().ok().and_then(|key| value_of(pairs, &key));
    value.is_some_and(|at| ours.iter().any(|placeholder| placeholder.as_bytes() == &pairs[at.clone()]))
}

static LIST: LazyLock<Vec<Entry>> = LazyLock::new(|| read_list(include_str!("../data/foreign_credentials.txt")));

/// What an entry of a list names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Header,
    Key,
}

/// Kind, name in lower case, reason.
pub(crate) type Entry = (Kind, &'static str, &'static str);

pub(crate) fn read_list(text: &'static str) -> Vec<Entry> {
    crate::data::lines(text)
        .map(|line| {
            let ([kind, name], reason) = crate::data::columns(line).expect("the shipped lists are read whole by tests");
            (if kind == "header" { Kind::Header } else { Kind::Key }, name, reason)
        })
        .collect()
}

/// The list's own spelling of a key that is on it.
pub(crate) fn listed_in(list: &[Entry], kind: Kind, name: &str) -> Option<&'static str> {
    list.iter()
        .find(|(entry_kind, entry, _)| *entry_kind == kind && entry.eq_ignore_ascii_case(name))
        .map(|(_, entry, _)| *entry)
}

/// The decoded keys of a query or form. `;` separates as well: some servers take it so. `key[]` and `key[x]` are `key`.
pub(crate) fn keys(pairs: &[u8]) -> impl Iterator<Item = String> {
    pairs.split(|byte| matches!(byte, b'&' | b';')).map(|pair| {
        let key = pair.split(|byte| *byte == b'=').next().unwrap_or(pair);
        let spaced: Vec<u8> = key.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
        let decoded = percent_encoding::percent_decode(&spaced).decode_utf8_lossy().into_owned();
        decoded.split('[').next().unwrap_or(&decoded).trim().to_owned()
    })
}

#[cfg(test)]
mod tests;
