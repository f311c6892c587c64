//! Phase: whether the caller's zone allows this message to this route. Decided by the perimeter's own file, on the facts
//! in the caller's identity; for an operator's probe by the fixed list of what a probe may ask.

use postern_policy::{Denial, McpCall, McpPermit, SessionFacts, gateway::Route};
use postern_tunnel::identity::{Claims, Purpose};

use super::message::Asked;
use crate::gateway::Rules;

/// The zone's word.
pub(crate) fn decide(rules: &Rules, claims: &Claims, route: &Route, asked: &Asked) -> Result<McpPermit, Denial> {
    match claims.purpose {
        Purpose::Probe => rules.routes.probe(route, asked.method()),
        Purpose::Call => {
            let zone = rules.zones.select(&SessionFacts {
                environment_id: claims.environment.clone(),
                agent_id: claims.agent.clone(),
                agent_version: claims.agent_version,
                definition_digest: claims.definition_digest.clone(),
            })?;
            let call = asked.call();
            zone.mcp(&McpCall {
                route: &route.name,
                method: asked.method(),
                tool: call.map(|call| call.tool),
                arguments: call.and_then(|call| call.arguments),
            })
        }
    }
}
