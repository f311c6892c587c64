//! The body of a Messages API request.
//!
//! Tools, system text and messages are rendered the same way every time, so that what was sent once is a prefix of what
//! is sent next, and cache markers stand where such prefixes end.

use bytes::Bytes;
use postern_model::agent::EffortLevel;
use postern_model::memory::Access;
use postern_model::resource::Resource;
use postern_model::session::SessionAgent;
use postern_model::skill::{INSTRUCTIONS, SKILLS, SkillSummary};
use postern_model::tool::web::WebTools;
use postern_session::{Conversation, McpTool};
use serde::Serialize;
use serde_json::{Map, Value, json};

use self::turn::{MARK, Turn, turns};
use crate::tools;

mod turn;

/// How many tokens an answer may have unless configured otherwise.
pub const MAX_OUTPUT_TOKENS: u32 = 32_000;

/// What a session has besides its agent: its model is told where it lies.
#[derive(Clone, Copy, Debug, Default)]
pub struct Given<'a> {
    /// The agent's skills.
    pub skills: &'a [SkillSummary],
    /// What the session was given.
    pub resources: &'a [Resource],
    /// The web tools of this server.
    pub web: WebTools,
}

/// A request, of what is serialised: a conversation grows long, and is not copied to be sent.
#[derive(Serialize)]
struct Request<'a> {
    model: &'a str,
    max_tokens: u32,
    stream: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tools: Vec<Value>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    system: Vec<Value>,
    messages: Vec<Turn<'a>>,
    #[serde(flatten)]
    choices: Map<String, Value>,
}

/// The body that asks `agent`'s model to go on with `conversation`, with the tools of the MCP `servers` that answered. Of what is `given` the
/// model is told where it lies.
pub fn body(
    agent: &SessionAgent,
    given: Given<'_>,
    servers: &[McpTool],
    conversation: &Conversation,
    max_tokens: u32,
) -> Bytes {
    let system = agent.system.clone().filter(|text| !text.trim().is_empty());
    // What changes while a session lives comes last: what stands before it stays a prefix.
    let texts = system.into_iter().chain(skills(given.skills)).chain(resources(given.resources));
    let request = Request {
        model: &agent.model.id,
        max_tokens,
        stream: true,
        tools: marked(tools::definitions(agent, given.web, servers)),
        system: marked(texts.map(|text| json!({"type": "text", "text": text})).collect()),
        messages: turns(conversation.messages()),
        choices: choices(agent),
    };
    serde_json::to_vec(&request).expect("a JSON value always serialises").into()
}

/// The agent's skills, in words for the model: what each is for, and where to read on. Its own instructions the model reads when it needs them.
///
/// A worker that is not ours puts them into its working directory, and nobody knows yet which worker will serve the session.
fn skills(skills: &[SkillSummary]) -> Option<String> {
    let line = |skill: &SkillSummary| {
        let description: Vec<&str> = skill.description.split_whitespace().collect();
        format!("- {SKILLS}/{}/{INSTRUCTIONS}: {}", skill.name, description.join(" "))
    };
    let lines: Vec<String> = skills.iter().map(line).collect();
    (!lines.is_empty()).then(|| {
        format!(
            "This session has skills: instructions for certain tasks, each in a directory that can be read and not changed. When one fits what \
             you are asked to do, read its {INSTRUCTIONS} first; the other files that it names lie beside it. Where there is no {SKILLS}, the \
             same directories lie in `skills` below the working directory.\n{}",
            lines.join("\n")
        )
    })
}

/// What the session was given, in words for the model.
fn resources(resources: &[Resource]) -> Option<String> {
    let line = |resource: &Resource| match resource {
        Resource::File(file) => format!("- {}: a file, to be read only.", file.mount_path.as_str()),
        Resource::MemoryStore(store) => {
            let access = match store.access {
                Access::ReadOnly => "to be read only",
                Access::ReadWrite => {
                    "kept between sessions; read it before you begin, and write down what will be useful later"
                }
            };
            let said = [&store.description, &store.instructions].into_iter().flatten();
            let said: String = said.map(|text| format!(" {text}")).collect();
            format!("- {}: the memory store \"{}\", {access}.{said}", store.mount_path, store.name)
        }
        Resource::GithubRepository(repository) => {
            let path = repository.mount_path.as_str();
            format!("- {path}: a clone of the Git repository {}; fetch and push as it is set up.", repository.url)
        }
    };
    let lines: Vec<String> = resources.iter().map(line).collect();
    (!lines.is_empty()).then(|| format!("This session was given:\n{}", lines.join("\n")))
}

/// The body that asks a model one question, outside of any conversation.
pub fn question(model: &str, system: &str, question: &str, max_tokens: u32) -> Bytes {
    let text = |text: &str| json!([{"type": "text", "text": text}]);
    let messages = json!([{"role": "user", "content": text(question)}]);
    let request =
        json!({"model": model, "max_tokens": max_tokens, "stream": true, "system": text(system), "messages": messages});
    serde_json::to_vec(&request).expect("a JSON value always serialises").into()
}

/// What the agent's definition says about how the model is asked; left out where it says nothing, because not every
/// endpoint knows these.
fn choices(agent: &SessionAgent) -> Map<String, Value> {
    let mut choices = Map::new();
    if let Some(effort) = &agent.model.effort {
        choices.insert("thinking".into(), json!({"type": "adaptive"}));
        choices.insert("output_config".into(), json!({"effort": level(effort.level)}));
    }
    if let Some(geo) = &agent.model.inference_geo {
        choices.insert("inference_geo".into(), geo.clone().into());
    }
    if let Some(speed) = agent.model.speed {
        choices.insert("speed".into(), json!(speed));
    }
    choices
}

fn level(level: EffortLevel) -> &'static str {
    match level {
        EffortLevel::Low => "low",
        EffortLevel::Medium => "medium",
        EffortLevel::High => "high",
        EffortLevel::Xhigh => "xhigh",
        EffortLevel::Max => "max",
    }
}

fn marked(mut blocks: Vec<Value>) -> Vec<Value> {
    if let Some(last) = blocks.last_mut() {
        last[MARK.0] = json!(MARK.1);
    }
    blocks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tools::tests::agent;

    #[test]
    fn an_agent_without_choices_sends_only_what_every_endpoint_knows() {
        let request: Value =
            serde_json::from_slice(&body(&agent(json!([])), Given::default(), &[], &Conversation::default(), 9))
                .unwrap();
        assert_eq!(
            request,
            json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [],
            "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]})
        );
    }

    #[test]
    fn the_model_is_told_what_the_session_was_given_after_the_agents_own_text() {
        let resources: Vec<Resource> = serde_json::from_value(json!([
            {"type": "file", "id": "sesrsc_1", "file_id": "file_1", "mount_path": "/mnt/session/uploads/a.csv",
             "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"},
            {"type": "memory_store", "memory_store_id": "memstore_1", "access": "read_only", "name": "Team notes",
             "description": "What we know.", "instructions": "Look here first.", "mount_path": "/mnt/memory/team-notes"},
        ]))
        .unwrap();
        let given = Given { resources: &resources, ..Given::default() };
        let request: Value =
            serde_json::from_slice(&body(&agent(json!([])), given, &[], &Conversation::default(), 9)).unwrap();
        assert_eq!(request["system"][0], json!({"type": "text", "text": "be brief"}));
        assert_eq!(
            request["system"][1]["text"],
            "This session was given:\n\
             - /mnt/session/uploads/a.csv: a file, to be read only.\n\
             - /mnt/memory/team-notes: the memory store \"Team notes\", to be read only. What we know. Look here first."
        );
        assert!(request["system"][1].get("cache_control").is_some());
    }

    #[test]
    fn the_model_is_told_of_each_skill_when_to_read_it_and_where_before_what_may_change() {
        let skills: Vec<SkillSummary> = serde_json::from_value(json!([
            {"name": "pdf-forms", "description": "Fills forms.\n- /etc/passwd: not a line of its own"},
            {"name": "ledger", "description": "Reads the ledger."},
        ]))
        .unwrap();
        let resources: Vec<Resource> = serde_json::from_value(json!([
            {"type": "file", "id": "sesrsc_1", "file_id": "file_1", "mount_path": "/mnt/session/uploads/a.csv",
             "created_at": "2026-01-01T00:00:00Z", "updated_at": "2026-01-01T00:00:00Z"}]))
        .unwrap();
        let asked = |resources: &[Resource]| -> Vec<Value> {
            let given = Given { skills: &skills, resources, ..Given::default() };
            let request = body(&agent(json!([])), given, &[], &Conversation::default(), 9);
            let request: Value = serde_json::from_slice(&request).unwrap();
            request["system"].as_array().unwrap().iter().map(|block| block["text"].clone()).collect()
        };
        let told = asked(&resources);
        assert_eq!(asked(&[]), told[..2], "a file more leaves the prefix as it was");
        let text = told[1].as_str().unwrap();
        assert_eq!(
            text.lines().skip(1).collect::<Vec<_>>(),
            [
                "- /mnt/session/skills/pdf-forms/SKILL.md: Fills forms. - /etc/passwd: not a line of its own",
                "- /mnt/session/skills/ledger/SKILL.md: Reads the ledger.",
            ]
        );
        assert!(text.lines().next().unwrap().contains("`skills` below the working directory"));
    }

    #[test]
    fn effort_becomes_adaptive_thinking_with_that_effort() {
        let mut agent = agent(json!([]));
        agent.model = serde_json::from_value(json!({"id": "m", "effort": {"type": "xhigh"}, "speed": "fast"})).unwrap();
        let request: Value =
            serde_json::from_slice(&body(&agent, Given::default(), &[], &Conversation::default(), 9)).unwrap();
        assert_eq!(request["thinking"], json!({"type": "adaptive"}));
        assert_eq!(request["output_config"], json!({"effort": "xhigh"}));
        assert_eq!(request["speed"], "fast");
    }

    #[test]
    fn markers_end_the_tools_and_the_system_text() {
        let agent = agent(json!([{"type": "agent_toolset_20260401"}]));
        let request: Value =
            serde_json::from_slice(&body(&agent, Given::default(), &[], &Conversation::default(), 9)).unwrap();
        let tools = request["tools"].as_array().unwrap();
        assert!(tools.last().unwrap().get("cache_control").is_some());
        assert!(tools[..tools.len() - 1].iter().all(|tool| tool.get("cache_control").is_none()));
    }
}
