//! Endpoints that issue new credentials: their answers would hold secrets that nobody can scrub, so a credential of
//! ours is not injected there. The list is data (`data/credential_minting.txt`).

use crate::{CanonicalPath, Host, Method, PathGlob};
use std::sync::LazyLock;

#[derive(Debug)]
struct Endpoint {
    method: &'static str,
    host: &'static str,
    path: PathGlob,
    reason: &'static str,
}

static ENDPOINTS: LazyLock<Vec<Endpoint>> = LazyLock::new(|| {
    crate::data::lines(include_str!("../data/credential_minting.txt"))
        .map(|line| {
            let ([method, host, path], reason) =
                crate::data::columns(line).expect("the shipped list is read whole by a test");
            let path = path.to_ascii_lowercase().parse().expect("the shipped globs are read by a test");
            Endpoint { method, host, path, reason }
        })
        .collect()
});

/// Why this endpoint is on the reviewed list, where it is.
#[must_use]
pub fn minted_at(host: &Host, method: &Method, path: &CanonicalPath) -> Option<&'static str> {
    let path = as_routers_read_it(path);
    ENDPOINTS
        .iter()
        .find(|endpoint| {
            let method_matches = endpoint.method == "*" || endpoint.method == method.as_str();
            method_matches && host_matches(endpoint.host, host) && endpoint.path.covers(&path)
        })
        .map(|endpoint| endpoint.reason)
}

/// Routers commonly take `/token/` and `/token;a=b` for `/token`, and some of them `/Token`: rather one path too many.
fn as_routers_read_it(path: &CanonicalPath) -> CanonicalPath {
    let segments = path.as_str().split('/').map(|segment| segment.split(';').next().unwrap_or_default());
    let text = segments.collect::<Vec<_>>().join("/").to_ascii_lowercase();
    let text = text.strip_suffix('/').filter(|shorter| !shorter.is_empty()).unwrap_or(&text);
    text.parse().unwrap_or_else(|_| path.clone())
}

fn host_matches(pattern: &str, host: &Host) -> bool {
    if pattern == "*" {
        return true;
    }
    let Some(name) = host.name() else {
        return false;
    };
    let (mut labels, mut patterns) = (name.rsplit('.'), pattern.rsplit('.').peekable());
    while let Some(wanted) = patterns.next() {
        let last = patterns.peek().is_none();
        match labels.next() {
            Some(_) if wanted == "*" && last => return true,
            Some(label) if wanted == "*" || wanted == label => {}
            _ => return false,
        }
    }
    labels.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn minted(host: &str, method: &str, path: &str) -> bool {
        minted_at(&host.parse().unwrap(), &method.parse().unwrap(), &path.parse().unwrap()).is_some()
    }

    #[test]
    fn endpoints_that_issue_credentials_are_known_by_method_host_and_path() {
        let table = [
            ("idp.internal", "POST", "/oauth/token", true),
            ("idp.internal", "POST", "/oauth/token/", true),
            ("idp.internal", "POST", "/OAuth/Token", true),
            ("idp.internal", "POST", "/oauth;x=1/token;a=b", true),
            ("idp.internal", "POST", "/oauth/token;/", true),
            ("idp.internal", "POST", "/oauth/token;x", true),
            ("idp.internal", "GET", "/oauth/token", false),
            ("idp.internal", "POST", "/oauth/tokens", false),
            ("sts.amazonaws.com", "GET", "/", true),
            ("sts.eu-central-1.amazonaws.com", "POST", "/", true),
            ("s3.eu-central-1.amazonaws.com", "PUT", "/object", false),
            ("api.github.com", "POST", "/app/installations/1/access_tokens", true),
            ("iam.googleapis.com", "POST", "/v1/projects/p/serviceAccounts/s/keys", true),
            ("api.github.com", "GET", "/user/keys", false),
            ("api.github.com", "GET", "/repos/a/b/contents/x", false),
            ("github.com.evil.example", "POST", "/login/oauth/access_token", false),
        ];
        for (host, method, path, expected) in table {
            assert_eq!(minted(host, method, path), expected, "{method} {host}{path}");
        }
    }

    #[test]
    fn every_entry_is_the_first_to_match_some_request() {
        for endpoint in ENDPOINTS.iter() {
            let host = if endpoint.host == "*" { "some.example".to_owned() } else { endpoint.host.replace('*', "x") };
            let method = if endpoint.method == "*" { "POST" } else { endpoint.method };
            let path = endpoint.path.to_string().replace("**", "deep/er").replace('*', "x");
            let reason = minted_at(&host.parse().unwrap(), &method.parse().unwrap(), &path.parse().unwrap());
            assert_eq!(reason, Some(endpoint.reason), "{method} {host}{path}");
            assert!(endpoint.reason.len() > 8);
        }
    }
}
