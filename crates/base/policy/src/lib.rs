//! Pure decisions: zones, matchers, Cedar. A question goes in, a permit or a denial comes out.
//! Never opens a socket or a file, reads a clock or the environment, or sees a secret.

pub mod address;
mod cedar;
pub mod credential;
mod data;
pub mod document;
pub mod foreign;
mod host;
pub mod minting;
pub mod overrides;
mod path;
pub mod permit;
pub mod reason;
pub mod request;
mod wire;
pub mod zone;

pub use address::{AddressClass, classify};
pub use credential::{BasicPart, Credential, CredentialName, Location, Source};
pub use document::{ConfigError, Document};
pub use foreign::ForeignCredential;
pub use host::{BadHost, Host, HostPattern};
pub use overrides::Override;
pub use path::{BadGlob, BadPath, CanonicalPath, PathGlob};
pub use permit::{
    BadEndpoint, ConfiguredPermit, ConnectPermit, DialPermit, Endpoint, GrantPermit, Injection, Permit, Target,
    ToolPermit, configured,
};
pub use reason::{Denial, Reason};
pub use request::{Connect, Found, FoundValue, Issued, Place, Request, SessionFacts, ToolUse, Transport};
pub use wire::{BadMethod, Method, Port, Scheme};
pub use zone::{Control, Mount, MountAccess, SandboxLimits, Zone, Zones};
