//! URLs of MCP servers and token endpoints, in the one form under which they are compared (contract 8.2).

use std::net::Ipv6Addr;

use crate::Problem;

const MAX_URL: usize = 2048;

/// An MCP server's URL with scheme and host in lower case, without default port and trailing slashes.
///
/// # Errors
/// 400 when it is no http or https URL, or has a user, a fragment, or characters that belong encoded.
pub fn normalise_mcp_url(url: &str) -> Result<String, Problem> {
    normalise(url).map_err(|why| Problem::invalid_at("auth.mcp_server_url", why))
}

/// A token endpoint, checked like an MCP server's URL and kept as written.
///
/// # Errors
/// 400, as for [`normalise_mcp_url`].
pub fn token_endpoint(url: &str) -> Result<(), Problem> {
    normalise(url).map(|_| ()).map_err(|why| Problem::invalid_at("auth.refresh.token_endpoint", why))
}

fn normalise(url: &str) -> Result<String, &'static str> {
    if url.len() > MAX_URL {
        return Err("must have at most 2048 characters");
    }
    if !url.bytes().all(|byte| byte.is_ascii_graphic()) || url.contains(['\\', '<', '>', '"', '{', '}', '|', '^', '`'])
    {
        return Err("must be a URL: plain ASCII, everything else percent-encoded");
    }
    let (scheme, rest) = url.split_once("://").ok_or("must be an http or https URL")?;
    let scheme = scheme.to_ascii_lowercase();
    let default_port = match scheme.as_str() {
        "https" => "443",
        "http" => "80",
        _ => return Err("must be an http or https URL"),
    };
    if rest.contains('#') {
        return Err("must not have a fragment");
    }
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at(end);
    if authority.contains('@') {
        return Err("must not carry a user or a password");
    }
    let (host, port) = split_port(authority)?;
    let port = match port {
        None => String::new(),
        Some(port) if port == default_port => String::new(),
        Some(port) => format!(":{port}"),
    };
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let query = query.map(|query| format!("?{query}")).unwrap_or_default();
    Ok(format!("{scheme}://{}{port}{}{query}", host.to_ascii_lowercase(), path.trim_end_matches('/')))
}

/// Host and port; the port without leading zeros.
fn split_port(authority: &str) -> Result<(&str, Option<String>), &'static str> {
    let (host, port) = match authority.strip_prefix('[') {
        Some(rest) => {
            let (inner, after) = rest.split_once(']').ok_or("has a broken host")?;
            inner.parse::<Ipv6Addr>().map_err(|_| "has a broken host")?;
            let port = match after {
                "" => None,
                after => Some(after.strip_prefix(':').ok_or("has a broken host")?),
            };
            (&authority[..inner.len() + 2], port)
        }
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._[]:".contains(&byte);
    if host.is_empty() || !host.bytes().all(plain) {
        return Err("has a broken host");
    }
    let number = |port: &str| match port.parse::<u16>() {
        Ok(number) if number > 0 && port.bytes().all(|byte| byte.is_ascii_digit()) => Ok(number.to_string()),
        Ok(_) | Err(_) => Err("has a broken port"),
    };
    Ok((host, port.filter(|port| !port.is_empty()).map(number).transpose()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_the_same_server_normalises_to_the_same_text() {
        for (url, expected) in [
            ("https://Wiki.Example.com/mcp", "https://wiki.example.com/mcp"),
            ("HTTPS://wiki.example.com:443/mcp/", "https://wiki.example.com/mcp"),
            ("https://wiki.example.com", "https://wiki.example.com"),
            ("https://wiki.example.com//", "https://wiki.example.com"),
            ("https://wiki.example.com:0443/mcp", "https://wiki.example.com/mcp"),
            ("https://wiki.example.com:8443/MCP", "https://wiki.example.com:8443/MCP"),
            ("http://10.0.0.1:80/mcp", "http://10.0.0.1/mcp"),
            ("http://[::1]:80/mcp", "http://[::1]/mcp"),
            ("https://a.com/mcp?Tenant=1", "https://a.com/mcp?Tenant=1"),
            ("https://a.com?x=/", "https://a.com?x=/"),
        ] {
            assert_eq!(normalise(url), Ok(expected.to_owned()), "{url}");
            assert_eq!(normalise(expected), Ok(expected.to_owned()), "again: {expected}");
        }
    }

    #[test]
    fn what_is_no_plain_url_is_refused() {
        for url in [
            "",
            "wiki.example.com",
            "ftp://a.com",
            "https://",
            "https:///mcp",
            "https://user:pass@a.com/mcp",
            "https://a.com/mcp#x",
            "https://a.com:0/mcp",
            "https://a.com:x/mcp",
            "https://a.com:70000",
            "https://a b.com",
            "https://a.com/\u{e9}",
            "https://a.com\\@b.com",
            "https://[::1/mcp",
            "https://[zz]/mcp",
        ] {
            assert!(normalise(url).is_err(), "{url:?}");
        }
        assert!(normalise(&format!("https://a.com/{}", "a".repeat(2048))).is_err());
    }
}
