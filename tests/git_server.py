"""A Git server over HTTPS that wants Basic credentials: `git http-backend` behind Python's own HTTP server."""

from __future__ import annotations

import base64
import http.server
import os
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

USER = "agent"


class GitServer:
    """Serves every repository below `root` on loopback under `host`, with a certificate of its own CA, or in the clear."""

    def __init__(self, host: str, token: str, user: str = USER, tls: bool = True):
        self.directory = Path(tempfile.mkdtemp(prefix="postern-git-"))
        self.root = self.directory / "repositories"
        self.token, self.user = token, user
        self.asked: list[str] = []
        # What is shown to whoever asks without a word of who they are.
        self.public = "/public/"
        # Paths that lead to others, whoever asks.
        self.moved: dict[str, str] = {}
        self.listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        if tls:
            certificate(self.directory, host)
            self.ca_file = self.directory / "ca.pem"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.directory / "leaf.pem", self.directory / "leaf.key")
            # The handshake is the handler's: a slow client holds up no other.
            self.listener.socket = context.wrap_socket(self.listener.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.listener.serve_forever, daemon=True).start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.listener.server_port}"

    def repository(self, name: str, files: dict[str, str]) -> Path:
        """Makes a bare repository with one commit on `main`."""
        bare, work = self.root / name, self.directory / "work" / name
        work.mkdir(parents=True)
        for file, text in files.items():
            (work / file).write_text(text)
        self.git("init", "--quiet", "--bare", "--initial-branch=main", str(bare))
        self.git("init", "--quiet", "--initial-branch=main", str(work))
        self.git("add", ".", at=work)
        self.git("commit", "--quiet", "--message=begin", at=work)
        self.git("push", "--quiet", str(bare), "main", at=work)
        return bare

    def git(self, *arguments: str, at: Path | None = None) -> str:
        who = ["-c", "user.name=operator", "-c", "user.email=operator@example.invalid", "-c", "commit.gpgsign=false"]
        return subprocess.run(["git", *who, *arguments], cwd=at, env=self.environment(), check=True, capture_output=True, text=True).stdout

    def environment(self) -> dict[str, str]:
        return {"PATH": os.environ["PATH"], "HOME": str(self.directory), "GIT_CONFIG_NOSYSTEM": "1"}

    def close(self) -> None:
        self.listener.shutdown()
        self.listener.server_close()


def certificate(directory: Path, host: str) -> None:
    """A CA and a leaf for `host`."""
    def openssl(*arguments: str) -> None:
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    openssl("req", "-x509", *key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=a CA of the tests")
    openssl("req", *key, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", f"/CN={host}")
    (directory / "leaf.cnf").write_text(f"subjectAltName=DNS:{host}\n")
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-out", "leaf.pem", "-extfile", "leaf.cnf")


def handler(server: GitServer) -> type[http.server.BaseHTTPRequestHandler]:
    backend = subprocess.run(["git", "--exec-path"], check=True, capture_output=True, text=True).stdout.strip() + "/git-http-backend"

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 30

        def log_message(self, *_arguments) -> None:
            pass

        def do_GET(self) -> None:
            self.answer()

        def do_POST(self) -> None:
            self.answer()

        def answer(self) -> None:
            body = self.body()
            wanted = "Basic " + base64.b64encode(f"{server.user}:{server.token}".encode()).decode()
            given = self.headers.get("authorization", "")
            server.asked.append(f"{self.command} {self.path} {given}")
            for begins, elsewhere in server.moved.items():
                if self.path.startswith(begins):
                    self.reply(301, {"location": self.path.replace(begins, elsewhere, 1)}, b"")
                    return
            if server.public in self.path and not given:
                given = wanted
            if given != wanted:
                self.reply(401, {"www-authenticate": 'Basic realm="git"', "content-type": "text/plain"}, b"who are you?\n")
                return
            path, _, query = self.path.partition("?")
            environment = server.environment() | {
                "GIT_PROJECT_ROOT": str(server.root), "GIT_HTTP_EXPORT_ALL": "1", "REMOTE_USER": server.user, "REMOTE_ADDR": "127.0.0.1",
                "PATH_INFO": path, "QUERY_STRING": query, "REQUEST_METHOD": self.command, "CONTENT_LENGTH": str(len(body)),
                "CONTENT_TYPE": self.headers.get("content-type", ""), "GIT_PROTOCOL": self.headers.get("git-protocol", ""),
                "HTTP_CONTENT_ENCODING": self.headers.get("content-encoding", "")}
            output = subprocess.run([backend], input=body, env=environment, capture_output=True, check=True).stdout
            head, _, content = output.partition(b"\r\n\r\n")
            headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
            self.reply(int(headers.pop("Status", "200").split()[0]), headers, content)

        def body(self) -> bytes:
            if self.headers.get("transfer-encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("content-length", 0)))
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body

        def reply(self, status: int, headers: dict[str, str], content: bytes) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    return Handler
