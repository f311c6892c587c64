"""A secret is replaced with `postern secrets set` while a session sends one request after the other."""

from __future__ import annotations

import http.server
import ssl
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from conftest import BINARY, WAYS, results_of, tool, until
from git_server import certificate

HOST = "rotating.internal.example"
VALUES = ["first-value-0a1b2c3d4e5f", "second-and-longer-value-9z8y7x6w5v4u3t2s", "third-val-Qw3rTy8Uio", "fourth-value-of-another-length-77aa66bb55cc44dd"]


class Service:
    """Answers `go` and what it was sent until it is told to stop, and keeps the keys that came."""

    def __init__(self, directory: Path):
        certificate(directory, HOST)
        self.keys: list[str] = []
        self.word = "go"
        service = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_arguments) -> None:
                pass

            def do_GET(self) -> None:
                key = self.headers.get("authorization", "").removeprefix("Bearer ")
                service.keys.append(key)
                body = f"{service.word} {key} {' '.join(VALUES)}\n".encode()
                self.send_response(200)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "leaf.pem", directory / "leaf.key")
        self.listener.socket = context.wrap_socket(self.listener.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()


@WAYS
def test_boundary_a_secret_is_replaced_under_a_running_session_without_a_failed_request(new_stack, tmp_path: Path, way: str):
    service = Service(tmp_path)
    stack = new_stack(f"""
[zone.rotating]
environment = "default"
[[zone.rotating.credential]]
name = "key"
source = "store:rotating"
env = "SERVICE_KEY"
inject = [{{ header = "authorization" }}]
[[zone.rotating.egress]]
host = "{HOST}"
credential = "key"
connect = "127.0.0.1:{service.listener.server_port}"
addresses = ["127.0.0.0/8"]
ca_file = "{tmp_path}/ca.pem"
""")

    def replace(value: str) -> None:
        command = [BINARY, "secrets", "set", "rotating", "--data-dir", str(stack.data)]
        subprocess.run(command, input=value, text=True, check=True, capture_output=True)

    replace(VALUES[0])
    ask = f'{way}curl -sS --fail https://{HOST}/ -H "Authorization: Bearer $SERVICE_KEY"'
    loop = f'while true; do said=$({ask}) || {{ echo failed; break; }}; case "$said" in go*) ;; *) break ;; esac; done; echo "$said"'
    with ThreadPoolExecutor() as pool:
        session = pool.submit(results_of, stack, tool("bash", command=loop))
        try:
            for value in VALUES[1:]:
                until(lambda: len(service.keys) > 3 and session.running(), what="requests of the session")
                replace(value)
                # The very next request may have begun before; from the one after it the value is used.
                until(lambda: value in service.keys, what="a request with the new value")
        finally:
            service.word = "stop"
        text, = session.result()
    service.listener.shutdown()
    assert "failed" not in text and text.startswith("stop"), text
    assert set(service.keys) == set(VALUES), "each value was used, and nothing else"
    order = [VALUES.index(key) for key in service.keys]
    assert order == sorted(order), "no request went back to a former value"
    # The service says back every value there was: those that the session had are scrubbed, former ones too.
    assert not any(value in text for value in VALUES), text
