"""What a worker cannot note down does not run. For root alone: a disk that is full is mounted for it."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Stack, results_of, tool


@pytest.fixture
def full(new_stack) -> Iterator[tuple[Stack, Path]]:
    """A stack whose sessions lie on a disk of their own, and the file that fills it."""
    stack: Stack = new_stack()
    stack.stop()
    sessions = stack.data / "perimeter/work"
    sessions.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m,mode=0711", "sessions", sessions], check=True)
    try:
        stack.start()
        filler = sessions / "filler"
        with filler.open("wb") as file, pytest.raises(OSError):
            while True:
                file.write(bytes(4096))
                file.flush()
        yield stack, filler
        stack.stop()
    finally:
        subprocess.run(["umount", "--lazy", sessions], check=True)


def test_a_tool_use_that_cannot_be_journaled_is_on_record_and_does_not_run(full):
    stack, filler = full
    [answer] = results_of(stack, tool("bash", command="touch ran"))
    assert "cannot write its journal" in answer and "Next step" in answer, answer
    assert not list(stack.data.glob("perimeter/work/*/workspace/ran"))
    lines = (stack.data / "perimeter/audit/audit.jsonl").read_text().splitlines()
    outcomes = [record for record in map(json.loads, lines) if record["kind"] == "tool_outcome"]
    assert outcomes[-1]["outcome"] == "error", outcomes
    filler.unlink()
    [answer] = results_of(stack, tool("bash", command="echo again"))
    assert "again" in answer, answer
