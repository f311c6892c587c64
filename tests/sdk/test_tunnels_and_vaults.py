"""Tunnels, certificates, vaults and credentials by the official SDK, unmodified. Every body passes the strict validator."""

from __future__ import annotations

import subprocess
import uuid
from datetime import datetime, timedelta, timezone
from pathlib import Path

import anthropic
import httpx2 as httpx
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from anthropic.types.beta import tunnels as tunnel_types
from anthropic.types.beta import vaults as vault_types
from conftest import Stack
from conformance.validator import check, check_page

BETAS = "managed-agents-2026-04-01,mcp-tunnels-2026-06-22"
TOKEN = "journey-bearer-91b7c6a25e0d4f38"
OTHER = "journey-second-38f4d0e52a6c7b19"
SECRETS = [TOKEN, OTHER]


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)


@pytest.fixture(scope="module")
def vault(client: Anthropic):
    return new_vault(client)


@pytest.fixture
def tunnel(client: Anthropic):
    """A tunnel that makes room again at the end: a workspace has few."""
    made = conforming(types.BetaTunnel, client.beta.tunnels.with_raw_response.create(display_name="journey"))
    yield made
    client.beta.tunnels.archive(made.id)


def conforming(kind, raw):
    """The parsed body of a raw response, after the strict check; no secret is in it."""
    body = raw.http_response.content
    assert check(kind, body) == [], body
    assert not any(secret.encode() in body for secret in SECRETS)
    return raw.parse()


def conforming_page(kind, raw):
    body = raw.http_response.content
    assert check_page(kind, body) == [], body
    assert not any(secret.encode() in body for secret in SECRETS)
    return raw.parse()


def refused(kind, call, *arguments, code: str | None = None, **fields):
    """The refusal of a call, sent once."""
    with pytest.raises(kind) as caught:
        call(*arguments, **fields)
    assert not any(secret in str(caught.value) for secret in SECRETS)
    if code:
        assert caught.value.body["error"]["details"]["error_code"] == code
    return caught.value


def own(postern: Stack, method: str, path: str, body: dict | None = None) -> httpx.Response:
    """A route that is ours, which the SDK does not know."""
    headers = {"authorization": f"Bearer {postern.api_key}", "anthropic-beta": BETAS}
    return httpx.request(method, postern.base_url + path, headers=headers, json=body)


def new_vault(client: Anthropic, **fields):
    body = {"display_name": f"journey {uuid.uuid4()}"} | fields
    return conforming(types.BetaManagedAgentsVault, client.beta.vaults.with_raw_response.create(**body))


def new_credential(client: Anthropic, vault: str, auth: dict, **fields):
    create = client.beta.vaults.credentials.with_raw_response.create
    return conforming(vault_types.BetaManagedAgentsCredential, create(vault, auth=auth, **fields))


def bearer(url: str) -> dict:
    return {"type": "static_bearer", "mcp_server_url": url, "token": TOKEN}


def authority(directory: Path, name: str = "ca") -> str:
    """A CA certificate as an organisation would make one."""
    key, pem = directory / f"{name}.key", directory / f"{name}.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "30", "-sha256",
         "-subj", f"/CN={name}", "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign",
         "-keyout", str(key), "-out", str(pem)], check=True, capture_output=True)
    return pem.read_text()


def test_a_tunnel_is_made_found_listed_and_archived_for_good(client: Anthropic):
    tunnels = client.beta.tunnels
    unnamed = conforming(types.BetaTunnel, tunnels.with_raw_response.create())
    assert unnamed.id.startswith("tnl_") and unnamed.display_name is None and unnamed.archived_at is None
    named = conforming(types.BetaTunnel, tunnels.with_raw_response.create(display_name="office"))
    assert named.domain != unnamed.domain
    assert conforming(types.BetaTunnel, tunnels.with_raw_response.retrieve(named.id)) == named
    listed = [tunnel.id for tunnel in conforming_page(types.BetaTunnel, tunnels.with_raw_response.list(limit=1))]
    assert listed[:2] == [named.id, unnamed.id], "newest first, pages follow one another"
    for tunnel in (named, unnamed):
        archived = conforming(types.BetaTunnel, tunnels.with_raw_response.archive(tunnel.id))
        assert archived.archived_at is not None
        assert tunnels.archive(tunnel.id) == archived, "again"
    assert named.id not in [tunnel.id for tunnel in tunnels.list()]
    assert named.id in [tunnel.id for tunnel in tunnels.list(include_archived=True, limit=1000)]
    refused(anthropic.BadRequestError, tunnels.rotate_token, named.id, code="tunnel_archived")
    refused(anthropic.BadRequestError, tunnels.create, display_name="x" * 256)
    refused(anthropic.NotFoundError, tunnels.retrieve, "tnl_unknown")


def test_a_token_stays_until_it_is_rotated_and_is_never_stored(postern: Stack, client: Anthropic, tunnel):
    tunnels = client.beta.tunnels
    first = conforming(types.BetaTunnelToken, tunnels.with_raw_response.reveal_token(tunnel.id))
    assert first.tunnel_token.startswith("pst_tun_")
    assert tunnels.reveal_token(tunnel.id) == first
    second = conforming(types.BetaTunnelToken, tunnels.with_raw_response.rotate_token(tunnel.id, reason="journey"))
    assert (second.id != first.id, second.tunnel_token != first.tunnel_token) == (True, True)
    assert tunnels.reveal_token(tunnel.id) == second
    assert own(postern, "POST", f"/v1/tunnels/{tunnel.id}/revoke_token").json()["id"] == second.id
    refused(anthropic.ConflictError, tunnels.reveal_token, tunnel.id, code="tunnel_token_revoked")
    third = tunnels.rotate_token(tunnel.id)
    for file in (postern.data / "control").glob("postern.sqlite*"):
        for token in (first, second, third):
            assert token.tunnel_token.removeprefix("pst_tun_").encode() not in file.read_bytes(), file


def test_a_tunnel_trusts_two_authorities_at_most(client: Anthropic, tunnel, tmp_path: Path):
    certificates = client.beta.tunnels.certificates
    kind = tunnel_types.BetaTunnelCertificate
    pems = [authority(tmp_path, f"ca{n}") for n in range(3)]
    first, second = (
        conforming(kind, certificates.with_raw_response.create(tunnel.id, ca_certificate_pem=pem)) for pem in pems[:2])
    assert first.tunnel_id == tunnel.id and first.expires_at > datetime.now(timezone.utc) + timedelta(days=29)
    der = subprocess.run(["openssl", "x509", "-in", tmp_path / "ca0.pem", "-noout", "-fingerprint", "-sha256"],
                         check=True, capture_output=True, text=True).stdout
    assert first.fingerprint == der.split("=")[1].strip().replace(":", "").lower()
    refused(anthropic.BadRequestError, certificates.create, tunnel.id, ca_certificate_pem=pems[2],
            code="certificate_limit_reached")
    refused(anthropic.ConflictError, certificates.create, tunnel.id, ca_certificate_pem=pems[0])
    assert conforming(kind, certificates.with_raw_response.retrieve(first.id, tunnel_id=tunnel.id)) == first
    page = conforming_page(kind, certificates.with_raw_response.list(tunnel.id, limit=1))
    assert [certificate.id for certificate in page] == [second.id, first.id]
    for certificate in (first, second):
        archived = conforming(kind, certificates.with_raw_response.archive(certificate.id, tunnel_id=tunnel.id))
        assert archived.archived_at is not None
    assert list(certificates.list(tunnel.id)) == []
    assert len(list(certificates.list(tunnel.id, include_archived=True))) == 2


def test_what_is_no_authority_is_refused(client: Anthropic, tunnel, tmp_path: Path):
    create = client.beta.tunnels.certificates.create
    pem = authority(tmp_path)
    key = (tmp_path / "ca.key").read_text()
    for text, code in [("", "certificate_not_one_pem"), (pem + pem, "certificate_not_one_pem"),
                       (pem + key, "certificate_has_private_key"), ("x" * 9000, "certificate_too_large")]:
        refusal = refused(anthropic.BadRequestError, create, tunnel.id, ca_certificate_pem=text, code=code)
        assert key.splitlines()[1] not in str(refusal)


def test_tunnels_need_their_own_beta(postern: Stack, client: Anthropic):
    headers = {"authorization": f"Bearer {postern.api_key}", "anthropic-beta": "managed-agents-2026-04-01"}
    assert httpx.get(f"{postern.base_url}/v1/tunnels", headers=headers).status_code == 404
    with_environment_key = Anthropic(base_url=postern.base_url, api_key=postern.environment_key, max_retries=0)
    refused(anthropic.PermissionDeniedError, with_environment_key.beta.tunnels.list)
    refused(anthropic.PermissionDeniedError, with_environment_key.beta.vaults.list)


def test_a_vault_is_made_changed_listed_archived_and_deleted(client: Anthropic):
    vaults, kind = client.beta.vaults, types.BetaManagedAgentsVault
    made = new_vault(client, metadata={"a": "1", "b": "2"})
    changed = conforming(kind, vaults.with_raw_response.update(made.id, display_name="w", metadata={"a": None, "c": "3"}))
    assert (changed.display_name, changed.metadata) == ("w", {"b": "2", "c": "3"})
    assert conforming(kind, vaults.with_raw_response.retrieve(made.id)) == changed
    assert made.id in [vault.id for vault in conforming_page(kind, vaults.with_raw_response.list(limit=1))]
    archived = conforming(kind, vaults.with_raw_response.archive(made.id))
    assert archived.archived_at is not None and vaults.archive(made.id) == archived
    assert made.id not in [vault.id for vault in vaults.list()]
    assert made.id in [vault.id for vault in vaults.list(include_archived=True)]
    refused(anthropic.BadRequestError, vaults.update, made.id, display_name="late", code="vault_archived")
    conforming(types.BetaManagedAgentsDeletedVault, vaults.with_raw_response.delete(made.id))
    refused(anthropic.NotFoundError, vaults.retrieve, made.id)
    for fields in ({"display_name": ""}, {"display_name": "x" * 256},
                   {"display_name": "v", "metadata": {str(n): "" for n in range(17)}}):
        refused(anthropic.BadRequestError, vaults.create, **fields)


@pytest.mark.parametrize("auth", [
    bearer("https://bearer.example/mcp"),
    {"type": "mcp_oauth", "mcp_server_url": "https://plain.example/mcp", "access_token": TOKEN},
    {"type": "mcp_oauth", "mcp_server_url": "https://oauth.example/mcp", "access_token": TOKEN,
     "expires_at": datetime(2199, 1, 1, tzinfo=timezone.utc),
     "refresh": {"client_id": "c", "refresh_token": OTHER, "token_endpoint": "https://auth.example/token", "scope": "s",
                 "token_endpoint_auth": {"type": "client_secret_post", "client_secret": OTHER}}},
    {"type": "environment_variable", "secret_name": "LIMITED", "secret_value": TOKEN,
     "networking": {"type": "limited", "allowed_hosts": ["api.example.com", "*.example.org"]}},
    {"type": "environment_variable", "secret_name": "OPEN", "secret_value": TOKEN,
     "networking": {"type": "unrestricted"}, "injection_location": {"header": True}},
], ids=["bearer", "oauth", "oauth with refresh", "variable", "open variable"])
def test_each_kind_of_credential_is_sealed_and_shown_without_its_secrets(client: Anthropic, vault, auth: dict):
    kind, credentials = vault_types.BetaManagedAgentsCredential, client.beta.vaults.credentials
    made = new_credential(client, vault.id, auth, display_name="c", metadata={"k": "v"})
    assert (made.auth.type, made.vault_id, made.archived_at) == (auth["type"], vault.id, None)
    assert conforming(kind, credentials.with_raw_response.retrieve(made.id, vault_id=vault.id)) == made
    refused(anthropic.ConflictError, credentials.create, vault.id, auth=auth, code="credential_key_taken")
    renamed = conforming(kind, credentials.with_raw_response.update(made.id, vault_id=vault.id, display_name="d"))
    assert renamed.display_name == "d"
    assert made.id in [c.id for c in conforming_page(kind, credentials.with_raw_response.list(vault.id, limit=1))]
    archived = conforming(kind, credentials.with_raw_response.archive(made.id, vault_id=vault.id))
    assert archived.archived_at is not None
    again = new_credential(client, vault.id, auth)
    deleted = vault_types.BetaManagedAgentsDeletedCredential
    conforming(deleted, credentials.with_raw_response.delete(again.id, vault_id=vault.id))
    refused(anthropic.NotFoundError, credentials.retrieve, again.id, vault_id=vault.id)


def test_a_credential_changes_its_secret_and_never_what_it_is_bound_to(client: Anthropic, vault):
    kind, credentials = vault_types.BetaManagedAgentsCredential, client.beta.vaults.credentials
    made = new_credential(client, vault.id, bearer("https://change.example/mcp"))
    update = credentials.with_raw_response.update
    changed = conforming(kind, update(made.id, vault_id=vault.id, auth={"type": "static_bearer", "token": OTHER}))
    assert changed.auth == made.auth and changed.updated_at > made.updated_at
    for auth in ({"type": "mcp_oauth", "access_token": OTHER}, {"type": "static_bearer", "token": None},
                 {"type": "static_bearer", "mcp_server_url": "https://evil.example"}):
        refused(anthropic.BadRequestError, credentials.update, made.id, vault_id=vault.id, auth=auth)
    networking = {"type": "limited", "allowed_hosts": ["a.example", "b.example"]}
    bound = new_credential(client, vault.id, {"type": "environment_variable", "secret_name": "BOUND", "secret_value": TOKEN,
                                              "networking": networking})
    narrow = {"type": "environment_variable", "networking": networking | {"allowed_hosts": ["a.example"]}}
    assert conforming(kind, update(bound.id, vault_id=vault.id, auth=narrow)).auth.networking.allowed_hosts == ["a.example"]
    wide = {"type": "environment_variable", "networking": {"type": "unrestricted"}}
    refused(anthropic.BadRequestError, credentials.update, bound.id, vault_id=vault.id, auth=wide, code="credential_widened")
    conforming(kind, update(bound.id, vault_id=vault.id, auth=wide | {"secret_value": OTHER}))


def test_a_vault_holds_twenty_credentials(client: Anthropic):
    vault = new_vault(client)
    for n in range(20):
        new_credential(client, vault.id, bearer(f"https://many.example/{n}"))
    create = client.beta.vaults.credentials.create
    refused(anthropic.BadRequestError, create, vault.id, auth=bearer("https://many.example/x"), code="credential_limit_reached")
    client.beta.vaults.archive(vault.id)
    archived = list(client.beta.vaults.credentials.list(vault.id, include_archived=True, limit=7))
    assert len(archived) == 20 and all(credential.archived_at for credential in archived)


def test_a_validation_is_answered_in_its_shape(client: Anthropic, vault):
    auth = {"type": "mcp_oauth", "mcp_server_url": "https://validate.example/mcp", "access_token": TOKEN}
    made = new_credential(client, vault.id, auth)
    raw = client.beta.vaults.credentials.with_raw_response.mcp_oauth_validate(made.id, vault_id=vault.id)
    validation = conforming(vault_types.BetaManagedAgentsCredentialValidation, raw)
    assert (validation.status, validation.has_refresh_token, validation.credential_id) == ("unknown", False, made.id)
    assert raw.headers["postern-reason"] in ("route_unknown", "credential_needs_route"), "no gateway has a route to it"


def test_no_secret_that_a_client_sent_is_in_the_control_plane_s_files(postern: Stack, client: Anthropic, vault):
    new_credential(client, vault.id, bearer(f"https://canary.example/{uuid.uuid4()}"))
    seen = 0
    for file in [postern.log, *(path for path in postern.data.rglob("*") if path.is_file())]:
        content = file.read_bytes()
        seen += len(content)
        assert not any(secret.encode() in content for secret in SECRETS), file
    assert seen > 100_000, "the database was read"


def test_a_perimeter_is_registered_by_up_and_others_by_hand(postern: Stack):
    listed = own(postern, "GET", "/v1/perimeters").json()["data"]
    assert postern.environment_id in [perimeter["environment_id"] for perimeter in listed]
    body = {"name": "no", "public_key": "0" * 64, "environment_id": postern.environment_id}
    assert own(postern, "POST", "/v1/perimeters", body).status_code == 403, "an API key registers no perimeter"
