//! The configuration, read: what is dialled, whom it trusts, what it shows. All problems are found at once.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::STANDARD};
use postern_net::{TlsRoots, tls};
use postern_policy::{ConfiguredPermit, Endpoint, Scheme};
use postern_secret::Secret;
use postern_secret::key::TunnelToken;
use postern_tunnel::handover::{Configuration, Proxy};
use postern_tunnel::wire::{self, Lane};
use rustls::ClientConfig;

use crate::limits;

/// Makes permits for endpoints of the configuration.
pub(crate) type Configured = fn(&Endpoint) -> ConfiguredPermit;

/// What every connection is made from.
pub(crate) struct Plan {
    pub(crate) edge: ConfiguredPermit,
    pub(crate) tls: Arc<ClientConfig>,
    pub(crate) proxy: Option<Way>,
    /// `Bearer pst_tun_...`.
    pub(crate) authorization: Secret<String>,
    /// The random id of this process.
    pub(crate) connector: String,
}

/// The way out.
pub(crate) struct Way {
    pub(crate) permit: ConfiguredPermit,
    /// `Basic ...`.
    pub(crate) authorization: Option<Secret<String>>,
}

/// Reads the configuration: the plan, and a lane for each connection that should stand.
///
/// # Errors
/// Every problem, one sentence each.
pub(crate) fn read(configuration: Configuration, configured: Configured) -> Result<(Plan, Vec<Lane>), Vec<String>> {
    let mut problems = Vec::new();
    let lanes = lanes(&configuration, &mut problems);
    let edge = note(edge(&configuration.edge), &mut problems);
    let tls = note(trust(configuration.edge_ca_pem.as_deref()), &mut problems);
    let proxy = configuration.proxy.map(|proxy| note(way(proxy, configured), &mut problems));
    let authorization = note(bearer(configuration.token.into_bytes()), &mut problems);
    let connector = note(random_id(), &mut problems);
    match (edge, tls, authorization, connector) {
        (Some(edge), Some(tls), Some(authorization), Some(connector)) if problems.is_empty() => {
            Ok((Plan { edge: configured(&edge), tls, proxy: proxy.flatten(), authorization, connector }, lanes))
        }
        _ => Err(problems),
    }
}

/// 64 random bits.
pub(crate) fn random() -> Result<u64, String> {
    let mut bytes = [0; 8];
    let filled = rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty());
    match filled {
        Ok(8) => Ok(u64::from_ne_bytes(bytes)),
        _ => Err("the system gives no random bytes".to_owned()),
    }
}

fn note<T>(read: Result<T, String>, problems: &mut Vec<String>) -> Option<T> {
    read.map_err(|problem| problems.push(problem)).ok()
}

fn lanes(configuration: &Configuration, problems: &mut Vec<String>) -> Vec<Lane> {
    let wanted = [(Lane::Interactive, configuration.interactive), (Lane::Bulk, configuration.bulk)];
    for (lane, count) in wanted {
        if !(1..=limits::CONNECTIONS).contains(&count) {
            problems.push(format!("the {lane} lane has 1 to {} connections, not {count}", limits::CONNECTIONS));
        }
    }
    wanted.into_iter().flat_map(|(lane, count)| std::iter::repeat_n(lane, count.min(limits::CONNECTIONS))).collect()
}

fn edge(url: &str) -> Result<Endpoint, String> {
    let endpoint: Endpoint = url.parse().map_err(|error| format!("the edge's URL: {error}"))?;
    if endpoint.scheme != Scheme::Https || !endpoint.base_path.is_empty() {
        return Err("the edge's URL is https://host[:port], without a path".to_owned());
    }
    Ok(endpoint)
}

fn trust(pem: Option<&str>) -> Result<Arc<ClientConfig>, String> {
    let roots = match pem {
        Some(pem) => TlsRoots::only_pem(pem.as_bytes()).map_err(|error| format!("the edge's authority: {error}"))?,
        None => TlsRoots::Platform,
    };
    tls::client_config_tls13(&roots, &[wire::ALPN]).map_err(|error| format!("trust in the edge: {error}"))
}

fn way(proxy: Proxy, configured: Configured) -> Result<Way, String> {
    let endpoint: Endpoint = proxy.url.parse().map_err(|error| format!("the proxy's URL: {error}"))?;
    if endpoint.scheme != Scheme::Http || !endpoint.base_path.is_empty() {
        return Err("the proxy's URL is http://host:port, without a path: the way to the proxy is plain, the TLS to the edge runs inside it".to_owned());
    }
    let authorization = proxy.credentials.map(|credentials| basic(credentials.into_bytes())).transpose()?;
    Ok(Way { permit: configured(&endpoint), authorization })
}

fn bearer(token: Vec<u8>) -> Result<Secret<String>, String> {
    let text = one_line(token).ok_or("the tunnel token is one line that begins with pst_tun_")?;
    TunnelToken::parse(&text).map_err(|error| format!("the tunnel token: {error}"))?;
    Ok(Secret::new(format!("Bearer {}", text.as_str())))
}

fn basic(credentials: Vec<u8>) -> Result<Secret<String>, String> {
    let text = one_line(credentials)
        .filter(|text| text.contains(':'))
        .ok_or("the proxy's credentials are one line, user:password")?;
    Ok(Secret::new(format!("Basic {}", STANDARD.encode(text.as_bytes()))))
}

/// The text of a file that holds one line.
fn one_line(bytes: Vec<u8>) -> Option<zeroize::Zeroizing<String>> {
    let text = zeroize::Zeroizing::new(String::from_utf8(bytes).ok()?);
    let line = text.trim_end_matches(['\r', '\n']);
    let fits = !line.is_empty() && line.len() <= 1024 && !line.bytes().any(|byte| byte.is_ascii_control());
    fits.then(|| zeroize::Zeroizing::new(line.to_owned()))
}

fn random_id() -> Result<String, String> {
    Ok(format!("{:016x}{:016x}", random()?, random()?))
}

#[cfg(test)]
mod tests {
    use postern_exec::WireBytes;
    use postern_policy::configured;

    use super::*;

    fn configuration() -> Configuration {
        let token = WireBytes::new(format!("{}\n", token()).into_bytes());
        Configuration::new("https://127.0.0.1:8443".to_owned(), None, token)
    }

    #[allow(clippy::disallowed_methods, reason = "the test writes the token it issued")]
    fn token() -> String {
        TunnelToken::derive(&Secret::new(vec![1; 32]), "tnl_1", 1).secret().expose().clone()
    }

    fn problems(configuration: Configuration) -> Vec<String> {
        read(configuration, configured).err().unwrap_or_default()
    }

    #[test]
    #[allow(clippy::disallowed_methods, reason = "the test looks at what would be sent")]
    fn a_configuration_is_read() {
        let proxy =
            Proxy { url: "http://127.0.0.1:3128".to_owned(), credentials: Some(WireBytes::new(b"u:p".to_vec())) };
        let (plan, lanes) =
            read(Configuration { proxy: Some(proxy), bulk: 2, ..configuration() }, configured).ok().unwrap();
        assert_eq!(lanes, [Lane::Interactive, Lane::Bulk, Lane::Bulk]);
        assert!(
            plan.authorization.expose().starts_with("Bearer pst_tun_") && !plan.authorization.expose().ends_with('\n')
        );
        assert_eq!(plan.proxy.unwrap().authorization.unwrap().expose(), "Basic dTpw");
        assert!(wire::is_connector_id(&plan.connector));
    }

    #[test]
    fn all_problems_are_named_at_once() {
        let bad = Configuration {
            edge: "http://127.0.0.1".to_owned(),
            edge_ca_pem: Some("no pem".to_owned()),
            proxy: Some(Proxy { url: "https://proxy".to_owned(), credentials: None }),
            token: WireBytes::new(b"pst_env_abc".to_vec()),
            interactive: 0,
            bulk: 99,
            drain_seconds: 0,
        };
        assert_eq!(problems(bad).len(), 6);
    }

    #[test]
    fn a_token_file_with_more_than_a_token_is_refused() {
        let good = token();
        for text in [
            String::new(),
            format!("{good}\r\nx-evil: 1"),
            format!("{good} b"),
            format!("Bearer {good}"),
            good[1..].to_owned(),
        ] {
            let token = WireBytes::new(text.as_bytes().to_vec());
            assert_eq!(problems(Configuration { token, ..configuration() }).len(), 1, "{text:?}");
        }
    }
}
