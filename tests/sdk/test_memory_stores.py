"""Memory stores by the official SDK, unmodified: each route, every body passed through the strict validator."""

from __future__ import annotations

import hashlib
import uuid

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from anthropic.types.beta import memory_stores as memory_types
from conftest import Stack
from conformance.validator import check, check_page

STORE, MEMORY = types.BetaManagedAgentsMemoryStore, memory_types.BetaManagedAgentsMemory
ITEM, VERSION = memory_types.BetaManagedAgentsMemoryListItem, memory_types.BetaManagedAgentsMemoryVersion


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    # Retrying would hide a 409 that says it is useless.
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=2)


@pytest.fixture
def store(client: Anthropic):
    made = client.beta.memory_stores.create(name=f"store {uuid.uuid4()}")
    yield made
    client.beta.memory_stores.delete(made.id)


def conforming(kind, raw):
    body = raw.http_response.content
    assert check(kind, body) == [], body
    return raw.parse()


def conforming_page(kind, raw):
    body = raw.http_response.content
    assert check_page(kind, body) == [], body
    return raw.parse()


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def test_a_store_is_made_changed_archived_and_deleted(client: Anthropic):
    stores = client.beta.memory_stores.with_raw_response
    made = conforming(STORE, stores.create(name="notes", description="what was learnt", metadata={"team": "a"}))
    assert conforming(STORE, stores.retrieve(made.id)) == made
    changed = conforming(STORE, stores.update(made.id, name="other", description="", metadata={"team": None, "x": "1"}))
    assert (changed.name, changed.description, changed.metadata) == ("other", "", {"x": "1"})
    assert made.id in [found.id for found in conforming_page(STORE, stores.list(created_at_gte=made.created_at, limit=100))]
    archived = conforming(STORE, stores.archive(made.id))
    assert archived.archived_at is not None and conforming(STORE, stores.archive(made.id)) == archived
    assert made.id not in [found.id for found in client.beta.memory_stores.list()]
    assert made.id in [found.id for found in conforming_page(STORE, stores.list(include_archived=True))]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.memory_stores.memories.create(made.id, path="/a", content="")
    assert refused.value.body["error"]["details"]["error_code"] == "memory_store_archived"
    deleted = conforming(types.BetaManagedAgentsDeletedMemoryStore, stores.delete(made.id))
    assert (deleted.id, deleted.type) == (made.id, "memory_store_deleted")
    with pytest.raises(anthropic.NotFoundError):
        client.beta.memory_stores.retrieve(made.id)


def test_a_memory_is_written_read_renamed_and_deleted(client: Anthropic, store):
    memories, versions = client.beta.memory_stores.memories, client.beta.memory_stores.memory_versions
    raw, raw_versions = memories.with_raw_response, versions.with_raw_response
    made = conforming(MEMORY, raw.create(store.id, path="/notes/todo.md", content="caf\u00e9"))
    assert (made.content, made.content_sha256, made.content_size_bytes) == (None, sha256("caf\u00e9"), 5)
    assert conforming(MEMORY, raw.retrieve(made.id, memory_store_id=store.id)).content == "caf\u00e9"
    assert conforming(MEMORY, raw.retrieve(made.id, memory_store_id=store.id, view="basic")) == made
    known = {"type": "content_sha256", "content_sha256": made.content_sha256}
    changed = conforming(MEMORY, raw.update(made.id, memory_store_id=store.id, content="tea", precondition=known, view="full"))
    assert (changed.content, changed.content_sha256) == ("tea", sha256("tea"))
    renamed = conforming(MEMORY, raw.update(made.id, memory_store_id=store.id, path="/notes/done.md"))
    assert (renamed.id, renamed.path, renamed.content) == (made.id, "/notes/done.md", None)

    first = made.memory_version_id
    shown = conforming(VERSION, raw_versions.retrieve(first, memory_store_id=store.id))
    assert (shown.operation, shown.path, shown.content) == ("created", "/notes/todo.md", "caf\u00e9")
    assert shown.created_by.type == "api_actor"
    redacted = conforming(VERSION, raw_versions.redact(first, memory_store_id=store.id))
    assert (redacted.path, redacted.content, redacted.content_sha256) == (None, None, None)
    assert redacted.redacted_at is not None and redacted.redacted_by == shown.created_by
    with pytest.raises(anthropic.BadRequestError):
        versions.redact(renamed.memory_version_id, memory_store_id=store.id)

    deleted = conforming(memory_types.BetaManagedAgentsDeletedMemory, raw.delete(
        made.id, memory_store_id=store.id, expected_content_sha256=sha256("tea")))
    assert (deleted.id, deleted.type) == (made.id, "memory_deleted")
    history = conforming_page(VERSION, raw_versions.list(store.id, memory_id=made.id, view="full"))
    assert [version.operation for version in history] == ["deleted", "modified", "modified", "created"]
    by_key = conforming_page(VERSION, raw_versions.list(store.id, api_key_id=shown.created_by.api_key_id, operation="deleted"))
    assert [version.memory_id for version in by_key] == [made.id]
    assert list(versions.list(store.id, session_id="sesn_none")) == []


def test_a_tree_is_listed_whole_by_directory_and_in_pages(client: Anthropic, store):
    memories = client.beta.memory_stores.memories
    paths = ["/a.md", "/notes/a/1", "/notes/a/2", "/notes/todo.md", "/z/deep/er"]
    for path in paths:
        memories.create(store.id, path=path, content=path)
    whole = conforming_page(ITEM, memories.with_raw_response.list(store.id, limit=2, view="full"))
    assert [memory.path for memory in whole.data] == paths[:2] and whole.data[0].content == "/a.md"
    assert [memory.path for memory in memories.list(store.id, limit=2)] == paths, "the SDK turns the pages"
    children = conforming_page(ITEM, memories.with_raw_response.list(store.id, depth=1))
    assert [(item.type, item.path) for item in children.data] == [
        ("memory", "/a.md"), ("memory_prefix", "/notes/"), ("memory_prefix", "/z/")]
    assert [item.path for item in memories.list(store.id, depth=1, path_prefix="/notes/", limit=1)] == ["/notes/a/", "/notes/todo.md"]
    with pytest.raises(anthropic.BadRequestError):
        memories.list(store.id, depth=2)


def test_conflicts_are_typed_and_not_retried(client: Anthropic, store):
    memories = client.beta.memory_stores.memories
    made, other = memories.create(store.id, path="/a", content="1"), memories.create(store.id, path="/b", content="2")
    stale = {"type": "content_sha256", "content_sha256": sha256("another")}
    for kind, change in [
        ("memory_path_conflict_error", lambda: memories.create(store.id, path="/a", content="3")),
        ("memory_path_conflict_error", lambda: memories.update(other.id, memory_store_id=store.id, path="/a")),
        ("memory_precondition_failed_error", lambda: memories.update(
            made.id, memory_store_id=store.id, content="3", precondition=stale)),
        ("memory_precondition_failed_error", lambda: memories.delete(
            made.id, memory_store_id=store.id, expected_content_sha256=sha256("another"))),
    ]:
        with pytest.raises(anthropic.ConflictError) as refused:
            change()
        assert refused.value.body["error"]["type"] == kind
        assert refused.value.response.headers["x-should-retry"] == "false"
        assert refused.value.request.headers["x-stainless-retry-count"] == "0"
        if kind == "memory_path_conflict_error":
            assert refused.value.body["error"]["details"]["conflicting_memory_id"] == made.id
    assert memories.retrieve(made.id, memory_store_id=store.id).content == "1"


@pytest.mark.parametrize("betas", [None, ["managed-agents-2026-04-01"]])
def test_either_beta_and_both_open_the_routes(client: Anthropic, store, betas):
    extra = {} if betas is None else {"betas": betas}
    assert client.beta.memory_stores.retrieve(store.id, **extra).id == store.id
    alone = client.beta.memory_stores.retrieve(store.id, extra_headers={"anthropic-beta": "managed-agents-2026-04-01"})
    assert alone.id == store.id
    with pytest.raises(anthropic.NotFoundError):
        client.beta.memory_stores.retrieve(store.id, extra_headers={"anthropic-beta": "mcp-tunnels-2026-06-22"})


def test_a_session_is_found_by_the_store_it_has(client: Anthropic, postern: Stack, store):
    assert list(client.beta.sessions.list(memory_store_id=store.id)) == []
    agent = client.beta.agents.create(name="remembers", model="rehearsal-1", tools=[])
    resource = {"type": "memory_store", "memory_store_id": store.id, "access": "read_only"}
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id, resources=[resource])
    assert [found.id for found in client.beta.sessions.list(memory_store_id=store.id)] == [session.id]
