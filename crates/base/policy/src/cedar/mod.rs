//! Cedar combines what the typed matchers found: a generated permit per rule asks for its facts, a zone's policy
//! file may forbid more. Default is no, `forbid` wins, and a policy that fails to evaluate is a no as well
//! (Cedar itself would skip it, which for a `forbid` means yes).

mod generate;
mod load;

pub(crate) use generate::fact;
pub(crate) use load::Builder;

use crate::reason::{Denial, Reason};
use cedar_policy::{
    Authorizer, Context, Decision, Effect, Entities, EntityId, EntityTypeName, EntityUid, PolicySet,
    RestrictedExpression,
};
use std::collections::BTreeSet;
use std::sync::LazyLock;

/// A decision point of the schema that this build asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Connect,
    Request,
    CredentialUse,
    ToolUse,
}

impl Action {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Action::Connect => "egress.connect",
            Action::Request => "egress.request",
            Action::CredentialUse => "credential.use",
            Action::ToolUse => "tool.use",
        }
    }

    fn resource_type(self) -> &'static EntityTypeName {
        match self {
            Action::Connect | Action::Request => &HOST,
            Action::CredentialUse => &CREDENTIAL,
            Action::ToolUse => &TOOL,
        }
    }
}

static ZONE: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Zone"));
static HOST: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Host"));
static CREDENTIAL: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Credential"));
static TOOL: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Tool"));
static ACTION: LazyLock<EntityTypeName> = LazyLock::new(|| type_name("Postern::Action"));

fn type_name(text: &str) -> EntityTypeName {
    text.parse().expect("the five type names of the schema are well-formed")
}

/// The compiled policies of a zone.
#[derive(Debug)]
pub(crate) struct Policies {
    set: PolicySet,
    principal: EntityUid,
    entities: Entities,
}

/// An attribute of a question.
pub(crate) enum Attribute<'a> {
    Text(&'a str),
    Number(u16),
    Flag(bool),
    Names(Vec<String>),
}

impl Policies {
    fn new(zone: &str, set: PolicySet) -> Self {
        let principal = EntityUid::from_type_name_and_id(ZONE.clone(), EntityId::new(zone));
        Self { set, principal, entities: Entities::empty() }
    }

    /// Asks all policies. The answer is the ids of the permits that agreed, at least one.
    pub(crate) fn ask(
        &self,
        action: Action,
        resource: &str,
        attributes: Vec<(&str, Attribute<'_>)>,
    ) -> Result<BTreeSet<String>, Denial> {
        let failed = || Denial::new(Reason::PolicyFailed);
        let context = context(attributes).ok_or_else(failed)?;
        let action_uid = EntityUid::from_type_name_and_id(ACTION.clone(), EntityId::new(action.name()));
        let resource = EntityUid::from_type_name_and_id(action.resource_type().clone(), EntityId::new(resource));
        let question = cedar_policy::Request::new(self.principal.clone(), action_uid, resource, context, None)
            .map_err(|_| failed())?;
        let response = Authorizer::new().is_authorized(&question, &self.set, &self.entities);
        if response.diagnostics().errors().next().is_some() {
            return Err(failed());
        }
        let mut reasons: BTreeSet<String> = response.diagnostics().reason().map(ToString::to_string).collect();
        match response.decision() {
            Decision::Allow => Ok(reasons),
            Decision::Deny => Err(match reasons.pop_first() {
                Some(id) => self.forbidden(&id),
                // No permit agreed: the caller knows the typed reason better.
                None => Denial::new(Reason::PolicyForbidden),
            }),
        }
    }

    fn forbidden(&self, id: &str) -> Denial {
        let advice = self
            .set
            .policies()
            .find(|policy| policy.effect() == Effect::Forbid && policy.id().to_string() == id)
            .and_then(|policy| policy.annotation("advice"))
            .unwrap_or(Reason::PolicyForbidden.next_step());
        Denial::advising(Reason::PolicyForbidden, advice).by(id)
    }

    /// May this tool be used?
    pub(crate) fn tool_use(&self, tool: &str) -> Result<String, Denial> {
        let allowed = self.ask(
            Action::ToolUse,
            tool,
            vec![("tool", Attribute::Text(tool)), ("facts", Attribute::Names(Vec::new()))],
        )?;
        Ok(allowed.into_iter().next().unwrap_or_default())
    }
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
