//! May an exact request leave, and what is injected into it?
//!
//! The order: tripwires first (a secret, a stranger's placeholder), then the rules, then what stands in the request
//! beside them, then Cedar. Nothing is injected before all of it has said yes.

use super::Zone;
use super::connect::{self, facts, listed, unreachable, wrong_scheme};
use super::rule::{Agreement, Carried, ForeignCredentials, Rule};
use crate::Scheme;
use crate::cedar::{Action, Attribute, fact};
use crate::credential::{CredentialName, Location};
use crate::minting;
use crate::permit::{Injection, Permit};
use crate::reason::{Denial, Reason};
use crate::repository::{self, RepositoryToken};
use crate::request::{Connect, Found, FoundValue, Issued, Place, Request, Transport};
use postern_danger::off;
use std::collections::BTreeSet;

pub(super) fn decide(zone: &Zone, request: &Request, repositories: &[RepositoryToken]) -> Result<Permit, Denial> {
    let ours = if off!("tripwire-host") { Vec::new() } else { tripwires(request)? };
    let token = ours.first().and_then(|found| of_repository(repositories, found));
    // Its own URL first: no rule of a zone leads a token elsewhere.
    token.map_or(Ok(()), |token| token.admits_request(request))?;
    let mut agreeing: Vec<&Rule> =
        zone.rules.iter().filter(|rule| agreement(rule, request) == Agreement::Whole).collect();
    let asked_of = agreeing.first().copied();
    agreeing.retain(|rule| rule.carries(request.upgrade));
    if let (Some(rule), []) = (asked_of, &agreeing[..]) {
        return Err(not_carried(rule));
    }
    let carried = match (token, ours.first()) {
        (Some(_), _) => Carried::Repository,
        (None, Some(found)) => Carried::Credential(&found.credential),
        (None, None) => Carried::Nothing,
    };
    let Some(rule) = chosen(&agreeing, carried) else {
        let misplaced = misplaced(zone, request, carried);
        return Err(misplaced.unwrap_or_else(|| match agreeing.is_empty() {
            true => nearest(zone, request),
            false => Denial::new(Reason::PlaceholderWrongHost),
        }));
    };
    let injections = injections(zone, rule, request, &ours, token)?;
    refuse_overrides(rule, request)?;
    refuse_foreign(zone, rule, request)?;
    refuse_minting(rule, request, &injections)?;
    ask(zone, rule, request, &injections, token)?;
    Ok(Permit {
        destination: rule.destination(&request.host, request.port),
        scheme: request.scheme,
        method: request.method.clone(),
        path: request.path.clone(),
        rule: rule.id.clone(),
        zone: zone.name.clone(),
        policy_digest: zone.digest.clone(),
        injections,
        upgrade: request.upgrade,
        also: None,
        client_certificate: rule.client_certificate.clone(),
        shadow: None,
    })
}

/// The rule that decides, of those that agree: the first, or where a placeholder stands in the request the first that
/// names its credential, or takes tokens of repositories.
pub(super) fn chosen<'r>(agreeing: &[&'r Rule], carried: Carried<'_>) -> Option<&'r Rule> {
    agreeing.iter().copied().find(|rule| rule.takes(carried))
}

/// The token of one of the session's repositories that a placeholder stands for.
fn of_repository<'t>(repositories: &'t [RepositoryToken], found: &Found) -> Option<&'t RepositoryToken> {
    repositories.iter().find(|token| *token.credential() == found.credential)
}

/// Where a credential of ours lives at a host, other people's are refused there: on every path, unless the rule says
/// otherwise.
pub(super) fn foreign_policy<'r>(rule: &Rule, mut for_the_host: impl Iterator<Item = &'r Rule>) -> ForeignCredentials {
    rule.foreign.unwrap_or_else(|| match for_the_host.any(Rule::uses_a_credential) {
        true => ForeignCredentials::Refuse,
        false => ForeignCredentials::Allow,
    })
}

fn agreement(rule: &Rule, request: &Request) -> Agreement {
    rule.agreement(&request.host, request.port, request.scheme, &request.method, &request.path)
}

/// What must not be in any request. What is left are live placeholders of this session.
fn tripwires(request: &Request) -> Result<Vec<&Found>, Denial> {
    let found = &request.credentials_present;
    let any = |wanted: FoundValue| found.iter().any(|found| found.value == wanted);
    if any(FoundValue::Secret) {
        return Err(Denial::new(Reason::RealSecretSeen));
    }
    if any(FoundValue::Placeholder(Issued::AnotherSession)) && !off!("tripwire-session") {
        return Err(Denial::new(Reason::PlaceholderWrongSession));
    }
    if any(FoundValue::Placeholder(Issued::Unknown)) {
        return Err(Denial::new(Reason::PlaceholderUnresolved));
    }
    Ok(found.iter().collect())
}

/// Why a placeholder of this session may not be in this request, judged by the rules that name its credential.
/// `None` where its own rules agree with host, port and scheme: then method or path are what is refused.
fn misplaced(zone: &Zone, request: &Request, carried: Carried<'_>) -> Option<Denial> {
    let bound: Vec<&Rule> = match carried {
        Carried::Nothing => return None,
        Carried::Credential(_) | Carried::Repository => zone.rules.iter().filter(|rule| rule.takes(carried)).collect(),
    };
    let at_host = bound.iter().any(|rule| rule.host.covers(&request.host));
    if matches!(carried, Carried::Repository) && !at_host {
        return Some(Denial::advising(Reason::CustodyDenied, NO_REPOSITORIES));
    }
    let Some(nearest) = bound.iter().rev().copied().max_by_key(|rule| agreement(rule, request)) else {
        return Some(Denial::new(Reason::PlaceholderUnresolved));
    };
    let reason = match agreement(nearest, request) {
        Agreement::Nothing => Reason::PlaceholderWrongHost,
        Agreement::Host if off!("tripwire-port") => return None,
        Agreement::Host => Reason::PlaceholderWrongPort,
        Agreement::HostPort if off!("tripwire-scheme") => return None,
        Agreement::HostPort => Reason::PlaceholderWrongScheme,
        Agreement::Destination | Agreement::Path => return Some(not_covered(nearest, request, &bound)),
        Agreement::Whole => return None,
    };
    let step =
        format!("send this placeholder only to {}://{}, port {}", nearest.scheme, nearest.host, listed(&nearest.ports));
    Some(Denial::advising(reason, step).by(&nearest.id))
}

/// The refusal by the rule that came nearest.
fn nearest(zone: &Zone, request: &Request) -> Denial {
    let here: Vec<&Rule> = zone.rules.iter().filter(|rule| rule.host.covers(&request.host)).collect();
    let nearest = here.iter().rev().copied().max_by_key(|rule| agreement(rule, request));
    match nearest.map(|rule| (rule, agreement(rule, request))) {
        None | Some((_, Agreement::Nothing | Agreement::Host)) => unreachable(&request.host, &here),
        Some((rule, Agreement::HostPort)) => wrong_scheme(rule),
        Some((rule, Agreement::Destination | Agreement::Path | Agreement::Whole)) => not_covered(rule, request, &here),
    }
}

/// The destination is allowed; the path or the method is not. Paths are listed of all rules for the destination.
fn not_covered(rule: &Rule, request: &Request, rules: &[&Rule]) -> Denial {
    if rule.covers_path(&request.path) {
        let allowed = listed(rule.methods.as_deref().unwrap_or_default());
        let step = format!("the zone allows {allowed} on this path, not {}", request.method);
        return Denial::advising(Reason::MethodNotAllowed, step).by(&rule.id);
    }
    let there = rules.iter().filter(|rule| agreement(rule, request) >= Agreement::Destination);
    let paths: Vec<_> = there.flat_map(|rule| rule.paths.iter().flatten()).collect();
    Denial::advising(Reason::PathNotAllowed, format!("the zone allows the paths {} at this host", listed(&paths)))
        .by(&rule.id)
}

/// The request alone would be allowed; what it asks to become is not.
fn not_carried(rule: &Rule) -> Denial {
    let step = format!("ask the operator for `websocket = true` in rule {}, or use plain requests", rule.id);
    Denial::advising(Reason::UpgradeRefused, step).by(&rule.id)
}

/// What an operator can do for a repository whose host takes no tokens.
const NO_REPOSITORIES: &str = "no rule of the zone takes tokens of repositories at this host; ask the operator for `repositories = true` in its rule";

/// Every placeholder of the request, where both the rule and its credential allow it to be replaced.
fn injections(
    zone: &Zone,
    rule: &Rule,
    request: &Request,
    ours: &[&Found],
    token: Option<&RepositoryToken>,
) -> Result<Vec<Injection>, Denial> {
    let mut injections = Vec::new();
    for found in ours {
        let allowed = match token {
            Some(token) => (*token.credential() == found.credential).then_some(repository::PLACES),
            None => {
                let named = rule.credential.as_ref().filter(|name| **name == found.credential);
                named.and_then(|name| zone.credential(name)).map(|credential| &credential.inject[..])
            }
        };
        let Some(allowed) = allowed else {
            let step = "one request takes the placeholder of one credential; send the other in a request of its own";
            return Err(Denial::advising(Reason::PlaceholderWrongLocation, step).by(&rule.id));
        };
        let Some(location) = place(allowed, request, &found.place) else {
            if off!("tripwire-location") {
                continue;
            }
            return Err(wrong_place(rule, allowed));
        };
        let injection = Injection { credential: found.credential.clone(), location };
        if injections.contains(&injection) {
            return Err(wrong_place(rule, allowed));
        }
        injections.push(injection);
    }
    Ok(injections)
}

/// The allowed location that a placeholder stands at, if it does.
fn place(allowed: &[Location], request: &Request, place: &Place) -> Option<Location> {
    let fits = |location: &&Location| match (place, location) {
        (Place::At(here), allowed) => here == *allowed,
        (Place::Segment(held), Location::Path(template)) => template.covers(&request.path, held),
        (Place::Segment(_) | Place::Path | Place::Query | Place::Body | Place::Elsewhere, _) => false,
    };
    allowed.iter().find(fits).cloned()
}

fn wrong_place(rule: &Rule, allowed: &[Location]) -> Denial {
    let whole = if allowed.iter().any(|location| location.body().is_some()) { WHOLE_BODY } else { "" };
    let step = format!("put this placeholder once, and only here: {}{whole}", listed(allowed));
    Denial::advising(Reason::PlaceholderWrongLocation, step).by(&rule.id)
}

/// What a body must be for a place in it to be found.
const WHOLE_BODY: &str = ", as the whole value, in a body of at most 256 KiB that is what its content-type says, in UTF-8, \
     without content-encoding and without a key twice";

fn refuse_overrides(rule: &Rule, request: &Request) -> Result<(), Denial> {
    if request.overrides.is_empty() || off!("egress-overrides") {
        Ok(())
    } else {
        Err(Denial::new(Reason::OverrideRefused).by(&rule.id))
    }
}

fn refuse_foreign(zone: &Zone, rule: &Rule, request: &Request) -> Result<(), Denial> {
    let Some(seen) = request.foreign.first() else {
        return Ok(());
    };
    let here = zone.rules.iter().filter(|other| other.host.covers(&request.host));
    match foreign_policy(rule, here) {
        ForeignCredentials::Allow => Ok(()),
        ForeignCredentials::Refuse if off!("egress-foreign") => Ok(()),
        ForeignCredentials::Refuse => {
            let step = format!(
                "{seen} holds a credential that is not from your environment; {}",
                Reason::ForeignCredential.next_step()
            );
            Err(Denial::advising(Reason::ForeignCredential, step).by(&rule.id))
        }
    }
}

fn refuse_minting(rule: &Rule, request: &Request, injections: &[Injection]) -> Result<(), Denial> {
    match minting::minted_at(&request.host, &request.method, &request.path) {
        Some(_) if off!("egress-minting") => Ok(()),
        Some(_) if !injections.is_empty() || rule.client_certificate.is_some() => {
            Err(Denial::new(Reason::CredentialMinting).by(&rule.id))
        }
        Some(_) | None => Ok(()),
    }
}

/// Cedar's word: on the connection that carries the request where something could forbid it, on the request as a whole,
/// then on each use of a credential.
fn ask(
    zone: &Zone,
    rule: &Rule,
    request: &Request,
    injections: &[Injection],
    token: Option<&RepositoryToken>,
) -> Result<(), Denial> {
    if zone.policies.forbid_something() {
        let transport = match request.scheme {
            Scheme::Https => Transport::Tls,
            Scheme::Http => Transport::Http,
        };
        connect::ask(zone, rule, &Connect { host: request.host.clone(), port: request.port, transport })?;
    }
    let host = request.host.to_string();
    let common = || {
        vec![
            ("host", Attribute::Text(&host)),
            ("port", Attribute::Number(request.port.number())),
            ("scheme", Attribute::Text(request.scheme.as_str())),
            ("method", Attribute::Text(request.method.as_str())),
            ("path", Attribute::Text(request.path.as_str())),
        ]
    };
    let facts = facts(rule, &matchers(rule, request));
    let presented = rule.client_certificate.iter().map(|name| (name, Location::ClientCertificate));
    let placed = injections.iter().map(|injection| (&injection.credential, injection.location.clone()));
    // A policy is written before there is a session: it knows all their tokens under one name.
    let word = |name: &CredentialName| match token.filter(|token| token.credential() == name) {
        Some(_) => repository::ANY_TOKEN.to_owned(),
        None => name.as_str().to_owned(),
    };
    let uses: Vec<(String, Location)> =
        placed.chain(presented).map(|(name, location)| (word(name), location)).collect();
    let credentials: BTreeSet<&str> = uses.iter().map(|(credential, _)| credential.as_str()).collect();
    let mut attributes = common();
    attributes.push(("has_query", Attribute::Flag(request.query.is_some())));
    attributes.push(("credentials", Attribute::Names(credentials.into_iter().map(str::to_owned).collect())));
    attributes.push(("facts", Attribute::Names(facts.clone())));
    zone.policies.ask(&rule.id, Action::Request, &host, attributes)?;
    for (credential, location) in &uses {
        let location = location.to_string();
        let mut facts = facts.clone();
        facts.push(fact(&rule.id, "location"));
        let mut attributes = common();
        attributes.push(("location", Attribute::Text(&location)));
        attributes.push(("facts", Attribute::Names(facts)));
        zone.policies.ask(&rule.id, Action::CredentialUse, credential, attributes)?;
    }
    Ok(())
}

/// Each typed matcher of a rule, and whether it agrees with the request.
pub(super) fn matchers(rule: &Rule, request: &Request) -> [(&'static str, bool); 5] {
    [
        ("host", rule.names(&request.host)),
        ("port", rule.ports.contains(&request.port)),
        ("scheme", rule.scheme == request.scheme),
        ("method", rule.covers_method(&request.method)),
        ("path", rule.covers_path(&request.path)),
    ]
}
