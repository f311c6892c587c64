//! What the connector refused at its own door, where the edge's connections end: it has no way to the log, so the record is made here.

use postern_policy::{Denial, Reason};
use postern_tunnel::handover::Refusal;

use crate::{gateway::Gateway, phases::record};

/// Writes it down. Without a log nothing else is carried either, and the status says so.
pub(crate) async fn refused(gateway: &Gateway, refusal: Refusal, times: u64) {
    let denial = denial(refusal);
    gateway.troubles.note(denial.reason.code(), WHAT_HAPPENED);
    if let Err(failed) = record::refused_outside(gateway, &denial, times).await {
        tracing::error!(
            reason = denial.reason.code(),
            because = failed.reason.code(),
            "a refusal could not be recorded"
        );
    }
}

fn denial(refusal: Refusal) -> Denial {
    let reason = match refusal {
        Refusal::HeadTooLong => Reason::LimitHeaders,
        Refusal::Malformed => Reason::RequestMalformed,
        Refusal::HostForeign => Reason::RouteMismatch,
        Refusal::TooMuch => Reason::LimitRate,
    };
    Denial { next_step: NEXT_STEP.to_owned(), ..Denial::new(reason) }
}

const WHAT_HAPPENED: &str = "the edge asked the connector for what no edge of ours asks";
const NEXT_STEP: &str =
    "check that [gateway] edge names the edge's own listener, of the same version of Postern, and who runs it";
