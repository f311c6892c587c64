//! Hosts that a variable's value may go to: what is one, and which list lies within another.

use std::net::Ipv4Addr;

use crate::Problem;

/// The most hosts of one credential.
pub const MAX_ALLOWED_HOSTS: usize = 16;
const MAX_NAME: usize = 253;

/// Hosts in lower case, when each is a bare name, an IPv4 address or a `*.` wildcard.
///
/// # Errors
/// 400 naming the entry, without repeating it.
pub fn allowed_hosts(hosts: Vec<String>) -> Result<Vec<String>, Problem> {
    if !(1..=MAX_ALLOWED_HOSTS).contains(&hosts.len()) {
        let message = format!("must have 1 to {MAX_ALLOWED_HOSTS} entries");
        return Err(Problem::invalid_at("auth.networking.allowed_hosts", message));
    }
    let mut checked: Vec<String> = Vec::with_capacity(hosts.len());
    for (index, host) in hosts.iter().enumerate() {
        let host = host.to_ascii_lowercase();
        if !is_host(&host) {
            return Err(Problem::invalid_at(
                &format!("auth.networking.allowed_hosts[{index}]"),
                "must be a bare hostname, an IPv4 address or `*.` before a hostname: no URL, port, path or IPv6 address",
            ));
        }
        if !checked.contains(&host) {
            checked.push(host);
        }
    }
    Ok(checked)
}

/// Whether each host of `inner` lies within `outer`; `*` stands for every host, `*.` for subdomains.
pub fn covers(outer: &[String], inner: &[String]) -> bool {
    inner.iter().all(|host| outer.iter().any(|pattern| matches(pattern, host)))
}

fn matches(pattern: &str, host: &str) -> bool {
    let within = |suffix: &str| {
        let host = host.strip_prefix("*.").map_or(host, |rest| rest);
        host.strip_suffix(suffix).is_some_and(|label| label.ends_with('.'))
    };
    match pattern.strip_prefix("*.") {
        _ if pattern == "*" || pattern == host => true,
        Some(suffix) => host.parse::<Ipv4Addr>().is_err() && within(suffix),
        None => false,
    }
}

fn is_host(host: &str) -> bool {
    if host.parse::<Ipv4Addr>().is_ok() {
        return true;
    }
    let name = host.strip_prefix("*.").unwrap_or(host);
    let labels: Vec<&str> = name.split('.').collect();
    // A last label of digits would be read as an address by some and as a name by others.
    let numeric = labels.last().is_some_and(|label| label.bytes().all(|byte| byte.is_ascii_digit()));
    let wildcard_of_one_label = host.starts_with("*.") && labels.len() < 2;
    name.len() <= MAX_NAME && !numeric && !wildcard_of_one_label && labels.iter().all(|label| is_label(label))
}

fn is_label(label: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    (1..=63).contains(&label.len()) && label.bytes().all(plain) && !label.starts_with('-') && !label.ends_with('-')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_bare() {
        for host in ["api.example.com", "API.example.com", "localhost", "192.0.2.1", "*.example.com", "a-b.c_d.io"] {
            assert!(allowed_hosts(vec![host.to_owned()]).is_ok(), "{host}");
        }
        for host in [
            "",
            "*",
            "*.com",
            "*.*.com",
            "a.*.com",
            "https://a.com",
            "a.com:443",
            "a.com/x",
            "a.com.",
            "::1",
            "[::1]",
            "a b.com",
            "-a.com",
            "1.2.3",
            "1.2.3.4.5",
            "user@a.com",
            "b\u{fc}cher.de",
        ] {
            assert!(allowed_hosts(vec![host.to_owned()]).is_err(), "{host}");
        }
    }

    #[test]
    fn hosts_are_few_at_least_one_lower_case_and_each_once() {
        let hosts = |count: usize| (0..count).map(|n| format!("h{n}.example.com")).collect::<Vec<_>>();
        assert!(allowed_hosts(hosts(0)).is_err());
        assert!(allowed_hosts(hosts(16)).is_ok());
        assert!(allowed_hosts(hosts(17)).is_err());
        let twice = allowed_hosts(vec!["A.example.com".into(), "a.example.com".into()]);
        assert_eq!(twice, Ok(vec!["a.example.com".to_owned()]));
    }

    #[test]
    fn a_list_covers_what_lies_within_it() {
        let list = |hosts: &[&str]| hosts.iter().map(|host| (*host).to_owned()).collect::<Vec<_>>();
        for (outer, inner, expected) in [
            (&["*"][..], &["a.com", "*.b.com", "1.2.3.4"][..], true),
            (&["a.com", "b.com"], &["b.com"], true),
            (&["a.com"], &["b.com"], false),
            (&["a.com"], &["*"], false),
            (&["*.a.com"], &["x.a.com"], true),
            (&["*.a.com"], &["x.y.a.com"], true),
            (&["*.a.com"], &["*.x.a.com"], true),
            (&["*.a.com"], &["*.a.com"], true),
            (&["*.a.com"], &["a.com"], false),
            (&["*.x.a.com"], &["*.a.com"], false),
            (&["*.a.com"], &["xa.com"], false),
            (&["x.a.com"], &["*.a.com"], false),
        ] {
            assert_eq!(covers(&list(outer), &list(inner)), expected, "{outer:?} over {inner:?}");
        }
    }
}
