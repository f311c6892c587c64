"""Secrets that the command line seals, and a second perimeter that gets what was sealed before it came."""

from __future__ import annotations

import subprocess

import pytest
from conftest import BINARY, WAYS, Stack, until
from vaults import BEARER, HOST, Journey, curl, upstream, variable, worker, zone  # noqa: F401  (the fixture `upstream` is used here too)

VALUE = "sealed-by-hand-90c4be17fa52d836"
ROTATED = "sealed-anew-5b7d03e8c1f4a692-and-longer"


@pytest.fixture(scope="module")
def stack(new_stack, upstream) -> Stack:  # noqa: F811
    return new_stack(zone(upstream))


def postern(stack: Stack, *arguments: str, value: str = "", code: int = 0) -> str:
    done = subprocess.run([BINARY, *arguments, "--data-dir", str(stack.data)], input=value, capture_output=True, text=True)
    assert done.returncode == code, done.stderr
    assert VALUE not in done.stdout + done.stderr
    return done.stdout if code == 0 else done.stderr


def nowhere_in_control(stack: Stack, *values: str) -> None:
    for path in [stack.log, *(stack.data / "control").rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not any(value.encode() in content for value in values), path


@WAYS
def test_boundary_a_value_that_the_command_line_sealed_is_used_and_the_server_never_has_it(stack: Stack, upstream, way: str):  # noqa: F811
    journey = Journey(stack)
    key = postern(stack, "perimeter", "key").strip()
    made = postern(stack, "credential", "create", "--vault", journey.vault, "--variable", "CRM_TOKEN", "--host", HOST,
                   "--place", "header", "--public-key", key, value=VALUE + "\n").strip()
    shown = journey.client.beta.vaults.credentials.retrieve(made, vault_id=journey.vault)
    assert shown.auth.secret_name == "CRM_TOKEN" and shown.auth.injection_location.body is False
    [answer] = journey.bash(way + curl(HOST, "-i", BEARER))
    assert "200" in answer.splitlines()[0]
    assert upstream.seen[-1]["headers"]["authorization"] == f"Bearer {VALUE}"
    rotate = ["credential", "rotate", made, "--vault", journey.vault, "--public-key", key]
    assert "--variable" in postern(stack, *rotate, value=ROTATED, code=2), "where it may go is not left to the server's word"
    other = postern(stack, *rotate, "--variable", "CRM_TOKEN", "--place", "header", value=ROTATED, code=2)
    assert HOST in other and "any host" in other
    postern(stack, *rotate, "--variable", "CRM_TOKEN", "--host", HOST, "--place", "header", value=ROTATED)
    until(lambda: journey.bash(curl(HOST, BEARER)) and upstream.seen[-1]["headers"]["authorization"] == f"Bearer {ROTATED}", 30,
          "the new value")
    nowhere_in_control(stack, VALUE, ROTATED)


def test_boundary_a_key_that_no_perimeter_has_and_a_value_that_is_weak_are_refused(stack: Stack):
    journey = Journey(stack)
    arguments = ["credential", "create", "--vault", journey.vault, "--variable", "CRM_TOKEN"]
    foreign = postern(stack, *arguments, "--public-key", "ab" * 32, value=VALUE, code=2)
    assert "postern perimeter register" in foreign
    postern(stack, *arguments, value="short", code=2)
    assert journey.client.beta.vaults.credentials.list(vault_id=journey.vault).data == []


def test_boundary_a_second_perimeter_opens_what_the_first_passed_on_and_only_once_its_operator_approved(
        new_stack, upstream, tmp_path):  # noqa: F811
    stack = new_stack(zone(upstream))
    journey = Journey(stack, variable(value=VALUE))
    second = Stack(tmp_path, "")
    key = postern(second, "perimeter", "key").strip()
    registered = postern(stack, "perimeter", "register", "--name", "second", "--public-key", key, "--environment", stack.environment_id)
    later = registered.split()[0]
    refused = postern(stack, "perimeter", "rewrap", later, code=2)
    assert f"postern perimeter approve {key}" in refused
    postern(stack, "perimeter", "approve", key)
    assert postern(stack, "perimeter", "rewrap", later).startswith("1 values open there now; 0 ")
    assert postern(stack, "perimeter", "rewrap", later).startswith("0 values"), "a second time there is nothing to do"
    nowhere_in_control(stack, VALUE)

    # From here on the second perimeter alone serves the environment.
    assert stack.stop() == 0
    stack.arguments = ["--no-worker"]
    stack.start()
    with worker(stack, second, zone(upstream)) as log:
        again = Journey(stack)
        agent = again.client.beta.agents.create(name="second", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
        again.id = again.client.beta.sessions.create(
            agent=agent.id, environment_id=stack.environment_id, vault_ids=[journey.vault]).id
        [answer] = again.bash(curl(HOST, "-i", BEARER))
        assert "200" in answer.splitlines()[0], log.read_text()[-2000:]
        assert upstream.seen[-1]["headers"]["authorization"] == f"Bearer {VALUE}"
