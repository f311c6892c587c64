//! `postern run "text"`: a session from the terminal, streamed as it happens.

use std::io::Write;

use serde_json::{Value, json};

use crate::cli::{Place, RunArguments};
use crate::client::{Client, Events};
use crate::config::{self, DEFAULT_ENVIRONMENT};
use crate::failure::{Failure, Or};

const AGENT: &str = "postern-run";
const MODEL_FAILED: &str = "model_request_failed_error";

/// Runs one turn; Ctrl-C interrupts the agent and ends.
///
/// # Errors
/// The server is not reachable, or the turn did not end well.
pub(crate) async fn run(arguments: &RunArguments) -> Result<(), Failure> {
    let client = Client::of(&arguments.server)?;
    let agent = match &arguments.agent {
        Some(id) => id.clone(),
        None => own_agent(&client, arguments).await?,
    };
    let environment = match &arguments.environment {
        Some(id) => id.clone(),
        None => environment(&client).await?,
    };
    let session = client.post("/v1/sessions", &json!({"agent": agent, "environment_id": environment})).await?;
    let session = session["id"].as_str().unwrap_or_default().to_owned();
    let mut events = client.stream(&session, true).await?;
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": arguments.text}]});
    client.post(&path(&session), &json!({"events": [message]})).await?;
    tokio::select! {
        ended = follow(&mut events, endpoint(&client, &arguments.server.place)) => ended,
        _ = tokio::signal::ctrl_c() => {
            client.post(&path(&session), &json!({"events": [{"type": "user.interrupt"}]})).await?;
            Err(Failure::NotHeld(format!("interrupted; session {session}")))
        }
    }
}

fn path(session: &str) -> String {
    format!("/v1/sessions/{session}/events")
}

/// Where this directory's server has its model, as far as the configuration here says it. A server elsewhere tells no client.
fn endpoint(client: &Client, place: &Place) -> Option<String> {
    let is_said_here = client.is_operators() && config::file(place.config.as_deref()).is_some();
    let configuration = is_said_here.then(|| config::read(place).ok())??;
    Some(configuration.model.endpoint.to_string())
}

async fn follow(events: &mut Events, endpoint: Option<String>) -> Result<(), Failure> {
    let mut screen = Screen { endpoint, ..Screen::default() };
    while let Some(event) = events.next().await? {
        if let Some(ended) = screen.show(&event)? {
            return ended;
        }
    }
    Err(Failure::Unreachable("the server ended the stream before the turn was over".into()))
}

/// What has been written so far, so that a message previewed in pieces is not written twice.
#[derive(Default)]
struct Screen {
    previewed: Option<String>,
    last_error: Option<String>,
    /// Where the model is, for whoever may know.
    endpoint: Option<String>,
}

impl Screen {
    /// Writes what the event has to say; the outcome, when it ends the turn.
    fn show(&mut self, event: &Value) -> Result<Option<Result<(), Failure>>, Failure> {
        match event["type"].as_str().unwrap_or_default() {
            "event_delta" => self.piece(event)?,
            "agent.message" => self.message(event)?,
            "agent.tool_use" => write(&format!("\n> {} {}\n", text(&event["name"]), brief(&event["input"])))?,
            "agent.custom_tool_use" => write(&format!("\n> {} waits for its owner's result\n", text(&event["name"])))?,
            "user.tool_result" | "agent.tool_result" => write(&indented(&blocks(&event["content"])))?,
            "session.error" => self.error(event)?,
            "session.status_idle" => return Ok(self.idle(event)),
            "session.status_terminated" | "session.deleted" => {
                return Ok(Some(Err(Failure::NotHeld("the session was ended".into()))));
            }
            _ => {}
        }
        Ok(None)
    }

    fn piece(&mut self, event: &Value) -> Result<(), Failure> {
        self.previewed = event["event_id"].as_str().map(str::to_owned);
        write(text(&event["delta"]["content"]["text"]))
    }

    fn message(&mut self, event: &Value) -> Result<(), Failure> {
        let seen = self.previewed.take();
        if seen.as_deref() == event["id"].as_str() {
            write("\n")
        } else {
            write(&format!("{}\n", blocks(&event["content"])))
        }
    }

    fn error(&mut self, event: &Value) -> Result<(), Failure> {
        let kind = text(&event["error"]["type"]);
        let mut line = format!("{kind}: {}", text(&event["error"]["message"]));
        if let Some(endpoint) = self.endpoint.as_ref().filter(|_| kind == MODEL_FAILED) {
            line.push_str(&format!(" `[model] url` is {endpoint} here."));
        }
        self.last_error = Some(line.clone());
        write(&format!("\n! {line}\n"))
    }

    fn idle(&mut self, event: &Value) -> Option<Result<(), Failure>> {
        match (text(&event["stop_reason"]["type"]), self.last_error.take()) {
            ("requires_action", error) => {
                self.last_error = error;
                None
            }
            ("end_turn", None) => Some(Ok(())),
            (reason, error) => {
                Some(Err(Failure::NotHeld(error.unwrap_or_else(|| format!("the turn ended with {reason}")))))
            }
        }
    }
}

async fn own_agent(client: &Client, arguments: &RunArguments) -> Result<String, Failure> {
    let model = match &arguments.model {
        Some(model) => model.clone(),
        None => default_model(client).await?,
    };
    let known = client.list("/v1/agents?limit=100").await?;
    let existing = known.iter().find(|agent| agent["name"] == AGENT && agent["model"]["id"] == model.as_str());
    if let Some(agent) = existing {
        return Ok(text(&agent["id"]).to_owned());
    }
    let tools = json!([{"type": "agent_toolset_20260401"}]);
    let agent = client.post("/v1/agents", &json!({"name": AGENT, "model": model, "tools": tools})).await?;
    Ok(text(&agent["id"]).to_owned())
}

async fn default_model(client: &Client) -> Result<String, Failure> {
    let models = client.get("/v1/models").await?;
    let first = models["data"][0]["id"].as_str();
    first
        .map(str::to_owned)
        .ok_or_else(|| Failure::Misused("name a model: --model NAME, or [model] default in postern.toml".into()))
}

async fn environment(client: &Client) -> Result<String, Failure> {
    let environments = client.list("/v1/environments?limit=100").await?;
    let found = environments.iter().find(|environment| environment["name"] == DEFAULT_ENVIRONMENT);
    let id = found.and_then(|environment| environment["id"].as_str());
    id.map(str::to_owned).ok_or_else(|| Failure::Misused("name an environment: --environment ID".into()))
}

fn write(text: &str) -> Result<(), Failure> {
    let mut out = std::io::stdout();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).or_misused("write to the terminal")
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn blocks(content: &Value) -> String {
    let texts = content.as_array().into_iter().flatten().filter_map(|block| block["text"].as_str());
    texts.collect::<Vec<_>>().join("\n")
}

fn indented(results: &str) -> String {
    results.lines().map(|line| format!("  {line}\n")).collect()
}

/// A tool's input on one line of bounded length.
fn brief(input: &Value) -> String {
    const WIDTH: usize = 200;
    let whole = match input.as_object() {
        Some(fields) if fields.len() == 1 => fields.values().next().map(plain).unwrap_or_default(),
        _ => input.to_string(),
    };
    let line = whole.replace('\n', "\\n");
    if line.chars().count() <= WIDTH { line } else { line.chars().take(WIDTH - 1).chain(['…']).collect() }
}

fn plain(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
