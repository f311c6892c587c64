"""Vault credentials: sealed on arrival, opened in the perimeter, used where a route takes them and nowhere else."""

from __future__ import annotations

import sqlite3

import pytest
from anthropic import Anthropic, BadRequestError
from conftest import WIKI_TOKEN, mcp, mcp_session, seen_by, until, wiki_sections


@pytest.fixture(scope="module")
def stack(new_stack, wiki, tmp_path_factory):
    """A stack whose route takes the caller's vault credential instead of one of its own."""
    token = tmp_path_factory.mktemp("unused") / "token"
    sections = wiki_sections(wiki.ready["url"], token)
    own = next(line for line in sections.splitlines() if line.startswith("credential"))
    return new_stack(sections.replace(own, 'credential = { source = "api:" }'))


def client_of(stack) -> Anthropic:
    return Anthropic(base_url=stack.base_url, api_key=stack.api_key)


def vault_with(stack, **auth):
    client = client_of(stack)
    vault = client.beta.vaults.create(display_name="journey")
    url = f"https://wiki.{stack.ready['tunnel_domain']}/mcp"
    kept = {} if "access_token" in auth else {"token": WIKI_TOKEN}
    credential = client.beta.vaults.credentials.create(
        vault_id=vault.id, auth={"type": "static_bearer", "mcp_server_url": url} | kept | auth)
    return vault, credential


@pytest.mark.parametrize("auth", [{}, {"type": "mcp_oauth", "access_token": WIKI_TOKEN}], ids=["bearer", "oauth"])
def test_a_vault_credential_reaches_the_server_and_nobody_else(stack, wiki, auth):
    vault, _ = vault_with(stack, **auth)
    session = mcp_session(stack, vault_ids=[vault.id])
    [(error, text)] = session.call(mcp("search", query="by vault"))
    assert not error and "by vault" in text
    assert any(f"Bearer {WIKI_TOKEN}" in head for head in seen_by(wiki)["headers"])
    for path in [stack.log, *(stack.data / "control").rglob("*")]:
        if path.is_file():
            assert WIKI_TOKEN.encode() not in path.read_bytes(), path


def test_without_a_vault_the_server_refuses_and_the_session_says_so(stack):
    session = mcp_session(stack)
    session.send()
    session.finish()
    [error] = session.errors()
    assert error.type == "mcp_authentication_failed_error"
    assert WIKI_TOKEN not in error.message, "the server names the token it expects"


def test_archiving_a_credential_takes_effect_in_a_running_session(stack):
    vault, credential = vault_with(stack)
    session = mcp_session(stack, vault_ids=[vault.id])
    [(error, _)] = session.call(mcp("search", query="before"))
    assert not error
    client_of(stack).beta.vaults.credentials.archive(credential.id, vault_id=vault.id)
    session.send(mcp("search", query="after"))
    session.finish()
    after = session.results()[1:]
    assert all(failed for failed, _ in after), after


def sealed_rows(stack) -> sqlite3.Connection:
    database = sqlite3.connect(stack.data / "control/postern.sqlite", timeout=10)
    database.row_factory = sqlite3.Row
    return database


def alarms(stack) -> int:
    import json
    import subprocess

    from conftest import BINARY

    shown = subprocess.run([BINARY, "audit", "show", "--json", "--data-dir", str(stack.data)], capture_output=True, text=True, check=True)
    return sum(json.loads(line)["kind"] == "alarm" for line in shown.stdout.splitlines())


def test_sealed_rows_that_were_swapped_are_unopenable_refused_and_alarmed(stack):
    (one, first), (other, second) = vault_with(stack), vault_with(stack, token="another-token-0123456789abcdef")
    with sealed_rows(stack) as database:
        rows = {row["credential_id"]: row["sealed"] for row in database.execute("select credential_id, sealed from credential_secrets")}
        database.execute("update credential_secrets set sealed = ? where credential_id = ?", (rows[second.id], first.id))
    before = alarms(stack)
    session = mcp_session(stack, vault_ids=[one.id])
    session.send(mcp("search", query="swapped"))
    session.finish()
    assert "credential_unopenable" in session.errors()[0].message
    assert alarms(stack) > before
    assert other


def test_a_credential_whose_url_was_changed_in_the_database_is_unopenable(stack):
    vault, credential = vault_with(stack, mcp_server_url="https://elsewhere.example/mcp")
    url = f"https://wiki.{stack.ready['tunnel_domain']}/mcp"
    with sealed_rows(stack) as database:
        columns = [row["name"] for row in database.execute("pragma table_info(vault_credentials)")]
        for row in database.execute("select * from vault_credentials where id = ?", (credential.id,)).fetchall():
            for column in columns:
                if isinstance(row[column], str) and "elsewhere.example" in row[column]:
                    changed = row[column].replace("https://elsewhere.example/mcp", url)
                    database.execute(f"update vault_credentials set {column} = ? where id = ?", (changed, credential.id))
    before = alarms(stack)
    session = mcp_session(stack, vault_ids=[vault.id])
    session.send(mcp("search", query="moved"))
    session.finish()
    assert "credential_unopenable" in session.errors()[0].message
    assert alarms(stack) > before


def test_an_access_token_that_the_server_does_not_take_is_a_typed_error(stack):
    vault, _ = vault_with(stack, type="mcp_oauth", access_token="oauth-token-0123456789abcdef")
    session = mcp_session(stack, vault_ids=[vault.id])
    session.send()
    session.finish()
    [error] = session.errors()
    assert error.type == "mcp_authentication_failed_error" and "upstream_unauthorized" in error.message


def test_without_a_perimeter_a_credential_is_refused_with_the_command(new_stack):
    bare = new_stack("", ["--no-worker", "--no-gateway"])
    client = client_of(bare)
    vault = client.beta.vaults.create(display_name="early")
    with pytest.raises(BadRequestError, match="postern perimeter register"):
        client.beta.vaults.credentials.create(
            vault_id=vault.id, auth={"type": "static_bearer", "mcp_server_url": "https://x.example/mcp", "token": WIKI_TOKEN})
    assert until(lambda: client.beta.vaults.credentials.list(vault_id=vault.id).data == [], 5)
