"""What cannot be put on record does not run. For root alone: a disk that is full is mounted for the audit log."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest
from anthropic import Anthropic
from conftest import Stack, script, tool, until
from control import results
from full_disk import fill


# What a tool use says that was not put on record.
REFUSED = "[postern] not run reason=audit_unavailable next=an operator repairs the audit log or its disk"


@pytest.fixture
def stack(new_stack) -> Iterator[Stack]:
    """A stack whose audit log lies on a small disk of its own."""
    stack: Stack = new_stack()
    stack.stop()
    log = stack.data / "perimeter/audit"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m,mode=0700", "audit", log], check=True)
    try:
        yield stack.start()
        stack.stop()
    finally:
        subprocess.run(["umount", "--lazy", log], check=True)


def test_a_tool_use_that_cannot_be_put_on_record_does_not_run_and_the_operator_reads_why(stack: Stack):
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="full", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}]).id
    session = client.beta.sessions.create(agent=agent, environment_id=stack.environment_id).id

    def say(*commands: str) -> None:
        turns = [{"tool_uses": [tool("bash", command=command)]} for command in commands]
        client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns)}])

    say("echo first")
    until(lambda: len(results(client, session)) == 1, 60, "the first result")
    assert "first" in results(client, session)[0]
    workspace = stack.data / "perimeter/work" / session / "workspace"
    filler = fill(stack.data / "perimeter/audit")
    # What is left of the log's last block takes a few records more.
    say(*[f"touch ran-{number}" for number in range(40)])
    until(lambda: len(results(client, session)) == 41, 60, "the other results")
    answers = results(client, session)[1:]
    refused = [number for number, answer in enumerate(answers) if REFUSED in answer]
    assert refused, answers
    assert not [number for number in refused if (workspace / f"ran-{number}").exists()]
    assert "the audit log cannot be written" in stack.log.read_text() and "free space" in stack.log.read_text()
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", 60, "the end of the turn")

    filler.unlink()
    say("echo again")
    until(lambda: len(results(client, session)) == 42, 60, "the last result")
    assert "again" in results(client, session)[-1]
    stack.stop()
    verified = subprocess.run(
        [stack.binary, "audit", "verify", "--data-dir", stack.data], capture_output=True, text=True, check=False)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    stack.start()
