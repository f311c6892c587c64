"""Agents, environments, the queue and models by the official SDK, unmodified. Every body passes the strict validator."""

from __future__ import annotations

import base64
import json
import uuid
from datetime import timedelta

import anthropic
import httpx2 as httpx
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from anthropic.types.beta import environments as work_types
from conftest import Stack, script, tool
from conformance.validator import check, check_page

BETA = "managed-agents-2026-04-01"
TOOLSET = {"type": "agent_toolset_20260401"}


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)


def conforming(kind, raw):
    """The parsed body of a raw response, after the strict check."""
    body = raw.http_response.content
    assert check(kind, body) == [], body
    assert raw.headers["request-id"].startswith("req_")
    return raw.parse()


def conforming_page(kind, raw):
    body = raw.http_response.content
    assert check_page(kind, body) == [], body
    return raw.parse()


def new_agent(client: Anthropic, **fields):
    body = {"name": "resource", "model": "rehearsal-1"} | fields
    return conforming(types.BetaManagedAgentsAgent, client.beta.agents.with_raw_response.create(**body))


def new_environment(client: Anthropic, **fields):
    body = {"name": f"resource {uuid.uuid4()}", "config": {"type": "self_hosted"}} | fields
    return conforming(types.BetaEnvironment, client.beta.environments.with_raw_response.create(**body))


def environment_key(postern: Stack, environment: str) -> str:
    headers = {"authorization": f"Bearer {postern.api_key}", "anthropic-beta": BETA}
    answer = httpx.post(f"{postern.base_url}/v1/environments/{environment}/keys", headers=headers, json={"name": "journey"})
    assert answer.status_code == 200, answer.text
    return answer.json()["key"]


def test_an_agent_is_created_changed_listed_and_archived(client: Anthropic):
    agents = client.beta.agents
    custom = {"type": "custom", "name": "lookup", "description": "looks up",
              "input_schema": {"type": "object", "properties": {"q": {"type": "string"}}, "required": ["q"], "additionalProperties": False}}
    ask = {"name": "bash", "permission_policy": {"type": "always_ask"}}
    agent = new_agent(client, system="be brief", description="d", metadata={"team": "a"}, tools=[TOOLSET | {"configs": [ask]}, custom])
    assert (agent.version, agent.system, agent.archived_at) == (1, "be brief", None)
    assert agent.tools[0].default_config.enabled and agent.tools[0].configs[0].permission_policy.type == "always_ask"

    same = conforming(types.BetaManagedAgentsAgent, agents.with_raw_response.update(agent.id, version=1, name="resource"))
    assert same.version == 1, "a no-op makes no version"
    changed = conforming(types.BetaManagedAgentsAgent, agents.with_raw_response.update(
        agent.id, version=1, system=None, tools=None, metadata={"team": None, "tier": "1"}, model={"id": "rehearsal-2", "effort": "low"}))
    assert (changed.version, changed.system, changed.tools, changed.metadata) == (2, None, [], {"tier": "1"})
    assert changed.model.effort.type == "low"

    with pytest.raises(anthropic.ConflictError) as conflict:
        Anthropic(base_url=client.base_url, api_key=client.api_key).beta.agents.update(agent.id, version=1, name="late")
    assert conflict.value.response.headers["x-should-retry"] == "false"
    assert conflict.value.response.request.headers["x-stainless-retry-count"] == "0", "not sent again"

    first = conforming(types.BetaManagedAgentsAgent, agents.with_raw_response.retrieve(agent.id, version=1))
    assert first.system == "be brief"
    versions = conforming_page(types.BetaManagedAgentsAgent, agents.versions.with_raw_response.list(agent.id, limit=1))
    assert [version.version for version in versions] == [2, 1], "pages follow one another"
    archived = conforming(types.BetaManagedAgentsAgent, agents.with_raw_response.archive(agent.id))
    assert archived.archived_at is not None
    with pytest.raises(anthropic.BadRequestError):
        agents.update(agent.id, name="never")


def test_agents_are_listed_in_pages_and_by_age(client: Anthropic):
    made = [new_agent(client, name=f"page {n}") for n in range(5)]
    since = made[0].created_at
    page = conforming_page(types.BetaManagedAgentsAgent, client.beta.agents.with_raw_response.list(limit=2, created_at_gte=since))
    mine = [agent.id for agent in page if agent.name.startswith("page ")]
    assert mine == [agent.id for agent in reversed(made)], "newest first, each once"
    before = client.beta.agents.list(limit=100, created_at_gte=since, created_at_lte=since + timedelta(microseconds=0))
    assert made[0].id in [agent.id for agent in before] and made[-1].id not in [agent.id for agent in before]
    client.beta.agents.archive(made[0].id)
    assert made[0].id not in [agent.id for agent in client.beta.agents.list(created_at_gte=since)]
    assert made[0].id in [agent.id for agent in client.beta.agents.list(created_at_gte=since, include_archived=True)]


@pytest.mark.parametrize("fields", [
    {"name": ""},
    {"model": {"id": "m", "effort": "enormous"}},
    {"tools": [TOOLSET, TOOLSET]},
    {"tools": [{"type": "custom", "name": "bash", "description": "d", "input_schema": {"type": "object"}}]},
    {"tools": [{"type": "custom", "name": "x", "description": "d", "input_schema": {"type": "object", "properties": {"a": {"$ref": "#"}}}}]},
    {"mcp_servers": [{"type": "url", "name": "wiki", "url": "https://wiki.example/mcp"}]},
    {"tools": [{"type": "mcp_toolset", "mcp_server_name": "wiki"}]},
    {"skills": [{"type": "custom", "skill_id": "skill_1"}] * 21},
    {"metadata": {"k": "v" * 513}},
    {"extra_body": {"colour": "red"}},
])
def test_an_agent_out_of_bounds_is_refused_and_not_stored(client: Anthropic, fields: dict):
    marker = new_agent(client).created_at
    body = {"name": "refused", "model": "rehearsal-1"} | fields
    with pytest.raises(anthropic.BadRequestError) as refusal:
        client.beta.agents.create(**body)
    error = refusal.value.response.json()
    assert error["type"] == "error" and error["error"]["type"] == "invalid_request_error" and error["request_id"].startswith("req_")
    assert "refused" not in [agent.name for agent in client.beta.agents.list(created_at_gte=marker)]


def test_an_environment_is_created_changed_archived_and_deleted(client: Anthropic):
    environments = client.beta.environments
    made = new_environment(client, description="d", metadata={"a": "1"})
    assert made.config.type == "self_hosted"
    with pytest.raises(anthropic.ConflictError):
        environments.create(name=made.name)
    changed = conforming(types.BetaEnvironment, environments.with_raw_response.update(made.id, description=None, metadata={"a": "", "b": "2"}))
    assert (changed.description, changed.metadata) == (None, {"b": "2"})
    assert conforming(types.BetaEnvironment, environments.with_raw_response.retrieve(made.id)).metadata == {"b": "2"}
    page = conforming_page(types.BetaEnvironment, environments.with_raw_response.list(limit=1))
    assert made.id in [environment.id for environment in page]
    with pytest.raises(anthropic.BadRequestError) as cloud:
        environments.create(name=f"cloud {uuid.uuid4()}", config={"type": "cloud"})
    assert "self_hosted" in str(cloud.value)
    assert conforming(types.BetaEnvironment, environments.with_raw_response.archive(made.id)).archived_at
    with pytest.raises(anthropic.BadRequestError) as archived:
        environments.update(made.id, name="late")
    assert archived.value.response.json()["error"]["details"]["error_code"] == "environment_archived"
    deleted = conforming(types.BetaEnvironmentDeleteResponse, environments.with_raw_response.delete(made.id))
    assert deleted.type == "environment_deleted"
    with pytest.raises(anthropic.NotFoundError):
        environments.retrieve(made.id)


def test_an_environment_without_a_config_is_self_hosted(client: Anthropic):
    made = conforming(types.BetaEnvironment, client.beta.environments.with_raw_response.create(name=f"plain {uuid.uuid4()}"))
    assert made.config.type == "self_hosted"


def test_a_work_item_goes_through_its_states(client: Anthropic, postern: Stack):
    environment = new_environment(client).id
    worker = Anthropic(base_url=postern.base_url, auth_token=environment_key(postern, environment), api_key=None, max_retries=0)
    queue, mine = client.beta.environments.work, worker.beta.environments.work
    empty = mine.with_raw_response.poll(environment, block_ms=1, anthropic_worker_id="journey-1")
    assert (empty.http_response.content, empty.headers["content-type"]) == (b"null", "application/json")

    agent = new_agent(client, tools=[TOOLSET])
    first = {"type": "user.message", "content": script({"tool_uses": [tool("bash", command="true")]}, {"text": "done"})}
    session = client.beta.sessions.create(agent=agent.id, environment_id=environment, initial_events=[first])
    item = None
    for _ in range(30):
        raw = mine.with_raw_response.poll(environment, block_ms=999, anthropic_worker_id="journey-1")
        if raw.http_response.content != b"null":
            item = conforming(types.environments.BetaSelfHostedWork, raw)
            break
    assert item and item.data.id == session.id and item.state == "queued"
    stats = conforming(work_types.BetaSelfHostedWorkQueueStats, queue.with_raw_response.stats(environment))
    assert (stats.depth, stats.pending, stats.workers_polling) == (0, 1, 1)

    taken = conforming(work_types.BetaSelfHostedWork, mine.with_raw_response.ack(item.id, environment_id=environment))
    assert (taken.state, taken.secret) == ("starting", None)
    secret = json.loads(base64.urlsafe_b64decode(item.secret + "=" * (-len(item.secret) % 4)))
    holder = Anthropic(base_url=postern.base_url, auth_token=secret["sessions_token"], api_key=None, max_retries=0)
    beat = conforming(work_types.BetaSelfHostedWorkHeartbeatResponse, holder.beta.environments.work.with_raw_response.heartbeat(
        item.id, environment_id=environment, expected_last_heartbeat="NO_HEARTBEAT"))
    assert (beat.state, beat.lease_extended) == ("active", True)
    conforming(work_types.BetaSelfHostedWorkHeartbeatResponse, holder.beta.environments.work.with_raw_response.heartbeat(
        item.id, environment_id=environment, expected_last_heartbeat=beat.last_heartbeat))
    with pytest.raises(anthropic.APIStatusError) as lost:
        holder.beta.environments.work.heartbeat(item.id, environment_id=environment, expected_last_heartbeat=beat.last_heartbeat)
    assert lost.value.status_code == 412
    assert lost.value.response.json()["error"]["details"]["error_code"] == "heartbeat_precondition_failed"
    assert lost.value.response.json()["error"]["details"]["current_state"]["state"] == "active"

    updated = conforming(work_types.BetaSelfHostedWork, queue.with_raw_response.update(item.id, environment_id=environment, metadata={"a": "1"}))
    assert updated.metadata == {"a": "1"}
    with pytest.raises(anthropic.PermissionDeniedError):
        mine.retrieve(item.id, environment_id=environment)
    listed = conforming_page(work_types.BetaSelfHostedWork, mine.with_raw_response.list(environment))
    assert [entry.id for entry in listed] == [item.id]

    asked = conforming(work_types.BetaSelfHostedWork, queue.with_raw_response.stop(item.id, environment_id=environment))
    assert asked.state == "stopping"
    told = holder.beta.environments.work.heartbeat(item.id, environment_id=environment, expected_last_heartbeat="anything")
    assert (told.state, told.lease_extended) == ("stopping", False)
    stopped = conforming(work_types.BetaSelfHostedWork, holder.beta.environments.work.with_raw_response.stop(item.id, environment_id=environment, force=True))
    assert stopped.state == "stopped"
    with pytest.raises(anthropic.ConflictError):
        mine.stop(item.id, environment_id=environment, force=True)
    with pytest.raises(anthropic.AuthenticationError):
        holder.beta.sessions.retrieve(session.id)
    assert conforming(work_types.BetaSelfHostedWork, queue.with_raw_response.retrieve(item.id, environment_id=environment)).stopped_at


def test_a_worker_s_credential_does_not_speak_for_the_user(client: Anthropic, postern: Stack):
    environment = new_environment(client).id
    worker = Anthropic(base_url=postern.base_url, auth_token=environment_key(postern, environment), api_key=None, max_retries=0)
    session = client.beta.sessions.create(agent=new_agent(client).id, environment_id=environment).id
    for event in [{"type": "user.message", "content": [{"type": "text", "text": "I am the user"}]}, {"type": "user.interrupt"}]:
        with pytest.raises(anthropic.PermissionDeniedError):
            worker.beta.sessions.events.send(session, events=[event])
    foreign = client.beta.sessions.create(agent=new_agent(client).id, environment_id=postern.environment_id).id
    with pytest.raises(anthropic.NotFoundError):
        worker.beta.sessions.retrieve(foreign)
    for refused in [worker.beta.agents.list, worker.beta.environments.list, worker.beta.sessions.list]:
        with pytest.raises(anthropic.PermissionDeniedError):
            refused()


def test_models_conform(client: Anthropic):
    raw = client.beta.models.with_raw_response.list(limit=1)
    body = json.loads(raw.http_response.content)
    assert set(body) == {"data", "has_more", "first_id", "last_id"} and body["data"]
    for model in body["data"]:
        assert check(types.BetaModelInfo, json.dumps(model)) == []
    listed = [model.id for model in client.beta.models.list()]
    assert len(set(listed)) == len(listed)
    conforming(types.BetaModelInfo, client.beta.models.with_raw_response.retrieve(listed[0]))


@pytest.mark.parametrize("key", ["", "sk-ant-api03-foreign", "pst_api_damaged"])
def test_a_foreign_key_is_refused_as_the_sdk_expects(postern: Stack, key: str):
    with pytest.raises(anthropic.AuthenticationError) as refusal:
        Anthropic(base_url=postern.base_url, api_key=key or "x", max_retries=0).beta.agents.list()
    assert refusal.value.response.json()["error"]["type"] == "authentication_error"


def test_a_key_is_taken_from_either_header_and_the_beta_is_needed(postern: Stack):
    url = f"{postern.base_url}/v1/agents?beta=true&limit=1"
    for credential in [{"x-api-key": postern.api_key}, {"authorization": f"Bearer {postern.api_key}"}]:
        for version in ["2023-06-01", "2026-10-21"]:
            answer = httpx.get(url, headers=credential | {"anthropic-beta": BETA, "anthropic-version": version, "accept": "text/html"})
            assert answer.status_code == 200 and answer.headers["content-type"].endswith("json")
        assert httpx.get(url, headers=credential).status_code == 404
