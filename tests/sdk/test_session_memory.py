"""Memory stores in a session's sandbox: fetched, kept in step, guarded. The official SDK is the client, our worker serves."""

from __future__ import annotations

import uuid

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from conftest import Stack, ended, script, tool, until
from conformance.validator import check


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)


@pytest.fixture
def store(client: Anthropic):
    made = client.beta.memory_stores.create(name=f"Notes {uuid.uuid4().hex[:8]}", description="What the team knows.")
    yield made
    client.beta.memory_stores.delete(made.id)


def memories(client: Anthropic, store) -> dict[str, str]:
    found = client.beta.memory_stores.memories.list(store.id, view="full")
    return {memory.path: memory.content for memory in found if memory.type == "memory"}


class Conversation:
    """A session whose agent plays what it is sent."""

    def __init__(self, client: Anthropic, postern: Stack, resources: list[dict]):
        self.client = client
        agent = client.beta.agents.create(name="memory", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
        raw = client.beta.sessions.with_raw_response.create(
            agent=agent.id, environment_id=postern.environment_id, resources=resources)
        assert check(types.BetaManagedAgentsSession, raw.http_response.content) == []
        self.session = raw.parse()

    def results(self) -> list[str]:
        events = self.client.beta.sessions.events.list(self.session.id, limit=1000)
        return [event.content[0].text for event in events if event.type == "user.tool_result"]

    def run(self, command: str) -> str:
        return self.call(tool("bash", command=command))

    def call(self, call: dict) -> str:
        before = len(self.results())
        self.client.beta.sessions.events.send(self.session.id, events=[
            {"type": "user.message", "content": script({"tool_uses": [call]}, {"text": "done"})}])
        until(lambda: len(self.results()) > before and ended(self.client, self.session.id), 60, "the end of a turn")
        return self.results()[-1]


def test_a_session_reads_writes_and_removes_memories_and_the_store_has_them_boundary(client: Anthropic, postern: Stack, store):
    of = client.beta.memory_stores.memories
    of.create(store.id, path="/team/tone.md", content="be brief\n")
    of.create(store.id, path="/old.md", content="forget me\n")
    conversation = Conversation(client, postern, [{"type": "memory_store", "memory_store_id": store.id, "instructions": "Read first."}])
    resource, = conversation.session.resources
    assert (resource.memory_store_id, resource.access, resource.name) == (store.id, "read_write", store.name)
    assert resource.mount_path == "/mnt/memory/" + store.name.lower().replace(" ", "-")
    at = resource.mount_path
    assert conversation.run(f"cat {at}/team/tone.md") == "be brief"
    conversation.run(f"mkdir -p {at}/new && echo learnt > {at}/new/a.md && echo 'be very brief' > {at}/team/tone.md && rm {at}/old.md")
    assert memories(client, store) == {"/team/tone.md": "be very brief\n", "/new/a.md": "learnt\n"}
    # By the file tools too.
    conversation.call(tool("write", file_path=f"{at}/new/b.md", content="by the tool"))
    assert memories(client, store)["/new/b.md"] == "by the tool"
    versions = client.beta.memory_stores.memory_versions.list(store.id, session_id=conversation.session.id)
    assert {version.operation for version in versions} == {"created", "modified", "deleted"}
    # Another session finds what this one wrote.
    other = Conversation(client, postern, [{"type": "memory_store", "memory_store_id": store.id}])
    assert other.run(f"cat {at}/new/a.md") == "learnt"


def test_of_two_writers_the_servers_text_stays_and_the_agent_is_told(client: Anthropic, postern: Stack, store):
    of = client.beta.memory_stores.memories
    memory = of.create(store.id, path="/a.md", content="first\n")
    conversation = Conversation(client, postern, [{"type": "memory_store", "memory_store_id": store.id}])
    at = conversation.session.resources[0].mount_path
    assert conversation.run(f"cat {at}/a.md") == "first"
    of.update(memory.id, memory_store_id=store.id, content="by a person\n")
    result = conversation.run(f"echo 'by the agent' > {at}/a.md")
    assert "[postern] memory not kept" in result and "somebody else changed it" in result
    assert memories(client, store) == {"/a.md": "by a person\n"}
    assert conversation.run(f"cat {at}/a.md") == "by a person"


def test_a_store_that_is_to_be_read_cannot_be_written(client: Anthropic, postern: Stack, store):
    client.beta.memory_stores.memories.create(store.id, path="/a.md", content="fixed\n")
    conversation = Conversation(
        client, postern, [{"type": "memory_store", "memory_store_id": store.id, "access": "read_only"}])
    at = conversation.session.resources[0].mount_path
    result = conversation.run(f"cat {at}/a.md; echo x > {at}/a.md; echo y > {at}/b.md; rm {at}/a.md")
    assert result.startswith("fixed") and result.count("Read-only file system") == 3
    assert memories(client, store) == {"/a.md": "fixed\n"}


def test_what_a_memory_cannot_be_is_said_and_not_sent(client: Anthropic, postern: Stack, store):
    of = client.beta.memory_stores.memories
    for name in ("a", "b", "c"):
        of.create(store.id, path=f"/{name}.md", content=name)
    conversation = Conversation(client, postern, [{"type": "memory_store", "memory_store_id": store.id}])
    at = conversation.session.resources[0].mount_path
    result = conversation.run(
        f"head -c 200000 /dev/zero > {at}/large; printf '\\377' > {at}/binary; ln -s /etc/passwd {at}/link; mkfifo {at}/pipe; echo ok")
    assert "larger than 100 KiB" in result and "not UTF-8" in result
    assert set(memories(client, store)) == {"/a.md", "/b.md", "/c.md"}
    conversation.run(f"rm {at}/large {at}/binary")
    result = conversation.run(f"rm -r {at}/*")
    assert "all of its memories were removed at once" in result
    assert set(memories(client, store)) == {"/a.md", "/b.md", "/c.md"}
    assert conversation.run(f"cat {at}/a.md") == "a"


def test_a_store_cannot_be_attached_twice_archived_or_later(client: Anthropic, postern: Stack, store):
    agent = client.beta.agents.create(name="memory", model="rehearsal-1", tools=[])

    def create(*resources: dict):
        return client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id, resources=list(resources))

    resource = {"type": "memory_store", "memory_store_id": store.id}
    with pytest.raises(anthropic.BadRequestError, match="attached already"):
        create(resource, resource)
    with pytest.raises(anthropic.BadRequestError, match="4096"):
        create({**resource, "instructions": "x" * 4097})
    session = create(resource)
    assert session.id in [found.id for found in client.beta.sessions.list(memory_store_id=store.id)]
    with pytest.raises(anthropic.BadRequestError, match="only a file"):
        client.post(f"/v1/sessions/{session.id}/resources", body=resource, cast_to=object,
                    options={"headers": {"anthropic-beta": "managed-agents-2026-04-01"}})
    client.beta.memory_stores.archive(store.id)
    with pytest.raises(anthropic.BadRequestError, match="archived"):
        create(resource)
