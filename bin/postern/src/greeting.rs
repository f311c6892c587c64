//! What `postern up` tells a person who started it.

use std::fmt::Write as _;

use postern_sandbox::{ControlStatus, State};

use crate::cli::UpArguments;
use crate::config::Configuration;
use crate::data::Data;
use crate::server::ServerReady;
use crate::tunnel::Files;

/// The whole text: address, keys, what is degraded, and a snippet to paste.
pub(crate) fn text(
    ready: &ServerReady,
    (controls, degraded): (&[ControlStatus], &[String]),
    tunnel: Option<&Files>,
    configuration: &Configuration,
    arguments: &UpArguments,
    data: &Data,
) -> String {
    let mut out = String::from("Postern is ready.\n\n");
    let shown_before = "(shown at the first start; --new-keys issues new ones)";
    let _ = writeln!(out, "  API               {}", ready.base_url);
    let _ = writeln!(out, "  API key           {}", ready.api_key.as_deref().unwrap_or(shown_before));
    let _ = writeln!(out, "  environment       {}", ready.environment_id);
    let _ = writeln!(out, "  environment key   {}", ready.environment_key.as_deref().unwrap_or(shown_before));
    if let Some(tunnel) = tunnel {
        let routes: Vec<_> = configuration.routes.iter().map(|route| route.name.clone()).collect();
        let routes =
            if routes.is_empty() { "no routes: write [[gateway.route]]".to_owned() } else { routes.join(", ") };
        let _ = writeln!(out, "  tunnel            {} under {} ({routes})", tunnel.id(), tunnel.domain());
    }
    let _ = writeln!(out, "  data              {}", data.root().display());
    let _ = writeln!(out, "  model             {}", configuration.model.endpoint);
    if !ready.model_key {
        out.push_str(
            "                    no key: set ANTHROPIC_API_KEY or --model-key-file if the endpoint wants one\n",
        );
    }
    if !configuration.has_zones {
        out.push_str("  zone              deny-all: no network, no credentials; write [zone.NAME] into postern.toml\n");
    }
    for (role, _) in [("worker", arguments.no_worker), ("gateway", arguments.no_gateway)].iter().filter(|(_, out)| *out)
    {
        let _ = writeln!(out, "  {role:<17} left out");
    }
    for warning in &configuration.warnings {
        let _ = writeln!(out, "  warning           {warning}");
    }
    out.push_str(&weak_controls(controls));
    for weak in degraded {
        let _ = writeln!(out, "  degraded          {weak}");
    }
    out.push_str(&snippet(ready));
    out
}

/// Controls that are not fully there, with cause and fix; nothing when all are.
fn weak_controls(controls: &[ControlStatus]) -> String {
    let mut out = String::new();
    for control in controls.iter().filter(|control| control.state != State::Active) {
        let _ = writeln!(out, "  {:<17} {}", "sandbox", crate::check::line(control));
    }
    out
}

fn snippet(ready: &ServerReady) -> String {
    let key = ready.api_key.as_deref().unwrap_or("pst_api_...");
    let model = ready.model_default.as_deref().unwrap_or("MODEL");
    format!(
        r#"
  from anthropic import Anthropic
  client = Anthropic(base_url="{base}", api_key="{key}")
  agent = client.beta.agents.create(name="first", model="{model}", tools=[{{"type": "agent_toolset_20260401"}}])
  session = client.beta.sessions.create(agent=agent.id, environment_id="{environment}")
  with client.beta.sessions.events.stream(session.id) as stream:
      client.beta.sessions.events.send(session.id, events=[
          {{"type": "user.message", "content": [{{"type": "text", "text": "What is in this workspace?"}}]}}])
      for event in stream:
          print(event.type)

  Or: postern run "What is in this workspace?"      Ctrl-C drains.
"#,
        base = ready.base_url,
        environment = ready.environment_id,
    )
}
