"""Idempotency keys through the official SDK: what comes again creates nothing, another request is refused for good."""

from __future__ import annotations

import uuid

import anthropic
import pytest
from anthropic import Anthropic
from conftest import Stack, ended, script, until


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


def test_a_message_whose_answer_was_lost_is_said_once(postern: Stack):
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key)
    agent = client.beta.agents.create(name="says", model="rehearsal-1", tools=[])
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id).id
    key = {"Idempotency-Key": str(uuid.uuid4())}

    def say(text: str):
        message = {"type": "user.message", "content": script({"text": text})}
        return client.beta.sessions.events.with_raw_response.send(session, events=[message], extra_headers=key)

    first = say("once")
    until(lambda: client.beta.sessions.retrieve(session).status == "idle" and ended(client, session), 30, "the end of the turn")
    again = say("once")
    assert [raw.headers["idempotency-replayed"] for raw in (first, again)] == ["false", "true"]
    [sent], [told] = first.parse().data, again.parse().data
    assert (sent.id, sent.content) == (told.id, told.content) and told.processed_at
    events = list(client.beta.sessions.events.list(session, limit=1000))
    assert [event.type for event in events].count("user.message") == 1
    assert [event.type for event in events].count("agent.message") == 1
    with pytest.raises(anthropic.ConflictError) as refused:
        say("something else")
    assert refused.value.body["error"]["details"]["error_code"] == "idempotency_key_reused"


def test_an_upload_whose_answer_was_lost_is_one_file(postern: Stack):
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)
    key = {"Idempotency-Key": str(uuid.uuid4())}

    def upload(name: str, content: bytes):
        return client.beta.files.with_raw_response.upload(file=(name, content, "text/plain"), extra_headers=key)

    before = len(list(client.beta.files.list()))
    first, again = upload("a.txt", b"x" * 300_000), upload("a.txt", b"x" * 300_000)
    boundaries = {raw.http_request.headers["content-type"] for raw in (first, again)}
    assert len(boundaries) == 2, "another try has another boundary"
    assert first.http_response.content == again.http_response.content
    assert [raw.headers["idempotency-replayed"] for raw in (first, again)] == ["false", "true"]
    assert len(list(client.beta.files.list())) == before + 1
    for name, content in (("a.txt", b"x" * 299_999 + b"y"), ("b.txt", b"x" * 300_000)):
        with pytest.raises(anthropic.ConflictError) as refused:
            upload(name, content)
        assert refused.value.body["error"]["details"]["error_code"] == "idempotency_key_reused"
    assert len(list(client.beta.files.list())) == before + 1


def test_a_skill_and_a_version_whose_answers_were_lost_are_made_once(postern: Stack):
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)
    name = f"once-{uuid.uuid4().hex[:8]}"

    def files(text: str):
        return [(f"{name}/SKILL.md", f"---\nname: {name}\ndescription: d\n---\n{text}".encode())]

    key = {"Idempotency-Key": str(uuid.uuid4())}
    first, again = (client.beta.skills.with_raw_response.create(files=files("one"), extra_headers=key) for _ in range(2))
    assert first.http_response.content == again.http_response.content
    assert [raw.headers["idempotency-replayed"] for raw in (first, again)] == ["false", "true"]
    skill = first.parse().id
    key = {"Idempotency-Key": str(uuid.uuid4())}
    first, again = (client.beta.skills.versions.with_raw_response.create(skill, files=files("two"), extra_headers=key) for _ in range(2))
    assert first.http_response.content == again.http_response.content
    assert len(list(client.beta.skills.versions.list(skill))) == 2
    with pytest.raises(anthropic.ConflictError):
        client.beta.skills.versions.create(skill, files=files("three"), extra_headers=key)
