//! The body of a Messages API request.
//!
//! Tools, system text and messages are rendered the same way every time, so that what was sent once is a prefix of what
//! is sent next, and cache markers stand where such prefixes end.

use bytes::Bytes;
use postern_model::agent::EffortLevel;
use postern_model::session::SessionAgent;
use postern_session::{Conversation, McpTool, Message, Role};
use serde_json::{Map, Value, json};

use crate::tools;

/// How many tokens an answer may have unless configured otherwise.
pub const MAX_OUTPUT_TOKENS: u32 = 32_000;

/// The body that asks `agent`'s model to go on with `conversation`, with the tools of the MCP `servers` that answered.
pub fn body(agent: &SessionAgent, servers: &[McpTool], conversation: &Conversation, max_tokens: u32) -> Bytes {
    let mut request = Map::new();
    request.insert("model".into(), agent.model.id.clone().into());
    request.insert("max_tokens".into(), max_tokens.into());
    request.insert("stream".into(), true.into());
    let definitions = marked(tools::definitions(agent, servers));
    if !definitions.is_empty() {
        request.insert("tools".into(), definitions.into());
    }
    if let Some(system) = agent.system.as_deref().filter(|text| !text.trim().is_empty()) {
        request.insert("system".into(), marked(vec![json!({"type": "text", "text": system})]).into());
    }
    request.insert("messages".into(), messages(conversation.messages()).into());
    choices(agent, &mut request);
    serde_json::to_vec(&request).expect("a JSON value always serialises").into()
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
fn choices(agent: &SessionAgent, request: &mut Map<String, Value>) {
    if let Some(effort) = &agent.model.effort {
        request.insert("thinking".into(), json!({"type": "adaptive"}));
        request.insert("output_config".into(), json!({"effort": level(effort.level)}));
    }
    if let Some(geo) = &agent.model.inference_geo {
        request.insert("inference_geo".into(), geo.clone().into());
    }
    if let Some(speed) = agent.model.speed {
        request.insert("speed".into(), json!(speed));
    }
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

/// Markers on the last two user messages: the request before this one ended at the older of them, and finds its own
/// prefix in the cache there.
fn messages(messages: &[Message]) -> Vec<Value> {
    let users = messages.iter().enumerate().filter(|(_, message)| message.role == Role::User);
    let last_two: Vec<_> = users.map(|(index, _)| index).rev().take(2).collect();
    let render = |(index, message): (usize, &Message)| {
        let role = match message.role {
            Role::User => "user",
            Role::Assistant => "assistant",
        };
        let content = message.content.clone();
        let content = if last_two.contains(&index) { marked(content) } else { content };
        json!({"role": role, "content": content})
    };
    messages.iter().enumerate().map(render).collect()
}

fn marked(mut blocks: Vec<Value>) -> Vec<Value> {
    if let Some(last) = blocks.last_mut() {
        last["cache_control"] = json!({"type": "ephemeral"});
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
            serde_json::from_slice(&body(&agent(json!([])), &[], &Conversation::default(), 9)).unwrap();
        assert_eq!(
            request,
            json!({"model": "m", "max_tokens": 9, "stream": true, "messages": [],
            "system": [{"type": "text", "text": "be brief", "cache_control": {"type": "ephemeral"}}]})
        );
    }

    #[test]
    fn effort_becomes_adaptive_thinking_with_that_effort() {
        let mut agent = agent(json!([]));
        agent.model = serde_json::from_value(json!({"id": "m", "effort": {"type": "xhigh"}, "speed": "fast"})).unwrap();
        let request: Value = serde_json::from_slice(&body(&agent, &[], &Conversation::default(), 9)).unwrap();
        assert_eq!(request["thinking"], json!({"type": "adaptive"}));
        assert_eq!(request["output_config"], json!({"effort": "xhigh"}));
        assert_eq!(request["speed"], "fast");
    }

    #[test]
    fn markers_end_the_tools_the_system_text_and_the_last_two_user_messages() {
        let agent = agent(json!([{"type": "agent_toolset_20260401"}]));
        let turn = |role, text: &str| Message { role, content: vec![json!({"type": "text", "text": text})] };
        let rendered = messages(&[
            turn(Role::User, "a"),
            turn(Role::Assistant, "b"),
            turn(Role::User, "c"),
            turn(Role::Assistant, "d"),
            turn(Role::User, "e"),
        ]);
        let marks: Vec<_> = rendered.iter().map(|m| m["content"][0].get("cache_control").is_some()).collect();
        assert_eq!(marks, [false, false, true, false, true]);
        let request: Value = serde_json::from_slice(&body(&agent, &[], &Conversation::default(), 9)).unwrap();
        let tools = request["tools"].as_array().unwrap();
        assert!(tools.last().unwrap().get("cache_control").is_some());
        assert!(tools[..tools.len() - 1].iter().all(|tool| tool.get("cache_control").is_none()));
    }
}
