//! The HTTP face of the control plane: one table of routes, one path from request to answer.
//!
//! Authenticates by the credential's value, parses strictly, calls engine and store, renders. Decides nothing about
//! sessions. The secrets it sees are the keys it issues and, for the length of the request that brings one, a
//! credential's, which leaves it sealed.

mod app;
mod body;
mod caller;
mod credential;
mod dispatch;
mod handlers;
mod multipart;
mod once;
mod openapi;
mod pollers;
mod query;
mod reply;
mod roles;
mod routes;
mod scope;
mod serve;
mod shape;
mod shares;
mod skills;
mod sse;
mod tunnels;

pub use app::{App, Limits};
pub use caller::Kind;
pub use dispatch::router;
pub use routes::{Beta, Method, ROUTES, Route};
pub use serve::{serve, serve_operator, serve_tls};
pub use shares::Lasting;
pub use tunnels::{Probing, TunnelFacts, TunnelProber, Tunnels};
