//! May an MCP message go to a route?

use super::Zone;
use crate::permit::McpPermit;
use crate::reason::{Denial, Reason};
use crate::request::McpCall;

pub(super) fn decide(_zone: &Zone, _call: &McpCall<'_>) -> Result<McpPermit, Denial> {
    Err(Denial::new(Reason::McpServerNotAllowed))
}

pub(super) fn servers(_zone: &Zone) -> Vec<&str> {
    Vec::new()
}
