"""The real stack for journeys: `postern up` with a rehearsal model, driven by the official SDK."""

from __future__ import annotations

import base64
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

BINARY = os.environ.get("POSTERN_BINARY", str(Path(__file__).parent.parent / "target/debug/postern"))
# Where it is noted which client asked for which route: tests/conformance/report.py makes a report of it.
NOTES = os.environ.get("POSTERN_CONFORMANCE")
START_SECONDS = 60
STOP_SECONDS = 40


def first_json_line(process: subprocess.Popen, log: Path) -> dict:
    """The one line that a command prints when everything is ready; a command that dies shows its log."""
    line = process.stdout.readline()
    if not line:
        process.wait(timeout=START_SECONDS)
        raise AssertionError(f"ended with {process.returncode} before it was ready:\n{log.read_text()[-4000:]}")
    return json.loads(line)


def port_to_keep() -> int:
    """A free port that no outgoing connection is given: the kernel takes those from 32768 on, also while a server is away."""
    while True:
        port = random.randrange(20000, 32000)
        with socket.socket() as attempt:
            try:
                attempt.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


def placed(binary: Path, directory: Path) -> Path:
    """The binary in a directory where files beside it say what it is to do: linked, since each copy would be 200 MB."""
    there = directory / "postern"
    try:
        there.hardlink_to(binary)
    except OSError:  # another file system
        shutil.copy(binary, there)
    return there


@dataclass
class Stack:
    """A running `postern up`, its data directory, and the model it talks to."""

    directory: Path
    config: str
    arguments: list[str] = field(default_factory=list)
    ready: dict = field(default_factory=dict)
    process: subprocess.Popen | None = None
    keys: dict = field(default_factory=dict)
    binary: str = BINARY

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
        listen = self.ready["base_url"].removeprefix("http://") if self.ready else f"127.0.0.1:{port_to_keep()}"
        log_level = ["--log", "debug", "--log-format", "json"] if NOTES else []
        command = [self.binary, "up", *log_level, "--json", "--config", "postern.toml", "--data-dir", str(self.data), "--listen", listen]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                command + self.arguments, cwd=self.directory, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True, env=os.environ | {"ANTHROPIC_API_KEY": "rehearsal-key-not-a-secret"},
            )
        self.ready = first_json_line(self.process, self.log)
        self.keys.update({k: v for k, v in self.ready.items() if k.endswith("_key") and v})
        if NOTES and not (Path(NOTES) / "openapi.json").exists():
            keep_description(self)
        return self

    def stop(self) -> int:
        """SIGTERM, which drains; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=STOP_SECONDS)
        finally:
            self.kill()

    def kill(self) -> None:
        """kill -9 of every process of the stack at once; returns when none of them holds anything any more."""
        pids = self.pids()
        for pid in pids:
            with_suppressed_kill(pid)
        self.process.wait(timeout=STOP_SECONDS)
        until(lambda: not any(is_running(pid) for pid in pids), STOP_SECONDS, "the end of every killed process")
        self.process.stdout.close()

    def pids(self) -> list[int]:
        """The supervisor and all its descendants, supervisor first."""
        return [self.process.pid, *descendants(self.process.pid)]


def keep_description(stack: Stack) -> None:
    """The table of routes, as the server describes it."""
    headers = {"authorization": f"Bearer {stack.api_key}"}
    with urllib.request.urlopen(urllib.request.Request(stack.base_url + "/openapi.json", headers=headers), timeout=10) as answer:
        (Path(NOTES) / "openapi.json").write_bytes(answer.read())


def keep_notes(stack: Stack) -> None:
    """Which client was answered on which route, from the server's log."""
    with stack.log.open(errors="replace") as log, (Path(NOTES) / "answered.jsonl").open("a") as notes:
        notes.writelines(line for line in log if '"message":"answered"' in line)


def with_suppressed_kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def is_running(pid: int) -> bool:
    """Whether the process is there and may hold files: a zombie without other threads does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        return state not in "ZX" or len(list(Path(f"/proc/{pid}/task").iterdir())) > 1
    except (FileNotFoundError, ProcessLookupError):
        return False


def in_proc(path: Path | str) -> str:
    """A file of a process or thread; nothing of one that has ended."""
    try:
        return Path("/proc", path).read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def role_of(pid: int) -> str:
    """The role that a process of ours has."""
    return (in_proc(f"{pid}/cmdline").split("\0") + [""])[1]


def threads_of(pid: int) -> list[str]:
    """Its threads' directories below /proc; none of a process that has ended."""
    try:
        return [f"{pid}/task/{thread.name}" for thread in Path(f"/proc/{pid}/task").iterdir()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def descendants(pid: int) -> list[int]:
    found = []
    for thread in threads_of(pid):
        for child in in_proc(f"{thread}/children").split():
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


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """A journey that fails shows what its stacks said, and what went on their records."""
    report = yield
    if report.failed:
        for name, stack in getattr(item, "funcargs", {}).items():
            if isinstance(stack, Stack):
                for file in [stack.log, *sorted(stack.data.glob("perimeter/audit/*.jsonl"))]:
                    report.sections.append((f"end of {name}'s {file.name}", last_lines(file)))
    return report


def last_lines(file: Path, count: int = 40) -> str:
    return "\n".join(file.read_text(errors="replace").splitlines()[-count:]) if file.exists() else "(not there)"


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


@contextmanager
def stacks_of(rehearsal: dict) -> Iterator:
    """What starts a stack of its own in a new directory: `make(zones="", arguments=[])`. All end, and leave nothing, with the context."""
    stacks: list[Stack] = []

    def make(zones: str = "", arguments: list[str] | None = None) -> Stack:
        directory = Path(tempfile.mkdtemp(prefix="postern-journey-"))
        stack = Stack(directory, model_section(rehearsal) + zones, arguments or [])
        stacks.append(stack)
        return stack.start()

    left: list[str] = []
    try:
        yield make
    finally:
        for stack in stacks:
            if stack.process and stack.process.poll() is None:
                stack.kill()
            if NOTES:
                keep_notes(stack)
            left += secrets_left(stack)
            shutil.rmtree(stack.directory, ignore_errors=True)
        assert not left, f"secrets of a zone's sources lie in {left}"


def secrets_left(stack: Stack) -> list[str]:
    """The files of a stack that hold what a `file:` source of its configuration holds, as it is or in base64 or hexadecimal."""
    sources = {Path(path) for path in re.findall(r'source = "file:([^"]+)"', stack.config)}
    secrets = [source.read_bytes().strip() for source in sources if source.is_file() and stack.data not in source.parents]
    renderings = [form for secret in secrets if len(secret) >= 12
                  for form in (secret, base64.b64encode(secret).rstrip(b"=")[:-2], secret.hex().encode())]
    files = [file for file in stack.directory.rglob("*") if file.is_file() and not file.is_symlink() and file not in sources]
    return [str(file) for file in files if renderings and any(form in file.read_bytes() for form in renderings)]


@pytest.fixture(scope="module")
def new_stack(rehearsal: dict) -> Iterator:
    """Starts stacks that end with the journeys of one file."""
    with stacks_of(rehearsal) as make:
        yield make


@pytest.fixture(scope="session")
def new_shared_stack(rehearsal: dict) -> Iterator:
    """Starts stacks that journeys of several files share."""
    with stacks_of(rehearsal) as make:
        yield make


@pytest.fixture(scope="session")
def postern(new_shared_stack) -> Stack:
    """One stack that journeys share when they need no other configuration."""
    return new_shared_stack()


def script(*turns: dict) -> list[dict]:
    """Content of a user message that makes the rehearsal model play these turns."""
    return [{"type": "text", "text": "rehearse: " + json.dumps(list(turns))}]


def model_requests(rehearsal: dict) -> list[dict]:
    """The bodies that the rehearsal model was sent so far, by whichever stack."""
    with urllib.request.urlopen(f"{rehearsal['url']}/requests", timeout=30) as answer:
        kept = json.load(answer)
    # Each stands behind the headers that it came with.
    return [json.loads(entry[entry.index("\n{") + 1:]) for entry in kept]


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
def stack_with_api(new_shared_stack, private_api: dict) -> Stack:
    """A stack whose zone grants the private API's token, from a file source."""
    directory = Path(tempfile.mkdtemp(prefix="postern-api-"))
    (directory / "ca.pem").write_text(private_api["ca_pem"])
    (directory / "token").write_text(API_TOKEN)
    (directory / "token").chmod(0o600)
    return new_shared_stack(f"""
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


# How a command of a sandbox finds its way out.
BARE = "env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY -u all_proxy -u no_proxy -u NO_PROXY "
WAYS = pytest.mark.parametrize("way", ["", BARE], ids=["with proxy variables", "without"])


def results_of(stack: Stack, *tool_uses: dict, seconds: float = 60) -> list[str]:
    """The texts that these tool uses of one session came to, within so many seconds."""
    from anthropic import Anthropic

    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="journey", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id).id
    turn = {"tool_uses": list(tool_uses)}
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(turn, {"text": "done"})}])
    until(lambda: client.beta.sessions.retrieve(session).status == "idle" and ended(client, session), seconds, "the end of the turn")
    events = list(client.beta.sessions.events.list(session, limit=1000))
    texts = {event.tool_use_id: "\n".join(block.text for block in event.content or [] if block.type == "text")
             for event in events if event.type == "user.tool_result"}
    return [texts[event.id] for event in events if event.type == "agent.tool_use"]


def ended(client, session: str) -> bool:
    last = client.beta.sessions.events.list(session, order="desc", limit=1).data
    return bool(last) and last[0].type == "session.status_idle" and last[0].stop_reason.type == "end_turn"


WIKI_TOKEN = "journey-wiki-token-3b8e61d0f7c2a945"


@dataclass
class Process:
    """A helper process that printed one JSON line when it was ready."""

    process: subprocess.Popen
    ready: dict
    log: Path

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.log.unlink(missing_ok=True)


def start_process(arguments: list[str], stdin: bytes = b"", prefix: list[str] | None = None) -> Process:
    """Starts the binary with these arguments; `prefix` is put before it, as in `ip netns exec NAME`."""
    log = Path(tempfile.mkstemp(prefix="postern-helper-")[1])
    with log.open("wb") as stderr:
        process = subprocess.Popen([*(prefix or []), BINARY, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr)
    process.stdin.write(stdin)
    process.stdin.close()
    return Process(process, first_json_line(process, log), log)


def start_wiki(*arguments: str, token: str = WIKI_TOKEN, prefix: list[str] | None = None) -> Process:
    """A private MCP server: `ready["url"]`."""
    return start_process(["private-mcp", *arguments], token.encode(), prefix)


def seen_by(wiki: Process) -> dict:
    """What reached a private MCP server."""
    with urllib.request.urlopen(wiki.ready["url"].removesuffix("/mcp") + "/seen", timeout=10) as answer:
        return json.load(answer)


@pytest.fixture(scope="session")
def wiki() -> Iterator[Process]:
    server = start_wiki()
    yield server
    server.kill()


WIKI_RULE = """
[[zone.ledger.mcp]]
server = "wiki"
tools = ["search", "read_*", "reflect_headers", "server_info", "large", "slow", "fail"]
[[zone.ledger.mcp]]
server = "wiki"
tools = ["delete_page"]
arguments = { path = { glob = "/drafts/**" } }
"""


def wiki_sections(url: str, token_file: Path, extra: str = "", route: str = "") -> str:
    """A zone and a route for a private MCP server."""
    return f"""
[zone.ledger]
environment = "default"
{WIKI_RULE}
{extra}
[[gateway.route]]
host = "wiki"
upstream = "{url}"
addresses = ["127.0.0.0/8"]
credential = {{ source = "file:{token_file}", header = "authorization", format = "Bearer {{secret}}" }}
{route}
"""


def secret_file(value: str) -> Path:
    path = Path(tempfile.mkdtemp(prefix="postern-secret-")) / "token"
    path.write_text(value)
    path.chmod(0o600)
    return path


@pytest.fixture(scope="session")
def stack_with_wiki(new_shared_stack, wiki: Process) -> Stack:
    """A stack whose gateway has a route to the private MCP server, with its token."""
    return new_shared_stack(wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)))


@dataclass
class McpSession:
    """A session whose agent uses one MCP server, driven by the official SDK."""

    stack: Stack
    client: object
    id: str

    def send(self, *tool_uses: dict) -> None:
        turn = {"tool_uses": list(tool_uses)}
        turns = script(turn, {"text": "done"}) if tool_uses else script({"text": "done"})
        self.client.beta.sessions.events.send(self.id, events=[{"type": "user.message", "content": turns}])

    def events(self) -> list:
        return list(self.client.beta.sessions.events.list(self.id, limit=1000))

    def stop_reason(self) -> str | None:
        last = self.client.beta.sessions.events.list(self.id, order="desc", limit=1).data
        return last[0].stop_reason.type if last and last[0].type == "session.status_idle" else None

    def finish(self, seconds: float = 60) -> list:
        until(lambda: self.stop_reason() == "end_turn", seconds, "the end of the turn")
        return self.events()

    def results(self) -> list[tuple[bool, str]]:
        """Each MCP call's result in the order of the calls: whether it is an error, and its text."""
        events = self.events()
        by_call = {event.mcp_tool_use_id: event for event in events if event.type == "agent.mcp_tool_result"}
        texts = []
        for call in (event for event in events if event.type == "agent.mcp_tool_use"):
            if result := by_call.get(call.id):
                texts.append((bool(result.is_error), "\n".join(block.text for block in result.content or [] if block.type == "text")))
        return texts

    def call(self, *tool_uses: dict, seconds: float = 60) -> list[tuple[bool, str]]:
        before = len(self.results())
        self.send(*tool_uses)
        self.finish(seconds)
        return self.results()[before:]

    def errors(self) -> list:
        return [event.error for event in self.events() if event.type == "session.error"]


def mcp_session(stack: Stack, route: str = "wiki", url: str | None = None, permission: str = "always_allow", **more) -> McpSession:
    """An agent with this route as MCP server, and a session of it. `more` goes to the session's creation."""
    from anthropic import Anthropic

    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key, http_client=more.pop("http_client", None))
    url = url or f"https://{route}.{stack.ready['tunnel_domain']}/mcp"
    toolset = {"type": "mcp_toolset", "mcp_server_name": route}
    if permission:
        toolset["default_config"] = {"permission_policy": {"type": permission}}
    agent = client.beta.agents.create(
        name="mcp journey", model="rehearsal-1", mcp_servers=[{"type": "url", "name": route, "url": url}],
        tools=[{"type": "agent_toolset_20260401"}, toolset])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id, **more)
    return McpSession(stack, client, session.id)


def mcp(name: str, route: str = "wiki", **arguments) -> dict:
    """A call of an MCP server's tool, as the model names it."""
    return tool(f"mcp__{route}__{name}", **arguments)
