"""Which client exercised which route of the table: a Markdown table, and by name the routes that no official client asked for.

    report.py DIRECTORY    # where journeys with POSTERN_CONFORMANCE=DIRECTORY left their notes

An answer counts when it was no refusal.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from pathlib import Path

# How a client names itself, up to its version, and what it is.
CLIENTS = {
    "Anthropic/Python": "official Python SDK",
    "AsyncAnthropic/Python": "official Python SDK and worker, asynchronous",
    "Anthropic/JS": "official JavaScript SDK",
    "schemathesis/": "schemathesis",
    "postern/": "our worker and gateway",
}
OFFICIAL = {name for name in CLIENTS.values() if name.startswith("official")}


def client(said: str) -> str:
    return next((name for start, name in CLIENTS.items() if said.startswith(start)), "the tests themselves")


def exercised(directory: Path) -> dict[tuple[str, str], set[str]]:
    found = defaultdict(set)
    with (directory / "answered.jsonl").open() as notes:
        for line in notes:
            fields = json.loads(line)["fields"]
            if fields["route"] and fields["status"] < 400:
                found[fields["method"], fields["route"]].add(client(fields["client"]))
    return found


def report(directory: Path) -> str:
    paths = json.loads((directory / "openapi.json").read_text())["paths"]
    routes = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    found = exercised(directory)
    lines = ["# Conformance", "", "| route | exercised by |", "|---|---|"]
    lines += [f"| `{method} {path}` | {', '.join(sorted(found[method, path])) or '**nobody**'} |" for method, path in routes]
    by_none = [(method, path) for method, path in routes if not found[method, path] & OFFICIAL]
    lines += ["", f"{len(routes) - len(by_none)} of {len(routes)} routes were exercised by an official client. By none:", ""]
    lines += [f"- `{method} {path}`" for method, path in by_none]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(report(Path(sys.argv[1])), end="")
