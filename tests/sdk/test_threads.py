"""Agents that work for another, by the official SDK: rosters, threads and their logs, calls of a child, archival, a crash."""

from __future__ import annotations

import json
import uuid

import pytest
from anthropic import Anthropic, BadRequestError, ConflictError, NotFoundError
from anthropic.types import beta as types
from conformance.validator import check, check_page

from conftest import Stack, script, tool, until

TOOLS = [{"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_allow"}}}]


@pytest.fixture
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key)


def rehearse(*turns: dict) -> str:
    return script(*turns)[0]["text"]


def start(agent: str, *turns: dict) -> dict:
    return tool("start_agent", agent=agent, message=rehearse(*turns))


def crew(client: Anthropic) -> str:
    """A coordinator with one agent that works for it, and itself."""
    scout = client.beta.agents.create(name="scout", description="Looks.", model="rehearsal-1", tools=TOOLS)
    return client.beta.agents.create(
        name="chief", model="rehearsal-1", tools=[],
        multiagent={"type": "coordinator", "agents": [scout.id, {"type": "self"}]}).id


def begin(client: Anthropic, stack: Stack, *turns: dict) -> str:
    message = {"type": "user.message", "content": script(*turns)}
    return client.beta.sessions.create(
        agent=crew(client), environment_id=stack.environment_id, initial_events=[message]).id


def at_rest(client: Anthropic, session: str, stop: str = "end_turn") -> list:
    def ended() -> list:
        events = list(client.beta.sessions.events.list(session))
        is_over = events[-1].type == "session.status_idle" and events[-1].stop_reason.type == stop
        return events if is_over else []

    return until(ended, what=f"the session at rest with {stop}")


def children(client: Anthropic, session: str) -> list:
    return [thread for thread in client.beta.sessions.threads.list(session) if thread.parent_thread_id]


def test_an_agent_works_in_a_thread_of_its_own_and_its_coordinator_hears_what_it_found(postern: Stack, client: Anthropic):
    session = begin(
        client, postern,
        {"tool_uses": [start("scout", {"tool_uses": [tool("bash", command="echo found")]}, {"text": "it is there"})]},
        {"text": "waiting"}, {"text": "the scout says so"})
    events = at_rest(client, session)
    page = client.beta.sessions.events.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, page.http_response.content) == []
    kinds = [event.type for event in events]
    assert kinds.count("session.thread_created") == 1 and kinds.count("session.status_idle") >= 1
    created = next(event for event in events if event.type == "session.thread_created")
    thread = created.session_thread_id
    assert created.agent_name == "scout"
    received = next(event for event in events if event.type == "agent.thread_message_received")
    assert (received.from_session_thread_id, received.from_agent_name) == (thread, "scout")
    assert received.content[0].text == "it is there"
    bash = next(event for event in events if event.type == "agent.tool_use" and event.name == "bash")
    answered = next(event for event in events if event.type == "user.tool_result")
    assert bash.session_thread_id == answered.session_thread_id == thread
    assert "found" in answered.content[0].text, "the session's worker ran it"
    said = [event for event in events if event.type == "agent.message"]
    assert [event.content[0].text for event in said] == ["waiting", "the scout says so"], "the child's words are its own log's"

    raw = client.beta.sessions.threads.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionThread, raw.http_response.content) == []
    primary, child = list(client.beta.sessions.threads.list(session))
    assert (primary.parent_thread_id, child.parent_thread_id, child.id) == (None, primary.id, thread)
    assert (primary.agent.name, child.agent.name, child.status) == ("chief", "scout", "idle")
    assert child.usage.output_tokens > 0 and child.stats.active_seconds >= 0
    total = client.beta.sessions.retrieve(session).usage
    assert total.input_tokens == primary.usage.input_tokens + child.usage.input_tokens
    log = client.beta.sessions.threads.events.with_raw_response.list(thread, session_id=session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, log.http_response.content) == []
    own = list(client.beta.sessions.threads.events.list(thread, session_id=session))
    assert own[0].type == "agent.thread_message_received" and own[-1].type == "session.thread_status_idle"
    assert any(event.type == "agent.message" and event.content[0].text == "it is there" for event in own)
    assert not any(event.type.startswith("session.status") for event in own)
    of_primary = {event.id for event in client.beta.sessions.threads.events.list(primary.id, session_id=session)}
    assert bash.id not in of_primary and created.id in of_primary
    raw = client.beta.sessions.with_raw_response.retrieve(session)
    assert check(types.BetaManagedAgentsSession, raw.http_response.content) == []
    roster = json.loads(raw.http_response.content)["agent"]["multiagent"]["agents"]
    assert [(agent["name"], "multiagent" in agent) for agent in roster] == [("scout", False), ("chief", False)]


def test_a_child_s_stream_shows_its_own_log_and_its_text_as_it_grows(postern: Stack, client: Anthropic):
    session = begin(
        client, postern, {"tool_uses": [start("scout", {"text": "first"})]}, {"text": "waiting"}, {"text": "heard"},
        {"tool_uses": [start("smith")]})
    at_rest(client, session)
    [child] = children(client, session)
    with client.beta.sessions.threads.events.stream(
        child.id, session_id=session, event_deltas=["agent.message"]) as stream, client.beta.sessions.events.stream(session) as all:
        tell = tool("message_agent", session_thread_id=child.id, message=rehearse({"text": "and the second"}))
        client.beta.sessions.events.send(
            session, events=[{"type": "user.message", "content": script({"tool_uses": [tell]}, {"text": "told"}, {"text": "done"})}])
        seen = []
        for event in stream:
            seen.append(event)
            if event.type == "session.thread_status_idle":
                break
        shown = []
        for event in all:
            shown.append(event)
            if event.type == "session.status_idle":
                break
    kinds = [event.type for event in seen]
    assert "event_start" in kinds and "event_delta" in kinds and "agent.thread_message_received" in kinds
    listed = {event.id for event in client.beta.sessions.threads.events.list(child.id, session_id=session)}
    assert {event.id for event in seen if hasattr(event, "id")} <= listed
    texts = [event.content[0].text for event in shown if event.type == "agent.message"]
    assert texts == ["told", "done"], "the session's stream has the coordinator's words alone"
    assert len(children(client, session)) == 1, "an agent that is not in the roster is not started"


def test_a_call_of_a_child_that_asks_waits_for_a_person_and_an_archived_thread_waits_for_nobody(postern: Stack, client: Anthropic):
    asks = [{"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}}}]
    scout = client.beta.agents.create(name="scout", model="rehearsal-1", tools=asks)
    chief = client.beta.agents.create(
        name="chief", model="rehearsal-1", multiagent={"type": "coordinator", "agents": [{"type": "agent", "id": scout.id}]})
    work = start("scout", {"tool_uses": [tool("bash", command="echo asked")]}, {"text": "ran"})
    session = client.beta.sessions.create(
        agent=chief.id, environment_id=postern.environment_id,
        initial_events=[{"type": "user.message", "content": script({"tool_uses": [work, work]}, {"text": "waiting"})}]).id
    until(lambda: len(children(client, session)) == 2, what="two threads")
    events = until(
        lambda: [events for events in [at_rest(client, session, "requires_action")] if len(events[-1].stop_reason.event_ids) == 2],
        what="both calls wait")[0]
    calls = [event for event in events if event.type == "agent.tool_use" and event.name == "bash"]
    assert {call.id for call in calls} == set(events[-1].stop_reason.event_ids)
    first, second = calls
    with pytest.raises(NotFoundError):
        client.beta.sessions.threads.archive("sthr_none", session_id=session)
    with pytest.raises(BadRequestError, match="archive the session"):
        client.beta.sessions.threads.archive(next(iter(client.beta.sessions.threads.list(session))).id, session_id=session)
    raw = client.beta.sessions.threads.with_raw_response.archive(second.session_thread_id, session_id=session)
    assert check(types.sessions.BetaManagedAgentsSessionThread, raw.http_response.content) == []
    archived = raw.parse()
    assert archived.status == "terminated" and archived.archived_at
    assert client.beta.sessions.threads.archive(second.session_thread_id, session_id=session) == archived, "once more changes nothing"
    with pytest.raises(BadRequestError, match="already answered"):
        client.beta.sessions.events.send(
            session, events=[{"type": "user.tool_confirmation", "tool_use_id": second.id, "result": "allow"}])
    [sent] = client.beta.sessions.events.send(
        session, events=[{"type": "user.tool_confirmation", "tool_use_id": first.id, "result": "allow"}]).data
    assert sent.session_thread_id == first.session_thread_id
    events = at_rest(client, session)
    results = [event for event in events if event.type == "user.tool_result" and event.tool_use_id == first.id]
    assert "asked" in results[0].content[0].text
    idle = list(client.beta.sessions.threads.list(session, extra_query={"statuses[]": "terminated"}))
    assert [thread.id for thread in idle] == [second.session_thread_id]


def test_a_child_at_work_goes_on_after_the_server_was_killed(new_stack):
    stack = new_stack("")
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    session = begin(
        client, stack,
        {"tool_uses": [start("scout", {"text": "slow " * 40, "delay_ms": 100}, {"text": "unused"})]}, {"text": "waiting"},
        {"text": "heard"})
    until(lambda: any(thread.status == "running" for thread in children(client, session)), what="the child at work")
    stack.kill()
    stack.start()
    events = at_rest(client, session)
    assert [thread.status for thread in client.beta.sessions.threads.list(session)] == ["idle", "idle"]
    received = [event for event in events if event.type == "agent.thread_message_received"]
    assert len(received) == 1 and received[0].content[0].text.startswith("slow slow")
    assert [event.content[0].text for event in events if event.type == "agent.message"][-1] == "heard"


@pytest.mark.parametrize("roster", [
    lambda scout: {"type": "coordinator", "agents": [scout]},
    lambda scout: {
        "type": "multiagent_20261001", "subagents": {"type": "enabled", "predefined_agents": [scout]}, "workflows": {"type": "disabled"}},
], ids=["coordinator", "parts"])
def test_an_agent_of_a_roster_reads_its_own_skill(client: Anthropic, postern: Stack, roster):
    name = f"ledger-{uuid.uuid4().hex[:8]}"
    text = f"---\nname: {name}\ndescription: Sums ledgers.\n---\nAdd the columns.\n"
    skill = client.beta.skills.create(files=[(f"{name}/SKILL.md", text.encode())])
    given = {"type": "custom", "skill_id": skill.id, "version": skill.latest_version_id}
    scout = client.beta.agents.create(name="scout", model="rehearsal-1", tools=TOOLS, skills=[given])
    chief = client.beta.agents.create(
        name="chief", model="rehearsal-1", tools=TOOLS, multiagent=roster(scout.id))
    session = client.beta.sessions.create(agent=chief.id, environment_id=postern.environment_id).id
    reads = {"tool_uses": [tool("bash", command=f"cat /mnt/session/skills/{name}/SKILL.md")]}
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(
        {"tool_uses": [start("scout", reads, {"text": "read"})]}, {"text": "waiting"}, {"text": "done"})}])
    events = at_rest(client, session)
    answered = next(event for event in events if event.type == "user.tool_result")
    assert "Add the columns." in answered.content[0].text
    other = client.beta.skills.versions.create(skill.id, files=[(f"{name}/SKILL.md", text.encode() + b"Twice.\n")])
    with pytest.raises(BadRequestError, match="roster_skills_differ"):
        client.beta.agents.create(
            name="torn", model="rehearsal-1", tools=TOOLS, skills=[{**given, "version": other.id}],
            multiagent=roster(scout.id))


@pytest.mark.parametrize("roster, code", [
    ({"type": "multiagent_20261001", "workflows": []}, r"multiagent\.workflows"),
    ({"type": "coordinator", "agents": []}, "1 to 20 agents"),
    ({"type": "coordinator", "agents": [{"type": "self"}, {"type": "self"}]}, "named already"),
    ({"type": "coordinator", "agents": [{"type": "self"}] * 21}, "1 to 20 agents"),
    ({"type": "coordinator", "agents": [{"type": "self"}], "more": 1}, "is not a field"),
    ({"type": "swarm"}, "must be `coordinator`"),
])
def test_a_roster_that_cannot_be_is_refused_with_its_place(client: Anthropic, roster: dict, code: str):
    with pytest.raises(BadRequestError, match=code):
        client.beta.agents.create(name="chief", model="rehearsal-1", extra_body={"multiagent": roster})


def test_a_roster_is_pinned_shown_with_versions_and_changed_by_versions(client: Anthropic):
    agents = client.beta.agents
    scout = agents.create(name="scout", model="rehearsal-1")
    roster = {"type": "coordinator", "agents": [scout.id, {"type": "self"}]}
    raw = agents.with_raw_response.create(name="chief", model="rehearsal-1", multiagent=roster)
    assert check(types.BetaManagedAgentsAgent, raw.http_response.content) == []
    chief = raw.parse()
    assert [(entry.id, entry.version) for entry in chief.multiagent.agents] == [(scout.id, 1), (chief.id, 1)]
    agents.update(scout.id, version=1, name="ranger")
    same = agents.update(chief.id, version=1, name="chief")
    assert same.version == 1, "nothing changed"
    second = agents.update(chief.id, version=1, description="d")
    assert [(entry.id, entry.version) for entry in second.multiagent.agents] == [(scout.id, 1), (chief.id, 2)]
    third = agents.update(chief.id, version=2, multiagent={"type": "coordinator", "agents": [scout.id]})
    assert [(entry.id, entry.version) for entry in third.multiagent.agents] == [(scout.id, 2)]
    with pytest.raises(BadRequestError, match="roster of its own"):
        agents.create(name="over", model="rehearsal-1", multiagent={"type": "coordinator", "agents": [chief.id]})
    with pytest.raises(BadRequestError, match="called `scout` too"):
        agents.create(name="twins", model="rehearsal-1", multiagent={
            "type": "coordinator", "agents": [{"type": "agent", "id": scout.id, "version": 1}, agents.create(name="scout", model="rehearsal-1").id]})
    with pytest.raises(NotFoundError):
        agents.create(name="lost", model="rehearsal-1", multiagent={"type": "coordinator", "agents": ["agent_none"]})
    assert agents.update(chief.id, version=3, multiagent=None).multiagent is None
