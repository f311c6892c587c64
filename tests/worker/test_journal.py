"""What a worker cannot note down does not run. For root alone: a disk that is full is mounted for it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from anthropic import Anthropic
from conftest import Stack, script, tool, until
from control import results
from full_disk import fill


@pytest.fixture
def stack(new_stack) -> Iterator[Stack]:
    """A stack whose sessions lie on a small disk of their own."""
    stack: Stack = new_stack()
    stack.stop()
    sessions = stack.data / "perimeter/work"
    sessions.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0711", "sessions", sessions], check=True)
    try:
        yield stack.start()
        stack.stop()
    finally:
        subprocess.run(["umount", "--lazy", sessions], check=True)


def run(stack: Stack, session: str, *commands: str) -> list[str]:
    """What came of these commands, one after the other, in a session that goes on."""
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    before = len(results(client, session))
    turns = [{"tool_uses": [tool("bash", command=command)]} for command in commands]
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns)}])
    until(lambda: len(results(client, session)) == before + len(commands), 60, "the results")
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", 60, "the end of the turn")
    return results(client, session)[before:]


def test_a_tool_use_that_cannot_be_journaled_does_not_run_and_the_journal_reads_on_afterwards(stack: Stack):
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="full", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}]).id
    session = client.beta.sessions.create(agent=agent, environment_id=stack.environment_id).id
    assert "first" in run(stack, session, "echo first")[0]
    workspace = stack.data / "perimeter/work" / session / "workspace"
    filler = fill(workspace)
    # What is left of the journal's last block takes a few lines more.
    answers = run(stack, session, *[f"touch ran-{number}" for number in range(40)])
    refused = [number for number, answer in enumerate(answers) if "cannot write its journal" in answer]
    assert refused and all("Next step" in answers[number] for number in refused), answers
    assert not [number for number in refused if (workspace / f"ran-{number}").exists()]
    filler.unlink()
    assert "again" in run(stack, session, "echo again")[0]
    stack.stop()
    stack.start()
    assert "after" in run(stack, session, "echo after")[0]
