//! Words of a policy that nothing ever equals: who relies on such a `forbid` relies on it in vain.

use cedar_policy::{ActionConstraint, EntityUid, Policy};
use serde_json::Value;
use std::collections::BTreeSet;

use crate::{Host, Method};

/// What is wrong with the first such word of a policy. `zones` are all that the file names.
pub(super) fn word(policy: &Policy, zones: &BTreeSet<String>) -> Option<String> {
    let of_entity = |uid: EntityUid| {
        let (kind, id) = (uid.type_name().to_string(), uid.id().unescaped().to_owned());
        match kind.as_str() {
            "Postern::Zone" if !zones.contains(&id) => Some(format!("no zone is named {id:?}")),
            "Postern::Host" => host(&id),
            _ => None,
        }
    };
    let mut compared = Vec::new();
    match policy.to_json() {
        Ok(written) => walk(&written, &mut compared),
        Err(error) => return Some(format!("it cannot be looked through: {error}")),
    }
    let of_requests = !acts_on(policy, "mcp.call");
    let of_attribute = |(attribute, text): (String, String)| match attribute.as_str() {
        "host" => host(&text),
        "method" if of_requests && text.parse::<Method>().is_err() => {
            Some(format!("no request has the method {text:?}; methods are upper-case"))
        }
        "scheme" => one_of(&["https", "http"], &attribute, &text),
        "transport" => one_of(&["unread", "tls", "http"], &attribute, &text),
        _ => None,
    };
    policy.entity_literals().into_iter().find_map(of_entity).or_else(|| compared.into_iter().find_map(of_attribute))
}

fn host(text: &str) -> Option<String> {
    match text.parse::<Host>().map(|host| host.to_string()) {
        Ok(one_form) if one_form == text => None,
        Ok(one_form) => Some(format!("the host {text:?} is {one_form:?} in its one form")),
        Err(bad) => Some(format!("{text:?} is no host: {bad}")),
    }
}

fn one_of(known: &[&str], attribute: &str, text: &str) -> Option<String> {
    (!known.contains(&text)).then(|| format!("{attribute} is never {text:?}, only one of {}", known.join(", ")))
}

fn acts_on(policy: &Policy, action: &str) -> bool {
    let is_it = |uid: &EntityUid| uid.id().unescaped() == action;
    match policy.action_constraint() {
        ActionConstraint::Any => true,
        ActionConstraint::Eq(uid) => is_it(&uid),
        ActionConstraint::In(uids) => uids.iter().any(is_it),
    }
}

/// Every attribute of the context that is compared with a text, and the text.
fn walk(expression: &Value, found: &mut Vec<(String, String)>) {
    match expression {
        Value::Object(members) => {
            for (operator, operands) in members {
                let (left, right) = (&operands["left"], &operands["right"]);
                match operator.as_str() {
                    "==" | "!=" => found.extend(pair(left, right).or_else(|| pair(right, left))),
                    "contains" => {
                        let listed = left["Set"].as_array().into_iter().flatten();
                        found.extend(listed.filter_map(|text| pair(right, text)));
                    }
                    _ => {}
                }
                walk(operands, found);
            }
        }
        Value::Array(items) => items.iter().for_each(|item| walk(item, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn pair(attribute: &Value, text: &Value) -> Option<(String, String)> {
    let access = &attribute["."];
    let of_context = access["left"]["Var"] == "context";
    let named = access["attr"].as_str().filter(|_| of_context)?;
    Some((named.to_owned(), text["Value"].as_str()?.to_owned()))
}
