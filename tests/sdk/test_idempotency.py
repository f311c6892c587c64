"""Idempotency keys through the official SDK: what comes again creates nothing, another request is refused for good."""

from __future__ import annotations

import uuid

import anthropic
import pytest
from anthropic import Anthropic
from conftest import Stack


def test_a_session_whose_answer_was_lost_is_begun_once(postern: Stack):
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key)
    agent = client.beta.agents.create(name="once", model="rehearsal-1", tools=[])
    key = {"Idempotency-Key": str(uuid.uuid4())}

    def create(title: str):
        return client.beta.sessions.with_raw_response.create(
            agent=agent.id, environment_id=postern.environment_id, title=title, extra_headers=key)

    first, again = create("t"), create("t")
    assert first.http_response.content == again.http_response.content
    assert [raw.headers["idempotency-replayed"] for raw in (first, again)] == ["false", "true"]
    assert len(list(client.beta.sessions.list(agent_id=agent.id))) == 1
    with pytest.raises(anthropic.ConflictError) as refused:
        create("another")
    assert refused.value.body["error"]["details"]["error_code"] == "idempotency_key_reused"
    assert refused.value.request.headers["x-stainless-retry-count"] == "0"
