"""Git over HTTPS from inside a sandbox, with the placeholder as password, against Git's own server."""

from __future__ import annotations

import base64
from typing import Iterator

import pytest
from conftest import Stack, results_of, secret_file, tool
from git_server import USER, GitServer

HOST = "git.internal.example"
FOREIGN = "a-key-from-elsewhere"
TOKEN = "journey-git-token-8c2f60b1d94e7a35"
URL = f"https://{HOST}/team/ledger.git"
HELPER = f"""-c credential.helper='!f() {{ echo username={USER}; echo "password=$GIT_TOKEN"; }}; f'"""
WHO = "-c user.name=agent -c user.email=agent@example.invalid"
BARE = "env -u http_proxy -u https_proxy -u HTTP_PROXY -u HTTPS_PROXY -u ALL_PROXY -u all_proxy "
WAYS = {"with proxy variables": "", "without": BARE}


@pytest.fixture(scope="module")
def git_server() -> Iterator[GitServer]:
    server = GitServer(HOST, TOKEN)
    server.repository("team/ledger.git", {"README": "the ledger\n"})
    server.repository("team/payroll.git", {"README": "the payroll\n"})
    yield server
    server.close()


@pytest.fixture(scope="module")
def stack_with_git(new_stack, git_server: GitServer) -> Stack:
    return new_stack(f"""
[zone.code]
environment = "default"
[[zone.code.credential]]
name = "git"
source = "file:{secret_file(TOKEN)}"
env = "GIT_TOKEN"
inject = [{{ basic = "password" }}]
[[zone.code.egress]]
host = "{HOST}"
methods = ["GET", "POST"]
paths = ["/team/ledger.git/**"]
credential = "git"
connect = "{git_server.address}"
addresses = ["127.0.0.0/8"]
ca_file = "{git_server.ca_file}"
""")


def bash(command: str) -> dict:
    return tool("bash", command=command)


@pytest.mark.parametrize("way", WAYS)
def test_boundary_git_clones_commits_and_pushes_with_the_placeholder_as_password(stack_with_git: Stack, git_server: GitServer, way: str):
    git = f"{WAYS[way]}git {HELPER} {WHO}"
    branch = "proxied" if way.startswith("with proxy") else "redirected"
    # More than Git sends at once: its body comes in chunks and is inspected as it streams.
    big = "head -c 3000000 /dev/urandom > big"
    cloned, pushed, again, token = results_of(
        stack_with_git,
        bash(f"{git} clone {URL} work 2>&1 && cat work/README"),
        bash(f"(cd work && git checkout -b {branch} 2>&1 && echo more >> README && {big} && git add . && "
             f"{git} commit --quiet -m from-the-sandbox && {git} push origin {branch} 2>&1)"),
        bash(f"{git} clone --branch {branch} {URL} again 2>&1 && cat again/README && cmp work/big again/big && echo the same"),
        bash("echo $GIT_TOKEN; cat work/.git/config"))
    assert "the ledger" in cloned, cloned
    assert f"{branch} -> {branch}" in pushed, pushed
    assert "more" in again and "the same" in again, again
    assert TOKEN not in cloned + pushed + again + token
    log = git_server.git("log", "--format=%an %s", branch, at=git_server.root / "team/ledger.git")
    assert log.splitlines()[0] == "agent from-the-sandbox"


def test_boundary_git_takes_the_placeholder_from_the_url_and_from_a_header_too(stack_with_git: Stack, git_server: GitServer):
    header = f"""-c http.extraHeader="Authorization: Basic $(printf '{USER}:%s' "$GIT_TOKEN" | base64 -w0)" """
    in_url, in_header = results_of(
        stack_with_git,
        bash(f'git clone "https://{USER}:$GIT_TOKEN@{HOST}/team/ledger.git" work 2>&1 && cat work/README'),
        bash(f"git {header} ls-remote {URL} main 2>&1"))
    assert "the ledger" in in_url, in_url
    assert "refs/heads/main" in in_header, in_header
    assert TOKEN not in in_url + in_header


def test_boundary_git_says_which_repository_is_refused_and_what_is_allowed(stack_with_git: Stack, git_server: GitServer):
    before = len(git_server.asked)
    payroll = f"https://{HOST}/team/payroll.git"
    fetched, pushed, foreign = results_of(
        stack_with_git,
        bash(f"git {HELPER} clone {payroll} work 2>&1"),
        bash(f"git init --quiet x && (cd x && git {WHO} commit --quiet --allow-empty -m x && git {HELPER} push {payroll} HEAD:main 2>&1)"),
        bash(f"git clone https://{USER}:{FOREIGN}@{HOST}/team/ledger.git work 2>&1"))
    for text in (fetched, pushed):
        assert "path_not_allowed" in text and "/team/ledger.git/**" in text, text
    assert "foreign_credential" in foreign, foreign
    after = git_server.asked[before:]
    foreign_key = base64.b64encode(f"{USER}:{FOREIGN}".encode()).decode()
    assert not any("payroll" in asked or foreign_key in asked for asked in after), after
