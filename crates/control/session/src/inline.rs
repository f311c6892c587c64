//! Agents that a coordinator defines when it starts them: a name and instructions of their own, and whatever else it has
//! itself. Nothing of it is saved; the note beside the thread's beginning says it to whoever reads the log.

use postern_model::agent::{ADVISOR, MAX_DESCRIPTION, MAX_NAME, MAX_SYSTEM, ModelConfig, ThreadAgent};
use postern_model::session::SessionAgent;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Where a call that starts an agent defines it.
pub(crate) const INLINE: &str = "inline_agent";

/// How an agent was defined.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Definition {
    pub(crate) name: String,
    #[serde(default)]
    description: Option<String>,
    system: String,
    /// The model of whoever defines it, unless it is another one's of the roster.
    #[serde(default)]
    model: Option<String>,
}

impl Definition {
    /// Reads what a model says.
    ///
    /// # Errors
    /// What the model is told.
    pub(crate) fn read(sent: &Value) -> Result<Self, String> {
        Self::deserialize(sent).map_err(|_| {
            format!("`{INLINE}` needs `name` and `system`, and may have `description` and `model`, all of them texts.")
        })
    }

    /// Checks it against the agent that defines it and the others that may stand beside it, within the bounds that saved
    /// agents have.
    ///
    /// # Errors
    /// What the model is told.
    pub(crate) fn check(&self, own: &SessionAgent, may_define: bool, others: &[ThreadAgent]) -> Result<(), String> {
        if !may_define {
            return Err("You cannot define agents. Start one by its name.".to_owned());
        }
        let description = self.description.as_deref().unwrap_or_default();
        for (field, text, most) in [
            ("name", self.name.as_str(), MAX_NAME),
            ("description", description, MAX_DESCRIPTION),
            ("system", &self.system, MAX_SYSTEM),
        ] {
            if text.chars().count() > most || (text.trim().is_empty() && field != "description") {
                return Err(format!("`{field}` of an agent has 1 to {most} characters."));
            }
        }
        let is_taken = |member: &ThreadAgent| member.agent().name == self.name;
        if self.name == ADVISOR || self.name == own.name || others.iter().any(is_taken) {
            return Err(format!("`{}` is another's name. Give the agent one of its own.", self.name));
        }
        match self.config(own) {
            Some(_) => Ok(()),
            None => Err(format!("The model is not one of yours. Use one of: {}.", models(own).join(", "))),
        }
    }

    /// The agent: whoever defines it, with what it says.
    pub(crate) fn agent(&self, own: &SessionAgent) -> Option<SessionAgent> {
        Some(SessionAgent {
            name: self.name.clone(),
            description: self.description.clone(),
            system: Some(self.system.clone()),
            model: self.config(own)?.clone(),
            multiagent: None,
            ..own.clone()
        })
    }

    /// How its model is asked: as whoever has it in the session does.
    fn config<'a>(&self, own: &'a SessionAgent) -> Option<&'a ModelConfig> {
        configs(own).find(|config| self.model.as_ref().is_none_or(|model| config.id == *model))
    }
}

/// How a model is told to define an agent.
pub(crate) fn schema(own: &SessionAgent) -> Value {
    let text = |description: &str| json!({"type": "string", "description": description});
    json!({
        "type": "object",
        "description": "An agent that is not saved. It has your tools, and these:",
        "properties": {
            "name": text("What it is called."),
            "description": text("What it is for."),
            "system": text("Its instructions: who it is and how it works."),
            "model": {"type": "string", "enum": models(own), "description": "Yours unless given."},
        },
        "required": ["name", "system"],
        "additionalProperties": false,
    })
}

/// The ids of the session's models, its agent's first.
fn models(own: &SessionAgent) -> Vec<&str> {
    let mut models: Vec<&str> = Vec::new();
    for config in configs(own) {
        if !models.contains(&config.id.as_str()) {
            models.push(&config.id);
        }
    }
    models
}

fn configs(own: &SessionAgent) -> impl Iterator<Item = &ModelConfig> {
    std::iter::once(&own.model).chain(own.others().map(|other| &other.model))
}
