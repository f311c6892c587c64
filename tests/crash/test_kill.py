"""kill -9 of the whole stack, of the server, of the worker and of each process of the perimeter, at random instants of running sessions.

After each one: no acknowledged event is lost, no result and no side effect is doubled, every tool use is answered, and
the session reaches idle with end_turn, or says why not. A session that a kill found running is going on again before the
next kill, and its end may meet that one too: kills during recovery are part of the test.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

import pytest
from anthropic import Anthropic, APIConnectionError, APIStatusError
from conftest import Stack, script, tool, until

KILLS = int(os.environ.get("POSTERN_KILLS", "20"))
SEED = int(os.environ.get("POSTERN_SEED", "20261122"))
USES = 6
SETTLED_SECONDS = 90
# What a tool use may be answered with that met the kill: the worker, or a part of the perimeter, was gone.
REASONS = ["outcome unknown", "the sandbox ended during the call", "reason=audit_unavailable", "reason=egress_unavailable",
           "reason=sandbox_unavailable"]
PERIMETER = ["spawner", "audit", "custody", "egress"]


@pytest.fixture(scope="module")
def stack(new_stack) -> Stack:
    return new_stack()


@pytest.fixture(scope="module")
def agent(stack: Stack) -> str:
    client = client_of(stack)
    return client.beta.agents.create(name="crash", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}]).id


def client_of(stack: Stack) -> Anthropic:
    return Anthropic(base_url=stack.base_url, api_key=stack.api_key, max_retries=0, timeout=10)


def pid_of(stack: Stack, role: str) -> int:
    """The process that was started as this role; -1 while it is being started again."""
    for pid in stack.pids():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if arguments[1:2] == [role.encode()] and len(arguments) <= 3:
            return pid
    return -1


def kill_whole(stack: Stack) -> None:
    stack.kill()
    stack.start()


def kill_role(role: str):
    def kill(stack: Stack) -> None:
        pid = until(lambda: max(pid_of(stack, role), 0), what=f"a {role} to kill")
        os.kill(pid, signal.SIGKILL)
    return kill


def turns() -> list[dict]:
    """Tool uses that leave a mark each, some by bash and some by several at once."""
    plain = [{"text": f"step {n}", "tool_uses": [mark(n)]} for n in range(USES - 2)]
    return [*plain, {"text": "two at once", "tool_uses": [mark(USES - 2), mark(USES - 1)]}, {"text": "finished"}]


def mark(number: int) -> dict:
    return tool("bash", command=f"echo mark-{number} >> marks; sleep 0.05; echo wrote-{number}")


def acknowledged_send(client: Anthropic, session: str) -> str:
    """Sends the script; returns the id of the event that the server acknowledged."""
    sent = client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns())}])
    return sent.data[0].id


def settled(client: Anthropic, session: str):
    """The whole log once the session is idle for good."""
    try:
        if client.beta.sessions.retrieve(session).status != "idle":
            return None
        events = list(client.beta.sessions.events.list(session, limit=1000))
    except (APIConnectionError, APIStatusError):
        return None
    over = events and events[-1].type == "session.status_idle" and events[-1].stop_reason.type != "requires_action"
    return events if over else None


def marks(stack: Stack, session: str) -> Counter:
    file = stack.data / "perimeter/work" / session / "workspace/marks"
    return Counter(file.read_text().split()) if file.exists() else Counter()


def recorded(stack: Stack, session: str) -> int:
    """How many of the session's tool uses the audit log has: each is written before it runs."""
    lines = [line for file in (stack.data / "perimeter/audit").glob("*.jsonl") for line in file.read_text().splitlines()]
    return len([line for line in lines if session in line and '"tool_use"' in line and '"allow"' in line])


@pytest.mark.parametrize("what", ["whole", "server", "worker", *PERIMETER])
def test_nothing_is_lost_or_doubled(stack: Stack, agent: str, what: str):
    kill = kill_whole if what == "whole" else kill_role(what)
    kills = max(KILLS // 4, 1) if what in PERIMETER else KILLS
    instants = random.Random(f"{SEED}-{what}")
    sessions: dict[str, str] = {}
    recoveries: list[float] = []
    for _ in range(kills):
        client = until(lambda: ready_client(stack), what="a server that answers")
        session = client.beta.sessions.create(agent=agent, environment_id=stack.environment_id).id
        sessions[session] = acknowledged_send(client, session)
        time.sleep(instants.uniform(0.0, 0.9))  # the instant under test, not a synchronisation
        before = progress(client, session)
        kill(stack)
        killed = time.monotonic()
        client = client_of(stack)
        until(lambda: progress(client, session) > before or settled(client, session), SETTLED_SECONDS,
              f"{what}: session {session} going on after its kill")
        recoveries.append(time.monotonic() - killed)
    client = until(lambda: ready_client(stack), what="a server that answers")
    outcomes = Counter()
    for session, message in sessions.items():
        events = until(lambda: settled(client, session), SETTLED_SECONDS, f"{what}: the end of session {session}")
        outcomes[check(events, message, marks(stack, session))] += 1
        assert sum(marks(stack, session).values()) <= recorded(stack, session), "something ran that is not on record"
    recoveries.sort()
    print(f"{what}: {dict(outcomes)}; going on after {recoveries[len(recoveries) // 2]:.1f} s, at worst {recoveries[-1]:.1f} s")
    assert sum(outcomes.values()) == kills


def progress(client: Anthropic, session: str) -> int:
    """How many events the session has; -1 while nobody says."""
    try:
        return len(client.beta.sessions.events.list(session, limit=1000).data)
    except (APIConnectionError, APIStatusError):
        return -1


def ready_client(stack: Stack) -> Anthropic | None:
    client = client_of(stack)
    try:
        client.beta.agents.list(limit=1)
    except (APIConnectionError, APIStatusError):
        return None
    return client


def check(events: list, message: str, side_effects: Counter) -> str:
    ids = Counter(event.id for event in events)
    assert max(ids.values()) == 1, f"an event is stored twice: {ids.most_common(3)}"
    assert message in ids, "an acknowledged event is gone"
    uses = [event.id for event in events if event.type == "agent.tool_use"]
    answers = Counter(event.tool_use_id for event in events if event.type in ("user.tool_result", "agent.tool_result"))
    assert set(answers) == set(uses), "a tool use has no answer"
    assert max(answers.values(), default=0) <= 1, "a tool use has two answers"
    assert max(side_effects.values(), default=0) <= 1, f"a side effect was doubled: {side_effects}"
    reason = events[-1].stop_reason.type
    if reason != "end_turn":
        assert [event for event in events if event.type == "session.error"], f"idle with {reason} without saying why"
        return reason
    failed = [event.content[0].text for event in events if event.type == "user.tool_result" and event.is_error]
    reasons = {next((reason for reason in REASONS if reason in text), text) for text in failed}
    assert reasons <= set(REASONS), f"a tool use failed without a reason: {reasons}"
    assert len(side_effects) >= USES - len(failed), "a result was given for a side effect that is not there"
    return ", ".join(["end_turn", *sorted(reasons)])
