"""What is wrong on the command line is named, with what to do and the exit code for it; and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY, Stack, model_section, secret_file

ZONE = """config = 1
[zone.ledger]
environment = "default"
[[zone.ledger.egress]]
host = "api.ledger.internal"
[zone.other]
environment = "env_01other"
"""


def run(*arguments: str | Path, cwd: Path, env: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *arguments], cwd=cwd, env=os.environ | (env or {}), capture_output=True, text=True, timeout=120)


def misused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def first_error(*arguments: str | Path, cwd: Path, env: dict | None = None) -> str:
    """The first that a run says of a failure; it is not waited for until all tries are over."""
    command = [BINARY, *arguments]
    with subprocess.Popen(command, cwd=cwd, env=os.environ | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            return next(line.strip() for line in process.stdout if line.startswith("! "))
        finally:
            process.kill()


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    (tmp_path / "postern.toml").write_text(ZONE)
    return tmp_path


def test_an_empty_key_of_the_model_is_refused(tmp_path: Path):
    key = secret_file(" \n")
    misused(run("up", "--listen", "127.0.0.1:0", "--model-key-file", str(key), cwd=tmp_path), str(key), "holds no key")


def test_an_environment_that_no_zone_has_is_refused_with_those_that_there_are(zones: Path):
    misused(run("zone", "explain", "GET", "https://api.ledger.internal/", "--environment", "nosuch", cwd=zones),
            "no zone of the file has the environment nosuch", "default, env_01other")
    asked = run("zone", "explain", "GET", "https://api.ledger.internal/", "--environment", "default", cwd=zones)
    assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize(("words", "said"), [
    (["connect", "api.ledger.internal"], "connect api.ledger.internal:443"),
    (["connect", "[::1]"], "connect [::1]:443"),
    (["connect", "api.ledger.internal:443", "--address", "10.0.0.1"], "--address is judged with a request"),
    (["tool", "bash", "--header", "x: y"], "--header is judged with a request"),
    (["--credential", "ledger-api", "--placeholder", "ledger-api@header:x"], "--placeholder is judged with a request"),
    (["tool", "nosuch"], "no sandbox has a tool nosuch; ask about one of bash, read, write, edit, glob, grep"),
    (["tool", "web_fetch"], "no sandbox has a tool web_fetch"),
])
def test_a_question_that_is_none_is_usage_and_no_refusal(zones: Path, words: list[str], said: str):
    misused(run("zone", "explain", "--zone", "ledger", *words, cwd=zones), said)


def test_zone_check_takes_its_file_as_other_commands_do_and_says_each_error_once_at_its_place(tmp_path: Path):
    file, policy = tmp_path / "zones.toml", tmp_path / "own.cedar"
    file.write_text(ZONE)
    assert run("zone", "check", "--config", file, cwd=tmp_path).returncode == 0
    file.write_text(ZONE.replace('internal"\n', 'internal"\nports = ["443"]\n'))
    wrong = run("zone", "check", "--config", file, cwd=tmp_path)
    misused(wrong, "6:10: ports must be a whole number")
    assert "ports is empty" not in wrong.stderr and wrong.stderr.count("ports") == 1
    file.write_text(ZONE.replace('environment = "default"\n', 'environment = "default"\npolicy_file = "own.cedar"\n'))
    policy.write_text('// What nobody may.\n\nforbid (principal, action, resource) when { context.nothing };\n')
    misused(run("zone", "check", "--config", file, cwd=tmp_path), f"{file}:4:", "own.cedar:3:1")


def test_an_audit_log_that_is_not_there_is_said_to_be_so_by_each_verb_that_takes_one(postern: Stack, tmp_path: Path):
    for verb in ("verify", "show"):
        misused(run("audit", verb, "nosuch", cwd=tmp_path), "no audit log is at nosuch")
        misused(run("audit", verb, cwd=tmp_path), "no audit log is at")
    gone = run("audit", "verify", "nosuch", "--at-least", "7", cwd=tmp_path)
    assert gone.returncode == 1 and "no audit log is at nosuch" in gone.stderr, "of which something was noted, that was there"
    log = postern.data / "perimeter/audit"
    shown = run("audit", "show", "--json", log, cwd=tmp_path)
    assert shown.returncode == 0 and json.loads(shown.stdout.splitlines()[0])["seq"] == 1, shown.stderr


def test_a_data_directory_that_is_a_file_and_a_port_that_is_taken_are_named_with_what_to_do(tmp_path: Path):
    (tmp_path / "data").write_text("")
    misused(run("up", "--data-dir", "data", cwd=tmp_path), "data is no directory", "--data-dir")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        misused(run("up", "--listen", address, cwd=tmp_path), f"listen on {address}", "another port")


def test_a_run_without_its_model_names_the_endpoint_to_the_operator_alone(new_stack, tmp_path: Path):
    stack: Stack = new_stack(arguments=["--no-worker", "--no-gateway"])
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
    assert stack.stop() == 0
    stack.config = model_section({"url": url})
    stack.start()
    told = first_error("run", "hello", "--data-dir", stack.data, cwd=stack.directory)
    assert told.startswith("! model_request_failed_error: ") and "Check that it runs" in told, told
    assert told.endswith(f" `[model] url` is {url} here."), told
    told = first_error("run", "hello", cwd=tmp_path, env={"POSTERN_URL": stack.base_url, "POSTERN_API_KEY": stack.api_key})
    assert "Check that it runs" in told and url not in told, told


def test_a_verify_that_did_not_begin_leaves_no_log(tmp_path: Path):
    env = {"TMPDIR": str(tmp_path)}
    misused(run("verify", "--only", "nosuch", cwd=tmp_path, env=env), "no probe is called nosuch")
    misused(run("verify", "--zone", "nosuch", cwd=tmp_path, env=env), "no zone fits")
    assert list(tmp_path.iterdir()) == []


def test_a_demo_that_nobody_reads_leaves_no_directory(tmp_path: Path):
    read, written = os.pipe()
    os.close(read)
    try:
        done = subprocess.run([BINARY, "demo"], cwd=tmp_path, env=os.environ | {"TMPDIR": str(tmp_path)}, stdout=written,
                              stderr=subprocess.PIPE, text=True, timeout=240)
    finally:
        os.close(written)
    assert done.returncode == 0, done.stderr[-2000:]
    assert list(tmp_path.glob("postern-demo-*")) == []
