//! The closed environment of a sandbox: a fixed list, the certificate and proxy variables, then what the zone adds. Nothing is inherited.

use crate::sandbox::PROXY_PORT;

/// The whole trust bundle inside: the system's authorities and the session's.
pub(crate) const BUNDLE: &str = "/etc/postern/ca-certificates.crt";
/// The session's authority alone, for programs that add one to their own list.
pub(crate) const SESSION_CA: &str = "/etc/postern/session-ca.crt";

/// All variables, the zone's last and winning.
pub(crate) fn variables(ca_present: bool, extra: &[(String, String)]) -> Vec<(String, String)> {
    let proxy = format!("http://127.0.0.1:{PROXY_PORT}");
    let mut variables: Vec<(&str, &str)> = vec![
        ("PATH", "/usr/local/bin:/usr/bin:/bin"),
        ("HOME", "/workspace/.home"),
        ("LANG", "C.UTF-8"),
        ("USER", "agent"),
        ("LOGNAME", "agent"),
        ("SHELL", "/bin/bash"),
        ("TMPDIR", "/tmp"),
        ("TERM", "dumb"),
    ];
    for name in ["HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"] {
        variables.push((name, &proxy));
    }
    for name in ["NO_PROXY", "no_proxy"] {
        variables.push((name, "localhost,127.0.0.1,::1"));
    }
    if ca_present {
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT"] {
            variables.push((name, BUNDLE));
        }
        variables.push(("NODE_EXTRA_CA_CERTS", SESSION_CA));
    }
    let mut variables: Vec<(String, String)> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for (name, value) in extra {
        variables.retain(|(existing, _)| existing != name);
        variables.push((name.clone(), value.clone()));
    }
    variables
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_zone_adds_wins_and_nothing_is_there_twice() {
        let variables = variables(true, &[("TERM".into(), "xterm".into()), ("LEDGER_API_KEY".into(), "pstn".into())]);
        assert_eq!(
            variables.iter().filter(|(name, _)| name == "TERM").map(|(_, value)| value.as_str()).collect::<Vec<_>>(),
            ["xterm"]
        );
        let mut names: Vec<_> = variables.iter().map(|(name, _)| name).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), variables.len());
    }

    #[test]
    fn without_an_authority_no_program_is_pointed_to_one() {
        assert!(variables(false, &[]).iter().all(|(_, value)| !value.contains("postern/")));
    }
}
