//! Calls of MCP servers through a tunnel and a gateway: what is asked for and what came of it. The calls themselves are made by whoever holds both ends of a
//! tunnel, which no crate of the perimeter does; nothing here knows how.

use std::collections::BTreeMap;
use std::pin::Pin;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::attempt::gateway;
use crate::catalogue::{Outcome, Probe};
use crate::judge::Evidence;
use crate::own_rules::OwnRules;

/// Who can call.
pub trait Tunnel {
    /// Makes the calls one after the other, over routes and rules of the run's own and those of the zone, each through the gateway and once more to the server itself. What is missing of the answer could not be made.
    fn attempt(&self, attempts: Vec<Attempted>, own: OwnRules) -> Calls<'_>;
}

/// What came of the calls, by probe; or why none could be made.
pub type Calls<'a> = Pin<Box<dyn Future<Output = Result<BTreeMap<String, Called>, String>> + Send + 'a>>;

/// One attempt.
pub struct Attempted {
    /// The probe.
    pub id: String,
    /// What is sent.
    pub call: Call,
    /// Whether the answer is searched for the server's token: `leaked` or `clean` is the outcome then.
    pub leak: bool,
}

/// What came of it.
pub struct Called {
    /// Through the gateway: `made`, `refused REASON`, `status NUMBER`.
    pub inside: Outcome,
    /// At the server itself.
    pub outside: Outcome,
    /// The reasons that the gateway's log gained meanwhile.
    pub reasons: Vec<String>,
}

/// A message to a route, and in whose name it comes.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The route.
    pub route: Route,
    /// The tool that is called; without one it is another message.
    pub tool: Option<String>,
    /// Its arguments. `{token}` stands for the server's token.
    #[serde(default)]
    pub arguments: Map<String, Value>,
    /// The method of a message that calls no tool.
    pub method: Option<String>,
    /// The path, where it is not the route's.
    pub path: Option<String>,
    /// The host that the request names, where it is not the route's.
    pub host: Option<Route>,
    /// A header more.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
    /// In whose name.
    #[serde(default)]
    pub caller: Caller,
}

/// The routes of the gateway under test.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// A wiki that names its own token in what it says.
    Wiki,
    /// The same wiki, which no rule of the zone names.
    Unnamed,
    /// The same wiki, by a name that leads to loopback, which the route does not name.
    Rebound,
    /// The same wiki, by the name of the first server that the zone's own rules name; where they name none, as unnamed.
    Own,
    /// A server that refuses, and says which token it expected.
    Refusing,
    /// A server that has moved, and says where to with its token.
    Moved,
    /// None.
    Nowhere,
}

/// In whose name a call comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Caller {
    /// A session's.
    #[default]
    Honest,
    /// Nobody's.
    Nobody,
    /// A session's, signed by a key that nobody knows.
    ForeignKey,
    /// A session's of another tunnel.
    ForeignTunnel,
    /// A session's of an environment that no zone covers.
    ForeignEnvironment,
    /// A session's in the zone under test, by whose own rules it is decided.
    OwnZone,
    /// A session's, signed for another body.
    ForeignBody,
    /// A session's, in the MCP session that another one began.
    ForeignSession,
    /// A session's, as it was sent before.
    Again,
    /// A session's of a while ago.
    Expired,
    /// A session's, for an hour.
    LongLived,
}

/// Has the calls made and notes what came of them.
pub(crate) async fn attack(
    tunnel: &dyn Tunnel,
    own: OwnRules,
    probes: &[Probe],
    seen: &mut BTreeMap<String, Evidence>,
) {
    let attempt = |probe: &Probe| {
        let call = gateway(&probe.attempt)?;
        Some(Attempted { id: probe.id.clone(), call, leak: probe.leak })
    };
    let attempts: Vec<Attempted> = probes.iter().filter_map(attempt).collect();
    if attempts.is_empty() {
        return;
    }
    let ids: Vec<String> = attempts.iter().map(|attempt| attempt.id.clone()).collect();
    let mut called = tunnel.attempt(attempts, own).await;
    for id in ids {
        let evidence = seen.entry(id.clone()).or_default();
        match &mut called {
            Ok(called) => {
                if let Some(Called { inside, outside, reasons }) = called.remove(&id) {
                    (evidence.inside, evidence.outside, evidence.reasons) = (Some(inside), Some(outside), reasons);
                }
            }
            Err(cause) => evidence.hindrance = Some(cause.clone()),
        }
    }
}
