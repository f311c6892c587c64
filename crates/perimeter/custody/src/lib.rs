//! Custody: the one process that resolves secrets from their sources, issues placeholders for a session, and hands a secret to the egress proxy of a
//! live session whose zone names it, after the use is on record, until it takes that back. It reads the zones for itself. It never dials out, and the worker never gets a secret.

pub mod approved;
mod client;
mod custodian;
mod generation;
mod holds;
pub mod keeper;
mod kept;
mod keys;
mod ledger;
mod message;
mod open;
mod process;
mod refusal;
mod renewals;
mod source;
mod stamp;
pub mod store;

pub use client::{Client, CustodyError, EgressClient, GatewayClient, Grant, Refreshing, UseGrant, start};
pub use kept::Kept;
pub use message::{
    CallerKind, Configuration, FreshTokens, Issued, KeptAnswer, KnownPlaceholder, OauthParts, OpenSession, Opened,
    Purpose, Ready, RefreshGrant, Reload, Renewed, RouteGrant, RoutePurpose, VaultGrant, Withheld, WithheldCode,
};
pub use postern_secret::seal::PerimeterPublicKey;
pub use process::{ROLE, process_main};
pub use refusal::{Refusal, RefusalReason};
pub use source::{files, route_files, route_variables, variables};
