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
from anthropic import Anthropic
from aftermath import check, client_of, marks, progress, ready_client, recorded, settled, turns
from conftest import Stack, script, until

KILLS = int(os.environ.get("POSTERN_KILLS", "20"))
SEED = int(os.environ.get("POSTERN_SEED", "20261122"))
# A worker that does not hear that its claim was acknowledged leaves it to its lease: 90 s of a living server, and the look for it.
SETTLED_SECONDS = 150
PERIMETER = ["spawner", "audit", "custody", "egress"]


@pytest.fixture(scope="module")
def stack(new_stack) -> Stack:
    return new_stack()


@pytest.fixture(scope="module")
def agent(stack: Stack) -> str:
    client = client_of(stack)
    return client.beta.agents.create(name="crash", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}]).id


def pid_of(stack: Stack, role: str) -> int:
    """The process that was started as this role, with its level and format of logs; -1 while it is being started again."""
    for pid in stack.pids():
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if arguments[1:2] == [role.encode()] and len(arguments) <= 4:
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


def acknowledged_send(client: Anthropic, session: str) -> str:
    """Sends the script; returns the id of the event that the server acknowledged."""
    sent = client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns())}])
    return sent.data[0].id


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
