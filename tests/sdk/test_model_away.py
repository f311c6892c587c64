"""A model endpoint that is not there: clients are told what to do, and neither the address nor the system's words."""

from __future__ import annotations

import socket
import time

from conftest import Stack, until
from sdk.test_conformance import Http, new_session, send


def test_a_session_waits_for_its_model_says_so_and_an_interrupt_ends_the_wait_at_once(new_stack, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
    stack = Stack(tmp_path, f'config = 1\n[model]\nurl = "http://127.0.0.1:{port}"\ndefault = "m"\n', ["--no-worker"]).start()
    try:
        http = Http(stack, stack.api_key)
        session = new_session(http, stack, [])
        send(http, session, {"type": "user.message", "content": [{"type": "text", "text": "hello"}]})

        def events(kind: str) -> list[dict]:
            return http.ok("GET", f"/v1/sessions/{session}/events?types%5B%5D={kind}")["data"]

        error = until(lambda: events("session.error"), what="the error")[0]["error"]
        assert (error["type"], error["retry_status"]["type"]) == ("model_request_failed_error", "retrying")
        for told in (str(port), "127.0.0.1", "os error", "refused"):
            assert told not in error["message"], error
        assert str(port) in stack.log.read_text(), "the operator finds the cause in the log"
        until(lambda: len(events("session.error")) > 1, what="another try")
        until(lambda: http.ok("GET", f"/v1/sessions/{session}")["status"] == "rescheduling", what="the wait")
        begun = time.monotonic()
        send(http, session, {"type": "user.interrupt"})
        assert http.ok("GET", f"/v1/sessions/{session}")["status"] == "idle"
        assert time.monotonic() - begun < 1
        assert events("session.status_idle")[-1]["stop_reason"]["type"] == "end_turn"
    finally:
        stack.kill()
