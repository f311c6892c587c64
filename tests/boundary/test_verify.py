"""`postern verify` as whoever runs this: it holds, it turns red when something is wrong, and its reports can be read."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from conftest import BINARY

def processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


# Beside other tests; alone it is a minute.
LONGEST_MS = 290_000


def not_everywhere() -> set[str]:
    """The probes that another kernel, or an ordinary user, may have nothing to attack with: no others may go without an answer."""
    lacking = {"kernel/statmount", "kernel/listmount", "kernel/memfd-secret", "kernel/quotactl-fd", "kernel/mount-setattr", "kernel/process-mrelease",
               "kernel/modify-ldt", "kernel/iopl", "kernel/ioperm", "kernel/acct", "kernel/quotactl", "resources/disk", "resources/processor",
               "lent/devices", "lent/later-socket"}
    loaded = {f"kernel/{name}" for name in ("init-module", "finit-module", "delete-module", "kexec", "kexec-file")}
    families = {f"kernel/socket-{name}" for name in (
        "vsock", "alg", "bluetooth", "can", "tipc", "xdp", "rds", "sctp", "mptcp", "udplite", "audit")}
    if os.geteuid() == 0:
        return lacking | loaded | families
    root = {"kernel/bpf", "kernel/open-by-handle", "kernel/swapon", "kernel/swapoff", "kernel/settimeofday", "kernel/syslog", "files/device-node",
            "proc/keys", "proc/hostname", "processes/user", "processes/user-neighbour", "resources/locked-memory", "resources/real-time", "roles/powers"}
    roles = ("server", "edge", "worker", "gateway", "connector", "egress", "custody", "audit", "starter")
    powers = {f"roles/{role}-{name}" for role in roles for name in ("bpf", "userfault", "raw", "packet", "netfilter")}
    return lacking | loaded | families | root | powers


NOT_EVERYWHERE = not_everywhere()
ZONES = """config = 1
[zone.a]
environment = "default"
[[zone.a.credential]]
name = "real"
source = "env:NOBODY_SETS_THIS"
env = "REAL_KEY"
inject = [{ header = "x-real" }]
[[zone.a.egress]]
host = "api.example"
credential = "real"
[zone.b]
environment = "env_other"
"""


def verify(*arguments: str, cwd: Path) -> subprocess.CompletedProcess:
    return subprocess.run([BINARY, "verify", "--log", "error", *arguments], cwd=cwd, capture_output=True, text=True, timeout=300)


RULES = """config = 1
[zone.a]
environment = "default"
[[zone.a.mcp]]
server = "crm"
tools = ["find_*"]
"""


def left_over() -> set[str]:
    return {entry.name for entry in Path(os.environ.get("TMPDIR", "/tmp")).glob("postern-verify-*")}


def test_boundary_verify_holds_probe_by_probe_and_leaves_nothing(tmp_path):
    """The whole catalogue over the built-in zone: each probe held, and none was left out."""
    before, used = left_over(), processor_seconds()
    done = verify("--json", "--junit", "report.xml", "--html", "report.html", cwd=tmp_path)
    report = json.loads(done.stdout)
    # What this machine has nothing of, or this user is refused outside as well, is said not to be shown here.
    not_here = [finding for finding in report["findings"] if finding.get("cause", "").startswith("not here: ")]
    broken = [finding for finding in report["findings"] if finding["verdict"] != "held" and finding not in not_here]
    assert done.returncode == 0 and not broken, json.dumps(broken, indent=1) + done.stderr
    assert all(finding["verdict"] == "not_run" and finding["id"] in NOT_EVERYWHERE for finding in not_here), json.dumps(not_here, indent=1)
    assert len(report["findings"]) >= 600
    assert {finding["promise"] for finding in report["findings"]} == {f"P{number}" for number in range(1, 9)}
    assert left_over() <= before
    # A minute on an idle machine. Beside others a wall clock says nothing, so what counts is what the run itself and the processes it awaited have used.
    assert processor_seconds() - used < 60
    assert 0 < report["took_ms"] < LONGEST_MS
    suites = ElementTree.parse(tmp_path / "report.xml").getroot()
    assert len(list(suites.iter("testcase"))) == len(report["findings"]) and not list(suites.iter("failure"))
    page = (tmp_path / "report.html").read_text()
    assert "probes held" in page and all(finding["id"] in page for finding in report["findings"])


def test_boundary_verify_tries_the_zones_own_mcp_rules_and_says_where_they_leave_nothing_to_refuse(tmp_path):
    def own() -> dict[str, dict]:
        only = [word for name in ("server", "tool", "method") for word in ("--only", f"gateway/own-{name}")]
        return {finding["id"]: finding for finding in json.loads(verify(*only, "--json", cwd=tmp_path).stdout)["findings"]}

    (tmp_path / "postern.toml").write_text(RULES)
    found = own()
    assert {finding["verdict"] for finding in found.values()} == {"held"}, found
    assert found["gateway/own-tool"]["inside"] == "refused tool_not_allowed"
    assert found["gateway/own-method"]["inside"] == "refused mcp_method_not_allowed"
    (tmp_path / "postern.toml").write_text(RULES.replace("find_*", "*"))
    found = own()
    assert found["gateway/own-tool"]["verdict"] == "not_run" and "every tool of crm" in json.dumps(found["gateway/own-tool"])
    assert found["gateway/own-server"]["verdict"] == "held"


def test_boundary_verify_tests_the_zone_that_is_named_without_its_secrets(tmp_path):
    (tmp_path / "postern.toml").write_text(ZONES)
    done = verify(cwd=tmp_path)
    assert done.returncode == 2 and "--zone: a, b" in done.stderr
    done = verify("--zone", "a", "--only", "credentials/honest", "--only", "own/left-behind", "--json", "--strict", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["zone"] == "a" and [finding["id"] for finding in report["findings"]] == ["credentials/honest", "own/left-behind"]


def test_boundary_verify_names_what_it_would_try_and_refuses_what_it_does_not_know(tmp_path):
    done = verify("--list", cwd=tmp_path)
    assert done.returncode == 0 and "kernel/ptrace" not in done.stdout and "processes/trace-own" in done.stdout
    done = verify("--only", "no-such-probe", cwd=tmp_path)
    assert done.returncode == 2 and "--list" in done.stderr


def test_boundary_verify_turns_red_when_a_zone_gives_what_must_not_be_given(tmp_path):
    """A zone that allows the host which the catalogue takes for a stranger: reaching it is not refused as it should be."""
    (tmp_path / "postern.toml").write_text(
        'config = 1\n[zone.wide]\nenvironment = "default"\n[[zone.wide.egress]]\nhost = "collector.example"\nscheme = "http"\n'
    )
    done = verify("--only", "network/name-http", cwd=tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert "network/name-http" in done.stdout and "not held" in done.stdout and "1 NOT HELD" in done.stdout


def test_boundary_verify_keeps_what_is_logged_out_of_its_table_and_says_where_it_is_when_it_fails(tmp_path):
    before = left_over()
    quiet = subprocess.run([BINARY, "verify", "--only", "credentials/honest"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (quiet.returncode, quiet.stderr) == (0, "") and left_over() <= before
    (tmp_path / "postern.toml").write_text(
        'config = 1\n[zone.wide]\nenvironment = "default"\n[[zone.wide.egress]]\nhost = "collector.example"\nscheme = "http"\n'
    )
    failed = subprocess.run([BINARY, "verify", "--only", "network/name-http"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    place, verdict = failed.stderr.splitlines()
    log = Path(place.removeprefix("what was logged meanwhile: "))
    try:
        assert failed.returncode == 1 and "did not hold" in verdict
        assert log.stat().st_mode & 0o777 == 0o600
    finally:
        log.unlink()
