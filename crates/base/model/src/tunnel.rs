//! Tunnels and the CA certificates that they trust (contract part 7).
//!
//! A tunnel's token is not here: whoever reveals one renders it, and nobody keeps it.

use serde::{Deserialize, Serialize};

use crate::ids::{CertificateId, TunnelId, TunnelTokenId};
use crate::{Field, Problem, Timestamp};

/// The most tunnels of a workspace that are not archived.
pub const MAX_ACTIVE_TUNNELS: usize = 10;
/// The most certificates of a tunnel that are not archived: the old one and its successor.
pub const MAX_ACTIVE_CERTIFICATES: usize = 2;
/// The longest PEM text that is looked at, in bytes.
pub const MAX_PEM_BYTES: usize = 8 * 1024;
const MAX_REASON: usize = 1024;
/// The longest name of a resource that people read.
pub(crate) const MAX_DISPLAY_NAME: usize = 255;

/// A tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Tunnel {
    /// Its id.
    pub id: TunnelId,
    /// Always `tunnel`.
    #[serde(rename = "type")]
    pub kind: TunnelTag,
    /// The caller's name for it; fixed at creation.
    pub display_name: Option<String>,
    /// URLs whose host is a subdomain of this go through the tunnel. Never given to another tunnel.
    pub domain: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// The constant `tunnel`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelTag {
    /// `tunnel`.
    #[default]
    #[serde(rename = "tunnel")]
    Tunnel,
}

/// A CA certificate of a tunnel.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelCertificate {
    /// Its id.
    pub id: CertificateId,
    /// Always `tunnel_certificate`.
    #[serde(rename = "type")]
    pub kind: TunnelCertificateTag,
    /// Whose it is.
    pub tunnel_id: TunnelId,
    /// SHA-256 of its DER form, lower-case hex.
    pub fingerprint: String,
    /// When it was registered.
    pub created_at: Timestamp,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// When it left the trusted set.
    pub archived_at: Option<Timestamp>,
}

/// The constant `tunnel_certificate`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelCertificateTag {
    /// `tunnel_certificate`.
    #[default]
    #[serde(rename = "tunnel_certificate")]
    TunnelCertificate,
}

/// The answer to a revocation: the token's record, never its value.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelTokenRevoked {
    /// The token's id.
    pub id: TunnelTokenId,
    /// Always `tunnel_token_revoked`.
    #[serde(rename = "type")]
    pub kind: TunnelTokenRevokedTag,
    /// Whose it was.
    pub tunnel_id: TunnelId,
    /// Since when it opens nothing.
    pub revoked_at: Timestamp,
}

/// The constant `tunnel_token_revoked`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelTokenRevokedTag {
    /// `tunnel_token_revoked`.
    #[default]
    #[serde(rename = "tunnel_token_revoked")]
    TunnelTokenRevoked,
}

/// What an operator may know of a tunnel as it stands. Ours; the contract has no such resource.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelStatus {
    /// Always `tunnel_status`.
    #[serde(rename = "type")]
    pub kind: TunnelStatusTag,
    /// Which tunnel.
    pub tunnel_id: TunnelId,
    /// Its domain.
    pub domain: String,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
    /// Its token, without the value.
    pub token: TokenStatus,
    /// The connections that its connectors hold to this server's edge.
    pub connections: Vec<TunnelConnection>,
    /// The CA certificates that are trusted now. None: all traffic is refused.
    pub certificates: Vec<CertificateStatus>,
    /// How its gateway stands, as it says itself; null without a control stream of one, or when it did not say in time.
    pub gateway: Option<TunnelGateway>,
    /// What went wrong with its connections, the newest last.
    pub last_errors: Vec<TunnelError>,
}

/// A tunnel's gateway. Its own words, bounded.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelGateway {
    /// What the operator calls it.
    pub name: String,
    /// Its build.
    pub version: String,
    /// Its connector's connections to the edge, as the connector counts them.
    pub connections: u32,
    /// Whole days until its leaf ends; negative once it has; null without a leaf.
    pub leaf_days_left: Option<i64>,
    /// Its routes.
    pub routes: Vec<TunnelRoute>,
    /// What went wrong lately, the newest last.
    pub last_errors: Vec<TunnelError>,
}

/// One route of a gateway.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelRoute {
    /// The label before the tunnel's domain.
    pub host: String,
    /// Where it leads.
    pub upstream: String,
    /// How it gets its credential: `none`, `own` or `api`.
    pub credential: String,
}

/// The constant `tunnel_status`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum TunnelStatusTag {
    /// `tunnel_status`.
    #[default]
    #[serde(rename = "tunnel_status")]
    TunnelStatus,
}

/// The current token's record.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TokenStatus {
    /// Its id.
    pub id: TunnelTokenId,
    /// Counts rotations, from 1.
    pub generation: u64,
    /// Since when it opens nothing.
    pub revoked_at: Option<Timestamp>,
}

/// One live connection.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelConnection {
    /// Unique in the server's process.
    pub id: u64,
    /// The connector's own random id.
    pub connector: String,
    /// `interactive` or `bulk`.
    pub lane: String,
    /// Since when.
    pub since: Timestamp,
    /// From where.
    pub peer: String,
    /// Streams that are open now.
    pub open_streams: u64,
    /// Bytes carried both ways, ciphertext.
    pub carried_bytes: u64,
}

/// A trusted certificate and how long it lasts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CertificateStatus {
    /// Its id.
    pub id: CertificateId,
    /// SHA-256 of its DER form, lower-case hex.
    pub fingerprint: String,
    /// When it expires.
    pub expires_at: Option<Timestamp>,
    /// Whole days until then; negative once it has.
    pub days_left: Option<i64>,
}

/// Something that went wrong.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct TunnelError {
    /// When.
    pub at: Timestamp,
    /// A stable word.
    pub code: String,
    /// A sentence.
    pub message: String,
}

/// The body that creates a tunnel; it may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateTunnel {
    /// The caller's name for it.
    #[serde(default)]
    pub display_name: Field<String>,
}

impl CreateTunnel {
    /// The name within its limits.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<Option<String>, Problem> {
        self.display_name.value().map(|name| display_name(name, 1)).transpose()
    }
}

/// The body that rotates a token; it may be left out.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RotateToken {
    /// Why, for the record.
    #[serde(default)]
    pub reason: Field<String>,
}

impl RotateToken {
    /// The reason within its limit.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<Option<String>, Problem> {
        match self.reason.value() {
            Some(reason) if reason.chars().count() > MAX_REASON => {
                Err(Problem::invalid_at("reason", format!("must have at most {MAX_REASON} characters")))
            }
            reason => Ok(reason),
        }
    }
}

/// The body that registers a CA certificate.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegisterCertificate {
    /// One certificate, PEM, without any private key.
    pub ca_certificate_pem: String,
}

/// The body that probes a route of a tunnel.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProbeTunnel {
    /// The route: the label before the tunnel's domain.
    pub route: String,
}

impl ProbeTunnel {
    /// The route when it is one DNS label, in lower case.
    ///
    /// # Errors
    /// 400.
    pub fn checked(self) -> Result<String, Problem> {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-';
        let label = self.route.as_bytes();
        let fits = (1..=63).contains(&label.len())
            && label.iter().copied().all(plain)
            && !self.route.starts_with('-')
            && !self.route.ends_with('-');
        match fits {
            true => Ok(self.route.to_ascii_lowercase()),
            false => Err(Problem::invalid_at("route", "must be a route's name: one label of letters, digits and `-`")),
        }
    }
}

/// A name that people read, within its limits.
pub(crate) fn display_name(name: String, least: usize) -> Result<String, Problem> {
    if (least..=MAX_DISPLAY_NAME).contains(&name.chars().count()) {
        return Ok(name);
    }
    Err(Problem::invalid_at("display_name", format!("must have {least} to {MAX_DISPLAY_NAME} characters")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tunnel_s_name_is_optional_and_has_1_to_255_characters() {
        let name = |text: &str| serde_json::from_str::<CreateTunnel>(text).unwrap().checked();
        assert_eq!(name("{}"), Ok(None));
        assert_eq!(name(r#"{"display_name":null}"#), Ok(None));
        assert_eq!(name(r#"{"display_name":"a"}"#), Ok(Some("a".to_owned())));
        assert!(name(r#"{"display_name":""}"#).is_err());
        let long = |count: usize| format!(r#"{{"display_name":"{}"}}"#, "\u{e9}".repeat(count));
        assert!(name(&long(255)).is_ok());
        assert!(name(&long(256)).is_err());
    }

    #[test]
    fn a_route_is_one_label() {
        for (route, expected) in [
            ("wiki", Some("wiki")),
            ("Wiki-2", Some("wiki-2")),
            ("", None),
            ("-a", None),
            ("a-", None),
            ("a.b", None),
            ("a/b", None),
            ("a_b", None),
        ] {
            let checked = ProbeTunnel { route: route.to_owned() }.checked();
            assert_eq!(checked.ok().as_deref(), expected, "{route:?}");
        }
    }

    #[test]
    fn a_reason_has_a_bound() {
        let reason = |count: usize| RotateToken { reason: Field::Value("r".repeat(count)) }.checked();
        assert!(reason(1024).is_ok());
        assert!(reason(1025).is_err());
    }
}
