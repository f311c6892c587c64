//! May an MCP message go to a route? The zone's rules first, then Cedar.

use super::Zone;
use super::mcp_rule::{CALL, McpAgreement, McpRule};
use crate::argument::{Argument, Disagreement};
use crate::cedar::{Action, Attribute, fact};
use crate::permit::McpPermit;
use crate::reason::{Denial, Reason};
use crate::request::McpCall;
use std::fmt::Display;

/// A next step says no more than this of a rule.
const LONGEST_LIST: usize = 300;

pub(super) fn decide(zone: &Zone, call: &McpCall<'_>) -> Result<McpPermit, Denial> {
    let whole = |rule: &McpRule| rule.agreement(call) == McpAgreement::Whole;
    let open = |rule: &McpRule| postern_danger::off!("gateway-decision") && rule.covers_server(call);
    let agreeing = zone.mcp_rules.iter().find(|rule| whole(rule) || open(rule));
    let rule = agreeing.ok_or_else(|| nearest(zone, call))?;
    ask(zone, rule, call)?;
    Ok(McpPermit {
        route: rule.server.clone(),
        method: call.method.to_owned(),
        tool: called(call).map(str::to_owned),
        rule: rule.id.clone(),
        zone: zone.name.clone(),
        policy_digest: zone.digest.clone(),
        audit: zone.audit,
        shadow: None,
    })
}

pub(super) fn asks_for_arguments(zone: &Zone, call: &McpCall<'_>) -> bool {
    let covers = |rule: &&McpRule| rule.covers_server(call) && rule.covers_method(call) && rule.covers_tool(call);
    let mut covering = zone.mcp_rules.iter().filter(covers).peekable();
    call.method == CALL && covering.peek().is_some() && covering.all(|rule| !rule.arguments.is_empty())
}

pub(super) fn servers(zone: &Zone) -> Vec<&str> {
    let mut servers: Vec<&str> = Vec::new();
    for rule in &zone.mcp_rules {
        if !servers.contains(&rule.server.as_str()) {
            servers.push(&rule.server);
        }
    }
    servers
}

fn called<'a>(call: &McpCall<'a>) -> Option<&'a str> {
    call.tool.filter(|_| call.method == CALL)
}

/// The refusal by the rule that came nearest. It says what the zone allows, and never what the agent sent.
fn nearest(zone: &Zone, call: &McpCall<'_>) -> Denial {
    let nearest = zone.mcp_rules.iter().rev().max_by_key(|rule| rule.agreement(call));
    let Some((rule, agreement)) = nearest.map(|rule| (rule, rule.agreement(call))) else {
        return Denial::new(Reason::McpServerNotAllowed);
    };
    match agreement {
        McpAgreement::Nothing => unknown_server(zone),
        McpAgreement::Server => method_refused(zone, rule, call).by(&rule.id),
        McpAgreement::Method => tool_refused(zone, call).by(&rule.id),
        McpAgreement::Tool(_) | McpAgreement::Whole => argument_refused(rule, call).by(&rule.id),
    }
}

fn unknown_server(zone: &Zone) -> Denial {
    let step = format!("the zone allows the MCP servers {} only", listed(&servers(zone)));
    Denial::advising(Reason::McpServerNotAllowed, step)
}

fn method_refused(zone: &Zone, rule: &McpRule, call: &McpCall<'_>) -> Denial {
    if call.method == CALL {
        let step = format!("the zone allows no tools of {}", rule.server);
        return Denial::advising(Reason::ToolNotAllowed, step);
    }
    let others: Vec<_> = of_server(zone, call).flat_map(|rule| &rule.methods).collect();
    let more = if others.is_empty() { String::new() } else { format!(" and the methods {}", listed(&others)) };
    let step = format!("the zone allows tools/list, tools/call{more} at {}", rule.server);
    Denial::advising(Reason::McpMethodNotAllowed, step)
}

fn tool_refused(zone: &Zone, call: &McpCall<'_>) -> Denial {
    let tools: Vec<_> = of_server(zone, call).flat_map(|rule| &rule.tools).collect();
    let step = format!("the zone allows the tools {} of this server", listed(&tools));
    Denial::advising(Reason::ToolNotAllowed, step)
}

fn of_server<'a>(zone: &'a Zone, call: &'a McpCall<'_>) -> impl Iterator<Item = &'a McpRule> {
    zone.mcp_rules.iter().filter(|rule| rule.covers_server(call))
}

fn argument_refused(rule: &McpRule, call: &McpCall<'_>) -> Denial {
    let disagreements = rule.disagreements(call);
    let Some((argument, disagreement)) = disagreements.first() else {
        return Denial::new(Reason::ArgumentNotAllowed);
    };
    Denial::advising(Reason::ArgumentNotAllowed, advice(argument, *disagreement))
}

fn advice(argument: &Argument, disagreement: Disagreement) -> String {
    let Argument { name, wanted } = argument;
    let name = bounded(&name.to_string());
    match disagreement {
        Disagreement::Value => format!("argument {name:?} must be given and {}", bounded(&wanted.to_string())),
        Disagreement::Present => format!("leave argument {name:?} out"),
        Disagreement::TwoSpellings => format!("give argument {name:?} once, in this spelling only"),
    }
}

fn listed<T: Display>(items: &[T]) -> String {
    bounded(&items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))
}

fn bounded(text: &str) -> String {
    match text.char_indices().nth(LONGEST_LIST) {
        Some((end, _)) => format!("{} ...", &text[..end]),
        None => text.to_owned(),
    }
}

/// Each typed matcher of a rule, and whether it agrees with the call. Facts about a tool exist where one is called.
pub(super) fn matchers(rule: &McpRule, call: &McpCall<'_>) -> [(&'static str, bool); 4] {
    let calls = call.method == CALL;
    [
        ("server", rule.covers_server(call)),
        ("method", rule.covers_method(call)),
        ("tool", calls && rule.covers_tool(call)),
        ("arguments", calls && rule.disagreements(call).is_empty()),
    ]
}

/// Cedar's word, with the facts of the chosen rule, each from its own matcher.
fn ask(zone: &Zone, rule: &McpRule, call: &McpCall<'_>) -> Result<(), Denial> {
    let agreed = matchers(rule, call);
    let facts = agreed.iter().filter(|(_, agrees)| *agrees).map(|(matcher, _)| fact(&rule.id, matcher)).collect();
    let attributes = vec![
        ("server", Attribute::Text(&rule.server)),
        ("method", Attribute::Text(call.method)),
        ("tool", Attribute::Text(called(call).unwrap_or_default())),
        ("facts", Attribute::Names(facts)),
    ];
    zone.policies.ask(&rule.id, Action::McpCall, &rule.server, attributes)
}
