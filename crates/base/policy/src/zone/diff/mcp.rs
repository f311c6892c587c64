//! MCP: which messages the second zone permits and the first does not.

use super::super::mcp_rule::{McpRule, MethodPattern};
use super::arguments::within;
use super::{Change, ChangeKind};
use crate::argument::Glob;
use crate::automaton::{Automaton, Cell, cells};
use crate::zone::Zone;
use std::collections::{BTreeMap, BTreeSet};

/// Everything that the second zone permits and the first does not.
pub(super) fn widenings(from: &Zone, to: &Zone) -> Vec<Change> {
    let servers: BTreeSet<&str> = to.mcp_rules.iter().map(|rule| rule.server.as_str()).collect();
    servers.into_iter().flat_map(|server| Server::new(from, to, server).widenings()).collect()
}

/// The rules of both zones for one server.
struct Server<'z> {
    name: &'z str,
    to: &'z Zone,
    before: Vec<&'z McpRule>,
    after: Vec<&'z McpRule>,
}

impl<'z> Server<'z> {
    fn new(from: &'z Zone, to: &'z Zone, name: &'z str) -> Self {
        let of = |zone: &'z Zone| zone.mcp_rules.iter().filter(|rule| rule.server == name).collect();
        Self { name, to, before: of(from), after: of(to) }
    }

    fn widenings(&self) -> Vec<Change> {
        let mut changes = Vec::new();
        if self.before.is_empty() {
            let first = self.after.first().map(|rule| rule.id.as_str()).unwrap_or_default();
            let what = format!("mcp {}", self.name);
            changes.push(Change::shown(ChangeKind::McpServer, what).by(self.to, first));
        }
        changes.extend(self.methods());
        changes.extend(self.tools());
        changes
    }

    fn methods(&self) -> Vec<Change> {
        let known: Vec<&MethodPattern> = self.before.iter().flat_map(|rule| &rule.methods).collect();
        let patterns = self.after.iter().flat_map(|rule| rule.methods.iter().map(move |pattern| (rule, pattern)));
        let new = patterns.filter(|(_, pattern)| !known.iter().any(|known| pattern.is_within(known)));
        new.map(|(rule, pattern)| {
            let what = format!("mcp {} {pattern}", self.name);
            Change::shown(ChangeKind::McpMethod, what).by(self.to, &rule.id)
        })
        .collect()
    }

    /// Tools cell by cell: each rule that permits one must lie within one that did.
    fn tools(&self) -> Vec<Change> {
        let rules = self.before.iter().chain(&self.after);
        let globs: BTreeMap<String, &Glob> =
            rules.flat_map(|rule| &rule.tools).map(|glob| (glob.to_string(), glob)).collect();
        let automata: Vec<&dyn Automaton> = globs.values().map(|glob| *glob as &dyn Automaton).collect();
        let names: Vec<&String> = globs.keys().collect();
        let Ok(found) = cells(&automata, Glob::kinds()) else {
            let same =
                self.before.iter().map(|rule| without_id(rule)).eq(self.after.iter().map(|rule| without_id(rule)));
            let what = format!("mcp {} (too many tools to compare)", self.name);
            return if same { Vec::new() } else { vec![Change::possible(ChangeKind::McpTool, what)] };
        };
        let mut changes: BTreeMap<(ChangeKind, &str), Change> = BTreeMap::new();
        for cell in &found {
            for (kind, rule, change) in self.of_cell(cell, &names) {
                changes.entry((kind, rule)).or_insert(change);
            }
        }
        changes.into_values().collect()
    }

    fn of_cell(&self, cell: &Cell, names: &[&String]) -> Vec<(ChangeKind, &'z str, Change)> {
        let covers = |rule: &&&McpRule| {
            rule.tools.iter().any(|glob| {
                let text = glob.to_string();
                cell.matched.iter().any(|index| *names[*index] == text)
            })
        };
        let before: Vec<&McpRule> = self.before.iter().filter(covers).copied().collect();
        let after = self.after.iter().filter(covers).copied();
        let wider = after.filter_map(|rule| {
            let tools: Vec<String> = rule.tools.iter().map(ToString::to_string).collect();
            let place = format!("mcp {} {}, for example {:?}", self.name, tools.join(" "), cell.example);
            let kind = if before.is_empty() {
                ChangeKind::McpTool
            } else if !within(&rule.arguments, &before) {
                ChangeKind::McpArguments
            } else {
                return None;
            };
            Some((kind, rule.id.as_str(), Change::shown(kind, place).by(self.to, &rule.id)))
        });
        wider.collect()
    }
}

impl MethodPattern {
    /// Whether every method of this pattern is one of the other's.
    fn is_within(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Exact(one), Self::Exact(other)) => one == other,
            (Self::Below(_), Self::Exact(_)) => false,
            (Self::Exact(one), Self::Below(family)) => one.len() > family.len() && one.starts_with(family.as_str()),
            (Self::Below(one), Self::Below(family)) => one.starts_with(family.as_str()),
        }
    }
}

fn without_id(rule: &McpRule) -> String {
    format!("{:?}", McpRule { id: String::new(), ..rule.clone() })
}
