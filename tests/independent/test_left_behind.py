"""What a run leaves behind, looked through by detect-secrets: keys lie where they are known to lie, and nothing else looks like one."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import subprocess
from pathlib import Path

import pytest
from conftest import Stack, mcp, mcp_session, results_of, secrets_left, tool

CHECKERS = Path(os.environ.get("POSTERN_CHECKERS", Path(__file__).parents[2] / "target/checkers"))
# What it takes for a secret, and what it is. A file that is not named here must look like none.
KNOWN = {
    r"edge/key\.pem": {"Private Key"},
    r"perimeter/tunnel/(ca|leaf)\.key": {"Private Key"},
    # A copy of the host's, which says where passwords are looked up.
    r"perimeter/shared/spawner-\d+/etc-\d+/nsswitch\.conf": {"Secret Keyword"},
}
# Keys that it does not know by their look.
KEYS = ["control/server_key", "control/identity.pk8", "perimeter/custody/master.key", "perimeter/custody/perimeter.key",
        "perimeter/environment_key", "perimeter/audit/key.pkcs8", "perimeter/gateway/key", "perimeter/tunnel/token"]


def scanned(directory: Path) -> dict[str, set[str]]:
    # By entropy alone every hash and id of ours looks like one.
    by_chance = [f"--disable-plugin={kind}HighEntropyString" for kind in ("Base64", "Hex")]
    command = [CHECKERS / "bin/detect-secrets", "scan", "--all-files", *by_chance, "."]
    report = json.loads(subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout)
    return {name.removeprefix("./"): {found["type"] for found in all_found} for name, all_found in report["results"].items()}


@pytest.fixture(scope="module")
def used(stack_with_api, stack_with_wiki):
    """Stacks whose agents used a private API and a private MCP server, each with its token."""
    [read] = results_of(stack_with_api, tool("bash", command="curl -sS https://api.ledger.internal/v1/entries -H \"authorization: $LEDGER_API_KEY\"; env"))
    assert "LEDGER_API_KEY=" in read, read
    [(error, _)] = mcp_session(stack_with_wiki).call(mcp("search", query="payroll"))
    assert not error
    return [stack_with_api, stack_with_wiki]


def test_nothing_that_a_run_leaves_behind_looks_like_a_secret_but_our_keys(used):
    for stack in used:
        found = scanned(stack.data)
        unknown = {name: types for name, types in found.items()
                   if not any(re.fullmatch(known, name) and types <= allowed for known, allowed in KNOWN.items())}
        assert unknown == {}
        assert any(name.endswith("ca.key") for name in found), "it would find a key"
        for name in [*KEYS, "edge/key.pem", "perimeter/tunnel/ca.key", "perimeter/tunnel/leaf.key"]:
            mode = (stack.data / name).stat().st_mode
            assert stat.S_IMODE(mode) & 0o077 == 0, f"{name} is not its owner's alone"


def test_a_secret_in_a_log_or_a_workspace_would_be_found(tmp_path):
    (tmp_path / "perimeter/work/sesn_a").mkdir(parents=True)
    (tmp_path / "perimeter/work/sesn_a/notes").write_text('api_key = "q8Zr1LxT0vWm4KpN7sYd2Hf6"\n')
    (tmp_path / "log").write_text("-----BEGIN EC PRIVATE KEY-----\n")
    assert set(scanned(tmp_path)) == {"perimeter/work/sesn_a/notes", "log"}


@pytest.mark.parametrize("form", [lambda secret: secret, lambda secret: base64.b64encode(secret), lambda secret: secret.hex().encode()],
                         ids=["as it is", "in base64", "in hexadecimal"])
def test_a_stack_whose_files_hold_a_source_does_not_end_unnoticed(tmp_path, form):
    """Every journey's stack is looked through for the secrets of its zone when it ends."""
    secret, source = b"planted-9f2c4d7be1a05836", tmp_path / "source"
    source.write_bytes(secret + b"\n")
    stack = Stack(tmp_path / "stack", f'source = "file:{source}"\n')
    log = stack.directory / "data/perimeter/log"
    log.parent.mkdir(parents=True)
    log.write_bytes(b"nothing")
    assert secrets_left(stack) == []
    log.write_bytes(b"before " + form(secret) + b" after")
    assert secrets_left(stack) == [str(log)]
