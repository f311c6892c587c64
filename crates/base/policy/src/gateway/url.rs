//! The URL of an MCP server in the one form that URLs are compared in (contract 8.2).

use crate::{Host, Port, Scheme};

/// Why a text is no URL of an MCP server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadMcpUrl {
    /// Neither https:// nor http://.
    #[error("the URL must begin with https:// or http://")]
    Scheme,
    /// More than 2,048 bytes.
    #[error("the URL is longer than 2048 bytes")]
    TooLong,
    /// The host is malformed.
    #[error("the host of the URL: {0}")]
    Host(#[from] crate::BadHost),
    /// The port is not a number from 1 to 65535.
    #[error("the port of the URL must be a number from 1 to 65535")]
    Port,
    /// A user name or password.
    #[error("the URL must not hold a user name or password")]
    Userinfo,
    /// A fragment never reaches a server.
    #[error("the URL must not have a fragment")]
    Fragment,
    /// A control character, a blank, a backslash, or a character that must be percent-encoded.
    #[error("the URL has a character that must be percent-encoded")]
    Character,
    /// `.` or `..`, plain or encoded: some clients take them away, others send them.
    #[error("the URL has a dot segment")]
    DotSegment,
}

const LONGEST: usize = 2048;

/// Scheme and host in lower case, default port and trailing slashes dropped; path and query as they are.
///
/// # Errors
/// The text is no URL of an MCP server, or could be read in two ways.
pub fn normalise_mcp_url(text: &str) -> Result<String, BadMcpUrl> {
    if text.len() > LONGEST {
        return Err(BadMcpUrl::TooLong);
    }
    let (scheme, rest) = split_scheme(text)?;
    if rest.contains('#') {
        return Err(BadMcpUrl::Fragment);
    }
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (host, port) = read_authority(authority, scheme)?;
    if !tail.bytes().all(|byte| byte.is_ascii_graphic() && !br#"\"<>^`{|}"#.contains(&byte)) {
        return Err(BadMcpUrl::Character);
    }
    let (path, query) = tail.split_at(tail.find('?').unwrap_or(tail.len()));
    if path.split('/').any(is_dot_segment) {
        return Err(BadMcpUrl::DotSegment);
    }
    Ok(format!("{scheme}://{}{}{query}", host.authority(scheme, port), path.trim_end_matches('/')))
}

fn split_scheme(text: &str) -> Result<(Scheme, &str), BadMcpUrl> {
    let (scheme, rest) = text.split_once("://").ok_or(BadMcpUrl::Scheme)?;
    match scheme.to_ascii_lowercase().as_str() {
        "https" => Ok((Scheme::Https, rest)),
        "http" => Ok((Scheme::Http, rest)),
        _ => Err(BadMcpUrl::Scheme),
    }
}

fn read_authority(authority: &str, scheme: Scheme) -> Result<(Host, Port), BadMcpUrl> {
    if authority.contains('@') {
        return Err(BadMcpUrl::Userinfo);
    }
    let (host, port) = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => (host, read_port(port)?),
        _ => (authority, scheme.default_port()),
    };
    Ok((host.parse()?, port))
}

fn read_port(text: &str) -> Result<Port, BadMcpUrl> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let number = plain.then(|| text.parse::<u16>().ok()).flatten();
    number.and_then(Port::new).ok_or(BadMcpUrl::Port)
}

fn is_dot_segment(segment: &str) -> bool {
    let plain = segment.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}
