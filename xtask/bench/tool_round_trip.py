"""Time from `agent.tool_use` stored to its result stored for `bash: true`: our worker beside the official Python worker.

Both serve sessions of our server in the same run, in alternating rounds; the times are the server's own timestamps of
the two events. Prints one JSON object: {"ours": [ms...], "official": [ms...]}.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import threading
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import conftest  # noqa: E402  (the journeys' stack, found through the path above)
from anthropic import Anthropic, AsyncAnthropic  # noqa: E402

USES_PER_ROUND = 20


def times(client: Anthropic, agent: str, environment: str) -> list[float]:
    """One session of twenty `bash: true`; the first use, which starts the sandbox or shell, is left out on both sides."""
    session = client.beta.sessions.create(agent=agent, environment_id=environment).id
    turns = [{"tool_uses": [conftest.tool("bash", command="true")]} for _ in range(USES_PER_ROUND + 1)]
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": conftest.script(*turns)}])
    conftest.until(lambda: is_over(client, session), 120, "the end of a round")
    events = list(client.beta.sessions.events.list(session, limit=1000))
    stored = {event.id: event.processed_at for event in events if event.type == "agent.tool_use"}
    spans = [(event.processed_at - stored[event.tool_use_id]) for event in events if event.type == "user.tool_result"]
    return [span.total_seconds() * 1000 for span in spans][1:]


def is_over(client: Anthropic, session: str) -> bool:
    if client.beta.sessions.retrieve(session).status != "idle":
        return False
    last = list(client.beta.sessions.events.list(session, order="desc", limit=1))[:1]
    return bool(last) and last[0].type == "session.status_idle" and last[0].stop_reason.type == "end_turn"


def official_worker(stack: conftest.Stack) -> None:
    async def serve() -> None:
        with tempfile.TemporaryDirectory() as workdir:
            client = AsyncAnthropic(base_url=stack.base_url, api_key="unused")
            await client.beta.environments.work.worker(
                environment_id=stack.environment_id, environment_key=stack.environment_key, workdir=workdir, max_idle=0.2,
            ).run()

    threading.Thread(target=lambda: asyncio.run(serve()), daemon=True).start()


def stack(rehearsal: dict, *arguments: str) -> conftest.Stack:
    directory = Path(tempfile.mkdtemp(prefix="postern-bench-"))
    return conftest.Stack(directory, conftest.model_section(rehearsal), list(arguments)).start()


def main(rounds: int) -> None:
    import subprocess

    model = subprocess.Popen([conftest.BINARY, "rehearsal"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    stacks = []
    try:
        rehearsal = json.loads(model.stdout.readline())
        stacks = [stack(rehearsal), stack(rehearsal, "--no-worker")]
        official_worker(stacks[1])
        sides = {}
        for name, one in zip(("ours", "official"), stacks):
            client = Anthropic(base_url=one.base_url, api_key=one.api_key)
            agent = client.beta.agents.create(name="bench", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}]).id
            sides[name] = (client, agent, one.environment_id)
        found = {name: [] for name in sides}
        for _ in range(rounds):
            for name, side in sides.items():
                found[name] += times(*side)
        print(json.dumps(found))
    finally:
        for one in stacks:
            one.kill()
        model.kill()


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 10)
