"""Variables of vaults: an upstream that keeps what reached it, a zone that sends there, and sessions whose vaults have variables."""

from __future__ import annotations

import json
import ssl
import subprocess
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Iterator

import pytest
from anthropic import Anthropic
from conftest import BINARY, Stack, ended, script, tool, until
from hosts import certificate

HOST, OTHER_HOST, UNNAMED_HOST = "crm.example.test", "other.example.test", "unnamed.example.test"
VALUE = "vault-variable-7c41e09ab25d6f38"


@dataclass
class Upstream:
    """A TLS server that keeps what reached it and says it back."""

    address: str = ""
    ca: Path = Path()
    seen: list[dict] = field(default_factory=list)


@pytest.fixture(scope="module")
def upstream(tmp_path_factory):
    directory = tmp_path_factory.mktemp("upstream")
    certificate(directory, HOST, OTHER_HOST, UNNAMED_HOST)
    upstream = Upstream(ca=directory / "ca.pem")

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            request = {"host": self.headers["host"], "path": self.path, "headers": dict(self.headers), "body": body}
            upstream.seen.append(request)
            said = json.dumps(request).encode()
            self.send_response(200)
            self.send_header("content-type", "application/json")
            self.send_header("x-said", self.headers.get("authorization", ""))
            self.send_header("content-length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    upstream.address = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield upstream
    server.shutdown()


def zone(upstream: Upstream) -> str:
    rule = f"""
ports = [443]
connect = "{upstream.address}"
addresses = ["127.0.0.0/8"]
ca_file = "{upstream.ca}"
"""
    return f"""
[zone.crm]
environment = "default"
[[zone.crm.credential]]
name = "crm"
source = "api:CRM_TOKEN"
inject = [{{ header = "authorization" }}, {{ basic = "password" }}, {{ json = "/token" }}]
[[zone.crm.egress]]
host = "{HOST}"
credential = "crm"
{rule}
[[zone.crm.egress]]
host = "{OTHER_HOST}"
credential = "crm"
{rule}
[[zone.crm.egress]]
host = "{UNNAMED_HOST}"
{rule}
"""


def variable(name: str = "CRM_TOKEN", value: str = VALUE, hosts: list[str] | None = None, **more) -> dict:
    hosts = hosts or [HOST]
    return {"type": "environment_variable", "secret_name": name, "secret_value": value,
            "networking": {"type": "limited", "allowed_hosts": hosts}} | more


class Journey:
    """A session whose vault has these variables, and that is given these resources."""

    def __init__(self, stack: Stack, *variables: dict, resources: list[dict] | None = None):
        self.stack, self.client = stack, Anthropic(base_url=stack.base_url, api_key=stack.api_key)
        self.vault = self.client.beta.vaults.create(display_name="journey").id
        self.credentials = [self.client.beta.vaults.credentials.create(vault_id=self.vault, auth=auth) for auth in variables]
        agent = self.client.beta.agents.create(name="journey", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
        self.id = self.client.beta.sessions.create(
            agent=agent.id, environment_id=stack.environment_id, vault_ids=[self.vault], resources=resources or []).id

    def events(self) -> list:
        return list(self.client.beta.sessions.events.list(self.id, limit=1000))

    def bash(self, *commands: str) -> list[str]:
        """What these commands print, one tool use each."""
        before = len(self.uses())
        turns = [{"tool_uses": [tool("bash", command=command)]} for command in commands]
        content = script(*turns, {"text": "done"})
        self.client.beta.sessions.events.send(self.id, events=[{"type": "user.message", "content": content}])
        until(lambda: len(self.uses()) == before + len(commands) and ended(self.client, self.id), 60, "the end of the turn")
        texts = {event.tool_use_id: "\n".join(block.text for block in event.content or [] if block.type == "text")
                 for event in self.events() if event.type == "user.tool_result"}
        return [texts[use.id] for use in self.uses()[before:]]

    def uses(self) -> list:
        return [event for event in self.events() if event.type == "agent.tool_use"]

    def errors(self) -> list:
        return [event.error for event in self.events() if event.type == "session.error"]

    def records(self) -> list[dict]:
        shown = subprocess.run([BINARY, "audit", "show", "--json", "--session", self.id, "--data-dir", str(self.stack.data)],
                               capture_output=True, text=True, check=True)
        return [json.loads(line) for line in shown.stdout.splitlines()]


@contextmanager
def worker(stack: Stack, second: Stack, zones: str) -> Iterator[Path]:
    """A worker of a second perimeter, at work for the stack's environment while this lasts: its log."""
    place = second.directory
    (place / "postern.toml").write_text("config = 1\n" + zones.replace('environment = "default"', f'environment = "{stack.environment_id}"'))
    (place / "environment.key").write_text(stack.environment_key)
    (place / "environment.key").chmod(0o600)
    command = [BINARY, "worker", "--url", stack.base_url, "--environment", stack.environment_id,
               "--environment-key-file", str(place / "environment.key"), "--data-dir", str(second.data)]
    with (place / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=place, stdout=log, stderr=log)
    try:
        yield place / "log"
    finally:
        process.terminate()
        process.wait(timeout=40)


def curl(host: str, *arguments: str) -> str:
    return " ".join(["curl -sS -m 20", *arguments, f"https://{host}/v1/x"])


CODE = "-o /dev/null -w '%{http_code},'"
BEARER = '-H "authorization: Bearer $CRM_TOKEN"'
