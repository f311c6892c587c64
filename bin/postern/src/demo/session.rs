//! Plays a session over the public API and keeps what came of it: every event, and each tool use with its result.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::scene::Stage;
use crate::failure::Failure;

const PATIENCE: Duration = Duration::from_secs(120);

/// A session that came to its end.
pub(crate) struct Played {
    /// Every event as it was stored, in order.
    pub(crate) events: Vec<Value>,
    /// Results in the order of their tool uses.
    outcomes: Vec<Outcome>,
    /// How many tool uses each assistant turn made.
    uses_per_turn: Vec<usize>,
}

/// One tool use's result.
#[derive(Clone, Default)]
pub(crate) struct Outcome {
    /// All text blocks, joined.
    pub(crate) text: String,
    /// From the tool use being seen to its result being seen.
    pub(crate) took: Duration,
}

impl Played {
    /// How many tool uses came before turn `turn`.
    pub(crate) fn uses_before(&self, turn: usize) -> usize {
        self.uses_per_turn.iter().take(turn).sum()
    }

    /// The results of `count` tool uses from the `first` one on; fewer when the session ended early.
    pub(crate) fn outcomes(&self, first: usize, count: usize) -> &[Outcome] {
        let from = first.min(self.outcomes.len());
        &self.outcomes[from..(first + count).min(self.outcomes.len())]
    }
}

/// Gives the rehearsal model its script and waits for the end of the turn.
pub(crate) async fn play(stage: &mut Stage, script: Vec<Value>) -> Result<Played, Failure> {
    let uses_per_turn = script.iter().map(|turn| turn["tool_uses"].as_array().map_or(0, Vec::len)).collect();
    let text = format!("rehearse: {}", Value::Array(script));
    let events = drive(stage, &text, |_| ()).await?;
    Ok(Played {
        outcomes: outcomes(&events),
        events: events.into_iter().map(|(event, _)| event).collect(),
        uses_per_turn,
    })
}

/// Asks a real model, showing what it says and does.
#[expect(clippy::print_stdout, reason = "a conversation is this command's result")]
pub(crate) async fn converse(stage: &mut Stage, prompt: &str) -> Result<Played, Failure> {
    let events = drive(stage, prompt, |event| match event["type"].as_str() {
        Some("agent.message") => println!("  agent: {}", text_of(&event["content"])),
        Some("agent.tool_use" | "agent.mcp_tool_use") => {
            println!("  uses {} {}", event["name"].as_str().unwrap_or_default(), event["input"])
        }
        Some("user.tool_result" | "agent.mcp_tool_result") => println!("  result: {}", text_of(&event["content"])),
        Some("session.error") => println!("  error: {}", event["error"]["message"]),
        _ => {}
    })
    .await?;
    let events: Vec<_> = events;
    Ok(Played {
        outcomes: outcomes(&events),
        events: events.into_iter().map(|(event, _)| event).collect(),
        uses_per_turn: vec![],
    })
}

async fn drive(stage: &mut Stage, text: &str, show: impl Fn(&Value)) -> Result<Vec<(Value, Instant)>, Failure> {
    let client = stage.client.clone();
    let server =
        |name: &str| json!({"type": "url", "name": name, "url": format!("https://{name}.{}/mcp", stage.tunnel_domain)});
    let toolset = |name: &str| json!({"type": "mcp_toolset", "mcp_server_name": name, "default_config": {"permission_policy": {"type": "always_allow"}}});
    let agent = json!({"name": "demo", "model": stage.model, "mcp_servers": [server("wiki"), server("payroll")],
        "tools": [{"type": "agent_toolset_20260401"}, toolset("wiki"), toolset("payroll")]});
    let agent = client.post("/v1/agents", &agent).await?;
    let session = json!({"agent": agent["id"], "environment_id": stage.environment_id});
    let session = client.post("/v1/sessions", &session).await?;
    let id = session["id"].as_str().unwrap_or_default().to_owned();
    stage.session_id.clone_from(&id);
    let mut stream = client.stream(&id, false).await?;
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": text}]});
    client.post(&format!("/v1/sessions/{id}/events"), &json!({"events": [message]})).await?;
    let mut seen = Vec::new();
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        let next = tokio::time::timeout_at(deadline, stream.next()).await;
        let event = match next {
            Ok(event) => event?,
            Err(_) => return Err(Failure::NotHeld(format!("the session did not end within {} s", PATIENCE.as_secs()))),
        };
        let Some(event) = event else { return Err(Failure::Unreachable("the event stream ended early".into())) };
        show(&event);
        let over = turn_is_over(&event);
        seen.push((event, Instant::now()));
        if over {
            return Ok(seen);
        }
    }
}

fn turn_is_over(event: &Value) -> bool {
    match event["type"].as_str() {
        Some("session.status_idle") => event["stop_reason"]["type"] != "requires_action",
        Some("session.status_terminated" | "session.deleted") => true,
        _ => false,
    }
}

fn outcomes(events: &[(Value, Instant)]) -> Vec<Outcome> {
    let mut results: HashMap<&str, (&Value, Instant)> = HashMap::new();
    for (event, at) in events {
        let id = match event["type"].as_str() {
            Some("user.tool_result" | "agent.tool_result") => event["tool_use_id"].as_str(),
            Some("agent.mcp_tool_result") => event["mcp_tool_use_id"].as_str(),
            _ => None,
        };
        if let Some(id) = id {
            results.entry(id).or_insert((event, *at));
        }
    }
    let uses = events
        .iter()
        .filter(|(event, _)| matches!(event["type"].as_str(), Some("agent.tool_use" | "agent.mcp_tool_use")));
    let mut seen = std::collections::HashSet::new();
    uses.filter_map(|(event, at)| Some((event["id"].as_str()?, at)))
        .filter(|(id, _)| seen.insert(*id))
        .map(|(id, at)| {
            let Some((result, answered)) = results.get(id) else { return Outcome::default() };
            Outcome { text: text_of(&result["content"]), took: answered.duration_since(*at) }
        })
        .collect()
}

fn text_of(content: &Value) -> String {
    let blocks = content.as_array().map(Vec::as_slice).unwrap_or_default();
    blocks.iter().filter_map(|block| block["text"].as_str()).collect::<Vec<_>>().join("\n")
}
