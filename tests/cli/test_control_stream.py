"""The control stream with the real binary: freeze, thaw and revoked grants reach a running session within a second."""

from __future__ import annotations

import http.server
import json
import ssl
import subprocess
import threading
import time

import pytest
from anthropic import Anthropic
from conftest import API_HOST, API_TOKEN, BINARY, Stack, tool, until
from control import begin, call, result, results, send

SECOND = 1.0


def workers(stack: Stack) -> list[dict]:
    """The workers as the server sees them."""
    data = call(stack, "GET", "/v1/perimeter/status")[1]["data"]
    return [process for process in data if process["role"] == "worker"]


def connected(stack: Stack) -> dict:
    """The worker, once it is connected."""
    return until(lambda: next(iter(workers(stack)), None), what="a control stream")


def workspace(stack: Stack, session: str):
    return stack.data / "perimeter/work" / session / "workspace"


def grows(path) -> int:
    return path.stat().st_size if path.exists() else 0


def is_still(path, seconds: float = 0.6) -> bool:
    before = grows(path)
    time.sleep(seconds)  # Nothing to wait for: what is shown is that nothing happens.
    return grows(path) == before


def records(stack: Stack, kind: str) -> list[dict]:
    lines = [line for file in sorted((stack.data / "perimeter/audit").glob("*.jsonl")) for line in file.read_text().splitlines()]
    entries = [json.loads(line) for line in lines if line.strip()]
    return [entry for entry in entries if json.dumps(entry).find(f'"{kind}"') >= 0]


def test_the_server_sees_its_worker_and_worker_credentials_do_not(postern: Stack):
    worker = connected(postern)
    assert worker["role"] == "worker" and worker["environment_id"] == postern.environment_id
    status = worker["status"]
    assert {"seccomp", "netns"} <= {line["name"] for line in status["controls"]}
    assert status["perimeter_public_key"] and status["audit_key"] and status["version"]
    for path, method in [("/v1/perimeter/status", "GET"), ("/v1/sessions/sesn_x/freeze", "POST")]:
        code, problem = call(postern, method, path, postern.environment_key)
        assert (code, problem["error"]["type"]) == (403, "permission_error"), path


def test_a_freeze_stops_a_running_command_and_a_thaw_lets_it_go_on(postern: Stack):
    connected(postern)
    ticks = "for i in $(seq 1 600); do echo $i >> ticks; sleep 0.05; [ -e enough ] && break; done; echo over"
    client, session = begin(postern, tool("bash", command=ticks))
    file = workspace(postern, session) / "ticks"
    until(lambda: grows(file) > 0, what="the command's first tick")
    began = time.monotonic()
    code, answer = call(postern, "POST", f"/v1/sessions/{session}/freeze")
    took = time.monotonic() - began
    assert code == 200 and answer["perimeters"][0]["obeyed"], answer
    assert took < SECOND, f"the freeze took {took:.3f} s"
    print(f"freeze of a running command: {took * 1000:.0f} ms")
    assert is_still(file), "a frozen command goes on"
    held = next(s for s in connected(postern)["status"]["sessions"] if s["session"] == session)
    assert held["state"] == "frozen"
    assert results(client, session) == []
    began = time.monotonic()
    code, answer = call(postern, "POST", f"/v1/sessions/{session}/thaw")
    print(f"thaw: {(time.monotonic() - began) * 1000:.0f} ms")
    assert code == 200, answer
    until(lambda: not is_still(file, 0.2), 5, "the thawed command")
    (workspace(postern, session) / "enough").touch()
    assert "over" in result(client, session, 1)
    for kind in ("session_frozen", "session_thawed"):
        about = [entry for entry in records(postern, kind) if session in json.dumps(entry)]
        assert len(about) == 1, f"worker and gateway were told, and it is on record once: {about}"


def test_a_command_that_lets_its_own_processes_go_on_is_stopped_or_ended(postern: Stack):
    connected(postern)
    again = "while [ ! -e enough ]; do kill -CONT -1; echo t >> ticks; done"
    client, session = begin(postern, tool("bash", command=f"for i in 1 2 3 4; do ({again}) & done; {again}; wait; echo over"))
    file = workspace(postern, session) / "ticks"
    until(lambda: grows(file) > 100, what="the command's ticks")
    began = time.monotonic()
    code, answer = call(postern, "POST", f"/v1/sessions/{session}/freeze")
    took = time.monotonic() - began
    assert code == 200, answer
    print(f"freeze of a command that resists: {took * 1000:.0f} ms")
    assert took < 2 * SECOND
    assert is_still(file), "a command that resists its freeze goes on"
    assert call(postern, "POST", f"/v1/sessions/{session}/thaw")[0] == 200
    (workspace(postern, session) / "enough").touch()
    text = result(client, session, 1)
    assert "over" in text or "could not be stopped" in text, text


def test_a_thaw_lets_go_on_what_the_freeze_stopped_and_nothing_else(postern: Stack):
    connected(postern)
    command = ("(while :; do echo t >> own; sleep 0.05; done) & sleep 0.5; kill -STOP $!; touch stopped; "
               "while [ ! -e enough ]; do echo t >> ticks; sleep 0.05; done; kill -KILL $!; echo over")
    client, session = begin(postern, tool("bash", command=command))
    place = workspace(postern, session)
    until((place / "stopped").exists, what="the stopped process")
    assert call(postern, "POST", f"/v1/sessions/{session}/freeze")[0] == 200
    assert is_still(place / "ticks")
    assert call(postern, "POST", f"/v1/sessions/{session}/thaw")[0] == 200
    until(lambda: not is_still(place / "ticks", 0.2), 5, "the thawed command")
    assert is_still(place / "own"), "what the command had stopped itself stays so"
    (place / "enough").touch()
    assert "over" in result(client, session, 1)


def test_a_frozen_commands_time_stands_still(postern: Stack):
    connected(postern)
    client, session = begin(postern, tool("bash", command="touch begun; sleep 1; while [ ! -e enough ]; do sleep 0.1; done; echo over",
                                          timeout_ms=6000))
    place = workspace(postern, session)
    until((place / "begun").exists, what="the command")
    assert call(postern, "POST", f"/v1/sessions/{session}/freeze")[0] == 200
    time.sleep(9)  # Longer than the command may run in all.
    assert call(postern, "POST", f"/v1/sessions/{session}/thaw")[0] == 200
    (place / "enough").touch()
    text = result(client, session, 1)
    assert "over" in text, text


def test_a_new_tool_use_of_a_frozen_session_is_refused_with_a_typed_result(postern: Stack):
    connected(postern)
    client, session = begin(postern, tool("bash", command="echo first"))
    assert "first" in result(client, session, 1)
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", what="idle")
    assert call(postern, "POST", f"/v1/sessions/{session}/freeze")[0] == 200
    send(client, session, tool("bash", command="echo second > ran"))
    assert "reason=session_frozen" in result(client, session, 2)
    assert not (workspace(postern, session) / "ran").exists()
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", what="idle")
    assert call(postern, "POST", f"/v1/sessions/{session}/thaw")[0] == 200
    send(client, session, tool("bash", command="echo third"))
    assert "third" in result(client, session, 3)


def test_a_session_that_nobody_was_given_is_held_before_anybody_gets_it(new_stack):
    stack = new_stack(arguments=["--no-gateway"])
    connected(stack)
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="control", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id)
    for command, frozen in (("freeze", True), ("thaw", False), ("revoke_grants", False), ("freeze", True)):
        code, answer = call(stack, "POST", f"/v1/sessions/{session.id}/{command}")
        assert code == 200 and answer["hold"]["frozen"] == frozen, answer
        assert [told["obeyed"] for told in answer["perimeters"]] == [False], "the worker does not have it"
        assert call(stack, "POST", f"/v1/sessions/sesn_unknown/{command}")[0] == 404
    send(client, session.id, tool("bash", command="echo late"))
    until(lambda: client.beta.sessions.retrieve(session.id).status == "idle", what="the call waits")
    assert results(client, session.id) == [], "nobody is handed a frozen session"
    assert call(stack, "POST", f"/v1/sessions/{session.id}/thaw")[0] == 200
    assert "late" in result(client, session.id, 1)
    alone = new_stack(arguments=["--no-worker", "--no-gateway"])
    client = Anthropic(base_url=alone.base_url, api_key=alone.api_key)
    agent = client.beta.agents.create(name="control", model="rehearsal-1")
    session = client.beta.sessions.create(agent=agent.id, environment_id=alone.environment_id)
    code, answer = call(alone, "POST", f"/v1/sessions/{session.id}/freeze")
    assert (code, answer["hold"]["frozen"], answer["perimeters"]) == (200, True, []), answer
    assert call(alone, "GET", "/v1/perimeter/status")[1]["data"] == []


def test_a_frozen_session_is_frozen_after_every_process_was_killed(new_stack):
    stack = new_stack()
    connected(stack)
    client, session = begin(stack, tool("bash", command="echo first"))
    assert "first" in result(client, session, 1)
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", what="idle")
    assert call(stack, "POST", f"/v1/sessions/{session}/freeze")[0] == 200
    stack.kill()
    stack.start()
    connected(stack)
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    send(client, session, tool("bash", command="echo second > ran"))
    time.sleep(2)  # Nothing to wait for: what is shown is that nothing runs, whoever has the item now.
    assert not (workspace(stack, session) / "ran").exists()
    held = call(stack, "POST", f"/v1/sessions/{session}/freeze")[1]
    assert held.get("hold", held.get("error", {}).get("details", {}).get("hold"))["frozen"], held
    assert call(stack, "POST", f"/v1/sessions/{session}/thaw")[0] == 200


def test_a_revoked_key_ends_its_streams_within_a_second(new_stack):
    stack = new_stack()
    connected(stack)
    keys = f"/v1/environments/{stack.environment_id}/keys"
    for key in call(stack, "GET", keys)[1]["data"]:
        call(stack, "DELETE", f"{keys}/{key['id']}")
    began = time.monotonic()
    until(lambda: not workers(stack), 5, "the stream's end")
    took = time.monotonic() - began
    print(f"end of a revoked key's stream: {took * 1000:.0f} ms")
    assert took < SECOND


class Dripping(http.server.BaseHTTPRequestHandler):
    """Answers with a body that never ends, and counts what it could send."""

    sent = 0

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        try:
            while True:
                self.wfile.write(b"drip\n" * 100)
                self.wfile.flush()
                type(self).sent += 1
                time.sleep(0.02)
        except OSError:
            pass

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def dripping():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Dripping)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_address[1]
    server.shutdown()


def test_a_freeze_cuts_a_transfer_and_a_thaw_lets_new_ones_through(new_stack, dripping):
    stack = new_stack(f'''
[zone.drip]
environment = "default"
[[zone.drip.egress]]
host = "drip.internal"
scheme = "http"
ports = [80]
methods = ["GET"]
paths = ["/**"]
connect = "127.0.0.1:{dripping}"
addresses = ["127.0.0.0/8"]
''')
    connected(stack)
    client, session = begin(stack, tool("bash", command="curl -sS -m 60 http://drip.internal/ -o drips; echo code $?"))
    file = workspace(stack, session) / "drips"
    until(lambda: grows(file) > 0, what="the transfer's first bytes")
    began = time.monotonic()
    code, answer = call(stack, "POST", f"/v1/sessions/{session}/freeze")
    took = time.monotonic() - began
    assert code == 200, answer
    assert took < SECOND, f"the freeze took {took:.3f} s"
    print(f"freeze during a transfer: {took * 1000:.0f} ms")
    sent = Dripping.sent
    time.sleep(0.5)  # Nothing to wait for: what is shown is that nothing happens.
    assert Dripping.sent <= sent + 2, "the upstream still sends"
    assert is_still(file)
    assert call(stack, "POST", f"/v1/sessions/{session}/thaw")[0] == 200
    text = result(client, session, 1)
    assert "code 18" in text or "code 56" in text or "code 52" in text, text
    assert "reason=session_frozen" in text, text
    send(client, session, tool("bash", command="curl -sS -m 10 http://drip.internal/ | head -c 4"))
    assert "drip" in result(client, session, 2)


def test_without_its_grants_a_session_uses_no_credential_any_more(stack_with_api: Stack):
    connected(stack_with_api)
    url = f"https://{API_HOST}/v1/accounts"
    request = f'curl -sS -m 10 {url} -H "Authorization: Bearer $LEDGER_API_KEY"'
    client, session = begin(stack_with_api, tool("bash", command=request))
    assert "Operations" in result(client, session, 1)
    began = time.monotonic()
    code, answer = call(stack_with_api, "POST", f"/v1/sessions/{session}/revoke_grants")
    took = time.monotonic() - began
    assert code == 200, answer
    assert took < SECOND, f"the revocation took {took:.3f} s"
    print(f"revocation: {took * 1000:.0f} ms")
    send(client, session, tool("bash", command=request), tool("bash", command=f"curl -sS -m 10 {url}"))
    text = result(client, session, 2)
    assert '"reason":"grants_revoked"' in text and API_TOKEN not in text, text
    assert '"reason":"grants_revoked"' in result(client, session, 3), "a host that knows the secret is not heard any more"
    revoked = [entry for entry in map(json.dumps, records(stack_with_api, "grants_revoked")) if session in entry]
    assert sum('"kind": "grants_revoked"' in entry for entry in revoked) == 1, "on record once"
    alarms = [entry for entry in records(stack_with_api, "alarm") if session in json.dumps(entry)]
    assert alarms, "the next use is an alarm"
    held = next(s for s in connected(stack_with_api)["status"]["sessions"] if s["session"] == session)
    assert held["grants_revoked"]


def test_the_command_line_freezes_thaws_and_revokes(postern: Stack):
    connected(postern)
    client, session = begin(postern, tool("bash", command="for i in $(seq 1 600); do echo $i >> ticks; sleep 0.05; [ -e enough ] && break; done; echo over"))
    file = workspace(postern, session) / "ticks"
    until(lambda: grows(file) > 0, what="the command's first tick")

    def verb(name: str, of: str = session) -> subprocess.CompletedProcess:
        return subprocess.run([BINARY, "session", name, of, "--data-dir", str(postern.data)], capture_output=True, text=True)

    frozen = verb("freeze")
    assert (frozen.returncode, "obeyed" in frozen.stdout) == (0, True), frozen.stdout + frozen.stderr
    assert is_still(file), "a frozen command goes on"
    assert verb("thaw").returncode == 0
    until(lambda: not is_still(file, 0.2), 5, "the thawed command")
    assert verb("revoke-grants").returncode == 0
    (workspace(postern, session) / "enough").touch()
    assert "over" in result(client, session, 1)
    unknown = verb("freeze", "sesn_11111111111111111111111x")
    assert unknown.returncode == 2 and "not found" in unknown.stderr, unknown.stderr
