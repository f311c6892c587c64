"""Our own processes, confined: each role takes its chains upon itself and tries what it must not be able to do. The same attempts without chains succeed."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import BINARY, Stack, in_proc, role_of, threads_of

ROLES = ["server", "edge", "worker", "gateway", "connector", "egress", "custody", "audit"]
DIALS = ["server", "worker", "gateway", "connector", "egress"]
# What each may read of the data directory, and nobody else.
STORES = {"control/postern.sqlite": {"server"}, "perimeter/custody": {"custody"}, "perimeter/audit": {"audit"},
          "perimeter/gateway/key": {"gateway"}, "perimeter/work": {"worker"}, "perimeter/environment_key": set(),
          "perimeter/tunnel/leaf.key": {"gateway"}, "edge/key.pem": {"edge"}}
CALLS = ["execve", "execveat", "ptrace", "process-memory", "foreign-descriptor", "io-uring", "bpf", "keyring", "mount", "namespace",
         "join-namespace", "userfault", "writable-program", "signal", "linger"]
# As an ordinary user the kernel itself refuses these in some settings, with or without a filter.
PRIVILEGED = {"bpf", "userfault"}


def attempt(role: str, name: str, argument: object = None, data: Path | None = None) -> dict:
    command = [BINARY, "confined", role, name, *([str(argument)] if argument is not None else [])]
    done = subprocess.run([*command, *(["--data-dir", str(data)] if data else [])], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def refused(found: dict) -> bool:
    return found["outcome"] == "refused"


@pytest.mark.parametrize("role", ROLES)
def test_boundary_every_role_is_confined_by_all_that_this_kernel_has(role):
    assert attempt(role, "status")["confinement"] == {"state": "active"}


@pytest.mark.parametrize("path", STORES)
def test_boundary_a_store_is_read_by_its_own_role_and_no_other(postern: Stack, path):
    found = {role: attempt(role, "read", postern.data / path, postern.data) for role in ["none", *ROLES]}
    assert found.pop("none")["outcome"] == "done", "without confinement the same user reads it"
    readers = {role for role, one in found.items() if one["outcome"] == "done"}
    assert readers == STORES[path]
    assert all(one["error"] == "EACCES" for role, one in found.items() if role not in readers), found


@pytest.mark.parametrize("role", ROLES)
def test_boundary_a_role_reads_no_secret_of_the_host_and_writes_nowhere_outside(postern: Stack, tmp_path, role):
    (tmp_path / "secret").write_text("x")
    attempts = [("read", tmp_path / "secret"), ("read", "/etc/passwd"), ("read", "/root"), ("write", tmp_path), ("append", tmp_path / "secret"),
                ("write", postern.data), ("write", postern.data / "perimeter"), ("write", "/dev/shm")]
    for name, argument in attempts:
        unconfined, confined = (attempt(one, name, argument, postern.data) for one in ("none", role))
        if argument != "/root":
            assert unconfined["outcome"] == "done", unconfined
        assert confined["error"] == "EACCES", confined


@pytest.mark.parametrize("role", ROLES)
def test_boundary_a_role_starts_no_program_and_makes_no_dangerous_call(role):
    assert attempt("none", "program", "/bin/true")["outcome"] == "done"
    assert refused(attempt(role, "program", "/bin/true"))
    for call in CALLS:
        assert attempt(role, call)["error"] == "EPERM", call
        if os.geteuid() == 0 or call not in PRIVILEGED:
            assert not refused(attempt("none", call)), f"{call} is no attempt: the kernel refuses it without a filter"


def test_boundary_the_starter_and_spawner_make_no_dangerous_call_that_building_a_sandbox_does_not_need():
    # The last for the programs in a sandbox.
    needed = {"execve", "execveat", "mount", "namespace", "writable-program", "signal", "linger"}
    for call in CALLS:
        found = attempt("starter", call)
        assert refused(found) == (call not in needed), found
    assert attempt("starter", "program", "/bin/true")["outcome"] == "done"


def test_boundary_a_starter_that_has_started_everything_opens_no_file_and_starts_nothing(postern: Stack, tmp_path):
    (tmp_path / "secret").write_text("x")
    attempts = [("read", postern.data / "perimeter/custody"), ("read", postern.data / "perimeter/audit"), ("read", postern.data / "perimeter/work"),
                ("read", tmp_path / "secret"), ("write", tmp_path), ("append", tmp_path / "secret"), ("program", "/bin/true")]
    for name, argument in attempts:
        before, after = (attempt(role, name, argument, postern.data) for role in ("starter", "settled"))
        assert before["outcome"] == "done" and after["error"] == "EACCES", (before, after)


@pytest.fixture
def listener() -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.parametrize("role", ROLES)
def test_boundary_a_role_uses_the_network_only_as_its_work_does(role, listener):
    assert attempt("none", "connect", listener)["outcome"] == attempt("none", "listen", "127.0.0.1:0")["outcome"] == "done"
    assert (attempt(role, "connect", listener)["outcome"] == "done") == (role in DIALS)
    assert refused(attempt(role, "connect", listener)) == (role not in DIALS)
    assert (attempt(role, "datagram")["outcome"] == "done") == (role in DIALS), "name resolution sends datagrams"
    assert refused(attempt(role, "listen", "127.0.0.1:0"))
    for kind in ("raw", "packet", "netfilter"):
        if os.geteuid() == 0:
            assert attempt("none", kind)["outcome"] == "done"
        assert refused(attempt(role, kind)), kind


@pytest.mark.parametrize("role", ROLES)
def test_boundary_a_role_reaches_no_process_of_its_own_user(role):
    with subprocess.Popen(["sleep", "60"]) as neighbour:
        try:
            assert attempt("none", "peek", neighbour.pid)["outcome"] == attempt("none", "stop", neighbour.pid)["outcome"] == "done"
            assert refused(attempt(role, "peek", neighbour.pid))
            assert refused(attempt(role, "stop", neighbour.pid))
            assert refused(attempt("starter", "stop", neighbour.pid)), "the starter's domain holds its signals too"
        finally:
            neighbour.kill()


def test_boundary_every_process_of_a_running_stack_wears_its_filter(postern: Stack):
    seen = set()
    for pid in postern.pids()[1:]:
        role = role_of(pid)
        for status in statuses(pid):
            assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1"), (role, status["Name"])
            seen.add(role)
    assert {*ROLES, "starter", "spawner"} <= seen, seen


def statuses(pid: int) -> list[dict[str, str]]:
    """What /proc says of each of its threads that goes on."""
    texts = (in_proc(f"{thread}/status") for thread in threads_of(pid))
    return [dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line) for text in texts if text]


def capabilities(*names: str) -> int:
    """As /proc shows them: capability.h has CHOWN 0, DAC_OVERRIDE 1, DAC_READ_SEARCH 2, FOWNER 3."""
    return sum(1 << ["CHOWN", "DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER"].index(name) for name in names)


KEPT = {"worker": capabilities("CHOWN", "DAC_OVERRIDE", "FOWNER"), "custody": capabilities("DAC_READ_SEARCH"),
        "gateway": capabilities("DAC_READ_SEARCH")}


def test_boundary_no_role_keeps_a_capability_that_its_work_does_not_need(postern: Stack):
    for pid in postern.pids()[1:]:
        role = role_of(pid)
        if role not in ROLES:
            continue
        for status in statuses(pid):
            sets = ["CapInh", "CapPrm", "CapEff", "CapAmb"] + (["CapBnd"] if os.geteuid() == 0 else [])
            for name in sets:
                assert int(status[name], 16) & ~KEPT.get(role, 0) == 0, (role, status["Name"], name, status[name])


def test_boundary_the_check_names_every_role_of_ours():
    done = subprocess.run([BINARY, "worker", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    lines = {words[0]: words[1] for words in map(str.split, done.stdout.splitlines()) if len(words) > 1}
    assert {lines[f"own:{role}"] for role in [*ROLES, "starter"]} == {"active"}, done.stdout
