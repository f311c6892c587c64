"""The real stack for journeys: `postern up` with a rehearsal model, driven by the official SDK."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BINARY = os.environ.get("POSTERN_BINARY", str(Path(__file__).parent.parent / "target/debug/postern"))
START_SECONDS = 60
STOP_SECONDS = 40


def first_json_line(process: subprocess.Popen, log: Path) -> dict:
    """The one line that a command prints when everything is ready; a command that dies shows its log."""
    line = process.stdout.readline()
    if not line:
        process.wait(timeout=START_SECONDS)
        raise AssertionError(f"ended with {process.returncode} before it was ready:\n{log.read_text()[-4000:]}")
    return json.loads(line)


@dataclass
class Stack:
    """A running `postern up`, its data directory, and the model it talks to."""

    directory: Path
    config: str
    arguments: list[str] = field(default_factory=list)
    ready: dict = field(default_factory=dict)
    process: subprocess.Popen | None = None
    keys: dict = field(default_factory=dict)

    @property
    def base_url(self) -> str:
        return self.ready["base_url"]

    @property
    def api_key(self) -> str:
        return self.keys["api_key"]

    @property
    def environment_key(self) -> str:
        return self.keys["environment_key"]

    @property
    def environment_id(self) -> str:
        return self.ready["environment_id"]

    @property
    def log(self) -> Path:
        return self.directory / "log"

    @property
    def data(self) -> Path:
        return self.directory / "data"

    def start(self) -> "Stack":
        (self.directory / "postern.toml").write_text(self.config)
        # The port of the first start is kept, so that clients find a restarted server where it was.
        listen = self.ready["base_url"].removeprefix("http://") if self.ready else "127.0.0.1:0"
        command = [BINARY, "up", "--json", "--config", "postern.toml", "--data-dir", str(self.data), "--listen", listen]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command + self.arguments, cwd=self.directory, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, env=os.environ | {"ANTHROPIC_API_KEY": "rehearsal-key-not-a-secret"},
            )
        self.ready = first_json_line(self.process, self.log)
        self.keys.update({k: v for k, v in self.ready.items() if k.endswith("_key") and v})
        return self

    def stop(self) -> int:
        """SIGTERM, which drains; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9 of every process of the stack at once."""
        for pid in self.pids():
            with_suppressed_kill(pid)
        self.process.wait(timeout=STOP_SECONDS)
        self.process.stdout.close()

    def pids(self) -> list[int]:
        """The supervisor and all its descendants, supervisor first."""
        return [self.process.pid, *descendants(self.process.pid)]


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def descendants(pid: int) -> list[int]:
    found = []
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        tasks = [p.name for p in Path(f"/proc/{pid}/task").iterdir() if p.name != str(pid)]
        for task in tasks:
            children += Path(f"/proc/{pid}/task/{task}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return found
    for child in children:
        found += [int(child), *descendants(int(child))]
    return found


def until(condition, seconds: float = 30.0, what: str = "the condition"):
    """Polls until `condition()` is truthy and returns that value; a bounded wait, never a fixed sleep."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not hold within {seconds} s")


@pytest.fixture(scope="session")
def rehearsal() -> Iterator[dict]:
    """A rehearsal model: `{"url": ...}`."""
    log = Path(tempfile.mkstemp(prefix="postern-rehearsal-")[1])
    with log.open("wb") as stderr:
        process = subprocess.Popen([BINARY, "rehearsal", "--listen", "127.0.0.1:0"], stdout=subprocess.PIPE, stderr=stderr)
    try:
        yield first_json_line(process, log)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.unlink()


def model_section(rehearsal: dict) -> str:
    return f'config = 1\n[model]\nurl = "{rehearsal["url"]}"\ndefault = "rehearsal-1"\n'


@pytest.fixture(scope="session")
def new_stack(rehearsal: dict) -> Iterator:
    """`new_stack(zones="", arguments=[])` starts a stack of its own in a new directory."""
    stacks: list[Stack] = []

    def make(zones: str = "", arguments: list[str] | None = None) -> Stack:
        directory = Path(tempfile.mkdtemp(prefix="postern-journey-"))
        stack = Stack(directory, model_section(rehearsal) + zones, arguments or [])
        stacks.append(stack)
        return stack.start()

    yield make
    for stack in stacks:
        if stack.process and stack.process.poll() is None:
            stack.kill()
        shutil.rmtree(stack.directory, ignore_errors=True)


@pytest.fixture(scope="session")
def postern(new_stack) -> Stack:
    """One stack that journeys share when they need no other configuration."""
    return new_stack()


def script(*turns: dict) -> list[dict]:
    """Content of a user message that makes the rehearsal model play these turns."""
    return [{"type": "text", "text": "rehearse: " + json.dumps(list(turns))}]


def tool(name: str, **arguments) -> dict:
    return {"name": name, "input": arguments}


API_HOST = "api.ledger.internal"
API_TOKEN = "journey-token-5f0c1b7e9d2a4c68"


@pytest.fixture(scope="session")
def private_api() -> Iterator[dict]:
    """A private HTTPS API under `API_HOST` that wants `API_TOKEN`: `{"address": ..., "ca_pem": ...}`."""
    log = Path(tempfile.mkstemp(prefix="postern-private-api-")[1])
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [BINARY, "rehearsal", "--private-api", API_HOST], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    process.stdin.write(API_TOKEN.encode())
    process.stdin.close()
    try:
        yield first_json_line(process, log)["private_api"]
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        log.unlink()


@pytest.fixture(scope="session")
def stack_with_api(new_stack, private_api: dict) -> Stack:
    """A stack whose zone grants the private API's token, from a file source."""
    directory = Path(tempfile.mkdtemp(prefix="postern-api-"))
    (directory / "ca.pem").write_text(private_api["ca_pem"])
    (directory / "token").write_text(API_TOKEN)
    (directory / "token").chmod(0o600)
    return new_stack(f"""
[zone.ledger]
environment = "default"
[[zone.ledger.credential]]
name = "ledger-api"
source = "file:{directory}/token"
env = "LEDGER_API_KEY"
inject = [{{ header = "authorization" }}]
[[zone.ledger.egress]]
host = "{API_HOST}"
ports = [443]
methods = ["GET", "POST"]
paths = ["/v1/**"]
credential = "ledger-api"
connect = "{private_api["address"]}"
addresses = ["127.0.0.0/8"]
ca_file = "{directory}/ca.pem"
""")


def results_of(stack: Stack, *tool_uses: dict) -> list[str]:
    """The texts that these tool uses of one session came to."""
    from anthropic import Anthropic

    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="journey", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id).id
    turn = {"tool_uses": list(tool_uses)}
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(turn, {"text": "done"})}])
    until(lambda: client.beta.sessions.retrieve(session).status == "idle" and ended(client, session), 60, "the end of the turn")
    events = list(client.beta.sessions.events.list(session, limit=1000))
    texts = {event.tool_use_id: "\n".join(block.text for block in event.content or [] if block.type == "text")
             for event in events if event.type == "user.tool_result"}
    return [texts[event.id] for event in events if event.type == "agent.tool_use"]


def ended(client, session: str) -> bool:
    last = client.beta.sessions.events.list(session, order="desc", limit=1).data
    return bool(last) and last[0].type == "session.status_idle" and last[0].stop_reason.type == "end_turn"
