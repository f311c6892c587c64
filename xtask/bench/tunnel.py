"""Small and large MCP calls through edge, connector and gateway, beside the same server reached directly and through
rathole with Noise, which carries plain bytes. One run, one client, rounds by turns.

Arguments: rounds, seconds of each. Prints one JSON object: {"rows": [...]}, as `postern tunnel-rig --measure` does.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent.parent / "tests"))

import conftest  # noqa: E402  (the journeys' helpers, found through the path above)

RATHOLE = os.environ["RATHOLE_BINARY"]
BODY = 100_000_000


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


def accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def rathole(directory: Path, local: str) -> tuple[int, list[subprocess.Popen]]:
    """rathole's two ends before a local address, with Noise and without Nagle's algorithm: the port it listens on."""
    lines = subprocess.run([RATHOLE, "--genkey"], capture_output=True, text=True, check=True).stdout.split()
    private, public = lines[2], lines[5]
    between, front = free_port(), free_port()
    tcp = "[{end}.transport.tcp]\nnodelay = true\n"
    ends = {
        "server": f'bind_addr = "127.0.0.1:{between}"\ndefault_token = "bench"\n[server.transport]\ntype = "noise"\n'
                  f'[server.transport.noise]\nlocal_private_key = "{private}"\n{tcp.format(end="server")}'
                  f'[server.services.wiki]\nbind_addr = "127.0.0.1:{front}"\nnodelay = true\n',
        "client": f'remote_addr = "127.0.0.1:{between}"\ndefault_token = "bench"\n[client.transport]\ntype = "noise"\n'
                  f'[client.transport.noise]\nremote_public_key = "{public}"\n{tcp.format(end="client")}'
                  f'[client.services.wiki]\nlocal_addr = "{local}"\nnodelay = true\n',
    }
    processes = []
    for end, text in ends.items():
        (directory / f"{end}.toml").write_text(f"[{end}]\n{text}")
        with (directory / f"{end}.log").open("wb") as log:
            command = [RATHOLE, f"--{end}", directory / f"{end}.toml"]
            processes.append(subprocess.Popen(command, stdout=log, stderr=log))
    conftest.until(lambda: accepts(front), 20, "rathole's listener")
    return front, processes


def main(rounds: int, seconds: float) -> None:
    directory = Path(tempfile.mkdtemp(prefix="postern-bench-"))
    wiki = conftest.start_wiki("--json")
    processes = []
    try:
        url = wiki.ready["url"]
        local = url.removeprefix("http://").removesuffix("/mcp")
        front, processes = rathole(directory, local)
        sections = conftest.wiki_sections(url, conftest.secret_file(conftest.WIKI_TOKEN),
                                          route='max_response = "256MiB"\ntimeout = "60s"')
        (directory / "postern.toml").write_text("config = 1\n" + sections)
        plan = {
            "route": "wiki", "others": [["direct", f"http://{local}"], ["rathole", f"http://127.0.0.1:{front}"]],
            "bearer": conftest.WIKI_TOKEN, "concurrency": [1, 32, 256], "seconds": seconds, "rounds": rounds,
            "bulk_bytes": BODY,
        }
        with (directory / "rig.log").open("wb") as log:
            measured = subprocess.run(
                [conftest.BINARY, "tunnel-rig", "--config", directory / "postern.toml", "--data-dir", directory / "data",
                 "--measure", json.dumps(plan)], stdout=subprocess.PIPE, stderr=log)
        assert measured.returncode == 0, (directory / "rig.log").read_text()[-3000:]
        print(measured.stdout.decode().splitlines()[-1])
    finally:
        for process in processes:
            process.kill()
            process.wait()
        wiki.kill()
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
