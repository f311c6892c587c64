"""Bytes of every kind of event and object against the strict validator, and the order of a turn (contract 3.6, 9.3)."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime

import pytest
from anthropic.types import beta as types
from anthropic.types.beta import environments as queue
from conftest import Stack, script, tool, until
from conformance.validator import check, check_page, check_sse

BETA = "managed-agents-2026-04-01"
TOOLSET = {"type": "agent_toolset_20260401"}
CUSTOM = {"type": "custom", "name": "weather", "description": "Weather.", "input_schema": {"type": "object"}}


class Http:
    """Plain HTTP: what is checked are the bytes, not what a client makes of them."""

    def __init__(self, stack: Stack, key: str):
        self.base, self.key = stack.base_url, key

    def request(self, method: str, path: str, body: object = None):
        data = None if method == "GET" else (json.dumps(body).encode() if body is not None else b"")
        request = urllib.request.Request(self.base + path, data=data, method=method)
        request.add_header("authorization", f"Bearer {self.key}")
        request.add_header("anthropic-beta", BETA)
        request.add_header("content-type", "application/json")
        return request

    def raw(self, method: str, path: str, body: object = None) -> tuple[int, dict, bytes]:
        try:
            with urllib.request.urlopen(self.request(method, path, body), timeout=30) as answer:
                return answer.status, dict(answer.headers), answer.read()
        except urllib.error.HTTPError as refusal:
            return refusal.code, dict(refusal.headers), refusal.read()

    def ok(self, method: str, path: str, body: object = None):
        status, _, content = self.raw(method, path, body)
        assert status == 200, content
        return json.loads(content)


class Frames:
    """The raw frames of a stream."""

    def __init__(self, http: Http, path: str):
        self.lines: list[str] = []
        self.answer = urllib.request.urlopen(http.request("GET", path), timeout=60)
        self.ended = threading.Event()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        try:
            for line in self.answer:
                self.lines.append(line.decode().rstrip("\n"))
        finally:
            self.ended.set()

    def all(self) -> list[tuple[str, str]]:
        found, name = [], None
        for line in list(self.lines):
            if line.startswith("event: "):
                name = line.removeprefix("event: ")
            elif line.startswith("data: "):
                assert name, "an event: line before the data"
                found.append((name, line.removeprefix("data: ")))
                name = None
            elif line.startswith("id: "):
                assert line.removeprefix("id: ").isdecimal() and name is None, "a place before the event: line"
            else:
                assert line == "" or line.startswith(":"), line
        return found

    def kinds(self) -> list[str]:
        return [name for name, _ in self.all()]

    def data(self, kind: str) -> list[dict]:
        return [json.loads(data) for name, data in self.all() if name == kind]

    def ends(self, reason: str, count: int = 1) -> dict:
        def found() -> list:
            return [e for e in self.data("session.status_idle") if e["stop_reason"]["type"] == reason][count - 1:count]
        return until(found, what=f"idle {reason} number {count}")[0]


@pytest.fixture(scope="module")
def quiet(new_stack) -> Stack:
    """A stack without a worker: nobody takes from the queue but the test."""
    return new_stack(arguments=["--no-worker"])


@pytest.fixture(scope="module")
def http(quiet: Stack) -> Http:
    return Http(quiet, quiet.api_key)


def new_session(http: Http, quiet: Stack, tools: list[dict]) -> str:
    agent = http.ok("POST", "/v1/agents", {"name": "strict", "model": "rehearsal-1", "tools": tools})
    return http.ok("POST", "/v1/sessions", {"agent": agent["id"], "environment_id": quiet.environment_id})["id"]


def send(http: Http, session: str, *events: dict) -> list[dict]:
    return http.ok("POST", f"/v1/sessions/{session}/events", {"events": list(events)})["data"]


def say(http: Http, session: str, *turns: dict) -> dict:
    return send(http, session, {"type": "user.message", "content": script(*turns)})[0]


def assert_order(kinds: list[str]) -> None:
    statuses = [kind for kind in kinds if ".thread_status_" in kind or kind.startswith("session.status_")]
    assert statuses[:2] == ["session.status_running", "session.thread_status_running"]
    for at, kind in enumerate(kinds):
        if kind == "session.status_idle":
            # Said again after a change to a session that rests.
            assert kinds[at - 1] == "session.usage", kinds
            assert kinds[at - 2] in ("session.thread_status_idle", "session.updated"), kinds


def test_every_kind_of_event_conforms_from_creation_to_deletion(http: Http, quiet: Stack):
    ask = {"name": "write", "permission_policy": {"type": "always_ask"}}
    session = new_session(http, quiet, [{**TOOLSET, "configs": [ask]}, CUSTOM])
    path = f"/v1/sessions/{session}"
    frames = Frames(http, f"{path}/events/stream?event_deltas%5B%5D=agent.message&event_deltas%5B%5D=agent.thinking")
    say(http, session,
        {"thinking": "hm", "text": "several words to preview", "tool_uses": [
            tool("bash", command="true"), tool("write", file_path="f", content="x"), tool("weather", city="Oslo")]},
        {"text": "done"})
    waiting = frames.ends("requires_action")
    bash, write, weather = waiting["stop_reason"]["event_ids"]
    send(http, session, {"type": "user.custom_tool_result", "custom_tool_use_id": weather,
                         "content": [{"type": "text", "text": "rain"}]})
    assert frames.ends("requires_action", 2)["stop_reason"]["event_ids"] == [bash, write]
    send(http, session, {"type": "user.tool_confirmation", "tool_use_id": write, "result": "deny", "deny_message": "no"})
    stored = send(http, session, {"type": "user.tool_result", "tool_use_id": bash, "is_error": False,
                                  "content": [{"type": "text", "text": "ran"}]})
    assert stored[0]["processed_at"], "a result is processed on receipt"
    frames.ends("end_turn")
    say(http, session, {"text": "x", "error": {"status": 529, "type": "overloaded_error", "retry_after": 0, "times": 1}})
    frames.ends("end_turn", 2)
    say(http, session, {"text": "words without an end " * 200, "delay_ms": 20})
    until(lambda: frames.kinds().count("event_delta") > 3, what="previews")
    queued = say(http, session, {"text": "queued"})
    assert queued["processed_at"] is None
    send(http, session, {"type": "user.interrupt"})
    until(lambda: [e for e in frames.data("user.message") if e["id"] == queued["id"] and e["processed_at"]],
          what="the second showing of the message that waited")
    frames.ends("end_turn", 4)
    http.ok("POST", path, {"title": "new", "metadata": {"k": "v"}})
    frames.ends("end_turn", 5)
    before = frames.kinds()
    listed = http.raw("GET", f"{path}/events?limit=1000")[2]
    threads = http.raw("GET", f"{path}/threads")[2]
    shown = http.raw("GET", path)[2]
    http.ok("POST", f"{path}/archive")
    archived = http.raw("GET", path)[2]
    http.ok("DELETE", path)
    assert frames.ended.wait(20), "the stream ends with the session"
    problems = []
    for name, data in frames.all():
        problems += check_sse(types.sessions.BetaManagedAgentsStreamSessionEvents, name, data)
    problems += check_page(types.sessions.BetaManagedAgentsSessionEvent, listed)
    problems += check_page(types.sessions.BetaManagedAgentsSessionThread, threads)
    problems += check(types.BetaManagedAgentsSession, shown) + check(types.BetaManagedAgentsSession, archived)
    assert problems == []
    assert frames.kinds()[-1] == "session.deleted"
    seen = set(frames.kinds())
    assert seen >= {
        "user.message", "user.interrupt", "user.tool_confirmation", "user.custom_tool_result", "user.tool_result",
        "agent.message", "agent.thinking", "agent.tool_use", "agent.custom_tool_use", "agent.tool_result",
        "session.status_running", "session.status_rescheduled", "session.status_terminated", "session.status_idle",
        "session.thread_status_running", "session.thread_status_rescheduled", "session.thread_status_terminated",
        "session.thread_status_idle", "session.error", "session.updated", "session.usage",
        "span.model_request_start", "span.model_request_end", "event_start", "event_delta",
    }
    assert_order([kind for kind in before if not kind.startswith("event_")])
    ids = [e["id"] for e in json.loads(listed)["data"]]
    assert len(ids) == len(set(ids)), "an event that is shown twice is listed once"
    times = [datetime.fromisoformat(e["processed_at"]) for e in json.loads(listed)["data"]]
    assert times == sorted(times)


def test_the_queue_s_objects_conform_and_heartbeats_echo_byte_for_byte(http: Http, quiet: Stack):
    worker = Http(quiet, quiet.environment_key)
    base = f"/v1/environments/{quiet.environment_id}/work"
    while (item := worker.ok("GET", f"{base}/poll")) is not None:
        worker.ok("POST", f"{base}/{item['id']}/stop", {"force": True})
    status, headers, empty = worker.raw("GET", f"{base}/poll?block_ms=1")
    assert (status, empty, headers["content-type"]) == (200, b"null", "application/json")
    assert worker.raw("GET", f"{base}/poll?block_ms=0")[0] == 400
    session = new_session(http, quiet, [TOOLSET])
    say(http, session, {"tool_uses": [tool("bash", command="true")]}, {"text": "done"})
    polled = until(lambda: (raw := worker.raw("GET", f"{base}/poll?block_ms=999")[2]) != b"null" and raw, what="an item")
    item = json.loads(polled)
    path = f"{base}/{item['id']}"
    problems = check(queue.BetaSelfHostedWork, polled)
    problems += check(queue.BetaSelfHostedWork, worker.raw("POST", f"{path}/ack")[2])
    first = worker.raw("POST", f"{path}/heartbeat?expected_last_heartbeat=NO_HEARTBEAT")[2]
    problems += check(queue.BetaSelfHostedWorkHeartbeatResponse, first)
    last = json.loads(first)["last_heartbeat"]
    second = worker.ok("POST", f"{path}/heartbeat?expected_last_heartbeat={urllib.parse.quote(last)}")
    assert second["lease_extended"] and second["last_heartbeat"] != last
    for wrong in ["NO_HEARTBEAT", last, second["last_heartbeat"].replace("Z", "+00:00"), ""]:
        status, _, body = worker.raw("POST", f"{path}/heartbeat?expected_last_heartbeat={urllib.parse.quote(wrong)}")
        error = json.loads(body)["error"]
        assert status == 412 and error["details"]["error_code"] == "heartbeat_precondition_failed", body
        assert error["details"]["current_state"] == {
            "last_heartbeat": second["last_heartbeat"], "lease_extended": False, "state": "active",
            "ttl_seconds": second["ttl_seconds"]}
    problems += check(queue.BetaSelfHostedWorkQueueStats, worker.raw("GET", f"{base}/stats")[2])
    problems += check_page(queue.BetaSelfHostedWork, worker.raw("GET", base)[2])
    problems += check(queue.BetaSelfHostedWork, http.raw("GET", path)[2])
    assert json.loads(http.raw("GET", path)[2])["secret"] is None
    stopping = worker.raw("POST", f"{path}/stop", {})[2]
    problems += check(queue.BetaSelfHostedWork, stopping)
    told = worker.ok("POST", f"{path}/heartbeat?expected_last_heartbeat=whatever")
    assert told["state"] == "stopping" and not told["lease_extended"]
    problems += check(queue.BetaSelfHostedWork, worker.raw("POST", f"{path}/stop", {"force": True})[2])
    status, headers, _ = worker.raw("POST", f"{path}/stop", {"force": True})
    assert (status, headers["x-should-retry"]) == (409, "false")
    assert problems == []


def test_cursors_keep_to_their_order_and_filters_and_sessions_page_both_ways(http: Http, quiet: Stack):
    made = [new_session(http, quiet, []) for _ in range(5)]
    first = http.ok("GET", "/v1/sessions?limit=2")
    assert [s["id"] for s in first["data"]] == made[:2:-1] and first["prev_page"] is None
    second = http.ok("GET", f"/v1/sessions?limit=2&page={first['next_page']}")
    assert [s["id"] for s in second["data"]] == made[2:0:-1]
    back = http.ok("GET", f"/v1/sessions?limit=2&page={second['prev_page']}")
    assert [s["id"] for s in back["data"]] == made[:2:-1]
    wider = http.ok("GET", f"/v1/sessions?limit=3&statuses%5B%5D=idle&page={first['next_page']}")
    assert wider["data"][0]["id"] == made[2], "limit and other filters may change"
    oldest = http.ok("GET", f"/v1/sessions/{made[0]}")["created_at"]
    position = urllib.parse.quote(oldest)
    for query in ["order=asc", f"created_at%5Blte%5D={position}"]:
        status, _, body = http.raw("GET", f"/v1/sessions?limit=2&{query}&page={first['next_page']}")
        assert status == 400, body
    for path in ["/v1/agents", f"/v1/sessions/{made[0]}/events", f"/v1/environments/{quiet.environment_id}/work"]:
        assert http.raw("GET", f"{path}?page={first['next_page']}")[0] == 400, path


def test_previews_are_validated_and_never_replayed(http: Http, quiet: Stack):
    session = new_session(http, quiet, [])
    path = f"/v1/sessions/{session}/events/stream"
    for query in ["event_deltas%5B%5D=agent.tool_use", "event_deltas%5B%5D=", "&".join(["event_deltas%5B%5D=agent.message"] * 101)]:
        assert http.raw("GET", f"{path}?{query}")[0] == 400, query[:60]
    first = Frames(http, f"{path}?" + "&".join(["event_deltas[]=agent.message"] * 100))
    without = Frames(http, path)
    say(http, session, {"text": "one word after the other " * 40, "delay_ms": 10})
    until(lambda: first.kinds().count("event_delta") > 2, what="previews")
    late = Frames(http, f"{path}?event_deltas%5B%5D=agent.message")
    for frames in (first, without, late):
        frames.ends("end_turn")
    assert not [kind for kind in without.kinds() if kind.startswith("event_")]
    assert late.kinds()[0] not in ("event_start", "user.message"), "only what came after it opened"
    assert not [kind for kind in late.kinds() if kind.startswith("event_")], "a preview that has begun is not joined"
    message = first.data("agent.message")[0]
    pieces = "".join(d["delta"]["content"]["text"] for d in first.data("event_delta"))
    assert message["content"][0]["text"].startswith(pieces)
    listed = http.ok("GET", f"/v1/sessions/{session}/events")["data"]
    assert not [event for event in listed if event["type"].startswith("event_")]
