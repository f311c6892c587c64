"""Each control is switched off in turn in a test-only build: one of the probes mapped to it turns red. The binary that ships has no such switch."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from conftest import BINARY, placed

ROOT = Path(__file__).parent.parent.parent
FILE = "postern-danger-off"

SWITCHED = [
    "seccomp", "landlock", "no-caps", "proc-masks", "read-only-root", "resource-limits", "packet-rules", "utsns", "timens",
    "cgroupns",
    "ipcns", "mounts-flags", "memory-hard", "tool-paths", "scrubbing", "egress-authority",
    "egress-addresses", "egress-certificates", "egress-foreign", "egress-minting", "egress-overrides", "tripwire-host", "tripwire-port",
    "tripwire-scheme", "tripwire-location", "tripwire-session", "own-files", "own-calls", "outbound-only",
    "tool-output", "egress-decision", "egress-protocols", "tripwire-renderings", "audit-chain", "audit-before-act",
    "private-files", "private-memory", "processes-hard", "disk-watchdog", "custody-sources",
    "gateway-identity", "gateway-decision", "gateway-tripwire", "renewal-endpoints", "renewal-parts", "renewal-bounds",
    "userns", "mountns", "mounts-private", "pidns", "netns", "distinct-uid", "cpu-hard", "disk-hard", "refusals-recorded",
    "late-names", "freezing", "revocation", "closed-environment", "own-capabilities", "lent-mounts", "lent-devices",
    "egress-hosts", "upstream-identity", "egress-websockets", "gateway-redirects", "tool-descent", "alarms",
]
# A control that acts in several places: with it off, each of these turns red, one or more for each place.
EVERYWHERE = {
    "scrubbing": {"credentials/honest", "credentials/reflected-header", "credentials/reflected-gzip", "transports/http2-honest",
                  "gateway/reflected", "renewals/refused-plain"},
    "audit-before-act": {"own/record-before-act", "credentials/honest", "gateway/honest", "renewals/honest"},
    "refusals-recorded": {"network/name-http", "network/udp-recorded", "credentials/foreign-bearer", "gateway/tool", "renewals/server"},
    "egress-hosts": {"names/unlisted"},
    "upstream-identity": {"credentials/impostor", "gateway/impostor", "renewals/impostor"},
    "egress-websockets": {"transports/websocket", "transports/websocket-frame"},
    "alarms": {"credentials/other-host", "gateway/real-token"},
    "freezing": {"holds/frozen-tool", "holds/frozen-processes", "holds/frozen-connection", "gateway/frozen"},
    "revocation": {"holds/revoked-connection", "gateway/revoked"},
    "lent-mounts": {"lent/name-passwords", "lent/socket", "lent/keys", "lent/own", "lent/later-socket"},
    "lent-devices": {"lent/name-log", "lent/device-terminals", "lent/devices"},
    "gateway-identity": {"gateway/identity-forged", "gateway/identity-tunnel", "gateway/identity-body", "gateway/identity-expired",
                         "gateway/identity-long", "gateway/identity-again", "gateway/foreign-session"},
}
# A file system that has no more room than the run's zone gives, for this process alone.
SMALL = ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs -o size=60m none "$TMPDIR" && exec "$@"', "sh"]
# Where the others that are mapped to a control would reach further than this machine's loopback without it, one that does not.
NEAR = {"netns": "network/host-loopback", "egress-addresses": "names/alias"}
# Shows only where the host shares its mounts, as most do: so it does here, for this process alone.
SHARED = ["unshare", "--mount", "--propagation", "shared"]


def verify(binary: Path, directory: Path, off: str, only: str, around: list[str] | None = None) -> subprocess.CompletedProcess:
    """Runs the probes of a control with a binary beside which another control is named."""
    binary = placed(binary, directory)
    (directory / FILE).write_text(off)
    command = [*(around or []), binary, "verify", "--log", "info", "--json", "--only", only]
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=300)


def findings(done: subprocess.CompletedProcess) -> list[dict]:
    return json.loads(done.stdout)["findings"]


def red(done: subprocess.CompletedProcess) -> list[str]:
    return [finding["id"] for finding in findings(done) if finding["verdict"] == "not_held"]


def test_every_control_is_switched_off_here():
    lines = (ROOT / "crates/perimeter/verify/data/controls.list").read_text().splitlines()
    controls = {line.split(" -- ")[0] for line in lines if " -- " in line and not line.startswith("#")}
    assert controls == set(SWITCHED)


@pytest.mark.parametrize("control", SWITCHED)
def test_a_control_that_is_off_turns_one_of_its_probes_red(danger, tmp_path, control):
    done = verify(danger, tmp_path, control, NEAR.get(control, control), SHARED if control == "mounts-private" else None)
    assert done.returncode == 1 and red(done), done.stdout[-4000:] + done.stderr
    assert EVERYWHERE.get(control, set()) <= set(red(done)), sorted(EVERYWHERE[control] - set(red(done)))


def test_a_file_system_of_the_limits_size_holds_a_sandboxs_disk_and_any_other_is_said_not_to(tmp_path, monkeypatch):
    for name in ("small", "elsewhere", "here"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "small"))
    [elsewhere] = findings(verify(Path(BINARY), tmp_path / "elsewhere", "", "disk-hard"))
    assert elsewhere["verdict"] == "not_run" and elsewhere["cause"].startswith("not here: disk-hard is not whole"), elsewhere
    [small] = findings(verify(Path(BINARY), tmp_path / "here", "", "disk-hard", SMALL))
    assert small["verdict"] == "held" and small["inside"] == "ENOSPC", small


def test_a_sandbox_without_mounts_of_its_own_is_not_built(danger, tmp_path):
    done = verify(danger, tmp_path, "mountns-flag", "files/host-file")
    verdicts = {finding["verdict"] for finding in findings(done)}
    assert done.returncode == 1 and verdicts == {"not_run"}, done.stdout[-4000:]
    assert "keep mounts private" in done.stderr, done.stderr


def test_with_nothing_off_the_same_build_holds(danger, tmp_path):
    done = verify(danger, tmp_path, "", "tripwire-location")
    assert done.returncode == 0 and not red(done), done.stdout[-4000:] + done.stderr


def test_the_binary_that_ships_has_no_switch(tmp_path):
    assert FILE.encode() not in Path(BINARY).read_bytes()
    assert b"POSTERN_DANGER_OFF" not in Path(BINARY).read_bytes()
    done = verify(Path(BINARY), tmp_path, "seccomp", "seccomp")
    assert done.returncode == 0 and not red(done), done.stdout[-4000:] + done.stderr
