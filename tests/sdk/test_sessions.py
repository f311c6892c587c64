"""A session by the official SDK, unmodified: base_url and key only. Every body passes the strict validator."""

from __future__ import annotations

import threading

import pytest
from anthropic import Anthropic
from anthropic.lib.sessions import accumulate_managed_agents_event
from anthropic.types import beta as types
from conftest import Stack, script, tool, until
from conformance.validator import check, check_page, check_sse

TOOLSET = {"type": "agent_toolset_20260401"}


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key)


def new_session(client: Anthropic, postern: Stack, tools: list[dict] | None = None) -> str:
    agent = client.beta.agents.create(name="journey", model="rehearsal-1", tools=tools or [TOOLSET])
    return client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id).id


def say(client: Anthropic, session: str, *turns: dict):
    return client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns)}])


class Reader:
    """Reads a session's stream to the next idle in the background."""

    def __init__(self, client: Anthropic, session: str, deltas: list[str] | None = None):
        self.events: list = []
        self.raw: list[tuple[str | None, str]] = []
        self.stream = client.beta.sessions.events.stream(session, event_deltas=deltas) if deltas else client.beta.sessions.events.stream(session)
        self.thread = threading.Thread(target=self._read, daemon=True)
        self.thread.start()

    def _read(self) -> None:
        try:
            for event in self.stream:
                self.events.append(event)
        except Exception as cause:  # a closed stream ends the reader; the test looks at the events
            self.cause = cause

    def of(self, kind: str) -> list:
        return [event for event in self.events if event.type == kind]

    def idle(self, count: int = 1):
        """The `count`-th idle event."""
        return until(lambda: self.of("session.status_idle")[count - 1:count], what=f"idle number {count}")[0]

    def close(self) -> None:
        self.stream.close()


def test_a_turn_with_tools_streams_in_order_and_conforms(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session, ["agent.message", "agent.thinking"])
    say(client, session,
        {"thinking": "let me see", "text": "I will list the files, " * 8, "tool_uses": [tool("bash", command="echo from-the-sandbox")]},
        {"text": "all done"})
    reader.idle(2) if reader.idle().stop_reason.type == "requires_action" else None
    idle = until(lambda: [e for e in reader.of("session.status_idle") if e.stop_reason.type == "end_turn"], what="end of the turn")[-1]
    kinds = [event.type for event in reader.events]
    assert kinds[-1] == "session.status_idle" and idle.stop_reason.type == "end_turn"
    assert kinds.index("session.status_running") < kinds.index("session.thread_status_running") < kinds.index("span.model_request_start")
    assert kinds[-2] == "session.usage"
    results = reader.of("user.tool_result")
    assert "from-the-sandbox" in results[-1].content[0].text
    reader.close()


def test_previews_accumulate_to_the_buffered_message(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session, ["agent.message"])
    text = "a long answer in many pieces, " * 20
    say(client, session, {"text": text, "delay_ms": 2})
    reader.idle()
    starts, deltas = reader.of("event_start"), reader.of("event_delta")
    assert starts and deltas
    message = reader.of("agent.message")[0]
    assert starts[0].event.id == message.id
    preview = "".join(delta.delta.content.text for delta in deltas if delta.event_id == message.id)
    assert message.content[0].text == text and text.startswith(preview)
    accumulated = None
    for event in reader.events:
        if event.type in ("event_start", "event_delta") or getattr(event, "id", None) == message.id:
            accumulated = accumulate_managed_agents_event(event=event, accumulated=accumulated)
    assert accumulated is not None
    reader.close()


def test_bodies_and_frames_pass_the_strict_validator(client: Anthropic, postern: Stack):
    agent = client.beta.agents.with_raw_response.create(name="strict", model="rehearsal-1", tools=[TOOLSET], system="be brief")
    problems = check(types.BetaManagedAgentsAgent, agent.http_response.content)
    session = client.beta.sessions.with_raw_response.create(agent=agent.parse().id, environment_id=postern.environment_id, title="strict")
    problems += check(types.BetaManagedAgentsSession, session.http_response.content)
    id = session.parse().id
    reader = Reader(client, id, ["agent.message"])
    say(client, id, {"text": "look", "tool_uses": [tool("bash", command="true"), tool("read", file_path="absent")]}, {"text": "done"})
    until(lambda: [e for e in reader.of("session.status_idle") if e.stop_reason.type == "end_turn"], what="end of the turn")
    events = client.beta.sessions.events.with_raw_response.list(id)
    problems += check_page(types.sessions.BetaManagedAgentsSessionEvent, events.http_response.content)
    listed = client.beta.sessions.with_raw_response.list()
    problems += check_page(types.BetaManagedAgentsSession, listed.http_response.content, bidirectional=True)
    for event in reader.events:
        problems += check_sse(types.sessions.BetaManagedAgentsStreamSessionEvents, event.type, event.to_json())
    threads = client.beta.sessions.threads.with_raw_response.list(id)
    problems += check_page(types.sessions.BetaManagedAgentsSessionThread, threads.http_response.content)
    assert problems == []
    reader.close()


def test_a_call_that_asks_waits_for_its_confirmation(client: Anthropic, postern: Stack):
    tools = [{**TOOLSET, "default_config": {"permission_policy": {"type": "always_ask"}}}]
    session = new_session(client, postern, tools)
    reader = Reader(client, session)
    say(client, session, {"tool_uses": [tool("bash", command="echo allowed-ran"), tool("bash", command="echo denied-ran")]}, {"text": "done"})
    idle = reader.idle()
    assert idle.stop_reason.type == "requires_action"
    first, second = idle.stop_reason.event_ids
    client.beta.sessions.events.send(session, events=[
        {"type": "user.tool_confirmation", "tool_use_id": first, "result": "allow"},
        {"type": "user.tool_confirmation", "tool_use_id": second, "result": "deny", "deny_message": "not today"},
    ])
    until(lambda: [e for e in reader.of("session.status_idle") if e.stop_reason.type == "end_turn"], what="end of the turn")
    ran = {e.tool_use_id: e for e in reader.of("user.tool_result")}
    assert "allowed-ran" in ran[first].content[0].text and second not in ran
    denied = [e for e in reader.of("agent.tool_result") if e.tool_use_id == second]
    assert denied[0].is_error and "not today" in denied[0].content[0].text
    reader.close()


def test_a_custom_tool_is_answered_by_its_owner(client: Anthropic, postern: Stack):
    custom = {"type": "custom", "name": "weather", "description": "Weather of a city.",
              "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
    session = new_session(client, postern, [custom])
    reader = Reader(client, session)
    say(client, session, {"tool_uses": [tool("weather", city="Oslo")]}, {"text": "it rains"})
    idle = reader.idle()
    use = reader.of("agent.custom_tool_use")[0]
    assert idle.stop_reason.event_ids == [use.id] and use.input == {"city": "Oslo"}
    client.beta.sessions.events.send(session, events=[
        {"type": "user.custom_tool_result", "custom_tool_use_id": use.id, "content": [{"type": "text", "text": "rain"}]}])
    until(lambda: [e for e in reader.of("session.status_idle") if e.stop_reason.type == "end_turn"], what="end of the turn")
    assert reader.of("agent.message")[-1].content[0].text == "it rains"
    reader.close()


def test_an_interrupt_stops_a_streaming_answer(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session, ["agent.message"])
    say(client, session, {"text": "an answer without an end, " * 400, "delay_ms": 30})
    until(lambda: reader.of("event_delta"), what="the first preview")
    client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    assert reader.idle().stop_reason.type == "end_turn"
    assert not reader.of("agent.message")
    assert reader.of("span.model_request_end")[-1].is_error
    reader.close()


def test_an_interrupted_call_is_closed_and_the_session_goes_on(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session)
    say(client, session, {"tool_uses": [tool("bash", command="sleep 60")]}, {"text": "never reached"})
    reader.idle()
    client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    until(lambda: [e for e in reader.of("session.status_idle") if e.stop_reason.type == "end_turn"], what="end of the turn")
    say(client, session, {"text": "on again"})
    until(lambda: [e for e in reader.of("agent.message") if e.content[0].text == "on again"], what="the next answer")
    reader.close()


def test_a_rate_limited_model_is_tried_again_after_its_wait(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session)
    say(client, session, {"text": "at last", "error": {"status": 429, "type": "rate_limit_error", "retry_after": 1, "times": 1}})
    idle = reader.idle()
    assert idle.stop_reason.type == "end_turn"
    error = reader.of("session.error")[0].error
    assert error.type == "model_rate_limited_error" and error.retry_status.type == "retrying"
    assert reader.of("session.status_rescheduled")
    assert reader.of("agent.message")[-1].content[0].text == "at last"
    reader.close()


def test_a_model_that_refuses_the_request_ends_the_turn_with_a_reason(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session)
    say(client, session, {"error": {"status": 400, "type": "invalid_request_error"}})
    reader.idle()
    error = reader.of("session.error")[0].error
    assert error.type == "model_request_failed_error" and error.retry_status.type == "exhausted"
    reader.close()


def test_a_follow_up_finds_its_files(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session)
    say(client, session, {"tool_uses": [tool("write", file_path="kept.txt", content="still here")]}, {"text": "written"})
    until(lambda: [e for e in reader.of("session.status_idle") if e.stop_reason.type == "end_turn"], what="end of the turn")
    say(client, session, {"tool_uses": [tool("read", file_path="kept.txt")]}, {"text": "read"})
    until(lambda: len([e for e in reader.of("session.status_idle") if e.stop_reason.type == "end_turn"]) == 2, what="second end")
    assert reader.of("user.tool_result")[-1].content[0].text == "still here"
    reader.close()


def test_archive_and_delete_close_a_session(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    archived = client.beta.sessions.archive(session)
    assert archived.status == "terminated" and archived.archived_at
    with pytest.raises(Exception, match="archived|terminated"):
        say(client, session, {"text": "too late"})
    deleted = client.beta.sessions.delete(session)
    assert deleted.type == "session_deleted"


def test_lists_page_and_filter(client: Anthropic, postern: Stack):
    session = new_session(client, postern)
    reader = Reader(client, session)
    say(client, session, {"text": "one"})
    reader.idle()
    everything = [event.id for event in client.beta.sessions.events.list(session, limit=1000)]
    by_two = [event.id for event in client.beta.sessions.events.list(session, limit=2)]
    assert by_two == everything and len(everything) > 5
    only = list(client.beta.sessions.events.list(session, types=["agent.message", "user.message"]))
    assert {event.type for event in only} == {"agent.message", "user.message"}
    running = client.beta.sessions.list(statuses=["running"])
    assert session not in [found.id for found in running]
    reader.close()


def test_models_come_from_the_endpoint(client: Anthropic):
    assert "rehearsal-1" in [model.id for model in client.beta.models.list()]
