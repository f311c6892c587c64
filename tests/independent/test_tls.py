"""Every TLS listener of ours, examined by sslyze: what it speaks, by which ciphers, and the weaknesses that have names."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socketserver
import ssl
import subprocess
import tempfile
import threading
from pathlib import Path

import pytest
from conftest import API_HOST, results_of, tool
from listeners import NAME, listeners_with_tls

CHECKERS = Path(os.environ.get("POSTERN_CHECKERS", Path(__file__).parents[2] / "target/checkers"))
# By the names that sslyze gives to what it tries.
OLD = ["ssl_2_0_cipher_suites", "ssl_3_0_cipher_suites", "tls_1_0_cipher_suites", "tls_1_1_cipher_suites"]
GOOD_TLS_12 = {
    "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
}
GOOD_TLS_13 = {"TLS_AES_256_GCM_SHA384", "TLS_AES_128_GCM_SHA256", "TLS_CHACHA20_POLY1305_SHA256"}


def judged(report: str, tls_12: bool) -> None:
    """Whether what sslyze found is what a listener of ours may offer; every scan must have been made."""
    [result] = json.loads(report)["server_scan_results"]
    assert result["connectivity_status"] == "COMPLETED", result["connectivity_error_trace"]
    found = {}
    for name, scan in result["scan_result"].items():
        if scan["status"] == "NOT_SCHEDULED":
            continue
        if scan["status"] == "ERROR" and not tls_12:
            # What has no meaning without TLS 1.2 cannot be tried.
            assert name in ("session_renegotiation", "tls_compression", "tls_fallback_scsv", "openssl_ccs_injection",
                            "heartbleed", "session_resumption", "elliptic_curves", "tls_extended_master_secret", "robot"), (name, scan)
            continue
        assert scan["status"] == "COMPLETED", (name, scan["error_trace"])
        found[name] = scan["result"]
    for old in OLD:
        assert found[old]["accepted_cipher_suites"] == [], old
    suites = {name: {suite["cipher_suite"]["name"] for suite in found[f"tls_1_{name}_cipher_suites"]["accepted_cipher_suites"]}
              for name in (2, 3)}
    assert suites[2] - GOOD_TLS_12 == set() and bool(suites[2]) == tls_12
    assert suites[3] and suites[3] - GOOD_TLS_13 == set()
    assert found["tls_1_3_early_data"]["supports_early_data"] is False
    flaws = {"heartbleed": "is_vulnerable_to_heartbleed", "openssl_ccs_injection": "is_vulnerable_to_ccs_injection",
             "tls_compression": "supports_compression"}
    for name, flaw in flaws.items():
        assert name not in found or found[name][flaw] is False, name
    if "robot" in found:
        assert found["robot"]["robot_result"].startswith("NOT_VULNERABLE"), found["robot"]
    if "session_renegotiation" in found:
        assert found["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"] is False
    if tls_12:
        assert found["tls_extended_master_secret"]["supports_ems_extension"] is True


def examine(address: str, name: str, scans: list[str]) -> str:
    command = [CHECKERS / "bin/sslyze", "--json_out=-", "--mozilla_config=disable", "--sni", name, *scans, address]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.stdout.startswith("{"), done.stderr[-2000:]
    return done.stdout


VERSIONS = ["--sslv2", "--sslv3", "--tlsv1", "--tlsv1_1", "--tlsv1_2", "--tlsv1_3"]
SCANS = [*VERSIONS, "--early_data", "--heartbleed", "--openssl_ccs", "--robot", "--reneg", "--compression", "--ems", "--fallback",
         "--elliptic_curves"]


@pytest.fixture(scope="module")
def listeners(rehearsal):
    with listeners_with_tls(rehearsal) as both:
        yield both


@pytest.mark.parametrize("listener", ["api", "edge"])
def test_a_listener_speaks_tls_13_alone_and_no_weakness_with_a_name_is_found(listeners, listener):
    judged(examine(getattr(listeners, listener), NAME, SCANS), tls_12=False)


class Weak(socketserver.ThreadingTCPServer):
    """TLS 1.2 by one cipher without forward secrecy; connections beside each other, as sslyze makes them."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, directory: Path):
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        self.context.maximum_version = ssl.TLSVersion.TLSv1_2
        self.context.set_ciphers("AES128-SHA:@SECLEVEL=0")
        super().__init__(("127.0.0.1", 0), None)

    def finish_request(self, request, client_address):
        request.settimeout(20)
        with contextlib.suppress(OSError), self.context.wrap_socket(request, server_side=True) as connection:
            while connection.recv(4096):
                pass


def test_the_judge_finds_a_listener_that_is_weak(tmp_path):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=weak", "-days", "2", "-keyout",
                    tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    with Weak(tmp_path) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            report = examine(f"127.0.0.1:{server.server_address[1]}", "weak", VERSIONS)
        finally:
            server.shutdown()
    with pytest.raises(AssertionError, match="TLS_RSA_WITH_AES_128_CBC_SHA"):
        judged(report, tls_12=True)


# Drops what was refused, suite by suite: a tool's result is bounded.
SHORT = """
import json, sys
report = json.load(sys.stdin)
for result in report["server_scan_results"]:
    for scan in (result["scan_result"] or {}).values():
        (scan["result"] or {}).pop("rejected_cipher_suites", None)
print(json.dumps(report))
"""


def test_what_a_sandbox_speaks_tls_with_is_not_weaker_than_what_lies_behind_it(new_stack, private_api):
    """The egress proxy's own handshake, as an agent sees it."""
    directory = Path(tempfile.mkdtemp(prefix="postern-tls-"))
    (directory / "ca.pem").write_text(private_api["ca_pem"])
    given = Path(tempfile.mkdtemp(prefix="postern-given-"))
    given.chmod(0o755)
    (given / "short.py").write_text(SHORT)
    stack = new_stack(f"""
[zone.ledger]
environment = "default"
[[zone.ledger.egress]]
host = "{API_HOST}"
ports = [443]
methods = ["GET"]
connect = "{private_api["address"]}"
addresses = ["127.0.0.0/8"]
ca_file = "{directory}/ca.pem"
[zone.ledger.sandbox]
mounts = [{{ host = "{CHECKERS}", at = "/checkers", access = "read" }}, {{ host = "{given}", at = "/given", access = "read" }}]
""")
    scan = f"/checkers/bin/python -m sslyze --json_out=- --mozilla_config=disable {' '.join(SCANS)} {API_HOST}:443"
    [report] = results_of(stack, tool("bash", command=f"{scan} | python3 /given/short.py", timeout_ms=240_000), seconds=300)
    assert report.startswith("{"), report[-3000:]
    # What was refused follows, a line each: old versions of TLS.
    answer, *refusals = report.splitlines()
    judged(answer, tls_12=True)
    assert any("TLS handshake failed" in line and "next=" in line for line in refusals), refusals
    for made in (directory, given):
        shutil.rmtree(made, ignore_errors=True)
