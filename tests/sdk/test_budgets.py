"""Budgets by the official SDK: a session pauses at its cap, settles, and goes on when it is raised; strict in shape."""

from __future__ import annotations

import pytest
from anthropic import Anthropic, BadRequestError
from anthropic.types import beta as types
from conformance.validator import check, check_page

from conftest import script, tool, until

# A cent for each token; an answer of the rehearsal has more than a hundred.
PRICES = '[model.price."rehearsal-1"]\ninput = "10000"\noutput = "10000"\n'


def limit(cents: int) -> dict:
    return {"type": "limit", "max_list_cost": {"amount": str(cents), "currency": "USD"}}


def say(*turns: dict) -> dict:
    return {"type": "user.message", "content": script(*turns)}


def idle(client: Anthropic, session: str, number: int) -> list:
    def ended() -> list:
        events = list(client.beta.sessions.events.list(session))
        count = sum(event.type == "session.status_idle" and event.stop_reason.type != "requires_action" for event in events)
        return events if count == number and events[-1].type == "session.status_idle" else []

    return until(ended, what="the session at rest")


def test_a_session_pauses_at_its_budget_and_goes_on_when_it_is_raised(new_stack):
    stack = new_stack(PRICES)
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="thrifty", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    session = client.beta.sessions.create(
        agent=agent.id, environment_id=stack.environment_id, budget=limit(50),
        initial_events=[say({"tool_uses": [tool("bash", command="echo paid")]}, {"text": "done"})]).id
    events = idle(client, session, 1)
    assert [event.type for event in events[-3:]] == ["session.thread_status_idle", "session.usage", "session.status_idle"]
    errors = [event.error.message for event in events if event.type == "session.error"]
    assert {events[-1].stop_reason.type, events[-3].stop_reason.type} == {"budget_reached"}, errors
    assert any(event.type == "user.tool_result" for event in events), "the call that was made is settled"
    page = client.beta.sessions.events.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, page.http_response.content) == []
    raw = client.beta.sessions.with_raw_response.retrieve(session)
    assert check(types.BetaManagedAgentsSession, raw.http_response.content) == []
    shown = raw.parse()
    spent = int(shown.usage.list_cost.amount)
    assert spent >= 50 == int(shown.budget.max_list_cost.amount)
    with pytest.raises(BadRequestError, match="user.tool_confirmation"):
        client.beta.sessions.events.send(session, events=[say({"text": "more"})])
    with pytest.raises(BadRequestError, match="budget_not_raised"):
        client.beta.sessions.update(session, budget=limit(spent))

    stack.kill()
    stack.start()
    assert client.beta.sessions.retrieve(session).status == "idle", "a restart resumes nothing"
    updated = client.beta.sessions.with_raw_response.update(session, budget=limit(spent + 1000))
    assert check(types.BetaManagedAgentsSession, updated.http_response.content) == []
    events = idle(client, session, 2)
    assert events[-1].stop_reason.type == "end_turn"
    assert [event.content[0].text for event in events if event.type == "agent.message"][-1] == "done"

    client.beta.sessions.update(session, budget=None)  # After which it says again that it rests.
    with pytest.raises(BadRequestError, match="budget_create_only"):
        client.beta.sessions.update(session, budget=limit(10**6))
    client.beta.sessions.events.send(session, events=[say({"text": "free"})])
    assert idle(client, session, 4)[-1].stop_reason.type == "end_turn"


def test_a_model_without_a_price_has_no_budget(new_stack):
    stack = new_stack(PRICES)
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="unpriced", model="rehearsal-2")
    with pytest.raises(BadRequestError, match="model_not_budgetable"):
        client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id, budget=limit(50))
