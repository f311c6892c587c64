//! Custody's refusals: why, about which credential, and what to do. Never a value, nor a part of one.

use postern_audit::Kind;
use serde::{Deserialize, Serialize};

/// A refusal, as it crosses the wire and reaches the operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{}{}; {next_step}", reason.code(), credential.as_ref().map(|name| format!(" (credential {name})")).unwrap_or_default())]
pub struct Refusal {
    /// The stable reason.
    pub reason: RefusalReason,
    /// The credential's name in its zone, where one is concerned.
    pub credential: Option<String>,
    /// What the operator can do.
    pub next_step: String,
}

impl Refusal {
    pub(crate) fn new(reason: RefusalReason, next_step: impl Into<String>) -> Self {
        Self { reason, credential: None, next_step: next_step.into() }
    }

    pub(crate) fn about(mut self, credential: &str) -> Self {
        self.credential = Some(credential.to_owned());
        self
    }
}

/// Why custody refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RefusalReason {
    /// This kind of connection may not ask that.
    WrongConnection,
    /// No zone of that name was loaded here.
    ZoneUnknown,
    /// The asker decided by another version of the zone than the one loaded here.
    DigestMismatch,
    /// The session is not open: never was, or ended.
    SessionNotOpen,
    /// The session is open already.
    SessionOpen,
    /// The session's zone does not grant this credential.
    NotGranted,
    /// The source holds no such secret.
    SourceMissing,
    /// The source is there and cannot be read.
    SourceUnreadable,
    /// The source is a file that others than its owner can read or change.
    SourceExposed,
    /// The secret is too weak to be scrubbed safely.
    SecretWeak,
    /// A row of the local store does not open: it was edited or swapped.
    StoreRowChanged,
    /// The local store cannot be used.
    StoreUnusable,
    /// The use could not be recorded, so it does not happen.
    AuditUnavailable,
    /// The placeholders could not be remembered, so none are issued; or a freeze could not, so it does not outlive this process.
    LedgerUnwritable,
    /// The session is frozen: nothing is granted until it is thawed.
    SessionFrozen,
    /// The session's grants were revoked for good.
    GrantsRevoked,
    /// The gateway has no such route here.
    RouteUnknown,
    /// A sealed value that does not open: sealed for other perimeters, changed, moved to another row, or of an unknown version.
    CredentialUnopenable,
    /// The vault credential is not for this route: another URL, or a route that takes none.
    CredentialNotForRoute,
    /// Another perimeter that the operator here did not approve.
    PerimeterNotApproved,
    /// A kind of vault credential that no MCP call can use here.
    CredentialKindUnsupported,
    /// The operator here does not list the credential's token endpoint.
    TokenEndpointNotListed,
}

impl RefusalReason {
    /// What a record of it is: an alarm where someone wrote to a store or database, or is not what it says.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::WrongConnection
            | Self::StoreRowChanged
            | Self::CredentialUnopenable
            | Self::PerimeterNotApproved
            | Self::CredentialNotForRoute => Kind::Alarm,
            Self::ZoneUnknown
            | Self::DigestMismatch
            | Self::SessionNotOpen
            | Self::SessionOpen
            | Self::NotGranted
            | Self::SourceMissing
            | Self::SourceUnreadable
            | Self::SourceExposed
            | Self::SecretWeak
            | Self::StoreUnusable
            | Self::AuditUnavailable
            | Self::LedgerUnwritable
            | Self::SessionFrozen
            | Self::GrantsRevoked
            | Self::RouteUnknown
            | Self::CredentialKindUnsupported
            | Self::TokenEndpointNotListed => Kind::CredentialDenied,
        }
    }

    /// The stable code that stands in records, events and tool results.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::WrongConnection => "wrong_connection",
            Self::ZoneUnknown => "zone_unknown",
            Self::DigestMismatch => "digest_mismatch",
            Self::SessionNotOpen => "session_not_open",
            Self::SessionOpen => "session_open",
            Self::NotGranted => "not_granted",
            Self::SourceMissing => "source_missing",
            Self::SourceUnreadable => "source_unreadable",
            Self::SourceExposed => "source_exposed",
            Self::SecretWeak => "secret_weak",
            Self::StoreRowChanged => "store_row_changed",
            Self::StoreUnusable => "store_unusable",
            Self::AuditUnavailable => "audit_unavailable",
            Self::LedgerUnwritable => "ledger_unwritable",
            Self::SessionFrozen => "session_frozen",
            Self::GrantsRevoked => "grants_revoked",
            Self::RouteUnknown => "route_unknown",
            Self::CredentialUnopenable => "credential_unopenable",
            Self::CredentialNotForRoute => "credential_not_for_route",
            Self::PerimeterNotApproved => "perimeter_not_approved",
            Self::CredentialKindUnsupported => "credential_kind_unsupported",
            Self::TokenEndpointNotListed => "token_endpoint_not_listed",
        }
    }
}
