//! May a host and port be talked to at all?

use super::Zone;
use crate::permit::ConnectPermit;
use crate::reason::{Denial, Reason};
use crate::request::Connect;

pub(super) fn decide(zone: &Zone, connect: &Connect) -> Result<ConnectPermit, Denial> {
    let _ = (&zone.rules, connect);
    Err(Denial::new(Reason::HostNotAllowed))
}
