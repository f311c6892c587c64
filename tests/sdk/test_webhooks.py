"""Webhooks at a real HTTPS server, each payload unwrapped by the official SDK: signed, complete, again after a failure,
and never posted where a name must not lead."""

from __future__ import annotations

import json
import queue
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from anthropic import Anthropic
from anthropic.types.beta import BetaWebhookEvent
from conformance.validator import check
from conftest import Stack, script, until
from hosts import certificate

ADDRESSES = 'webhook_addresses = ["127.0.0.0/8"]\n'


class Receiver:
    """An HTTPS endpoint that notes what it gets and answers what it is told to, 204 otherwise."""

    def __init__(self, directory: Path) -> None:
        self.got: queue.Queue = queue.Queue()
        self.answers: list[int] = []
        certificate(directory, "127.0.0.1")
        self.ca = directory / "ca.pem"
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.got.put((dict(self.headers), body.decode()))
                self.send_response(receiver.answers.pop(0) if receiver.answers else 204)
                self.send_header("location", "https://127.0.0.1:1/elsewhere")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server.server_port}/in"

    def next(self, seconds: float = 30) -> tuple[dict, str]:
        return self.got.get(timeout=seconds)


@pytest.fixture(scope="module")
def receiver(tmp_path_factory) -> Receiver:
    receiver = Receiver(tmp_path_factory.mktemp("receiver"))
    yield receiver
    receiver.server.shutdown()


@pytest.fixture(scope="module")
def stack(new_stack, receiver: Receiver) -> Stack:
    return new_stack(f'[server]\n{ADDRESSES}ca_file = "{receiver.ca}"\n')


@pytest.fixture(scope="module")
def client(stack: Stack) -> Anthropic:
    return Anthropic(base_url=stack.base_url, api_key=stack.api_key)


@pytest.fixture
def manage(stack: Stack):
    headers = {"x-api-key": stack.api_key, "anthropic-beta": "managed-agents-2026-04-01"}
    with httpx.Client(base_url=stack.base_url, headers=headers) as manage:
        yield manage


def webhook(manage: httpx.Client, url: str, *events: str) -> dict:
    answer = manage.post("/v1/webhooks", json={"url": url, "enabled_events": list(events)})
    assert answer.status_code == 200, answer.text
    return answer.json()


def deliveries(manage: httpx.Client, made: dict) -> list[dict]:
    return manage.get(f"/v1/webhooks/{made['id']}/deliveries").json()["data"]


def test_a_session_is_told_and_the_official_sdk_takes_every_payload(stack: Stack, client: Anthropic, manage, receiver):
    made = webhook(manage, receiver.url, "*")
    agent = client.beta.agents.create(name="told", model="rehearsal", tools=[{"type": "agent_toolset_20260401"}])
    said = [{"type": "text", "text": json.dumps(script({"text": "a word that no webhook hears"}))}]
    session = client.beta.sessions.create(
        agent=agent.id, environment_id=stack.environment_id, initial_events=[{"type": "user.message", "content": said}])
    until(lambda: client.beta.sessions.retrieve(session.id).status == "idle", what="the turn")
    client.beta.sessions.archive(session.id)
    client.beta.sessions.delete(session.id)
    wanted = {"agent.created"} | {f"session.{word}" for word in (
        "created", "running", "status_run_started", "idled", "status_idled", "archived", "status_terminated", "deleted")}
    seen = set()
    while seen < wanted:
        headers, body = receiver.next()
        event = client.beta.webhooks.unwrap(body, headers=headers, key=made["signing_secret"])
        assert check(BetaWebhookEvent, body) == [], body
        assert headers["webhook-id"] == event.id and "a word that" not in body
        assert event.data.workspace_id == "wrkspc_default"
        assert event.data.id == (agent.id if event.data.type.startswith("agent.") else session.id)
        seen.add(event.data.type)
        with pytest.raises(Exception, match="[Ss]ignature"):
            client.beta.webhooks.unwrap(body + " ", headers=headers, key=made["signing_secret"])
    assert seen == wanted
    until(lambda: {one["state"] for one in deliveries(manage, made)} == {"delivered"}, what="all answers")
    manage.delete(f"/v1/webhooks/{made['id']}")


def test_a_rotated_secret_and_the_one_before_it_both_open_what_is_posted(client: Anthropic, manage, receiver):
    made = webhook(manage, receiver.url, "vault.created")
    rotated = manage.post(f"/v1/webhooks/{made['id']}/rotate_secret").json()
    client.beta.vaults.create(display_name="v")
    headers, body = receiver.next()
    for secret in (made["signing_secret"], rotated["signing_secret"]):
        assert client.beta.webhooks.unwrap(body, headers=headers, key=secret).data.type == "vault.created"
    manage.delete(f"/v1/webhooks/{made['id']}")


def test_a_failed_attempt_is_repeated_with_the_same_event_across_a_restart(stack: Stack, client: Anthropic, manage, receiver):
    made = webhook(manage, receiver.url, "vault.created")
    receiver.answers = [503]
    client.beta.vaults.create(display_name="v")
    first, _ = receiver.next()
    until(lambda: deliveries(manage, made)[0]["last_error"], what="the failure on record")
    failed = deliveries(manage, made)[0]
    assert (failed["state"], failed["attempts"], failed["last_error"]["status"]) == ("pending", 1, 503)
    stack.kill()
    stack.start()
    again, body = receiver.next(90)
    assert again["webhook-id"] == first["webhook-id"]
    client.beta.webhooks.unwrap(body, headers=again, key=made["signing_secret"])
    until(lambda: deliveries(manage, made)[0]["state"] == "delivered", what="the answer")
    manage.delete(f"/v1/webhooks/{made['id']}")


def test_gone_disables_a_redirect_is_not_followed_and_both_wait_to_be_replayed(client: Anthropic, manage, receiver):
    made = webhook(manage, receiver.url, "vault.created")
    receiver.answers = [302]
    client.beta.vaults.create(display_name="v")
    receiver.next()
    until(lambda: deliveries(manage, made)[0]["last_error"], what="the refusal on record")
    redirected = deliveries(manage, made)[0]
    assert redirected["last_error"]["type"] == "redirected" and receiver.got.empty()
    receiver.answers = [410]
    event = redirected["event"]["id"]
    manage.post(f"/v1/webhooks/{made['id']}/deliveries/{event}/replay")
    receiver.next()
    path = f"/v1/webhooks/{made['id']}"
    until(lambda: manage.get(path).json()["state"] == "disabled", what="410 on record")
    assert manage.get(path).json()["disabled_reason"] == "gone"
    client.beta.vaults.create(display_name="not told")
    assert manage.post(path, json={"state": "enabled"}).json()["disabled_reason"] is None
    headers, _ = receiver.next()
    assert headers["webhook-id"] == event
    until(lambda: deliveries(manage, made)[0]["state"] == "delivered", what="the answer")
    assert receiver.got.empty(), "what happened while it was disabled is not told"
    manage.delete(path)


@pytest.mark.parametrize(("url", "reason"), [
    ("https://localhost:9/", "unreachable"),
    ("https://169.254.169.254/latest", "address_not_allowed"),
    ("https://10.1.2.3/in", "address_not_allowed"),
    ("https://[fd00::1]/in", "address_not_allowed"),
    ("https://[::ffff:169.254.169.254]/", "address_not_allowed"),
])
def test_a_name_that_leads_inside_is_not_dialled(client: Anthropic, manage, url: str, reason: str):
    made = webhook(manage, url, "vault.created")
    client.beta.vaults.create(display_name="v")
    until(lambda: deliveries(manage, made)[0]["last_error"], what="the refusal on record")
    assert deliveries(manage, made)[0]["last_error"]["type"] == reason
    manage.delete(f"/v1/webhooks/{made['id']}")


def test_an_untrusted_certificate_gets_nothing(client: Anthropic, manage, receiver, tmp_path):
    other = Receiver(tmp_path)
    made = webhook(manage, other.url, "vault.created")
    client.beta.vaults.create(display_name="v")
    until(lambda: deliveries(manage, made)[0]["last_error"], what="the refusal on record")
    assert deliveries(manage, made)[0]["last_error"]["type"] == "untrusted" and other.got.empty()
    other.server.shutdown()
    manage.delete(f"/v1/webhooks/{made['id']}")
