//! What edge, connector, gateway and the caller at the far end of a tunnel share: the words of the carrying connection,
//! the identity of a call, the rules for certificates. Opens no socket.

pub mod carry;
pub mod certificate;
#[doc(hidden)]
pub mod fuzzing;
pub mod handover;
pub mod identity;
pub mod wire;

pub use carry::{Carry, CarryError};
pub use wire::{Lane, Welcome};

/// Lower-case hex.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
