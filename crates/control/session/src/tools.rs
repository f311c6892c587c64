//! What a policy makes of a call: which tools there are, and which of them ask.

use postern_model::event::{AutoPermission, Evaluation, Permission};
use postern_model::session::SessionAgent;
use postern_model::tool::web::WebTools;
use postern_model::tool::{Builtin, PermissionPolicy, Tool};

use crate::coordinate;
use crate::mcp::{self, McpTool, Servers};

/// What is to happen with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// A built-in tool that a worker runs; with what was evaluated.
    Worker(Permission, Evaluation),
    /// A custom tool: someone registered for it, no policy applies.
    Custom,
    /// A tool of an MCP server, which this server calls; with what was evaluated.
    Server(McpName, Permission, Evaluation),
    /// A coordinator's tool, which this server answers at once; no policy applies.
    Coordinator,
    /// A web tool, which this server runs; with what was evaluated.
    Web(Permission, Evaluation),
    /// It is not run; the model is told this.
    Refused(String),
    /// A tool that an MCP server may have, but that is not offered: it is not called; the model is told this.
    RefusedServer(McpName, String),
}

impl Ruling {
    /// The same call, refused with this text.
    pub(crate) fn refused(self, text: String) -> Self {
        match self {
            Self::Server(of, ..) | Self::RefusedServer(of, _) => Self::RefusedServer(of, text),
            Self::Worker(..) | Self::Custom | Self::Coordinator | Self::Web(..) | Self::Refused(_) => {
                Self::Refused(text)
            }
        }
    }
}

/// The names of a server and of one of its tools.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct McpName {
    pub(crate) server: String,
    pub(crate) tool: String,
}

/// How many tools a refusal names.
const MOST_NAMES: usize = 50;

/// The tools of one agent and their policies, on a server with these web tools.
#[derive(Clone, Copy, Debug)]
pub struct Permissions<'a> {
    agent: &'a SessionAgent,
    web: WebTools,
}

impl<'a> Permissions<'a> {
    /// Those of this agent.
    pub fn new(agent: &'a SessionAgent, web: WebTools) -> Self {
        Self { agent, web }
    }

    /// The built-in tools that are offered to the model.
    pub fn offered(&self) -> Vec<Builtin> {
        let all = Builtin::IN_SANDBOX.into_iter().chain(Builtin::ON_SERVER);
        all.filter(|tool| self.policy(*tool).is_some()).collect()
    }

    pub(crate) fn rule(&self, name: &str, servers: &Servers) -> Ruling {
        if name.starts_with("mcp__") {
            return self.rule_server(name, servers);
        }
        if coordinate::is_order(self.agent, name) {
            return Ruling::Coordinator;
        }
        if self.agent.tools.iter().any(|tool| matches!(tool, Tool::Custom(custom) if custom.name == name)) {
            return Ruling::Custom;
        }
        let builtin = Builtin::named(name).and_then(|tool| Some((tool, self.policy(tool)?)));
        match builtin {
            Some((tool, policy)) => {
                let (permission, evaluation) = evaluate(policy);
                match tool.runs_in_sandbox() {
                    true => Ruling::Worker(permission, evaluation),
                    false => Ruling::Web(permission, evaluation),
                }
            }
            None => Ruling::Refused(self.not_enabled(name, servers)),
        }
    }

    fn rule_server(&self, name: &str, servers: &Servers) -> Ruling {
        if let Some(McpTool { server, tool, .. }) = servers.find(name) {
            let config = mcp::toolset(self.agent, server).map(|toolset| toolset.config(tool));
            let (permission, evaluation) = evaluate(config.map_or(PermissionPolicy::ASK, |c| c.permission_policy));
            return Ruling::Server(McpName { server: server.clone(), tool: tool.clone() }, permission, evaluation);
        }
        match mcp::meant(self.agent, name) {
            Some((server, tool)) => {
                let reason = match servers.failure(server) {
                    Some(reason) => format!(
                        "The tool was not run: the MCP server `{server}` is not connected. {reason} Go on without it."
                    ),
                    None => self.not_enabled(name, servers),
                };
                Ruling::RefusedServer(McpName { server: server.to_owned(), tool }, reason)
            }
            None => Ruling::Refused(self.not_enabled(name, servers)),
        }
    }

    pub(crate) fn policy(&self, tool: Builtin) -> Option<PermissionPolicy> {
        if !self.web.serve(tool) {
            return None;
        }
        self.agent.tools.iter().find_map(|entry| match entry {
            Tool::AgentToolset(toolset) => {
                let config = toolset.config(tool);
                config.enabled.then_some(config.permission_policy)
            }
            Tool::Custom(_) | Tool::McpToolset(_) => None,
        })
    }

    fn not_enabled(&self, name: &str, servers: &Servers) -> String {
        let custom = self.agent.tools.iter().filter_map(|tool| match tool {
            Tool::Custom(custom) => Some(custom.name.as_str()),
            Tool::AgentToolset(_) | Tool::McpToolset(_) => None,
        });
        let mut names: Vec<&str> = self.offered().into_iter().map(Builtin::name).collect();
        names.extend(custom);
        names.extend(coordinate::names(self.agent));
        names.extend(servers.tools().iter().map(|tool| tool.name.as_str()));
        if names.is_empty() {
            return format!(
                "The tool `{name}` is not enabled for this agent, and no other tool is. Answer without tools."
            );
        }
        let more = if names.len() > MOST_NAMES { ", ..." } else { "" };
        names.truncate(MOST_NAMES);
        format!("The tool `{name}` is not enabled for this agent. Use one of: {}{more}.", names.join(", "))
    }
}

/// What a policy makes of a call. Where a judge is to decide, a person is asked unless `judge` knows better.
fn evaluate(policy: PermissionPolicy) -> (Permission, Evaluation) {
    match policy {
        PermissionPolicy::AlwaysAllow {} => (Permission::Allow, Evaluation::AlwaysAllow {}),
        PermissionPolicy::AlwaysAsk {} => (Permission::Ask, Evaluation::AlwaysAsk {}),
        PermissionPolicy::Auto {} => {
            let evaluated_permission = AutoPermission::Ask { reason_code: "indeterminate".into() };
            (Permission::Ask, Evaluation::Auto { evaluated_permission })
        }
    }
}
