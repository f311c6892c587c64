//! The tools with which an agent starts and manages runs, as its model is told of them.

use postern_model::agent::{CHECK_WORKFLOW, CONTINUE_WORKFLOW, START_WORKFLOW, STOP_WORKFLOW, ThreadAgent};
use postern_model::session::SessionAgent;
use serde_json::{Value, json};

use super::plan::MOST_AGENTS;
use super::program::LONGEST_LIFETIME;
use super::{MOST_RUNS, MOST_WORKING};
use crate::inline;

const START: &str = r#"Start a workflow run: a program that has many agents work in the background and combines what they return. Use it for work that is too large for one conversation and comes in many parts; do small things yourself.

A workflow has phases, which run one after the other, and each has steps, which run one after the other. A step has a `type` and its fields; `save_as` gives its value a name for the steps after it.
- {"type":"agent","agent":NAME,"prompt":TEXT,"returns":"text"|"json","fields":[...],"on_failure":"fail"|"continue","save_as":NAME}: an agent works at the prompt in a thread of its own; its last message is the value. It knows nothing but the prompt, so say all that it needs. All agents see the same files. With "json" it must return JSON, an object with `fields` where you name them. An agent that fails ends the run, unless `on_failure` is "continue": then the value is null.
- {"type":"for_each","items":LIST,"as":NAME,"steps":[...],"save_as":NAME}: the steps for every item, all at the same time; the value is the list of their last values, in order.
- {"type":"parallel","branches":[[...],[...]],"save_as":NAME}: several sequences of steps at the same time; the value is the list of their last values.
- {"type":"repeat","at_most":N,"until":CONDITION,"steps":[...],"save_as":NAME}: again and again until the condition holds; `round` is the number of the round, from 1.
- {"type":"if","condition":CONDITION,"then":[...],"else":[...]}.
- {"type":"set","value":VALUE,"save_as":NAME}.
In every text {{name}}, {{name.field}} and {{name.0}} stand for saved values; alone in a text they are the value itself, a list for instance. `now` is the time at which the run began.
A CONDITION is {"value":V,"equals":V}, or with "contains":V, "at_least":N, "at_most":N or "is_empty":true in the place of "equals"; or {"all":[...]}, {"any":[...]}, {"not":CONDITION}.
`result` is what you are told at the end; without it, the value of the last step.

Example: {"name":"Review contracts","agents":[{"name":"lister","system":"You list files."},{"name":"reader","system":"You review contracts."}],"phases":[{"name":"Find","steps":[{"type":"agent","agent":"lister","prompt":"List the files in /contracts. Return a JSON list of paths.","returns":"json","save_as":"files"}]},{"name":"Read","steps":[{"type":"for_each","items":"{{files}}","as":"file","steps":[{"type":"agent","agent":"reader","prompt":"Read {{file}}. Does it have a change-of-control clause?","returns":"json","fields":["file","has_clause"],"on_failure":"continue"}],"save_as":"findings"}]}],"result":"{{findings}}"}"#;

/// The tools of an agent that may start runs; empty for any other.
pub(crate) fn definitions(agent: &SessionAgent) -> Vec<Value> {
    let Some(saved) = agent.of_workflows() else { return Vec::new() };
    let text = || json!({"type": "string"});
    let saved: Vec<&SessionAgent> = saved.iter().map(ThreadAgent::agent).collect();
    let lines = saved
        .iter()
        .map(|agent| format!("\n- {}: {}", agent.name, agent.description.as_deref().unwrap_or("(no description)")));
    let mut whom = match (agent.workflows_define_agents(), saved.is_empty()) {
        (true, true) => "Define each agent in `agents`; it has your tools.".to_owned(),
        (true, false) => {
            "Its agents are those that you define in `agents`, which have your tools, and these:".to_owned()
        }
        (false, _) => "Its agents are these:".to_owned(),
    };
    whom.extend(lines);
    let limits = format!(
        "At most {MOST_AGENTS} agents in a run, {MOST_WORKING} of them at once; {MOST_RUNS} runs open at once. You are told when it \
         ends."
    );
    let steps = json!({"type": "array", "items": {"type": "object"}});
    let mut properties = json!({
        "name": text(),
        "description": text(),
        "lifetime_seconds": {"type": "integer", "minimum": 1, "maximum": LONGEST_LIFETIME, "description": "The run ends after it."},
        "phases": {"type": "array", "items": {
            "type": "object",
            "properties": {"name": text(), "description": text(), "steps": steps},
            "required": ["name", "steps"],
            "additionalProperties": false,
        }},
        "result": {"description": "A value, in whose texts saved values have their places."},
    });
    if agent.workflows_define_agents() {
        properties["agents"] = json!({"type": "array", "items": inline::schema(agent)});
    }
    let of_run = |name: &str, description: &str| {
        json!({
            "name": name,
            "description": description,
            "input_schema": {
                "type": "object",
                "properties": {"workflow_run_id": text()},
                "additionalProperties": false,
            },
        })
    };
    vec![
        json!({
            "name": START_WORKFLOW,
            "description": format!("{START}\n\n{whom}\n\n{limits}"),
            "input_schema": {
                "type": "object",
                "properties": properties,
                "required": ["name", "phases"],
                "additionalProperties": false,
            },
        }),
        of_run(
            CHECK_WORKFLOW,
            "How a workflow run is doing, or all that are open. You are told when one ends: do not wait with this.",
        ),
        of_run(
            CONTINUE_WORKFLOW,
            "Have a workflow run go on that the user's interrupt paused. Only if that is what the user wants. Without an id, the one that is open.",
        ),
        of_run(
            STOP_WORKFLOW,
            "End a workflow run and the agents that work for it. What they have done stays done. Without an id, the one that is open.",
        ),
    ]
}
