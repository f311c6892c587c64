"""The boundary through the whole stack, as whoever runs this: root or an ordinary user."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from conftest import BINARY, Stack


def run(*arguments: str, cwd=None, input: str | None = None, env: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *arguments], cwd=cwd, input=input, env=env, capture_output=True, text=True, timeout=300)


def test_boundary_holds_in_the_demo(tmp_path):
    """Honest work succeeds, every attack fails, no canary is found: the demo's own verdict, row by row."""
    done = run("demo", "--strict", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "FAILED" not in done.stdout


def test_boundary_controls_are_named_at_the_start():
    done = run("worker", "--check")
    assert done.returncode == 0, done.stdout + done.stderr
    for control in ("userns", "mountns", "pidns", "netns", "ipcns", "utsns", "seccomp", "landlock", "no-caps"):
        assert any(line.split()[:1] == [control] for line in done.stdout.splitlines()), f"{control} is not listed:\n{done.stdout}"


def test_boundary_keeps_its_files_to_itself(postern: Stack):
    assert postern.data.stat().st_mode & 0o777 == 0o700
    # What is shown in a session's sandbox lies below a directory that is closed to all but the worker.
    shown = {"workspace", "given", "outputs", "memory", "shared"}
    for closed in [postern.data / "perimeter/shared", *(postern.data / "perimeter/work").iterdir()]:
        assert closed.stat().st_mode & 0o777 == 0o700, closed
    for file in postern.data.rglob("*"):
        if file.is_file() and not shown & set(file.parts):
            assert file.stat().st_mode & 0o077 == 0, f"{file} is readable by others"


def test_boundary_audit_log_verifies_while_it_is_written(postern: Stack):
    done = run("audit", "verify", "--data-dir", str(postern.data))
    assert done.returncode == 0, done.stdout + done.stderr


def test_boundary_audit_log_that_was_changed_does_not_verify(new_stack):
    stack: Stack = new_stack()
    assert stack.stop() == 0
    log = sorted((stack.data / "perimeter/audit").glob("*.jsonl"))[0]
    text = log.read_text()
    assert '"worker_started"' in text
    log.write_text(text.replace('"worker_started"', '"worker_startled"', 1))
    done = run("audit", "verify", "--data-dir", str(stack.data))
    assert done.returncode == 1 and log.name in done.stdout + done.stderr


def test_boundary_secret_value_never_comes_from_the_command_line(tmp_path):
    done = run("secrets", "set", "name", "value-on-argv", cwd=tmp_path)
    assert done.returncode == 2
    done = run("secrets", "set", "ledger", cwd=tmp_path, input="correct-horse-battery-staple-42\n")
    assert done.returncode == 0, done.stderr
    listed = run("secrets", "list", cwd=tmp_path)
    assert "ledger" in listed.stdout and "horse" not in listed.stdout
    stored = b"".join(file.read_bytes() for file in (tmp_path / ".postern").rglob("*") if file.is_file())
    assert b"horse" not in stored
    assert run("secrets", "rm", "ledger", cwd=tmp_path).returncode == 0
    assert "ledger" not in run("secrets", "list", cwd=tmp_path).stdout


@pytest.mark.parametrize("value", ["short-one", "aaaaaaaaaaaaaaaaaaaaaaaa", "passwordpassword"])
def test_boundary_secret_that_cannot_be_scrubbed_safely_is_refused(tmp_path, value: str):
    done = run("secrets", "set", "weak", cwd=tmp_path, input=value)
    assert done.returncode == 2 and "--danger-short" in done.stderr
    assert run("secrets", "set", "weak", "--danger-short", cwd=tmp_path, input=value).returncode == 0


def test_boundary_invalid_zone_file_names_all_errors_with_line_and_column(tmp_path):
    (tmp_path / "postern.toml").write_text(
        'config = 1\nsurprise = true\n[zone.a]\nenvironment = "default"\n[zone.a.sandbox]\nmemory = "lots"\n'
        '[[zone.a.egress]]\nhost = "http://x"\nscheme = "gopher"\nports = [0]\n[[zone.a.mcp]]\nserver = "wiki"\n')
    done = run("zone", "check", cwd=tmp_path)
    text = done.stdout + done.stderr
    assert done.returncode == 2
    for place in ("postern.toml:2:", "postern.toml:6:", "postern.toml:8:", "postern.toml:9:", "postern.toml:10:"):
        assert place in text, f"{place} is missing in:\n{text}"
    up = run("up", "--json", "--listen", "127.0.0.1:0", cwd=tmp_path)
    assert up.returncode == 2 and "postern.toml:6:" in up.stderr
    assert not (tmp_path / ".postern" / "control").exists(), "a refused configuration changed something"


def test_boundary_second_start_finds_everything_again(new_stack):
    stack: Stack = new_stack()
    environment, keys = stack.environment_id, dict(stack.keys)
    assert stack.stop() == 0
    stack.start()
    assert stack.environment_id == environment and stack.keys == keys
    assert stack.ready["api_key"] is None and stack.ready["environment_key"] is None
    listed = json.loads(subprocess.run(
        ["curl", "-sS", f"{stack.base_url}/v1/environments/{environment}", "-H", f"authorization: Bearer {stack.api_key}",
         "-H", "anthropic-beta: managed-agents-2026-04-01"], capture_output=True, text=True, check=True, env=os.environ).stdout)
    assert listed["id"] == environment


def test_boundary_approval_is_on_record_before_the_tool_use_it_allows(postern: Stack):
    from anthropic import Anthropic
    from conftest import ended, script, tool, until

    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key)
    ask = {"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_ask"}}}
    agent = client.beta.agents.create(name="asks", model="rehearsal-1", tools=[ask])
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id).id
    turns = script({"tool_uses": [tool("bash", command="true")]}, {"text": "done"})
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": turns}])
    uses = until(lambda: client.beta.sessions.events.list(session, types=["agent.tool_use"]).data, what="a call that asks")
    client.beta.sessions.events.send(session, events=[
        {"type": "user.tool_confirmation", "tool_use_id": uses[0].id, "result": "allow"}])
    until(lambda: ended(client, session), 60, "the end of the turn")
    shown = run("audit", "show", "--json", "--session", session, "--data-dir", str(postern.data)).stdout
    records = [json.loads(line) for line in shown.splitlines()]
    approval = next(record for record in records if record["kind"] == "approval")
    use = next(record for record in records if record["kind"] == "tool_use")
    assert approval["seq"] < use["seq"] and use["caused_by"] == approval["seq"]
    assert approval["tool_use"] == use["tool_use"] == uses[0].id
    assert approval["digests"]["input"] == use["digests"]["input"]
