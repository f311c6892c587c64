"""Advisors, by the official SDK: a model that an agent asks in the middle of its turn, in a thread of its own."""

from __future__ import annotations

import json

import pytest
from anthropic import Anthropic, BadRequestError, ConflictError
from anthropic.types import beta as types
from conformance.validator import check, check_page

from conftest import Stack, script, tool, until

ADVISOR = {"type": "advisor", "model": "rehearsal-1"}
CONSULTATION = [
    "session.thread_created", "session.thread_status_running", "agent.thread_message_received",
    "session.thread_status_idle", "session.thread_status_terminated"]


@pytest.fixture
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key)


def ask(*turns: dict) -> dict:
    """A question that has the advisor play these turns."""
    return tool("ask_advisor", question=script(*turns)[0]["text"])


def begin(client: Anthropic, stack: Stack, *turns: dict) -> str:
    chief = client.beta.agents.create(
        name="chief", model="rehearsal-1", multiagent={"type": "coordinator", "agents": [ADVISOR]})
    message = {"type": "user.message", "content": script(*turns)}
    return client.beta.sessions.create(
        agent=chief.id, environment_id=stack.environment_id, initial_events=[message]).id


def events_of(client: Anthropic, session: str) -> list:
    return list(client.beta.sessions.events.list(session))


def at_rest(client: Anthropic, session: str) -> list:
    def ended() -> list:
        events = events_of(client, session)
        return events if events[-1].type == "session.status_idle" else []

    return until(ended, what="the session at rest")


def result(events: list):
    [found] = [event for event in events if event.type == "agent.tool_result"]
    return found.content[0].text, found.is_error


def of_advisor(events: list) -> list:
    """The events of consultations, in order."""
    name = "anthropic.advisor"
    return [event for event in events if name in (getattr(event, "agent_name", None), getattr(event, "from_agent_name", None))]


def test_an_agent_asks_its_advisor_and_goes_on_with_the_advice(postern: Stack, client: Anthropic):
    session = begin(client, postern, {"tool_uses": [ask({"text": "take the door"})]}, {"text": "the door it is"})
    events = at_rest(client, session)
    page = client.beta.sessions.events.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, page.http_response.content) == []
    consultation = of_advisor(events)
    assert [event.type for event in consultation] == CONSULTATION
    created, _, received, idle, _ = consultation
    assert idle.stop_reason.type == "end_turn" and received.content[0].text == "take the door"
    assert {event.session_thread_id for event in consultation if event is not received} == {created.session_thread_id}
    assert received.from_session_thread_id == created.session_thread_id
    assert result(events) == ("take the door", False)
    assert [event.content[0].text for event in events if event.type == "agent.message"] == ["the door it is"]
    assert events[-1].stop_reason.type == "end_turn"

    raw = client.beta.sessions.threads.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionThread, raw.http_response.content) == []
    primary, advisor = json.loads(raw.http_response.content)["data"]
    assert advisor["agent"] == ADVISOR
    assert (advisor["status"], advisor["parent_thread_id"]) == ("terminated", primary["id"])
    raw = client.beta.sessions.with_raw_response.retrieve(session)
    assert check(types.BetaManagedAgentsSession, raw.http_response.content) == []
    seen = json.loads(raw.http_response.content)
    assert seen["agent"]["multiagent"] == {"type": "coordinator", "agents": [ADVISOR]}
    assert seen["usage"]["input_tokens"] == primary["usage"]["input_tokens"] + advisor["usage"]["input_tokens"]
    own = client.beta.sessions.threads.events.with_raw_response.list(advisor["id"], session_id=session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, own.http_response.content) == []
    said = [event["type"] for event in json.loads(own.http_response.content)["data"]]
    assert said[0] == "agent.thread_message_received" and "agent.message" in said
    with pytest.raises(ConflictError):
        client.beta.sessions.threads.archive(advisor["id"], session_id=session)


def test_an_advisor_that_fails_is_a_result_that_says_so(postern: Stack, client: Anthropic):
    fault = {"status": 400, "kind": "invalid_request_error", "message": "no such model"}
    session = begin(client, postern, {"tool_uses": [ask({"error": fault})]}, {"text": "alone then"})
    events = at_rest(client, session)
    text, is_error = result(events)
    assert is_error and "did not answer" in text and text.endswith("Go on without advice.")
    kinds = [event.type for event in of_advisor(events)]
    assert kinds[:2] == CONSULTATION[:2] and kinds[-1] == CONSULTATION[-1]
    assert [event.content[0].text for event in events if event.type == "agent.message"] == ["alone then"]


def test_an_interrupt_ends_a_consultation_and_nothing_comes_after_the_session_s_idle_event(postern: Stack, client: Anthropic):
    session = begin(client, postern, {"tool_uses": [ask({"text": "late", "delay_ms": 600_000})]}, {"text": "never"})
    until(lambda: len(of_advisor(events_of(client, session))) == 2, what="the advisor thinks")
    client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    events = at_rest(client, session)
    assert result(events)[1] and [event.type for event in of_advisor(events)] == CONSULTATION[:2] + CONSULTATION[3:]
    assert events[-1].stop_reason.type == "end_turn"
    [advisor] = [thread for thread in client.beta.sessions.threads.list(session) if thread.parent_thread_id]
    assert advisor.status == "terminated"


def test_a_consultation_goes_on_after_the_server_was_killed(new_stack):
    stack = new_stack("")
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    session = begin(client, stack, {"tool_uses": [ask({"text": "take the door", "delay_ms": 3_000})]}, {"text": "done"})
    until(lambda: len(of_advisor(events_of(client, session))) == 2, what="the advisor thinks")
    stack.kill()
    stack.start()
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    events = at_rest(client, session)
    assert [event.type for event in of_advisor(events)] == CONSULTATION
    assert result(events) == ("take the door", False)


def test_a_roster_s_advisor_comes_last_and_is_kept_with_the_versions_of_its_agent(client: Anthropic):
    agents = client.beta.agents
    scout = agents.create(name="scout", model="rehearsal-1")
    raw = agents.with_raw_response.create(name="chief", model="rehearsal-1", multiagent={
        "type": "coordinator", "agents": [ADVISOR, scout.id, {"type": "self"}]})
    assert check(types.BetaManagedAgentsAgent, raw.http_response.content) == []
    chief = raw.parse()
    assert [entry.type for entry in chief.multiagent.agents] == ["agent", "agent", "advisor"]
    assert chief.multiagent.agents[-1].model == "rehearsal-1"
    assert agents.update(chief.id, version=1, name="chief").version == 1, "nothing changed"
    second = agents.update(chief.id, version=1, description="d")
    assert second.multiagent.agents[-1].type == "advisor" and second.multiagent.agents[1].version == 2
    third = agents.update(chief.id, version=2, multiagent={"type": "coordinator", "agents": [scout.id]})
    assert [entry.type for entry in third.multiagent.agents] == ["agent"]
    assert agents.retrieve(chief.id, version=2).multiagent == second.multiagent


@pytest.mark.parametrize("agents, why", [
    ([ADVISOR, ADVISOR], "at most one advisor"),
    ([{"type": "advisor"}], "an advisor is"),
    ([{"type": "advisor", "model": ""}], "1 to 256"),
    ([{"type": "advisor", "model": "m", "system": "s"}], "an advisor is"),
])
def test_an_advisor_that_cannot_be_is_refused_with_its_place(client: Anthropic, agents: list, why: str):
    with pytest.raises(BadRequestError, match=why) as refused:
        client.beta.agents.create(name="chief", model="rehearsal-1", extra_body={
            "multiagent": {"type": "coordinator", "agents": agents}})
    assert "multiagent.agents[" in str(refused.value)


def test_the_advisor_s_name_and_tool_are_its_own(client: Anthropic):
    taken = client.beta.agents.create(name="anthropic.advisor", model="rehearsal-1")
    with pytest.raises(BadRequestError, match="is an advisor's"):
        client.beta.agents.create(
            name="chief", model="rehearsal-1", multiagent={"type": "coordinator", "agents": [taken.id]})
    custom = {"type": "custom", "name": "ask_advisor", "description": "d", "input_schema": {"type": "object"}}
    with pytest.raises(BadRequestError, match="another name"):
        client.beta.agents.create(
            name="chief", model="rehearsal-1", tools=[custom], multiagent={"type": "coordinator", "agents": [ADVISOR]})
