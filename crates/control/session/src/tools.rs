//! What a policy makes of a call: which tools there are, and which of them ask.

use postern_model::event::{AutoPermission, Evaluation, Permission};
use postern_model::session::SessionAgent;
use postern_model::tool::{Builtin, PermissionPolicy, Tool};

/// What is to happen with one call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ruling {
    /// A built-in tool that a worker runs; with what was evaluated.
    Worker(Permission, Evaluation),
    /// A custom tool: someone registered for it, no policy applies.
    Custom,
    /// It is not run; the model is told this.
    Refused(String),
}

/// The tools of one agent and their policies.
#[derive(Clone, Copy, Debug)]
pub struct Permissions<'a>(pub &'a SessionAgent);

impl Permissions<'_> {
    /// The built-in tools that are offered to the model.
    pub fn offered(&self) -> Vec<Builtin> {
        Builtin::IN_SANDBOX.into_iter().filter(|tool| self.policy(*tool).is_some()).collect()
    }

    pub(crate) fn rule(&self, name: &str) -> Ruling {
        if self.0.tools.iter().any(|tool| matches!(tool, Tool::Custom(custom) if custom.name == name)) {
            return Ruling::Custom;
        }
        let builtin = Builtin::named(name).filter(|tool| tool.runs_in_sandbox());
        match builtin.and_then(|tool| self.policy(tool)) {
            Some(PermissionPolicy::AlwaysAllow {}) => Ruling::Worker(Permission::Allow, Evaluation::AlwaysAllow {}),
            Some(PermissionPolicy::AlwaysAsk {}) => Ruling::Worker(Permission::Ask, Evaluation::AlwaysAsk {}),
            Some(PermissionPolicy::Auto {}) => Ruling::Worker(
                Permission::Ask,
                Evaluation::Auto { evaluated_permission: AutoPermission::Ask { reason_code: "indeterminate".into() } },
            ),
            None => Ruling::Refused(self.not_enabled(name)),
        }
    }

    fn policy(&self, tool: Builtin) -> Option<PermissionPolicy> {
        self.0.tools.iter().find_map(|entry| match entry {
            Tool::AgentToolset(toolset) => {
                let config = toolset.config(tool);
                config.enabled.then_some(config.permission_policy)
            }
            Tool::Custom(_) | Tool::McpToolset(_) => None,
        })
    }

    fn not_enabled(&self, name: &str) -> String {
        let custom = self.0.tools.iter().filter_map(|tool| match tool {
            Tool::Custom(custom) => Some(custom.name.as_str()),
            Tool::AgentToolset(_) | Tool::McpToolset(_) => None,
        });
        let mut names: Vec<&str> = self.offered().into_iter().map(Builtin::name).collect();
        names.extend(custom);
        if names.is_empty() {
            return format!(
                "The tool `{name}` is not enabled for this agent, and no other tool is. Answer without tools."
            );
        }
        format!("The tool `{name}` is not enabled for this agent. Use one of: {}.", names.join(", "))
    }
}
