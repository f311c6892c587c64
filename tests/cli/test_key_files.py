"""Files with a key or a token that the configuration or a flag names: which modes they may have, and what is said of others."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from conftest import BINARY
from hosts import certificate

TUNNEL = """[gateway]
server = "https://127.0.0.1:1"
edge = "https://127.0.0.1:1"
tunnel = "tnl_01"
tls_dir = "tls"
tunnel_token_file = "token"
"""

# What is started, with which configuration, and the file that it takes its key from.
STARTS = {
    "model": (["up", "--listen", "127.0.0.1:0", "--model-key-file", "key"], "", "key"),
    "model of a server": (["server", "--model-key-file", "key"], '[server]\nlisten = "127.0.0.1:0"\n', "key"),
    "environment, by a flag": (["worker", "--url", "http://127.0.0.1:1", "--environment", "env_01", "--environment-key-file", "key"], "", "key"),
    "environment": (["worker"], '[worker]\nserver = "http://127.0.0.1:1"\nenvironment = "env_01"\nenvironment_key_file = "key"\n', "key"),
    "search": (["up", "--listen", "127.0.0.1:0"], '[web.search]\nkind = "brave"\nurl = "http://127.0.0.1:1"\nkey_file = "key"\n', "key"),
    "events": (["up", "--listen", "127.0.0.1:0"], '[server]\nevent_key_file = "key"\n', "key"),
    "TLS": (["server"], '[server]\nlisten = "127.0.0.1:0"\ntls = { cert = "tls/cert.pem", key = "tls/key.pem" }\n', "tls/key.pem"),
    "TLS of the edge": (["server"], '[server]\nlisten = "127.0.0.1:0"\n[edge]\nlisten = "127.0.0.1:0"\ntls = { cert = "tls/cert.pem", key = "tls/key.pem" }\n',
                        "tls/key.pem"),
    "tunnel": (["gateway"], TUNNEL, "token"),
    "proxy": (["gateway"], TUNNEL + 'proxy = "http://127.0.0.1:1"\nproxy_credentials_file = "key"\n', "key"),
}


@pytest.mark.parametrize("name", STARTS)
@pytest.mark.parametrize("mode", [0o644, 0o660], ids=["read by everybody", "written by the group"])
def test_a_key_file_that_everybody_can_read_is_refused_with_its_mode_and_the_fix(name: str, mode: int, tmp_path: Path):
    command, config, file = STARTS[name]
    (tmp_path / "postern.toml").write_text("config = 1\n" + config)
    certificate(tmp_path / "tls", "127.0.0.1")
    for key in ("key", "token"):
        (tmp_path / key).write_text("ab" * 32)
        (tmp_path / key).chmod(0o600)
    (tmp_path / file).chmod(mode)
    done = subprocess.run([BINARY, *command, "--data-dir", "data"], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2, done.stderr[-2000:]
    assert f"{file} has mode 0{mode:o}" in done.stderr and "run `chmod 600 " in done.stderr, done.stderr[-2000:]
