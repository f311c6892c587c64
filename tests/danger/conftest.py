from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="session")
def danger() -> Path:
    """The test-only build, beside the one that ships and under another name."""
    given = os.environ.get("POSTERN_DANGER_BINARY")
    if not given:
        command = ["cargo", "build", "--locked", "-p", "postern", "--features", "danger-switches", "--bin", "postern-danger"]
        subprocess.run(command, cwd=ROOT, check=True)
    return Path(given or ROOT / "target/debug/postern-danger")
