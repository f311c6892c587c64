"""An OAuth house: a token endpoint that rotates refresh tokens and revokes the grant when a used one comes again, and a gate
before a private MCP server that takes the newest access token alone."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import ssl
import threading
import urllib.parse
from pathlib import Path
from urllib.parse import urlsplit

from git_server import certificate

CLIENT_ID = "journey client"
CLIENT_SECRET = "journey:client-s3cret/0123456789"


class House:
    """`endpoint` is where tokens are refreshed, `gate` the MCP server's URL."""

    def __init__(self, directory: Path, upstream: str, bearer: str) -> None:
        certificate(directory, "localhost")
        self.ca = directory / "ca.pem"
        self.upstream, self.bearer = urlsplit(upstream), bearer
        self.lock = threading.Lock()
        self.generation, self.revoked, self.answer = 0, False, None
        self.asked: list[dict[str, str]] = []
        self.refused = 0
        tokens = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler(self.token))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "leaf.pem", directory / "leaf.key")
        tokens.socket = context.wrap_socket(tokens.socket, server_side=True)
        gate = http.server.ThreadingHTTPServer(("127.0.0.1", 0), self.handler(self.call))
        self.servers = [tokens, gate]
        self.endpoint = f"https://localhost:{tokens.server_address[1]}/oauth/token"
        self.gate = f"http://127.0.0.1:{gate.server_address[1]}/mcp"
        for server in self.servers:
            threading.Thread(target=server.serve_forever, daemon=True).start()

    def close(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def access(self, generation: int | None = None) -> str:
        return f"journey-access-token-{self.generation if generation is None else generation}-0123456789"

    def refresh(self, generation: int | None = None) -> str:
        return f"journey-refresh-token-{self.generation if generation is None else generation}-0123456789"

    def secrets(self) -> list[str]:
        every = range(self.generation + 1)
        return [CLIENT_SECRET, *(self.access(n) for n in every), *(self.refresh(n) for n in every)]

    def token(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        form = dict(urllib.parse.parse_qsl(body.decode(), strict_parsing=True))
        pair = base64.b64decode(request.headers.get("authorization", "").removeprefix("Basic ")).decode()
        client = [urllib.parse.unquote_plus(half) for half in pair.split(":", 1)]
        with self.lock:
            self.asked.append(form)
            if self.answer:
                return self.answer
            if client != [CLIENT_ID, CLIENT_SECRET]:
                return problem(401, "invalid_client")
            if form.get("grant_type") != "refresh_token":
                return problem(400, "unsupported_grant_type")
            if form.get("refresh_token") != self.refresh() or self.revoked:
                self.revoked = True
                return problem(400, "invalid_grant", f"{form.get('refresh_token')} was used")
            self.generation += 1
            tokens = {"access_token": self.access(), "refresh_token": self.refresh(), "token_type": "Bearer", "expires_in": 3600}
        return 200, {"content-type": "application/json", "cache-control": "no-store"}, json.dumps(tokens).encode()

    def call(self, request: http.server.BaseHTTPRequestHandler, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if request.headers.get("authorization") != f"Bearer {self.access()}":
            with self.lock:
                # The end of a session that was begun with a former token is nobody's loss.
                self.refused += request.command == "POST"
            return problem(401, "invalid_token", f"expected {self.access()}")
        headers = {name: value for name, value in request.headers.items() if name.lower() not in ("host", "connection", "content-length")}
        headers["authorization"] = f"Bearer {self.bearer}"
        upstream = http.client.HTTPConnection(self.upstream.hostname, self.upstream.port, timeout=30)
        upstream.request(request.command, self.upstream.path, body, headers)
        answer = upstream.getresponse()
        kept = {name: value for name, value in answer.getheaders() if name.lower() in ("content-type", "mcp-session-id")}
        return answer.status, kept, answer.read()

    def handler(self, answer) -> type[http.server.BaseHTTPRequestHandler]:
        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 30

            def do_POST(self) -> None:
                status, headers, body = answer(self, self.rfile.read(int(self.headers.get("content-length") or 0)))
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_DELETE = do_POST

            def log_message(self, *_arguments) -> None:
                pass

        return Handler


def problem(status: int, error: str, description: str = "") -> tuple[int, dict[str, str], bytes]:
    body = {"error": error, "error_description": description}
    return status, {"content-type": "application/json"}, json.dumps(body).encode()


def listed(house: House) -> str:
    """The lines by which an operator agrees to the token endpoint."""
    return f"""
[[gateway.token_endpoint]]
url = "{house.endpoint}"
addresses = ["127.0.0.0/8"]
ca_file = "{house.ca}"
"""
