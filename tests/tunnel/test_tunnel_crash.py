"""kill -9 of each process on the way of an MCP call, and certificates and tokens that change while calls run.

Each call is told apart by a mark among its arguments, and the private MCP server lists every call that reached it. So a
call that came to a result ran once; one whose outcome is unknown ran at most once; one that says it was not run did not.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from anthropic import Anthropic, APIConnectionError, APIStatusError
from conftest import (BINARY, WIKI_TOKEN, McpSession, Process, Stack, descendants, mcp, mcp_session, secret_file, seen_by,
                      until, wiki_sections)
from crash.test_kill import pid_of

SESSIONS = 5
CALLS = 50
# Who is killed, and how many of the calls have reached the MCP server by then.
KILLS = [("connector", 1), ("connector", 40), ("gateway", 1), ("gateway", 40), ("server", 1), ("server", 40), ("edge", 1), ("edge", 40),
         ("worker", 40), ("custody", 1), ("audit", 40)]
# From the kill to the end of every turn: the calls' own time, a worker or a gateway that starts, and the model's turn.
ENDED_SECONDS = 30.0
RECONNECTED_SECONDS = {"connector": 2.0, "gateway": 2.0, "server": 2.0, "edge": 2.0}
# Custody and audit, or the worker that keeps them, take worker and gateway along, which begin anew together.
KEEPER_SECONDS = {"worker": 5.0, "custody": 5.0, "audit": 5.0}
PROBED_SECONDS = 10.0
NOT_RUN = re.compile("It was not run\\.|The tool was not run: |refused wiki slow")
UNKNOWN = re.compile("outcome (of this call )?is unknown.*was not run again", re.S)
CODE = re.compile(r"(?:not run\.|not run again\.|is not connected\.) ([a-z_]+): |The outcome of this call is (unknown): |refused wiki slow reason=([a-z_]+) next=")


@pytest.fixture(scope="module")
def stack(new_stack, wiki: Process) -> Stack:
    return new_stack(wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)))


@pytest.fixture(scope="module")
def keepers(new_stack, wiki: Process):
    """Stacks for the kills that take others along: a supervisor waits longer before each start of what keeps dying."""
    stacks = {}

    def of(role: str) -> Stack:
        kind = role if role in ("worker", "edge") else "its parts"
        if kind not in stacks:
            stacks[kind] = new_stack(wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)))
        return stacks[kind]

    yield of
    for stack in stacks.values():
        stack.kill()


def slow(mark: str, milliseconds: int) -> dict:
    return mcp("slow", milliseconds=milliseconds, mark=mark)


def marks_seen(wiki: Process, prefix: str) -> Counter:
    """How often each of these marks reached the MCP server."""
    marks = (call["arguments"].get("mark", "") for call in seen_by(wiki)["calls"])
    return Counter(mark for mark in marks if mark.startswith(prefix))


def status(stack: Stack) -> dict | None:
    """`postern tunnel status --json`; `None` while nobody answers."""
    command = [BINARY, "tunnel", "status", "--json", "--data-dir", str(stack.data)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=20)
    return json.loads(shown.stdout.splitlines()[0])["status"] if shown.returncode == 0 else None


def connections(stack: Stack) -> dict[str, str]:
    """The tunnel's connections, each with its lane."""
    return {each["peer"] + str(each["since"]): each["lane"] for each in (status(stack) or {"connections": []})["connections"]}


def stands_anew(stack: Stack, before: dict[str, str]) -> bool:
    """Whether both lanes have a connection that was not there before."""
    return {lane for each, lane in connections(stack).items() if each not in before} == {"interactive", "bulk"}


def probe(stack: Stack) -> dict:
    command = [BINARY, "tunnel", "probe", "wiki", "--json", "--data-dir", str(stack.data)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return json.loads(shown.stdout) if shown.stdout.startswith("{") else {"failure": {"code": "no_answer", "message": shown.stderr}}


def sound(stack: Stack) -> bool:
    return not probe(stack).get("failure")


def ended(session: McpSession) -> bool:
    try:
        return session.stop_reason() == "end_turn"
    except (APIConnectionError, APIStatusError):
        return False


@pytest.mark.parametrize("role, arrived", KILLS)
def test_a_kill_during_50_calls_ends_each_once_and_the_tunnel_stands_again(stack: Stack, keepers, wiki: Process, role: str, arrived: int):
    stack = keepers(role) if role in KEEPER_SECONDS or role == "edge" else stack
    assert role != "worker" or pid_of(stack, "custody") in descendants(pid_of(stack, "worker")), "the worker is the keeper"
    until(lambda: sound(stack), what="a tunnel to break")
    prefix = f"{role}-{arrived}-{time.monotonic_ns()}-"
    with ThreadPoolExecutor(SESSIONS + 1) as pool:
        sessions = list(pool.map(lambda _: mcp_session(stack), range(SESSIONS)))
        assert works(pool, sessions, "before")
        asked = time.monotonic()
        before = connections(stack)
        # What one look takes here now: a machine that is busy has all times longer.
        look = time.monotonic() - asked
        sent = [pool.submit(session.send, *some_calls(prefix, n)) for n, session in enumerate(sessions)]
        until(lambda: len(marks_seen(wiki, prefix)) >= arrived, what="calls that run")
        kill(stack, role)
        killed = time.monotonic()
        watched = pool.submit(lambda: until(lambda: stands_anew(stack, before), 20, "the tunnel") and time.monotonic() - killed)
        for each in sent:
            each.result(ENDED_SECONDS)
        for session in sessions:
            until(lambda: ended(session), ENDED_SECONDS - (time.monotonic() - killed), f"{role}: the end of {session.id}")
        all_ended = time.monotonic() - killed
        reconnected = watched.result()
        until(lambda: sound(stack), PROBED_SECONDS, "the whole path")
        probed = time.monotonic() - killed
        seen = marks_seen(wiki, prefix)
        outcomes = sum((checked(session, seen) for session in sessions), Counter())
        print(f"{role} after {arrived} arrived: {dict(outcomes)}; every turn ended after {all_ended:.2f} s, connected after "
              f"{reconnected:.2f} s, a probe through after {probed:.2f} s")
        assert sum(outcomes.values()) == CALLS
        assert max(seen.values()) == 1, f"a call ran twice: {seen.most_common(3)}"
        assert works(pool, sessions, "after")
    assert reconnected < (RECONNECTED_SECONDS | KEEPER_SECONDS)[role] + 10 * look


def test_a_worker_that_hangs_at_its_start_holds_up_no_other(keepers):
    stack = keepers("custody")
    former = until(lambda: max(pid_of(stack, "worker"), 0), what="a worker")
    os.kill(former, signal.SIGKILL)
    hanging = until(lambda: (new := pid_of(stack, "worker")) > 0 and new != former and new, 10, "a worker that starts")
    os.kill(hanging, signal.SIGSTOP)
    try:
        kill(stack, "server")
        until(lambda: status(stack) is not None, 10, "the server")
    finally:
        os.kill(hanging, signal.SIGCONT)
    until(lambda: sound(stack), 20, "the whole path")


def test_an_edge_that_hangs_at_its_start_holds_up_no_server(stack: Stack):
    until(lambda: sound(stack), what="a tunnel to break")
    former = until(lambda: max(pid_of(stack, "edge"), 0), what="an edge")
    os.kill(former, signal.SIGKILL)
    hanging = until(lambda: (new := pid_of(stack, "edge")) > 0 and new != former and new, 10, "an edge that starts")
    os.kill(hanging, signal.SIGSTOP)
    try:
        kill(stack, "server")
        until(lambda: status(stack) is not None, 10, "the server")
    finally:
        os.kill(hanging, signal.SIGCONT)
    until(lambda: sound(stack), 30, "the whole path")


def test_an_edge_that_stops_answering_is_replaced(stack: Stack):
    until(lambda: sound(stack), what="a tunnel to break")
    former = until(lambda: max(pid_of(stack, "edge"), 0), what="an edge")
    os.kill(former, signal.SIGSTOP)
    until(lambda: pid_of(stack, "edge") not in (former, 0, -1), 40, "a successor")
    until(lambda: sound(stack), 30, "the whole path")


def kill(stack: Stack, role: str) -> None:
    os.kill(until(lambda: max(pid_of(stack, role), 0), what=f"a {role} to kill"), signal.SIGKILL)


def some_calls(prefix: str, first: int) -> list[dict]:
    """One session's part of the calls, each with a mark and a time of its own."""
    return [slow(f"{prefix}{n}", 100 + 40 * n) for n in range(first, CALLS, SESSIONS)]


def works(pool: ThreadPoolExecutor, sessions: list[McpSession], query: str) -> bool:
    results = list(pool.map(lambda session: session.call(mcp("search", query=query)), sessions))
    assert [(error, "/runbooks" in text) for [(error, text)] in results] == [(False, True)] * len(sessions), results
    return True


def checked(session: McpSession, seen: Counter) -> Counter:
    """What the session's slow calls came to; each has one end, and each end is true."""
    events = session.events()
    calls = [event for event in events if event.type == "agent.mcp_tool_use"]
    ends = Counter(event.mcp_tool_use_id for event in events if event.type == "agent.mcp_tool_result")
    assert ends == Counter(call.id for call in calls), "each call has one result"
    outcomes = Counter()
    for call, (error, text) in zip(calls, session.results(), strict=True):
        if call.name != "slow":
            continue
        ran = seen[call.input["mark"]]
        outcomes[outcome(error, text, ran)] += 1
    return outcomes


def outcome(error: bool, text: str, ran: int) -> str:
    if not error:
        assert (text, ran) == ("awake", 1), text
        return "result"
    code = CODE.search(text)
    assert code, f"no named error: {text}"
    if NOT_RUN.search(text):
        assert ran == 0, f"it ran: {text}"
    else:
        assert UNKNOWN.search(text) and ran <= 1, text
    return next(filter(None, code.groups()))


class Authority:
    """A CA for the inner TLS, by openssl: its certificate and key in a directory."""

    def __init__(self, directory: Path, name: str = "") -> None:
        self.directory, self.pem = directory, directory / "ca.pem"
        if name:
            openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30",
                    "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE,pathlen:0", "-addext",
                    "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem", cwd=directory)

    def leaf(self, stack: Stack, place: Path, days: float) -> Path:
        """A new leaf for the stack's tunnel with its key, in a new directory `place`."""
        place.mkdir()
        (place / "index.txt").touch()
        (place / "ca.cnf").write_text(CA_CONFIGURATION.format(domain=stack.ready["tunnel_domain"]))
        openssl("req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=leaf",
                "-keyout", "leaf.key", "-out", "leaf.csr", cwd=place)
        end = datetime.now(timezone.utc) + timedelta(days=days)
        openssl("ca", "-batch", "-config", "ca.cnf", "-notext", "-in", "leaf.csr", "-out", "leaf.pem",
                "-cert", str(self.directory / "ca.pem"), "-keyfile", str(self.directory / "ca.key"),
                "-startdate", "20260101000000Z", "-enddate", end.strftime("%Y%m%d%H%M%SZ"), cwd=place)
        return place


CA_CONFIGURATION = """
[ca]
default_ca = own
[own]
dir = .
database = index.txt
new_certs_dir = .
default_md = sha256
rand_serial = yes
policy = any
x509_extensions = leaf
unique_subject = no
[any]
commonName = supplied
[leaf]
subjectAltName = DNS:*.{domain}
extendedKeyUsage = serverAuth
keyUsage = critical, digitalSignature
authorityKeyIdentifier = keyid
"""


def openssl(*arguments: str, cwd: Path) -> None:
    done = subprocess.run(["openssl", *arguments], cwd=cwd, capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr


def tls_of(stack: Stack) -> Path:
    return stack.data / "perimeter/tunnel"


def put(stack: Stack, pair: Path) -> None:
    """Puts a leaf where the gateway has its own: the key first, each at once."""
    for name in ("leaf.key", "leaf.pem"):
        new = tls_of(stack) / f".{name}.new"
        new.write_bytes((pair / name).read_bytes())
        new.chmod(0o600)
        new.rename(tls_of(stack) / name)


def gateway_of(stack: Stack) -> dict:
    """What the gateway says of itself; empty while it does not."""
    gateways = [each["status"]["gateway"] for each in (status(stack) or {}).get("gateways", []) if each.get("status")]
    return gateways[-1] if gateways else {}


def leaf_days(stack: Stack) -> int | None:
    """How long the leaf is good that the gateway serves with now."""
    return gateway_of(stack).get("leaf_days_left")


def failing_with(stack: Stack) -> str | None:
    """The code that a probe over connections of its own fails with."""
    return (probe(stack).get("failure") or {}).get("code")


def client_of(stack: Stack) -> Anthropic:
    return Anthropic(base_url=stack.base_url, api_key=stack.api_key)


def own_leaf(stack: Stack, place: Path) -> Path:
    """A copy of the leaf that the gateway has."""
    place.mkdir()
    for name in ("leaf.key", "leaf.pem"):
        (place / name).write_bytes((tls_of(stack) / name).read_bytes())
    return place


@contextmanager
def a_slow_call(stack: Stack, wiki: Process, milliseconds: int) -> Iterator[McpSession]:
    """A call that runs while the body does, and comes to its result."""
    mark = f"slow-{time.monotonic_ns()}"
    session = mcp_session(stack)
    session.send(slow(mark, milliseconds))
    until(lambda: marks_seen(wiki, mark), what="the slow call")
    yield session
    assert session.stop_reason() is None, "the slow call ended before what was to happen during it"
    session.finish(60)
    assert session.results() == [(False, "awake")]


def test_a_renewed_leaf_serves_new_calls_and_drops_no_running_one(stack: Stack, wiki: Process, tmp_path: Path):
    new = Authority(tls_of(stack)).leaf(stack, tmp_path / "new", 60.5)
    assert until(lambda: leaf_days(stack), 5, "the gateway's word") != 60
    with a_slow_call(stack, wiki, 12_000):
        put(stack, new)
        until(lambda: leaf_days(stack) == 60, 10, "the new leaf in use")
        assert sound(stack)
    with ThreadPoolExecutor(SESSIONS) as pool:
        assert works(pool, [mcp_session(stack) for _ in range(SESSIONS)], "renewed")


@pytest.mark.parametrize("wrong, code", [("expired", "certificate_expired"), ("foreign", "certificate_unknown_authority")])
def test_a_wrong_leaf_is_a_named_error_and_the_right_one_heals(stack: Stack, wiki: Process, tmp_path: Path, wrong: str, code: str):
    right = own_leaf(stack, tmp_path / "right")
    session = mcp_session(stack)
    assert session.call(mcp("search", query="before"))[0][0] is False
    (tmp_path / "ca").mkdir()
    authority = Authority(tls_of(stack)) if wrong == "expired" else Authority(tmp_path / "ca", "somebody else's")
    put(stack, authority.leaf(stack, tmp_path / "wrong", -1 if wrong == "expired" else 60))
    until(lambda: failing_with(stack) == code, 15, f"a probe that fails with {code}")
    # What was verified before stands until its connection ends.
    before = connections(stack)
    kill(stack, "connector")
    until(lambda: stands_anew(stack, before), 10, "the tunnel")
    mark = f"wrong-{time.monotonic_ns()}"
    [(error, text)] = session.call(slow(mark, 0), seconds=15)
    assert error and f"{code}: " in text and NOT_RUN.search(text) and "Next step: " in text, text
    assert not marks_seen(wiki, mark)
    put(stack, right)
    until(lambda: sound(stack), 15, "the right leaf in use")
    [(error, text)] = session.call(mcp("search", query="after"))
    assert not error, text


def test_a_second_ca_is_registered_and_switched_to_without_a_dropped_call(stack: Stack, wiki: Process, tmp_path: Path):
    certificates, tunnel = client_of(stack).beta.tunnels.certificates, stack.ready["tunnel_id"]
    [first] = list(certificates.list(tunnel))
    right = own_leaf(stack, tmp_path / "right")
    (tmp_path / "ca").mkdir()
    second = Authority(tmp_path / "ca", "the second")
    stop, session, results = threading.Event(), mcp_session(stack), []

    def call_again_and_again() -> None:
        while not stop.is_set():
            results.extend(session.call(mcp("search", query="on and on")))

    with ThreadPoolExecutor(1) as pool, a_slow_call(stack, wiki, 20_000):
        calling = pool.submit(call_again_and_again)
        try:
            registered = certificates.create(tunnel, ca_certificate_pem=second.pem.read_text())
            assert sound(stack)
            put(stack, second.leaf(stack, tmp_path / "new", 45.5))
            until(lambda: leaf_days(stack) == 45, 10, "the new leaf in use")
            assert sound(stack)
            certificates.archive(first.id, tunnel_id=tunnel)
            assert sound(stack)
            so_far = len(results)
            until(lambda: len(results) > so_far + 1 or calling.done(), 10, "calls under the second CA alone")
        finally:
            stop.set()
        calling.result(30)
    assert [text for error, text in results if error] == []
    # And back, as it was.
    certificates.create(tunnel, ca_certificate_pem=(tls_of(stack) / "ca.pem").read_text())
    put(stack, right)
    until(lambda: leaf_days(stack) != 45, 15, "the first leaf in use")
    certificates.archive(registered.id, tunnel_id=tunnel)
    assert sound(stack)


def test_without_a_ca_every_call_is_refused(stack: Stack, wiki: Process):
    certificates, tunnel = client_of(stack).beta.tunnels.certificates, stack.ready["tunnel_id"]
    connected, fresh = mcp_session(stack), mcp_session(stack)
    assert connected.call(mcp("search", query="before"))[0][0] is False
    [only] = list(certificates.list(tunnel))
    certificates.archive(only.id, tunnel_id=tunnel)
    assert failing_with(stack) == "certificate_none"
    mark = f"no-ca-{time.monotonic_ns()}"
    [(error, text)] = connected.call(slow(mark, 0), seconds=15)
    assert error and "certificate_none: " in text and NOT_RUN.search(text), text
    fresh.send(slow(mark, 0))
    fresh.finish(15)
    assert [(each.type, "certificate_none" in each.message) for each in fresh.errors()] == [("mcp_connection_failed_error", True)]
    assert not marks_seen(wiki, mark)
    certificates.create(tunnel, ca_certificate_pem=(tls_of(stack) / "ca.pem").read_text())
    assert sound(stack)
    with ThreadPoolExecutor(2) as pool:
        assert works(pool, [connected, fresh], "after")


def test_a_rotated_token_ends_no_connection_and_the_old_one_makes_no_new_one(stack: Stack, wiki: Process):
    """The last of this stack: it is restarted."""
    tunnel, session = stack.ready["tunnel_id"], mcp_session(stack)
    before = connections(stack)
    with a_slow_call(stack, wiki, 8000):
        client_of(stack).beta.tunnels.rotate_token(tunnel)
        assert session.call(mcp("search", query="rotated"))[0][0] is False
    assert connections(stack) == before
    kill(stack, "connector")
    until(lambda: "token_refused" in codes(stack), 10, "the refusal of the old token, by name")
    assert connections(stack) == {}
    [(error, text)] = session.call(mcp("search", query="offline"), seconds=15)
    assert error and "tunnel_offline: " in text and NOT_RUN.search(text), text
    assert stack.stop() == 0
    stack.start()
    assert sound(stack)
    [(error, text)] = session.call(mcp("search", query="restarted"))
    assert not error, text


def codes(stack: Stack) -> set[str]:
    """The codes of what went wrong last, as the edge and the gateway say it."""
    return {each["code"] for part in (status(stack) or {}, gateway_of(stack)) for each in part.get("last_errors", [])}
