"""A disk that is full."""

from __future__ import annotations

from pathlib import Path

import pytest


def fill(directory: Path) -> Path:
    """Takes all that is left on a disk."""
    filler = directory / "filler"
    with filler.open("wb", buffering=0) as file, pytest.raises(OSError):
        while True:
            file.write(bytes(4096))
    return filler
