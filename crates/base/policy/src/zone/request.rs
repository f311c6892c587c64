//! May an exact request leave, and what is injected into it?

use super::Zone;
use crate::permit::Permit;
use crate::reason::{Denial, Reason};
use crate::request::Request;

pub(super) fn decide(zone: &Zone, request: &Request) -> Result<Permit, Denial> {
    let _ = (&zone.rules, request);
    Err(Denial::new(Reason::HostNotAllowed))
}
