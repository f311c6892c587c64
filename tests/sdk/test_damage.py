"""One session whose log cannot be read: it alone fails, and the queue serves the others."""

from __future__ import annotations

import sqlite3

from conftest import Stack, script, tool, until
from sdk.test_conformance import TOOLSET, Http, new_session, say


def test_a_session_that_cannot_be_read_blocks_no_other(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    http = Http(stack, stack.api_key)
    broken, whole = (new_session(http, stack, [TOOLSET]) for _ in range(2))
    for session in (broken, whole):
        say(http, session, {"tool_uses": [tool("bash", command="true")]}, {"text": "done"})
        until(lambda: http.ok("GET", f"/v1/sessions/{session}")["status"] == "idle"
              and http.ok("GET", f"/v1/sessions/{session}/events?types%5B%5D=session.status_idle")["data"], what="idle")
    stack.stop()
    [database] = stack.data.rglob("postern.sqlite")
    with sqlite3.connect(database) as connection:
        connection.execute("UPDATE session_events SET body = '{' WHERE session_id = ?", (broken,))
        # As a server leaves it that dies between an item's end and telling the session.
        connection.execute("UPDATE work SET state = 'stopped', stopped_at = 1, reported = 0 WHERE session_id = ?", (broken,))
    connection.close()
    stack.start()
    worker = Http(stack, stack.environment_key)
    status, _, body = worker.raw("GET", f"/v1/environments/{stack.environment_id}/work/poll?block_ms=999")
    assert status == 200 and whole.encode() in body, body
    assert http.raw("GET", f"/v1/sessions/{broken}/events")[0] == 500
    assert http.raw("GET", f"/v1/sessions/{whole}/events")[0] == 200
    assert http.raw("GET", "/v1/sessions")[0] == 200
