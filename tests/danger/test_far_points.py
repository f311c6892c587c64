"""A process dies at instrumented points of what is done besides a worker's tool uses: while a judge is asked, an MCP server called, a page
fetched, a webhook told, a vault's tokens renewed, a session held, a stream read. What was acknowledged is there afterwards; a call ran once
at most and is answered once, as unknown where nobody can tell; every event of a log is streamed once.

POSTERN_PASSINGS and POSTERN_SEED as in test_points.
"""

from __future__ import annotations

import json
import random
import ssl
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from aftermath import USES, check, client_of, mark, marks, ready_client, settled
from anthropic import Anthropic
from conftest import WIKI_TOKEN, Process, Stack, mcp, placed, script, seen_by, tool, until, wiki_sections
from control import call
from danger.test_points import FILE, PASSINGS, SEED, SETTLED_SECONDS, answered, say, session_of, start_to_die
from hosts import certificate
from oauth import CLIENT_ID, CLIENT_SECRET, House, listed

# Whoever dies with a letter on its way leaves it to the next after a minute.
TOLD_SECONDS = 120
CALLS = 4
BETAS = {"anthropic-beta": "managed-agents-2026-04-01"}
UNKNOWN = "unknown"
NOT_RUN = ("was not run", "not connected")


@dataclass
class Outside:
    """Pages and an endpoint of webhooks, over TLS on loopback; notes what it is asked for and told."""

    directory: Path
    fetched: Counter = field(default_factory=Counter)
    told: list[tuple[str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        certificate(self.directory, "localhost", "127.0.0.1")
        outside = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outside.fetched[self.path] += 1
                self.answer(200, f"the page {self.path}")

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"])).decode()
                outside.told.append((self.headers["webhook-id"], body))
                self.answer(200, "")

            def answer(self, status: int, text: str) -> None:
                self.send_response(status)
                self.send_header("content-type", "text/plain")
                self.send_header("content-length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.directory / "cert.pem", self.directory / "key.pem")
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def page(self, name: str) -> str:
        return f"https://localhost:{self.server.server_port}/{name}"

    @property
    def endpoint(self) -> str:
        return f"https://127.0.0.1:{self.server.server_port}/told"


@dataclass
class Ground:
    """A stack of the binary that can die, and whatever it reaches."""

    stack: Stack
    outside: Outside
    house: House
    wiki: Process
    agents: dict[str, str]


@pytest.fixture(scope="module")
def ground(new_stack, danger: Path, wiki: Process, tmp_path_factory):
    outside, house = Outside(tmp_path_factory.mktemp("outside")), House(tmp_path_factory.mktemp("house"), wiki.ready["url"], WIKI_TOKEN)
    sections = wiki_sections(house.gate, house.ca)
    own = next(line for line in sections.splitlines() if line.startswith("credential"))
    ledger = sections.replace(own, 'credential = { source = "api:" }') + listed(house)
    stack = new_stack(f"""judge = "rehearsal-1"
[server]
webhook_addresses = ["127.0.0.0/8"]
ca_file = "{outside.directory}/ca.pem"
[web]
addresses = ["127.0.0.1/32"]
{ledger}""")
    agents = agents_of(stack)
    stack.stop()
    stack.binary = str(placed(danger, tmp_path_factory.mktemp("danger")))
    yield Ground(stack, outside, house, wiki, agents)
    outside.server.shutdown()
    house.close()


def agents_of(stack: Stack) -> dict[str, str]:
    hands = {"type": "agent_toolset_20260401"}
    url = f"https://wiki.{stack.ready['tunnel_domain']}/mcp"
    allowed = {"type": "mcp_toolset", "mcp_server_name": "wiki", "default_config": {"permission_policy": {"type": "always_allow"}}}
    definitions = {
        "plain": {"tools": [hands]},
        "judged": {"tools": [hands | {"default_config": {"permission_policy": {"type": "auto"}}}]},
        "reader": {"tools": [hands | {"configs": [{"name": "web_fetch"}]}]},
        "caller": {"tools": [hands, allowed], "mcp_servers": [{"type": "url", "name": "wiki", "url": url}]},
    }
    create = client_of(stack).beta.agents.create
    return {name: create(name=name, model="rehearsal-1", **given).id for name, given in definitions.items()}


def played(ground: Ground, agent: str, key: str, turns: list[dict], **more) -> tuple[str, str, list]:
    """A session that plays these turns to its end, whoever dies meanwhile: its id, its message, its log."""
    session = session_of(ground.stack, ground.agents[agent], key, **more)
    message = say(ground.stack, session, turns)
    events = until(lambda: settled(client_of(ground.stack), session), SETTLED_SECONDS, f"the end of {session}")
    return session, message, events


def judged(ground: Ground, key: str) -> None:
    allow = json.dumps({"verdicts": [{"call": 0, "decision": "allow", "reason": "as rehearsed"}]})
    turns = [{"tool_uses": [mark(n)], "judge": allow} for n in range(USES)]
    session, message, events = played(ground, "judged", key, [*turns, {"text": "finished"}])
    check(events, message, marks(ground.stack, session))
    uses = [event for event in events if event.type == "agent.tool_use"]
    assert {event.evaluated_permission for event in uses} == {"allow"}, "a verdict is lost"


def called(ground: Ground, key: str) -> None:
    names = [f"{key} {n}" for n in range(CALLS)]
    turns = [{"tool_uses": [mcp("slow", milliseconds=5, mark=name)]} for name in names]
    vault, _ = vault_with(ground, ground.house.access())
    _, message, events = played(ground, "caller", key, [*turns, {"text": "finished"}], vault_ids=[vault])
    reached = Counter(one["arguments"].get("mark") for one in seen_by(ground.wiki)["calls"])
    once_each(events, message, {name: reached[name] for name in names}, "mark")


def fetched(ground: Ground, key: str) -> None:
    pages = [ground.outside.page(f"{key.replace(' ', '-')}-{n}") for n in range(CALLS)]
    turns = [{"tool_uses": [tool("web_fetch", url=page)]} for page in pages]
    _, message, events = played(ground, "reader", key, [*turns, {"text": "finished"}])
    once_each(events, message, {page: ground.outside.fetched["/" + page.rpartition("/")[2]] for page in pages}, "url")


def once_each(events: list, message: str, reached: dict[str, int], told_apart_by: str) -> None:
    """Each call went out once at most and is answered once, by what came of it or by what is known of it."""
    ids = Counter(event.id for event in events)
    assert max(ids.values()) == 1 and message in ids, "an acknowledged event is gone, or one is stored twice"
    assert max(reached.values()) <= 1, f"a call went out twice: {reached}"
    calls = {event.id: event.input[told_apart_by] for event in events if event.type in ("agent.mcp_tool_use", "agent.tool_use")}
    results = [event for event in events if event.type in ("agent.mcp_tool_result", "agent.tool_result")]
    answers = Counter(getattr(result, "mcp_tool_use_id", None) or result.tool_use_id for result in results)
    assert set(answers) == set(calls) and max(answers.values()) == 1, "a call has no answer, or two"
    assert set(calls.values()) == set(reached), "a call was never asked for"
    for result in results:
        name = calls[getattr(result, "mcp_tool_use_id", None) or result.tool_use_id]
        text = result.content[0].text
        if not result.is_error:
            assert reached[name] == 1, f"a result of a call that never went out: {name}"
        elif UNKNOWN not in text:
            assert any(words in text for words in NOT_RUN) and reached[name] == 0, f"{name} reached {reached[name]}: {text}"
    assert events[-1].stop_reason.type == "end_turn"


def told(ground: Ground, key: str) -> None:
    manage = {"x-api-key": ground.stack.api_key} | BETAS
    with httpx.Client(base_url=ground.stack.base_url, headers=manage, timeout=10) as http:
        def asked(method: str, path: str, **body) -> dict | None:
            try:
                answer = http.request(method, path, **body)
            except httpx.HTTPError:
                return None
            return answer.json() if answer.status_code == 200 else None

        body, once = {"url": ground.outside.endpoint, "enabled_events": ["*"]}, {"idempotency-key": f"hook {key}"}
        made = until(lambda: asked("POST", "/v1/webhooks", json=body, headers=once), SETTLED_SECONDS, "a webhook")
        before = len(ground.outside.told)
        played(ground, "plain", key, [{"text": "finished"}])

        def all_told() -> list[dict] | None:
            listed = asked("GET", f"/v1/webhooks/{made['id']}/deliveries?limit=100")
            return listed and all(one["state"] == "delivered" for one in listed["data"]) and listed["data"]

        deliveries = until(all_told, TOLD_SECONDS, "the end of every letter")
        until(lambda: asked("DELETE", f"/v1/webhooks/{made['id']}"), what="no more of them")
    posts = ground.outside.told[before:]
    events = [one["event"]["id"] for one in deliveries]
    assert len(events) == len(set(events)) and set(events) == {event for event, _ in posts}, "an event is lost, or noted twice"
    assert {"session.created", "session.idled"} <= {one["event"]["data"]["type"] for one in deliveries}
    assert len(dict(posts)) == len(set(posts)), "a letter that came again is another one"
    again = [event for event, count in Counter(event for event, _ in posts).items() if count > 1]
    attempts = {one["event"]["id"]: one["attempts"] for one in deliveries}
    assert all(attempts[event] > 1 for event in again), "a letter came again that nobody had reason to post again"


def vault_with(ground: Ground, access_token: str) -> tuple[str, str]:
    client = client_of(ground.stack)
    vault = answered(lambda: client.beta.vaults.create(display_name="dies"))
    refresh = {"client_id": CLIENT_ID, "refresh_token": ground.house.refresh(), "token_endpoint": ground.house.endpoint,
               "token_endpoint_auth": {"type": "client_secret_basic", "client_secret": CLIENT_SECRET}}
    url = f"https://wiki.{ground.stack.ready['tunnel_domain']}/mcp"
    auth = {"type": "mcp_oauth", "mcp_server_url": url, "access_token": access_token, "refresh": refresh}
    return vault.id, answered(lambda: client.beta.vaults.credentials.create(vault_id=vault.id, auth=auth)).id


def renewed(ground: Ground, _: str) -> None:
    """A refresh token that rotates is used once, and what came of it is there."""
    house = ground.house
    house.revoked = False
    house.asked.clear()
    vault, credential = vault_with(ground, "an-access-token-of-yesterday-0123")

    def valid():
        found = answered(lambda: client_of(ground.stack).beta.vaults.credentials.mcp_oauth_validate(credential, vault_id=vault))
        return found if found.status == "valid" else None

    until(valid, SETTLED_SECONDS, "new tokens")
    assert valid().refresh is None, "what was renewed was not kept"
    assert (len(house.asked), house.revoked) == (1, False), "the refresh token was used twice, or never"


def held(ground: Ground, key: str) -> None:
    stack = ground.stack
    session = session_of(stack, ground.agents["plain"], key)
    slow = [tool("bash", command=f"for i in $(seq 60); do echo mark-{n}-$i >> marks; sleep 0.05; done") for n in range(USES)]
    message = say(stack, session, [*({"tool_uses": [one]} for one in slow[:2]), {"text": "finished"}])
    until(lambda: marks(stack, session), SETTLED_SECONDS, "the first tool use")

    def said(verb: str) -> bool:
        try:
            code, answer = call(stack, "POST", f"/v1/sessions/{session}/{verb}")
        except OSError:
            return False
        return code == 200 and any(one["obeyed"] for one in answer["perimeters"])

    until(lambda: said("freeze"), SETTLED_SECONDS, "a freeze that is obeyed")
    before = sum(marks(stack, session).values())
    time.sleep(0.6)  # Nothing to wait for: what is shown is that nothing happens.
    assert sum(marks(stack, session).values()) == before, "a frozen session goes on"
    until(lambda: said("thaw"), SETTLED_SECONDS, "a thaw that is obeyed")
    events = until(lambda: settled(client_of(stack), session), SETTLED_SECONDS, "the end of the session")
    ids = Counter(event.id for event in events)
    assert max(ids.values()) == 1 and message in ids
    assert max(marks(stack, session).values()) == 1, "something ran twice"
    uses = {event.id for event in events if event.type == "agent.tool_use"}
    assert Counter(event.tool_use_id for event in events if event.type == "user.tool_result") == Counter(uses)


def streamed(ground: Ground, key: str) -> None:
    """A reader that comes back with the last id it saw is shown every event of the log once, in its order."""
    session = session_of(ground.stack, ground.agents["plain"], key)
    # It reads from before the first event on, as the session's worker does: both are amid the stream when the server dies.
    with ThreadPoolExecutor(1) as pool:
        reader = pool.submit(follow, ground.stack, session)
        say(ground.stack, session, [{"tool_uses": [mark(n)]} for n in range(2)] + [{"text": "finished"}])
        shown = reader.result(SETTLED_SECONDS * 2)
    events = until(lambda: settled(client_of(ground.stack), session), SETTLED_SECONDS, "the end of the session")
    assert shown == [event.id for event in events], "an event was not shown, or twice"


def follow(stack: Stack, session: str) -> list[str]:
    """What a reader is shown to the end of the turn, as often as it has to come back."""
    headers = {"authorization": f"Bearer {stack.api_key}"} | BETAS
    shown: list[tuple[int, str]] = []
    deadline = time.monotonic() + SETTLED_SECONDS
    with httpx.Client(base_url=stack.base_url, timeout=20) as http:
        while not is_over(client_of(stack), session, shown) and time.monotonic() < deadline:
            place = {"last-event-id": str(shown[-1][0] if shown else 0)}
            try:
                with http.stream("GET", f"/v1/sessions/{session}/events/stream", headers=headers | place) as answer:
                    read(answer, shown)
            except httpx.HTTPError:
                time.sleep(0.05)  # A server that comes back; the deadline bounds it.
    return [event for _, event in shown]


def is_over(client: Anthropic, session: str, shown: list) -> bool:
    events = shown and settled(client, session)
    return bool(events) and events[-1].id == shown[-1][1]


def read(answer: httpx.Response, shown: list[tuple[int, str]]) -> None:
    """Notes frames that have a place, until the turn is over or the stream ends."""
    place = None
    for line in answer.iter_lines():
        if line.startswith("id: "):
            place = int(line.removeprefix("id: "))
        elif line.startswith("data: ") and place is not None:
            event = json.loads(line.removeprefix("data: "))
            shown.append((place, event["id"]))
            place = None
            if event["type"] == "session.status_idle" and event["stop_reason"]["type"] != "requires_action":
                return


ONCE, TWICE, THRICE, EACH_CALL, EACH_USE = range(1, 2), range(1, 3), range(1, 4), range(1, CALLS + 1), range(1, USES + 1)
# Frames of both readers, after some and before the last ones.
AMID = range(8, 20)
# What passes each point, which of its passings are tried, and how many of these at most.
POINTS = {
    "consult.before": (judged, EACH_USE, PASSINGS), "consult.after": (judged, EACH_USE, PASSINGS),
    "mcp.before": (called, EACH_CALL, PASSINGS), "mcp.after": (called, EACH_CALL, PASSINGS),
    "web.before": (fetched, EACH_CALL, PASSINGS), "web.after": (fetched, EACH_CALL, PASSINGS),
    "webhook.before": (told, THRICE, 1), "webhook.after": (told, THRICE, 1),
    "renewal.before": (renewed, ONCE, 1), "renewal.after": (renewed, ONCE, 1),
    "exchange.kept": (renewed, ONCE, 1), "seal.before": (renewed, ONCE, 1), "seal.after": (renewed, ONCE, 1),
    "command.before": (held, TWICE, PASSINGS), "command.after": (held, TWICE, PASSINGS),
    "frame.before": (streamed, AMID, PASSINGS), "frame.after": (streamed, AMID, PASSINGS),
}


def cases() -> list[tuple[str, int]]:
    instants = random.Random(SEED)
    return [(point, passing) for point, (_, passings, tried) in POINTS.items()
            for passing in sorted(instants.sample(passings, min(tried, len(passings))))]


@pytest.mark.parametrize(("point", "passing"), cases())
def test_a_death_far_from_a_tool_use_loses_and_doubles_nothing(ground: Ground, point: str, passing: int):
    file = Path(ground.stack.binary).with_name(FILE)
    if ground.stack.process.poll() is None:
        ground.stack.stop()
    file.write_text(f"die {point} {passing}")
    start_to_die(ground.stack)
    until(lambda: ready_client(ground.stack), what="a server that answers")
    scenario, _, _ = POINTS[point]
    scenario(ground, f"{point} {passing}")
    assert file.read_text().startswith("#"), f"nothing died: fewer than {passing} passings of {point}"
