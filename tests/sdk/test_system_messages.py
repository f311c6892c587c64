"""System text in mid-conversation by the official SDK: where the configuration names the model it is an event and a message of its own,
elsewhere it is refused by its code."""

from __future__ import annotations

import json

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types.beta import sessions as session_types
from conftest import Stack, model_requests, until
from conformance.validator import check_page, check_sse

SYSTEM = {"type": "system.message", "content": [{"type": "text", "text": "answer in one word"}]}


def said(text: str) -> dict:
    return {"type": "user.message", "content": [{"type": "text", "text": text}]}


def begun(stack: Stack):
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key, max_retries=0)
    agent = client.beta.agents.create(name="listener", model="rehearsal-1")
    return client, client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id).id


def test_system_text_reaches_a_model_that_the_configuration_names(new_stack, rehearsal: dict):
    stack: Stack = new_stack('system_messages = ["rehearsal-1"]\n', ["--no-worker"])
    client, session = begun(stack)
    with client.beta.sessions.events.stream(session) as stream:
        sent = client.beta.sessions.events.send(session, events=[said(f"go {session}"), SYSTEM]).data
        assert [event.type for event in sent] == ["user.message", "system.message"]
        for event in stream:
            problems = check_sse(session_types.BetaManagedAgentsStreamSessionEvents, event.type, event.to_json())
            assert problems == [], event
            if event.type == "session.status_idle":
                break
    asked = [body for body in model_requests(rehearsal) if f"go {session}" in json.dumps(body)][-1]
    assert [message["role"] for message in asked["messages"]] == ["user", "system"]
    assert asked["messages"][1]["content"] == SYSTEM["content"]
    listed = client.beta.sessions.events.with_raw_response.list(session, types=["system.message"])
    assert check_page(session_types.BetaManagedAgentsSessionEvent, listed.http_response.content) == []
    assert [event.id for event in listed.parse().data] == [sent[1].id]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.sessions.events.send(session, events=[SYSTEM])
    assert "directly after" in refused.value.body["error"]["message"]


def test_system_text_is_refused_by_its_code_where_the_model_is_not_named(postern: Stack):
    client, session = begun(postern)
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.sessions.events.send(session, events=[said("go"), SYSTEM])
    assert refused.value.body["error"]["details"]["error_code"] == "model_does_not_support_mid_conversation_system"
    until(lambda: list(client.beta.sessions.events.list(session)) == [], 5, "an empty log")
