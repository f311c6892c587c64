//! Why something was refused: one stable code and one next step per reason.
//! The code is written to the audit log and shown to the agent; nothing here decides.

use crate::zone::Shadow;
use serde::{Deserialize, Serialize};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])+ $variant:ident = $code:literal, $step:literal;)+) => {
        /// The typed cause of a refusal.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[non_exhaustive]
        pub enum Reason {
            $($(#[doc = $doc])+ #[serde(rename = $code)] $variant,)+
        }

        impl Reason {
            /// Every reason, in the order of declaration.
            pub const ALL: &'static [Reason] = &[$(Reason::$variant),+];

            /// The stable snake_case name: in audit records, problem bodies and tool results.
            #[must_use]
            pub fn code(self) -> &'static str {
                match self { $(Reason::$variant => $code),+ }
            }

            /// What whoever was refused can do next, where the refusal knows nothing more exact.
            #[must_use]
            pub fn next_step(self) -> &'static str {
                match self { $(Reason::$variant => $step),+ }
            }
        }
    };
}

reasons! {
    /// No egress rule of the zone names this host.
    HostNotAllowed = "host_not_allowed", "this host is not in the zone; use an allowed host, or ask the operator for an egress rule that names it";
    /// The host is allowed on other ports only.
    PortNotAllowed = "port_not_allowed", "use a port that the zone's rule for this host names";
    /// The host and port are allowed with another scheme only.
    SchemeNotAllowed = "scheme_not_allowed", "use the scheme that the zone's rule for this host names, usually https";
    /// The method is not in the rule.
    MethodNotAllowed = "method_not_allowed", "use a method that the zone's rule for this host names";
    /// The path is not in the rule.
    PathNotAllowed = "path_not_allowed", "use a path that the zone's rule for this host names";
    /// The path can be read in two ways, so no rule is asked about it.
    PathAmbiguous = "path_ambiguous", "send the path without dot segments, empty segments, backslashes or encoded separators";
    /// The name of the host is malformed or an odd way to write an address.
    HostMalformed = "host_malformed", "name the host by its ordinary DNS name";
    /// The resolved address is outside the addresses the rule names.
    AddressNotAllowed = "address_not_allowed", "the name resolves outside the addresses of the zone's rule; ask the operator to check DNS and `addresses`";
    /// The resolved address is in a private, link-local or otherwise special range that the rule does not name.
    AddressPrivate = "address_private", "the name resolves to a private address; the operator must name the range in the rule's `addresses`";
    /// The resolved address is a loopback address that the rule does not name.
    AddressLoopback = "address_loopback", "the name resolves to a loopback address; the operator must name it in the rule's `addresses`";
    /// The resolved address is a cloud metadata service.
    AddressMetadata = "address_metadata", "metadata services are not reachable from a sandbox; use the credentials and hosts the zone offers";
    /// The destination was given as an address and no rule names that address.
    RawAddress = "raw_address", "connect by host name, so that the zone's rules can be applied";
    /// The request carries a credential that is not one of ours, to a host that has one of ours.
    ForeignCredential = "foreign_credential", "send the placeholder from your environment, or no credential at all; keys from elsewhere are refused at this host";
    /// The request asks the upstream to treat it as another method or path than the one decided on.
    OverrideRefused = "override_refused", "send the method and path themselves; override headers and parameters are refused";
    /// A placeholder was sent to a host its credential is not bound to.
    PlaceholderWrongHost = "placeholder_wrong_host", "send this placeholder only to the host its credential belongs to";
    /// A placeholder was sent to the right host on another port.
    PlaceholderWrongPort = "placeholder_wrong_port", "send this placeholder only to the port its credential belongs to";
    /// A placeholder was sent over another scheme than its credential is bound to.
    PlaceholderWrongScheme = "placeholder_wrong_scheme", "send this placeholder only over the scheme its credential belongs to, usually https";
    /// A placeholder stands somewhere a credential must not be put.
    PlaceholderWrongLocation = "placeholder_wrong_location", "put the placeholder only where the credential belongs, usually the Authorization header";
    /// A placeholder of another session was sent.
    PlaceholderWrongSession = "placeholder_wrong_session", "use the placeholder from your own session's environment";
    /// A placeholder that cannot be resolved was about to leave.
    PlaceholderUnresolved = "placeholder_unresolved", "this placeholder is unknown or no longer valid; read the current one from your environment";
    /// The plaintext of a secret was seen in a request of a sandbox.
    RealSecretSeen = "real_secret_seen", "stop using this value; the operator must rotate the credential";
    /// Name dialled, TLS name and Host do not agree.
    AuthorityMismatch = "authority_mismatch", "make the Host header equal to the name you connect to";
    /// A TLS connection without a server name.
    SniMissing = "sni_missing", "connect by host name with a client that sends the TLS server name";
    /// UDP, except for our own DNS.
    UdpRefused = "udp_refused", "use TCP; UDP and QUIC do not leave the sandbox";
    /// No zone covers this session.
    ZoneNone = "zone_none", "no zone covers this agent in this environment; add the agent to a zone's `agents` and start a new session";
    /// The first bytes belong to no protocol that can be inspected.
    ProtocolUnknown = "protocol_unknown", "use HTTP or HTTPS; other protocols cannot be inspected on this port";
    /// A content or transfer encoding that cannot be decoded for scrubbing.
    EncodingUnsupported = "encoding_unsupported", "ask for an identity, gzip, deflate, br or zstd encoding";
    /// An HTTP upgrade that is not carried.
    UpgradeRefused = "upgrade_refused", "use plain requests over HTTP/1.1 or HTTP/2; WebSocket alone is carried, where a rule of the zone has `websocket = true`";
    /// The request is malformed or could be read in two ways.
    RequestMalformed = "request_malformed", "send one well-formed HTTP/1.1 or HTTP/2 request";
    /// The upstream did not answer.
    UpstreamUnreachable = "upstream_unreachable", "try again later; the destination is allowed but did not answer";
    /// The upstream's TLS identity was not accepted.
    UpstreamUntrusted = "upstream_untrusted", "the upstream's certificate is not trusted; the operator can name its CA with `ca_file`";
    /// The upstream wants a client certificate, and no rule presents one there; or it does not take the one that is presented.
    UpstreamCertificateRequired = "upstream_certificate_required", "the upstream wants a client certificate that it knows; the operator can name one in the rule with `client_certificate`";
    /// The audit log cannot be written.
    AuditUnavailable = "audit_unavailable", "privileged actions stop while the audit log cannot be written; tell the operator";
    /// Custody does not hand out the credential.
    CustodyDenied = "custody_denied", "the credential is not available to this session; tell the operator";
    /// The endpoint mints new credentials, which would come back unscrubbed.
    CredentialMinting = "credential_minting", "endpoints that issue new credentials are refused here; ask the operator for the credential you need";
    /// A policy of the zone forbids it.
    PolicyForbidden = "policy_forbidden", "a policy of the zone forbids this; ask the operator which condition is not met";
    /// A policy could not be evaluated, so the answer is no.
    PolicyFailed = "policy_failed", "a policy of the zone could not be evaluated; tell the operator";
    /// The session is frozen.
    SessionFrozen = "session_frozen", "the operator has frozen this session; wait until it is released";
    /// The session is not known here, or has ended.
    SessionUnknown = "session_unknown", "start a new session";
    /// A body is larger than the limit.
    LimitBody = "limit_body", "send or ask for less at a time";
    /// Headers are larger than the limit.
    LimitHeaders = "limit_headers", "send fewer or shorter headers";
    /// Too many connections of one session.
    LimitConnections = "limit_connections", "close connections before opening new ones";
    /// Too many requests or lookups in a time.
    LimitRate = "limit_rate", "slow down and try again";
    /// A stated time ran out.
    LimitTime = "limit_time", "ask for less at a time, or try again later";
    /// A compressed body grows beyond the limit.
    LimitDecoded = "limit_decoded", "ask for an uncompressed or smaller answer";
    /// No `mcp` rule of the zone names this route.
    McpServerNotAllowed = "mcp_server_not_allowed", "no mcp rule of the zone names this server; use another server, or ask the operator for a rule that names it";
    /// The route is allowed, with other MCP methods.
    McpMethodNotAllowed = "mcp_method_not_allowed", "use a tool that the zone allows; other MCP methods must be named in the rule's `methods`";
    /// The route is allowed, with other tools.
    ToolNotAllowed = "tool_not_allowed", "use a tool that the zone's rule for this server names";
    /// The tool is allowed, with other arguments.
    ArgumentNotAllowed = "argument_not_allowed", "change the arguments to what the zone's rule for this tool allows";
    /// The gateway has no route of this name or URL.
    RouteUnknown = "route_unknown", "no [[gateway.route]] has this name or URL; ask the operator to add one";
    /// Name dialled, TLS name, Host, URL and permit do not mean one route.
    RouteMismatch = "route_mismatch", "call each MCP server by its own host; a call for one route is not carried to another";
    /// A call without the caller's identity.
    IdentityMissing = "identity_missing", "calls come from the control plane, which signs each of them; nothing else may call the gateway";
    /// The caller's identity is not signed by a known key, is for another tunnel, or does not fit the call.
    IdentityInvalid = "identity_invalid", "the gateway does not trust the caller's signature; the operator must check `identity_key_file` and the server's keys";
    /// The caller's identity was valid once.
    IdentityExpired = "identity_expired", "call again; if it is refused again the clocks of server and gateway disagree";
    /// The caller's identity was used before.
    IdentityReplayed = "identity_replayed", "call again; each call carries an identity of its own";
    /// A sealed credential that this perimeter cannot open: sealed for another, or changed since.
    CredentialUnopenable = "credential_unopenable", "this perimeter cannot open the credential; create it again, now that the perimeter is registered";
    /// The credential is bound to another MCP URL than the route's.
    CredentialNotForRoute = "credential_not_for_route", "a vault credential is used only at its own MCP server URL, by a route with source = \"api:\"";
    /// A kind of credential that cannot be used here.
    CredentialKindUnsupported = "credential_kind_unsupported", "this kind of credential is not for MCP servers; use a static_bearer or mcp_oauth credential";
    /// A credential's token endpoint is not among those that the operator listed.
    TokenEndpointNotListed = "token_endpoint_not_listed", "the operator must list the credential's token endpoint as a [[gateway.token_endpoint]]";
    /// The token endpoint gave no new tokens for the refresh token.
    RefreshRefused = "refresh_refused", "authorise the client anew and update the credential's tokens";
    /// The upstream did not accept the credential.
    UpstreamUnauthorized = "upstream_unauthorized", "the MCP server refused the credential; the operator must check it";
    /// The upstream answered with something that is not MCP.
    UpstreamProtocol = "upstream_protocol", "the upstream's answer is not well-formed MCP; tell the operator";
    /// An answer is larger than the route allows.
    ResultTooLarge = "result_too_large", "ask the tool for less at a time";
    /// The upstream did not answer within the route's timeout.
    Timeout = "timeout", "ask for less at a time; the operator can raise the route's `timeout`";
    /// The upstream took the call and the connection broke before its answer.
    OutcomeUnknown = "outcome_unknown", "the call may have taken effect; look before you repeat it";
    /// The upstream answered with a redirect, which is not followed.
    RedirectRefused = "redirect_refused", "the operator must name the MCP server's own URL as the route's `upstream`";
    /// An MCP session id that was not issued to this caller by this route.
    McpSessionUnknown = "mcp_session_unknown", "initialize a new MCP session";
    /// The session's grants were revoked for good.
    GrantsRevoked = "grants_revoked", "the operator has revoked this session's credentials; start a new session";
    /// The gateway does as much as it may at a time.
    GatewayBusy = "gateway_busy", "the gateway is at its limit; try again shortly";
    /// The gateway is about to end.
    GatewayDraining = "gateway_draining", "the gateway is stopping; try again shortly";
}

impl std::fmt::Display for Reason {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

/// A refusal: why, and what to do next. Nothing happens after one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Denial {
    /// The typed cause.
    pub reason: Reason,
    /// A sentence for whoever was refused.
    pub next_step: String,
    /// The rule or policy that refused, or came nearest, where there is one.
    pub rule: Option<String>,
    /// Whether someone should be told: tripwires and misuse of credentials.
    pub alarm: bool,
    /// What a candidate of the zone would have done: allowed it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shadow: Option<Box<Shadow>>,
}

impl Denial {
    /// A refusal with the reason's own next step and no alarm.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        Self { reason, next_step: reason.next_step().to_owned(), rule: None, alarm: reason.is_alarming(), shadow: None }
    }

    /// The same, with a more exact next step.
    #[must_use]
    pub fn advising(reason: Reason, next_step: impl Into<String>) -> Self {
        Self { next_step: next_step.into(), ..Self::new(reason) }
    }

    /// The same, naming the rule that refused.
    #[must_use]
    pub fn by(self, rule: &str) -> Self {
        Self { rule: Some(rule.to_owned()), ..self }
    }
}

impl std::fmt::Display for Denial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}: {}", self.reason, self.next_step)
    }
}

impl std::error::Error for Denial {}

impl Reason {
    /// Whether an honest agent does not run into this by itself.
    #[must_use]
    pub fn is_alarming(self) -> bool {
        use Reason::{
            AddressMetadata, AuthorityMismatch, CredentialNotForRoute, CredentialUnopenable, ForeignCredential,
            IdentityInvalid, IdentityMissing, IdentityReplayed, McpSessionUnknown, PlaceholderUnresolved,
            PlaceholderWrongHost, PlaceholderWrongLocation, PlaceholderWrongPort, PlaceholderWrongScheme,
            PlaceholderWrongSession, RealSecretSeen, RouteMismatch,
        };
        matches!(
            self,
            AddressMetadata
                | AuthorityMismatch
                | CredentialNotForRoute
                | CredentialUnopenable
                | ForeignCredential
                | IdentityInvalid
                | IdentityMissing
                | IdentityReplayed
                | McpSessionUnknown
                | PlaceholderUnresolved
                | PlaceholderWrongHost
                | PlaceholderWrongLocation
                | PlaceholderWrongPort
                | PlaceholderWrongScheme
                | PlaceholderWrongSession
                | RealSecretSeen
                | RouteMismatch
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_reason_has_its_own_code_and_a_next_step() {
        let codes: BTreeSet<_> = Reason::ALL.iter().map(|reason| reason.code()).collect();
        assert_eq!(codes.len(), Reason::ALL.len());
        for reason in Reason::ALL {
            assert!(reason.code().bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_'), "{reason}");
            assert!(reason.next_step().len() > 10, "{reason}");
        }
    }

    #[test]
    fn misuse_at_the_gateway_is_alarming_and_an_honest_mistake_is_not() {
        use Reason::*;
        for reason in [
            RouteMismatch,
            IdentityMissing,
            IdentityInvalid,
            IdentityReplayed,
            CredentialUnopenable,
            CredentialNotForRoute,
        ] {
            assert!(Denial::new(reason).alarm, "{reason}");
        }
        for reason in [
            McpServerNotAllowed,
            McpMethodNotAllowed,
            ToolNotAllowed,
            ArgumentNotAllowed,
            RouteUnknown,
            IdentityExpired,
            CredentialKindUnsupported,
            TokenEndpointNotListed,
            UpstreamUnauthorized,
            UpstreamProtocol,
            ResultTooLarge,
            GatewayBusy,
            GatewayDraining,
        ] {
            assert!(!Denial::new(reason).alarm, "{reason}");
        }
    }

    #[test]
    fn a_reason_travels_as_its_code() {
        for reason in Reason::ALL {
            let json = serde_json::to_string(reason).unwrap();
            assert_eq!(json, format!("\"{}\"", reason.code()));
            assert_eq!(serde_json::from_str::<Reason>(&json).unwrap(), *reason);
        }
    }
}
