//! Why a connection to the edge does not stand, in words for the operator, and how soon to try again. Nothing that a peer wrote is repeated.

use std::time::Duration;

use postern_net::{Backoff, DialError, TlsError};
use postern_tunnel::handover::ConnectorError;
use postern_tunnel::wire::{self, reason};

/// Why an attempt, or a connection that stood, ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error("the edge is not reached")]
    Unreachable(#[source] DialError),
    #[error("the proxy is not reached")]
    ProxyUnreachable(#[source] DialError),
    #[error("the proxy answered {0} instead of opening the way to the edge")]
    ProxyRefused(u16),
    #[error("the proxy does not speak HTTP as it should")]
    ProxyProtocol,
    #[error("the edge did not prove who it is, or does not speak TLS 1.3")]
    Untrusted(#[source] TlsError),
    #[error("the edge refused the connection: {0}")]
    Refused(String),
    #[error("what answers there is not an edge")]
    Protocol,
    #[error("the edge took too long")]
    Slow,
    #[error("the connection to the edge was lost")]
    Lost,
}

impl Failure {
    /// A refusal, by the reason that the edge named.
    pub(crate) fn refused(reason: Option<&str>) -> Self {
        reason
            .filter(|reason| wire::is_reason(reason))
            .map_or(Self::Protocol, |reason| Self::Refused(reason.to_owned()))
    }

    fn code(&self) -> &str {
        match self {
            Self::Unreachable(_) => "edge_unreachable",
            Self::ProxyUnreachable(_) => "proxy_unreachable",
            Self::ProxyRefused(_) => "proxy_refused",
            Self::ProxyProtocol => "proxy_protocol",
            Self::Untrusted(_) => "edge_untrusted",
            Self::Refused(reason) => reason,
            Self::Protocol => "edge_protocol",
            Self::Slow => "edge_slow",
            Self::Lost => "connection_lost",
        }
    }

    fn next_step(&self) -> &'static str {
        match self {
            Self::Unreachable(_) | Self::Slow => {
                "check [gateway] edge and that this host reaches it on that port; where only a proxy leads out, name it in [gateway] proxy"
            }
            Self::ProxyUnreachable(_) => "check [gateway] proxy and that this host reaches it",
            Self::ProxyRefused(407) => "give [gateway] proxy_credentials_file: the proxy asks who is calling",
            Self::ProxyRefused(_) | Self::ProxyProtocol => {
                "ask the proxy's operator to let CONNECT through to the edge's host and port"
            }
            Self::Untrusted(_) => {
                "check that [gateway] edge_ca_file is the authority of the edge's certificate and that no middlebox replaces it"
            }
            Self::Refused(reason) if is_about_the_token(reason) => {
                "write the tunnel's current token to [gateway] tunnel_token_file: `postern tunnel token TUNNEL --out FILE`"
            }
            Self::Refused(reason) if reason == reason::CONNECTIONS_FULL => {
                "stop a gateway of this tunnel, or wait until dead connections are noticed"
            }
            Self::Refused(_) => "the connector tries again by itself; see the server's log if it stays so",
            Self::Protocol => "check that [gateway] edge names the edge's own listener, of the same version of Postern",
            Self::Lost => "nothing: the connector connects again by itself",
        }
    }

    /// For the gateway and its status.
    pub(crate) fn outward(&self) -> ConnectorError {
        ConnectorError {
            code: self.code().to_owned(),
            message: self.to_string(),
            next_step: self.next_step().to_owned(),
        }
    }

    /// How long to wait after this many failures in a row (from 1). What may be mended at any moment is tried about once a second; what an
    /// operator has to mend, less often.
    pub(crate) fn pause(&self, failures: u32, random: u64) -> Duration {
        let (base, cap) = match self {
            Self::Refused(reason) if reason != reason::DRAINING => (Duration::from_secs(2), Duration::from_secs(30)),
            Self::Untrusted(_) | Self::ProxyRefused(_) => (Duration::from_secs(2), Duration::from_secs(30)),
            _ if failures > PATIENT_AFTER => (Duration::from_secs(1), Duration::from_secs(10)),
            _ => (Duration::from_millis(100), Duration::from_secs(1)),
        };
        Backoff { base, cap, ..Backoff::default() }.delay(failures.saturating_sub(1), None, random)
    }
}

fn is_about_the_token(reason: &str) -> bool {
    [reason::TOKEN_MISSING, reason::TOKEN_REFUSED].contains(&reason)
}

/// An edge that restarts is back within these; one that stays away longer is asked less often.
const PATIENT_AFTER: u32 = 120;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_edge_that_restarts_is_tried_at_least_once_a_second() {
        for failures in 1..=PATIENT_AFTER {
            for failure in [Failure::Lost, Failure::Slow, Failure::Protocol, Failure::Unreachable(DialError::NoPermit)]
            {
                assert!(failure.pause(failures, u64::MAX) <= Duration::from_secs(1), "{failures}");
            }
        }
        assert!(Failure::Lost.pause(1, u64::MAX) <= Duration::from_millis(100));
    }

    #[test]
    fn what_an_operator_must_mend_is_not_hammered() {
        let refused = Failure::Refused(reason::TOKEN_REFUSED.to_owned());
        assert!(refused.pause(1, 0) >= Duration::from_secs(1));
        assert!(refused.pause(40, 0) >= Duration::from_secs(15));
        assert!(Failure::Lost.pause(PATIENT_AFTER + 40, 0) >= Duration::from_secs(5));
    }

    #[test]
    fn a_peers_own_words_are_not_repeated() {
        assert_eq!(Failure::refused(Some("token_refused")).outward().code, "token_refused");
        for reason in [None, Some("<script>"), Some("two words"), Some("")] {
            assert_eq!(Failure::refused(reason).outward().code, "edge_protocol");
        }
    }

    #[test]
    fn each_failure_says_what_to_do() {
        let all = [
            Failure::Unreachable(DialError::NoPermit),
            Failure::ProxyUnreachable(DialError::NoPermit),
            Failure::ProxyRefused(407),
            Failure::ProxyRefused(403),
            Failure::ProxyProtocol,
            Failure::Untrusted(TlsError::NoPlatformRoots),
            Failure::Protocol,
            Failure::Refused(reason::TOKEN_REFUSED.to_owned()),
            Failure::Refused(reason::CONNECTIONS_FULL.to_owned()),
            Failure::Slow,
            Failure::Lost,
        ];
        for failure in all {
            let outward = failure.outward();
            assert!(
                wire::is_reason(&outward.code) && !outward.message.is_empty() && !outward.next_step.is_empty(),
                "{failure:?}"
            );
        }
    }
}
