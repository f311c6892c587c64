"""Zones that change under a session that runs: a narrowing counts at its next request, a widening for the next session."""

from __future__ import annotations

import functools
import os
import signal
import subprocess
import threading

from conftest import API_HOST, API_TOKEN, BINARY, WAYS, Stack, results_of, role_of, secret_file, tool, until

# Asks until the answer is not the first one any more, and prints what came then; bounded by the shell's own counting.
ASK = f"""for i in $(seq 300); do
  answer=$(curl -sS -m 30 https://{API_HOST}/v1/accounts -H "Authorization: Bearer $LEDGER_API_KEY")
  case "$answer" in *Operations*) seen=$i; sleep 0.1;; *) break;; esac
done; echo "after $seen: $answer"; curl -sS -m 30 https://wider.example/"""


@functools.cache
def kept(text: str) -> str:
    """One file for each text: custody confined itself to where its sources lay when it started."""
    return secret_file(text)


def zone(private_api: dict, more: str = "", paths: str = '"/v1/**"') -> str:
    ca = kept(private_api["ca_pem"])
    return f"""
[zone.ledger]
environment = "default"
[[zone.ledger.credential]]
name = "ledger-api"
source = "file:{kept(API_TOKEN)}"
env = "LEDGER_API_KEY"
inject = [{{ header = "authorization" }}]
[[zone.ledger.egress]]
host = "{API_HOST}"
paths = [{paths}]
credential = "ledger-api"
connect = "{private_api["address"]}"
addresses = ["127.0.0.0/8"]
ca_file = "{ca}"
{more}"""


def records(stack: Stack) -> str:
    show = [BINARY, "audit", "show", "--data-dir", str(stack.data)]
    return subprocess.run(show, capture_output=True, text=True, check=True).stdout


def reload(stack: Stack, zones: str) -> None:
    model = stack.config.split("[zone.", 1)[0]
    (stack.directory / "postern.toml").write_text(model + zones)
    stack.process.send_signal(signal.SIGHUP)


def worker_pids(stack: Stack) -> list[int]:
    return [pid for pid in stack.pids()[1:] if role_of(pid) == "worker"]


@WAYS
def test_boundary_a_narrowed_zone_counts_at_the_next_request_of_a_running_session(new_stack, private_api: dict, way: str):
    stack = new_stack(zone(private_api))
    worker = worker_pids(stack)
    texts: list[str] = []
    running = threading.Thread(target=lambda: texts.extend(results_of(stack, tool("bash", command=ASK.replace("curl", way + "curl")))))
    running.start()
    until(lambda: "GET https://" + API_HOST in records(stack), 60, "the session's first request")
    wider = '[[zone.ledger.egress]]\nhost = "wider.example"\n'
    reload(stack, zone(private_api, wider, paths='"/v1/entries"'))
    until(lambda: "the worker took up its zones again" in stack.log.read_text(), 30, "the reload")
    running.join(60)
    [text] = texts
    assert "path_not_allowed" in text and "host_not_allowed" in text, text
    assert worker_pids(stack) == worker and API_TOKEN not in text
    # The next session is opened by the new zone.
    refused, wider = results_of(
        stack,
        tool("bash", command=f'{way}curl -sS -m 30 https://{API_HOST}/v1/accounts -H "Authorization: Bearer $LEDGER_API_KEY"'),
        tool("bash", command=f"{way}curl -sS -m 30 https://wider.example/"))
    assert "path_not_allowed" in refused and "host_not_allowed" not in wider, (refused, wider)


def test_boundary_a_session_whose_zone_vanishes_is_refused_and_an_error_changes_nothing(new_stack, private_api: dict):
    stack = new_stack(zone(private_api))
    texts: list[str] = []
    running = threading.Thread(target=lambda: texts.extend(results_of(stack, tool("bash", command=ASK))))
    running.start()
    until(lambda: "GET https://" + API_HOST in records(stack), 60, "the session's first request")
    reload(stack, zone(private_api) + "surprise = 1\n")
    until(lambda: "the former configuration stays in force" in stack.log.read_text(), 30, "the refusal")
    assert running.is_alive()
    others = zone(private_api).replace('environment = "default"', 'environment = "default"\nagents = ["agent_other"]')
    reload(stack, others)
    running.join(60)
    [text] = texts
    assert "zone_none" in text, text
