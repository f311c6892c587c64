"""Our own processes, seen from inside a sandbox and from outside."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from conftest import Stack, in_proc, results_of, role_of, tool

LISTENING = "0A"


def listening_inodes() -> set[str]:
    """Inodes of the TCP sockets of this network namespace that listen."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for row in Path(table).read_text().splitlines()[1:]:
            fields = row.split()
            if fields[3] == LISTENING:
                inodes.add(fields[9])
    return inodes


def sockets_of(pid: int) -> set[str]:
    """Inodes of the sockets that a process holds."""
    links = set()
    with suppress(FileNotFoundError, ProcessLookupError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            # One that was closed since is none.
            with suppress(FileNotFoundError):
                links.add(os.readlink(descriptor))
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def test_boundary_nothing_in_the_perimeter_listens_for_the_server(new_stack):
    before = listening_inodes()
    stack: Stack = new_stack()
    results_of(stack, tool("bash", command="true"))
    opened = listening_inodes() - before
    assert len(opened) == 2, "the API's listener and the edge's, and no other"
    if os.geteuid() != 0:
        # Whose they are only root can see: our processes are closed to their own user.
        return
    listening = {}
    for pid in stack.pids():
        listening.setdefault(role_of(pid), set()).update(listening_inodes() & sockets_of(pid))
    assert {"worker", "gateway", "connector", "egress", "custody", "audit"} <= set(listening), listening
    assert (len(listening["server"]), len(listening["edge"])) == (1, 1), "the API's listener and the edge's, each with its own process"
    assert not listening["server"] & listening["edge"]
    assert {role for role, sockets in listening.items() if sockets} <= {"server", "edge", "up"}, listening


def test_boundary_processes_of_the_perimeter_do_not_exist_inside(postern: Stack):
    pids = postern.pids()
    assert len(pids) >= 6, "server, worker, audit, custody, egress and spawner run"
    probe = "; ".join(f"cat /proc/{pid}/environ /proc/{pid}/cmdline; ls /proc/{pid}/fd; head -c1 /proc/{pid}/mem" for pid in pids)
    text, = results_of(postern, tool("bash", command=f"({probe}) 2>&1 | grep -vc 'No such file'; ls -d /proc/[0-9]* | wc -l"))
    seen, own = text.split()
    assert int(seen) == 0, text
    assert int(own) < 12, "a sandbox sees its own processes alone"


def test_boundary_memory_of_our_processes_is_closed_to_their_user(postern: Stack):
    seen = set()
    for pid in postern.pids():
        limits, role = in_proc(f"{pid}/limits"), role_of(pid)
        if role in ("server", "edge", "worker", "gateway", "connector", "egress", "custody", "audit", "starter", "up"):
            seen.add(role)
            core = next(line for line in limits.splitlines() if line.startswith("Max core file size"))
            assert core.split()[4:6] == ["0", "0"], f"{role} may write a core file"
            # The kernel gives what lies in /proc of an undumpable process to root.
            assert Path(f"/proc/{pid}/environ").stat().st_uid == 0, f"{role} is readable by its user"
    assert {"worker", "egress", "custody", "audit", "starter"} <= seen, seen
