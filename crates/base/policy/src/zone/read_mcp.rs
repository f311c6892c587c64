//! Reading a zone's MCP rules: `[[zone.NAME.mcp]]`.

use super::load::is_name;
use super::mcp_rule::{McpRule, MethodPattern};
use crate::argument::{Glob, read_arguments};
use crate::document::Table;

/// All rules of the zone; `None` if one of them is wrong.
pub(super) fn read_mcp_rules(zone: &str, table: &mut Table<'_>) -> Option<Vec<McpRule>> {
    let tables = table.tables("mcp");
    let given = tables.len();
    let numbered = tables.into_iter().zip(1..);
    let rules: Vec<McpRule> =
        numbered.filter_map(|(mut table, number)| read_mcp_rule(format!("{zone}/mcp/{number}"), &mut table)).collect();
    (rules.len() == given).then_some(rules)
}

fn read_mcp_rule(id: String, table: &mut Table<'_>) -> Option<McpRule> {
    let server = read_server(table);
    let tools = read_tools(table);
    let arguments = read_arguments(table);
    let methods = read_methods(table);
    let says_something = says_something(table);
    let rule = McpRule { id, server: server?, tools: tools?, arguments: arguments?, methods: methods? };
    says_something.then_some(rule)
}

fn read_server(table: &mut Table<'_>) -> Option<String> {
    let item = table.string("server");
    let item = table.required("server", item)?;
    let named_well = is_name(item.value);
    if !named_well {
        let message = "server is the name of a gateway route: lower-case letters, digits and dashes, at most 64";
        table.reader().error(item.at, message);
    }
    named_well.then(|| item.value.to_owned())
}

fn read_tools(table: &mut Table<'_>) -> Option<Vec<Glob>> {
    if !table.has("tools") {
        return Some(Vec::new());
    }
    let items = table.strings("tools")?;
    let mut globs = Vec::new();
    for item in &items {
        match Glob::of_names(item.value) {
            Ok(glob) => globs.push(glob),
            Err(cause) => table.reader().error(item.at, format!("tools: {cause}")),
        }
    }
    not_empty(table, "tools", items.len())?;
    (globs.len() == items.len()).then_some(globs)
}

fn read_methods(table: &mut Table<'_>) -> Option<Vec<MethodPattern>> {
    if !table.has("methods") {
        return Some(Vec::new());
    }
    let given = table.strings("methods")?.len();
    let patterns = table.parsed_all::<MethodPattern>("methods")?;
    not_empty(table, "methods", given)?;
    (patterns.len() == given).then(|| patterns.into_iter().map(|item| item.value).collect())
}

fn not_empty(table: &Table<'_>, key: &str, length: usize) -> Option<()> {
    if table.is_empty_array(key) {
        table.reader().error(table.at(), format!("{key} is empty; leave it out or name some"));
    }
    (length > 0).then_some(())
}

fn says_something(table: &mut Table<'_>) -> bool {
    let message = if table.has("arguments") && !table.has("tools") {
        "arguments are those of tools; name the tools"
    } else if !table.has("tools") && !table.has("methods") {
        "the rule allows no tool; name some in tools, all of them as [\"*\"], or other methods in methods"
    } else {
        return true;
    };
    table.reader().error(table.at(), message);
    false
}
