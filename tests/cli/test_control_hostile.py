"""Control streams with a hostile end: a server that asks a real worker for anything, and perimeters that claim what is not theirs."""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path

import pytest
from anthropic import Anthropic
from conftest import BINARY, Stack, descendants, tool, until
from control import begin, call, result, send

UPGRADE = ("GET /v1/perimeter/control HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: postern-control/1\r\n"
           "anthropic-version: 2023-06-01\r\nanthropic-beta: managed-agents-2026-04-01\r\nauthorization: Bearer {}\r\n{}\r\n")
FILE_BYTES = 4 << 20


def frame(word: dict) -> bytes:
    text = json.dumps(word).encode()
    return struct.pack("<I", len(text)) + text


class Stream:
    """One end of a control stream."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.connection.settimeout(20)
        self.buffer = b""

    def read(self, count: int) -> bytes:
        while len(self.buffer) < count:
            chunk = self.connection.recv(1 << 20)
            if not chunk:
                raise EOFError
            self.buffer += chunk
        taken, self.buffer = self.buffer[:count], self.buffer[count:]
        return taken

    def head(self) -> str:
        while b"\r\n\r\n" not in self.buffer:
            chunk = self.connection.recv(65536)
            if not chunk:
                raise EOFError
            self.buffer += chunk
        head, self.buffer = self.buffer.split(b"\r\n\r\n", 1)
        return head.decode()

    def word(self) -> dict:
        """The next word that is no ping."""
        while True:
            word = json.loads(self.read(struct.unpack("<I", self.read(4))[0]))
            if word["say"] != "ping":
                return word

    def say(self, word: dict) -> None:
        self.connection.sendall(frame(word))

    def ends(self) -> float:
        """Seconds until the other side ends it, well or not."""
        began = time.monotonic()
        try:
            while self.word()["say"] != "bye":
                pass
        except (EOFError, OSError):
            pass
        return time.monotonic() - began


class HostileServer:
    """Stands between a worker and its server: everything is passed on but the control stream, which is played here."""

    def __init__(self, port: int) -> None:
        self.upstream = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.stream: Stream | None = None
        self.streams = 0
        self.sessions: list[str] = []
        self.ids = 0
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self) -> None:
        while True:
            connection, _ = self.listener.accept()
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection: socket.socket) -> None:
        stream = Stream(connection)
        try:
            first = stream.head()
            if "GET /v1/perimeter/control" in first:
                connection.sendall(b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: postern-control/1\r\n\r\n")
                assert stream.word()["say"] == "hello"
                self.stream = stream
                self.streams += 1
                return
            with socket.create_connection(("127.0.0.1", self.upstream)) as server:
                server.sendall(first.encode() + b"\r\n\r\n" + stream.buffer)
                back = threading.Thread(target=pump, args=(server, connection), daemon=True)
                back.start()
                connection.settimeout(None)
                pump(connection, server)
        except (OSError, EOFError):
            connection.close()

    def send(self, body: dict) -> int:
        self.ids += 1
        self.stream.say({"say": "command", "id": self.ids, "body": body})
        return self.ids

    def answer(self, command: int) -> dict:
        while True:
            word = self.stream.word()
            if word["say"] == "answer" and word["id"] == command:
                return word["result"]

    def command(self, body: dict) -> str:
        """`ok`, or the refusal's code."""
        outcome = self.answer(self.send(body))
        return "ok" if "Ok" in outcome else outcome["Err"]["code"]

    def put(self, session: str, name: str, content: bytes, path: str = "/workspace/.results/", mode: int = 0o644) -> dict:
        return {"do": "put_file", "session": session, "path": path + name, "bytes": base64.b64encode(content).decode(), "mode": mode}


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while chunk := source.recv(65536):
            target.sendall(chunk)
    except OSError:
        pass
    for end in (source, target):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


class WorkerApart:
    """A real worker whose server is hostile; `data` is its own."""

    def __init__(self, stack: Stack, server: HostileServer) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="postern-hostile-"))
        (self.directory / "key").write_text(stack.environment_key)
        (self.directory / "key").chmod(0o600)
        (self.directory / "postern.toml").write_text(f"""config = 1
[worker]
server = "http://127.0.0.1:{server.port}"
environment = "{stack.environment_id}"
environment_key_file = "{self.directory}/key"
""")
        self.start()

    def start(self) -> None:
        log = (self.directory / "log").open("ab")
        self.process = subprocess.Popen([BINARY, "worker", "--config", "postern.toml", "--data-dir", "data"], cwd=self.directory,
                                        stdout=subprocess.DEVNULL, stderr=log, start_new_session=True)

    def kill(self) -> None:
        for pid in [self.process.pid, *descendants(self.process.pid)]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait()

    def place(self, session: str) -> Path:
        return self.directory / "data/perimeter/work" / session

    def records(self, kind: str) -> int:
        files = (self.directory / "data/perimeter/audit").glob("*.jsonl")
        return sum(f'"{kind}"' in line for file in files for line in file.read_text().splitlines())


@pytest.fixture(scope="module")
def hostile(new_stack):
    stack = new_stack(arguments=["--no-worker", "--no-gateway"])
    server = HostileServer(int(stack.base_url.rsplit(":", 1)[1]))
    worker = WorkerApart(stack, server)
    until(lambda: server.stream, 60, "the worker's control stream")
    yield stack, server, worker
    worker.kill()


def reconnected(server: HostileServer, streams: int) -> None:
    until(lambda: server.streams > streams, 20, "another control stream")


def test_a_hostile_server_gets_nothing_but_results_and_holds(hostile):
    stack, server, worker = hostile
    client, session = begin(stack, tool("bash", command="echo one"))
    assert "one" in result(client, session, 1, 60)
    place = worker.place(session)
    for path, name in [("/workspace/", "x"), ("/etc/", "passwd"), ("/workspace/.results/../", "x"), ("/workspace/.results/", "a/b"),
                       ("/workspace/.results/", ".x"), ("", "x")]:
        assert server.command(server.put(session, name, b"x", path)) == "path_not_allowed", path + name
    assert server.command(server.put(session, "x", b"x", mode=0o4755)) == "mode_not_allowed"
    assert list((place / "workspace").glob("**/x")) == []
    for stranger in ("sesn_011CZkZAtmR3yMPDzynEDxu8",):
        assert server.command(server.put(stranger, "x", b"x")) == "session_not_held"
        for verb in ("freeze", "thaw", "revoke_grants"):
            assert server.command({"do": verb, "session": stranger}) == "session_not_held"
        assert not worker.place(stranger).exists()
    for words in [{"do": "run", "command": "id"}, {"do": "freeze", "session": "../../x"}, {"do": "put_file", "session": session}]:
        streams, stream = server.streams, server.stream
        server.send(words)
        assert stream.ends() < 5, words
        reconnected(server, streams)
    assert server.command({"do": "freeze", "session": session}) == "ok"
    assert server.command({"do": "thaw", "session": session}) == "ok"
    assert (worker.records("session_frozen"), worker.records("session_thawed")) == (1, 1)
    for _ in range(3):
        assert server.command({"do": "freeze", "session": session}) == "ok"
    assert server.command({"do": "thaw", "session": session}) == "ok"
    assert (worker.records("session_frozen"), worker.records("session_thawed")) == (2, 2), "what changes nothing is no record"


def test_links_that_a_running_command_swaps_lead_nowhere(hostile):
    stack, server, worker = hostile
    outside = Path(tempfile.mkdtemp(prefix="postern-outside-"))
    outside.chmod(0o777)
    (outside / "victim").write_text("untouched")
    (outside / "victim").chmod(0o666)
    swap = (f"echo go > swapping; while [ ! -e enough ]; do ln -sfn {outside} .results 2>/dev/null; rm -f .results; "
            f"mkdir -p .results; ln -sf {outside}/victim .results/a 2>/dev/null; ln -sf {outside}/victim .results/.a.part 2>/dev/null; "
            "rm -rf .results; done; echo swapped")
    client, session = begin(stack, tool("bash", command=swap))
    workspace = worker.place(session) / "workspace"
    until(lambda: (workspace / "swapping").exists(), 60, "the swaps")
    outcomes = []
    until_then = time.monotonic() + 4
    while time.monotonic() < until_then:
        outcomes.append(server.command(server.put(session, "a", b"new" * 1000)))
        time.sleep(0.05)  # The worker obeys so many a second.
    (workspace / "enough").touch()
    assert "swapped" in result(client, session, 1, 30)
    assert set(outcomes) <= {"ok", "results_obstructed", "worker_storage", "limit_commands"}, set(outcomes)
    assert "ok" in outcomes, set(outcomes)
    assert (outside / "victim").read_text() == "untouched"
    assert [entry.name for entry in outside.iterdir()] == ["victim"]


def test_a_session_takes_so_many_bytes_and_no_more(hostile):
    stack, server, worker = hostile
    client, session = begin(stack, tool("bash", command="echo one"))
    assert "one" in result(client, session, 1, 60)
    outcomes = [server.command(server.put(session, f"f{n}", b"x" * FILE_BYTES)) for n in range(17)]
    assert outcomes == ["ok"] * 16 + ["limit_result_bytes"]
    assert server.command(server.put(session, "f3", b"x" * FILE_BYTES)) == "ok", "the same again counts once"
    send(client, session, tool("bash", command="ls .results | wc -l; stat -c %U .results/f0; head -c 2 .results/f0; rm -r .results"))
    text = result(client, session, 2)
    assert "16" in text and "agent" in text and "xx" in text, text


def test_a_worker_that_is_killed_while_it_writes_leaves_the_whole_file_or_none(hostile):
    stack, server, worker = hostile
    client, session = begin(stack, tool("bash", command="echo one"))
    assert "one" in result(client, session, 1, 60)
    place = worker.place(session)
    whole = b"0123456789abcdef" * (FILE_BYTES // 16)
    seen = {"whole": 0, "none": 0}
    for attempt in range(6):
        name = f"k{attempt}"
        before = place.joinpath("results").stat().st_size if place.joinpath("results").exists() else 0
        server.send(server.put(session, name, whole))
        # From before its journal to after its end.
        if attempt % 3:
            until(lambda: place.joinpath("results").exists() and place.joinpath("results").stat().st_size > before, 10, "its line")
        if attempt % 3 == 2:
            until(lambda: (place / "workspace/.results" / f".{name}.part").exists() or (place / "workspace/.results" / name).exists(), 10)
        streams = server.streams
        worker.kill()
        file = place / "workspace/.results" / name
        assert not file.exists() or file.read_bytes() == whole, "half a file"
        seen["whole" if file.exists() else "none"] += 1
        worker.start()
        reconnected(server, streams)
        until(lambda: server.command(server.put(session, name, whole)) == "ok", 20, "the file after the restart")
        assert file.read_bytes() == whole
        assert not (file.parent / f".{name}.part").exists()
    lines = [json.loads(line)["name"] for line in (place / "results").read_text().splitlines()]
    assert sorted(lines) == [f"k{n}" for n in range(6)], "each is counted once"
    print(seen)


def test_floods_leave_the_worker_serving(hostile):
    stack, server, worker = hostile
    client, session = begin(stack, tool("bash", command="echo one"))
    assert "one" in result(client, session, 1, 60)
    before = worker.records("file_put")
    for _ in range(600):
        server.send(server.put(session, "../x", b""))
        server.stream.say({"say": "ping"})
    outcomes = []
    while len(outcomes) < 600:
        word = server.stream.word()
        if word["say"] == "answer":
            outcomes.append(word["result"]["Err"]["code"])
    assert set(outcomes) == {"path_not_allowed", "limit_commands"}
    assert worker.records("file_put") - before < 500, "a flood does not fill the log"
    streams, stream = server.streams, server.stream
    stream.connection.sendall(b"\xff\xff\xff\x7f half a frame")
    assert stream.ends() < 5
    reconnected(server, streams)
    send(client, session, tool("bash", command="echo two"))
    assert "two" in result(client, session, 2)


# Hostile perimeters before a real server.


def dial(stack: Stack, key: str, more: str = "", after: bytes = b"") -> tuple[Stream, str]:
    host, port = stack.base_url.removeprefix("http://").split(":")
    stream = Stream(socket.create_connection((host, int(port))))
    stream.connection.sendall(UPGRADE.format(key, more).encode() + after)
    return stream, stream.head().split("\r\n")[0]


def hello(role: str, *sessions: str, name: str = "hostile") -> dict:
    return {"say": "hello", "role": role, "version": "1", "name": name, "sessions": list(sessions), "perimeter_public_key": None}


def own(stack: Stack, method: str, path: str, body: dict | None = None, beta: str = "managed-agents-2026-04-01") -> dict:
    import urllib.request
    headers = {"authorization": f"Bearer {stack.api_key}", "anthropic-beta": beta, "content-type": "application/json"}
    data = json.dumps(body).encode() if body is not None else None
    with urllib.request.urlopen(urllib.request.Request(stack.base_url + path, data, headers, method=method), timeout=20) as answer:
        return json.load(answer)


TUNNELS = "mcp-tunnels-2026-06-22"


def environment(stack: Stack, name: str) -> tuple[str, str]:
    made = own(stack, "POST", "/v1/environments", {"name": name, "config": {"type": "self_hosted"}})["id"]
    key = own(stack, "POST", f"/v1/environments/{made}/keys", {"name": "k"})
    return made, max((value for value in key.values() if isinstance(value, str) and value.startswith("pst_env_")), key=len)


def names(stack: Stack) -> list[str]:
    return [process["name"] for process in call(stack, "GET", "/v1/perimeter/status")[1]["data"]]


def standing(stack: Stack, key: str, role: str, name: str, *sessions: str) -> Stream:
    stream, status = dial(stack, key)
    assert "101" in status, status
    stream.say(hello(role, *sessions, name=name))
    answering = threading.Thread(target=answer_status, args=(stream,), daemon=True)
    answering.start()
    stream.answering = answering
    until(lambda: name in names(stack), 10, f"{name} at the hub")
    return stream


def answer_status(stream: Stream) -> None:
    """Refuses everything but stays; notes what was asked, and when the end came."""
    stream.asked, stream.over = [], None
    try:
        while (word := stream.word())["say"] != "bye":
            stream.asked.append(word["body"])
            refusal = {"code": "session_not_held", "message": "m", "next_step": "n"}
            if word["body"]["do"] != "status" and getattr(stream, "obeys", False):
                stream.say({"say": "answer", "id": word["id"], "result": {"Ok": {"type": "done"}}})
            else:
                stream.say({"say": "answer", "id": word["id"], "result": {"Err": refusal}})
    except (OSError, EOFError):
        pass
    stream.over = time.monotonic()


def over_within(stream: Stream, seconds: float, what: str) -> None:
    began = time.monotonic()
    until(lambda: stream.over, 10, what)
    assert stream.over - began < seconds, what


def test_an_archived_environment_ends_its_streams_within_a_second(postern: Stack):
    made, key = environment(postern, "to be archived")
    stream = standing(postern, key, "worker", "archived-one")
    own(postern, "POST", f"/v1/environments/{made}/archive")
    over_within(stream, 1.0, "the stream of an archived environment")
    assert "101" not in dial(postern, key)[1]


def test_a_tunnels_token_opens_a_gateways_stream_until_it_is_revoked(postern: Stack):
    tunnel = own(postern, "POST", "/v1/tunnels", {"display_name": "control"}, TUNNELS)["id"]
    reveal = lambda: own(postern, "POST", f"/v1/tunnels/{tunnel}/reveal_token", {}, TUNNELS)["tunnel_token"]
    first = reveal()
    gateway = standing(postern, first, "gateway", "tunnel-one")
    liar, status = dial(postern, first)
    assert "101" in status
    liar.say(hello("worker"))
    assert liar.ends() < 5, "a tunnel's token makes no worker"
    own(postern, "POST", f"/v1/tunnels/{tunnel}/rotate_token", {}, TUNNELS)
    assert "401" in dial(postern, first)[1], "the old token opens nothing new"
    second = standing(postern, reveal(), "gateway", "tunnel-two")
    time.sleep(1.2)  # Nothing to wait for: what is shown is that nothing happens.
    assert gateway.over is None, "what stood before a rotation stays"
    own(postern, "POST", f"/v1/tunnels/{tunnel}/revoke_token", {}, TUNNELS)
    over_within(gateway, 1.0, "the old token's stream")
    over_within(second, 1.0, "the revoked token's stream")
    own(postern, "POST", f"/v1/tunnels/{tunnel}/rotate_token", {}, TUNNELS)
    third = standing(postern, reveal(), "gateway", "tunnel-three")
    own(postern, "POST", f"/v1/tunnels/{tunnel}/archive", {}, TUNNELS)
    over_within(third, 1.0, "an archived tunnel's stream")


def test_a_worker_is_told_of_its_environments_sessions_alone_whatever_it_claims(postern: Stack):
    client, session = begin(postern, tool("bash", command="echo one"))
    assert "one" in result(client, session, 1)
    _, key = environment(postern, "thief")
    claims = [session] + [f"sesn_{n:024d}" for n in range(4095)]
    thief = standing(postern, key, "worker", "thief", *claims)
    code, answer = call(postern, "POST", f"/v1/sessions/{session}/freeze")
    assert code == 200, answer
    assert call(postern, "POST", f"/v1/sessions/{session}/thaw")[0] == 200
    assert [body for body in thief.asked if body["do"] != "status"] == []
    thief.connection.sendall(frame({"say": "sessions", "sessions": claims + ["sesn_" + "x" * 24]}))
    over_within(thief, 5, "a claim of too many")


def test_a_worker_that_claims_anothers_session_does_not_swallow_its_freeze(new_stack):
    stack = new_stack(arguments=["--no-gateway"])
    until(lambda: names(stack), 60, "the worker")
    ticks = "while [ ! -e enough ]; do echo t >> ticks; sleep 0.05; done; echo over"
    client, session = begin(stack, tool("bash", command=ticks))
    file = stack.data / "perimeter/work" / session / "workspace/ticks"
    until(file.exists, 60, "the first tick")
    claimer = standing(stack, stack.environment_key, "worker", "claimer", session)
    claimer.obeys = True
    code, answer = call(stack, "POST", f"/v1/sessions/{session}/freeze")
    assert code == 200, answer
    size = file.stat().st_size
    time.sleep(0.6)  # Nothing to wait for: what is shown is that nothing happens.
    assert file.stat().st_size == size, "the claimer's word was taken for the worker's"
    # The session is not open at its worker any more, and is still its own.
    assert call(stack, "POST", f"/v1/sessions/{session}/thaw")[0] == 200
    (file.parent / "enough").touch()
    assert "over" in result(client, session, 1)
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", what="idle")
    stack.obeyed = [body for body in claimer.asked if body["do"] == "freeze"]
    assert stack.obeyed, "who claims a session is told, too"


def test_bytes_with_the_head_belong_to_the_stream_and_never_to_another_request(postern: Stack):
    key = postern.environment_key
    stream, status = dial(postern, key, after=frame(hello("worker", name="early")))
    assert "101" in status
    until(lambda: "early" in names(postern), 10, "a hello that came with the head")
    stream.connection.close()
    smuggled = b"GET /v1/perimeter/status HTTP/1.1\r\nhost: x\r\nauthorization: Bearer " + postern.api_key.encode() + b"\r\n\r\n"
    stream, status = dial(postern, key, after=smuggled)
    assert "101" in status
    assert stream.ends() < 5 and b"HTTP/1.1" not in stream.buffer
    for more, after in [("content-length: 5\r\n", b"hello"), ("transfer-encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n")]:
        stream, status = dial(postern, key, more, after + smuggled)
        assert " 101 " not in status + " ", f"an upgrade with a body: {status}"
    # Two lengths, or a length beside chunks, are no request at all.
    for more in ["content-length: 0\r\ncontent-length: 40\r\n", "content-length: 4\r\ntransfer-encoding: chunked\r\n"]:
        stream, status = dial(postern, key, more, b"0\r\n\r\n" + smuggled)
        assert " 200 " not in status and " 101 " not in status, status
