//! Why a zone decided as it did. The decision is the one that enforces, asked as it always is; beside it stands what
//! each rule's matchers said. Nothing is decided here.

use super::rule::{Repositories, Rule};
use super::{Zone, connect, mcp, request};
use crate::credential::CredentialName;
use crate::document::Table;
use crate::permit::{ConnectPermit, GrantPermit, McpPermit, PassPermit, Permit, ToolPermit};
use crate::reason::{Denial, Reason};
use crate::repository::{RepositoryToken, RepositoryUrl};
use crate::request::{Connect, McpCall, Request, ToolUse, Transport};
use crate::{Host, Port};
use std::collections::BTreeMap;

/// A decision and what led to it.
#[derive(Clone, Debug)]
pub struct Explanation<P> {
    /// What the zone says: the very answer that is enforced.
    pub decided: Result<P, Denial>,
    /// What each rule that speaks of this host, server or credential said, in the order of the file.
    pub rules: Vec<Account>,
    /// What Cedar said.
    pub cedar: CedarWord,
}

/// What one rule said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// The rule's id.
    pub rule: String,
    /// Its line in the file, from 1.
    pub line: Option<usize>,
    /// Each of its typed matchers, and whether it agreed.
    pub matchers: Vec<(&'static str, bool)>,
}

/// What Cedar said about a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CedarWord {
    /// The matchers or what stands in the request had said no before.
    NotAsked,
    /// This permit, and none of these forbids.
    Permitted {
        /// The policy's id: the rule's.
        by: String,
        /// The policies that could have forbidden it.
        forbids: Vec<String>,
    },
    /// This forbid.
    Forbidden {
        /// The policy's id.
        by: String,
    },
    /// A policy could not be evaluated, which is a no.
    Failed,
}

/// Where each rule of a zone stands in the file.
#[derive(Clone, Debug, Default)]
pub(super) struct RuleLines(BTreeMap<String, usize>);

impl RuleLines {
    /// Of all rules of a zone's section; what is wrong in them is said by their own readers.
    pub(super) fn read(zone: &str, table: &mut Table<'_>) -> Self {
        let mut lines = BTreeMap::new();
        for key in ["egress", "mcp"] {
            for (mut rule, number) in table.tables(key).into_iter().zip(1..) {
                rule.leave_rest();
                lines.insert(format!("{zone}/{key}/{number}"), rule.reader().line(rule.at()));
            }
        }
        Self(lines)
    }
}

impl Account {
    /// Whether every matcher agreed.
    #[must_use]
    pub fn agrees(&self) -> bool {
        self.matchers.iter().all(|(_, agrees)| *agrees)
    }
}

impl Zone {
    /// The line on which a rule stands in the file, from 1.
    #[must_use]
    pub fn line_of(&self, rule: &str) -> Option<usize> {
        self.lines.0.get(rule).copied()
    }

    /// [`Zone::connect`], with what led to it.
    #[must_use]
    pub fn explain_connect(&self, asked: &Connect) -> Explanation<ConnectPermit> {
        let here = self.rules.iter().filter(|rule| rule.host.covers(&asked.host));
        let rules = here.map(|rule| self.account(&rule.id, &connect::matchers(rule, asked))).collect();
        self.explained(self.connect(asked), rules, ConnectPermit::rule)
    }

    /// [`Zone::pass`], with what led to it; `None` where requests are inspected and decided one by one.
    #[must_use]
    pub fn explain_pass(&self, host: &Host, port: Port) -> Option<Explanation<PassPermit>> {
        let decided = self.pass(host, port).transpose()?;
        let asked = Connect { host: host.clone(), port, transport: Transport::Tls };
        let here = self.rules.iter().filter(|rule| rule.host.covers(host));
        let rules = here.map(|rule| self.account(&rule.id, &connect::matchers(rule, &asked))).collect();
        Some(self.explained(decided, rules, PassPermit::rule))
    }

    /// [`Zone::request`], with what led to it.
    #[must_use]
    pub fn explain_request(&self, asked: &Request) -> Explanation<Permit> {
        let here = self.rules.iter().filter(|rule| rule.host.covers(&asked.host));
        let rules = here.map(|rule| self.account(&rule.id, &request::matchers(rule, asked))).collect();
        self.explained(self.request(asked), rules, Permit::rule)
    }

    /// [`Zone::mcp`], with what led to it.
    #[must_use]
    pub fn explain_mcp(&self, call: &McpCall<'_>) -> Explanation<McpPermit> {
        let here = self.mcp_rules.iter().filter(|rule| rule.covers_server(call));
        let rules = here.map(|rule| self.account(&rule.id, &mcp::matchers(rule, call))).collect();
        self.explained(self.mcp(call), rules, McpPermit::rule)
    }

    /// [`Zone::tool_use`], with what led to it.
    #[must_use]
    pub fn explain_tool(&self, tool: &ToolUse) -> Explanation<ToolPermit> {
        self.explained(self.tool_use(tool), Vec::new(), ToolPermit::rule)
    }

    /// [`Zone::grant`], with the rules that name the credential. Cedar has no say about it: it speaks at each use.
    #[must_use]
    pub fn explain_grant(&self, name: &CredentialName) -> Explanation<GrantPermit> {
        let injected = self.credential(name).is_some_and(|credential| !credential.inject.is_empty());
        let names = |rule: &Rule| rule.credentials().any(|used| used == name);
        let matchers = |rule: &Rule| [("credential", names(rule)), ("inject", injected)];
        let naming = self.rules.iter().filter(|rule| names(rule));
        let rules = naming.map(|rule| self.account(&rule.id, &matchers(rule))).collect();
        Explanation { decided: self.grant(name), rules, cedar: CedarWord::NotAsked }
    }

    /// [`Zone::grant_repository`], with the rules for the repository's host.
    #[must_use]
    pub fn explain_repository(&self, url: &RepositoryUrl) -> Explanation<GrantPermit> {
        let matchers = |rule: &Rule| {
            [
                ("host", rule.host.covers(url.host())),
                ("port", rule.ports.contains(&url.port())),
                ("scheme", rule.scheme == url.scheme()),
                ("repositories", rule.repositories == Repositories::Taken),
            ]
        };
        let here = self.rules.iter().filter(|rule| rule.host.covers(url.host()));
        let rules = here.map(|rule| self.account(&rule.id, &matchers(rule))).collect();
        let decided = self.grant_repository(&RepositoryToken::new("", url.clone()));
        Explanation { decided, rules, cedar: CedarWord::NotAsked }
    }

    fn account(&self, rule: &str, matchers: &[(&'static str, bool)]) -> Account {
        Account { rule: rule.to_owned(), line: self.line_of(rule), matchers: matchers.to_vec() }
    }

    fn explained<P>(
        &self,
        decided: Result<P, Denial>,
        rules: Vec<Account>,
        rule_of: impl Fn(&P) -> &str,
    ) -> Explanation<P> {
        let cedar = match &decided {
            Ok(permit) => CedarWord::Permitted {
                by: rule_of(permit).to_owned(),
                forbids: self.policies.forbids().map(|policy| policy.id().to_string()).collect(),
            },
            // Both reasons are Cedar's alone.
            Err(Denial { reason: Reason::PolicyForbidden, rule, .. }) => {
                CedarWord::Forbidden { by: rule.clone().unwrap_or_default() }
            }
            Err(Denial { reason: Reason::PolicyFailed, .. }) => CedarWord::Failed,
            Err(_) => CedarWord::NotAsked,
        };
        Explanation { decided, rules, cedar }
    }
}
