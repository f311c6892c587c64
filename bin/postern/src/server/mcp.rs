//! The MCP client of the control plane, wired to the edge.

use std::sync::Arc;

use ipnet::IpNet;
use postern_api::{Probing, TunnelFacts as Probed, TunnelProber};
use postern_edge::{Carrier, TunnelEntry};
use postern_net::tls::TlsRoots;
use postern_tunnel::carry::Carry;
use postern_tunnel::identity::Signer;
use postern_upstream::mcp::{CallerFacts, Limits, McpClient, PublicPolicy, TunnelFacts, Tunnels};
use serde_json::{Value, json};

/// The client: through this edge to private servers, directly to public ones.
pub(super) fn client(
    edge: &Arc<dyn Carrier>,
    signer: Signer,
    domain: &str,
    addresses: &[IpNet],
    roots: TlsRoots,
) -> Arc<McpClient> {
    let public = PublicPolicy { allowed: addresses.to_vec(), roots, ..PublicPolicy::default() };
    let (carry, tunnels): (Arc<dyn Carry>, Arc<dyn Tunnels>) =
        (Arc::<dyn Carrier>::clone(edge), Arc::new(Known { edge: Arc::clone(edge), domain: domain.to_owned() }));
    Arc::new(McpClient::new(carry, tunnels, signer, public, Limits::default()))
}

/// The tunnels as the edge knows them.
struct Known {
    edge: Arc<dyn Carrier>,
    domain: String,
}

impl Tunnels for Known {
    fn tunnel_of(&self, host: &str) -> Option<TunnelFacts> {
        self.edge.directory().by_host(host).map(|(entry, _)| facts(entry))
    }

    /// The workspace's only tunnel; its gateway then says whether it has such a route. Which of several was meant nobody
    /// said.
    fn tunnel_of_route(&self, workspace: &str, _url: &str) -> Option<TunnelFacts> {
        match <[TunnelEntry; 1]>::try_from(self.edge.directory().live_in(workspace)) {
            Ok([only]) => Some(facts(only)),
            Err(_none_or_several) => None,
        }
    }

    fn is_tunnel_host(&self, host: &str) -> bool {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        let below = host.strip_suffix(&self.domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'));
        below || self.tunnel_of(&host).is_some()
    }
}

fn facts(entry: TunnelEntry) -> TunnelFacts {
    TunnelFacts { id: entry.id, workspace: entry.workspace, domain: entry.domain, cas: entry.certificates }
}

/// Probes routes for the API.
pub(super) fn prober(client: Arc<McpClient>) -> Arc<dyn TunnelProber> {
    Arc::new(Prober(client))
}

struct Prober(Arc<McpClient>);

impl TunnelProber for Prober {
    fn probe(&self, tunnel: Probed, route: String) -> Probing<'_> {
        Box::pin(async move {
            let facts = CallerFacts {
                workspace: tunnel.workspace.to_string(),
                session: "probe".to_owned(),
                agent: "probe".to_owned(),
                agent_version: 1,
                definition_digest: String::new(),
                environment: "probe".to_owned(),
            };
            let report = self.0.probe(facts, &format!("https://{route}.{}/mcp", tunnel.domain)).await;
            let failure = report.failure().map_or(Value::Null, |failure| json!(failure));
            Ok(json!({"route": route, "hops": report.hops, "tools": report.tools, "failure": failure}))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use postern_edge::{Directory, Edge, Settings};

    #[test]
    fn every_name_below_the_tunnels_domain_is_a_tunnels_also_when_there_is_none() {
        let edge = Arc::new(Edge::new(Directory::new(), Settings::default()));
        let known = Known { edge, domain: "tunnel.example".to_owned() };
        for host in ["wiki.gone.tunnel.example", "tunnel.example", "WIKI.x.Tunnel.Example", "x.tunnel.example."] {
            assert!(known.is_tunnel_host(host), "{host}");
        }
        for host in ["mytunnel.example", "tunnel.example.org", "example", "x.tunnel.example.org"] {
            assert!(!known.is_tunnel_host(host), "{host}");
        }
    }
}
