"""What sessions say, encrypted where the server stores it: no word in the database's files, and no start without the key."""

from __future__ import annotations

import secrets
import subprocess
import tempfile
from pathlib import Path

import pytest
from aftermath import client_of, settled
from conftest import BINARY, Stack, model_section, script, tool, until

SECONDS = 60


@pytest.fixture
def directory() -> Path:
    return Path(tempfile.mkdtemp(prefix="postern-event-keys-"))


def write_keys(directory: Path, *keys: str) -> None:
    file = directory / "events.key"
    file.write_text("".join(f"{key}\n" for key in keys))
    file.chmod(0o600)


def said(stack: Stack, session: str) -> str:
    events = list(client_of(stack).beta.sessions.events.list(session, limit=1000))
    return " ".join(event.to_json() for event in events)


def in_files(stack: Stack, word: str) -> list[str]:
    files = [file for file in (stack.data / "control").rglob("*") if file.is_file()]
    return [file.name for file in files if word.encode() in file.read_bytes()]


def test_no_word_of_a_session_lies_in_the_database_and_it_opens_with_its_keys_alone(rehearsal: dict, directory: Path):
    word, old, new = f"canary{secrets.token_hex(8)}", secrets.token_hex(32), secrets.token_hex(32)
    plain = model_section(rehearsal)
    config = plain + '[server]\nevent_key_file = "events.key"\n'
    write_keys(directory, old)
    stack = Stack(directory, config).start()
    try:
        client = client_of(stack)
        agent = client.beta.agents.create(name="discreet", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}]).id
        session = client.beta.sessions.create(agent=agent, environment_id=stack.environment_id).id
        # In a message, in the model's words, in a tool's input and in its result.
        turns = [{"text": f"I say {word}", "tool_uses": [tool("bash", command=f"echo {word}")]}, {"text": f"again {word}"}]
        client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns)}])
        until(lambda: settled(client, session), SECONDS, "the session's rest")
        assert said(stack, session).count(word) >= 4
        # The log of writes lies beside the database while the server runs.
        assert in_files(stack, word) == []
        assert stack.stop() == 0
        assert in_files(stack, word) == []

        for text, keys in ((plain, [old]), (config, [new])):
            write_keys(directory, *keys)
            (directory / "postern.toml").write_text(text)
            command = [BINARY, "up", "--config", "postern.toml", "--data-dir", str(stack.data), "--listen", "127.0.0.1:0"]
            refused = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=SECONDS, check=False)
            assert refused.returncode == 2, refused.stderr
            assert "event_key_file names, below the key in use" in refused.stderr

        write_keys(directory, new, old)
        stack.start()
        assert said(stack, session).count(word) >= 4
    finally:
        stack.kill()
