//! The MCP client as the engine uses it, and the probe of a path.

use std::sync::Arc;
use std::time::{Duration, Instant};

use postern_policy::gateway::normalise_mcp_url;
use postern_tunnel::Carry;
use postern_tunnel::identity::{Purpose, Signer};

use super::connection::{Connection, initialize, list_tools};
use super::http::Inner;
use super::probe::{Hop, HopResult, ProbeReport, hops_of_timing};
use super::reach::{ConnectTimes, PublicPolicy, Reach, Via};
use super::record::Record;
use super::target::Target;
use super::{BoxFuture, CallerFacts, Limits, Mcp, McpConnection, McpFailure, McpServer, Tunnels, VaultCredential};

/// The MCP client. `Clone` shares its connections.
#[derive(Clone)]
pub struct McpClient {
    reach: Arc<Reach>,
    signer: Signer,
}

impl McpClient {
    /// A client. Nothing is opened yet.
    #[must_use]
    pub fn new(
        carry: Arc<dyn Carry>,
        tunnels: Arc<dyn Tunnels>,
        signer: Signer,
        public: PublicPolicy,
        limits: Limits,
    ) -> Self {
        Self { reach: Arc::new(Reach::new(carry, tunnels, public, limits)), signer }
    }

    /// Ends the use of every pooled connection into a tunnel. Archiving and changed certificates need no call: each
    /// request asks the directory.
    pub fn forget(&self, tunnel_id: &str) {
        self.reach.forget(tunnel_id);
    }

    async fn connected(
        &self,
        facts: CallerFacts,
        server: McpServer,
        credential: Option<VaultCredential>,
    ) -> Result<Arc<dyn McpConnection>, McpFailure> {
        let mut target = Target::parse(&server.url)?;
        let mut via = self.reach.via(&target);
        let mut route_url = None;
        if via == Via::Public && credential.is_some() {
            let url = normalise_mcp_url(&server.url).map_err(|_| McpFailure::bad_url("it has no canonical form"))?;
            let tunnel = self.reach.tunnel_of_route(&facts.workspace, &url).ok_or_else(|| needs_route(&target.host))?;
            target = target.through(&tunnel.domain);
            (via, route_url) = (Via::Tunnel, Some(url));
        }
        if via == Via::Tunnel {
            self.reach.tunnel_for(&facts.workspace, &target)?;
        }
        let (reach, signer) = (Arc::clone(&self.reach), self.signer.clone());
        let reopen = move || Inner {
            reach: Arc::clone(&reach),
            signer: signer.clone(),
            via,
            target: target.clone(),
            facts: facts.clone(),
            purpose: Purpose::Call,
            credential: credential.clone(),
            route_url: route_url.clone(),
            own: None,
            unmarked: Record::default(),
        };
        let connection = Connection::open(Box::new(reopen), self.reach.limits.clone()).await?;
        Ok(Arc::new(connection))
    }

    /// Makes a real `initialize` and `tools/list` through the whole path, over connections made for it, and says how
    /// long each hop took, or which one failed. Every wait is bounded; the session is ended.
    pub async fn probe(&self, facts: CallerFacts, url: &str) -> ProbeReport {
        let mut report = ProbeReport::default();
        if let Err(failed) = self.probed(facts, url, &mut report).await {
            report.hops.push(failed);
        }
        report
    }

    async fn probed(&self, facts: CallerFacts, url: &str, report: &mut ProbeReport) -> Result<(), Hop> {
        let target = Target::parse(url).map_err(|failure| Hop::failed("url", failure))?;
        let via = self.reach.via(&target);
        if via == Via::Tunnel {
            let tunnel = self.reach.tunnel_for(&facts.workspace, &target);
            tunnel.map_err(|failure| Hop::failed("tunnel", failure))?;
        }
        let times = Arc::new(ConnectTimes::default());
        let own = self
            .reach
            .own_client(via, &target, Arc::clone(&times))
            .map_err(|failure| Hop::failed("tunnel", failure))?;
        let record = Record::default();
        let inner = Inner {
            reach: Arc::clone(&self.reach),
            signer: self.signer.clone(),
            via,
            target,
            facts,
            purpose: Purpose::Probe,
            credential: None,
            route_url: None,
            own: Some(own),
            unmarked: record.clone(),
        };
        let patience = self.reach.limits.initialize;
        let begun = Instant::now();
        let service = initialize(inner, patience).await;
        let took = begun.elapsed();
        let made: Duration = push_connecting(report, via, &times);
        let mut service = service.map_err(|failure| Hop::failed(unfinished(via, &times), failure))?;
        report.hops.push(Hop::took("initialize", took.saturating_sub(made)));
        report.hops.extend(hops_of_timing("initialize", record.server_timing().as_deref()));

        let begun = Instant::now();
        let listed = list_tools(service.peer(), via, &self.reach.limits).await;
        let took = begun.elapsed();
        // Says DELETE; a server that does not answer it has had its time.
        let _ = service.close_with_timeout(Duration::from_secs(5)).await;
        let (tools, timing) = listed.map_err(|failure| Hop::failed("tools/list", failure))?;
        report.hops.push(Hop::took("tools/list", took));
        report.hops.extend(hops_of_timing("tools/list", timing.as_deref()));
        report.tools = tools.into_iter().map(|tool| tool.name).collect();
        Ok(())
    }
}

fn push_connecting(report: &mut ProbeReport, via: Via, times: &ConnectTimes) -> Duration {
    let mut made = Duration::ZERO;
    if via == Via::Tunnel {
        for (name, time) in [("edge", times.edge.get()), ("inner_tls", times.inner_tls.get())] {
            if let Some(time) = time {
                made += *time;
                report.hops.push(Hop { name: name.to_owned(), result: HopResult::Millis(millis(*time)) });
            }
        }
    }
    made
}

/// The hop at which a path ended that led to no session.
fn unfinished(via: Via, times: &ConnectTimes) -> &'static str {
    match via {
        Via::Tunnel if times.edge.get().is_none() => "edge",
        Via::Tunnel if times.inner_tls.get().is_none() => "inner_tls",
        _ => "initialize",
    }
}

pub(super) fn millis(time: Duration) -> f64 {
    (time.as_secs_f64() * 1_000_000.0).round() / 1000.0
}

/// The server never holds a credential in the clear, so it cannot send one to a public server itself.
fn needs_route(host: &str) -> McpFailure {
    McpFailure::new(
        "credential_needs_route",
        format!("The vault's credential for {host} can only be used by a gateway, and no route of one names this URL."),
        "Add a [[gateway.route]] with this `url` and `source = \"api:\"` to the gateway of a tunnel of this workspace.",
    )
}

impl Mcp for McpClient {
    fn tunnel_for(&self, workspace: &str, url: &str) -> Result<String, McpFailure> {
        let target = Target::parse(url)?;
        if self.reach.via(&target) == Via::Tunnel {
            return self.reach.tunnel_for(workspace, &target).map(|tunnel| tunnel.id);
        }
        let url = normalise_mcp_url(url).map_err(|_| McpFailure::bad_url("it has no canonical form"))?;
        let tunnel = self.reach.tunnel_of_route(workspace, &url).ok_or_else(|| needs_route(&target.host))?;
        Ok(tunnel.id)
    }

    fn connect(
        &self,
        facts: CallerFacts,
        server: McpServer,
        credential: Option<VaultCredential>,
    ) -> BoxFuture<'_, Result<Arc<dyn McpConnection>, McpFailure>> {
        Box::pin(self.connected(facts, server, credential))
    }
}
