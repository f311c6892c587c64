//! Variables of a session's vaults: which of them its zone gives to the sandbox, and opening them. The zone is the authority: it names the variable and where it
//! goes; the owner's hosts and places, sealed with the value, narrow that further. What is not given is said, each with the reason.

use std::collections::{HashMap, HashSet};

use postern_audit::{Decision, Kind};
use postern_policy::{Credential, CredentialName, Reach, RepositoryToken, Zone};
use postern_secret::SecretBytes;
use postern_secret::seal::{FIRST_VERSION, MOST_VARIABLES, SealedCredential, SealedVariable};

use super::{Custodian, Refusal, RefusalReason, about, not_open, repositories, require};
use crate::message::{CallerKind, OpenSession, VaultGrant, Withheld, WithheldCode, named};

/// Those of one session, by the credential of its zone that each is for.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Variables(HashMap<CredentialName, Variable>);

/// One of them, unopened.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Variable {
    pub(super) sealed: SealedCredential,
    pub(super) reach: Reach,
    /// What it is for, where it is the token of a repository.
    pub(super) repository: Option<RepositoryToken>,
}

impl From<&Variable> for VaultGrant {
    fn from(variable: &Variable) -> Self {
        let Variable { sealed, reach, repository } = variable.clone();
        Self { credential: sealed.binding.credential, reach, repository }
    }
}

impl Variables {
    /// The vault credential that stands behind one of the zone's.
    pub(super) fn grant(&self, name: &CredentialName) -> Option<VaultGrant> {
        self.0.get(name).map(VaultGrant::from)
    }

    /// What is said of the value that was opened: how far that one was sealed to go, whatever took its place since. Nothing once none stands behind the name.
    pub(super) fn goes_with(&self, name: &CredentialName, opened: Option<&Variable>) -> Option<VaultGrant> {
        let in_force = self.grant(name)?;
        Some(opened.map_or(in_force, VaultGrant::from))
    }

    /// Whether this one still stands behind it.
    pub(super) fn has(&self, name: &CredentialName, used: &Variable) -> bool {
        self.0.get(name) == Some(used)
    }

    /// What it is for, where one is the token of a repository.
    pub(super) fn repository(&self, name: &CredentialName) -> Option<&RepositoryToken> {
        self.0.get(name)?.repository.as_ref()
    }

    /// The tokens of repositories among them.
    pub(super) fn repositories(&self) -> impl Iterator<Item = &RepositoryToken> {
        self.0.values().filter_map(|variable| variable.repository.as_ref())
    }

    /// The variables and tokens that the zone gives to the session's sandbox. Of two with one name the first counts.
    fn given(zone: &Zone, session: &str, sent: Vec<SealedVariable>) -> (Self, Vec<Withheld>) {
        let (mut given, mut withheld, mut named) = (HashMap::new(), Vec::new(), HashSet::new());
        for SealedVariable { credential: sealed, hosts, places, run } in sent.into_iter().take(MOST_VARIABLES) {
            if repositories::is_token(&sealed.binding) {
                match repositories::judged(zone, session, sealed, run.as_ref()) {
                    Ok((name, token)) => drop(given.entry(name).or_insert(token)),
                    Err(refused) => withheld.push(refused),
                }
                continue;
            }
            let variable = sealed.binding.secret_name.clone().unwrap_or_default();
            if !named.insert(variable.clone()) {
                continue;
            }
            let reach = Reach { hosts, header: places.header, body: places.body };
            match judged(zone, &variable, &sealed, &reach) {
                Ok((credential, remark)) => {
                    withheld.extend(remark);
                    given.insert(credential.name.clone(), Variable { sealed, reach, repository: None });
                }
                Err(refused) => withheld.push(refused),
            }
        }
        (Self(given), withheld)
    }
}

impl Custodian {
    /// Opens what the zone gives of a session's variables, and adds it to the session's secrets.
    pub(super) async fn open_variables(
        &self,
        open: &OpenSession,
        zone: &Zone,
        secrets: &mut HashMap<CredentialName, SecretBytes>,
    ) -> (Variables, Vec<Withheld>) {
        let (variables, mut withheld) = Variables::given(zone, &open.session, open.variables.clone());
        let mut usable = HashMap::new();
        for (name, variable) in variables.0 {
            match self.open_sealed(&variable.sealed) {
                Ok(secret) => {
                    secrets.insert(name.clone(), secret);
                    usable.insert(name, variable);
                }
                Err(refusal) => {
                    self.note_refusal(&refusal, &open.session, Some(zone), open.agent.as_deref()).await;
                    withheld.push(unusable(&name, &variable.sealed, &refusal));
                }
            }
        }
        (Variables(usable), withheld)
    }

    /// What an open session's vaults have now takes the place of what they had: used from the next use on. One that came to a vault since the session was
    /// opened has no placeholder, and waits for the next time.
    pub(crate) async fn refresh(
        &self,
        caller: CallerKind,
        session: &str,
        sent: Vec<SealedVariable>,
    ) -> Result<Vec<Withheld>, Refusal> {
        require(caller, CallerKind::Worker)?;
        let (zone, agent, before, issued) = {
            let sessions = self.sessions();
            let open = sessions.get(session).ok_or_else(|| not_open(session))?;
            let secrets = open.secrets.as_ref().ok_or_else(|| not_open(session))?;
            let issued: HashSet<_> = secrets.keys().cloned().collect();
            (open.zone.clone(), open.agent.clone(), open.variables.clone(), issued)
        };
        let (Variables(mut now), mut withheld) = Variables::given(&zone, session, sent);
        for (name, variable) in now.iter().filter(|(name, variable)| before.0.get(*name) != Some(*variable)) {
            if let Err(refusal) = self.open_sealed(&variable.sealed) {
                // One that did not open with the session is on record from then.
                if issued.contains(name) {
                    self.note_refusal(&refusal, session, Some(&zone), agent.as_deref()).await;
                }
                withheld.push(unusable(name, &variable.sealed, &refusal));
            }
        }
        now.retain(|name, _| issued.contains(name));
        let changed: Vec<(CredentialName, &Variable, &str)> = before
            .0
            .iter()
            .filter_map(|(name, was)| match now.get(name) {
                None => Some((name.clone(), was, "it is gone from the session's vaults")),
                Some(is) if is != was => Some((name.clone(), was, "the session's vaults have another value or reach")),
                Some(_) => None,
            })
            .collect();
        let records: Vec<_> = changed
            .into_iter()
            .map(|(name, was, what)| {
                let mut record = about(Kind::CredentialRevoked, Decision::Info, session, Some(&zone), agent.as_deref());
                record.credential = Some(name.to_string());
                record.outcome = Some(format!("{}: {what}", named(&was.sealed.binding.credential)));
                record
            })
            .collect();
        // In force first: what was taken back must not wait for a disk.
        if let Some(open) = self.sessions().get_mut(session) {
            open.variables = Variables(now);
        }
        self.leases.end(session);
        for record in records {
            self.record(record).await?;
        }
        Ok(withheld)
    }

    /// The value of a session's variable as its vaults have it now, and what was opened for it.
    pub(super) fn variable(
        &self,
        session: &str,
        name: &CredentialName,
        gone: impl FnOnce() -> Refusal,
    ) -> Result<(SecretBytes, Variable), Refusal> {
        let used = self.sessions().get(session).and_then(|open| open.variables.0.get(name)).cloned();
        let used = used.ok_or_else(|| gone().about(name.as_str()))?;
        let secret = self.open_sealed(&used.sealed).map_err(|refusal| refusal.about(name.as_str()))?;
        Ok((secret, used))
    }
}

/// The credential of the zone that a variable is for, and what is to be said of it all the same.
fn judged<'z>(
    zone: &'z Zone,
    variable: &str,
    sealed: &SealedCredential,
    reach: &Reach,
) -> Result<(&'z Credential, Option<Withheld>), Withheld> {
    let withheld = |code, message: String| {
        let (credential, vault) = (sealed.binding.credential.clone(), sealed.binding.vault.clone());
        Withheld { credential, vault, code, message: format!("the variable {variable} {message}") }
    };
    let bound = bound(sealed).ok_or_else(|| {
        let message = "was sealed by a build that bound neither its name nor its places, or is no variable. Next step: send its value again";
        withheld(WithheldCode::Unusable, message.to_owned())
    })?;
    if !reach.within(&bound) {
        let message = "is said to go further than it was sealed for. Next step: find out who wrote to the database, and send its value again";
        return Err(withheld(WithheldCode::Unusable, message.to_owned()));
    }
    let name = zone.name();
    let credential = zone.for_variable(variable).ok_or_else(|| {
        let message = format!(
            "is not named by zone {name}, so no sandbox gets it. Next step: an operator adds [[zone.{name}.credential]] with source = \"api:{variable}\", and names that credential in an egress rule"
        );
        withheld(WithheldCode::NotNamed, message)
    })?;
    if zone.grant(&credential.name).is_err() {
        let message = format!(
            "is named by zone {name} and used by none of its rules. Next step: an operator adds credential = \"{}\" to an egress rule",
            credential.name
        );
        return Err(withheld(WithheldCode::NotNamed, message));
    }
    if !credential.inject.iter().any(|location| reach.covers_place(location)) {
        let message = format!(
            "may stand in none of the places where zone {name} puts it. Next step: its owner changes injection_location, or an operator `inject` of credential {}",
            credential.name
        );
        return Err(withheld(WithheldCode::NoPlace, message));
    }
    let unreachable = zone.out_of_reach(&credential.name, reach);
    let remark = (!unreachable.is_empty()).then(|| {
        let message = format!(
            "may go to {}, which no rule of zone {name} sends it to. Next step: an operator adds credential = \"{}\" to an egress rule for {}, or its owner takes the host out",
            unreachable.join(", "),
            credential.name,
            unreachable.join(", ")
        );
        withheld(WithheldCode::HostUnreachable, message)
    });
    if unreachable.len() == reach.hosts.len() {
        return Err(remark.expect("a reach without hosts is not taken for a variable's"));
    }
    Ok((credential, remark))
}

/// How far a variable was sealed to go; `None` for what is none, or was sealed before that was bound.
fn bound(sealed: &SealedCredential) -> Option<Reach> {
    let binding = &sealed.binding;
    let kind = binding.kind == "environment_variable" || postern_danger::off!("renewal-parts");
    let is_variable = kind && sealed.sealed.version != FIRST_VERSION;
    let places = binding.injection.filter(|_| is_variable && !binding.hosts.is_empty())?;
    binding.secret_name.as_ref()?;
    Some(Reach { hosts: binding.hosts.clone(), header: places.header, body: places.body })
}

fn unusable(name: &CredentialName, sealed: &SealedCredential, refusal: &Refusal) -> Withheld {
    let what = match (&sealed.binding.secret_name, &sealed.binding.mcp_url) {
        (None, Some(url)) => format!("token of {url}"),
        (name, _) => format!("variable {}", name.as_deref().unwrap_or_default()),
    };
    let weak = if refusal.reason == RefusalReason::SecretWeak { "is too weak" } else { "does not open here" };
    let resource = name.as_str().strip_prefix(RepositoryToken::NAMES);
    Withheld {
        credential: resource.unwrap_or(&sealed.binding.credential).to_owned(),
        vault: sealed.binding.vault.clone(),
        code: WithheldCode::Unusable,
        message: format!("the {what} {weak}. Next step: {}", refusal.next_step),
    }
}
