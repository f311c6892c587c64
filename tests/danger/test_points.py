"""The stack dies at instrumented points of a test-only build: before and after a commit, an answer, a request to the model, a line of the
worker's journal, a posted result, a record. The session goes on from there: nothing acknowledged is lost, nothing done twice.

POSTERN_PASSINGS says how many passings of each point are tried; a long run tries hundreds, under another POSTERN_SEED.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest
from aftermath import check, client_of, marks, ready_client, recorded, settled, turns
from anthropic import Anthropic, APIConnectionError, APIStatusError
from conftest import Stack, placed, script, until

PASSINGS = int(os.environ.get("POSTERN_PASSINGS", "2"))
SEED = int(os.environ.get("POSTERN_SEED", "20261128"))
FILE = "postern-danger-off"
# A worker that does not hear that its claim was acknowledged leaves it to its lease: 90 s of a living server, and the look for it.
SETTLED_SECONDS = 150
# How often a session of these turns passes each point, from the start of the process on.
POINTS = {
    "commit.before": 20, "commit.after": 20, "answer.before": 12, "answer.after": 12, "model.before": 6, "model.after": 6,
    "journal.before": 18, "journal.after": 18, "post.before": 6, "post.after": 6, "record.before": 14, "record.after": 14,
}


def cases() -> list[tuple[str, int]]:
    instants = random.Random(SEED)
    return [(point, passing) for point, most in POINTS.items()
            for passing in sorted(instants.sample(range(1, most + 1), min(PASSINGS, most)))]


@pytest.fixture(scope="module")
def stack(new_stack, danger: Path, tmp_path_factory) -> Stack:
    stack = new_stack()
    stack.stop()
    # The binary that can die, over a directory that the one that ships has made.
    stack.binary = str(placed(danger, tmp_path_factory.mktemp("danger")))
    stack.start()
    return stack


@pytest.fixture(scope="module")
def agent(stack: Stack) -> str:
    return client_of(stack).beta.agents.create(name="dies", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}]).id


def answered(act):
    """What an act is answered, by a server that may die meanwhile and come back; for acts that can be repeated."""
    def once():
        try:
            return act()
        except (APIConnectionError, APIStatusError):
            return None
    return until(once, SETTLED_SECONDS, "an answer")


def session_of(stack: Stack, agent: str, key: str, **more) -> str:
    # A key of its own makes a creation one that can be repeated.
    return answered(lambda: client_of(stack).beta.sessions.create(
        agent=agent, environment_id=stack.environment_id, extra_headers={"idempotency-key": key}, **more)).id


def say(stack: Stack, session: str, played: list[dict] | None = None) -> str:
    """Sends the script, with a key of its own as often as it takes; returns the event's id."""
    message = {"type": "user.message", "content": script(*(played or turns()))}
    return answered(lambda: client_of(stack).beta.sessions.events.send(
        session, events=[message], extra_headers={"idempotency-key": session}).data[0].id)


def start_to_die(stack: Stack) -> None:
    """A death before the stack is ready is found by whoever starts it: again, as an operator would."""
    try:
        stack.start()
    except AssertionError:
        stack.kill()
        stack.start()


@pytest.mark.parametrize(("point", "passing"), cases())
def test_a_death_at_any_point_loses_and_doubles_nothing(stack: Stack, agent: str, point: str, passing: int):
    file = Path(stack.binary).with_name(FILE)
    stack.stop()
    file.write_text(f"die {point} {passing}")
    start_to_die(stack)
    session = session_of(stack, agent, f"{point} {passing}")
    message = say(stack, session)
    client: Anthropic = until(lambda: ready_client(stack), what="a server that answers")
    events = until(lambda: settled(client, session), SETTLED_SECONDS, f"the end of the session after {point} {passing}")
    assert file.read_text().startswith("#"), f"nothing died: fewer than {passing} passings of {point}"
    check(events, message, marks(stack, session))
    assert sum(marks(stack, session).values()) <= recorded(stack, session), "something ran that is not on record"
    mine = [one for one in client.beta.sessions.list(limit=100).data if one.agent.id == agent]
    assert len([one for one in mine if one.id == session]) == 1
