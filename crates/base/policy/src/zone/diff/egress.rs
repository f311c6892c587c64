//! Egress: which requests the second zone permits and the first does not, and which it permits more loosely.

use super::super::request::{chosen, foreign_policy};
use super::super::rule::{Carried, ForeignCredentials, Inspection, Repositories, Rule};
use super::cells::{Hosts, Methods, Paths};
use super::destination::{Deciding, looser, unsaid};
use super::{Change, ChangeKind, Scope};
use crate::credential::{Credential, CredentialName, Location, Source};
use crate::zone::Zone;
use crate::{Port, Scheme, Upgrade};
use std::collections::{BTreeMap, BTreeSet};

/// What stands in a request besides its words: nothing of ours, or one credential's placeholder at one place.
#[derive(Clone, PartialEq, Eq)]
enum Carrying {
    Nothing,
    /// Anything, unseen: the connection passes through.
    Uninspected,
    Placeholder(CredentialName, Source, Location),
    /// The placeholder of a token of whatever repository a session was given.
    Repository,
}

/// What is asked for besides method and path.
#[derive(Clone, PartialEq, Eq)]
struct Asked {
    carrying: Carrying,
    upgrade: Upgrade,
}

/// One host kind, port and scheme, with the rules of both zones for it.
struct Place<'z> {
    hosts: &'z Hosts,
    port: Port,
    scheme: Scheme,
    from: Side<'z>,
    to: Side<'z>,
}

/// A zone's rules for a place.
struct Side<'z> {
    zone: &'z Zone,
    /// For the host, on any port.
    for_host: Vec<&'z Rule>,
    here: Vec<&'z Rule>,
}

/// Changes that differ in nothing but method and path, as one.
type Merged = BTreeMap<String, (Change, BTreeSet<Methods>)>;

/// Everything that the second zone permits and the first does not.
pub(super) fn widenings(from: &Zone, to: &Zone) -> Vec<Change> {
    let hosts = Hosts::of(from.rules.iter().chain(&to.rules));
    let mut changes = variables(from, to);
    for hosts in &hosts {
        let side = |zone: &'_ Zone| -> Vec<usize> {
            zone.rules.iter().enumerate().filter(|(_, rule)| hosts.covered_by(rule)).map(|(index, _)| index).collect()
        };
        let rules = |zone| side(zone).into_iter().map(|index| &zone.rules[index]).collect::<Vec<&Rule>>();
        let (before, after) = (rules(from), rules(to));
        let places: BTreeSet<(Port, Scheme)> =
            after.iter().flat_map(|rule| rule.ports.iter().map(|port| (*port, rule.scheme))).collect();
        for (port, scheme) in places {
            let place = Place {
                hosts,
                port,
                scheme,
                from: Side::new(from, &before, port, scheme),
                to: Side::new(to, &after, port, scheme),
            };
            changes.extend(place.widenings());
        }
    }
    changes
}

impl<'z> Side<'z> {
    fn new(zone: &'z Zone, for_host: &[&'z Rule], port: Port, scheme: Scheme) -> Self {
        let here = for_host.iter().copied().filter(|rule| rule.ports.contains(&port) && rule.scheme == scheme);
        Self { zone, for_host: for_host.to_vec(), here: here.collect() }
    }

    /// The rule that decides about requests of a cell, where they are permitted.
    fn deciding(&self, methods: &Methods, paths: &Paths, asked: &Asked) -> Option<Deciding<'z>> {
        let Asked { carrying, upgrade } = asked;
        if let Some(rule) = self.passing() {
            // What passes unseen carries every request, and no placeholder is replaced in it.
            let carried = !matches!(carrying, Carrying::Placeholder(..) | Carrying::Repository);
            return carried.then_some(Deciding { rule, foreign: ForeignCredentials::Allow });
        }
        let covers = |rule: &&Rule| methods.covered_by(rule) && paths.covered_by(rule) && rule.carries(*upgrade);
        let agreeing: Vec<&Rule> = self.here.iter().copied().filter(covers).collect();
        let wanted = match carrying {
            Carrying::Nothing => Carried::Nothing,
            Carrying::Repository => Carried::Repository,
            Carrying::Uninspected => return None,
            Carrying::Placeholder(name, source, location) => {
                let credential = self.zone.credential(name)?;
                (credential.source == *source && credential.inject.contains(location)).then_some(name)?;
                Carried::Credential(name)
            }
        };
        let rule = chosen(&agreeing, wanted)?;
        Some(Deciding { rule, foreign: foreign_policy(rule, self.for_host.iter().copied()) })
    }

    /// A rule for the place, and what it makes of keys from elsewhere.
    fn of<'r>(&self, rule: &'r Rule) -> Deciding<'r> {
        let foreign = match rule.inspection {
            // Nothing there is looked at, and that is said.
            Inspection::None => ForeignCredentials::Allow,
            Inspection::Requests => foreign_policy(rule, self.for_host.iter().copied()),
        };
        Deciding { rule, foreign }
    }

    /// All that decides about requests here, without the names of the rules.
    fn decisive(&self) -> Vec<String> {
        let of_rule = |rule: &&Rule| {
            let foreign = foreign_policy(rule, self.for_host.iter().copied());
            let named = rule.credentials().filter_map(|name| self.zone.credential(name));
            let used: Vec<_> =
                named.map(|Credential { name, source, inject, env: _ }| (name, source, inject)).collect();
            format!("{:?} {foreign:?} {used:?}", Rule { id: String::new(), ..(*rule).clone() })
        };
        self.here.iter().map(of_rule).collect()
    }

    /// The rule by which connections pass through unseen; then no other rule for the place inspects them.
    fn passing(&self) -> Option<&'z Rule> {
        self.here.iter().copied().find(|rule| rule.inspection == Inspection::None)
    }

    /// Everything that its rules for the place tell apart.
    fn asked(&self) -> Vec<Asked> {
        let with = |carrying: Carrying| {
            [Upgrade::None, Upgrade::WebSocket].map(|upgrade| Asked { carrying: carrying.clone(), upgrade })
        };
        self.carryings().into_iter().flat_map(with).collect()
    }

    /// Every credential of its rules for the place, at every location.
    fn carryings(&self) -> Vec<Carrying> {
        if self.passing().is_some() {
            return vec![Carrying::Uninspected];
        }
        let mut all = vec![Carrying::Nothing];
        let tokens = self.here.iter().any(|rule| rule.repositories == Repositories::Taken);
        all.extend(tokens.then_some(Carrying::Repository));
        let named = self.here.iter().filter_map(|rule| self.zone.credential(rule.credential.as_ref()?));
        for Credential { name, source, inject, .. } in named {
            for location in inject {
                let carrying = Carrying::Placeholder(name.clone(), source.clone(), location.clone());
                if !all.contains(&carrying) {
                    all.push(carrying);
                }
            }
        }
        all
    }
}

impl Place<'_> {
    fn widenings(&self) -> Vec<Change> {
        let rules: Vec<&Rule> = self.from.here.iter().chain(&self.to.here).copied().collect();
        let Ok(paths) = Paths::of(&rules) else { return self.possible() };
        let mut merged = Merged::new();
        for methods in Methods::of(&rules) {
            for paths in &paths {
                for asked in self.to.asked() {
                    self.compare(&methods, paths, &asked, &mut merged);
                }
            }
        }
        merged.into_values().map(|(change, methods)| with_methods(change, methods)).collect()
    }

    fn compare(&self, methods: &Methods, paths: &Paths, asked: &Asked, merged: &mut Merged) {
        let Some(after) = self.to.deciding(methods, paths, asked) else { return };
        let found = match self.from.deciding(methods, paths, asked) {
            Some(before) => looser(before, after, self.hosts, self.port),
            None => {
                let reach = match asked.upgrade {
                    Upgrade::None => self.new_reach(methods, paths, &asked.carrying),
                    // Everything passes unseen, and that is said.
                    Upgrade::WebSocket if asked.carrying == Carrying::Uninspected => return,
                    Upgrade::WebSocket => Change::shown(ChangeKind::WebSocket, "as a WebSocket"),
                };
                [reach].into_iter().chain(self.looseness(after)).collect()
            }
        };
        for mut change in found {
            let scope = self.scope(after.rule, paths, &asked.carrying);
            let said = if change.what.is_empty() { String::new() } else { format!(" ({})", change.what) };
            change.what = format!("{}{said}", self.words(&scope));
            let change = Change { scope: Some(scope), ..change.by(self.to.zone, &after.rule.id) };
            let key = format!("{}\0{}\0{:?}\0{:?}", change.kind, change.what, change.rule, change.values);
            merged.entry(key).or_insert_with(|| (change, BTreeSet::new())).1.insert(methods.clone());
        }
    }

    /// What is loose about a rule that permits what nothing did, and not about any of the first zone's for the place: more than that it permits it.
    fn looseness(&self, after: Deciding<'_>) -> Vec<Change> {
        let bare = unsaid(after.rule);
        let looser_than = |before: Deciding<'_>| looser(before, after, self.hosts, self.port);
        let mut loose = looser_than(self.to.of(&bare));
        for rule in &self.from.here {
            let also: Vec<ChangeKind> = looser_than(self.from.of(rule)).iter().map(|change| change.kind).collect();
            loose.retain(|change| also.contains(&change.kind));
        }
        loose
    }

    /// The first of the first zone's matchers that did not agree with any rule is what is new.
    fn new_reach(&self, methods: &Methods, paths: &Paths, carrying: &Carrying) -> Change {
        let nothing = Asked { carrying: Carrying::Nothing, upgrade: Upgrade::None };
        let bare = self.from.deciding(methods, paths, &nothing).is_some();
        let at_port = self.from.for_host.iter().any(|rule| rule.ports.contains(&self.port));
        let kind = match carrying {
            Carrying::Placeholder(..) | Carrying::Repository if bare => ChangeKind::Credential,
            _ if self.from.for_host.is_empty() => ChangeKind::Host,
            _ if !at_port => ChangeKind::Port,
            Carrying::Uninspected if !self.from.here.is_empty() => ChangeKind::Inspection,
            _ if self.from.here.is_empty() => ChangeKind::Scheme,
            _ if !self.from.here.iter().any(|rule| paths.covered_by(rule)) => ChangeKind::Path,
            _ => ChangeKind::Method,
        };
        let what = if *carrying == Carrying::Uninspected { "uninspected" } else { "" };
        Change::shown(kind, what)
    }

    fn scope(&self, rule: &Rule, paths: &Paths, carrying: &Carrying) -> Scope {
        let named = rule.paths.iter().flatten().map(ToString::to_string);
        let everything = rule.paths.is_none().then(|| ["/**".to_owned()]).into_iter().flatten();
        Scope {
            host: self.hosts.to_string(),
            port: self.port,
            scheme: self.scheme,
            methods: Vec::new(),
            paths: named.chain(everything).collect(),
            example: paths.example.clone(),
            injected: match carrying {
                Carrying::Nothing | Carrying::Uninspected => None,
                Carrying::Repository => Some("the token of a session's repository".to_owned()),
                Carrying::Placeholder(name, source, location) => Some(format!("{name} ({source}) at {location}")),
            },
        }
    }

    fn words(&self, scope: &Scope) -> String {
        let with = scope.injected.as_ref().map(|what| format!(" with {what}")).unwrap_or_default();
        format!("{}://{}:{} {}{with}", self.scheme, self.hosts, self.port, scope.paths.join(" "))
    }

    /// Where the paths cannot be compared, any difference of the rules may be a widening.
    fn possible(&self) -> Vec<Change> {
        if self.from.decisive() == self.to.decisive() {
            return Vec::new();
        }
        let what = format!("{}://{}:{} (too many paths to compare)", self.scheme, self.hosts, self.port);
        vec![Change::possible(ChangeKind::Path, what)]
    }
}

fn with_methods(mut change: Change, methods: BTreeSet<Methods>) -> Change {
    let methods: Vec<String> = methods.iter().map(ToString::to_string).collect();
    change.what = format!("{} {}", methods.join(","), change.what);
    if let Some(scope) = &mut change.scope {
        scope.methods = methods;
    }
    change
}

/// A sandbox that sees a placeholder can use the credential.
fn variables(from: &Zone, to: &Zone) -> Vec<Change> {
    let mut changes = Vec::new();
    for credential @ Credential { name, source, env, inject: _ } in to.credentials() {
        let known = from.credential(name).is_none_or(|before| before.source == *source);
        if credential.is_client_certificate() && !known {
            let what = format!("the client certificate {name} comes from {source}");
            changes.push(Change::shown(ChangeKind::Credential, what));
        }
        let Some(variable) = env else { continue };
        let before = from.credential(name).and_then(|credential| credential.env.as_ref());
        if before != Some(variable) {
            let change = Change::shown(ChangeKind::Variable, format!("a sandbox sees the placeholder of {name}"));
            changes.push(change.between(before.map_or("no variable", String::as_str), variable));
        }
    }
    changes
}
