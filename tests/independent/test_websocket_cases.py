"""Autobahn's WebSocket cases through a sandbox's exit: valid frames arrive as they were sent, both ways, and invalid ones are not passed on as something else."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import json
import os
import queue
import re
import shutil
import ssl
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import results_of, tool
from hosts import certificate
from websockets.asyncio.server import serve

CHECKERS = Path(os.environ.get("POSTERN_CHECKERS", Path(__file__).parents[2] / "target/checkers"))
PLAYER = Path(__file__).parent / "websocket_cases.py"
HOSTS = ["strict.streams.internal", "lax.streams.internal"]
# Framing, pings, reserved bits, opcodes, fragments, UTF-8, closing, sizes and times: how many cases of each are played.
CATEGORIES = {"1": 16, "2": 11, "3": 7, "4": 10, "5": 20, "6": 145, "7": 37, "9": 12, "10": 1}
# Those in which frames themselves are invalid: pings that are too long, reserved bits, opcodes, fragments out of place.
FRAMING = ["2", "3", "4", "5"]
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


class Echo:
    """A WebSocket server that sends every message back, and keeps what it was sent by the path that was asked for."""

    def __init__(self, directory: Path):
        self.seen: dict[str, list] = {}
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        ready: queue.Queue = queue.Queue()
        self.thread = threading.Thread(target=asyncio.run, args=[self.run(ready)], daemon=True)
        self.thread.start()
        self.port, self.loop, self.ended = ready.get(timeout=10)

    async def run(self, ready: queue.Queue) -> None:
        ended = asyncio.Event()
        async with serve(self.echo, "127.0.0.1", 0, ssl=self.context, compression=None, max_size=None, ping_interval=None) as server:
            ready.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), ended))
            await ended.wait()

    async def echo(self, connection) -> None:
        seen = self.seen.setdefault(connection.request.path.removeprefix("/"), [])
        async for message in connection:
            kind = "text" if isinstance(message, str) else "binary"
            data = message.encode() if kind == "text" else message
            seen.append((kind, len(data), hashlib.sha256(data).hexdigest()))
            await connection.send(message)

    def taken(self) -> dict[str, list]:
        """What it was sent since this was last asked."""
        seen, self.seen = self.seen, {}
        return seen

    def end(self) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.thread.join(timeout=10)


class Lax(Echo):
    """A server that judges nothing: it sends every frame back as it came, a ping as a pong, and keeps each: its first byte and its payload."""

    async def run(self, ready: queue.Queue) -> None:
        ended = asyncio.Event()
        async with await asyncio.start_server(self.mirror, "127.0.0.1", 0, ssl=self.context) as server:
            ready.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), ended))
            await ended.wait()

    async def mirror(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, OSError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            seen = self.seen.setdefault(head.split(" ")[1].removeprefix("/"), [])
            key = re.search(r"(?i)^sec-websocket-key: *(\S+)", head, re.MULTILINE)[1]
            accept = base64.b64encode(hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
            writer.write(f"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Accept: {accept}\r\n\r\n".encode())
            while True:
                first, second = await reader.readexactly(2)
                size = {126: 2, 127: 8}.get(second & 0x7F, 0)
                length = await reader.readexactly(size)
                mask = await reader.readexactly(4)
                data = await reader.readexactly(int.from_bytes(length) if size else second & 0x7F)
                payload = bytes(byte ^ mask[place % 4] for place, byte in enumerate(data)) if any(mask) else data
                seen.append((first, payload))
                writer.write(bytes([first + (first & 0xF == 9), second & 0x7F]) + length + payload)
                if first & 0xF == 8:
                    break
        writer.close()


RULE = """
[[zone.streams.egress]]
host = "{}"
connect = "127.0.0.1:{}"
addresses = ["127.0.0.0/8"]
ca_file = "{}/tls/ca.pem"
websocket = true
"""


@pytest.fixture(scope="module")
def played(new_stack):
    """`played(server)`: what became of each case, and what this server saw of it: directly, and through a sandbox's exit."""
    [cases] = CHECKERS.glob("lib/python3*/site-packages/autobahntestsuite/case")
    directory = Path(tempfile.mkdtemp(prefix="postern-cases-"))
    directory.chmod(0o755)
    certificate(directory / "tls", *HOSTS)
    shutil.copytree(cases, directory / "given/cases", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(PLAYER, directory / "given")
    servers = {"strict": Echo(directory / "tls"), "lax": Lax(directory / "tls")}
    stack = None

    def play(which: str, categories: dict[str, int], patience: int) -> SimpleNamespace:
        nonlocal stack
        stack = stack or new_stack(f"""
[zone.streams]
environment = "default"
[zone.streams.sandbox]
mounts = [{{ host = "{directory}/given", at = "/given", access = "read" }}]
""" + "".join(RULE.format(host, server.port, directory) for host, server in zip(HOSTS, servers.values(), strict=True)))
        how = [",".join(categories), str(patience)]
        host, server = HOSTS[list(servers).index(which)], servers[which]
        to = ["127.0.0.1", str(server.port), host, directory / "tls/ca.pem"]
        direct = subprocess.run([sys.executable, PLAYER, directory / "given/cases", *how, *to], capture_output=True, text=True, timeout=240)
        assert direct.returncode == 0, direct.stderr[-3000:]
        seen_directly = server.taken()
        command = f"/usr/bin/python3 /given/websocket_cases.py /given/cases {' '.join(how)} {host} 443 {host}"
        said, through = results_of(stack, tool("bash", command=f"{command} > results 2> said; tail -c 3000 said", timeout_ms=240_000),
                                   tool("bash", command="cat results"), seconds=300)
        assert through.startswith("{"), said + through
        return SimpleNamespace(direct=json.loads(direct.stdout), through=json.loads(through.split("\n[postern]")[0]), stack=stack,
                               seen_directly=seen_directly, seen_through=server.taken())

    try:
        yield play
    finally:
        for server in servers.values():
            server.end()
        shutil.rmtree(directory, ignore_errors=True)


def how_many(results: dict) -> Counter:
    return Counter(number.split("_")[0] for number in results)


def said(frames: list[tuple[int, bytes]]) -> list:
    """What frames say, whoever cuts messages into how many: where a message begins and ends, its bytes, and control frames."""
    items, begun = [], False
    for first, payload in frames:
        if first & 0x8:
            items.append((first, payload))
            continue
        if not (begun and first & 0x7F == 0):
            items.append(first & 0x7F)
        items += [payload[place:place + 1] for place in range(len(payload))]
        begun = not first >> 7
        items += [] if begun else ["end"]
    return items


def test_every_case_ends_as_it_does_without_us_and_its_messages_arrive_as_they_were_sent(played):
    run = played("strict", CATEGORIES, patience=6)
    assert how_many(run.direct) == CATEGORIES and set(run.through) == set(run.direct)
    # The server takes a close within a message for an error. How soon one is seen may differ: it is judged less strictly then.
    for results in (run.direct, run.through):
        failed = {number: result for number, result in results.items() if result["behavior"] not in PASSED and number != "7_1_5"}
        assert failed == {}
    changed = {number: (result, run.through[number]) for number, result in run.direct.items() if result["close"] != run.through[number]["close"]}
    assert changed == {}
    # A close right behind a message may come before it was sent back, and the server then asks for no more.
    early = "7_1_6"
    directly, through = run.seen_directly.pop(early), run.seen_through.pop(early)
    assert directly[:1] == through[:1] != []
    assert run.seen_through == run.seen_directly
    assert sum(len(messages) for messages in run.seen_through.values()) > 2000


def test_no_invalid_frame_reaches_a_server_that_would_take_it(played):
    run = played("lax", {category: CATEGORIES[category] for category in FRAMING}, patience=6)
    assert set(run.through) == set(run.direct)
    # A server that judges nothing fails these: the client waits in vain for their refusal.
    taken = {number for number, result in run.direct.items() if result["close"] == "FAILED BY CLIENT"}
    assert len(taken) == 29 and {run.direct[number]["behavior"] for number in taken} == {"FAILED"}
    # A close with reserved bits ends the conversation there as well.
    invalid = taken | {"3_7"}
    for number in run.direct:
        directly, through = said(run.seen_directly[number]), said(run.seen_through[number])
        if number in invalid:
            assert run.through[number]["behavior"] in PASSED and run.through[number]["code"] == 1002, (number, run.through[number])
            assert through == directly[:len(through)] and len(through) < len(directly), (number, through, directly)
        else:
            assert through == directly, number
            assert run.through[number]["close"] == run.direct[number]["close"], (number, run.direct[number], run.through[number])
        for first, payload in run.seen_through[number]:
            control = first & 0x8 != 0
            assert first & 0x70 == 0 and first & 0xF in (0, 1, 2, 8, 9, 10) and (not control or first >> 7 and len(payload) <= 125), (number, first)
    records = [json.loads(line) for file in run.stack.data.glob("perimeter/audit/*.jsonl") for line in file.read_text().splitlines()]
    assert any(record.get("reason") == "request_malformed" and (record.get("destination") or {}).get("host") == HOSTS[1] for record in records)
