"""Access tokens of vaults' OAuth credentials: renewed in the perimeter when they expire or are refused, validated there, and
shown to nobody. The token endpoint rotates refresh tokens and revokes the grant when a used one comes again."""

from __future__ import annotations

import datetime
import json
import sqlite3
import subprocess

import pytest
from anthropic import Anthropic
from conftest import BINARY, WIKI_TOKEN, mcp, mcp_session, seen_by, wiki_sections
from oauth import CLIENT_ID, CLIENT_SECRET, House, listed, problem


@pytest.fixture(scope="module")
def house(wiki, tmp_path_factory):
    house = House(tmp_path_factory.mktemp("house"), wiki.ready["url"], WIKI_TOKEN)
    yield house
    house.close()


@pytest.fixture
def fresh(house):
    """The house as it was built."""
    house.generation, house.revoked, house.answer, house.refused = 0, False, None, 0
    house.asked.clear()
    return house


def stack_of(new_stack, house: House, more: str):
    sections = wiki_sections(house.gate, house.ca)
    own = next(line for line in sections.splitlines() if line.startswith("credential"))
    return new_stack(sections.replace(own, 'credential = { source = "api:" }') + more)


@pytest.fixture(scope="module")
def stack(new_stack, house):
    return stack_of(new_stack, house, listed(house))


def client_of(stack) -> Anthropic:
    return Anthropic(base_url=stack.base_url, api_key=stack.api_key)


def vault_with(stack, house: House, **auth):
    client = client_of(stack)
    vault = client.beta.vaults.create(display_name="oauth")
    refresh = {"client_id": CLIENT_ID, "refresh_token": house.refresh(0), "token_endpoint": house.endpoint, "scope": "read write",
               "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": CLIENT_SECRET}}
    url = f"https://wiki.{stack.ready['tunnel_domain']}/mcp"
    kept = {"type": "mcp_oauth", "mcp_server_url": url, "access_token": house.access(0), "refresh": refresh} | auth
    kept = {name: value for name, value in kept.items() if value is not None}
    return vault, client.beta.vaults.credentials.create(vault_id=vault.id, auth=kept)


def expire(stack, credential) -> None:
    """The API takes no time that has passed; a clock would make it one."""
    with sqlite3.connect(stack.data / "control/postern.sqlite", timeout=10) as database:
        [[auth]] = database.execute("select auth from vault_credentials where id = ?", (credential.id,)).fetchall()
        past = (datetime.datetime.now(datetime.UTC) - datetime.timedelta(minutes=5)).strftime("%Y-%m-%dT%H:%M:%SZ")
        changed = json.dumps(json.loads(auth) | {"expires_at": past})
        database.execute("update vault_credentials set auth = ? where id = ?", (changed, credential.id))


def shown(stack, vault, credential):
    return client_of(stack).beta.vaults.credentials.retrieve(credential.id, vault_id=vault.id)


def validated(stack, vault, credential):
    raw = client_of(stack).beta.vaults.credentials.with_raw_response.mcp_oauth_validate(credential.id, vault_id=vault.id)
    return raw.parse(), raw.headers.get("postern-reason")


def records(stack, kind: str) -> list[dict]:
    log = subprocess.run([BINARY, "audit", "show", "--json", "--data-dir", str(stack.data)], capture_output=True, text=True, check=True)
    return [record for record in map(json.loads, log.stdout.splitlines()) if record["kind"] == kind]


def test_an_expired_token_is_renewed_and_its_refresh_token_rotates_twice(stack, fresh, wiki):
    vault, credential = vault_with(stack, fresh)
    session = mcp_session(stack, vault_ids=[vault.id])
    for turn in (1, 2):
        expire(stack, credential)
        # An error of the first turn stands in the second one's log, too.
        failed, text = session.call(mcp("search", query=f"turn {turn}"))[-1]
        assert not failed and f"turn {turn}" in text
        assert [form["refresh_token"] for form in fresh.asked] == [fresh.refresh(n) for n in range(turn)]
        assert shown(stack, vault, credential).auth.expires_at > datetime.datetime.now(datetime.UTC)
    assert fresh.asked[0] == {"grant_type": "refresh_token", "refresh_token": fresh.refresh(0), "scope": "read write"}
    assert (fresh.revoked, fresh.refused, session.errors()) == (False, 0, [])
    assert len(records(stack, "credential_refreshed")) >= 2
    for path in [stack.log, *stack.data.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not [secret for secret in fresh.secrets() if secret.encode() in content], path
    assert not any(secret in json.dumps(seen_by(wiki)) for secret in fresh.secrets())


def test_a_token_that_the_server_refuses_is_renewed_before_the_first_call(stack, fresh):
    vault, _ = vault_with(stack, fresh, access_token="an-access-token-of-yesterday-0123")
    session = mcp_session(stack, vault_ids=[vault.id])
    [(failed, text)] = session.call(mcp("search", query="refused"))
    assert not failed and "refused" in text
    assert (fresh.generation, fresh.refused, session.errors()) == (1, 1, [])


def test_a_grant_that_is_gone_ends_in_a_typed_error_without_a_token_in_it(stack, fresh):
    vault, credential = vault_with(stack, fresh)
    expire(stack, credential)
    fresh.revoked = True
    session = mcp_session(stack, vault_ids=[vault.id])
    session.send()
    session.finish()
    [error] = session.errors()
    assert error.type == "mcp_authentication_failed_error" and "refresh_refused" in error.message
    assert not any(secret in error.message for secret in fresh.secrets())
    before = len(fresh.asked)
    session.send()
    session.finish()
    assert len(fresh.asked) == before, "what is gone is not asked about again"


def test_a_validation_renews_what_has_to_be_and_says_what_does_not_work(stack, fresh):
    vault, credential = vault_with(stack, fresh)
    found, _ = validated(stack, vault, credential)
    assert (found.status, found.has_refresh_token, found.mcp_probe, found.refresh) == ("valid", True, None, None)

    vault, credential = vault_with(stack, fresh, access_token="an-access-token-of-yesterday-0123")
    found, _ = validated(stack, vault, credential)
    assert (found.status, found.mcp_probe, found.refresh.status) == ("valid", None, "succeeded")
    again, _ = validated(stack, vault, credential)
    assert (again.status, again.refresh, len(fresh.asked)) == ("valid", None, 1), "what was renewed was kept"

    vault, credential = vault_with(stack, fresh, access_token="an-access-token-of-yesterday-0123", refresh=None)
    found, _ = validated(stack, vault, credential)
    assert (found.status, found.has_refresh_token, found.refresh.status) == ("invalid", False, "no_refresh_token")
    assert (found.mcp_probe.method, found.mcp_probe.http_response.status_code) == ("initialize", 401)
    assert found.mcp_probe.http_response.body == "" and found.mcp_probe.http_response.body_truncated

    vault, credential = vault_with(stack, fresh, access_token="an-access-token-of-yesterday-0123")
    found, reason = validated(stack, vault, credential)
    assert (found.status, found.refresh.status, reason) == ("invalid", "failed", "refresh_refused"), "its refresh token was used"
    body = found.refresh.http_response.body
    assert "invalid_grant" in body and not any(secret in body for secret in fresh.secrets())

    fresh.answer = problem(503, "temporarily_unavailable")
    vault, credential = vault_with(stack, fresh, access_token="an-access-token-of-yesterday-0123")
    found, _ = validated(stack, vault, credential)
    assert (found.status, found.refresh.http_response.status_code) == ("unknown", 503)


def test_no_refresh_token_leaves_for_an_endpoint_that_the_operator_did_not_list(new_stack, fresh):
    stack = stack_of(new_stack, fresh, "")
    vault, credential = vault_with(stack, fresh)
    expire(stack, credential)
    session = mcp_session(stack, vault_ids=[vault.id])
    session.send()
    session.finish()
    [error] = session.errors()
    assert "token_endpoint_not_listed" in error.message and "[[gateway.token_endpoint]]" in error.message
    found, reason = validated(stack, vault, credential)
    assert (found.status, found.refresh) == ("valid", None), "the token itself still works here"
    vault, credential = vault_with(stack, fresh, access_token="an-access-token-of-yesterday-0123")
    found, reason = validated(stack, vault, credential)
    assert (found.status, found.refresh.status, reason) == ("unknown", "connect_error", "token_endpoint_not_listed")
    assert fresh.asked == []
    refused = [record["reason"] for record in records(stack, "credential_denied")]
    assert "token_endpoint_not_listed" in refused


def test_what_was_renewed_outlives_a_server_that_could_not_store_it(stack, fresh):
    vault, credential = vault_with(stack, fresh)
    expire(stack, credential)
    select = "select part, sealed from credential_secrets where credential_id = ?"
    with sqlite3.connect(stack.data / "control/postern.sqlite", timeout=10) as database:
        before = database.execute(select, (credential.id,)).fetchall()
    session = mcp_session(stack, vault_ids=[vault.id])
    [(failed, _)] = session.call(mcp("search", query="first"))
    assert not failed and fresh.generation == 1
    # The database as if the answer had not come: the refresh token in it is used up.
    with sqlite3.connect(stack.data / "control/postern.sqlite", timeout=10) as database:
        for part, sealed in before:
            database.execute("update credential_secrets set sealed = ? where credential_id = ? and part = ?", (sealed, credential.id, part))
    expire(stack, credential)
    failed, text = session.call(mcp("search", query="second"))[-1]
    assert not failed and "second" in text
    assert (len(fresh.asked), fresh.revoked) == (1, False), "the perimeter had kept what came of it"
