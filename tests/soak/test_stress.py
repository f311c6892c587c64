"""Every stressor of stress-ng's class for operating systems, inside a sandbox: the sandbox answers afterwards, and the host is as it was."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from anthropic import Anthropic
from conftest import ended, script, tool, until

BATCHES = 14
SECONDS = 2
LIMITS = """
[zone.stress]
environment = "default"
[zone.stress.sandbox]
cpus = 1.0
memory = "512 MiB"
processes = 256
disk = "256 MiB"
"""


@pytest.fixture(scope="module")
def stack(new_stack):
    return new_stack(LIMITS)


def stressors() -> list[str]:
    said = subprocess.run(["stress-ng", "--class", "os?"], capture_output=True, text=True)
    names = re.search(r"stressors: (.*)", said.stdout + said.stderr).group(1).split()
    assert len(names) > 150, names
    return names


def host() -> dict:
    """What a sandbox must not change."""
    kernel = Path("/proc/sys/kernel")
    return {
        "mounts": sorted(line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if "postern" not in line),
        "names": [(kernel / name).read_text() for name in ("hostname", "domainname", "core_pattern", "randomize_va_space")],
        "interfaces": sorted(path.name for path in Path("/sys/class/net").iterdir()),
        "loops": sorted(path.name for path in Path("/sys/block").iterdir()),
        "shared memory": Path("/proc/sysvipc/shm").read_text().count("\n"),
        "semaphores": Path("/proc/sysvipc/sem").read_text().count("\n"),
        "queues": Path("/proc/sysvipc/msg").read_text().count("\n"),
        "processors": Path("/sys/devices/system/cpu/online").read_text(),
        "modules": sorted(line.split()[0] for line in Path("/proc/modules").read_text().splitlines())
        if Path("/proc/modules").exists() else [],
    }


def running(name: str) -> list[str]:
    found = []
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdigit() and (process / "comm").read_text().startswith(name):
                found.append((process / "cmdline").read_text().replace("\0", " "))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def results(client: Anthropic, session: str, *uses: dict) -> list:
    """The results of these tool uses, one turn each."""
    turns = [{"tool_uses": [use]} for use in uses]
    before = len(list(client.beta.sessions.events.list(session, types=["user.tool_result"], limit=1000)))
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns, {"text": "done"})}])
    until(lambda: client.beta.sessions.retrieve(session).status == "idle" and ended(client, session), 240, "the end of the turn")
    return list(client.beta.sessions.events.list(session, types=["user.tool_result"], limit=1000))[before:]


def text(result) -> str:
    return "\n".join(block.text for block in result.content or [] if block.type == "text")


def answers(client: Anthropic, session: str) -> bool:
    """Whether a new shell does what it is told. What still fills the memory may have taken the one before: its end was said."""
    again, over = tool("bash", restart=True), tool("bash", command="pkill -KILL stress-ng; echo still-here")
    _, alive = results(client, session, again, over)
    assert "still-here" in text(alive) or "restart required" in text(alive), text(alive)
    return "still-here" in text(alive)


def test_a_sandbox_under_every_stressor_answers_and_the_host_is_as_it_was(stack):
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="stress", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    session = client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id).id
    names, before, pids = stressors(), host(), stack.pids()
    for number in range(BATCHES):
        batch = names[number::BATCHES]
        options = " ".join(f"--{name} 1" for name in batch)
        attack = f"cd /tmp && timeout -s KILL {SECONDS * 8} stress-ng --temp-path /tmp -t {SECONDS} {options} 2>&1 | tail -5; pkill -KILL stress-ng; echo over"
        [attacked] = results(client, session, tool("bash", command=attack))
        told = text(attacked)
        assert "over" in told or attacked.is_error or "restart required" in told, told
        until(lambda: answers(client, session), 60, f"an answer after {batch}")
    assert set(pids) <= set(stack.pids()), "a process of ours did not survive"
    client.beta.sessions.archive(session)
    until(lambda: not running("stress-ng"), 30, "the end of every stressor")
    until(lambda: host() == before, 30, f"the host as it was: {before}")
