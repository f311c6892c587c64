"""HTTP/2 under load, by h2load and nghttp: every stream is answered, none is lost and none is asked twice."""

from __future__ import annotations

import json
import re
import shutil
import ssl
import subprocess
import tempfile
import urllib.request
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import results_of, tool
from hosts import certificate
from listeners import listeners_with_tls

HOST = "load.streams.internal"
BETA = "managed-agents-2026-04-01"
ANSWER = 40_000
# Counts what it was asked, and the length of what was sent; takes 100 streams of a connection at a time. Its own bound on
# memory, beyond which it drops a connection, is out of reach. It keeps what it says over HTTP/1.1 for who runs it.
SERVER = """
const { createSecureServer } = require("http2"), { readFileSync } = require("fs"), directory = process.argv[1], seen = [];
const server = createSecureServer({
  key: readFileSync(directory + "/key.pem"), cert: readFileSync(directory + "/cert.pem"), allowHTTP1: true,
  maxSessionMemory: 1000, settings: { maxConcurrentStreams: 100 },
}, (request, response) => {
  if (request.httpVersion === "1.1") return response.end(JSON.stringify(seen.splice(0)));
  let length = 0;
  request.on("data", (piece) => { length += piece.length; });
  request.on("end", () => { seen.push([request.method, request.url, length]); response.end("x".repeat(%d)); });
});
server.listen(0, "127.0.0.1", () => console.log(JSON.stringify({ port: server.address().port })));
""" % ANSWER


@pytest.fixture(scope="module")
def loaded(new_stack):
    """A stack whose zone leads to an HTTP/2 server, and `seen()`: what that was asked since it was last asked that."""
    directory = Path(tempfile.mkdtemp(prefix="postern-http2-"))
    certificate(directory, HOST, "127.0.0.1")
    server = subprocess.Popen(["node", "-e", SERVER, str(directory)], stdout=subprocess.PIPE)
    port = json.loads(server.stdout.readline())["port"]
    trust = ssl.create_default_context(cafile=directory / "ca.pem")

    def seen() -> list:
        with urllib.request.urlopen(f"https://127.0.0.1:{port}/", timeout=10, context=trust) as answer:
            return [tuple(one) for one in json.load(answer)]

    try:
        yield SimpleNamespace(seen=seen, stack=new_stack(f"""
[zone.streams]
environment = "default"
[[zone.streams.egress]]
host = "{HOST}"
connect = "127.0.0.1:{port}"
addresses = ["127.0.0.0/8"]
ca_file = "{directory}/ca.pem"
"""))
    finally:
        server.kill()
        server.wait()
        server.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)


def told(report: str) -> dict[str, int]:
    """What h2load says became of its requests, by its own words."""
    [requests] = re.findall(r"^requests: (.*)$", report, re.MULTILINE)
    [statuses] = re.findall(r"^status codes: (.*)$", report, re.MULTILINE)
    return {word: int(count) for count, word in re.findall(r"(\d+) (\w+)", f"{requests}, {statuses}")}


def all_answered(count: int) -> dict[str, int]:
    return {"total": count, "started": count, "done": count, "succeeded": count, "failed": 0, "errored": 0, "timeout": 0,
            "2xx": count, "3xx": 0, "4xx": 0, "5xx": 0}


def load(stack, command: str, before: str = "true") -> str:
    """What h2load says within a sandbox. It knows no proxy, so it goes the way of what knows none."""
    [report] = results_of(stack, tool("bash", command=f"{before}; h2load {command}", timeout_ms=240_000), seconds=300)
    assert "Application protocol: h2" in report, report
    return report


def test_streams_of_several_connections_are_all_answered_and_each_is_asked_once(loaded):
    loaded.seen()
    # Each connection begins with the first.
    uris = f"seq -f https://{HOST}/n/%g 0 499 > uris"
    report = load(loaded.stack, "-n 2000 -c 4 -m 100 -i uris", before=uris)
    assert told(report) == all_answered(2000), report
    assert f"({2000 * ANSWER}) data" in report, report
    assert Counter(loaded.seen()) == Counter({("GET", f"/n/{number}", 0): 4 for number in range(500)})


@pytest.mark.parametrize("name, command, count, asked", [
    ("bodies", "-n 200 -c 2 -m 50 -d body", 200, ("POST", "/bodies", 65_536)),
    ("narrow", "-n 200 -c 1 -m 50 -w 10 -W 12", 200, ("GET", "/narrow", 0)),
    ("deep", "-n 300 -c 1 -m 300", 300, ("GET", "/deep", 0)),
], ids=["with bodies", "of a client with small windows", "more than a connection may have at a time"])
def test_streams_are_all_answered(loaded, name, command, count, asked):
    loaded.seen()
    report = load(loaded.stack, f"{command} https://{HOST}/{name}", before="head -c 65536 /dev/zero > body")
    assert told(report) == all_answered(count), report
    assert f"({count * ANSWER}) data" in report, report
    assert Counter(loaded.seen()) == {asked: count}


def test_streams_beyond_what_a_session_may_have_are_answered_with_a_refusal_and_none_is_lost(loaded):
    loaded.seen()
    report = load(loaded.stack, f"-n 3200 -c 8 -m 100 https://{HOST}/over")
    became = told(report)
    assert (became["done"], became["errored"], became["timeout"], became["5xx"]) == (3200, 0, 0, 0), report
    assert became["4xx"] > 0 and became["2xx"] >= 512 and became["4xx"] + became["2xx"] == 3200, report
    assert Counter(loaded.seen()) == {("GET", "/over", 0): became["2xx"]}
    records = [json.loads(line) for file in loaded.stack.data.glob("perimeter/audit/*.jsonl") for line in file.read_text().splitlines()]
    refused = {record.get("reason") for record in records
               if record["decision"] == "deny" and (record.get("destination") or {}).get("path") == "/over"}
    assert refused == {"limit_connections"}


def test_the_settings_that_a_client_is_told_are_the_bounds(loaded):
    loaded.seen()
    [said] = results_of(loaded.stack, tool("bash", command=f"nghttp -nvy https://{HOST}/settings"))
    said = re.sub(r"\x1b\[[0-9;]*m", "", said)
    # Of the frames, which come in any order, the one that was received and is no acknowledgement: an indented line each.
    [received] = re.findall(r"recv SETTINGS frame <[^>]*flags=0x00[^>]*>\n((?: .*\n)+)", said)
    settings = {name: int(value) for name, value in re.findall(r"\[SETTINGS_(\w+)\(0x\w+\):(\d+)\]", received)}
    assert settings == {"MAX_CONCURRENT_STREAMS": 100, "HEADER_TABLE_SIZE": 4 << 10, "INITIAL_WINDOW_SIZE": 128 << 10,
                        "MAX_HEADER_LIST_SIZE": 64 << 10, "MAX_FRAME_SIZE": 16 << 10, "ENABLE_CONNECT_PROTOCOL": 1}, said
    # The window of a connection begins with 65,535 (RFC 9113, section 6.9.2).
    [more] = re.findall(r"recv WINDOW_UPDATE frame <[^>]*stream_id=0>\s*\(window_size_increment=(\d+)\)", said)
    assert 65_535 + int(more) == 512 << 10, said
    assert ":status: 200" in said and loaded.seen() == [("GET", "/settings", 0)]


def test_api_and_edge_agree_to_http1_alone_and_requests_that_wait_in_a_row_are_all_answered(rehearsal):
    with listeners_with_tls(rehearsal) as listeners:
        who = ["-H", f"authorization: Bearer {listeners.api_key}", "-H", f"anthropic-beta: {BETA}"]
        done = subprocess.run(["h2load", "-n", "600", "-c", "10", "-m", "4", *who, f"https://{listeners.api}/v1/agents"],
                              capture_output=True, text=True, timeout=60)
        assert "Application protocol: http/1.1" in done.stdout, done.stdout
        assert told(done.stdout) == all_answered(600), done.stdout
        for listener in (listeners.api, listeners.edge):
            spoken = subprocess.run(["nghttp", "-nvy", f"https://{listener}/"], capture_output=True, text=True, timeout=30)
            said = spoken.stdout + spoken.stderr
            assert "Connected" in said and "processed=0" in said and "recv SETTINGS" not in said, said
