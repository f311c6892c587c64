"""Slow clients, by slowhttptest and by hand: heads, bodies and readers without end, more of them than there are places."""

from __future__ import annotations

import re
import resource
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import pytest
from conftest import BINARY, descendants, first_json_line, model_section, port_to_keep, until
from hosts import certificate

# More than the server has places for: 1,024.
CONNECTIONS = 1300
BETA = "managed-agents-2026-04-01"


def usual_limit_of_a_shell() -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))


@pytest.fixture(scope="module")
def server(rehearsal):
    """A server over plain HTTP, started as a shell starts it: with 1,024 open files, which is fewer than it has places."""
    directory = Path(tempfile.mkdtemp(prefix="postern-slow-"))
    port = port_to_keep()
    (directory / "postern.toml").write_text(model_section(rehearsal) + f'[server]\nlisten = "127.0.0.1:{port}"\n')
    log = directory / "log"
    process = subprocess.Popen([BINARY, "server", "--config", "postern.toml", "--data-dir", "data", "--json"], cwd=directory,
                               stdout=subprocess.PIPE, stderr=log.open("wb"), preexec_fn=usual_limit_of_a_shell,
                               env={"ANTHROPIC_API_KEY": "rehearsal-key-not-a-secret", "PATH": "/usr/bin:/bin"})
    try:
        ready = first_json_line(process, log)
        yield SimpleNamespace(url=ready["base_url"], key=ready["api_key"], log=log, pid=descendants(process.pid)[0])
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)


def asked(server) -> tuple[int, float]:
    """What an honest client, that nobody knows yet, gets for a request of its own, and after how many seconds."""
    began = time.monotonic()
    answer = httpx.get(f"{server.url}/v1/agents", timeout=30,
                       headers={"authorization": f"Bearer {server.key}", "anthropic-beta": BETA})
    return answer.status_code, time.monotonic() - began


def established(server) -> int:
    """How many connections the server's process holds."""
    held = 0
    for link in Path(f"/proc/{server.pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            held += str(link.readlink()).startswith("socket:")
    return held


@pytest.mark.parametrize("kind", [["-H"], ["-B"], ["-X"]], ids=["heads", "bodies", "readers"])
def test_slow_clients_of_every_kind_keep_nobody_out(server, kind):
    lasts = "40" if kind == ["-H"] else "9"
    attack = subprocess.Popen(
        ["slowhttptest", *kind, "-c", str(CONNECTIONS), "-r", str(CONNECTIONS), "-i", "3", "-l", lasts, "-x", "64", "-p", "9",
         "-u", f"{server.url}/v1/agents"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        if kind == ["-H"]:  # a body of nobody known is not waited for, and an answer that fits into a socket's buffer is given
            until(lambda: established(server) > 900, 30, "the attack")
        answers = [asked(server) for _ in range(20)]
        assert kind != ["-H"] or attack.poll() is None, "the attack was over before it was answered"
    finally:
        if kind == ["-H"]:  # what it found it says when it is told to stop, too
            attack.send_signal(signal.SIGINT)
        said, _ = attack.communicate(timeout=60)
    assert {status for status, _ in answers} == {200}
    assert max(seconds for _, seconds in answers) < 9, answers
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", said)
    assert re.findall(r"service available:\s+(\w+)", plain)[-1] == "YES", plain[-1500:]


def test_a_server_may_have_as_many_files_open_as_the_system_lets_it(server):
    limits = Path(f"/proc/{server.pid}/limits").read_text()
    soft, hard = re.search(r"Max open files\s+(\d+)\s+(\d+)", limits).groups()
    assert int(soft) == min(int(hard), 65_536)


def test_slow_handshakes_keep_nobody_out_of_a_server_with_tls(rehearsal):
    directory = Path(tempfile.mkdtemp(prefix="postern-slow-"))
    certificate(directory / "tls", "127.0.0.1")
    port = port_to_keep()
    tls = f'tls = {{ cert = "{directory}/tls/cert.pem", key = "{directory}/tls/key.pem" }}'
    (directory / "postern.toml").write_text(model_section(rehearsal) + f'[server]\nlisten = "127.0.0.1:{port}"\n{tls}\n')
    log = directory / "log"
    process = subprocess.Popen([BINARY, "server", "--config", "postern.toml", "--data-dir", "data", "--json"], cwd=directory,
                               stdout=subprocess.PIPE, stderr=log.open("wb"), preexec_fn=usual_limit_of_a_shell,
                               env={"ANTHROPIC_API_KEY": "rehearsal-key-not-a-secret", "PATH": "/usr/bin:/bin"})
    silent = []
    try:
        ready = first_json_line(process, log)
        for _ in range(CONNECTIONS):
            silent.append(socket.create_connection(("127.0.0.1", port), timeout=10))
        trust = ssl.create_default_context(cafile=directory / "tls/ca.pem")
        began = time.monotonic()
        answer = httpx.get(f"{ready['base_url']}/v1/agents", timeout=30, verify=trust,
                           headers={"authorization": f"Bearer {ready['api_key']}", "anthropic-beta": BETA})
        assert answer.status_code == 200 and time.monotonic() - began < 9
    finally:
        for connection in silent:
            connection.close()
        process.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)
