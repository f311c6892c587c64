"""The official SDK's own worker serves our queue."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from anthropic import Anthropic, AsyncAnthropic
from conftest import Stack, script, tool, until
from sdk.test_other_clients import FOREIGN, NODE
from sdk.test_sessions import Reader, TOOLSET


def test_it_serves_three_tool_uses_and_a_follow_up_gives_it_a_new_work_item(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="official", model="rehearsal-1", tools=[TOOLSET])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id).id
    reader = Reader(client, session)
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(
        {"tool_uses": [tool("write", file_path="a.txt", content="alpha"), tool("bash", command="cat a.txt")]},
        {"tool_uses": [tool("read", file_path="a.txt")]},
        {"text": "done"})}])
    asyncio.run(serve_one_item(stack))
    assert ended_turns(reader) == 1
    results = reader.of("user.tool_result")
    assert len(results) == 3 and results[1].content[0].text == "alpha" and results[2].content[0].text == "alpha"
    first = [item for item in client.beta.environments.work.list(stack.environment_id)]
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(
        {"tool_uses": [tool("bash", command="echo again")]}, {"text": "done again"})}])
    asyncio.run(serve_one_item(stack))
    assert ended_turns(reader) == 2
    items = [item for item in client.beta.environments.work.list(stack.environment_id)]
    assert len({item.id for item in items}) == len({item.id for item in first}) + 1
    assert {item.state for item in items} == {"stopped"}
    reader.close()


def test_it_leaves_a_session_that_is_interrupted_and_renamed_after_its_turn(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="official", model="rehearsal-1", tools=[TOOLSET])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id).id
    reader = Reader(client, session)
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(
        {"tool_uses": [tool("bash", command="echo once")]}, {"text": "done"})}])

    def disturb() -> None:
        until(lambda: ended_turns(reader) == 1)
        client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
        client.beta.sessions.update(session, title="later")

    async def disturbed() -> None:
        # Long enough that the worker is still there, which was at rest before.
        await asyncio.gather(serve_one_item(stack, max_idle=5.0), asyncio.to_thread(disturb))

    asyncio.run(disturbed())
    kinds = [event.type for event in client.beta.sessions.events.list(session)]
    after = kinds[kinds.index("user.interrupt"):]
    rests = ["session.usage", "session.status_idle"]
    assert after == ["user.interrupt", *rests, "session.updated", *rests]
    reader.close()


def test_it_keeps_the_memory_stores_of_a_session_in_step(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    store = client.beta.memory_stores.create(name=f"official {uuid.uuid4().hex}")
    client.beta.memory_stores.memories.create(store.id, path="/team/tone.md", content="be brief")
    agent = client.beta.agents.create(name="official", model="rehearsal-1", tools=[TOOLSET])
    session = client.beta.sessions.create(
        agent=agent.id, environment_id=stack.environment_id, resources=[{"type": "memory_store", "memory_store_id": store.id}])
    at = session.resources[0].mount_path
    reader = Reader(client, session.id)
    client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": script(
        {"tool_uses": [tool("bash", command=f"cat {at}/team/tone.md; echo learnt > {at}/new.md")]}, {"text": "done"})}])
    try:
        asyncio.run(serve_one_item(stack))
        assert [result.content[0].text for result in reader.of("user.tool_result")] == ["be brief"]
        found = client.beta.memory_stores.memories.list(store.id, view="full")
        assert {memory.path: memory.content for memory in found if memory.type == "memory"} == {
            "/team/tone.md": "be brief", "/new.md": "learnt\n"}
    finally:
        reader.close()
        shutil.rmtree(at, ignore_errors=True)


def test_it_brings_the_skills_of_a_session(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    instructions = b"---\nname: ledger\ndescription: How the ledger is read.\n---\nRun sum.sh.\n"
    skill = client.beta.skills.create(files=[("ledger/SKILL.md", instructions), ("ledger/sum.sh", b"#!/bin/sh\necho sum\n")])
    agent = client.beta.agents.create(
        name="official", model="rehearsal-1", tools=[TOOLSET], skills=[{"type": "custom", "skill_id": skill.id}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id)
    reader = Reader(client, session.id)
    # What the model is told of: the one place is not there, so it is the other.
    client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": script(
        {"tool_uses": [tool("read", file_path="/mnt/session/skills/ledger/SKILL.md")]},
        {"tool_uses": [tool("read", file_path="skills/ledger/SKILL.md"), tool("bash", command="skills/ledger/sum.sh")]},
        {"text": "done"})}])
    try:
        asyncio.run(serve_one_item(stack))
        elsewhere, read, ran = [result for result in reader.of("user.tool_result")]
        assert elsewhere.is_error
        assert "How the ledger is read." in read.content[0].text
        assert ran.content[0].text == "sum"
    finally:
        reader.close()


def test_the_javascript_one_serves_tools_memory_stores_and_skills(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    store = client.beta.memory_stores.create(name=f"official {uuid.uuid4().hex}")
    client.beta.memory_stores.memories.create(store.id, path="/team/tone.md", content="be brief")
    instructions = b"---\nname: ledger\ndescription: How the ledger is read.\n---\nRun sum.sh.\n"
    skill = client.beta.skills.create(files=[("ledger/SKILL.md", instructions), ("ledger/sum.sh", b"#!/bin/sh\necho sum\n")])
    agent = client.beta.agents.create(
        name="official", model="rehearsal-1", tools=[TOOLSET], skills=[{"type": "custom", "skill_id": skill.id}])
    session = client.beta.sessions.create(
        agent=agent.id, environment_id=stack.environment_id, resources=[{"type": "memory_store", "memory_store_id": store.id}])
    at = session.resources[0].mount_path
    reader = Reader(client, session.id)
    client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": script(
        {"tool_uses": [tool("write", file_path="a.txt", content="alpha")]},
        {"tool_uses": [tool("read", file_path="a.txt"), tool("bash", command="skills/ledger/sum.sh")]},
        {"tool_uses": [tool("bash", command=f"cat {at}/team/tone.md; echo learnt > {at}/new.md")]}, {"text": "done"})}])
    try:
        with tempfile.TemporaryDirectory() as workdir, javascript_worker(stack, workdir) as worker:
            asyncio.run(all_served(stack, lambda: worker.poll() is None))
        wrote, read, ran, remembered = reader.of("user.tool_result")
        assert not wrote.is_error and read.content[0].text == "alpha"
        assert (ran.content[0].text, remembered.content[0].text) == ("sum", "be brief")
        found = client.beta.memory_stores.memories.list(store.id, view="full")
        assert {memory.path: memory.content for memory in found if memory.type == "memory"} == {
            "/team/tone.md": "be brief", "/new.md": "learnt\n"}
        assert ended_turns(reader) == 1
    finally:
        reader.close()
        shutil.rmtree(at, ignore_errors=True)


@contextmanager
def javascript_worker(stack: Stack, workdir: str) -> Iterator[subprocess.Popen]:
    program = Path(__file__).parent.parent / "clients/worker.mjs"
    worker = subprocess.Popen(
        [NODE, program, stack.base_url, stack.environment_id, stack.environment_key, workdir], cwd=FOREIGN)
    try:
        yield worker
    finally:
        worker.terminate()
        try:
            worker.wait(timeout=20)
        finally:
            worker.kill()


def ended_turns(reader: Reader) -> int:
    return len([event for event in reader.of("session.status_idle") if event.stop_reason.type == "end_turn"])


async def serve_one_item(stack: Stack, max_idle: float = 1.0) -> None:
    """Polls until one item was served to its end, then stops the worker."""
    async with AsyncAnthropic(base_url=stack.base_url, api_key="unused") as client:
        with tempfile.TemporaryDirectory() as workdir:
            worker = client.beta.environments.work.worker(
                environment_id=stack.environment_id, environment_key=stack.environment_key,
                workdir=workdir, max_idle=max_idle)
            running = asyncio.create_task(worker.run())
            try:
                await all_served(stack, lambda: not running.done())
            finally:
                running.cancel()
                await asyncio.gather(running, return_exceptions=True)


async def all_served(stack: Stack, is_serving: Callable[[], bool]) -> None:
    """Waits until every item of the queue was served to its end, by a worker that goes on serving."""
    admin = AsyncAnthropic(base_url=stack.base_url, api_key=stack.api_key)
    async with asyncio.timeout(60):
        while not await all_stopped(admin, stack):
            assert is_serving(), "the worker ended"
            await asyncio.sleep(0.05)


async def all_stopped(admin: AsyncAnthropic, stack: Stack) -> bool:
    items = [item async for item in admin.beta.environments.work.list(stack.environment_id)]
    return bool(items) and all(item.state == "stopped" for item in items)
