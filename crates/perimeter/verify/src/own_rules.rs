//! The zone's own `mcp` rules, as the gateway under test gets them besides the run's: what they do not name must be refused whatever they name. Decides nothing.

use postern_policy::document::DocumentText;
use toml::{Table, Value};

use crate::toml_text::inline;

/// What the rules are, and which of them leave nothing to refuse.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnRules {
    /// The rules as one TOML array.
    pub mcp: String,
    /// The servers that they name, each once.
    pub servers: Vec<String>,
    /// Why a tool that no rule names cannot be tried.
    pub every_tool: Option<String>,
    /// Why a method that no rule names cannot be tried.
    pub every_method: Option<String>,
}

impl OwnRules {
    /// Of the one zone of a document that was rewritten for the test.
    pub(crate) fn of(document: &DocumentText) -> Self {
        let root: Table = toml::from_str(&document.text).unwrap_or_default();
        let zones = root.get("zone").and_then(Value::as_table);
        let rules = zones.and_then(|zones| zones.values().next()).and_then(|zone| zone.get("mcp")?.as_array().cloned());
        Self::read(rules.unwrap_or_default())
    }

    fn read(rules: Vec<Value>) -> Self {
        let mut servers: Vec<String> = Vec::new();
        for server in rules.iter().filter_map(|rule| rule.get("server")?.as_str()) {
            if !servers.iter().any(|known| known == server) {
                servers.push(server.to_owned());
            }
        }
        let first = servers.first().cloned().unwrap_or_default();
        let of_first = |rule: &&Value| rule.get("server").and_then(Value::as_str) == Some(&first);
        let names = |rule: &Value, key: &str, all: fn(&str) -> bool| {
            rule.get(key).and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str).any(all)
        };
        let every_tool = rules.iter().filter(of_first).any(|rule| {
            names(rule, "tools", |tool| tool == "*") || names(rule, "methods", |method| method.contains(['*']))
        });
        let every_method = rules
            .iter()
            .filter(of_first)
            .any(|rule| names(rule, "methods", |method| method.contains(['*']) || method.starts_with("resources/")));
        let said =
            |whole: bool, what: &str| whole.then(|| format!("the zone's own rules allow every {what} of {first}"));
        Self {
            mcp: inline(&Value::Array(rules)),
            every_tool: said(every_tool, "tool"),
            every_method: said(every_method, "such method"),
            servers,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn of(rules: &str) -> OwnRules {
        let text = format!("config = 1\n[zone.a]\nenvironment = \"env_verify\"\n{rules}");
        OwnRules::of(&DocumentText { file: "postern.toml".into(), text, attachments: BTreeMap::new() })
    }

    #[test]
    fn the_rules_are_read_as_they_stand() {
        let own = of(
            "[[zone.a.mcp]]\nserver = \"crm\"\ntools = [\"find_*\"]\n[[zone.a.mcp]]\nserver = \"crm\"\ntools = [\"note\"]\narguments = { id = { range = [1, 9] } }\n",
        );
        assert_eq!(own.servers, ["crm"]);
        assert_eq!((own.every_tool, own.every_method), (None, None));
        let again: Table = toml::from_str(&format!("mcp = {}", own.mcp)).unwrap();
        assert_eq!(again["mcp"][1]["arguments"]["id"]["range"][1].as_integer(), Some(9));
        assert_eq!(of("").servers, Vec::<String>::new());
    }

    #[test]
    fn rules_that_allow_everything_leave_nothing_to_refuse_and_say_so() {
        let tools = of("[[zone.a.mcp]]\nserver = \"crm\"\ntools = [\"*\"]\n");
        assert!(tools.every_tool.is_some() && tools.every_method.is_none());
        let methods = of("[[zone.a.mcp]]\nserver = \"crm\"\ntools = [\"find\"]\nmethods = [\"resources/list\"]\n");
        assert!(methods.every_tool.is_none() && methods.every_method.is_some());
    }
}
