//! Our own role processes and the sockets that join them: framed messages with descriptors, calls over them, and the one way a role is started.
//! Never starts model-chosen code (that is the sandbox's work), opens no network socket, and prints nothing of what a message carries.

pub mod asynchronous;
mod blocking;
pub mod frame;
#[doc(hidden)]
pub mod fuzzing;
mod intake;
pub mod lease;
pub mod program;
pub mod role;
pub mod rpc;
mod socket;
mod wire;

pub use blocking::Channel;
pub use frame::ChannelError;
pub use wire::WireBytes;
