"""What journeys of the control stream share: our own routes, and sessions that are asked for tool uses."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from anthropic import Anthropic
from conftest import Stack, script, until

BETA = "managed-agents-2026-04-01"


def call(stack: Stack, method: str, path: str, key: str | None = None) -> tuple[int, dict]:
    """A request of our own routes: status and JSON."""
    headers = {"authorization": f"Bearer {key or stack.api_key}", "anthropic-beta": BETA}
    request = urllib.request.Request(stack.base_url + path, method=method, headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as refused:
        return refused.code, json.load(refused)


def begin(stack: Stack, *uses: dict) -> tuple[Anthropic, str]:
    """A session that is asked for these tool uses: the client and its id."""
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="control", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id)
    send(client, session.id, *uses)
    return client, session.id


def send(client: Anthropic, session: str, *uses: dict) -> None:
    content = script({"tool_uses": list(uses)}, {"text": "done"})
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": content}])


def results(client: Anthropic, session: str) -> list[str]:
    events = client.beta.sessions.events.list(session)
    texts = []
    for event in events:
        if event.type in ("agent.tool_result", "user.tool_result"):
            texts.append("".join(block.text for block in event.content if block.type == "text"))
    return texts


def result(client: Anthropic, session: str, number: int, seconds: float = 30) -> str:
    return until(lambda: len(got := results(client, session)) >= number and got[number - 1], seconds, f"result {number}")
