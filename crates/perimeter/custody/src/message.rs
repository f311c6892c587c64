//! What custody is told and asked. Two messages alone carry secrets: the answer to a grant, and to the gateway's question which it was granted.

use std::collections::BTreeMap;
use std::path::PathBuf;

use postern_exec::WireBytes;
use postern_policy::document::DocumentText;
use postern_policy::{Reach, RepositoryToken};
use postern_secret::Placeholder;
use postern_secret::seal::{Recipient, Sealed, SealedCredential, SealedVariable, Wrap};
use serde::{Deserialize, Serialize};

use crate::kept::KeptBy;
use crate::refusal::Refusal;

/// First message to the role. One descriptor comes with it: custody's connection to the audit process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Configuration {
    /// The whole configuration document, from which custody reads the zones for itself.
    pub document: DocumentText,
    /// Local environment names and the `env_` ids they stand for.
    pub environments: BTreeMap<String, String>,
    /// Where the store, the keys and the placeholder ledger live.
    pub directory: PathBuf,
    /// Values of the operator's variables that zones name ([`crate::variables`]).
    pub snapshot: BTreeMap<String, WireBytes>,
}

/// Another document in place of the one in force.
#[derive(Debug, Serialize, Deserialize)]
pub struct Reload {
    /// The whole configuration document.
    pub document: DocumentText,
    /// Local environment names and the `env_` ids they stand for.
    pub environments: BTreeMap<String, String>,
    /// Values of the operator's variables that its zones and routes name; one that is missing keeps the value it had.
    pub snapshot: BTreeMap<String, WireBytes>,
}

/// First message back.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Empty, or why the process ends.
    pub problems: Vec<String>,
    /// What protects less than it could, to be shown at start.
    pub degraded: Vec<String>,
    /// The perimeter's public key (X25519, hexadecimal), to which others seal.
    pub perimeter_public_key: String,
}

/// What a connection may ask.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CallerKind {
    /// Opens and closes sessions; attaches others. Never gets a secret.
    Worker,
    /// Gets secrets of open sessions, and the placeholders to recognise.
    Egress,
    /// Gets the credentials of gateway routes for MCP calls, and the placeholders to recognise.
    Gateway,
}

impl CallerKind {
    /// As logs name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Egress => "egress",
            Self::Gateway => "gateway",
        }
    }
}

/// What the egress proxy wants a secret for; the record says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Purpose {
    /// To scrub answers and to recognise it in requests.
    Recognise,
    /// To put it into one permitted request.
    Inject,
}

/// A session to be opened, as the worker selected its zone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenSession {
    /// Session id.
    pub session: String,
    /// The agent, for the records.
    pub agent: Option<String>,
    /// The zone's name.
    pub zone: String,
    /// The zone's digest as the worker read it.
    pub digest: String,
    /// The variables of its vaults and the tokens of its repositories, unopened, in the order in which they count.
    pub variables: Vec<SealedVariable>,
}

/// A session that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Opened {
    /// What stands for its credentials.
    pub issued: Vec<Issued>,
    /// What of its vaults it does not get.
    pub withheld: Vec<Withheld>,
}

/// A variable of a session's vault that its sandbox does not get, or gets for fewer hosts than its owner allows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Withheld {
    /// The credential's id.
    pub credential: String,
    /// The vault's id.
    pub vault: String,
    /// A stable reason.
    pub code: WithheldCode,
    /// What happened and what to do.
    pub message: String,
}

/// Why a variable is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WithheldCode {
    /// The zone does not name it.
    NotNamed,
    /// No rule of the zone leads to some of its hosts.
    HostUnreachable,
    /// The zone puts it where its owner does not allow it.
    NoPlace,
    /// It does not open here, or is too weak to be scrubbed.
    Unusable,
}

/// A vault credential, or the token of a repository, as it was granted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VaultGrant {
    /// The credential's id.
    pub credential: String,
    /// How far it may go, whatever the zone permits beyond.
    pub reach: Reach,
    /// The repository that it is for, where it is the token of one: it goes to no other URL.
    pub repository: Option<RepositoryToken>,
}

impl VaultGrant {
    /// How records name it.
    #[must_use]
    pub fn named(&self) -> String {
        named(&self.credential)
    }
}

/// How records name what is sealed with this id.
pub(crate) fn named(id: &str) -> String {
    let what = if id.starts_with(RESOURCE) {
        "the token of resource"
    } else if id.starts_with(DEPLOYMENT_RESOURCE) {
        "the token of deployment resource"
    } else {
        "vault credential"
    };
    format!("{what} {id}")
}

/// How ids of a session's resources begin.
pub(crate) const RESOURCE: &str = "sesrsc_";
/// How those of a deployment's tokens begin.
const DEPLOYMENT_RESOURCE: &str = "deplrsc_";

/// An MCP call that a route's credential is wanted for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteGrant {
    /// The route's name.
    pub route: String,
    /// Digest of the routes as the gateway read them: a credential goes to the upstream that stands in the same document, and to no other.
    pub routes_digest: String,
    /// The session on whose behalf, as the caller's identity says it; a probe's own id for a probe.
    pub session: String,
    /// The agent as `id@version`, for the records.
    pub agent: Option<String>,
    /// The tool use, for the records.
    pub tool_use: Option<String>,
    /// What it is for.
    pub purpose: RoutePurpose,
    /// The MCP URL that the caller used: of the tunnel's host, or the public one that the route stands for.
    pub mcp_url: String,
    /// The vault credential that came with the call.
    pub sealed: Option<SealedCredential>,
}

/// The sealed parts of one OAuth credential, each of a kind of its own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OauthParts {
    /// The access token.
    pub access: SealedCredential,
    /// The refresh token.
    pub refresh: SealedCredential,
    /// The client's secret, where it has one.
    pub client_secret: Option<SealedCredential>,
}

/// A refresh that the gateway is about to try.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RefreshGrant {
    /// Digest of the routes as the gateway read them.
    pub routes_digest: String,
    /// What is to be refreshed.
    pub parts: OauthParts,
}

/// What a token endpoint answered, to be sealed in place of the former tokens.
#[derive(Debug, Serialize, Deserialize)]
pub struct FreshTokens {
    /// Of which documents' routes.
    pub routes_digest: String,
    /// The parts that were used.
    pub parts: OauthParts,
    /// The new access token.
    pub access_token: WireBytes,
    /// The refresh token that replaces the one that was used.
    pub refresh_token: Option<WireBytes>,
    /// When the access token expires, in seconds since 1970.
    pub expires_at_seconds: Option<i64>,
}

/// What a token endpoint answered, sealed to this perimeter alone by the gateway, which kept it while custody could not take it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeptAnswer {
    /// The parts that were used.
    pub parts: OauthParts,
    /// The new access token.
    pub access: SealedCredential,
    /// The refresh token that replaces the one that was used.
    pub refresh: Option<SealedCredential>,
    /// When the access token expires, in seconds since 1970.
    pub expires_at_seconds: Option<i64>,
}

/// Tokens that took the place of others: sealed, and of no use to whoever carries them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Renewed {
    /// The access token.
    pub access: Sealed,
    /// The refresh token, where there is a new one.
    pub refresh: Option<Sealed>,
    /// When the access token expires, in seconds since 1970.
    pub expires_at_seconds: Option<i64>,
}

/// Who stands behind an MCP call.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RoutePurpose {
    /// A session, permitted by the zone of this name as the gateway loaded it.
    Call {
        /// The zone's name.
        zone: String,
        /// The zone's digest as the gateway read it.
        policy_digest: String,
    },
    /// The operator's probe, which no zone decides and which uses the route's own credential alone.
    Probe,
    /// Whether a vault's OAuth credential works, which no zone decides: `initialize` and `tools/list`, with that credential alone.
    Validation,
}

/// A placeholder for one credential of a session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Issued {
    /// The credential's name in the zone.
    pub credential: String,
    /// The variable in which the sandbox sees the placeholder.
    pub env: Option<String>,
    /// As long as the secret.
    pub placeholder: Placeholder,
    /// The repository of the session's that it is for, where it stands for a token of one.
    pub repository: Option<RepositoryToken>,
}

/// A placeholder issued in the last 24 h, or to a session that is open.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownPlaceholder {
    /// As a sandbox saw it.
    pub placeholder: Placeholder,
    /// The session it was issued to.
    pub session: String,
    /// The credential it stands for.
    pub credential: String,
    /// Whether that session is open.
    pub alive: bool,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ask {
    Open(Box<OpenSession>),
    Refresh { session: String, variables: Vec<SealedVariable> },
    Rewrap { values: Vec<SealedCredential>, to: Recipient },
    Close { session: String },
    Attach { caller: CallerKind },
    Grant { session: String, credential: String, policy_digest: String, purpose: Purpose },
    Revoke { session: String, credential: String },
    GrantRoute(Box<RouteGrant>),
    GrantRefresh(Box<RefreshGrant>),
    SealFresh(Box<FreshTokens>),
    SealKept { routes_digest: String, answer: Box<KeptAnswer> },
    Known { session: String },
    Freeze { session: String },
    Thaw { session: String },
    RevokeGrants { session: String },
    Placeholders,
    Reload(Box<Reload>),
    Documents,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    Opened(Opened),
    Refreshed { withheld: Vec<Withheld> },
    Rewrapped { wraps: Vec<Option<Wrap>> },
    Closed,
    Attached,
    Granted { secret: WireBytes, kept: Option<KeptBy>, vault: Option<VaultGrant> },
    Known { secrets: Vec<WireBytes> },
    RefreshGranted { refresh_token: WireBytes, client_secret: Option<WireBytes> },
    Renewed(Box<Renewed>),
    Revoked,
    Held,
    Placeholders { known: Vec<KnownPlaceholder> },
    Reloaded { problems: Vec<String> },
    Documents { digests: Vec<String> },
    Refused(Refusal),
}
