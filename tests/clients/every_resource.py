"""Calls every method of every resource that an official Python SDK has, of whatever version is on the path.

    every_resource.py BASE_URL API_KEY ENVIRONMENT IDLE_ENVIRONMENT IDLE_ENVIRONMENT_KEY CA_PEM

Nobody else works for the idle environment.

Prints one JSON line: the version, what was called, what the SDK has and was not called.
"""

from __future__ import annotations

import inspect
import json
import sys
import uuid
from pathlib import Path

import anthropic
from anthropic.lib.sessions import accumulate_managed_agents_event

RESOURCES = ["agents", "deployment_runs", "deployments", "environments", "files", "memory_stores", "models", "sessions", "skills",
             "tunnels", "vaults"]
# Helpers around the calls, not calls: tests/worker drives them, each by itself.
HELPERS = {"poller", "worker", "tool_runner"}
TOOLSET = {"type": "agent_toolset_20260401"}


class Recording:
    """A resource of an SDK that keeps which of its methods were called."""

    def __init__(self, real: object, path: str, called: set[str]):
        self._real, self._path, self._called = real, path, called

    def __getattr__(self, name: str):
        found, path = getattr(self._real, name), f"{self._path}.{name}".lstrip(".")
        if not inspect.ismethod(found):
            return Recording(found, path, self._called)
        self._called.add(path)
        return found


def methods(resource: object, path: str) -> set[str]:
    """Every public method of a resource and of those below it."""
    found = set()
    for name in dir(type(resource)):
        if name.startswith("_") or name.startswith("with_") or name in HELPERS:
            continue
        value = getattr(resource, name)
        if inspect.ismethod(value):
            found.add(f"{path}.{name}")
        elif ".resources." in type(value).__module__:
            found |= methods(value, f"{path}.{name}")
    return found


def says(*turns: dict) -> list[dict]:
    text = "rehearse: " + json.dumps(list(turns))
    return [{"type": "user.message", "content": [{"type": "text", "text": text}]}]


def agents(beta) -> str:
    made = beta.agents.create(name="every", model="rehearsal-1", tools=[TOOLSET])
    assert beta.agents.retrieve(made.id) == made
    changed = beta.agents.update(made.id, version=made.version, description="changed")
    assert changed.version == made.version + 1
    assert [version.version for version in beta.agents.versions.list(made.id)] == [changed.version, made.version]
    other = beta.agents.create(name="gone", model="rehearsal-1")
    assert {made.id, other.id} <= {agent.id for agent in beta.agents.list(limit=1)}, "over pages"
    assert beta.agents.archive(other.id).archived_at
    return made.id


def environments(beta) -> None:
    made = beta.environments.create(name=f"every {uuid.uuid4()}", config={"type": "self_hosted"})
    assert beta.environments.retrieve(made.id) == made
    assert beta.environments.update(made.id, description="changed").description == "changed"
    assert made.id in {environment.id for environment in beta.environments.list(limit=1)}
    assert beta.environments.archive(made.id).archived_at
    gone = beta.environments.create(name=f"gone {uuid.uuid4()}", config={"type": "self_hosted"})
    assert beta.environments.delete(gone.id).id == gone.id


def queue(beta, worker, agent: str, environment: str) -> None:
    session = beta.sessions.create(agent=agent, environment_id=environment)
    beta.sessions.events.send(session.id, events=says({"text": "nothing to do"}))
    item = None
    while item is None or item.data.id != session.id:
        item = worker.environments.work.poll(environment, block_ms=900)
    assert worker.environments.work.ack(item.id, environment_id=environment).state
    beat = worker.environments.work.heartbeat(item.id, environment_id=environment, expected_last_heartbeat="NO_HEARTBEAT")
    assert beat.lease_extended
    assert beta.environments.work.retrieve(item.id, environment_id=environment).id == item.id
    assert beta.environments.work.update(item.id, environment_id=environment, metadata={"k": "v"}).metadata == {"k": "v"}
    assert item.id in {work.id for work in beta.environments.work.list(environment, limit=1)}
    assert beta.environments.work.stats(environment).depth >= 0
    worker.environments.work.stop(item.id, environment_id=environment, force=True)


def sessions(beta, agent: str, environment: str, store: str) -> None:
    file = beta.files.upload(file=("notes.txt", b"notes", "text/plain"))
    made = beta.sessions.create(
        agent=agent, environment_id=environment, title="every", resources=[
            {"type": "memory_store", "memory_store_id": store},
            {"type": "github_repository", "url": "https://git.every.example/team/every", "authorization_token": "token-of-every-1f0c9e7b3a52"}])
    assert beta.sessions.retrieve(made.id).title == "every"
    assert beta.sessions.update(made.id, title="changed", metadata={"k": "v"}).title == "changed"
    assert made.id in {session.id for session in beta.sessions.list(limit=1)}
    added = beta.sessions.resources.add(made.id, type="file", file_id=file.id)
    assert beta.sessions.resources.retrieve(added.id, session_id=made.id).id == added.id
    listed = list(beta.sessions.resources.list(made.id, limit=1))
    assert sorted(resource.type for resource in listed) == ["file", "github_repository", "memory_store"]
    repository = next(resource for resource in listed if resource.type == "github_repository")
    rotated = beta.sessions.resources.update(repository.id, session_id=made.id, authorization_token="token-of-every-7d25b8c4e913")
    assert (rotated.id, rotated.mount_path) == (repository.id, "/workspace/every")
    turn(beta, made.id)
    threads(beta, made.id)
    beta.sessions.resources.delete(added.id, session_id=made.id)
    beta.files.delete(file.id)
    beta.sessions.archive(made.id)
    assert beta.sessions.delete(made.id).id == made.id
    other_threads(beta, environment)


def turn(beta, session: str) -> None:
    """A turn over the stream, with previews folded by the SDK's own helper."""
    with beta.sessions.events.stream(session, event_deltas=["agent.message"]) as stream:
        beta.sessions.events.send(session, events=says({"text": "several words to preview"}))
        kinds, message = [], None
        for event in stream:
            kinds.append(event.type)
            message = accumulate_managed_agents_event(message, event)
            if event.type == "session.status_idle":
                break
    assert message.content[0].text == "several words to preview" and "event_delta" in kinds, kinds
    # An SDK older than an event's name leaves it out of its streams.
    named = [kind for kind in kinds if kind not in ("event_start", "event_delta", "session.usage")]
    listed = [event.type for event in beta.sessions.events.list(session, limit=2) if event.type != "session.usage"]
    assert listed[-len(named):] == named, (listed, kinds)


def threads(beta, session: str) -> None:
    primary, = beta.sessions.threads.list(session)
    assert beta.sessions.threads.retrieve(primary.id, session_id=session).id == primary.id
    assert [event.id for event in beta.sessions.threads.events.list(primary.id, session_id=session)] == [
        event.id for event in beta.sessions.events.list(session)]
    with beta.sessions.threads.events.stream(primary.id, session_id=session) as stream:
        beta.sessions.events.send(session, events=says({"text": "again"}))
        assert any(event.type == "session.thread_status_idle" for event in stream)


def other_threads(beta, environment: str) -> None:
    """An agent that works for another, and the end of its thread."""
    scout = beta.agents.create(name="scout", model="rehearsal-1")
    roster = {"multiagent": {"type": "coordinator", "agents": [scout.id]}}
    chief = beta.agents.create(name="chief", model="rehearsal-1", extra_body=roster)
    session = beta.sessions.create(agent=chief.id, environment_id=environment).id
    message = says({"text": "found"})[0]["content"][0]["text"]
    start = {"tool_uses": [{"name": "start_agent", "input": {"agent": "scout", "message": message}}]}
    with beta.sessions.events.stream(session) as stream:
        beta.sessions.events.send(session, events=says(start, {"text": "waiting"}, {"text": "heard"}))
        assert any(event.type == "session.status_idle" for event in stream)
    primary, child = beta.sessions.threads.list(session)
    assert child.parent_thread_id == primary.id
    assert beta.sessions.threads.archive(child.id, session_id=session).archived_at


def vaults(beta) -> None:
    made = beta.vaults.create(display_name="every")
    assert beta.vaults.retrieve(made.id) == made
    assert beta.vaults.update(made.id, display_name="changed").display_name == "changed"
    assert made.id in {vault.id for vault in beta.vaults.list(limit=1)}
    url = f"https://every-{uuid.uuid4()}.example/mcp"
    auth = {"type": "static_bearer", "mcp_server_url": url, "token": "every-bearer-token"}
    credentials = beta.vaults.credentials
    one = credentials.create(made.id, auth=auth)
    assert credentials.retrieve(one.id, vault_id=made.id).id == one.id
    assert credentials.update(one.id, vault_id=made.id, display_name="changed").display_name == "changed"
    assert [credential.id for credential in credentials.list(made.id)] == [one.id]
    assert credentials.archive(one.id, vault_id=made.id).archived_at
    assert credentials.delete(one.id, vault_id=made.id).id == one.id
    oauth = {"type": "mcp_oauth", "mcp_server_url": url, "access_token": "every-access-token"}
    two = credentials.create(made.id, auth=oauth)
    assert credentials.mcp_oauth_validate(two.id, vault_id=made.id).status
    assert beta.vaults.archive(made.id).archived_at
    assert beta.vaults.delete(made.id).id == made.id


def files(beta) -> None:
    made = beta.files.upload(file=("every.txt", b"every byte", "text/plain"))
    assert beta.files.retrieve_metadata(made.id).filename == "every.txt"
    newer = [beta.files.upload(file=(f"newer-{number}.txt", b"newer", "text/plain")) for number in range(2)]
    assert made.id in {file.id for file in beta.files.list(limit=1)}, "over pages, whatever shape they have"
    for file in newer:
        beta.files.delete(file.id)
    assert beta.files.delete(made.id).id == made.id


def outputs(beta, agent: str, environment: str) -> None:
    """What a session writes for its owner comes back as a file that can be fetched."""
    session = beta.sessions.create(agent=agent, environment_id=environment)
    write = {"name": "bash", "input": {"command": "mkdir -p /mnt/session/outputs; echo made > /mnt/session/outputs/made.txt"}}
    with beta.sessions.events.stream(session.id) as stream:
        beta.sessions.events.send(session.id, events=says({"tool_uses": [write]}, {"text": "done"}))
        for event in stream:
            if event.type == "session.status_idle":
                break
    made = None
    while made is None:
        made = next((file for file in beta.files.list(scope_id=session.id) if file.filename.endswith("made.txt")), None)
    assert beta.files.download(made.id).read() == b"made\n"


def skills(beta) -> None:
    slug = f"every-{uuid.uuid4()}"
    text = f"---\nname: {slug}\ndescription: Everything.\n---\nRead.\n".encode()
    made = beta.skills.create(files=[("every/SKILL.md", text)])
    assert beta.skills.retrieve(made.id).id == made.id
    assert made.id in {skill.id for skill in beta.skills.list(limit=1)}
    second = beta.skills.versions.create(made.id, files=[("every/SKILL.md", text + b"Again.\n")])
    versions = list(beta.skills.versions.list(made.id))
    assert len(versions) == 2
    # Before versions had ids to be found by, their names were found in `version`.
    name = getattr(second, "version", None) or second.id
    assert beta.skills.versions.retrieve(name, skill_id=made.id).id == second.id
    assert beta.skills.versions.download(name, skill_id=made.id).read()
    assert beta.skills.versions.delete(name, skill_id=made.id).id == name
    assert beta.skills.delete(made.id).id == made.id


def memory(beta) -> str:
    stores, memories = beta.memory_stores, beta.memory_stores.memories
    made = stores.create(name=f"every {uuid.uuid4().hex}")
    assert stores.retrieve(made.id).id == made.id
    assert stores.update(made.id, description="changed").description == "changed"
    assert made.id in {store.id for store in stores.list(limit=1)}
    one = memories.create(made.id, path="/a.md", content="first")
    assert memories.retrieve(one.id, memory_store_id=made.id, view="full").content == "first"
    memories.update(one.id, memory_store_id=made.id, content="second")
    assert [found.path for found in memories.list(made.id)] == ["/a.md"]
    versions = list(stores.memory_versions.list(made.id, memory_id=one.id))
    oldest = versions[-1]
    assert stores.memory_versions.retrieve(oldest.id, memory_store_id=made.id).id == oldest.id
    assert stores.memory_versions.redact(oldest.id, memory_store_id=made.id).redacted_at
    assert memories.delete(one.id, memory_store_id=made.id).id == one.id
    gone = stores.create(name=f"gone {uuid.uuid4().hex}")
    assert stores.archive(gone.id).archived_at
    assert stores.delete(gone.id).id == gone.id
    return made.id


def deployments(beta, agent: str, environment: str) -> None:
    made = beta.deployments.create(agent=agent, environment_id=environment, name="every", initial_events=says({"text": "done"}))
    assert beta.deployments.retrieve(made.id).id == made.id
    assert beta.deployments.update(made.id, name="changed").name == "changed"
    assert made.id in {deployment.id for deployment in beta.deployments.list(limit=1)}
    assert beta.deployments.pause(made.id).status == "paused"
    assert beta.deployments.unpause(made.id).status == "active"
    run = beta.deployments.run(made.id)
    assert beta.deployment_runs.retrieve(run.id).id == run.id
    assert run.id in {found.id for found in beta.deployment_runs.list(deployment_id=made.id)}
    assert beta.deployments.archive(made.id).archived_at


def tunnels(beta, certificate: str) -> None:
    made = beta.tunnels.create(display_name="every")
    assert beta.tunnels.retrieve(made.id).id == made.id
    assert made.id in {tunnel.id for tunnel in beta.tunnels.list(limit=1)}
    first = beta.tunnels.reveal_token(made.id)
    assert beta.tunnels.rotate_token(made.id).tunnel_token != first.tunnel_token
    trusted = beta.tunnels.certificates.create(made.id, ca_certificate_pem=certificate)
    assert beta.tunnels.certificates.retrieve(trusted.id, tunnel_id=made.id).id == trusted.id
    assert [found.id for found in beta.tunnels.certificates.list(made.id)] == [trusted.id]
    assert beta.tunnels.certificates.archive(trusted.id, tunnel_id=made.id).archived_at
    assert beta.tunnels.archive(made.id).archived_at


def models(beta) -> None:
    first = next(iter(beta.models.list(limit=1)))
    assert beta.models.retrieve(first.id).id == first.id
    assert beta.models.retrieve("rehearsal-latest").id == first.id, "by another name"


def main(base_url: str, api_key: str, environment: str, idle: str, idle_key: str, certificate: str) -> None:
    client = anthropic.Anthropic(base_url=base_url, api_key=api_key, max_retries=0, timeout=60)
    called: set[str] = set()
    beta = Recording(client.beta, "", called)
    worker = Recording(anthropic.Anthropic(base_url=base_url, auth_token=idle_key, max_retries=0, timeout=60).beta, "", called)
    agent, store = agents(beta), memory(beta)
    environments(beta)
    queue(beta, worker, agent, idle)
    sessions(beta, agent, environment, store)
    outputs(beta, agent, environment)
    vaults(beta)
    files(beta)
    skills(beta)
    deployments(beta, agent, environment)
    tunnels(beta, Path(certificate).read_text())
    models(beta)
    has = {method for name in RESOURCES for method in methods(getattr(client.beta, name), name)}
    print(json.dumps({"version": anthropic.__version__, "called": sorted(called), "not_called": sorted(has - called)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
