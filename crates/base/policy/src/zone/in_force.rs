//! The zone of a session that runs while the configuration changes. It keeps the zone that it was opened with, and
//! whatever it asks for must be allowed by the zone that would cover it now as well: a narrowing counts at once, a
//! widening when the session is opened anew, and where no zone covers it any more nothing is allowed.

use super::{AuditMode, Zone, shadow};
use crate::permit::{ConnectPermit, Injection, PassPermit, Permit, ToolPermit};
use crate::reason::{Denial, Reason};
use crate::repository::RepositoryToken;
use crate::request::{Connect, Request, ToolUse};
use crate::{Host, Port};
use std::sync::Arc;

/// The zone of a session, and what came after it.
#[derive(Clone, Debug)]
pub struct ZoneInForce {
    opened: Arc<Zone>,
    since: Since,
    /// Of the configuration that counts now: a candidate decides nothing, so it may change at any time.
    candidate: Option<Arc<Zone>>,
    /// What the session was given besides: the zones say whether it is used.
    repositories: Arc<[RepositoryToken]>,
}

#[derive(Clone, Debug)]
enum Since {
    Unchanged,
    Changed(Arc<Zone>),
    Uncovered(Denial),
}

impl ZoneInForce {
    /// Of a session that is being opened.
    #[must_use]
    pub fn new(opened: Arc<Zone>) -> Self {
        let candidate = opened.candidate().cloned();
        Self { candidate, opened, since: Since::Unchanged, repositories: Arc::default() }
    }

    /// The same session, with the tokens of the repositories that it was given.
    #[must_use]
    pub fn with_repositories(self, repositories: Vec<RepositoryToken>) -> Self {
        Self { repositories: repositories.into(), ..self }
    }

    /// The same session under another configuration, which selects this for it.
    #[must_use]
    pub fn succeeded(&self, selected: Result<Arc<Zone>, Denial>) -> Self {
        let candidate = selected.as_ref().ok().and_then(|zone| zone.candidate().cloned());
        let since = match selected {
            Ok(zone) if zone.digest() == self.opened.digest() => Since::Unchanged,
            Ok(zone) => Since::Changed(zone),
            Err(denial) => Since::Uncovered(denial),
        };
        Self { opened: Arc::clone(&self.opened), since, candidate, repositories: Arc::clone(&self.repositories) }
    }

    /// The zone that the session was opened with: whose digest its grants have.
    #[must_use]
    pub fn opened(&self) -> &Arc<Zone> {
        &self.opened
    }

    /// The stricter of what both promise about records.
    #[must_use]
    pub fn audit(&self) -> AuditMode {
        match &self.since {
            Since::Changed(later) => self.opened.audit().max(later.audit()),
            Since::Unchanged | Since::Uncovered(_) => self.opened.audit(),
        }
    }

    /// [`Zone::request`] of both.
    ///
    /// # Errors
    /// The refusal of either; `zone_none` where no zone covers the session any more.
    pub fn request(&self, request: &Request) -> Result<Permit, Denial> {
        let word = |candidate: &Zone| candidate.request_of(request, &self.repositories);
        shadow::beside(self.decided(request), self.candidate.as_deref(), word)
    }

    fn decided(&self, request: &Request) -> Result<Permit, Denial> {
        match self.later()? {
            None => self.opened.request_of(request, &self.repositories),
            Some(later) => {
                // The later zone's refusal is what holds from now on, so it is the one to hear.
                let narrower = later.request_of(request, &self.repositories)?;
                let permit = self.opened.request_of(request, &self.repositories)?.narrowed_by(narrower)?;
                self.same_secrets(later, &permit).map(|()| permit)
            }
        }
    }

    /// [`Zone::pass`] of both: what one of them inspects is inspected, and decided by both. Where no zone covers the
    /// session any more nothing passes unseen, so that the refusal of its requests can be read.
    ///
    /// # Errors
    /// The refusal of either.
    pub fn pass(&self, host: &Host, port: Port) -> Result<Option<PassPermit>, Denial> {
        let later = match &self.since {
            Since::Unchanged => return self.opened.pass(host, port),
            Since::Uncovered(_) => return Ok(None),
            Since::Changed(later) => later,
        };
        let narrower = later.pass(host, port)?;
        let permit = self.opened.pass(host, port)?;
        Ok(permit.zip(narrower).map(|(permit, narrower)| permit.narrowed_by(narrower)))
    }

    /// [`Zone::connect`] of both.
    ///
    /// # Errors
    /// As [`ZoneInForce::request`].
    pub fn connect(&self, connect: &Connect) -> Result<ConnectPermit, Denial> {
        self.later()?.map(|later| later.connect(connect)).transpose()?;
        self.opened.connect(connect)
    }

    /// [`Zone::tool_use`] of both.
    ///
    /// # Errors
    /// As [`ZoneInForce::request`].
    pub fn tool_use(&self, tool: &ToolUse) -> Result<ToolPermit, Denial> {
        let decided = self.later().and_then(|later| {
            later.map(|later| later.tool_use(tool)).transpose()?;
            self.opened.tool_use(tool)
        });
        shadow::beside(decided, self.candidate.as_deref(), |candidate| candidate.tool_use(tool))
    }

    /// A credential that has its secret from elsewhere now is another one, whatever its name: custody would give the former.
    fn same_secrets(&self, later: &Zone, permit: &Permit) -> Result<(), Denial> {
        let source = |zone: &Zone, name| zone.credential(name).map(|credential| credential.source.clone());
        let mut used = permit.injections().iter().map(Injection::credential).chain(permit.client_certificate());
        if used.all(|name| source(&self.opened, name) == source(later, name)) {
            return Ok(());
        }
        let step = "the zone has this credential's secret from elsewhere now; a new turn goes by it";
        Err(Denial::advising(Reason::CustodyDenied, step).by(permit.rule()))
    }

    fn later(&self) -> Result<Option<&Zone>, Denial> {
        match &self.since {
            Since::Unchanged => Ok(None),
            Since::Changed(zone) => Ok(Some(zone)),
            Since::Uncovered(denial) => Err(denial.clone()),
        }
    }
}
