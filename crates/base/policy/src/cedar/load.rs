//! Compiling a zone's policies: the generated permits and the zone's own file, all validated against the schema.

use super::generate::{egress_permit, mcp_permit, passing_permit, tools_permit};
use super::{Policies, vain};
use cedar_policy::ffi::DetailedError;
use cedar_policy::{Effect, Policy, PolicyId, PolicySet, Schema, ValidationMode, Validator};
use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr;
use std::sync::LazyLock;

static SCHEMA: LazyLock<Schema> = LazyLock::new(|| {
    let text = include_str!("postern.cedarschema");
    Schema::from_cedarschema_str(text).expect("the shipped schema parses: a test reads it").0
});

/// The id of the permit for the tools of a zone's sandboxes.
pub(crate) fn tools_rule(zone: &str) -> String {
    format!("{zone}/tools")
}

/// Collects the policies of one zone.
#[derive(Debug)]
pub(crate) struct Builder {
    zone: String,
    set: PolicySet,
    /// The zone's own policies, each with where it stands.
    places: BTreeMap<PolicyId, String>,
}

impl Builder {
    /// The policies every zone has.
    pub(crate) fn new(zone: &str) -> Self {
        let mut builder = Self { zone: zone.to_owned(), set: PolicySet::new(), places: BTreeMap::new() };
        builder.add_generated(&tools_rule(zone), &tools_permit(zone));
        builder
    }

    /// The permit of one egress rule.
    pub(crate) fn add_rule(&mut self, rule: &str, credentials: &[&str]) {
        let text = egress_permit(&self.zone, rule, credentials);
        self.add_generated(rule, &text);
    }

    /// The permit of a rule whose connections pass through uninspected.
    pub(crate) fn add_passing_rule(&mut self, rule: &str) {
        let text = passing_permit(&self.zone, rule);
        self.add_generated(rule, &text);
    }

    /// The permit of one MCP rule.
    pub(crate) fn add_mcp_rule(&mut self, rule: &str, server: &str) {
        let text = mcp_permit(&self.zone, rule, server);
        self.add_generated(rule, &text);
    }

    fn add_generated(&mut self, id: &str, text: &str) {
        let policy = Policy::parse(Some(PolicyId::new(id)), text).expect("generated from checked names only");
        self.set.add(policy).expect("rule ids are numbered, so each is new");
    }

    /// Adds the zone's own policies: `forbid` only. `zones` are all that the configuration names. The messages say where in the file which policy stands,
    /// and what is wrong with it.
    pub(crate) fn add_file(&mut self, file: PolicyFile<'_>, zones: &BTreeSet<String>) -> Result<(), Vec<String>> {
        let set = PolicySet::from_str(file.text).map_err(|errors| {
            let at = DetailedError::from(&errors).source_locations.first().map_or(0, |label| label.loc.start);
            vec![format!("{}: is not Cedar: {}", file.place(at), with_details(&errors))]
        })?;
        if let Some(template) = set.templates().next() {
            let place = file.place_of(Some(&template.to_cedar()));
            return Err(vec![format!("{place}: policy {} is a template; zones have none", template.id())]);
        }
        let mut errors = Vec::new();
        for policy in set.policies() {
            let place = file.place_of(policy.to_cedar().as_deref());
            match self.check(policy, zones) {
                Ok(named) => {
                    let id = named.id().clone();
                    if self.set.add(named).is_err() {
                        errors.push(format!("{place}: policy {} has the @id of another policy", label(policy)));
                    }
                    self.places.insert(id, place);
                }
                Err(message) => errors.push(format!("{place}: {message}")),
            }
        }
        if errors.is_empty() { Ok(()) } else { Err(errors) }
    }

    fn check(&self, policy: &Policy, zones: &BTreeSet<String>) -> Result<Policy, String> {
        let label = label(policy);
        if policy.effect() == Effect::Permit {
            return Err(format!(
                "policy {label} is a permit; a policy file adds `forbid` only, permits come from [[zone.{0}.egress]] and [[zone.{0}.mcp]]",
                self.zone
            ));
        }
        if let Some(word) = vain::word(policy, zones) {
            return Err(format!("policy {label} compares with something that never is: {word}"));
        }
        Ok(policy.new_id(PolicyId::new(format!("{}/policy/{label}", self.zone))))
    }

    /// Validates everything strictly: a condition on something that does not exist at its decision point is an error.
    pub(crate) fn finish(self) -> Result<Policies, Vec<String>> {
        let result = Validator::new(SCHEMA.clone()).validate(&self.set, ValidationMode::Strict);
        let placed = |policy: &PolicyId, message: String| match self.places.get(policy) {
            Some(place) => format!("{place}: {message}"),
            None => message,
        };
        let mut errors: Vec<String> =
            result.validation_errors().map(|error| placed(error.policy_id(), with_details(error))).collect();
        // A policy that can never apply is a forbid that someone relies on in vain.
        errors.extend(result.validation_warnings().map(|warning| placed(warning.policy_id(), with_details(warning))));
        if errors.is_empty() { Ok(Policies::new(&self.zone, self.sets())) } else { Err(errors) }
    }

    /// One set for each permit: it and every `forbid`.
    fn sets(&self) -> BTreeMap<String, PolicySet> {
        let (permits, forbids): (Vec<&Policy>, Vec<&Policy>) =
            self.set.policies().partition(|policy| policy.effect() == Effect::Permit);
        let set = |permit: &Policy| {
            let policies = forbids.iter().map(|forbid| (*forbid).clone()).chain([permit.clone()]);
            PolicySet::from_policies(policies).expect("ids were distinct in the whole set already")
        };
        permits.into_iter().map(|permit| (permit.id().to_string(), set(permit))).collect()
    }
}

/// A zone's own policies as they are written.
#[derive(Clone, Copy)]
pub(crate) struct PolicyFile<'a> {
    /// As the zone names it.
    pub(crate) name: &'a str,
    /// What stands in it.
    pub(crate) text: &'a str,
}

impl PolicyFile<'_> {
    /// `NAME:LINE:COLUMN`, both from 1, of so many bytes from the beginning.
    fn place(&self, offset: usize) -> String {
        let before = self.text.get(..offset).unwrap_or_default();
        let line = before.matches('\n').count() + 1;
        let column = before.chars().rev().take_while(|letter| *letter != '\n').count() + 1;
        format!("{}:{line}:{column}", self.name)
    }

    /// The same of a policy as it is written there; of several that read alike, of the first.
    fn place_of(&self, policy: Option<&str>) -> String {
        self.place(policy.and_then(|policy| self.text.find(policy)).unwrap_or(0))
    }
}

fn label(policy: &Policy) -> String {
    policy.annotation("id").map_or_else(|| policy.id().to_string(), str::to_owned)
}

fn with_details(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
