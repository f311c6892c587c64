//! The MCP client of the control plane, wired to the edge of the same process.

use std::sync::Arc;

use ipnet::IpNet;
use postern_api::{Probing, TunnelFacts as Probed, TunnelProber};
use postern_edge::Edge;
use postern_net::tls::TlsRoots;
use postern_tunnel::carry::Carry;
use postern_tunnel::identity::Signer;
use postern_upstream::mcp::{CallerFacts, Limits, McpClient, PublicPolicy, TunnelFacts, Tunnels};
use serde_json::{Value, json};

use crate::failure::{Failure, Or};

/// The client: through this edge to private servers, directly to public ones.
///
/// # Errors
/// There are no certificates to trust for public servers.
pub(super) fn client(edge: &Edge, signer: Signer, addresses: &[IpNet]) -> Result<Arc<McpClient>, Failure> {
    let roots = TlsRoots::platform_and_file(None).or_misused("load trusted certificates")?;
    let public = PublicPolicy { allowed: addresses.to_vec(), roots, ..PublicPolicy::default() };
    let (carry, tunnels): (Arc<dyn Carry>, Arc<dyn Tunnels>) = (Arc::new(edge.clone()), Arc::new(Known(edge.clone())));
    Ok(Arc::new(McpClient::new(carry, tunnels, signer, public, Limits::default())))
}

/// The tunnels as the edge knows them.
struct Known(Edge);

impl Tunnels for Known {
    fn tunnel_of(&self, host: &str) -> Option<TunnelFacts> {
        let (entry, _) = self.0.directory().by_host(host)?;
        Some(TunnelFacts { id: entry.id, workspace: entry.workspace, domain: entry.domain, cas: entry.certificates })
    }
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
