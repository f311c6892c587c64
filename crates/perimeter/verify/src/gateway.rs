//! What a gateway is asked for and what came of it: calls of MCP servers through its tunnel, and new tokens for vaults' credentials over its control stream. All of
//! it is asked by whoever holds the other ends, which no crate of the perimeter does; nothing here knows how.

use std::collections::BTreeMap;
use std::pin::Pin;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::attempt::{gateway, renewal};
use crate::catalogue::{Outcome, Probe};
use crate::judge::Evidence;
use crate::own_rules::OwnRules;

/// Who can ask.
pub trait Tunnel {
    /// Makes the attempts, over routes and rules of the run's own and those of the zone: each at the gateway, and once more at the server or the token endpoint
    /// itself. What is missing of the answer could not be made.
    fn attempt(&self, attempts: Vec<Attempted>, own: OwnRules) -> Calls<'_>;
}

/// What came of the attempts, by probe; or why none could be made.
pub type Calls<'a> = Pin<Box<dyn Future<Output = Result<BTreeMap<String, Called>, String>> + Send + 'a>>;

/// One attempt.
pub struct Attempted {
    /// The probe.
    pub id: String,
    /// What is asked for.
    pub ask: Ask,
    /// Whether the answer is searched for the canaries: `leaked` or `clean` is the outcome then.
    pub leak: bool,
}

/// What is asked for.
#[derive(Clone, Debug)]
pub enum Ask {
    /// A call of an MCP server, through the tunnel.
    Call(Call),
    /// New tokens, over the control stream.
    Renewal(Renewal),
    /// What is to be seen of all renewals afterwards.
    Aftermath(Aftermath),
}

/// What came of it.
pub struct Called {
    /// At the gateway: `made`, `refused REASON`, `status NUMBER`.
    pub inside: Outcome,
    /// At the server or endpoint itself.
    pub outside: Outcome,
    /// The reasons that the gateway's log gained meanwhile, and [`crate::ALLOWED`] for what it may do.
    pub reasons: Vec<String>,
    /// The reasons of the alarms that it gained.
    pub alarms: Vec<String>,
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
    /// What of a vault's credential goes along, sealed.
    pub carries: Option<Carried>,
}

/// What of a vault's OAuth credential goes along with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Carried {
    /// The access token that a renewal of just now brought.
    Renewed,
    /// The refresh token.
    RefreshToken,
}

/// A renewal: the credential is the run's own, and an attempt changes this of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewal {
    /// The manner of the token endpoint that it is sealed for. `elsewhere` is not listed.
    pub endpoint: String,
    /// What is not as it was sealed, or not of this credential.
    pub forged: Option<Forgery>,
}

/// What a control plane that lies makes of a credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forgery {
    /// The row names another listed endpoint than the one that the parts are sealed for.
    Endpoint,
    /// The row names another client.
    Client,
    /// The refresh token is that of a credential in another session's vault.
    ForeignVault,
    /// The client's secret is that of another credential in the same vault.
    ForeignSecret,
    /// The access token stands where the refresh token should.
    AccessAsRefresh,
    /// All parts are sealed for an MCP server that no route leads to.
    Server,
}

/// What is looked at when every renewal is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Aftermath {
    /// Whether a refresh token reached an endpoint that is not listed.
    Elsewhere,
    /// Whether a token lies in the clear in what the gateway's perimeter leaves: its log, its stores, its files.
    LeftBehind,
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
    /// Whoever answers in a server's place, with a certificate of another authority than the route's.
    Impostor,
    /// A wiki that takes the access token of the run's vault credential.
    Vault,
    /// A wiki that takes its refresh token.
    Taker,
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
    /// A session's that was frozen.
    Frozen,
    /// A session's whose grants were taken back.
    Revoked,
}

/// Has the attempts made and notes what came of them.
pub(crate) async fn attack(
    tunnel: &dyn Tunnel,
    own: OwnRules,
    probes: &[Probe],
    seen: &mut BTreeMap<String, Evidence>,
) {
    let attempt = |probe: &Probe| {
        let ask = gateway(&probe.attempt).map(Ask::Call).or_else(|| renewal(&probe.attempt))?;
        Some(Attempted { id: probe.id.clone(), ask, leak: probe.leak })
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
                if let Some(Called { inside, outside, reasons, alarms }) = called.remove(&id) {
                    (evidence.inside, evidence.outside) = (Some(inside), Some(outside));
                    (evidence.reasons, evidence.alarms) = (reasons, alarms);
                }
            }
            Err(cause) => evidence.hindrance = Some(cause.clone()),
        }
    }
}
