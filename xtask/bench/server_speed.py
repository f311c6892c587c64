"""What the server adds to a model turn and to its first token, beside the same model server asked directly; and what a session of
50,000 events costs, beside one of 500.

Sockets and no SDK, so that little of the client is measured. Everything is committed as it is in production. Prints one JSON object:
milliseconds by name.
"""

from __future__ import annotations

import json
import socket
import sys
import tempfile
import time
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import conftest  # noqa: E402  (the journeys' stack, found through the path above)

TURNS_PER_ROUND = 50
WORDS = "twelve words that a model says in one short answer, no more"
FEW, MANY = 500, 50_000
SAMPLES = 40


class Http:
    """One kept connection to a server."""

    def __init__(self, url: str, key: str):
        at = urlsplit(url)
        self.host, self.headers = f"{at.hostname}:{at.port}", f"authorization: Bearer {key}\r\nanthropic-beta: managed-agents-2026-04-01\r\n"
        self.socket = socket.create_connection((at.hostname, at.port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""

    def send(self, method: str, path: str, body: object = None) -> None:
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nhost: {self.host}\r\n{self.headers}content-type: application/json\r\ncontent-length: {len(data)}\r\n\r\n"
        self.socket.sendall(head.encode() + data)

    def until(self, mark: bytes) -> float:
        """The time at which what arrives holds the mark; what came before it is dropped."""
        while mark not in self.buffer:
            more = self.socket.recv(1 << 16)
            assert more, f"closed before {mark}: {self.buffer[-500:]}"
            self.buffer += more
        at = time.perf_counter()
        self.buffer = self.buffer[self.buffer.index(mark) + len(mark):]
        return at

    def ask(self, method: str, path: str, body: object = None) -> dict:
        self.send(method, path, body)
        self.until(b"HTTP/1.1 200 OK\r\n")
        while b"\r\n\r\n" not in self.buffer:
            self.buffer += self.socket.recv(1 << 16)
        head, _, self.buffer = self.buffer.partition(b"\r\n\r\n")
        length = next(int(line.split(b":")[1]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:"))
        while len(self.buffer) < length:
            self.buffer += self.socket.recv(1 << 16)
        content, self.buffer = self.buffer[:length], self.buffer[length:]
        return json.loads(content)


def message() -> dict:
    return {"type": "user.message", "content": conftest.script({"text": WORDS})}


def turns(stack: conftest.Stack, agent: str, found: dict) -> None:
    """A session of short turns: from the sending of a message to its first preview, and to the end of its turn, at the client."""
    api, stream = Http(stack.base_url, stack.api_key), Http(stack.base_url, stack.api_key)
    session = api.ask("POST", "/v1/sessions", {"agent": agent, "environment_id": stack.environment_id})["id"]
    stream.send("GET", f"/v1/sessions/{session}/events/stream?event_deltas%5B%5D=agent.message")
    stream.until(b"\r\n\r\n")
    for _ in range(TURNS_PER_ROUND):
        start = time.perf_counter()
        api.send("POST", f"/v1/sessions/{session}/events", {"events": [message()]})
        found["first_ours"].append((stream.until(b"event: event_delta") - start) * 1000)
        found["turn_ours"].append((stream.until(b"event: session.status_idle") - start) * 1000)
        api.until(b"\r\n\r\n")
        stream.until(b"\n\n")
    api.ask("POST", f"/v1/sessions/{session}/archive")


def direct(model: str, found: dict) -> None:
    """The same words from the same model server."""
    http = Http(model, "rehearsal-key-not-a-secret")
    content = conftest.script({"text": WORDS})
    body = {"model": "rehearsal-1", "max_tokens": 1024, "stream": True, "messages": [{"role": "user", "content": content}]}
    for _ in range(TURNS_PER_ROUND):
        start = time.perf_counter()
        http.send("POST", "/v1/messages", body)
        found["first_direct"].append((http.until(b"event: content_block_delta") - start) * 1000)
        found["turn_direct"].append((http.until(b"event: message_stop") - start) * 1000)
        http.until(b"0\r\n\r\n")


def grown(http: Http, stack: conftest.Stack, agent: str, events: int) -> tuple[str, list[float]]:
    """A session of so many events, and what its last ones cost to append, each with its commit."""
    session = http.ask("POST", "/v1/sessions", {"agent": agent, "environment_id": stack.environment_id})["id"]
    took = []
    for number in range(events):
        start = time.perf_counter()
        http.ask("POST", f"/v1/sessions/{session}", {"title": f"event {number}"})
        took.append((time.perf_counter() - start) * 1000)
    return session, took[-SAMPLES * 5:]


def paged(http: Http, session: str, query: str) -> list[float]:
    took = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        http.ask("GET", f"/v1/sessions/{session}/events?limit=100{query}")
        took.append((time.perf_counter() - start) * 1000)
    return took


def resumed(stack: conftest.Stack, session: str) -> float:
    """After a restart: from the first message to a session until it is accepted, which loads the session."""
    stack.stop()
    stack.start()
    http = Http(stack.base_url, stack.api_key)
    http.ask("GET", "/v1/agents?limit=1")
    start = time.perf_counter()
    http.ask("POST", f"/v1/sessions/{session}/events", {"events": [message()]})
    return (time.perf_counter() - start) * 1000


def long_session(stack: conftest.Stack, agent: str, found: dict, restarts: int, many: int) -> None:
    http = Http(stack.base_url, stack.api_key)
    few, found["append_few"] = grown(http, stack, agent, FEW)
    long, found["append_many"] = grown(http, stack, agent, many)
    for name, session in (("few", few), ("many", long)):
        found[f"page_{name}"] = paged(http, session, "&order=desc")
        last = http.ask("GET", f"/v1/sessions/{session}/events?limit=100&order=desc")["next_page"]
        found[f"next_page_{name}"] = paged(http, session, f"&order=desc&page={last}")
    for _ in range(restarts):
        found["resume_few"].append(resumed(stack, few))
        found["resume_many"].append(resumed(stack, long))


def main(rounds: int) -> None:
    import subprocess

    # A run of a round or two is a trial of the measurement itself.
    many, restarts = (MANY // 10, 2) if rounds < 3 else (MANY, 5)
    model = subprocess.Popen([conftest.BINARY, "rehearsal"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    stack = None
    try:
        rehearsal = json.loads(model.stdout.readline())
        directory = Path(tempfile.mkdtemp(prefix="postern-bench-"))
        stack = conftest.Stack(directory, conftest.model_section(rehearsal), ["--no-worker", "--no-gateway"]).start()
        agent = Http(stack.base_url, stack.api_key).ask("POST", "/v1/agents", {"name": "bench", "model": "rehearsal-1"})["id"]
        names = ["first_ours", "turn_ours", "first_direct", "turn_direct", "resume_few", "resume_many"]
        found = {name: [] for name in names}
        for _ in range(rounds):
            turns(stack, agent, found)
            direct(rehearsal["url"], found)
        long_session(stack, agent, found, restarts, many)
        print(json.dumps(found | {"events": many}))
    finally:
        if stack:
            stack.kill()
        model.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
