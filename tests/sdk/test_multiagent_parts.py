"""`multiagent_20261001`, by the official SDK: its shape, how updates merge, and agents that a coordinator defines itself."""

from __future__ import annotations

import json

import pytest
from anthropic import Anthropic, BadRequestError
from anthropic.types import beta as types
from conformance.validator import check, check_page

from conftest import Stack, script, tool, until

TOOLS = [{"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_allow"}}}]
OFF, ON = {"type": "disabled"}, {"type": "enabled"}
WISE = {"type": "enabled", "model": "rehearsal-1"}
EVERYTHING_ELSE = {"type": "enabled", "inline_agents": ON, "predefined_agents": []}


@pytest.fixture
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key)


def parts(**sent) -> dict:
    return {"type": "multiagent_20261001", **sent}


def rehearse(*turns: dict) -> str:
    return script(*turns)[0]["text"]


def shown(raw) -> dict:
    """The agent's `multiagent` as it stands in an answer of the documented shape."""
    assert check(types.BetaManagedAgentsAgent, raw.http_response.content) == []
    return json.loads(raw.http_response.content)["multiagent"]


def at_rest(client: Anthropic, session: str) -> list:
    def ended() -> list:
        events = list(client.beta.sessions.events.list(session))
        is_over = events[-1].type == "session.status_idle" and events[-1].stop_reason.type == "end_turn"
        return events if is_over else []

    return until(ended, what="the session at rest")


def test_what_is_sent_is_merged_level_by_level_and_shown_whole(client: Anthropic):
    agents = client.beta.agents
    scout = agents.create(name="scout", model="rehearsal-1")
    chief = agents.with_raw_response.create(name="chief", model="rehearsal-1", multiagent=parts(workflows=OFF))
    assert shown(chief) == parts(advisor=OFF, subagents=EVERYTHING_ELSE, workflows=OFF)
    id = chief.parse().id

    def update(version: int, **sent) -> dict:
        return shown(agents.with_raw_response.update(id, version=version, multiagent=parts(**sent)))

    pinned = {"type": "agent", "id": scout.id, "version": 1}
    itself = {"type": "agent", "id": id, "version": 2}
    after = update(1, advisor=WISE, subagents={"type": "enabled", "inline_agents": OFF, "predefined_agents": [scout.id, {"type": "self"}]})
    roster = {"type": "enabled", "inline_agents": OFF, "predefined_agents": [pinned, itself]}
    assert after == parts(advisor=WISE, subagents=roster, workflows=OFF)
    agents.update(scout.id, version=1, description="newer")
    assert update(2) == after, "nothing changes, and no new version"
    itself["version"] = 3
    assert update(2, advisor=None) == parts(advisor=OFF, subagents=roster, workflows=OFF), "the pins stay"
    itself["version"] = 4
    assert update(3, subagents={"type": "enabled", "inline_agents": None})["subagents"] == {**roster, "inline_agents": ON}
    assert update(4, subagents=None)["subagents"] == EVERYTHING_ELSE
    assert update(5, subagents=OFF)["subagents"] == OFF
    coordinator = {"type": "coordinator", "agents": [{"type": "advisor", "model": "rehearsal-1"}]}
    assert shown(agents.with_raw_response.update(id, version=6, multiagent=coordinator)) == coordinator, "another type replaces"
    anew = shown(agents.with_raw_response.update(id, version=7, multiagent=parts()))
    assert anew == parts(advisor=OFF, subagents=EVERYTHING_ELSE, workflows=EVERYTHING_ELSE), "everything has its default"
    of_runs = {"type": "enabled", "inline_agents": OFF, "predefined_agents": [pinned]}
    after = update(8, workflows={**of_runs, "predefined_agents": [pinned]})
    assert after == parts(advisor=OFF, subagents=EVERYTHING_ELSE, workflows=of_runs)
    assert update(9) == after
    assert update(9, workflows=None)["workflows"] == EVERYTHING_ELSE, "null is the default, which is enabled"
    assert agents.update(id, version=10, multiagent=None).multiagent is None


@pytest.mark.parametrize("sent, why", [
    ({"workflows": {"type": "enabled", "inline_agents": OFF}}, r"multiagent\.workflows\.predefined_agents"),
    ({"workflows": {"type": "enabled", "predefined_agents": [7]}}, r"workflows\.predefined_agents\[0\]"),
    ({"workflows": {"type": "enabled", "predefined_agents": [{"type": "self"}] * 2}}, r"workflows\.predefined_agents\[1\]"),
    ({"workflows": OFF, "advisor": ON}, r"multiagent\.advisor\.model"),
    ({"workflows": OFF, "subagents": {"type": "enabled", "inline_agents": OFF}}, r"multiagent\.subagents\.predefined_agents"),
    ({"workflows": OFF, "subagents": {"type": "enabled", "predefined_agents": [{"type": "self"}] * 2}}, r"predefined_agents\[1\]"),
    ({"workflows": OFF, "subagents": {"predefined_agents": []}}, r"multiagent\.subagents\.type"),
    ({"workflows": OFF, "agents": []}, r"multiagent\.agents"),
])
def test_parts_that_cannot_be_are_refused_with_their_place(client: Anthropic, sent: dict, why: str):
    with pytest.raises(BadRequestError, match=why):
        client.beta.agents.create(name="chief", model="rehearsal-1", extra_body={"multiagent": parts(**sent)})


def test_a_coordinator_asks_its_advisor_starts_a_saved_agent_and_one_that_it_defines(postern: Stack, client: Anthropic):
    scout = client.beta.agents.create(name="scout", model="rehearsal-1", tools=TOOLS)
    chief = client.beta.agents.create(name="chief", model="rehearsal-1", tools=TOOLS, multiagent=parts(
        advisor=WISE, subagents={"type": "enabled", "predefined_agents": [scout.id]}, workflows=OFF))
    mole = {"name": "mole", "system": "You dig.", "description": "Digs."}
    dig = tool("start_agent", inline_agent=mole, message=rehearse({"tool_uses": [tool("bash", command="echo a worm")]}, {"text": "dug"}))
    look = tool("start_agent", agent="scout", message=rehearse({"text": "looked"}))
    ask = tool("ask_advisor", question=rehearse({"text": "dig"}))
    session = client.beta.sessions.create(
        agent=chief.id, environment_id=postern.environment_id, initial_events=[{"type": "user.message", "content": script(
            {"tool_uses": [ask]}, {"tool_uses": [dig, look]}, *[{"text": "waiting"}] * 4)}]).id
    events = at_rest(client, session)
    page = client.beta.sessions.events.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, page.http_response.content) == []
    received = {event.from_agent_name: event.content[0].text for event in events if event.type == "agent.thread_message_received"}
    assert received == {"anthropic.advisor": "dig", "mole": "dug", "scout": "looked"}
    ran = next(event for event in events if event.type == "user.tool_result")
    assert "a worm" in ran.content[0].text, "it has its coordinator's tools"

    raw = client.beta.sessions.threads.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionThread, raw.http_response.content) == []
    threads = {thread["agent"].get("name", "advisor"): thread for thread in json.loads(raw.http_response.content)["data"]}
    assert {name: thread["agent"]["type"] for name, thread in threads.items()} == {
        "chief": "agent", "advisor": "advisor", "mole": "inline", "scout": "agent"}
    inline = threads["mole"]["agent"]
    assert {key: inline[key] for key in mole} == mole and not {"id", "version", "multiagent"} & inline.keys()
    assert inline["model"] == {"id": "rehearsal-1"} and inline["tools"] == threads["chief"]["agent"]["tools"]
    raw = client.beta.sessions.with_raw_response.retrieve(session)
    assert check(types.BetaManagedAgentsSession, raw.http_response.content) == []
    copied = json.loads(raw.http_response.content)["agent"]["multiagent"]
    assert (copied["advisor"], copied["workflows"], copied["subagents"]["inline_agents"]) == (WISE, OFF, ON)
    assert [agent["name"] for agent in copied["subagents"]["predefined_agents"]] == ["scout"]


def test_a_defined_agent_at_work_goes_on_after_the_server_was_killed(new_stack):
    stack = new_stack("")
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    chief = client.beta.agents.create(name="chief", model="rehearsal-1", multiagent=parts(workflows=OFF))
    dig = tool("start_agent", inline_agent={"name": "mole", "system": "You dig."},
               message=rehearse({"text": "slow " * 30, "delay_ms": 100}))
    session = client.beta.sessions.create(
        agent=chief.id, environment_id=stack.environment_id,
        initial_events=[{"type": "user.message", "content": script({"tool_uses": [dig]}, {"text": "waiting"}, {"text": "heard"})}]).id
    until(lambda: any(thread.agent.type == "inline" for thread in client.beta.sessions.threads.list(session)), what="the child at work")
    stack.kill()
    stack.start()
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    events = at_rest(client, session)
    received = [event for event in events if event.type == "agent.thread_message_received"]
    assert len(received) == 1 and received[0].content[0].text.startswith("slow slow")


def test_a_coordinator_without_inline_agents_defines_none(postern: Stack, client: Anthropic):
    scout = client.beta.agents.create(name="scout", model="rehearsal-1")
    chief = client.beta.agents.create(name="chief", model="rehearsal-1", multiagent=parts(
        subagents={"type": "enabled", "inline_agents": OFF, "predefined_agents": [scout.id]}, workflows=OFF))
    dig = tool("start_agent", inline_agent={"name": "mole", "system": "You dig."}, message="dig")
    session = client.beta.sessions.create(
        agent=chief.id, environment_id=postern.environment_id,
        initial_events=[{"type": "user.message", "content": script({"tool_uses": [dig]}, {"text": "so be it"})}]).id
    events = at_rest(client, session)
    [result] = [event for event in events if event.type == "agent.tool_result"]
    assert result.is_error and "cannot define agents" in result.content[0].text
    assert not any(event.type == "session.thread_created" for event in events)
