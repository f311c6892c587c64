"""The command line as a person uses it: what it prints, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from conftest import BINARY, Stack, model_section, script, tool


def run(*arguments: str, cwd: Path, env: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *arguments], cwd=cwd, env=os.environ | (env or {}), capture_output=True, text=True, timeout=120)


def text_of(*turns: dict) -> str:
    return script(*turns)[0]["text"]


def test_run_streams_a_turn_and_ends_with_zero(postern: Stack):
    text = text_of({"text": "I look.", "tool_uses": [tool("bash", command="echo seen-in-the-sandbox")]}, {"text": "That is all."})
    done = run("run", text, "--data-dir", str(postern.data), cwd=postern.directory)
    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line.strip()] == [
        "I look.", "> bash echo seen-in-the-sandbox", "  seen-in-the-sandbox", "That is all."]


def test_run_by_url_and_key_reaches_a_server_elsewhere(postern: Stack, tmp_path: Path):
    env = {"POSTERN_URL": postern.base_url, "POSTERN_API_KEY": postern.api_key}
    done = run("run", text_of({"text": "hello from afar"}), cwd=tmp_path, env=env)
    assert done.returncode == 0 and "hello from afar" in done.stdout, done.stderr


def test_run_says_what_the_model_refused(postern: Stack):
    text = text_of({"error": {"status": 400, "type": "invalid_request_error"}})
    done = run("run", text, "--data-dir", str(postern.data), cwd=postern.directory)
    assert done.returncode == 1 and "model_request_failed_error" in done.stdout + done.stderr


def test_without_a_server_run_ends_with_three_and_the_next_step(tmp_path: Path):
    done = run("run", "hello", cwd=tmp_path)
    assert done.returncode == 3 and "postern up" in done.stderr


def test_a_wrong_key_ends_with_five(postern: Stack, tmp_path: Path):
    done = run("run", "hello", cwd=tmp_path, env={"POSTERN_URL": postern.base_url, "POSTERN_API_KEY": "pst_api_wrong"})
    assert done.returncode == 5


def test_a_second_up_over_the_same_directory_is_refused(postern: Stack):
    done = run("up", "--json", "--listen", "127.0.0.1:0", "--data-dir", str(postern.data), cwd=postern.directory)
    assert done.returncode == 2 and "another `postern up`" in done.stderr


def test_up_refuses_to_speak_plain_http_to_the_network(tmp_path: Path):
    done = run("up", "--json", "--listen", "0.0.0.0:0", cwd=tmp_path)
    assert done.returncode == 2 and "loopback" in done.stderr


def test_an_unknown_flag_is_usage(tmp_path: Path):
    assert run("up", "--nonsense", cwd=tmp_path).returncode == 2


def test_the_printed_snippet_works_as_pasted(tmp_path: Path, rehearsal: dict):
    (tmp_path / "postern.toml").write_text(model_section(rehearsal))
    with (tmp_path / "log").open("wb") as log:
        up = subprocess.Popen([BINARY, "up", "--listen", "127.0.0.1:0"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        lines = []
        for line in up.stdout:
            lines.append(line)
            if "Ctrl-C drains" in line:
                break
        start = next(n for n, line in enumerate(lines) if "from anthropic import" in line)
        end = next(n for n, line in enumerate(lines) if "print(event.type)" in line)
        snippet = textwrap.dedent("".join(lines[start:end + 1])) + "        if event.type == 'session.status_idle': break\n"
        pasted = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, timeout=60)
        assert pasted.returncode == 0, pasted.stderr
        assert pasted.stdout.splitlines()[-1] == "session.status_idle"
        up.send_signal(signal.SIGINT)
        assert up.wait(timeout=40) == 0
    finally:
        up.kill()
        up.wait()
        up.stdout.close()


def test_the_level_of_the_log_is_the_level_of_every_role(tmp_path: Path):
    def lines(level: str) -> list[dict]:
        done = run("verify", "--only", "credentials/honest", "--log", level, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stderr.splitlines()]

    assert [line for line in lines("error") if line["level"] != "ERROR"] == []
    assert {"INFO", "DEBUG"} <= {line["level"] for line in lines("debug")}


def test_the_format_of_the_log_is_the_format_of_every_role(tmp_path: Path):
    done = run("verify", "--only", "credentials/honest", "--log", "debug", "--log-format", "text", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "postern" in line]
    # Without a terminal each process would write JSON. Those of the roles are there: custody, egress and the audit log say that they stand.
    assert [line for line in lines if line.startswith("{")] == []
    assert len(lines) > 5, done.stderr


def test_a_drained_stack_ends_with_zero_and_keeps_what_was_acknowledged(new_stack):
    stack: Stack = new_stack()
    done = run("run", text_of({"text": "remember this"}), "--data-dir", str(stack.data), cwd=stack.directory)
    assert done.returncode == 0
    assert stack.stop() == 0
    stack.start()
    from anthropic import Anthropic

    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    session = client.beta.sessions.list().data[0].id
    texts = [event.content[0].text for event in client.beta.sessions.events.list(session, types=["agent.message"])]
    assert texts == ["remember this"]


@pytest.mark.parametrize("arguments", [["--help"], ["up", "--help"], ["run", "--help"], ["secrets", "--help"], ["demo", "--help"]])
def test_help_names_what_it_does(arguments: list[str], tmp_path: Path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 0 and "Usage:" in done.stdout


def test_a_key_is_issued_with_a_role_listed_and_revoked(postern: Stack):
    from anthropic import Anthropic, AuthenticationError, PermissionDeniedError

    def keys(*arguments: str) -> str:
        done = run("key", *arguments, "--data-dir", str(postern.data), cwd=postern.directory)
        assert done.returncode == 0, done.stderr
        return done.stdout

    key = keys("issue", "--name", "dashboards", "--role", "viewer").strip()
    viewer = Anthropic(base_url=postern.base_url, api_key=key)
    viewer.beta.agents.list()
    with pytest.raises(PermissionDeniedError, match="role `developer`"):
        viewer.beta.agents.create(name="a", model="m")
    line = next(line for line in keys("list").splitlines() if "dashboards" in line)
    assert key[:12] in line and key not in line and "viewer" in line and "live" in line
    assert "revoked" in keys("revoke", line.split()[0])
    with pytest.raises(AuthenticationError):
        viewer.beta.agents.list()


def test_a_workspace_is_made_with_a_key_of_its_own_and_erased_by_its_name(postern: Stack):
    from anthropic import Anthropic, AuthenticationError

    def act(*arguments: str) -> subprocess.CompletedProcess:
        return run(*arguments, "--data-dir", str(postern.data), cwd=postern.directory)

    workspace = act("workspace", "create", "legal", "--retention-days", "30").stdout.strip()
    key = act("key", "issue", "--role", "admin", "--workspace", workspace).stdout.strip()
    client = Anthropic(base_url=postern.base_url, api_key=key)
    client.beta.agents.create(name="theirs", model="m")
    assert [agent.name for agent in client.beta.agents.list()] == ["theirs"]
    assert "30 days  legal" in act("workspace", "list").stdout
    assert "for good" in act("workspace", "retain", workspace).stdout
    wrong = act("workspace", "erase", workspace, "--name", "default")
    assert wrong.returncode == 2 and "no workspace of this name" in wrong.stderr
    assert "is erased" in act("workspace", "erase", workspace, "--name", "legal").stdout
    with pytest.raises(AuthenticationError):
        client.beta.agents.list()


def test_a_second_workspace_has_keys_a_perimeter_and_a_sealed_credential_of_its_own(postern: Stack):
    from anthropic import Anthropic, AuthenticationError

    def act(*arguments: str, code: int = 0, value: str = "") -> str:
        done = subprocess.run([BINARY, *arguments, "--data-dir", str(postern.data)], cwd=postern.directory, input=value,
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == code, done.stderr
        return done.stdout if code == 0 else done.stderr

    workspace = act("workspace", "create", "legal").strip()
    there = ["--workspace", workspace]
    key = act("key", "issue", "--name", "theirs", "--role", "admin", *there).strip()
    client = Anthropic(base_url=postern.base_url, api_key=key)
    vault = client.beta.vaults.create(display_name="v").id
    sealing = ["credential", "create", "--vault", vault, "--variable", "CRM_TOKEN", "--host", "crm.example"]
    assert "perimeter" in act(*sealing, *there, value="sealed-by-hand-90c4be17fa52d836\n", code=2)

    environment = client.beta.environments.create(name="theirs", config={"type": "self_hosted"}).id
    act("perimeter", "register", "--name", "theirs", "--environment", environment, *there)
    assert "theirs" in act("perimeter", "list", *there) and "theirs" not in act("perimeter", "list")
    made = act(*sealing, *there, value="sealed-by-hand-90c4be17fa52d836\n").strip()
    assert client.beta.vaults.credentials.retrieve(made, vault_id=vault).auth.secret_name == "CRM_TOKEN"
    # Sent in the clear, it is sealed on arrival as in the first workspace.
    client.beta.vaults.credentials.create(
        vault, auth={"type": "static_bearer", "mcp_server_url": "https://mcp.example/mcp", "token": "bearer-0f6d1c9e7a2b4835"})

    assert "theirs" not in act("key", "list")
    line = next(line for line in act("key", "list", *there).splitlines() if "theirs" in line)
    assert "not found" in act("key", "revoke", line.split()[0], code=2)
    client.beta.agents.list()
    act("key", "revoke", line.split()[0], *there)
    with pytest.raises(AuthenticationError):
        client.beta.agents.list()
    assert "wrkspc_none" in act("key", "list", "--workspace", "wrkspc_none", code=2)
