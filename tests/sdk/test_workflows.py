"""Workflows, by the official SDK: an agent starts a run, follows its own program, and is told what it came to."""

from __future__ import annotations

import json

import pytest
from anthropic import Anthropic, BadRequestError
from anthropic.types import beta as types
from conformance.validator import check, check_page

from conftest import Stack, script, tool, until

TOOLS = [
    {"type": "agent_toolset_20260401", "default_config": {"permission_policy": {"type": "always_allow"}}},
    {"type": "custom", "name": "approve", "description": "Asks somebody.", "input_schema": {"type": "object"}},
]
OFF = {"type": "disabled"}


@pytest.fixture
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key)


def conductor(client: Anthropic, **workflows) -> str:
    """An agent whose `multiagent` names nothing that it need not: workflows are enabled unless they are disabled."""
    multiagent = {"type": "multiagent_20261001", "subagents": OFF}
    if workflows:
        multiagent["workflows"] = {"type": "enabled", **workflows}
    return client.beta.agents.create(name="chief", model="rehearsal-1", tools=TOOLS, multiagent=multiagent).id


def rehearse(*turns: dict) -> str:
    return script(*turns)[0]["text"]


def says(*turns: dict, agent: str = "reader", **more) -> dict:
    return {"type": "agent", "agent": agent, "prompt": rehearse(*turns), **more}


def workflow(*phases: list, **more) -> dict:
    """A workflow whose one agent is defined by it, with these steps in its phases."""
    return {
        "name": "Review", "description": "Reads and sums up.", "agents": [{"name": "reader", "system": "You read."}],
        "phases": [{"name": f"phase {at}", "steps": steps} for at, steps in enumerate(phases)], **more}


def starts(plan: dict) -> dict:
    return {"name": "start_workflow", "input": plan}


def begin(client: Anthropic, stack: Stack, agent: str, plan: dict, *turns: dict) -> str:
    first = {"tool_uses": [starts(plan)]}
    return client.beta.sessions.create(agent=agent, environment_id=stack.environment_id, initial_events=[
        {"type": "user.message", "content": script(first, {"text": "it runs"}, *turns)}]).id


def followed(client: Anthropic, session: str) -> list:
    """The events of a session whose work is done, as a client would know it: no run is open, and it rests at the end of a turn."""
    def done() -> list:
        events = list(client.beta.sessions.events.list(session))
        kinds = [event.type for event in events]
        is_open = kinds.count("workflow_run.created") > kinds.count("workflow_run.status_ended")
        last = events[-1]
        return events if not is_open and last.type == "session.status_idle" and last.stop_reason.type == "end_turn" else []

    return until(done, what="the work done")


def of_runs(events: list) -> list:
    return [event.type.removeprefix("workflow_run.") for event in events if event.type.startswith("workflow_run.")]


def test_a_run_works_in_the_session_s_sandbox_and_its_agent_answers_with_what_it_came_to(postern: Stack, client: Anthropic):
    scout = client.beta.agents.create(name="scout", model="rehearsal-1", tools=TOOLS)
    agent = conductor(client, predefined_agents=[scout.id])
    write = {"tool_uses": [tool("bash", command="echo 41 > /workspace/count; ls /workspace | tr -d '\\n'")]}
    read = {"tool_uses": [tool("bash", command="cat /workspace/count")]}
    plan = workflow(
        [says(write, {"text": "[\"a\", \"b\"]"}, returns="json", save_as="files")],
        [{"type": "for_each", "items": "{{files}}", "as": "file", "save_as": "all", "steps": [
            says(read, {"text": "{\"has\": true}"}, agent="scout", returns="json", fields=["has"])]}],
        result="{{all.1.has}} of {{files}}")
    session = begin(client, postern, agent, plan, {"text": "41 of them"})
    events = followed(client, session)
    raw = client.beta.sessions.events.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, raw.http_response.content) == []
    assert of_runs(events) == [
        "created", "status_running", "phase_started", "phase_ended", "phase_started", "phase_ended", "status_ended"]
    created = next(event for event in events if event.type == "workflow_run.created")
    assert created.workflow_run_id.startswith("wrun_") and [phase.name for phase in created.phases] == ["phase 0", "phase 1"]
    assert all(phase.id.startswith("wrph_") for phase in created.phases) and created.description == "Reads and sums up."
    ended = next(event for event in events if event.type == "workflow_run.status_ended")
    assert ended.result.type == "completed"
    rests = [event.stop_reason.type for event in events if event.type == "session.status_idle"]
    assert rests.count("end_turn") == 1 and set(rests) <= {"end_turn", "requires_action"}, "not before its agent had read the end"
    assert [event.content[0].text for event in events if event.type == "agent.message"] == ["it runs", "41 of them"]
    ran = [event.content[0].text for event in events if event.type == "user.tool_result"]
    assert len(ran) == 3 and sum("41" in text for text in ran) == 2, "one sandbox, and its files, for all of them"

    raw = client.beta.sessions.threads.with_raw_response.list(session)
    assert check_page(types.sessions.BetaManagedAgentsSessionThread, raw.http_response.content) == []
    primary, *threads = json.loads(raw.http_response.content)["data"]
    assert primary["workflow_run_id"] is None and len(threads) == 3
    for thread in threads:
        assert (thread["workflow_run_id"], thread["status"]) == (created.workflow_run_id, "terminated")
        assert thread["archived_at"] and thread["usage"]["output_tokens"] > 0
    assert sorted(thread["agent"]["type"] for thread in threads) == ["agent", "agent", "inline"]
    inline = next(thread["agent"] for thread in threads if thread["agent"]["type"] == "inline")
    assert inline["system"] == "You read." and not {"id", "version", "multiagent"} & inline.keys()
    announced = {event.session_thread_id: event.workflow_run_id for event in events if event.type == "session.thread_created"}
    assert announced == {thread["id"]: created.workflow_run_id for thread in threads}
    # What it was asked stands in its own log, and there alone.
    of_thread = client.beta.sessions.threads.events.with_raw_response.list(threads[0]["id"], session_id=session)
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, of_thread.http_response.content) == []
    assert b"agent.thread_message_received" in of_thread.http_response.content
    assert not any(event.type.startswith("agent.thread_message") for event in events)
    copied = client.beta.sessions.with_raw_response.retrieve(session)
    assert check(types.BetaManagedAgentsSession, copied.http_response.content) == []


def test_a_stream_shows_a_run_from_its_beginning_to_the_turn_that_reads_its_end(postern: Stack, client: Anthropic):
    session = client.beta.sessions.create(agent=conductor(client), environment_id=postern.environment_id).id
    plan = workflow([says({"tool_uses": [tool("approve")]}, {"text": "approved"})])
    open_runs, seen = set(), []
    with client.beta.sessions.events.stream(session) as stream:
        client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(
            {"tool_uses": [starts(plan)]}, {"text": "it runs"}, {"text": "over"})}])
        for event in stream:
            seen.append(event.type)
            match event.type:
                case "workflow_run.created":
                    open_runs.add(event.workflow_run_id)
                case "workflow_run.status_ended":
                    open_runs.remove(event.workflow_run_id)
                case "agent.custom_tool_use":
                    assert event.session_thread_id, "it is another thread's"
                    client.beta.sessions.events.send(session, events=[{
                        "type": "user.custom_tool_result", "custom_tool_use_id": event.id,
                        "content": [{"type": "text", "text": "yes"}]}])
                case "session.status_idle" if not open_runs and event.stop_reason.type == "end_turn":
                    break
    assert seen.index("workflow_run.status_ended") < len(seen) - 1 - seen[::-1].index("agent.message")


def test_a_run_goes_on_where_it_was_after_the_server_was_killed(new_stack):
    stack = new_stack("")
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    slow = {"text": "slow " * 20, "delay_ms": 100}
    plan = workflow([{"type": "for_each", "items": [1, 2, 3], "as": "n", "steps": [says(slow)]}], [says(slow)])
    session = begin(client, stack, conductor(client), plan, {"text": "heard"})
    until(lambda: any(thread.workflow_run_id for thread in client.beta.sessions.threads.list(session)), what="the run at work")
    stack.kill()
    stack.start()
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    events = followed(client, session)
    assert of_runs(events).count("created") == 1 and of_runs(events)[-1] == "status_ended"
    assert next(event for event in events if event.type == "workflow_run.status_ended").result.type == "completed"
    assert len([thread for thread in client.beta.sessions.threads.list(session) if thread.workflow_run_id]) == 4, "none ran twice"
    assert [event.content[0].text for event in events if event.type == "agent.message"][-1] == "heard"


def test_while_a_run_is_open_what_would_pull_it_apart_is_refused_and_an_interrupt_pauses_it(postern: Stack, client: Anthropic):
    agent = conductor(client)
    plan = workflow([says({"tool_uses": [tool("approve")]}, {"text": "approved"})])
    session = begin(client, postern, agent, plan, {"tool_uses": [tool("check_workflow")]}, {"tool_uses": [tool("continue_workflow")]},
                    {"text": "it goes on"}, {"text": "over"})
    def waits():
        session_now = client.beta.sessions.retrieve(session)
        events = list(client.beta.sessions.events.list(session))
        return session_now.status == "idle" and any(event.type == "agent.custom_tool_use" for event in events)

    until(waits, what="the run waiting for its client")
    [thread] = [thread for thread in client.beta.sessions.threads.list(session) if thread.workflow_run_id]
    for refused in (
        lambda: client.beta.sessions.threads.archive(thread.id, session_id=session),
        lambda: client.beta.sessions.update(session, agent={"tools": []}),
        lambda: client.beta.sessions.events.send(session, events=[{"type": "user.interrupt", "session_thread_id": thread.id}]),
    ):
        with pytest.raises(BadRequestError) as error:
            refused()
        assert error.value.body["error"]["details"]["error_code"] == "workflow_run_open"
    client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", what="the session at rest")
    assert of_runs(list(client.beta.sessions.events.list(session)))[-1] == "status_idle"
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": [{"type": "text", "text": "go on"}]}])
    events = followed(client, session)
    assert of_runs(events)[-4:] == ["status_idle", "status_running", "phase_ended", "status_ended"]
    checked = [event for event in events if event.type == "agent.tool_result"]
    assert any("paused: the user interrupted it" in event.content[0].text for event in checked)


@pytest.mark.parametrize("plan, why", [
    ({"name": "none", "phases": []}, "`phases` has 1 to 32 phases"),
    ({"name": "ghost", "phases": [{"name": "p", "steps": [{"type": "agent", "agent": "ghost", "prompt": "x"}]}]}, "no agent `ghost`"),
    ({"name": "shell", "phases": [{"name": "p", "steps": [{"type": "shell", "command": "id"}]}]}, "phases[0].steps[0]"),
])
def test_a_workflow_that_could_not_run_is_refused_to_its_agent_and_shown(postern: Stack, client: Anthropic, plan: dict, why: str):
    session = begin(client, postern, conductor(client), plan)
    events = followed(client, session)
    [error] = [event for event in events if event.type == "workflow_run.error"]
    assert (error.error.type, error.workflow_run_id) == ("program_error", None)
    [result] = [event for event in events if event.type == "agent.tool_result"]
    assert result.is_error and why in result.content[0].text


def test_a_run_whose_lifetime_is_over_ends_and_its_agent_is_told(postern: Stack, client: Anthropic):
    plan = workflow([says({"tool_uses": [tool("approve")]}, {"text": "approved"})], lifetime_seconds=2)
    session = begin(client, postern, conductor(client), plan, {"text": "too late"})
    events = followed(client, session)
    assert of_runs(events)[-3:] == ["phase_ended", "error", "status_ended"]
    ended = next(event for event in events if event.type == "workflow_run.status_ended")
    assert (ended.result.type, ended.result.error.type) == ("error", "timeout_error")
    assert [event.content[0].text for event in events if event.type == "agent.message"][-1] == "too late"


def test_an_archived_session_ends_its_run_and_says_so(postern: Stack, client: Anthropic):
    plan = workflow([says({"tool_uses": [tool("approve")]}, {"text": "approved"})])
    session = begin(client, postern, conductor(client), plan)
    until(lambda: client.beta.sessions.retrieve(session).status == "idle", what="the run waiting for its client")
    client.beta.sessions.archive(session)
    events = list(client.beta.sessions.events.list(session))
    ended = next(event for event in events if event.type == "workflow_run.status_ended")
    assert ended.result.type == "stopped" and events[-1].type == "session.status_terminated"
    assert of_runs(events)[-2:] == ["phase_ended", "status_ended"]
