"""The model's key: in the server's memory and on the way to the endpoint, and nowhere else."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest
from anthropic import Anthropic
from conftest import Stack, in_proc, script, until

KEY = b"rehearsal-key-not-a-secret"
TOOLSET = {"type": "agent_toolset_20260401"}


@pytest.mark.parametrize("turn", [
    {"text": "hello"},
    {"error": {"status": 401, "type": "authentication_error"}},
    {"error": {"status": 400, "type": "invalid_request_error"}},
])
def test_the_model_key_is_in_no_file_no_answer_and_no_command_line(postern: Stack, turn: dict):
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key)
    agent = client.beta.agents.create(name="key", model="rehearsal-1", tools=[TOOLSET])
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id).id
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(turn)}])

    def finished() -> list:
        events = client.beta.sessions.events.list(session).data
        return [event for event in events if event.type == "session.status_idle"]

    until(finished, what="the end of the turn")
    answers = client.beta.sessions.events.with_raw_response.list(session).http_response.content
    needles = [KEY, base64.b64encode(KEY).rstrip(b"="), KEY.hex().encode()]
    places = {"answers": answers, "log": postern.log.read_bytes()}
    for file in postern.data.rglob("*"):
        if file.is_file():
            places[str(file)] = file.read_bytes()
    for pid in postern.pids():
        places[f"command line of {pid}"] = in_proc(f"{pid}/cmdline").encode()
    assert any(name.endswith("postern.sqlite") for name in places), "the database was searched"
    for name, content in places.items():
        for needle in needles:
            assert needle not in content, f"the model key is in {name}"


def test_only_the_supervisor_has_the_model_key_in_its_environment(postern: Stack):
    supervisor, *children = postern.pids()
    assert children, "there are roles to look at"
    for pid in children:
        try:
            environment = Path(f"/proc/{pid}/environ").read_bytes()
        except (FileNotFoundError, ProcessLookupError):
            continue
        assert KEY not in environment, f"the environment of {pid} has the model key"
