//! What one audit record says. Digests and names, never values.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One decision or event, before it has a place in the log. Text that an agent chose is cut to stated bounds when it is written.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// What it is about.
    pub kind: Kind,
    /// The session it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session: Option<String>,
    /// The agent, as `id@version`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub agent: Option<String>,
    /// The tool use that caused it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool_use: Option<String>,
    /// The zone that decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The rule in the zone that allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// What was decided.
    pub decision: Decision,
    /// A stable reason code, for denials and failures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What whoever was refused can do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_step: Option<String>,
    /// Where it would have gone, or went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub destination: Option<Destination>,
    /// The credential's name in the zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// Digests of what must be comparable and must not be stored: a policy, a call's input, a definition.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub digests: BTreeMap<String, String>,
    /// The sequence number of the record this one follows from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub caused_by: Option<u64>,
    /// How it ended, in a few words.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Sizes, durations and numbers of things, with the unit in the name.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub counts: BTreeMap<String, u64>,
    /// What a candidate of the zone would have done instead.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Shadow>,
    /// From when on whoever had it written may go on.
    #[serde(default, skip_serializing_if = "Durability::is_written")]
    pub durability: Durability,
}

/// What a zone in shadow would have decided, where that differs from what was.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Shadow {
    /// The candidate.
    pub zone: String,
    /// Its decision.
    pub decision: Decision,
    /// Why it would have refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The rule that would have decided.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
}

impl Shadow {
    /// From a candidate's name, why it would have refused, if it would, and its rule.
    #[must_use]
    pub fn new(zone: &str, reason: Option<&str>, rule: Option<&str>) -> Self {
        Self {
            zone: zone.to_owned(),
            decision: if reason.is_some() { Decision::Deny } else { Decision::Allow },
            reason: reason.map(str::to_owned),
            rule: rule.map(str::to_owned),
        }
    }
}

/// How safe a record is when its number is answered.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Durability {
    /// The write returned: it survives the death of any process, and a power cut from about 20 ms later on.
    #[default]
    Written,
    /// It is on the disk.
    Disk,
}

impl Durability {
    /// For serde, which passes references.
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
    fn is_written(&self) -> bool {
        *self == Self::Written
    }
}

impl Record {
    /// A record with nothing but its kind and decision; the rest is set field by field.
    #[must_use]
    pub fn new(kind: Kind, decision: Decision) -> Self {
        Self {
            kind,
            session: None,
            agent: None,
            tool_use: None,
            zone: None,
            rule: None,
            decision,
            reason: None,
            next_step: None,
            destination: None,
            credential: None,
            digests: BTreeMap::new(),
            caused_by: None,
            outcome: None,
            counts: BTreeMap::new(),
            shadow: None,
            durability: Durability::Written,
        }
    }
}

/// What a record is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A tool use is about to run.
    ToolUse,
    /// A tool use ended, or its outcome is unknown.
    ToolOutcome,
    /// A connection out of a sandbox was decided.
    EgressConnect,
    /// A request within a connection was decided.
    EgressRequest,
    /// A request or connection ended.
    EgressOutcome,
    /// A secret is about to be handed to the egress proxy so that it is recognised in answers and requests; nothing is injected by it.
    CredentialGranted,
    /// A secret is about to be injected into a request.
    CredentialUse,
    /// A secret was refused.
    CredentialDenied,
    /// A grant ended and its copy of the secret was zeroed.
    CredentialRevoked,
    /// Tokens of a vault's credential were asked for at its token endpoint: what came was sealed, or nothing came.
    CredentialRefreshed,
    /// Placeholders were issued for a session, or its zone was fixed.
    SessionOpened,
    /// A session's grants ended.
    SessionClosed,
    /// A sandbox stands, with these controls.
    SandboxBuilt,
    /// A sandbox was taken down.
    SandboxDestroyed,
    /// A command of the control plane froze a session, or was refused.
    SessionFrozen,
    /// A command of the control plane thawed a session, or was refused.
    SessionThawed,
    /// A command of the control plane revoked a session's grants, or was refused.
    GrantsRevoked,
    /// A file of the control plane's is about to be written to a workspace or shown in a sandbox, or was refused.
    FilePut,
    /// A file or memory of a session is about to be sent to the control plane.
    FileTaken,
    /// A person approved or refused one exact call.
    Approval,
    /// Someone must look: a placeholder misused, a secret seen, a stored row swapped.
    Alarm,
    /// The log was cut at an unterminated line when it was opened.
    Recovered,
    /// The log was opened by a writer process.
    LogOpened,
    /// The log is about to be closed in good order.
    LogClosed,
    /// A signature over everything before it.
    Checkpoint,
    /// A call of a private MCP server was decided.
    McpCall,
    /// Such a call ended.
    McpOutcome,
    /// A gateway began.
    GatewayStarted,
    /// A gateway ended in good order.
    GatewayStopped,
    /// A worker began.
    WorkerStarted,
    /// A worker ended in good order.
    WorkerStopped,
    /// The zones or other configuration of a role took effect.
    ConfigurationLoaded,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Decision {
    /// It may happen, and is about to.
    Allow,
    /// It may not.
    Deny,
    /// Nothing was decided; it is noted.
    Info,
}

/// Where something went, or would have gone. Whatever is not known at that point is left out.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Destination {
    /// `https`, `http`, `tcp`, `udp`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scheme: Option<String>,
    /// The name as decided on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// The port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// The HTTP method.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The canonical path, without the query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// The address that was dialled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
}
