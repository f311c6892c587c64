"""What a session looks like after something died: its log, the marks that its tool uses left, and what the two say together."""

from __future__ import annotations

from collections import Counter

from anthropic import Anthropic, APIConnectionError, APIStatusError
from conftest import Stack, tool

USES = 6
# What a tool use may be answered with that met the kill: the worker, or a part of the perimeter, was gone.
REASONS = ["outcome unknown", "the sandbox ended during the call", "reason=audit_unavailable", "reason=egress_unavailable",
           "reason=sandbox_unavailable"]


def client_of(stack: Stack) -> Anthropic:
    return Anthropic(base_url=stack.base_url, api_key=stack.api_key, max_retries=0, timeout=10)


def turns() -> list[dict]:
    """Tool uses that leave a mark each, some by bash and some by several at once."""
    plain = [{"text": f"step {n}", "tool_uses": [mark(n)]} for n in range(USES - 2)]
    return [*plain, {"text": "two at once", "tool_uses": [mark(USES - 2), mark(USES - 1)]}, {"text": "finished"}]


def mark(number: int) -> dict:
    return tool("bash", command=f"echo mark-{number} >> marks; sleep 0.05; echo wrote-{number}")


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
