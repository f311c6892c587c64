"""What `GET /openapi.json` says, against the real server: schemathesis sends what fits it and what does not, the same cases each time.

No answer may be a server error, and none may be another than described. Objects that are named by paths are there; what ends them is asked of
nobody here but of ids that nothing has.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from anthropic import Anthropic
from conftest import Stack, ended, script, until

EXAMPLES = 10
# Without an end, or another protocol, or a wait for work.
ENDLESS = r"^(events\.stream|threads\.stream|control\.connect|work\.poll)$"
ENDS = r"\.(delete|archive|revoke|revoke_token|rotate_token|rotate_secret|redact|delete_version|freeze|revoke_grants)$"
CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"


def objects(client: Anthropic, stack: Stack) -> dict[str, str]:
    """One of each kind that a path can name."""
    agent = client.beta.agents.create(name="described", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    file = client.beta.files.upload(file=("a.txt", b"a", "text/plain"))
    session = client.beta.sessions.create(
        agent=agent.id, environment_id=stack.environment_id, resources=[{"type": "file", "file_id": file.id}],
        initial_events=[{"type": "user.message", "content": script({"text": "done"})}])
    until(lambda: ended(client, session.id), 60, "the end of the turn")
    thread = client.beta.sessions.threads.list(session.id).data[0]
    vault = client.beta.vaults.create(display_name="described")
    store = client.beta.memory_stores.create(name="described")
    memory = client.beta.memory_stores.memories.create(store.id, path="/a", content="a")
    deployment = client.beta.deployments.create(
        name="described", agent=agent.id, environment_id=stack.environment_id,
        initial_events=[{"type": "user.message", "content": [{"type": "text", "text": "go"}]}])
    skill = client.beta.skills.create(files=[("described/SKILL.md", b"---\ndescription: d\n---\n")])
    tunnel = client.beta.tunnels.create()
    return {
        "agent": agent.id, "environment": stack.environment_id, "session": session.id, "thread": thread.id, "file": file.id,
        "resource": session.resources[0].id, "vault": vault.id, "memory_store": store.id, "memory": memory.id,
        "memory_version": memory.memory_version_id, "deployment": deployment.id, "skill": skill.id,
        "skill_version": skill.latest_version_id, "tunnel": tunnel.id, "model": "rehearsal-1",
    }


def run(stack: Stack, directory: Path, *arguments: str) -> int:
    """How many requests it sent; none was answered wrongly."""
    command = [
        str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(directory / "schemathesis.toml"), "run",
        f"{stack.base_url}/openapi.json", "--header", f"authorization: Bearer {stack.api_key}", "--checks", CHECKS,
        "--phases", "coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic",
        "--generation-with-security-parameters", "false",
        "--request-timeout", "20", "--no-color", "--workers", "1", *arguments]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return int(re.search(r"(\d+) generated, \1 passed", done.stdout).group(1))


def test_the_server_answers_as_it_describes_itself(new_stack):
    stack: Stack = new_stack(arguments=["--no-worker"])
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key, max_retries=0)
    with tempfile.TemporaryDirectory() as directory:
        config = Path(directory) / "schemathesis.toml"
        lines = [f'"path.{name}" = "{id}"' for name, id in objects(client, stack).items()]
        config.write_text("[parameters]\n" + "\n".join(lines) + "\n")
        assert run(stack, Path(directory), "--exclude-operation-id-regex", f"{ENDLESS}|{ENDS}") > 3000
        config.write_text("")
        assert run(stack, Path(directory), "--include-operation-id-regex", ENDS) > 500
    # It still serves, and took some of what was sent.
    assert len(client.beta.vaults.list(limit=100).data) > 1
