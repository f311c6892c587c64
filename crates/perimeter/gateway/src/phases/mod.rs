//! One request, phase by phase, in this order: identity, authority, message, zone, tripwires, address, record,
//! credential, forward, answer (which scrubs). No phase is reached but through the ones before it.

pub(crate) mod address;
pub(crate) mod answer;
pub(crate) mod authority;
pub(crate) mod credential;
pub(crate) mod events;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod identity;
pub(crate) mod message;
pub(crate) mod record;
pub(crate) mod refuse;
pub(crate) mod reply;
pub(crate) mod scrub;
pub(crate) mod tripwires;
pub(crate) mod zone;
