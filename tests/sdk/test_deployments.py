"""Deployments and their runs by the official SDK, unmodified. Every body passes the strict validator."""

from __future__ import annotations

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from conftest import Stack, ended, script, until
from conformance.validator import check, check_page


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)


def conforming(kind, raw):
    body = raw.http_response.content
    assert check(kind, body) == [], body
    return raw.parse()


def conforming_page(kind, raw):
    body = raw.http_response.content
    assert check_page(kind, body) == [], body
    return raw.parse()


def test_a_deployment_is_made_changed_paused_run_and_archived(client: Anthropic, postern: Stack):
    deployments, runs = client.beta.deployments.with_raw_response, client.beta.deployment_runs.with_raw_response
    deployment_kind, run_kind = types.BetaManagedAgentsDeployment, types.BetaManagedAgentsDeploymentRun
    agent = client.beta.agents.create(name="nightly", model="rehearsal-1", tools=[])
    made = conforming(deployment_kind, deployments.create(
        agent=agent.id, environment_id=postern.environment_id, name="nightly", description="d", metadata={"team": "a"},
        initial_events=[{"type": "user.message", "content": script({"text": "done"})}],
        schedule={"type": "cron", "expression": "0 3 * * 1-5", "timezone": "Europe/Berlin"}))
    assert (made.agent.id, made.agent.version, made.status) == (agent.id, 1, "active")
    assert len(made.schedule.upcoming_runs_at) == 5 and made.schedule.last_run_at is None
    assert conforming(deployment_kind, deployments.retrieve(made.id)) == made
    changed = conforming(deployment_kind, deployments.update(made.id, name="weekly", description=None, metadata={"team": None}))
    assert (changed.name, changed.description, changed.metadata) == ("weekly", None, {})

    paused = conforming(deployment_kind, deployments.pause(made.id))
    assert (paused.status, paused.paused_reason.type) == ("paused", "manual")
    assert [found.id for found in conforming_page(deployment_kind, deployments.list(status="paused", agent_id=agent.id))] == [made.id]
    run = conforming(run_kind, deployments.run(made.id))
    assert (run.deployment_id, run.error, run.trigger_context.type) == (made.id, None, "manual")
    assert conforming(run_kind, runs.retrieve(run.id)) == run
    assert [found.id for found in conforming_page(run_kind, runs.list(deployment_id=made.id, has_error=False))] == [run.id]
    until(lambda: ended(client, run.session_id), 30, "the end of the run")
    assert client.beta.sessions.retrieve(run.session_id).deployment_id == made.id
    assert [session.id for session in client.beta.sessions.list(deployment_id=made.id)] == [run.session_id]

    assert conforming(deployment_kind, deployments.unpause(made.id)).paused_reason is None
    client.beta.agents.archive(agent.id)
    archived = conforming(deployment_kind, deployments.retrieve(made.id))
    assert archived.archived_at is not None and archived.schedule.upcoming_runs_at == []
    assert conforming(deployment_kind, deployments.archive(made.id)) == archived
    with pytest.raises(anthropic.BadRequestError):
        client.beta.deployments.run(made.id)
