//! The real perimeter around a session: its zone, its placeholders, its exit, and what commands may hold back. Holds no secret of a credential: custody
//! keeps those, and egress gets them. Nothing a session sets reaches the processes outside.

mod commands;
mod git;
mod sandboxed;
mod zones;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use postern_audit::{Decision, Kind, Record};
use postern_custody::{CustodyError, RefusalReason};
use postern_egress::client::{OpenSession, SessionPlaceholder};
use postern_policy::{Denial, Reason, Shadow, Zone};
use postern_sandbox::{Control, Spawner};
use postern_secret::seal::SealedVariable;

use crate::hands::{Perimeter, Refused, SessionFacts};
use crate::item::Serving;
use crate::place::{Mark, Places};
use crate::roster::{Held, Roster, Standing};
use crate::session::chain;
pub(crate) use commands::Commands;
use commands::Log;
pub(crate) use sandboxed::SandboxHands;
pub(crate) use zones::{InForce, Reloading, load};

/// What a zone that says nothing gets.
pub(crate) struct Defaults {
    pub(crate) require: Vec<Control>,
}

/// The perimeter's processes and policy.
pub(crate) struct Boundary {
    parts: Arc<Parts>,
}

struct Parts {
    spawner: Spawner,
    audit: Log,
    custody: postern_custody::Client,
    egress: postern_egress::client::Client,
    zones: InForce,
    places: Arc<Places>,
    defaults: Defaults,
    roster: Arc<Roster>,
    /// Whose turn it is to change what a session may do.
    turns: Serving,
    /// Whose turn it is to be commanded.
    orders: Serving,
    /// Whose turn it is to be opened, or to be told of its vaults: what comes while a session is opened is for the open one.
    openings: Serving,
}

/// Tells when a part of the perimeter is gone. Holds connections to all of them: it is dropped before they are to end.
pub struct Watch {
    spawner: Spawner,
    audit: postern_audit::Client,
    custody: postern_custody::Client,
    egress: postern_egress::client::Client,
}

impl Watch {
    /// Waits for the first part that ends, and names it. Custody ends because audit did, and its end may be seen first: audit is named then.
    pub async fn gone(&self) -> &'static str {
        let part = self.first_gone().await;
        match tokio::time::timeout(GONE_PATIENCE, self.audit.gone()).await {
            Ok(()) => "audit",
            Err(_) => part,
        }
    }

    async fn first_gone(&self) -> &'static str {
        tokio::select! {
            () = self.spawner.gone() => "spawner",
            () = self.audit.gone() => "audit",
            () = self.custody.gone() => "custody",
            () = self.egress.gone() => "egress",
        }
    }
}

impl Boundary {
    pub(crate) fn new(
        spawner: Spawner,
        audit: postern_audit::Client,
        custody: postern_custody::Client,
        egress: postern_egress::client::Client,
        zones: InForce,
        places: Arc<Places>,
        defaults: Defaults,
    ) -> Self {
        let (audit, roster, turns) = (Log::new(audit), Arc::new(Roster::new(&places)), Serving::default());
        let (orders, openings) = (Serving::default(), Serving::default());
        let parts = Parts { spawner, audit, custody, egress, zones, places, defaults, roster, turns, orders, openings };
        Self { parts: Arc::new(parts) }
    }

    /// The perimeter as commands reach it.
    pub(crate) fn commands(&self) -> Commands {
        Commands { parts: Arc::clone(&self.parts) }
    }

    /// The perimeter as a changed configuration reaches it.
    pub(crate) fn reloading(&self) -> Reloading {
        Reloading { parts: Arc::clone(&self.parts) }
    }

    pub(crate) fn watch(&self) -> Watch {
        self.parts.watch()
    }
}

impl Perimeter for Boundary {
    type Hands = SandboxHands;

    async fn open(&self, facts: SessionFacts) -> Result<SandboxHands, Refused> {
        let parts = Arc::clone(&self.parts);
        match parts.open(&facts).await {
            Ok(opened) => Ok(SandboxHands::new(parts, facts, opened)),
            Err(refused) => {
                parts.still_stands().await;
                Err(refused)
            }
        }
    }
}

/// What a session has once it is open.
struct Opened {
    zone: Arc<Zone>,
    exit: Exit,
    held: Held,
}

/// What a sandbox sees of its exit.
struct Exit {
    environment: Vec<(String, String)>,
    ca_certificate_pem: String,
    /// Tokens of repositories that were sent and are not there, by resource: each with what to do.
    withheld: HashMap<String, String>,
}

impl Parts {
    fn watch(&self) -> Watch {
        Watch {
            spawner: self.spawner.clone(),
            audit: self.audit.client().clone(),
            custody: self.custody.clone(),
            egress: self.egress.clone(),
        }
    }

    /// Returns when every part of the perimeter is there. When one is gone the worker is about to end, and the next one goes on with the session:
    /// a failure that is only that end must not be told as the session's.
    async fn still_stands(&self) {
        if tokio::time::timeout(GONE_PATIENCE, self.watch().first_gone()).await.is_ok() {
            std::future::pending().await
        }
    }

    async fn open(&self, facts: &SessionFacts) -> Result<Opened, Refused> {
        let zones = self.zones.for_opening().await;
        let told = in_policy(facts);
        let zone = self.zone(facts, zones.select(&told)).await?;
        let _alone = self.openings.turn(&facts.session).await;
        // Before anything of it is opened: a command that comes meanwhile is not lost.
        let held = self.roster.enter(&facts.session, zone.name());
        let exit = self.open_exit(facts, &zone).await?;
        if self.roster.standing(&facts.session) != Standing::default()
            && let Err(refusal) = self.apply(&facts.session).await
        {
            self.close_exit(&facts.session).await;
            return Err(Refused { code: refusal.code, message: refusal.next_step });
        }
        self.zones.opened(&facts.session, told, &zone);
        Ok(Opened { zone, exit, held })
    }

    async fn zone(&self, facts: &SessionFacts, selected: Result<Arc<Zone>, Denial>) -> Result<Arc<Zone>, Refused> {
        let mut record = Record::new(Kind::SessionOpened, Decision::Allow);
        record.session = Some(facts.session.clone());
        record.agent = Some(facts.agent());
        record.digests.insert("definition".to_owned(), facts.definition_digest.clone());
        match &selected {
            Ok(zone) => {
                record.zone = Some(zone.name().to_owned());
                record.digests.insert("policy".to_owned(), zone.digest().to_owned());
            }
            Err(denial) => deny(&mut record, denial),
        }
        self.audit.append(&record).await.map_err(|error| unavailable("audit_unavailable", &error))?;
        selected.map_err(|denial| Refused { code: denial.reason.code().to_owned(), message: denial.next_step })
    }

    /// Placeholders from custody and a certificate authority from egress: what the sandbox will see of the credentials.
    async fn open_exit(&self, facts: &SessionFacts, zone: &Zone) -> Result<Exit, Refused> {
        let question = postern_custody::OpenSession {
            session: facts.session.clone(),
            agent: Some(facts.agent()),
            zone: zone.name().to_owned(),
            digest: zone.digest().to_owned(),
            variables: self.variables(&facts.session).await?,
        };
        let mut withheld = HashMap::new();
        let issued = match self.roster.standing(&facts.session).revoked {
            true => Vec::new(),
            false => match self.custody.open(question).await {
                Ok(opened) => {
                    for postern_custody::Withheld { credential, message, .. } in opened.withheld {
                        tracing::warn!(
                            session = facts.session,
                            credential,
                            message,
                            "a variable of a vault, or the token of a repository, is withheld"
                        );
                        withheld.insert(credential, message);
                    }
                    opened.issued
                }
                Err(error) if grants_revoked(&error) => self.without_grants(&facts.session)?,
                Err(error) => return Err(custody_refused(&error)),
            },
        };
        let placeholders = issued
            .iter()
            .map(|issued| SessionPlaceholder {
                credential: issued.credential.clone(),
                placeholder: issued.placeholder.as_str().to_owned(),
            })
            .collect();
        let question = OpenSession {
            session: facts.session.clone(),
            agent: Some(facts.agent()),
            zone_name: zone.name().to_owned(),
            digest: zone.digest().to_owned(),
            placeholders,
            repositories: issued.iter().filter_map(|issued| issued.repository.clone()).collect(),
        };
        match self.egress.open(question).await {
            Ok(opened) => {
                let for_git = git::variables(&issued);
                let variables =
                    issued.into_iter().filter_map(|issued| Some((issued.env?, issued.placeholder.as_str().to_owned())));
                let environment = variables.chain(for_git).collect();
                Ok(Exit { environment, ca_certificate_pem: opened.ca_certificate_pem, withheld })
            }
            Err(error) => {
                self.close_custody(&facts.session).await;
                Err(unavailable("egress_unavailable", &error))
            }
        }
    }

    /// What the session's vaults have, as it came and as sealed as it came.
    async fn variables(&self, session: &str) -> Result<Vec<SealedVariable>, Refused> {
        let place = self.places.of(session).map_err(|error| unavailable("workspace_unavailable", &error))?;
        let read = tokio::task::spawn_blocking(move || place.variables()).await;
        let read = read.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
        read.map_err(|error| unavailable("worker_storage", &error))
    }

    /// A gateway of this host was told so while no worker was there to be: the session goes on without them here too.
    fn without_grants<T>(&self, session: &str) -> Result<Vec<T>, Refused> {
        let place = self.places.of(session).map_err(|error| unavailable("workspace_unavailable", &error))?;
        place.mark(Mark::Revoked).map_err(|error| unavailable("workspace_unavailable", &error))?;
        self.roster.set(session, |standing| standing.revoked = true);
        Ok(Vec::new())
    }

    async fn close_exit(&self, session: &str) {
        self.zones.closed(session);
        if let Err(error) = self.egress.close(session).await {
            tracing::warn!(session, %error, "egress did not close the session");
        }
        self.close_custody(session).await;
    }

    async fn close_custody(&self, session: &str) {
        if let Err(error) = self.custody.close(session).await {
            tracing::warn!(session, %error, "custody did not close the session");
        }
    }
}

/// A session as zones are told of it.
fn in_policy(facts: &SessionFacts) -> postern_policy::SessionFacts {
    postern_policy::SessionFacts {
        environment_id: facts.environment.clone(),
        agent_id: facts.agent_id.clone(),
        agent_version: facts.agent_version,
        definition_digest: facts.definition_digest.clone(),
    }
}

/// What a candidate would have done, as it stands in a record.
fn shadowed(shadow: &Shadow) -> postern_audit::Shadow {
    postern_audit::Shadow::new(&shadow.zone, shadow.reason.map(Reason::code), shadow.rule.as_deref())
}

fn deny(record: &mut Record, denial: &Denial) {
    record.decision = Decision::Deny;
    record.reason = Some(denial.reason.code().to_owned());
    record.next_step = Some(denial.next_step.clone());
    record.rule.clone_from(&denial.rule);
    record.shadow = denial.shadow.as_deref().map(shadowed);
}

fn unavailable(code: &str, error: &(dyn std::error::Error + 'static)) -> Refused {
    Refused {
        code: code.to_owned(),
        message: format!("{}. Next step: an operator reads the worker's log.", chain(error)),
    }
}

fn grants_revoked(error: &CustodyError) -> bool {
    matches!(error, CustodyError::Refused(refusal) if refusal.reason == RefusalReason::GrantsRevoked)
}

fn custody_refused(error: &CustodyError) -> Refused {
    Refused { code: "custody_denied".to_owned(), message: chain(error) }
}

/// Of two sockets that a dying process closes, the second closes within this.
const GONE_PATIENCE: Duration = Duration::from_millis(200);
