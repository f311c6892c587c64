"""Calls whose policy is `auto`, by the official SDK: without a judge a person is asked, with one its verdict counts."""

from __future__ import annotations

import json

import pytest
from anthropic import Anthropic

from conftest import Stack, script, tool, until

AUTO = {"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "auto"}}}


@pytest.fixture(scope="module")
def judged(rehearsal: dict, tmp_path_factory):
    directory = tmp_path_factory.mktemp("judged")
    config = f'config = 1\n[model]\nurl = "{rehearsal["url"]}"\ndefault = "rehearsal-1"\njudge = "rehearsal-1"\n'
    stack = Stack(directory, config, ["--no-worker"]).start()
    yield stack
    stack.kill()


def run(stack: Stack, *turns: dict) -> list:
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="judged", model="rehearsal-1", tools=[AUTO])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id)
    message = {"type": "user.message", "content": script(*turns)}
    client.beta.sessions.events.send(session.id, events=[message])

    def ended() -> list:
        events = list(client.beta.sessions.events.list(session.id))
        return events if events[-1].type == "session.status_idle" else []

    return until(ended, what="the end of the turn")


def verdict(decision: str) -> dict:
    answer = {"verdicts": [{"call": 0, "decision": decision, "reason": "as rehearsed"}]}
    return {"tool_uses": [tool("bash", command="true")], "judge": json.dumps(answer)}


@pytest.mark.parametrize("decision, code", [("allow", None), ("ask", "indeterminate"), ("deny", "high_risk")])
def test_the_judge_s_verdict_is_on_the_event_and_has_its_effect(judged: Stack, decision: str, code: str | None):
    events = run(judged, verdict(decision))
    use = next(event for event in events if event.type == "agent.tool_use")
    assert use.evaluated_permission == decision
    evaluation = use.to_dict()["evaluation"]
    assert evaluation["type"] == "auto" and evaluation["evaluated_permission"].get("reason_code") == code
    refused = [event for event in events if event.type == "agent.tool_result"]
    assert bool(refused) == (decision == "deny")
    if refused:
        assert refused[0].is_error and "as rehearsed" in refused[0].content[0].text


def test_a_judge_that_says_nothing_clear_means_that_a_person_is_asked(judged: Stack):
    for turn in ({**verdict("allow"), "judge": "by all means"}, {"tool_uses": [tool("bash", command="true")]}):
        events = run(judged, turn)
        assert next(event for event in events if event.type == "agent.tool_use").evaluated_permission == "ask"
        assert events[-1].stop_reason.type == "requires_action"
