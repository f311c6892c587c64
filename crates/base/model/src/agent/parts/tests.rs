use serde_json::{Value, json};

use super::*;
use crate::agent::Multiagent;
use crate::ids::AgentId;

fn off() -> Value {
    json!({"type": "disabled"})
}

fn parse(sent: Value, stored: Option<&Multiagent>) -> Result<Multiagent<MemberParam>, Problem> {
    Multiagent::parse(&sent, stored)
}

/// What was sent, as it is stored.
fn stored(mut sent: Value, before: Option<&Multiagent>) -> Multiagent {
    sent["type"] = "multiagent_20261001".into();
    let parsed = parse(sent, before).unwrap();
    let member = |param: &MemberParam| match param {
        MemberParam::Agent { id, version } => {
            Member::Agent { id: AgentId::parse(id).unwrap(), version: version.unwrap_or(7) }
        }
        MemberParam::Itself => Member::Itself {},
    };
    let members = parsed.all().map(member).collect();
    parsed.with(members)
}

#[test]
fn absent_keeps_null_is_the_default_and_another_type_begins_anew() {
    let agent = |id: &str| json!({"type": "agent", "id": id, "version": 7});
    let on =
        |inline: Value, agents: Value| json!({"type": "enabled", "inline_agents": inline, "predefined_agents": agents});
    let enabled = || json!({"type": "enabled"});
    let first = json!({
        "advisor": {"type": "enabled", "model": "wise"},
        "subagents": {"type": "enabled", "inline_agents": off(), "predefined_agents": ["agent_1", {"type": "self"}]},
        "workflows": off(),
    });
    let before = stored(first, None);
    let kept = on(off(), json!([agent("agent_1"), {"type": "self"}]));
    let wise = json!({"type": "enabled", "model": "wise"});
    for (sent, advisor, subagents) in [
        (json!({}), wise.clone(), kept.clone()),
        (json!({"advisor": null}), off(), kept.clone()),
        (json!({"advisor": off()}), off(), kept.clone()),
        (
            json!({"advisor": {"type": "enabled", "model": "sage"}}),
            json!({"type": "enabled", "model": "sage"}),
            kept.clone(),
        ),
        (json!({"subagents": null}), wise.clone(), on(enabled(), json!([]))),
        (json!({"subagents": off()}), wise.clone(), off()),
        (json!({"subagents": enabled()}), wise.clone(), kept.clone()),
        (
            json!({"subagents": {"type": "enabled", "inline_agents": null}}),
            wise.clone(),
            on(enabled(), json!([agent("agent_1"), {"type": "self"}])),
        ),
        (
            json!({"subagents": {"type": "enabled", "predefined_agents": ["agent_2"]}}),
            wise.clone(),
            on(off(), json!([agent("agent_2")])),
        ),
        (
            json!({"subagents": {"type": "enabled", "inline_agents": enabled(), "predefined_agents": null}}),
            wise.clone(),
            on(enabled(), json!([])),
        ),
    ] {
        let expected =
            json!({"type": "multiagent_20261001", "advisor": advisor, "subagents": subagents, "workflows": off()});
        let after = stored(sent.clone(), Some(&before));
        assert_eq!(json!(after), expected, "{sent}");
        assert_eq!(serde_json::from_value::<Multiagent>(expected).unwrap(), after, "it reads back");
    }
    // The same holds of workflows, whose agents are others.
    for (sent, workflows) in [
        (json!({}), off()),
        (json!({"workflows": null}), on(enabled(), json!([]))),
        (json!({"workflows": enabled()}), on(enabled(), json!([]))),
        (
            json!({"workflows": {"type": "enabled", "inline_agents": off(), "predefined_agents": ["agent_1", "agent_3"]}}),
            on(off(), json!([agent("agent_1"), agent("agent_3")])),
        ),
    ] {
        let after = stored(sent.clone(), Some(&before));
        assert_eq!((&json!(after)["workflows"], &json!(after)["subagents"]), (&workflows, &kept), "{sent}");
        assert_eq!(stored(json!({}), Some(&after)), after, "absent keeps");
    }
    assert_eq!(json!(stored(json!({}), None))["workflows"], on(enabled(), json!([])), "enabled is the default");
    // What was disabled has nothing to keep.
    let disabled = stored(json!({"subagents": off()}), None);
    let again = stored(json!({"subagents": enabled()}), Some(&disabled));
    assert_eq!(json!(again)["subagents"], on(enabled(), json!([])));
    // Nor has a coordinator.
    let roster = json!({"type": "coordinator", "agents": [agent("agent_1"), {"type": "advisor", "model": "wise"}]});
    let coordinator: Multiagent = serde_json::from_value(roster.clone()).unwrap();
    assert_eq!(json!(coordinator), roster);
    let parsed = parse(json!({"type": "multiagent_20261001", "workflows": off()}), Some(&coordinator)).unwrap();
    assert!(parsed.advisor().is_none() && parsed.members().is_empty() && parsed.defines_agents());
}

#[test]
fn what_cannot_be_is_refused_with_its_place() {
    let on = |more: Value| {
        let mut on = json!({"type": "enabled"});
        on.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        on
    };
    for (sent, place) in [
        (json!({"workflows": on(json!({"inline_agents": {"type": "disabled"}}))}), "workflows.predefined_agents"),
        (json!({"workflows": on(json!({"predefined_agents": [7]}))}), "workflows.predefined_agents[0]"),
        (
            json!({"workflows": on(json!({"predefined_agents": vec!["agent_1"; 21]}))}),
            "multiagent.workflows.predefined_agents",
        ),
        (json!({"workflows": []}), "multiagent.workflows:"),
        (json!({"workflows": {}}), "multiagent.workflows.type"),
        (json!({"advisor": on(json!({}))}), "multiagent.advisor.model"),
        (json!({"advisor": on(json!({"model": ""}))}), "multiagent.advisor.model"),
        (json!({"advisor": {"type": "disabled", "model": "m"}}), "multiagent.advisor.model"),
        (json!({"advisor": "enabled"}), "multiagent.advisor:"),
        (json!({"subagents": {"type": "disabled", "predefined_agents": []}}), "multiagent.subagents.predefined_agents"),
        (json!({"subagents": on(json!({"inline_agents": {"type": "disabled"}}))}), "subagents.predefined_agents"),
        (json!({"subagents": on(json!({"inline_agents": {"type": "some"}}))}), "subagents.inline_agents.type"),
        (json!({"subagents": on(json!({"predefined_agents": [7]}))}), "subagents.predefined_agents[0]"),
        (
            json!({"subagents": on(json!({"predefined_agents": [{"type": "advisor", "model": "m"}]}))}),
            "subagents.predefined_agents[0]",
        ),
        (
            json!({"subagents": on(json!({"predefined_agents": vec!["agent_1"; 21]}))}),
            "multiagent.subagents.predefined_agents",
        ),
        (json!({"agents": []}), "multiagent.agents"),
    ] {
        let mut whole = json!({"type": "multiagent_20261001"});
        whole.as_object_mut().unwrap().extend(sent.as_object().unwrap().clone());
        let refused = parse(whole, None).unwrap_err();
        assert!(refused.message.contains(place), "{sent}: {}", refused.message);
    }
    let place = |index: usize| {
        stored(json!({"workflows": on(json!({"predefined_agents": ["agent_1", "agent_2"]}))}), None).place_of(index)
    };
    assert_eq!(place(1), "multiagent.workflows.predefined_agents[1]");
}
