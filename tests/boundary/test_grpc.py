"""gRPC through a sandbox's exit, with the library that most programs use, inside and outside."""

from __future__ import annotations

import importlib.util
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest
from conftest import WAYS, Stack, results_of, tool
from hosts import certificate

HOST = "calls.grpc.internal"
TOKEN = "journey-grpc-token-5e91c7d40b8a63f2"
SEEN: list[tuple[str, str | None]] = []


def who(context: grpc.ServicerContext) -> str | None:
    return dict(context.invocation_metadata()).get("authorization")


def unary(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("x-after", f"was {who(context)}"),))
    return b"heard " + request + f" from {who(context)}".encode()


def fails(request: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("x-after", "it failed"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, f"not for {who(context)}")


def counts(request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
    for number in range(int(request)):
        yield b"number %d" % number


def collects(requests: Iterator[bytes], context: grpc.ServicerContext) -> bytes:
    return b"%d bytes" % sum(map(len, requests))


def echoes(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
    for request in requests:
        yield b"again " + request


METHODS = {
    "Unary": grpc.unary_unary_rpc_method_handler(unary),
    "Fails": grpc.unary_unary_rpc_method_handler(fails),
    "Counts": grpc.unary_stream_rpc_method_handler(counts),
    "Collects": grpc.stream_unary_rpc_method_handler(collects),
    "Echoes": grpc.stream_stream_rpc_method_handler(echoes),
}


class Heard(grpc.ServerInterceptor):
    """Keeps what reached the server: method and authorization."""

    def intercept_service(self, continuation, call):
        SEEN.append((call.method, dict(call.invocation_metadata).get("authorization")))
        return continuation(call)


@pytest.fixture(scope="module")
def stack_with_calls(new_stack) -> Iterator[Stack]:
    directory = Path(tempfile.mkdtemp(prefix="postern-grpc-"))
    certificate(directory, HOST)
    (directory / "token").write_text(f"Bearer {TOKEN}")
    (directory / "token").chmod(0o600)
    shutil.copytree(Path(grpc.__file__).parent, directory / "peers/grpc")
    shutil.copy(importlib.util.find_spec("typing_extensions").origin, directory / "peers")
    server = grpc.server(ThreadPoolExecutor(8), interceptors=[Heard()])
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(f"journey.{name}", METHODS) for name in ("Open", "Closed")])
    pair = [(directory / "key.pem").read_bytes(), (directory / "cert.pem").read_bytes()]
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([tuple(pair)]))
    server.start()
    try:
        yield new_stack(f"""
[zone.calls]
environment = "default"
[zone.calls.sandbox]
mounts = [{{ host = "{directory}/peers", at = "/peers", access = "read" }}]
[[zone.calls.credential]]
name = "calls"
source = "file:{directory}/token"
env = "CALLS_KEY"
inject = [{{ header = "authorization" }}]
[[zone.calls.egress]]
host = "{HOST}"
methods = ["POST"]
paths = ["/journey.Open/*"]
credential = "calls"
connect = "127.0.0.1:{port}"
addresses = ["127.0.0.0/8"]
ca_file = "{directory}/ca.pem"
""")
    finally:
        server.stop(None)
        shutil.rmtree(directory)


# Calls of every kind over one channel, and what each came to.
CLIENT = """PYTHONPATH=/peers timeout 60 /usr/bin/python3 - <<'END'
import os, grpc
key = os.environ["CALLS_KEY"]
own = (("authorization", key),)
channel = grpc.secure_channel("%s:443", grpc.ssl_channel_credentials())
def show(name, call):
    try:
        print(name, call())
    except grpc.RpcError as error:
        print(name, error.code().name, error.details(), dict(error.trailing_metadata()).get("x-after"))
def unary(service, method="Unary", metadata=own, request=b"me"):
    answer, call = channel.unary_unary(f"/journey.{service}/{method}").with_call(request, metadata=metadata, timeout=20)
    return answer.decode(), dict(call.trailing_metadata())["x-after"]
show("unary", lambda: unary("Open"))
show("failed", lambda: unary("Open", "Fails"))
show("counted", lambda: len(list(channel.unary_stream("/journey.Open/Counts")(b"200", metadata=own, timeout=20))))
big = [b"x" * 100_000] * 30
show("collected", lambda: channel.stream_unary("/journey.Open/Collects")(iter(big), metadata=own, timeout=20))
def echoed():
    heard = []
    def said():
        for number in range(5):
            # The next is said when the last was answered.
            while len(heard) < number:
                import time; time.sleep(0.002)
            yield b"turn %%d" %% number
    for answer in channel.stream_stream("/journey.Open/Echoes")(said(), metadata=own, timeout=20):
        heard.append(answer)
    return heard[0], len(heard)
show("echoed", echoed)
show("closed", lambda: unary("Closed"))
show("elsewhere", lambda: unary("Open", metadata=own + (("x-note", key),)))
show("said", lambda: unary("Open", request=b"my key is " + key.encode()))
show("after", lambda: unary("Open"))
END"""


@WAYS
def test_boundary_grpc_calls_of_every_kind_are_carried_with_the_secret_and_refused_one_by_one(stack_with_calls: Stack, way: str):
    before = len(SEEN)
    command = (CLIENT % HOST).replace("timeout 60", f"{way}timeout 60")
    text, placeholder = results_of(stack_with_calls, tool("bash", command=command), tool("bash", command="echo \"$CALLS_KEY\""))
    placeholder, said = placeholder.strip(), dict(line.split(" ", 1) for line in text.splitlines() if " " in line)
    carried = f"('heard me from {placeholder}', 'was {placeholder}')"
    assert said["unary"] == said["after"] == carried, "it is answered what it sent, and the secret is nowhere\n" + text
    assert said["failed"] == f"FAILED_PRECONDITION not for {placeholder} it failed", text
    assert said["counted"] == "200" and said["collected"] == "b'3000000 bytes'" and said["echoed"] == "(b'again turn 0', 5)", text
    # Each stream of the one connection is decided by itself, and the library shows why.
    assert said["closed"].startswith("PERMISSION_DENIED Refused by the zone's policy (path_not_allowed)"), text
    assert said["elsewhere"].startswith("PERMISSION_DENIED Refused by the zone's policy (placeholder_wrong_location)"), text
    assert not said["said"].startswith("("), "no placeholder leaves in a message\n" + text
    assert "placeholder_wrong_location" in text and TOKEN not in text, text
    arrived = SEEN[before:]
    assert {method for method, _ in arrived} == {f"/journey.Open/{name}" for name in METHODS}, arrived
    assert {authorization for _, authorization in arrived} == {f"Bearer {TOKEN}"}, arrived
