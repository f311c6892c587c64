//! Cedar combines what the typed matchers found: a generated permit per rule asks for its facts, a zone's policy
//! file may forbid more. Default is no, `forbid` wins, and a policy that fails to evaluate is a no as well
//! (Cedar itself would skip it, which for a `forbid` means yes).

mod generate;
mod load;
mod settled;
mod vain;

pub(crate) use generate::fact;
pub(crate) use load::{Builder, PolicyFile, tools_rule};
use settled::Settled;

use crate::reason::{Denial, Reason};
use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, EntityId, EntityTypeName, EntityUid, Policy, PolicyId, PolicySet,
    RestrictedExpression,
};
use std::collections::BTreeMap;
use std::sync::LazyLock;

/// A decision point of the schema that this build asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Connect,
    Request,
    CredentialUse,
    ToolUse,
    McpCall,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Connect => "egress.connect",
            Action::Request => "egress.request",
            Action::CredentialUse => "credential.use",
            Action::ToolUse => "tool.use",
            Action::McpCall => "mcp.call",
        }
    }

    fn resource_type(self) -> &'static EntityTypeName {
        match self {
            Action::Connect | Action::Request => &HOST,
            Action::CredentialUse => &CREDENTIAL,
            Action::ToolUse => &TOOL,
            Action::McpCall => &MCP_SERVER,
        }
    }
}

static ZONE: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Zone"));
static HOST: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Host"));
static CREDENTIAL: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Credential"));
static TOOL: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Tool"));
static MCP_SERVER: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::McpServer"));
static ACTION: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Action"));

fn type_name(text: &str) -> EntityTypeName {
    text.parse().expect("the six type names of the schema are well-formed")
}

/// The compiled policies of a zone: for each generated permit a set of it and every `forbid`, so that a question costs
/// what one rule costs, however many the zone has.
#[derive(Debug)]
pub(crate) struct Policies {
    sets: BTreeMap<String, PolicySet>,
    principal: EntityUid,
    entities: Entities,
    authorizer: Authorizer,
    /// Whether a policy of the zone's own file could turn a yes into a no.
    forbids: bool,
    settled: Settled,
}

/// An attribute of a question.
pub(crate) enum Attribute<'a> {
    Text(&'a str),
    Number(u16),
    Flag(bool),
    Names(Vec<String>),
}

impl Policies {
    fn new(zone: &str, sets: BTreeMap<String, PolicySet>) -> Self {
        let principal = EntityUid::from_type_name_and_id(ZONE.clone(), EntityId::new(zone));
        let any = sets.values().next();
        let forbids = any.is_some_and(|set| set.policies().any(|policy| policy.effect() == Effect::Forbid));
        let settled = Settled::default();
        Self { sets, principal, entities: Entities::empty(), authorizer: Authorizer::new(), forbids, settled }
    }

    /// Whether the permit of this rule agrees and no policy forbids.
    pub(crate) fn ask(
        &self,
        rule: &str,
        action: Action,
        resource: &str,
        attributes: Vec<(&str, Attribute<'_>)>,
    ) -> Result<(), Denial> {
        let question = if self.forbids { None } else { settled::Question::of(rule, action, resource, &attributes) };
        if question.as_ref().is_some_and(|question| self.settled.has(question)) {
            return Ok(());
        }
        self.evaluate(rule, action, resource, attributes)?;
        if let Some(question) = question {
            self.settled.add(question);
        }
        Ok(())
    }

    fn evaluate(
        &self,
        rule: &str,
        action: Action,
        resource: &str,
        attributes: Vec<(&str, Attribute<'_>)>,
    ) -> Result<(), Denial> {
        let failed = || Denial::new(Reason::PolicyFailed).by(rule);
        let set = self.sets.get(rule).ok_or_else(failed)?;
        let question = self.question(action, resource, attributes).ok_or_else(failed)?;
        let response = self.authorizer.is_authorized(&question, set, &self.entities);
        if response.diagnostics().errors().next().is_some() {
            return Err(failed());
        }
        match response.decision() {
            Decision::Allow => Ok(()),
            // The caller has matched the rule already: without a `forbid`, facts and permit do not fit together.
            Decision::Deny => Err(response.diagnostics().reason().next().map_or_else(failed, |id| forbidden(set, id))),
        }
    }

    /// Whether a policy of the zone's own file could turn a yes into a no.
    pub(crate) fn forbid_something(&self) -> bool {
        self.forbids
    }

    /// The policies of the zone's own file: each forbids something, whatever rule allows it.
    pub(crate) fn forbids(&self) -> impl Iterator<Item = &Policy> {
        let any = self.sets.values().next();
        any.into_iter().flat_map(PolicySet::policies).filter(|policy| policy.effect() == Effect::Forbid)
    }

    fn question(
        &self,
        action: Action,
        resource: &str,
        attributes: Vec<(&str, Attribute<'_>)>,
    ) -> Option<cedar_policy::Request> {
        let action_uid = EntityUid::from_type_name_and_id(ACTION.clone(), EntityId::new(action.name()));
        let resource = EntityUid::from_type_name_and_id(action.resource_type().clone(), EntityId::new(resource));
        cedar_policy::Request::new(self.principal.clone(), action_uid, resource, context(attributes)?, None).ok()
    }
}

fn forbidden(set: &PolicySet, id: &PolicyId) -> Denial {
    let advice = set.policy(id).and_then(|policy| policy.annotation("advice"));
    let advice = advice.unwrap_or(Reason::PolicyForbidden.next_step());
    Denial::advising(Reason::PolicyForbidden, advice).by(id.as_ref())
}

fn context(attributes: Vec<(&str, Attribute<'_>)>) -> Option<Context> {
    Context::from_pairs(attributes.into_iter().map(|(name, value)| (name.to_owned(), expression(value)))).ok()
}

fn expression(value: Attribute<'_>) -> RestrictedExpression {
    match value {
        Attribute::Text(text) => RestrictedExpression::new_string(text.to_owned()),
        Attribute::Number(number) => RestrictedExpression::new_long(i64::from(number)),
        Attribute::Flag(flag) => RestrictedExpression::new_bool(flag),
        Attribute::Names(names) => {
            RestrictedExpression::new_set(names.into_iter().map(RestrictedExpression::new_string))
        }
    }
}

#[cfg(test)]
mod tests;
