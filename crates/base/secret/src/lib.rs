//! What every side must know about secrets without holding any: a value type that cannot be
//! printed, placeholders, the one list of renderings in which a value may reappear, and the
//! matcher, scrubber, detector and canary search built on that list. Also the keys Postern issues, sealing to a perimeter, and
//! whether an opened file with a secret keeps others out.
//!
//! It never opens a store, a file or a socket, and never decides who may have a secret.

pub mod canary;
pub mod decode;
pub mod detect;
mod filter;
#[doc(hidden)]
pub mod fuzzing;
mod guarded;
pub mod key;
pub mod matcher;
mod placeholder;
pub mod renderings;
pub mod scrub;
pub mod seal;
mod symbols;
mod trie;
mod value;

pub use guarded::{Exposed, guarded};
pub use placeholder::{MARKER, Misshapen, Placeholder, Shape};
pub use renderings::Kind;
pub use value::{Secret, SecretBytes, Weak, admit};
