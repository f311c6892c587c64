//! Zones: which session may reach what, with which credential. Selected once per session, then asked per action.

mod audit;
mod connect;
pub mod diff;
mod explain;
mod in_force;
mod load;
mod mcp;
mod mcp_rule;
mod read_credential;
mod read_mcp;
mod read_rule;
mod request;
mod rule;
mod sandbox;
mod select;
mod shadow;

/// How parts of a rule are read, wherever they stand in the file.
pub(crate) mod reading {
    pub(crate) use super::load::is_name;
    pub(crate) use super::read_credential::{read_source, reserved_header};
    pub(crate) use super::read_rule::{read_addresses, read_ca, read_nets};
}

pub use audit::AuditMode;
pub use explain::{Account, CedarWord, Explanation};
pub use in_force::ZoneInForce;
pub use read_rule::shared_domain;
pub use sandbox::{Control, Mount, MountAccess, Packages, SandboxLimits, System};
pub use select::Zones;
pub use shadow::Shadow;

use crate::cedar::{Action, Attribute, Builder, Policies, tools_rule};
use crate::credential::{Credential, CredentialName, Source};
use crate::location::BodyKind;
use crate::permit::{ConnectPermit, GrantPermit, McpPermit, PassPermit, Permit, ToolPermit};
use crate::reach::Reach;
use crate::reason::{Denial, Reason};
use crate::repository::{RepositoryToken, RepositoryUrl};
use crate::request::{Connect, McpCall, Request, ToolUse};
use crate::{Host, Port};
use explain::RuleLines;
use mcp_rule::McpRule;
use rule::{Inspection, Repositories, Rule};
use std::sync::Arc;

/// The name of the built-in zone of an environment without any.
pub const DENY_ALL: &str = "deny-all";

/// What a session may do. Immutable; a reload makes another with another digest.
#[derive(Debug)]
pub struct Zone {
    name: String,
    digest: String,
    audit: AuditMode,
    sandbox: SandboxLimits,
    credentials: Vec<Credential>,
    rules: Vec<Rule>,
    mcp_rules: Vec<McpRule>,
    policies: Policies,
    lines: RuleLines,
    /// What is asked about everything this zone decides, and decides nothing.
    candidate: Option<Arc<Zone>>,
}

impl Zone {
    /// The built-in zone of an environment without any: no egress, no credential, no mount.
    pub(crate) fn deny_all() -> Self {
        Self {
            name: DENY_ALL.to_owned(),
            digest: digest(DENY_ALL, &[]),
            audit: AuditMode::Written,
            sandbox: SandboxLimits::default(),
            credentials: Vec::new(),
            rules: Vec::new(),
            mcp_rules: Vec::new(),
            policies: Builder::new(DENY_ALL).finish().expect("the built-in permit for tools is validated by a test"),
            lines: RuleLines::default(),
            candidate: None,
        }
    }

    /// Its name in the file, or [`DENY_ALL`].
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `sha256:` and 64 hexadecimal digits, of everything in the file that this zone decides by.
    #[must_use]
    pub fn digest(&self) -> &str {
        &self.digest
    }

    /// The zone in `mode = "shadow"` that is a candidate of this one.
    #[must_use]
    pub fn candidate(&self) -> Option<&Arc<Zone>> {
        self.candidate.as_ref()
    }

    /// How safe a record must be before what it is about.
    #[must_use]
    pub fn audit(&self) -> AuditMode {
        self.audit
    }

    /// Whether a rule lets TLS connections pass that nobody inspects, so that the server's own certificate is met inside.
    #[must_use]
    pub fn passes_uninspected(&self) -> bool {
        self.rules.iter().any(|rule| rule.inspection == Inspection::None)
    }

    /// The limits of its sandboxes.
    #[must_use]
    pub fn sandbox(&self) -> &SandboxLimits {
        &self.sandbox
    }

    /// Its credentials, in the order of the file.
    #[must_use]
    pub fn credentials(&self) -> &[Credential] {
        &self.credentials
    }

    /// The credential of this name.
    #[must_use]
    pub fn credential(&self, name: &CredentialName) -> Option<&Credential> {
        self.credentials.iter().find(|credential| credential.name == *name)
    }

    /// May this host and port be talked to at all, and in which scheme?
    ///
    /// # Errors
    /// The typed refusal.
    pub fn connect(&self, connect: &Connect) -> Result<ConnectPermit, Denial> {
        connect::decide(self, connect)
    }

    /// May a TLS connection to this host and port pass through uninspected? `None` where its requests are inspected and
    /// decided one by one, or no rule names it.
    ///
    /// # Errors
    /// A policy of the zone forbids it.
    pub fn pass(&self, host: &Host, port: Port) -> Result<Option<PassPermit>, Denial> {
        connect::pass(self, host, port)
    }

    /// May this exact request leave, and what is injected into it?
    ///
    /// # Errors
    /// The typed refusal.
    pub fn request(&self, request: &Request) -> Result<Permit, Denial> {
        self.request_of(request, &[])
    }

    /// The same of a session that was given repositories: their tokens are credentials of its own.
    ///
    /// # Errors
    /// The typed refusal.
    pub fn request_of(&self, request: &Request, repositories: &[RepositoryToken]) -> Result<Permit, Denial> {
        request::decide(self, request, repositories)
    }

    /// Whether some credential may be put into a body of this kind at this host, so that one is read whole before it
    /// is decided about.
    #[must_use]
    pub fn injects_into(&self, host: &Host, kind: BodyKind) -> bool {
        let into_body =
            |credential: &Credential| credential.inject.iter().any(|location| location.body() == Some(kind));
        let mut here = self.rules.iter().filter(|rule| rule.host.covers(host));
        here.any(|rule| rule.credential.as_ref().and_then(|name| self.credential(name)).is_some_and(into_body))
    }

    /// The credential that a variable of the session's vaults is for.
    #[must_use]
    pub fn for_variable(&self, variable: &str) -> Option<&Credential> {
        self.credentials.iter().find(|credential| matches!(&credential.source, Source::Api(named) if named == variable))
    }

    /// The hosts of a vault credential that no rule of the zone sends it to.
    #[must_use]
    pub fn out_of_reach(&self, name: &CredentialName, reach: &Reach) -> Vec<String> {
        let bound: Vec<_> = self.rules.iter().filter(|rule| rule.credential.as_ref() == Some(name)).collect();
        reach.hosts_without(|pattern| bound.iter().any(|rule| rule.host.meets(pattern)))
    }

    /// May custody hand out this credential's secret for a session of this zone? It must be named by a credential
    /// that can be injected somewhere, and by a rule.
    ///
    /// # Errors
    /// `custody_denied`.
    pub fn grant(&self, name: &CredentialName) -> Result<GrantPermit, Denial> {
        let usable = self.credential(name).is_some_and(|credential| !credential.inject.is_empty());
        let ruled = self.rules.iter().any(|rule| rule.credentials().any(|used| used == name));
        if usable && ruled {
            Ok(GrantPermit { credential: name.clone(), zone: self.name.clone() })
        } else {
            Err(Denial::new(Reason::CustodyDenied))
        }
    }

    /// May custody hand out the token of a session's repository? Some rule for its host and port must take such tokens.
    ///
    /// # Errors
    /// `custody_denied`, with the line to add.
    pub fn grant_repository(&self, token: &RepositoryToken) -> Result<GrantPermit, Denial> {
        if self.takes_token_of(token.url()) {
            return Ok(GrantPermit { credential: token.credential().clone(), zone: self.name.clone() });
        }
        let step = format!(
            "an operator adds `repositories = true` to an egress rule of zone {} for {}, scheme {}, port {}",
            self.name,
            token.url().host(),
            token.url().scheme(),
            token.url().port()
        );
        Err(Denial::advising(Reason::CustodyDenied, step))
    }

    fn takes_token_of(&self, url: &RepositoryUrl) -> bool {
        self.rules.iter().any(|rule| {
            rule.repositories == Repositories::Taken
                && rule.scheme == url.scheme()
                && rule.host.covers(url.host())
                && rule.ports.contains(&url.port())
        })
    }

    /// May this MCP message go to its route?
    ///
    /// # Errors
    /// The typed refusal, by the rule that came nearest.
    pub fn mcp(&self, call: &McpCall<'_>) -> Result<McpPermit, Denial> {
        shadow::beside(mcp::decide(self, call), self.candidate.as_deref(), |candidate| mcp::decide(candidate, call))
    }

    /// Whether the zone's answer to a call hangs on its arguments: rules for the tool ask for some, each of them.
    #[must_use]
    pub fn asks_for_arguments(&self, call: &McpCall<'_>) -> bool {
        mcp::asks_for_arguments(self, call)
    }

    /// The routes that its `mcp` rules name, each once, in the order of the file. They may live in another file.
    #[must_use]
    pub fn mcp_servers(&self) -> Vec<&str> {
        mcp::servers(self)
    }

    /// May this tool be used? Yes, unless the zone's policy file forbids it.
    ///
    /// # Errors
    /// The typed refusal.
    pub fn tool_use(&self, tool: &ToolUse) -> Result<ToolPermit, Denial> {
        let rule = tools_rule(&self.name);
        let attributes = vec![("tool", Attribute::Text(&tool.name)), ("facts", Attribute::Names(Vec::new()))];
        self.policies.ask(&rule, Action::ToolUse, &tool.name, attributes)?;
        Ok(ToolPermit { tool: tool.name.clone(), rule, shadow: None })
    }
}

/// The digest of a zone: its name and everything written in its section and the files that names.
fn digest(name: &str, canonical: &[u8]) -> String {
    digest_of(b"postern zone 1\0", &[name.as_bytes(), b"\0", canonical])
}

/// `sha256:` and 64 hexadecimal digits of the parts, after a label that says what they are.
pub(crate) fn digest_of(label: &[u8], parts: &[&[u8]]) -> String {
    let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
    context.update(label);
    parts.iter().for_each(|part| context.update(part));
    let hex: String = context.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

#[cfg(test)]
mod tests;
