"""Which client exercised which route of the table: a Markdown table, and by name the routes that no official client asked for.

    report.py DIRECTORY    # where journeys with POSTERN_CONFORMANCE=DIRECTORY left their notes

An answer counts when it was no refusal. Ends with 1 when a route that no official client exercised is not in additions.txt, or one that
is there was exercised.
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
            # The last line of a server that was killed may be cut short.
            if not line.endswith("}\n"):
                continue
            fields = json.loads(line)["fields"]
            if fields["route"] and fields["status"] < 400:
                found[fields["method"], fields["route"]].add(client(fields["client"]))
    return found


def report(routes: list[tuple[str, str]], found: dict[tuple[str, str], set[str]]) -> str:
    lines = ["# Conformance", "", "| route | exercised by |", "|---|---|"]
    lines += [f"| `{method} {path}` | {', '.join(sorted(found[method, path])) or '**nobody**'} |" for method, path in routes]
    by_none = [(method, path) for method, path in routes if not found[method, path] & OFFICIAL]
    lines += ["", f"{len(routes) - len(by_none)} of {len(routes)} routes were exercised by an official client. By none:", ""]
    lines += [f"- `{method} {path}`" for method, path in by_none]
    return "\n".join(lines) + "\n"


def unexpected(routes: list[tuple[str, str]], found: dict[tuple[str, str], set[str]]) -> list[str]:
    """What is to be looked at: a route of the contract that nobody exercises, an addition that is none."""
    lines = (Path(__file__).parent / "additions.txt").read_text().splitlines()
    additions = {tuple(line.split()) for line in lines if line and not line.startswith("#")}
    by_none = {route for route in routes if not found[route] & OFFICIAL}
    return [f"no official client exercises {' '.join(route)}" for route in sorted(by_none - additions)] + [
        f"additions.txt has {' '.join(route)}, which an official client exercises, or which is not there" for route in sorted(additions - by_none)]


def main(directory: Path) -> int:
    paths = json.loads((directory / "openapi.json").read_text())["paths"]
    routes = [(method.upper(), path) for path, methods in paths.items() for method in methods]
    found = exercised(directory)
    print(report(routes, found), end="")
    wrong = unexpected(routes, found)
    for line in wrong:
        print(line, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
