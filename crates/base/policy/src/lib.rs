//! Pure decisions: zones, matchers, Cedar. A question goes in, a permit or a denial comes out.
//! Never opens a socket or a file, reads a clock or the environment, or sees a secret.

pub mod address;
mod argument;
mod automaton;
pub mod canonical;
mod cedar;
pub mod credential;
mod data;
pub mod deployment;
pub mod document;
pub mod foreign;
#[doc(hidden)]
pub mod fuzzing;
pub mod gateway;
mod host;
pub mod location;
pub mod minting;
pub mod overrides;
mod path;
pub mod permit;
pub mod reach;
pub mod reason;
mod repository;
pub mod request;
pub mod web;
mod wire;
pub mod zone;

pub use address::{AddressClass, classify};
pub use credential::{BasicPart, Credential, CredentialName, Location, Source};
pub use deployment::{Deployment, Role};
pub use document::{ConfigError, Document};
pub use foreign::ForeignCredential;
pub use gateway::{BadMcpUrl, HeaderFormat, Route, RouteCredential, Routes, TokenEndpoint, normalise_mcp_url};
pub use host::{BadHost, Host, HostPattern};
pub use location::BodyKind;
pub use overrides::Override;
pub use path::{BadGlob, BadPath, CanonicalPath, PathGlob};
pub use permit::{
    BadEndpoint, ConfiguredPermit, ConnectPermit, DialPermit, Endpoint, GrantPermit, Injection, McpPermit, PassPermit,
    Permit, PublicPermit, RoutePermit, Target, ToolPermit, configured, public_server,
};
pub use reach::Reach;
pub use reason::{Denial, Reason};
pub use repository::{BadRepositoryUrl, RepositoryToken, RepositoryUrl};
pub use request::{
    Connect, Found, FoundValue, Issued, McpCall, Place, Request, SessionFacts, ToolUse, Transport, Upgrade,
};
pub use wire::{BadMethod, Method, Port, Scheme};
pub use zone::{
    AuditMode, Control, Mount, MountAccess, Packages, SandboxLimits, Shadow, System, Zone, ZoneInForce, Zones,
};
