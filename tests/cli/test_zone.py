"""`postern zone`: what it says about a configuration, and with which exit code."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY

EXAMPLES = Path(__file__).parent.parent.parent / "examples/zones"

ZONE = """config = 1
[zone.ledger]
environment = "default"
[[zone.ledger.egress]]
host = "api.ledger.internal"
methods = ["GET"]
paths = ["/v1/**"]
addresses = ["10.3.0.0/24"]
"""


def zone(*arguments: str | Path) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, "zone", *arguments], capture_output=True, text=True)


@pytest.mark.parametrize("name", ["deny-all", "software-engineering", "data-analysis", "customer-support"])
def test_every_shipped_example_is_valid_without_a_warning(name: str):
    checked = zone("check", EXAMPLES / f"{name}.toml")
    assert checked.returncode == 0 and "warning" not in checked.stdout, checked.stdout + checked.stderr


def test_an_explanation_ends_with_0_where_it_is_allowed_and_5_where_it_is_refused(tmp_path: Path):
    file = tmp_path / "postern.toml"
    file.write_text(ZONE)

    def explain(*words: str) -> tuple[int, dict]:
        done = zone("explain", "--json", "--config", file, *words)
        return done.returncode, json.loads(done.stdout)

    code, allowed = explain("GET", "https://api.ledger.internal/v1/x", "--address", "10.3.0.7")
    assert (code, allowed["verdict"], allowed["rule"], allowed["line"]) == (0, "allowed", "ledger/egress/1", 4)
    for words, reason in [
        (["POST https://api.ledger.internal/v1/x"], "method_not_allowed"),
        (["GET", "https://api.ledger.internal/v1/..%2fx"], "path_ambiguous"),
        (["GET", "https://api.ledger.internal/v1/x", "--address", "10.4.0.1"], "address_private"),
        (["GET", "https://elsewhere.example/"], "host_not_allowed"),
        (["connect", "api.ledger.internal:22"], "port_not_allowed"),
        (["mcp", "wiki", "search", "{}"], "mcp_server_not_allowed"),
        (["--credential", "ledger-api"], "custody_denied"),
    ]:
        code, refused = explain(*words)
        assert (code, refused["reason"]) == (5, reason), words
        assert refused["next_step"]


def test_a_difference_ends_with_1_where_something_is_wider_and_0_where_nothing_is(tmp_path: Path):
    old, new = tmp_path / "old.toml", tmp_path / "new.toml"
    old.write_text(ZONE)
    new.write_text(ZONE.replace('["GET"]', '["GET", "POST"]'))
    wider = zone("diff", "--json", old, new)
    [difference] = json.loads(wider.stdout)["differences"]
    [change] = difference["wider"]
    assert (wider.returncode, change["kind"], change["scope"]["methods"]) == (1, "method", ["POST"])
    assert zone("diff", new, old).returncode == 0
    assert "same" in zone("diff", old, old).stdout
