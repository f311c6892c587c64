"""HTTP/2 and WebSocket through a sandbox's exit, with real clients inside and real servers outside."""

from __future__ import annotations

import asyncio
import json
import queue
import shutil
import ssl
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import websockets
from conftest import WAYS, Stack, results_of, tool
from hosts import certificate
from websockets.asyncio.server import serve

TOKEN = "journey-stream-token-8c4f2e6b1d9a7350"
TWO, LIVE = "two.streams.internal", "live.streams.internal"
# Speaks HTTP/2, and HTTP/1.1 to whoever wants that; says which, and what it was sent.
HTTP2_SERVER = """
const { createSecureServer } = require("http2"), { readFileSync } = require("fs"), directory = process.argv[1];
const server = createSecureServer({ key: readFileSync(directory + "/key.pem"), cert: readFileSync(directory + "/cert.pem"), allowHTTP1: true },
  (request, response) => {
    response.setHeader("x-echo", request.headers.authorization || "none");
    response.end(`upstream HTTP/${request.httpVersion} ${request.headers.authorization}\\n`);
  });
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
"""


async def greet_and_echo(connection) -> None:
    """Says what its handshake held, then sends every message back."""
    await connection.send("hello " + connection.request.headers.get("Authorization", "nobody"))
    async for message in connection:
        await connection.send(message)


def serve_websockets(context: ssl.SSLContext) -> tuple[int, Callable[[], None]]:
    """A WebSocket server in a thread of its own: its port, and what ends it. One thread: OpenSSL is not read and written by two."""
    ready: queue.Queue = queue.Queue()

    async def run() -> None:
        ended = asyncio.Event()
        async with serve(greet_and_echo, "127.0.0.1", 0, ssl=context) as server:
            ready.put((server.sockets[0].getsockname()[1], asyncio.get_running_loop(), ended))
            await ended.wait()

    thread = threading.Thread(target=asyncio.run, args=[run()], daemon=True)
    thread.start()
    port, loop, ended = ready.get(timeout=10)

    def end() -> None:
        loop.call_soon_threadsafe(ended.set)
        thread.join(timeout=10)

    return port, end


@pytest.fixture(scope="module")
def stack_with_streams(new_stack) -> Iterator[Stack]:
    directory = Path(tempfile.mkdtemp(prefix="postern-streams-"))
    certificate(directory, TWO, LIVE)
    (directory / "token").write_text(TOKEN)
    (directory / "token").chmod(0o600)
    shutil.copytree(Path(websockets.__file__).parent, directory / "peers/websockets")
    http2 = subprocess.Popen(["node", "-e", HTTP2_SERVER, str(directory)], stdout=subprocess.PIPE)
    port = json.loads(http2.stdout.readline())["port"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    live_port, end_live = serve_websockets(context)
    rule = """
[[zone.streams.egress]]
host = "{}"
credential = "streams"
connect = "127.0.0.1:{}"
addresses = ["127.0.0.0/8"]
ca_file = "{}/ca.pem"
"""
    try:
        yield new_stack(f"""
[zone.streams]
environment = "default"
[zone.streams.sandbox]
mounts = [{{ host = "{directory}/peers", at = "/peers", access = "read" }}]
[[zone.streams.credential]]
name = "streams"
source = "file:{directory}/token"
env = "STREAMS_KEY"
inject = [{{ header = "authorization" }}]
""" + rule.format(TWO, port, directory) + rule.format(LIVE, live_port, directory) + "websocket = true\n")
    finally:
        end_live()
        http2.kill()
        http2.wait()
        http2.stdout.close()
        shutil.rmtree(directory)


@WAYS
@pytest.mark.parametrize("asked, spoken", [("--http2", "2"), ("--http1.1", "1.1")])
def test_boundary_curl_speaks_http2_to_the_end_or_is_bridged_to_it(stack_with_streams: Stack, asked: str, spoken: str, way: str):
    request = f"{way}curl -sS {asked} -w 'client HTTP/%{{http_version}}' https://{TWO}/x -H \"Authorization: Bearer $STREAMS_KEY\" -D -"
    text, placeholder = results_of(stack_with_streams, tool("bash", command=request), tool("bash", command="echo $STREAMS_KEY"))
    placeholder = placeholder.strip()
    assert f"upstream HTTP/2.0 Bearer {placeholder}" in text and f"x-echo: Bearer {placeholder}" in text, text
    assert f"client HTTP/{spoken}" in text and TOKEN not in text, text


@WAYS
def test_boundary_curl_reads_a_refusal_over_http2(stack_with_streams: Stack, way: str):
    attempts = {
        f"https://{TWO}/x -H 'Host: {LIVE}'": "authority_mismatch",
        f'https://{TWO}/x -d "note=$STREAMS_KEY"': "placeholder_wrong_location",
        "https://elsewhere.example/": "host_not_allowed",
    }
    texts = results_of(stack_with_streams, *(tool("bash", command=f"{way}curl -sS --http2 {one}") for one in attempts))
    for text, reason in zip(texts, attempts.values(), strict=True):
        assert f'"reason":"{reason}"' in text, text


# What a client says over a WebSocket, and what it hears; the last is refused where the placeholder is in it.
CLIENT = """PYTHONPATH=/peers /usr/bin/python3 - <<'END'
import asyncio, os
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed
key = os.environ["STREAMS_KEY"]
async def talk():
    async with connect("wss://%s/live", additional_headers={"Authorization": "Bearer " + key}) as live:
        print("heard", await live.recv())
        for message in ["caf\\u00e9", b"\\x00\\xff" * 100_000, "x" * 70_000]:
            await live.send(message)
            print("same", await live.recv() == message)
        await live.send(["in ", "pieces"])
        print("heard", await live.recv(), await asyncio.wait_for(await live.ping(), 10) >= 0)
        try:
            await live.send("my key is " + key)
            print("heard", await live.recv())
        except ConnectionClosed as closed:
            print("closed", closed.rcvd.code, closed.rcvd.reason)
asyncio.run(talk())
END"""


@WAYS
def test_boundary_a_websocket_carries_the_secret_in_its_handshake_alone(stack_with_streams: Stack, way: str):
    command = CLIENT.replace("/usr/bin/python3", f"{way}/usr/bin/python3") % LIVE
    text, placeholder = results_of(stack_with_streams, tool("bash", command=command), tool("bash", command="echo $STREAMS_KEY"))
    assert f"heard hello Bearer {placeholder.strip()}" in text and text.count("same True") == 3, text
    assert "heard in pieces True" in text, text
    assert "closed 1008 postern: placeholder_wrong_location" in text, text
    assert f"[postern] refused {LIVE}:443 reason=placeholder_wrong_location" in text, text
    assert TOKEN not in text


@WAYS
def test_boundary_a_websocket_where_no_rule_carries_it_is_refused_with_the_key_to_set(stack_with_streams: Stack, way: str):
    handshake = "-H 'Connection: Upgrade' -H 'Upgrade: websocket' -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=='"
    text, = results_of(stack_with_streams, tool("bash", command=f"{way}curl -sS --http1.1 https://{TWO}/live {handshake}"))
    assert '"reason":"upgrade_refused"' in text and "websocket = true" in text, text
