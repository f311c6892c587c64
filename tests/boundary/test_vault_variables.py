"""Variables of vaults: a secret that a user puts into a vault through the API is used by the agent in our sandbox, and nobody on the way sees it."""

from __future__ import annotations

import json
import os
import sqlite3

import pytest
from anthropic import Anthropic, BadRequestError
from conftest import WAYS, Stack, descendants, ended, in_proc, script, tool, until
from vaults import (BEARER, CODE, HOST, OTHER_HOST, UNNAMED_HOST, VALUE, Journey, Upstream, curl, upstream,  # noqa: F401
                    variable, zone)

ROTATED = "vault-rotated-d2b85f16c9073ea4-longer-than-before"
SECOND = "vault-second-4f9a0c7712e8bd56"
SECRETS = [VALUE, ROTATED, SECOND]


@pytest.fixture(scope="module")
def stack(new_stack, upstream: Upstream) -> Stack:
    return new_stack(zone(upstream))


def assert_nowhere(stack: Stack, *secrets: str) -> None:
    """None of the values is in any file of the stack."""
    for path in [stack.log, *stack.data.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not any(secret.encode() in content for secret in secrets), path


@WAYS
def test_boundary_a_variable_of_a_vault_is_used_and_seen_by_nobody(stack: Stack, upstream: Upstream, way: str):
    journey = Journey(stack, variable())
    [placeholder, answer, environ, files] = journey.bash(
        "echo $CRM_TOKEN",
        way + curl(HOST, "-i", BEARER),
        "tr '\\0' '\\n' < /proc/self/environ; cat /proc/*/environ 2>/dev/null | tr '\\0' '\\n'",
        f"grep -rl {VALUE[:12]} /workspace /tmp /etc /mnt 2>/dev/null; echo searched")
    placeholder = placeholder.strip()
    assert len(placeholder) == len(VALUE) and placeholder != VALUE
    sent = upstream.seen[-1]
    assert sent["headers"]["authorization"] == f"Bearer {VALUE}", "the server gets the value"
    assert VALUE not in answer and f"Bearer {placeholder}" in answer, "what it says back is the placeholder again"
    assert f"CRM_TOKEN={placeholder}" in environ and VALUE not in environ and "searched" in files
    transcript = "".join(event.model_dump_json() for event in journey.events())
    assert not any(secret in transcript for secret in SECRETS)
    assert_nowhere(stack, *SECRETS)
    # Neither server nor worker has it in memory that can be told from here: the sandbox's own processes are gone by now.
    uses = [record for record in journey.records() if record["kind"] == "credential_use"]
    assert uses and all(journey.credentials[0].id in record["outcome"] for record in uses)
    assert {record["credential"] for record in uses} == {"crm"}


def test_boundary_neither_server_nor_worker_nor_sandbox_has_it_in_its_environment_or_arguments(stack: Stack):
    journey = Journey(stack, variable())
    journey.bash(curl(HOST, BEARER))
    pids, closed = stack.pids(), 0
    for pid in pids:
        assert VALUE not in in_proc(f"{pid}/cmdline"), pid
        try:
            environment = in_proc(f"{pid}/environ")
        except PermissionError:
            closed += 1
            continue
        assert VALUE not in environment, pid
    assert len(pids) >= 6 and descendants(stack.process.pid)
    # The environment of our processes is closed to an ordinary user, whom it shows nothing; root sees that of each.
    assert (closed == 0) == (os.geteuid() == 0), f"{closed} of {len(pids)} are closed"


def test_boundary_hosts_and_places_of_the_vault_narrow_those_of_the_zone(stack: Stack, upstream: Upstream):
    journey = Journey(stack, variable(injection_location={"header": True}))
    before = len(upstream.seen)
    body = "-H 'content-type: application/json' -d \"{\\\"token\\\": \\\"$CRM_TOKEN\\\"}\""
    [other, unnamed, in_body, custom, good] = journey.bash(
        curl(OTHER_HOST, "-i", BEARER), curl(UNNAMED_HOST, "-i", BEARER), curl(HOST, "-i", body),
        curl(HOST, "-i", '-H "x-api-key: $CRM_TOKEN"'), curl(HOST, "-i", '-u "agent:$CRM_TOKEN"'))
    assert "placeholder_wrong_host" in other and HOST in other, "the zone allows it, the vault does not"
    assert "placeholder_wrong_host" in unnamed
    assert "placeholder_wrong_location" in in_body and "injection_location" in in_body
    assert "placeholder_wrong_location" in custom
    assert "200" in good.splitlines()[0]
    assert len(upstream.seen) == before + 1, "what was refused went nowhere"


def test_boundary_a_body_is_a_place_where_zone_and_vault_say_so(stack: Stack, upstream: Upstream):
    journey = Journey(stack, variable(injection_location={"body": True}))
    body = "-H 'content-type: application/json' -d \"{\\\"token\\\": \\\"$CRM_TOKEN\\\"}\""
    [in_body, in_header] = journey.bash(curl(HOST, "-i", body), curl(HOST, "-i", BEARER))
    assert json.loads(upstream.seen[-1]["body"]) == {"token": VALUE}
    assert VALUE not in in_body
    assert "placeholder_wrong_location" in in_header


def test_boundary_a_new_value_is_used_from_the_next_request_on_behind_the_same_placeholder(stack: Stack, upstream: Upstream):
    journey = Journey(stack, variable())
    marker = "/workspace/go"
    # One command from before the change to after it: its placeholder stays, none of its requests fails.
    loop = (f"echo before $CRM_TOKEN; i=0; while [ $i -lt 400 ]; do {curl(HOST, CODE, BEARER)};"
            f" test -e {marker} && break; i=$((i+1)); done; echo after $CRM_TOKEN")
    content = script({"tool_uses": [tool("bash", command=loop)]}, {"text": "done"})
    journey.client.beta.sessions.events.send(journey.id, events=[{"type": "user.message", "content": content}])
    sent = lambda value: [one for one in upstream.seen if one["headers"].get("authorization") == f"Bearer {value}"]
    until(lambda: len(sent(VALUE)) >= 2, 30, "requests with the first value")
    journey.client.beta.vaults.credentials.update(
        journey.credentials[0].id, vault_id=journey.vault, auth={"type": "environment_variable", "secret_value": ROTATED})
    until(lambda: len(sent(ROTATED)) >= 2, 30, "requests with the second value")
    (stack.data / "perimeter/work" / journey.id / "workspace/go").write_text("")
    until(lambda: ended(journey.client, journey.id), 60, "the end of the turn")
    [output] = [event.content[0].text for event in journey.events() if event.type == "user.tool_result"]
    codes = [code for code in output.split("before")[1].split("after")[0].split("\n", 1)[1].split(",") if code.strip()]
    assert set(code.strip() for code in codes) == {"200"}, output[-400:]
    lines = [line.split()[1] for line in output.replace("after", "\nafter").splitlines() if line.startswith(("before", "after"))]
    assert len(set(lines)) == 1, "the placeholder is the same"
    assert not any(secret in output for secret in SECRETS)
    assert_nowhere(stack, *SECRETS)


def test_boundary_archiving_takes_it_away_from_a_session_that_runs(stack: Stack, upstream: Upstream):
    journey = Journey(stack, variable())
    request = curl(HOST, "-o /workspace/answer -w '%{http_code}'", BEARER)
    loop = f"i=0; while [ $i -lt 400 ]; do code=$({request}); [ $code = 200 ] || break; i=$((i+1)); done; echo $code; cat /workspace/answer; echo; {request}"
    seen = len(upstream.seen)
    content = script({"tool_uses": [tool("bash", command=loop)]}, {"text": "done"})
    journey.client.beta.sessions.events.send(journey.id, events=[{"type": "user.message", "content": content}])
    until(lambda: len(upstream.seen) >= seen + 2, 30, "requests with the value")
    journey.client.beta.vaults.credentials.archive(journey.credentials[0].id, vault_id=journey.vault)
    until(lambda: ended(journey.client, journey.id), 60, "the end of the turn")
    [output] = [event.content[0].text for event in journey.events() if event.type == "user.tool_result"]
    assert output.startswith("403") and "custody_denied" in output and "\n403" in output, output


def test_boundary_what_the_zone_does_not_give_is_said_with_the_line_to_add(stack: Stack):
    journey = Journey(stack, variable(), variable("NOT_NAMED", SECOND), )
    [shown] = journey.bash("echo \"[$CRM_TOKEN][$NOT_NAMED]\"")
    assert shown.strip().endswith("[]"), "it has no placeholder either"
    error = until(journey.errors, 30, "the session is told")[0]
    assert error.type == "unknown_error" and "api:NOT_NAMED" in error.message and journey.credentials[1].id in error.message
    assert len(journey.errors()) == 1


def test_boundary_a_host_that_nothing_leads_to_is_an_error_of_its_own_kind(stack: Stack):
    journey = Journey(stack, variable(hosts=[HOST, "nowhere.example.test"]))
    journey.bash(curl(HOST, BEARER))
    error = until(journey.errors, 30, "the session is told")[0]
    assert error.type == "credential_host_unreachable_error"
    body = error.model_dump()
    assert (body["credential_id"], body["vault_id"]) == (journey.credentials[0].id, journey.vault)
    assert "nowhere.example.test" in error.message and "egress" in error.message


def test_boundary_placeholders_of_one_session_are_tripwires_in_another(stack: Stack):
    one, other = Journey(stack, variable()), Journey(stack, variable())
    [placeholder] = one.bash("echo $CRM_TOKEN")
    [refused] = other.bash(curl(HOST, "-i", f"-H 'authorization: Bearer {placeholder.strip()}'"))
    assert "placeholder_wrong_session" in refused


def test_boundary_rows_that_were_moved_or_edited_open_nowhere(stack: Stack):
    journey = Journey(stack, variable(hosts=[OTHER_HOST]))
    with sqlite3.connect(stack.data / "control/postern.sqlite", timeout=10) as database:
        database.execute("update vault_credentials set hosts = ?, auth = replace(auth, ?, ?) where id = ?",
                         (json.dumps([HOST]), OTHER_HOST, HOST, journey.credentials[0].id))
    [shown] = journey.bash("echo \"[$CRM_TOKEN]\"")
    assert shown.strip() == "[]"
    error = until(journey.errors, 30, "the session is told")[0]
    assert "was changed or moved" in error.message
    assert any(record["kind"] == "alarm" and record["reason"] == "credential_unopenable" for record in journey.records())


def test_boundary_a_later_change_only_narrows(stack: Stack):
    journey = Journey(stack, variable(hosts=[HOST, OTHER_HOST]))
    change = lambda **auth: journey.client.beta.vaults.credentials.update(
        journey.credentials[0].id, vault_id=journey.vault, auth={"type": "environment_variable"} | auth)
    change(networking={"type": "limited", "allowed_hosts": [HOST]})
    [good, narrowed] = journey.bash(curl(HOST, "-i", BEARER), curl(OTHER_HOST, "-i", BEARER))
    assert "200" in good.splitlines()[0] and "placeholder_wrong_host" in narrowed
    for wider in ({"type": "unrestricted"}, {"type": "limited", "allowed_hosts": ["evil.example.test"]}):
        with pytest.raises(BadRequestError, match="secret_value"):
            change(networking=wider)


def test_boundary_a_server_with_another_s_database_can_produce_no_plaintext(new_stack, upstream: Upstream):
    """Everything that the control plane has, without the perimeter's key: nothing opens. With it back, everything does."""
    stack = new_stack(zone(upstream))
    journey = Journey(stack, variable(value=SECOND))
    [good] = journey.bash(curl(HOST, "-i", BEARER))
    assert "200" in good.splitlines()[0] and upstream.seen[-1]["headers"]["authorization"] == f"Bearer {SECOND}"
    assert stack.stop() == 0
    custody, aside = stack.data / "perimeter/custody", stack.directory / "aside"
    custody.rename(aside)
    stack.start()
    journey.client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    before = len(upstream.seen)
    [shown] = journey.bash("echo \"[$CRM_TOKEN]\"")
    assert shown.strip() == "[]" and len(upstream.seen) == before
    error = until(journey.errors, 30, "the session is told")[0]
    assert "before this perimeter was registered" in error.message
    # What its routes say of it, and what lies in its files.
    credentials = journey.client.beta.vaults.credentials
    said = credentials.with_raw_response.list(vault_id=journey.vault).http_response.text
    said += credentials.with_raw_response.retrieve(journey.credentials[0].id, vault_id=journey.vault).http_response.text
    assert journey.credentials[0].id in said and SECOND not in said
    assert_nowhere(stack, SECOND)
    assert stack.stop() == 0
    (stack.data / "perimeter/custody").rename(stack.directory / "foreign")
    aside.rename(custody)
    stack.start()
    journey.client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    [again] = journey.bash(curl(HOST, "-i", BEARER))
    assert "200" in again.splitlines()[0] and upstream.seen[-1]["headers"]["authorization"] == f"Bearer {SECOND}"
