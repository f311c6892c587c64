"""The helpers of the official SDK around the queue and a session's calls, by themselves: `environments.work.poller`, which hands items
on, and `sessions.events.tool_runner`, which answers calls with functions."""

from __future__ import annotations

import asyncio

from anthropic import Anthropic, AsyncAnthropic
from anthropic.lib.tools import beta_async_tool
from conftest import Stack, script, tool

WEATHER = {"type": "custom", "name": "weather", "description": "Weather of a city.",
           "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}}
BUILT_IN = {"type": "agent_toolset_20260401", "configs": [{"name": "read", "permission_policy": {"type": "always_ask"}}]}


def message(*turns: dict) -> dict:
    return {"type": "user.message", "content": script(*turns)}


def begin(stack: Stack, tools: list[dict], *turns: dict):
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="helped", model="rehearsal-1", tools=tools)
    session = client.beta.sessions.create(
        agent=agent.id, environment_id=stack.environment_id, initial_events=[message(*turns)])
    return client, session.id


def test_the_poller_hands_on_what_is_queued_and_drains(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    begun = {begin(stack, [BUILT_IN], {"tool_uses": [tool("bash", command="true")]}, {"text": "done"})[1] for _ in range(3)}

    async def drained() -> list:
        async with AsyncAnthropic(base_url=stack.base_url, api_key="unused") as client:
            poller = client.beta.environments.work.poller(
                environment_id=stack.environment_id, environment_key=stack.environment_key, drain=True, auto_stop=False)
            return [item async for item in poller]

    items = asyncio.run(asyncio.wait_for(drained(), 60))
    assert {item.data.id for item in items} == begun
    assert all(item.secret for item in items), "what a worker shows for the session"
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    states = {item.id: item.state for item in client.beta.environments.work.list(stack.environment_id)}
    assert {states[item.id] for item in items} == {"starting"}, "acknowledged, and left to whoever serves them"


def test_the_poller_stops_each_item_when_its_loop_is_done_with_it(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client, session = begin(stack, [BUILT_IN], {"text": "done"})

    async def one() -> str:
        async with AsyncAnthropic(base_url=stack.base_url, api_key="unused") as worker:
            poller = worker.beta.environments.work.poller(
                environment_id=stack.environment_id, environment_key=stack.environment_key, drain=True)
            return [item.id async for item in poller if item.data.id == session][0]

    item = asyncio.run(asyncio.wait_for(one(), 60))
    assert client.beta.environments.work.retrieve(item, environment_id=stack.environment_id).state in ("stopping", "stopped")


def test_the_tool_runner_answers_calls_with_functions_and_waits_for_confirmations(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client, session = begin(
        stack, [BUILT_IN, WEATHER],
        {"tool_uses": [tool("weather", city="Oslo"), tool("bash", command="echo hi"), tool("read", file_path="a"),
                       tool("read", file_path="b")]},
        {"text": "done"})

    @beta_async_tool
    async def weather(city: str) -> str:
        """Weather of a city."""
        return f"rain in {city}"

    @beta_async_tool
    async def bash(command: str) -> str:
        """Runs a command."""
        return f"ran {command}"

    @beta_async_tool
    async def read(file_path: str) -> str:
        """Reads a file."""
        return f"read {file_path}"

    async def answered() -> list:
        calls, held = [], {}
        async with AsyncAnthropic(base_url=stack.base_url, api_key=stack.api_key) as runner:
            asked = client.beta.sessions.events.list
            while len(held) < 2:
                held = {event.input["file_path"]: event.id for event in asked(session)
                        if event.type == "agent.tool_use" and event.evaluated_permission == "ask"}
            client.beta.sessions.events.send(session, events=[
                {"type": "user.tool_confirmation", "tool_use_id": held["a"], "result": "allow"},
                {"type": "user.tool_confirmation", "tool_use_id": held["b"], "result": "deny", "deny_message": "not b"}])
            running = runner.beta.sessions.events.tool_runner(session, tools=[weather, bash, read], max_idle=1.0)
            async for call in running:
                calls.append(call)
        return calls

    calls = {(call.name, call.event.input.get("file_path")): call for call in asyncio.run(asyncio.wait_for(answered(), 60))}
    assert calls["weather", None].result["type"] == "user.custom_tool_result" and calls["weather", None].posted
    assert calls["bash", None].result["type"] == "user.tool_result" and calls["read", "a"].posted
    denied = calls.get(("read", "b"))
    assert denied is None or not denied.posted, "a call that was denied is not run"
    events = list(client.beta.sessions.events.list(session))
    answers = [event.content[0].text for event in events if event.type in ("user.tool_result", "user.custom_tool_result")]
    assert sorted(answers) == ["rain in Oslo", "ran echo hi", "read a"]
    refused, = [event for event in events if event.type == "agent.tool_result"]
    assert refused.is_error and "not b" in refused.content[0].text
    assert events[-1].type == "session.status_idle" and events[-1].stop_reason.type == "end_turn"
