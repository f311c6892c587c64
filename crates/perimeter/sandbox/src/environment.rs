//! The closed environment of a sandbox: a fixed list, the certificate and proxy variables, then what the zone adds. Nothing is inherited.

use crate::sandbox::PROXY_PORT;
use crate::spec::Spec;

/// The whole trust bundle inside: the session's authority and, where connections pass uninspected, the host's.
pub(crate) const BUNDLE: &str = "/etc/postern/ca-certificates.crt";
/// The session's authority alone, for programs that add one to their own list.
pub(crate) const SESSION_CA: &str = "/etc/postern/session-ca.crt";

/// All variables, the zone's last and winning.
pub(crate) fn variables(spec: &Spec) -> Vec<(String, String)> {
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
    if spec.packages.is_some() {
        // The system's own packages are out of reach: what pip installs goes over them, for this session.
        variables.push(("PIP_BREAK_SYSTEM_PACKAGES", "1"));
    }
    if !spec.ca_certificate_pem.is_empty() {
        for name in ["SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO", "PIP_CERT", GRPC_ROOTS]
        {
            variables.push((name, BUNDLE));
        }
        variables.push(("NODE_EXTRA_CA_CERTS", SESSION_CA));
    }
    let mut variables: Vec<(String, String)> =
        variables.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    for (name, value) in &spec.environment {
        variables.retain(|(existing, _)| existing != name);
        variables.push((name.clone(), value.clone()));
    }
    variables
}

/// gRPC's own libraries bring authorities of their own, and trust others only by this.
const GRPC_ROOTS: &str = "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::{Root, Trust};

    fn spec(ca_certificate_pem: &str, environment: &[(&str, &str)]) -> Spec {
        let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        Spec {
            session: "sesn_1".into(),
            workspace: "/nowhere".into(),
            kernel_uid: None,
            memory_bytes: 1 << 30,
            cpus: 1.0,
            processes: 64,
            disk_bytes: 1 << 30,
            system: Root::default(),
            packages: None,
            given: None,
            outputs: None,
            memories: Vec::new(),
            mounts: Vec::new(),
            devices: Vec::new(),
            kept: Vec::new(),
            environment,
            ca_certificate_pem: ca_certificate_pem.into(),
            trust: Trust::default(),
            require: Vec::new(),
        }
    }

    #[test]
    fn what_the_zone_adds_wins_and_nothing_is_there_twice() {
        let variables = variables(&spec("PEM", &[("TERM", "xterm"), ("LEDGER_API_KEY", "pstn")]));
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
        assert!(variables(&spec("", &[])).iter().all(|(_, value)| !value.contains("postern/")));
    }
}
