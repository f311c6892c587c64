"""A server whose API and edge have TLS, for tools that examine listeners from outside."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from conftest import BINARY, first_json_line, model_section, port_to_keep
from hosts import certificate

NAME = "listener.journey.example"


@dataclass
class Listeners:
    """Addresses of a server's API and edge, the authority that their certificate is of, and a key for the API."""

    api: str
    edge: str
    ca_file: Path
    api_key: str


@contextmanager
def listeners_with_tls(rehearsal: dict) -> Iterator[Listeners]:
    directory = Path(tempfile.mkdtemp(prefix="postern-listeners-"))
    certificate(directory / "tls", "127.0.0.1", NAME)
    api, edge = port_to_keep(), port_to_keep()
    tls = f'tls = {{ cert = "{directory}/tls/cert.pem", key = "{directory}/tls/key.pem" }}\n'
    (directory / "postern.toml").write_text(
        model_section(rehearsal) + f'[server]\nlisten = "127.0.0.1:{api}"\n{tls}'
        f'[edge]\nlisten = "127.0.0.1:{edge}"\n{tls}domain = "tunnel.journey.example"\n')
    log = directory / "log"
    process = subprocess.Popen([BINARY, "server", "--config", "postern.toml", "--data-dir", "data", "--json"], cwd=directory,
                               stdout=subprocess.PIPE, stderr=log.open("wb"), env=os.environ | {"ANTHROPIC_API_KEY": "none"})
    try:
        ready = first_json_line(process, log)
        yield Listeners(f"127.0.0.1:{api}", f"127.0.0.1:{edge}", directory / "tls/ca.pem", ready["api_key"])
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        shutil.rmtree(directory, ignore_errors=True)
