"""The raw frames of what a plain turn does not have, byte for byte past the strict validator: outcomes, threads, compaction, web tools."""

from __future__ import annotations

import json

import pytest
from anthropic.types import beta as types
from conformance.validator import check_sse
from conftest import Stack, script, tool, until

from sdk.test_conformance import Frames, Http, new_session, say, send
from sdk.test_web_tools import SOURCES, Site, site, stack, toolset  # noqa: F401  the site and the stack that reaches it


@pytest.fixture(scope="module")
def quiet(new_stack) -> Stack:
    """A stack without a worker."""
    return new_stack(arguments=["--no-worker"])


@pytest.fixture(scope="module")
def http(quiet: Stack) -> Http:
    return Http(quiet, quiet.api_key)


def conforming(frames: Frames, *expected: str) -> list[tuple[str, str]]:
    """Every frame, when each conforms and these are among them."""
    found = frames.all()
    problems = [
        problem for name, data in found
        for problem in check_sse(types.sessions.BetaManagedAgentsStreamSessionEvents, name, data)]
    assert problems == []
    assert {name for name, _ in found} >= set(expected)
    return found


def grade(result: str) -> str:
    return json.dumps({"result": result, "explanation": "as rehearsed"})


def test_frames_of_an_outcome_conform(http: Http, quiet: Stack):
    session = new_session(http, quiet, [])
    frames = Frames(http, f"/v1/sessions/{session}/events/stream")
    send(http, session,
         {"type": "user.message", "content": script({"text": "a try", "grade": grade("needs_revision")},
                                                    {"text": "better", "grade": grade("satisfied")})},
         {"type": "user.define_outcome", "description": "a program", "rubric": {"type": "text", "content": "it runs"}})
    frames.ends("end_turn")
    conforming(frames, "user.define_outcome", "span.outcome_evaluation_start", "span.outcome_evaluation_end")
    ends = [(end["iteration"], end["result"]) for end in frames.data("span.outcome_evaluation_end")]
    assert ends == [(0, "needs_revision"), (1, "satisfied")]


def test_frames_of_an_outcome_that_is_interrupted_conform(http: Http, quiet: Stack):
    session = new_session(http, quiet, [])
    frames = Frames(http, f"/v1/sessions/{session}/events/stream")
    send(http, session,
         {"type": "user.message", "content": script({"text": "words without an end " * 200, "delay_ms": 20})},
         {"type": "user.define_outcome", "description": "a program", "rubric": {"type": "text", "content": "it runs"}})
    send(http, session, {"type": "user.interrupt"})
    frames.ends("end_turn")
    conforming(frames, "user.interrupt", "span.outcome_evaluation_end")
    assert [end["result"] for end in frames.data("span.outcome_evaluation_end")] == ["interrupted"]


def test_frames_of_a_session_and_of_its_threads_conform(http: Http, quiet: Stack):
    scout = http.ok("POST", "/v1/agents", {"name": "scout", "model": "rehearsal-1"})["id"]
    chief = http.ok("POST", "/v1/agents", {
        "name": "chief", "model": "rehearsal-1", "multiagent": {"type": "coordinator", "agents": [scout]}})["id"]
    body = {"agent": chief, "environment_id": quiet.environment_id}
    session = http.ok("POST", "/v1/sessions", body)["id"]
    frames = Frames(http, f"/v1/sessions/{session}/events/stream")
    message = script({"text": "it is there"})[0]["text"]
    say(http, session, {"tool_uses": [tool("start_agent", agent="scout", message=message)]}, {"text": "waiting"}, {"text": "so it is"})
    frames.ends("end_turn")
    conforming(frames, "session.thread_created", "agent.thread_message_sent", "session.thread_status_idle")
    thread = frames.data("session.thread_created")[0]["session_thread_id"]
    own = Frames(http, f"/v1/sessions/{session}/threads/{thread}/stream")
    say(http, session, {"tool_uses": [tool("message_agent", session_thread_id=thread, message=script({"text": "again"})[0]["text"])]},
        {"text": "waiting"}, {"text": "heard"})
    frames.ends("end_turn", 2)
    conforming(frames, "agent.thread_message_received")
    until(lambda: "session.thread_status_idle" in own.kinds(), what="the end of the thread's turn on its own stream")
    conforming(own, "agent.thread_message_received", "session.thread_status_running", "agent.message")


def test_frames_of_a_compaction_conform(http: Http, quiet: Stack):
    agent = http.ok("POST", "/v1/agents", {
        "name": "long", "model": "rehearsal-1", "context": {"compact_above_tokens": 1000}})["id"]
    session = http.ok("POST", "/v1/sessions", {"agent": agent, "environment_id": quiet.environment_id})["id"]
    frames = Frames(http, f"/v1/sessions/{session}/events/stream")
    send(http, session, {"type": "user.message", "content": [{"type": "text", "text": "the beginning " * 1000}]})
    frames.ends("end_turn")
    say(http, session, {"text": "after the summary"})
    frames.ends("end_turn", 2)
    conforming(frames, "agent.thread_context_compacted")


def test_frames_of_web_tools_conform(stack: Stack, site: Site):  # noqa: F811
    http = Http(stack, stack.api_key)
    session = new_session(http, stack, toolset({"name": "web_fetch", "url_sources": SOURCES}))
    frames = Frames(http, f"/v1/sessions/{session}/events/stream")
    searches, fetches = tool("web_search", query="notes"), tool("web_fetch", url=site.url("/page"))
    say(http, session, {"tool_uses": [searches]}, {"tool_uses": [fetches, tool("web_fetch", url="https://never.example/")]}, {"text": "read"})
    frames.ends("end_turn")
    conforming(frames, "agent.tool_use", "agent.tool_result", "session.usage")
    assert [bool(result.get("is_error")) for result in frames.data("agent.tool_result")].count(True) == 1
    assert frames.data("session.usage")[-1]["usage"]["server_tool_use"]["web_search_requests"] == 1
