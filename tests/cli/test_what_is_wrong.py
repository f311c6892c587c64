"""What is wrong on the command line is named, with what to do and the exit code for it; and leaves nothing behind."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY, Stack, model_section, secret_file

ZONE = """config = 1
[zone.ledger]
environment = "default"
[[zone.ledger.egress]]
host = "api.ledger.internal"
[zone.other]
environment = "env_01other"
"""


def run(*arguments: str | Path, cwd: Path, env: dict | None = None) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, *arguments], cwd=cwd, env=os.environ | (env or {}), capture_output=True, text=True, timeout=120)


def misused(done: subprocess.CompletedProcess, *words: str) -> None:
    assert done.returncode == 2, done.stdout + done.stderr
    for word in words:
        assert word in done.stderr, done.stderr


def first_error(*arguments: str | Path, cwd: Path, env: dict | None = None) -> str:
    """The first that a run says of a failure; it is not waited for until all tries are over."""
    command = [BINARY, *arguments]
    with subprocess.Popen(command, cwd=cwd, env=os.environ | (env or {}), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            return next(line.strip() for line in process.stdout if line.startswith("! "))
        finally:
            process.kill()


@pytest.fixture
def zones(tmp_path: Path) -> Path:
    (tmp_path / "postern.toml").write_text(ZONE)
    return tmp_path


def test_an_empty_key_of_the_model_is_refused(tmp_path: Path):
    key = secret_file(" \n")
    misused(run("up", "--listen", "127.0.0.1:0", "--model-key-file", str(key), cwd=tmp_path), str(key), "holds no key")
