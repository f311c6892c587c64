"""Skills by the official SDK, unmodified: uploaded, versioned, given to agents, read in a session's sandbox. Every body passes the strict
validator."""

from __future__ import annotations

import hashlib
import io
import uuid
import zipfile

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from anthropic.types.beta import skills as skill_types
from conftest import Stack, ended, script, tool, until
from conformance.validator import check, check_page

TOOLSET = {"type": "agent_toolset_20260401"}


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)


def conforming(kind, raw, checked=check):
    body = raw.http_response.content
    assert checked(kind, body) == [], body
    return raw.parse()


def files(name: str, **more: bytes) -> list[tuple[str, bytes]]:
    instructions = f"---\nname: {name}\ndescription: How {name} is done.\n---\nRun scripts/sum.sh.\n".encode()
    return [(f"{name}/SKILL.md", instructions), *((f"{name}/{path}", content) for path, content in more.items())]


def fresh(word: str) -> str:
    return f"{word}-{uuid.uuid4().hex[:8]}"


def results(client: Anthropic, session: str) -> list[str]:
    events = client.beta.sessions.events.list(session)
    return [event.content[0].text for event in events if event.type == "user.tool_result"]


def records(postern: Stack) -> list[str]:
    logs = sorted((postern.data / "perimeter/audit").glob("*.jsonl"))
    return [line for log in logs for line in log.read_text().splitlines()]


def code(refused) -> str | None:
    return refused.value.body["error"].get("details", {}).get("error_code")


def test_every_route_of_skills_and_their_versions(client: Anthropic):
    name = fresh("ledger")
    skills, versions = client.beta.skills.with_raw_response, client.beta.skills.versions.with_raw_response
    made = conforming(types.BetaSkill, skills.create(files=files(name), display_name="The ledger"))
    assert (made.display_name, made.source.type) == ("The ledger", "custom")
    assert conforming(types.BetaSkill, skills.retrieve(made.id)) == made
    assert made.id in [skill.id for skill in conforming(types.BetaSkill, skills.list(source="custom"), check_page)]
    assert conforming(types.BetaSkill, skills.list(source="anthropic"), check_page).data == []
    first = conforming(skill_types.BetaSkillVersion, versions.retrieve("latest", skill_id=made.id))
    assert (first.id, first.name, first.description) == (made.latest_version_id, name, f"How {name} is done.")

    added = conforming(skill_types.BetaSkillVersion, versions.create(made.id, files=files(name, **{"scripts/sum.sh": b"#!/bin/sh\n"})))
    assert client.beta.skills.retrieve(made.id).latest_version_id == added.id
    listed = conforming(skill_types.BetaSkillVersion, versions.list(made.id), check_page)
    assert [version.id for version in listed] == [added.id, first.id]
    assert [version.id for version in client.beta.skills.versions.list(made.id, limit=1)] == [added.id, first.id]
    archive = client.beta.skills.versions.download(added.id, skill_id=made.id).read()
    with zipfile.ZipFile(io.BytesIO(archive)) as unpacked:
        assert unpacked.namelist() == [f"{name}/SKILL.md", f"{name}/scripts/sum.sh"]
        assert unpacked.getinfo(f"{name}/scripts/sum.sh").external_attr >> 16 & 0o777 == 0o755
    with pytest.raises(anthropic.NotFoundError):
        client.beta.skills.versions.download("latest", skill_id=made.id)

    with pytest.raises(anthropic.ConflictError) as taken:
        client.beta.skills.create(files=files(name))
    assert code(taken) == "skill_name_taken"
    with pytest.raises(anthropic.BadRequestError, match="SKILL.md` is missing"):
        client.beta.skills.create(files=[("x/a.txt", b"x")])
    deleted = conforming(skill_types.BetaDeletedSkillVersion, versions.delete(added.id, skill_id=made.id))
    assert deleted.id == added.id
    assert conforming(types.BetaDeletedSkill, skills.delete(made.id)).id == made.id
    with pytest.raises(anthropic.NotFoundError):
        client.beta.skills.retrieve(made.id)


def test_a_sessions_agent_reads_its_skill_runs_it_and_cannot_change_it_boundary(client: Anthropic, postern: Stack):
    name = fresh("ledger")
    script_text = b"#!/bin/sh\necho sum is $(($1 + $2))\n"
    skill = client.beta.skills.create(files=files(name, **{"scripts/sum.sh": script_text, "data/notes.txt": b"plain\n"}))
    agents = client.beta.agents.with_raw_response
    agent = conforming(types.BetaManagedAgentsAgent, agents.create(
        name="skilled", model="rehearsal-1", tools=[TOOLSET], skills=[{"type": "custom", "skill_id": skill.id}]))
    assert [(pinned.skill_id, pinned.version) for pinned in agent.skills] == [(skill.id, skill.latest_version_id)]
    at = f"/mnt/session/skills/{name}"
    turns = [
        tool("read", file_path=f"{at}/SKILL.md"),
        tool("bash", command=f"cd {at} && ./scripts/sum.sh 2 3 && ls -l data/notes.txt"),
        tool("bash", command=f"echo x > {at}/SKILL.md; echo x > {at}/new; rm {at}/data/notes.txt; chmod 777 {at}/SKILL.md; mkdir /mnt/session/skills/other"),
        tool("write", file_path=f"{at}/SKILL.md", content="ours now"),
        tool("bash", command=f"head -1 {at}/SKILL.md"),
    ]
    raw = client.beta.sessions.with_raw_response.create(
        agent=agent.id, environment_id=postern.environment_id,
        initial_events=[{"type": "user.message", "content": script(*({"tool_uses": [turn]} for turn in turns), {"text": "done"})}])
    session = conforming(types.BetaManagedAgentsSession, raw)
    assert [pinned.version for pinned in session.agent.skills] == [skill.latest_version_id]
    until(lambda: ended(client, session.id), 60, "the end of the session")
    instructions, ran, refused, written, kept = results(client, session.id)
    assert f"How {name} is done." in instructions
    assert ran.startswith("sum is 5") and "-rw-r--r--" in ran
    assert refused.count("Read-only file system") == 5
    assert "ours now" not in written and "read" in written.lower(), written
    assert kept == "---"
    archive = client.beta.skills.versions.download(skill.latest_version_id, skill_id=skill.id).read()
    digest = "sha256:" + hashlib.sha256(archive).hexdigest()
    assert any('"file_put"' in line and at in line and digest in line and session.id in line for line in records(postern))


def test_a_follow_up_still_has_the_skill(client: Anthropic, postern: Stack):
    name = fresh("told")
    skill = client.beta.skills.create(files=files(name))
    agent = client.beta.agents.create(
        name="skilled", model="rehearsal-1", tools=[TOOLSET], skills=[{"type": "custom", "skill_id": skill.id}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id)
    for turn in range(2):
        client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": script(
            {"tool_uses": [tool("bash", command=f"head -3 /mnt/session/skills/{name}/SKILL.md")]}, {"text": "done"})}])
        until(lambda: len(results(client, session.id)) > turn and ended(client, session.id), 60, "the end of a turn")
        assert f"How {name} is done." in results(client, session.id)[-1]


def test_a_skill_that_went_away_is_named_to_the_model_and_the_session_goes_on(client: Anthropic, postern: Stack):
    gone, there = client.beta.skills.create(files=files(fresh("gone"))), client.beta.skills.create(files=files(name := fresh("there")))
    agent = client.beta.agents.create(
        name="skilled", model="rehearsal-1", tools=[TOOLSET],
        skills=[{"type": "custom", "skill_id": gone.id}, {"type": "custom", "skill_id": there.id}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id)
    client.beta.skills.delete(gone.id)
    client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": script(
        {"tool_uses": [tool("bash", command="ls /mnt/session/skills")]}, {"text": "done"})}])
    until(lambda: ended(client, session.id) and results(client, session.id), 60, "the end of the turn")
    result, = results(client, session.id)
    assert result.startswith(name) and f"[postern] skill not there skill={gone.id}" in result
    with pytest.raises(anthropic.NotFoundError) as refused:
        client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id)
    assert code(refused) == "skill_not_found"


def test_agents_name_only_skills_that_are_here(client: Anthropic):
    def create(**definition):
        return client.beta.agents.create(name="skilled", model="rehearsal-1", **definition)

    skill = client.beta.skills.create(files=files(fresh("named")))
    named = {"type": "custom", "skill_id": skill.id}
    with pytest.raises(anthropic.BadRequestError, match="skills need the `read` tool"):
        create(skills=[named])
    with pytest.raises(anthropic.BadRequestError, match="ships no skills"):
        create(tools=[TOOLSET], skills=[{"type": "anthropic", "skill_id": "xlsx"}])
    with pytest.raises(anthropic.NotFoundError) as unknown:
        create(tools=[TOOLSET], skills=[{"type": "custom", "skill_id": "skill_none"}])
    assert code(unknown) == "skill_not_found"
    with pytest.raises(anthropic.BadRequestError, match="at most 20"):
        create(tools=[TOOLSET], skills=[named] * 21)
    agent = create(tools=[TOOLSET], skills=[named])
    updated = client.beta.agents.update(agent.id, version=1, skills=None)
    assert updated.skills == []
