"""The listeners of API and edge, examined by testssl.sh, which makes its handshakes by hand: nothing it finds is graver than LOW.

The egress proxy is left to sslyze: what is no TLS at all waits there for the time that a request's head has.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from conftest import port_to_keep, until
from listeners import NAME, listeners_with_tls

# Versions, suites by their strength, forward secrecy, and every weakness that has a name. Not the certificate: the
# journeys' own lasts two days.
CHECKS = "--protocols --standard --pfs --vulnerable"
QUIET = "--quiet --color 0 --warnings off --nodns none --fast --connect-timeout 20 --openssl-timeout 20"
GRAVE = {"MEDIUM", "HIGH", "CRITICAL"}
# What must have been looked at: each by the name that testssl.sh gives to it.
LOOKED_AT = {
    "SSLv2", "SSLv3", "TLS1", "TLS1_1", "TLS1_2", "TLS1_3", "cipherlist_NULL", "cipherlist_aNULL", "cipherlist_EXPORT", "cipherlist_LOW",
    "cipherlist_3DES_IDEA", "PFS", "heartbleed", "CCS", "ticketbleed", "ROBOT", "secure_renego", "secure_client_renego", "CRIME_TLS",
    "POODLE_SSL", "fallback_SCSV", "FREAK", "DROWN", "LOGJAM", "BEAST", "LUCKY13", "RC4",
}


def examined(address: str, name: str, directory: Path, checks: str) -> subprocess.Popen:
    """testssl.sh at work on a listener of this machine; it writes into `directory`."""
    host, _, port = address.rpartition(":")
    command = ["testssl", *QUIET.split(), *checks.split(), "--ip", host, "--jsonfile", directory / "report.json", f"https://{name}:{port}"]
    return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def findings(examination: subprocess.Popen, directory: Path) -> dict[str, tuple[str, str]]:
    """Each finding by its name: how grave, and what."""
    said, _ = examination.communicate(timeout=400)
    report = directory / "report.json"
    assert report.is_file(), said
    return {found["id"]: (found["severity"], found["finding"]) for found in json.loads(report.read_text())}


def grave(found: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    return {name: what for name, what in found.items() if what[0] in GRAVE}


def judged(found: dict[str, tuple[str, str]]) -> None:
    assert LOOKED_AT - set(found) == set()
    assert found["TLS1_3"][1].startswith("offered"), found["TLS1_3"]
    assert grave(found) == {}


def test_of_api_and_edge_nothing_is_found_that_is_graver_than_low(rehearsal, tmp_path):
    with listeners_with_tls(rehearsal) as both:
        work = {}
        for name in ("api", "edge"):
            (tmp_path / name).mkdir()
            work[name] = examined(getattr(both, name), NAME, tmp_path / name, CHECKS)
        for name, examination in work.items():
            found = findings(examination, tmp_path / name)
            judged(found)
            assert found["TLS1_2"][1] == "not offered", name


def test_a_listener_that_is_weak_is_found_to_be(tmp_path):
    port = port_to_keep()
    subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=weak", "-days", "2", "-keyout",
                    tmp_path / "key.pem", "-out", tmp_path / "cert.pem"], check=True, capture_output=True)
    weak = subprocess.Popen(["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-key", tmp_path / "key.pem", "-cert", tmp_path / "cert.pem",
                             "-tls1", "-cipher", "ALL:@SECLEVEL=0", "-www"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(lambda: "ACCEPT" in weak.stdout.readline(), 10, "the weak listener")
        found = findings(examined(f"127.0.0.1:{port}", "weak", tmp_path, "--protocols --standard"), tmp_path)
    finally:
        weak.kill()
        weak.wait()
        weak.stdout.close()
    assert {"TLS1_1", "TLS1_2"} <= set(grave(found)), found
    with pytest.raises(AssertionError):
        judged(found)
