//! The words of the control stream between the server and a perimeter's worker or gateway: typed commands with an id,
//! and one answer each. Pure data: streams carry it, handlers act on it. Commands carry ids, files for a workspace and
//! sealed values, never a credential that somebody on the way could open.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::Timestamp;
use crate::ids::{CredentialId, PerimeterId, SessionId, VaultId};
use crate::vault::{McpProbe, RefreshAttempt, Verdict};

/// Where the stream is asked for.
pub const PATH: &str = "/v1/perimeter/control";
/// The `Upgrade` token of this version.
pub const PROTOCOL: &str = "postern-control/1";
/// The longest frame of either side, in bytes: a file of [`PUT_FILE_BYTES`] in base64 fits.
pub const FRAME_BYTES: usize = 8 << 20;
/// The longest frame before the first [`Hello`].
pub const HELLO_BYTES: usize = 256 << 10;
/// The largest file that [`CommandBody::PutFile`] may carry, in bytes.
pub const PUT_FILE_BYTES: usize = 4 << 20;
/// How many commands may wait for an answer on one stream.
pub const OUTSTANDING: usize = 32;
/// How many sessions a process may say it holds.
pub const SESSIONS: usize = 4096;
/// The one directory that [`CommandBody::PutFile`] writes to, as the agent sees it.
pub const RESULTS_DIRECTORY: &str = "/workspace/.results";

/// Which process dialled the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// A worker.
    Worker,
    /// A tunnel's gateway.
    Gateway,
}

impl Role {
    /// Its word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Gateway => "gateway",
        }
    }
}

/// The perimeter's first word.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Which process this is.
    pub role: Role,
    /// Its build.
    pub version: String,
    /// What the operator calls it.
    pub name: String,
    /// The sessions that it holds now; later changes follow as [`FromPerimeter::Sessions`].
    pub sessions: Vec<SessionId>,
    /// The X25519 key to which its perimeter's secrets are sealed, in hexadecimal.
    pub perimeter_public_key: Option<String>,
}

/// What the perimeter says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromPerimeter {
    /// First, and only first.
    Hello(Hello),
    /// The sessions that it holds now, all of them.
    Sessions {
        /// Their ids.
        sessions: Vec<SessionId>,
    },
    /// An answer to one command.
    Answer(Answer),
    /// Still here.
    Ping,
}

/// What the server says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "say", rename_all = "snake_case")]
pub enum FromServer {
    /// Do this.
    Command(Command),
    /// Still here.
    Ping,
    /// The server ends the stream in good order: it drains, or the key was revoked. Nothing follows.
    Bye,
}

/// A command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Command {
    /// Repeated in the answer; used once on a stream.
    pub id: u64,
    /// What to do.
    pub body: CommandBody,
}

/// What may be asked of a perimeter. It decides by its own policy whether to obey.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case")]
pub enum CommandBody {
    /// Say how it stands: [`Reply::Status`].
    Status,
    /// Nothing of this session runs or leaves until it is thawed.
    Freeze {
        /// Which.
        session: SessionId,
    },
    /// A frozen session goes on.
    Thaw {
        /// Which.
        session: SessionId,
    },
    /// The session's secrets are dropped for good; its placeholders are tripwires from then on.
    RevokeGrants {
        /// Which.
        session: SessionId,
    },
    /// The variables that the session's vaults have now, all of them: [`Reply::Variables`].
    Variables {
        /// Which session.
        session: SessionId,
        /// Each sealed, as text.
        sealed: Vec<String>,
    },
    /// The keys of sealed values for another perimeter, which its operator approved here: [`Reply::Rewrapped`].
    Rewrap {
        /// The values, each with its binding, as texts.
        sealed: Vec<String>,
        /// The other perimeter's id.
        perimeter_id: PerimeterId,
        /// And its public key, in hexadecimal.
        public_key: String,
    },
    /// New tokens for a vault's OAuth credential, from its token endpoint: [`Reply::OauthRefreshed`]. Asked again for the same parts, what came of them is
    /// answered again.
    OauthRefresh {
        /// The credential.
        parts: Box<OauthParts>,
    },
    /// Whether a vault's OAuth credential works: [`Reply::OauthValidated`].
    OauthValidate {
        /// The credential.
        parts: Box<OauthParts>,
    },
    /// A file for the session's workspace.
    PutFile {
        /// Which session.
        session: SessionId,
        /// `/workspace/.results/<name>`; nothing else is obeyed.
        path: String,
        /// At most [`PUT_FILE_BYTES`].
        bytes: Base64,
        /// Permission bits; reading and writing for the owner and reading for others at most.
        mode: u32,
    },
}

impl CommandBody {
    /// The command's word, as routes and records have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Freeze { .. } => "freeze",
            Self::Thaw { .. } => "thaw",
            Self::RevokeGrants { .. } => "revoke_grants",
            Self::Variables { .. } => "variables",
            Self::Rewrap { .. } => "rewrap",
            Self::OauthRefresh { .. } => "oauth_refresh",
            Self::OauthValidate { .. } => "oauth_validate",
            Self::PutFile { .. } => "put_file",
        }
    }

    /// The session it is about.
    pub fn session(&self) -> Option<&SessionId> {
        match self {
            Self::Status | Self::Rewrap { .. } | Self::OauthRefresh { .. } | Self::OauthValidate { .. } => None,
            Self::Freeze { session }
            | Self::Thaw { session }
            | Self::RevokeGrants { session }
            | Self::Variables { session, .. }
            | Self::PutFile { session, .. } => Some(session),
        }
    }
}

/// The sealed parts of an OAuth credential, each with its binding, as text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthParts {
    /// The access token.
    pub access: String,
    /// What it is refreshed with.
    pub refresh: Option<OauthRefreshParts>,
}

/// What an access token is refreshed with. Endpoint, client, how it says who it is, and for whom the tokens are stand in the binding; what stands here beside it nobody sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthRefreshParts {
    /// The refresh token.
    pub refresh_token: String,
    /// The client's secret.
    pub client_secret: Option<String>,
    /// The scope that is asked for.
    pub scope: Option<String>,
}

/// How a refresh went.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthRefreshed {
    /// As clients are told.
    pub attempt: RefreshAttempt,
    /// Why it did not succeed.
    pub reason: Option<CommandRefusal>,
    /// The new tokens.
    pub renewed: Option<RenewedTokens>,
}

/// New tokens, sealed, each as JSON. They take the place of the parts that were sent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RenewedTokens {
    /// The access token.
    pub access: String,
    /// The refresh token, where the endpoint gave another.
    pub refresh_token: Option<String>,
    /// When the access token expires, where the endpoint said so.
    pub expires_at: Option<Timestamp>,
}

/// What became of a validation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthValidated {
    /// The verdict.
    pub status: Verdict,
    /// The MCP request that failed.
    pub mcp_probe: Option<McpProbe>,
    /// The refresh that was tried.
    pub refresh: Option<OauthRefreshed>,
    /// Why it is not known, where no server said so.
    pub reason: Option<CommandRefusal>,
}

/// An answer to the command with this id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The command's.
    pub id: u64,
    /// How it went.
    pub result: Result<Reply, CommandRefusal>,
}

/// What a command brought.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Reply {
    /// It is done, effective now.
    Done,
    /// To [`CommandBody::Status`].
    Status(Box<PerimeterStatus>),
    /// To [`CommandBody::Variables`].
    Variables {
        /// What the session's sandbox does not get of them.
        withheld: Vec<Withheld>,
    },
    /// To [`CommandBody::Rewrap`].
    Rewrapped {
        /// For each value its wrapped key as JSON, or nothing where it does not open there.
        wraps: Vec<Option<String>>,
    },
    /// To [`CommandBody::OauthRefresh`].
    OauthRefreshed(Box<OauthRefreshed>),
    /// To [`CommandBody::OauthValidate`].
    OauthValidated(Box<OauthValidated>),
}

/// A variable of a vault that a session's sandbox does not get, or gets for fewer hosts than its owner allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// Which.
    pub credential_id: CredentialId,
    /// Of which vault.
    pub vault_id: VaultId,
    /// Whether it is for hosts of the credential that the zone does not lead to.
    pub host_unreachable: bool,
    /// What happened and what to do.
    pub message: String,
}

/// Why a perimeter did not obey.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[error("{code}: {message}")]
pub struct CommandRefusal {
    /// Stable, snake_case. [`CommandRefusal::NOT_HELD`] means: ask another.
    pub code: String,
    /// What happened.
    pub message: String,
    /// What to do about it.
    pub next_step: String,
}

impl CommandRefusal {
    /// The code of a process that does not have the session.
    pub const NOT_HELD: &'static str = "session_not_held";

    /// A refusal.
    pub fn new(code: &str, message: impl Into<String>, next_step: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into(), next_step: next_step.into() }
    }

    /// The process does not have the session.
    pub fn not_held(session: &SessionId) -> Self {
        Self::new(
            Self::NOT_HELD,
            format!("session {session} is not held here"),
            "ask the worker that serves the session, or wait until one does",
        )
    }

    /// A command that this process has no use for.
    pub fn unsupported(command: &CommandBody) -> Self {
        Self::new(
            "command_unsupported",
            format!("{} is not a command for this process", command.name()),
            "ask a worker of the session's environment",
        )
    }
}

/// How a perimeter's process stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PerimeterStatus {
    /// Which process.
    pub role: Role,
    /// Its build.
    pub version: String,
    /// What the operator calls it.
    pub name: String,
    /// The perimeter's X25519 key, in hexadecimal.
    pub perimeter_public_key: Option<String>,
    /// The sessions that it holds.
    pub sessions: Vec<SessionStanding>,
    /// What this machine and this user can do about each control.
    pub controls: Vec<ControlLine>,
    /// What protects less than it could.
    pub degraded: Vec<String>,
    /// The audit log's newest record.
    pub audit_head: Option<u64>,
    /// The key that signs the audit log, in hexadecimal.
    pub audit_key: Option<String>,
    /// A gateway's own part.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayStanding>,
}

/// One session that a process holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionStanding {
    /// Which.
    pub session: SessionId,
    /// The zone that decides for it.
    pub zone: Option<String>,
    /// Whether it runs.
    pub state: SessionState,
    /// Whether its secrets were dropped for good.
    #[serde(default)]
    pub grants_revoked: bool,
}

/// Whether a session runs in a perimeter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionState {
    /// It is served.
    Serving,
    /// It is held and nothing of it runs or leaves.
    Frozen,
}

/// One control of a sandbox.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ControlLine {
    /// Its name, as in `require`.
    pub name: String,
    /// `active`, `degraded` or `missing`.
    pub state: String,
    /// Why it is not active.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// What would make it active.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fix: String,
}

/// A gateway's routes, certificate and troubles.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GatewayStanding {
    /// Its tunnel.
    pub tunnel_id: String,
    /// The tunnel's domain.
    pub domain: Option<String>,
    /// Its routes, by name.
    pub routes: Vec<RouteStanding>,
    /// Whole days until its leaf ends; negative when it ended.
    pub leaf_days_left: Option<i64>,
    /// Connections of its connector to the edge.
    pub connections: u32,
    /// The newest last; bounded.
    pub last_errors: Vec<ErrorNote>,
}

/// One route of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteStanding {
    /// Its name, the first label of its host.
    pub name: String,
    /// Where it leads, without credentials.
    pub upstream: String,
    /// How it gets its credential: `none`, `own` or `api`.
    pub credential: String,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorNote {
    /// When.
    pub at: Timestamp,
    /// Stable code.
    pub code: String,
    /// For the operator.
    pub message: String,
}

/// Bytes that stand on the wire as base64.
#[derive(Clone, PartialEq, Eq)]
pub struct Base64(pub Vec<u8>);

impl fmt::Debug for Base64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Base64 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Base64 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        STANDARD.decode(text).map(Self).map_err(|_| serde::de::Error::custom("not base64"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_the_stream_read_back_as_they_were_written() {
        let session = SessionId::generate();
        let body = CommandBody::PutFile {
            session,
            path: "/workspace/.results/a".into(),
            bytes: Base64(vec![0, 255]),
            mode: 0o644,
        };
        let said = FromServer::Command(Command { id: 7, body });
        let text = serde_json::to_string(&said).unwrap();
        assert_eq!(serde_json::from_str::<FromServer>(&text).unwrap(), said);
        let refused = FromPerimeter::Answer(Answer { id: 7, result: Err(CommandRefusal::new("a", "b", "c")) });
        let text = serde_json::to_string(&refused).unwrap();
        assert_eq!(serde_json::from_str::<FromPerimeter>(&text).unwrap(), refused);
    }

    #[test]
    fn the_largest_file_fits_in_a_frame() {
        let body = CommandBody::PutFile {
            session: SessionId::generate(),
            path: format!("{RESULTS_DIRECTORY}/{}", "x".repeat(128)),
            bytes: Base64(vec![7; PUT_FILE_BYTES]),
            mode: 0o644,
        };
        let said = FromServer::Command(Command { id: u64::MAX, body });
        assert!(serde_json::to_vec(&said).unwrap().len() < FRAME_BYTES);
    }

    #[test]
    fn a_session_id_of_another_shape_is_no_command() {
        let hostile = r#"{"say":"command","id":1,"body":{"do":"freeze","session":"../../etc"}}"#;
        assert!(serde_json::from_str::<FromServer>(hostile).is_err());
    }
}
