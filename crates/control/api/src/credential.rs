//! What a caller sends about a credential, and what is kept of it (contract 8.1).
//!
//! The secrets of a body are [`SecretBytes`] from the moment they are parsed, and leave here only sealed.

mod auth;
mod change;
mod parts;
mod seal;

pub(crate) use auth::{CreateCredential, UpdateCredential};
pub(crate) use change::{ChangedAuth, Sealed};
pub(crate) use seal::seal_parts;
