"""Server, worker and gateway on three hosts that share nothing but the server's address; nothing in the perimeter listens."""

from __future__ import annotations

import os
import shutil
import socket
import ssl
import subprocess
import tempfile
from pathlib import Path
from types import SimpleNamespace

import httpx2 as httpx
import pytest
from conftest import (BINARY, WIKI_RULE, WIKI_TOKEN, McpSession, mcp, mcp_session, seen_by, start_process, start_wiki,
                      until)
from hosts import Hosts, certificate

API, EDGE = 8443, 9443
ENVIRONMENT = os.environ | {"ANTHROPIC_API_KEY": "rehearsal-key-not-a-secret"}


@pytest.fixture(scope="module")
def apart():
    directory = Path(tempfile.mkdtemp(prefix="postern-apart-"))
    hosts = Hosts()
    processes = []
    try:
        yield start(directory, hosts, processes)
    finally:
        for process in reversed(processes):
            process.kill()
            process.wait()
        hosts.remove()
        shutil.rmtree(directory, ignore_errors=True)


def start(directory: Path, hosts: Hosts, processes: list) -> SimpleNamespace:
    server, worker, gateway = (hosts.add(name) for name in ("pst-server", "pst-worker", "pst-gateway"))
    hosts.link(None, server, "10.71.9")
    hosts.link(server, worker, "10.71.1")
    hosts.link(server, gateway, "10.71.2")
    worker.deny_inbound()
    gateway.deny_inbound()
    tls = directory / "tls"
    certificate(tls, "10.71.9.2", "10.71.1.1", "10.71.2.1")
    rehearsal = start_process(["rehearsal", "--listen", "127.0.0.1:0"], prefix=server.prefix)
    wiki = start_wiki(prefix=gateway.prefix)
    processes += [rehearsal.process, wiki.process]

    def launch(host, name: str, config: str, *arguments: str) -> subprocess.Popen:
        place = directory / name
        place.mkdir()
        (place / "postern.toml").write_text("config = 1\n" + config)
        process = subprocess.Popen([*host.prefix, BINARY, name, "--config", "postern.toml", "--data-dir", "data", *arguments],
                                   cwd=place, stdout=subprocess.PIPE, stderr=(place / "log").open("wb"), env=ENVIRONMENT)
        processes.append(process)
        return process

    import json
    control = launch(server, "server", f"""
[model]
url = "{rehearsal.ready["url"]}"
[server]
listen = "0.0.0.0:{API}"
tls = {{ cert = "{tls}/cert.pem", key = "{tls}/key.pem" }}
[edge]
listen = "0.0.0.0:{EDGE}"
tls = {{ cert = "{tls}/cert.pem", key = "{tls}/key.pem" }}
domain = "tunnel.journey.example"
""", "--json")
    line = control.stdout.readline()
    assert line, (directory / "server/log").read_text()[-3000:]
    ready = json.loads(line)
    environment = ready["environment_id"]
    (directory / "key").write_text(ready["environment_key"])
    (directory / "key").chmod(0o600)

    zone = f'[zone.ledger]\nenvironment = "{environment}"\n{WIKI_RULE}'
    launch(worker, "worker", f"""
[worker]
server = "https://10.71.1.1:{API}"
ca_file = "{tls}/ca.pem"
environment = "{environment}"
environment_key_file = "{directory}/key"
{zone}""")

    tunnel = directory / "tunnel"
    made = subprocess.run(
        [*gateway.prefix, BINARY, "tunnel", "create", "--name", "apart", "--out", str(tunnel), "--url", f"https://10.71.2.1:{API}",
         "--server-ca", f"{tls}/ca.pem"], capture_output=True, text=True, env=ENVIRONMENT | {"POSTERN_API_KEY": ready["api_key"]})
    assert made.returncode == 0, made.stderr
    about = json.loads((tunnel / "tunnel.json").read_text())
    token = directory / "wiki-token"
    token.write_text(WIKI_TOKEN)
    token.chmod(0o600)
    launch(gateway, "gateway", f"""
[gateway]
server = "https://10.71.2.1:{API}"
ca_file = "{tls}/ca.pem"
edge = "https://10.71.2.1:{EDGE}"
edge_ca_file = "{tls}/ca.pem"
tunnel = "{about["id"]}"
tunnel_token_file = "{tunnel}/token"
tls_dir = "{tunnel}"
{zone}
[[gateway.route]]
host = "wiki"
upstream = "{wiki.ready["url"]}"
addresses = ["127.0.0.0/8"]
credential = {{ source = "file:{token}", header = "authorization", format = "Bearer {{secret}}" }}
""")
    client = httpx.Client(verify=ssl.create_default_context(cafile=f"{tls}/ca.pem"))
    stack = SimpleNamespace(base_url=f"https://10.71.9.2:{API}", api_key=ready["api_key"], environment_id=environment,
                            ready={"tunnel_domain": about["domain"]}, directory=directory)
    headers = {"authorization": f"Bearer {ready['api_key']}", "anthropic-beta": "mcp-tunnels-2026-06-22"}

    def stands() -> bool:
        status = client.get(f"{stack.base_url}/v1/tunnels/{about['id']}/status", headers=headers).json()
        return len(status.get("connections", [])) >= 2

    until(stands, 30, "the tunnel")
    return SimpleNamespace(stack=stack, server=server, worker=worker, gateway=gateway, wiki=wiki, client=client, tls=tls,
                           tunnel=about["id"])


def session_of(apart) -> McpSession:
    return mcp_session(apart.stack, http_client=apart.client)


def test_a_session_uses_its_sandbox_and_a_private_mcp_server_across_three_hosts(apart):
    session = session_of(apart)
    session.send({"name": "bash", "input": {"command": "echo on-the-worker"}}, mcp("search", query="apart"))
    session.finish()
    [(error, text)] = session.results()
    assert not error and "apart" in text
    outputs = [event for event in session.events() if event.type == "user.tool_result"]
    assert "on-the-worker" in outputs[0].content[0].text
    told = subprocess.run([*apart.gateway.prefix, "curl", "-sS", apart.wiki.ready["url"].removesuffix("/mcp") + "/seen"],
                          capture_output=True, text=True, check=True).stdout
    assert f"Bearer {WIKI_TOKEN}" in told


def test_nothing_in_the_perimeter_listens_and_nothing_reaches_it(apart):
    assert apart.worker.listeners() == []
    assert apart.gateway.listeners() == []
    assert apart.server.listeners() != [], "the check sees listeners where there are some"
    port = apart.wiki.ready["url"].split(":")[2].split("/")[0]
    for address in ("10.71.1.2", "10.71.2.2"):
        for target in (port, str(API), str(EDGE)):
            reached = subprocess.run([*apart.server.prefix, "bash", "-c", f"timeout 1 bash -c 'exec 3<>/dev/tcp/{address}/{target}'"])
            assert reached.returncode != 0, f"{address}:{target} is reachable from the server's host"


def test_the_listeners_of_the_server_refuse_strangers(apart):
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"https://10.71.9.2:{API}/v1/agents")
    assert apart.client.get(f"https://10.71.9.2:{API}/v1/agents").status_code == 401
    context = ssl.create_default_context(cafile=f"{apart.tls}/ca.pem")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError), socket.create_connection(("10.71.9.2", EDGE)) as plain:
        context.wrap_socket(plain, server_hostname="10.71.9.2")
    refused = apart.client.get(f"https://10.71.9.2:{EDGE}/v1/tunnels/connect", headers={
        "upgrade": "postern-tunnel/1", "connection": "upgrade", "postern-lane": "bulk", "postern-connector": "0123456789abcdef"})
    assert refused.status_code == 401
