"""`postern verify` as whoever runs this: it holds, it turns red when something is wrong, and its reports can be read."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
from conftest import BINARY, descendants, until, with_suppressed_kill

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
            "own/listens", "proc/keys", "proc/hostname", "processes/user", "processes/user-neighbour", "resources/locked-memory", "resources/real-time", "roles/powers"}
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
    # Half a minute on an idle machine; two threads of one core take longer than one. Beside others a wall clock says nothing, so what counts is what the run itself and the processes it awaited have used.
    assert processor_seconds() - used < 150
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
    assert report["deployed_digest"].startswith("sha256:") and report["deployed_digest"] != report["zone_digest"]
    assert report["only"] == ["credentials/honest", "own/left-behind"] and report["catalogue"] > 700
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


def words_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def attacks(pid: int) -> bool:
    """Whether a process is the attack program with a plan, inside."""
    return any('"side":"inside"' in word for word in words_of(pid))


@pytest.fixture
def attacking(tmp_path):
    """A run that has begun to attack, and is ended whatever becomes of it."""
    command = [BINARY, "verify", "--log", "error", "--only", "network", "--only", "own/listens", "--json", "--junit", "report.xml"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True, start_new_session=True)
    try:
        until(lambda: any(attacks(pid) for pid in descendants(run.pid)), 120, "an attack from inside")
        yield run
    finally:
        ours = [run.pid, *descendants(run.pid)]
        if run.poll() is None:
            for pid in ours:
                with_suppressed_kill(pid)
            run.wait()


def broken_off(run: subprocess.Popen, directory: Path, what: str) -> None:
    """The run ends soon, is no success, and has a report of what was seen until then."""
    began = time.monotonic()
    out, _ = run.communicate(timeout=60)
    assert time.monotonic() - began < 50
    report = json.loads(out)
    assert run.returncode == 1 and report["broken_off"] == what, (directory / "log").read_text()[-2000:]
    rest = [finding for finding in report["findings"] if finding.get("kind") == "broken_off"]
    assert rest and all(what in finding["cause"] for finding in rest)
    assert not [finding for finding in report["findings"] if finding["verdict"] == "not_held"], report["findings"]
    assert "own/listens" in {finding["id"] for finding in rest}, "what is looked at afterwards is looked at of a whole run alone"
    suites = ElementTree.parse(directory / "report.xml").getroot()
    assert what in suites.get("name") and int(suites.get("skipped")) >= len(rest)


@pytest.mark.parametrize("role", ["egress", "custody", "audit", "spawner"])
def test_boundary_verify_ends_with_a_part_of_its_perimeter_and_reports_what_it_saw(attacking, tmp_path, role):
    before = left_over() - {name for name in left_over() if f"-{attacking.pid}-" in name}
    # The spawner's next sandbox is called like it until it becomes a program of its own.
    pid = next(pid for pid in descendants(attacking.pid) if role in words_of(pid)[1:2])
    os.kill(pid, signal.SIGKILL)
    broken_off(attacking, tmp_path, f"{role} ended")
    assert not {name for name in left_over() - before if f"-{attacking.pid}-" in name}


def test_boundary_verify_is_no_success_where_a_part_of_its_attempts_brought_no_answer(tmp_path):
    command = [BINARY, "verify", "--log", "error", "--only", "files", "--only", "kernel", "--json"]
    with (tmp_path / "log").open("w") as log:
        run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        batch = until(lambda: [pid for pid in descendants(run.pid) if attacks(pid)], 120, "an attack from inside")
        os.kill(batch[0], signal.SIGKILL)
        found = json.loads(run.communicate(timeout=200)[0])["findings"]
    finally:
        run.kill()
    silent = [finding for finding in found if finding.get("kind") == "no_answer"]
    held = [finding for finding in found if finding["verdict"] == "held"]
    assert silent and held and not [finding for finding in found if finding["verdict"] == "not_held"], found
    log = (tmp_path / "log").read_text()
    assert run.returncode == 1 and f"{len(silent)} probes did not run" in log and silent[0]["id"] in log, log[-2000:]


def test_boundary_verify_that_is_told_to_end_reports_what_it_saw_and_leaves_nothing(attacking, tmp_path):
    os.kill(attacking.pid, signal.SIGTERM)
    broken_off(attacking, tmp_path, "it was told to end")
    assert not [name for name in left_over() if f"-{attacking.pid}-" in name]


def test_boundary_verify_says_what_a_part_of_the_catalogue_is_a_part_of_and_leaves_no_report_of_an_earlier_run(tmp_path):
    (tmp_path / "report.html").write_text("all held")
    done = verify("--only", "credentials/honest", "--junit", "report.xml", "--html", "report.html", cwd=tmp_path)
    assert done.returncode == 0 and "1 of " in done.stdout and "(credentials/honest)" in done.stdout, done.stdout + done.stderr
    (tmp_path / "postern.toml").write_text(ZONES)
    done = verify("--only", "credentials/honest", "--junit", "report.xml", "--html", "report.html", cwd=tmp_path)
    assert done.returncode == 2, done.stdout + done.stderr
    assert not (tmp_path / "report.xml").exists() and not (tmp_path / "report.html").exists()


def test_boundary_verify_says_that_nothing_was_shown_of_what_its_user_may_not_look_at(tmp_path):
    done = verify("--only", "own/listens", "--json", cwd=tmp_path)
    [found] = json.loads(done.stdout)["findings"]
    if os.geteuid() == 0:
        assert (done.returncode, found["verdict"], found["inside"], found["outside"]) == (0, "held", "none", "made")
        return
    assert found["verdict"] == "not_run" and found["kind"] == "not_here", found
    assert done.returncode == 1 and "nothing was shown" in done.stderr


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
