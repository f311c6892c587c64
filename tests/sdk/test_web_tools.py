"""The server's web tools by the official SDK: a site and a search provider of the test's on loopback, reached through a range that the
operator allows; what a model composes itself, or what leads inside, is not fetched."""

from __future__ import annotations

import json
import queue
import ssl
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import anthropic
import httpx
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from conformance.validator import check
from conftest import Stack, script, tool, until
from hosts import certificate

SOURCES = {"user_input": "none"}
PAGES = {
    "/page": ("text/html; charset=utf-8", '<title>Notes</title><script>x</script><p>Read <a href="/next">the rest</a>.</p>'),
    "/next": ("text/plain", "the rest of it"),
    "/pdf": ("application/pdf", "%PDF-1.7"),
}


def answer(request, kind: str, body: str) -> None:
    request.send_header("content-type", kind)
    request.send_header("content-length", str(len(body.encode())))
    request.end_headers()
    request.wfile.write(body.encode())


class Site:
    """Pages over TLS as `localhost`, and a search provider in the clear; both note what they are asked for."""

    def __init__(self, directory: Path) -> None:
        self.asked: queue.Queue = queue.Queue()
        self.redirects: dict[str, str] = {}
        certificate(directory, "localhost")
        self.ca = directory / "ca.pem"
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
        self.pages, self.search = self._serve(self._page, context), self._serve(self._results, None)

    def url(self, path: str) -> str:
        return f"https://localhost:{self.pages.server_port}{path}"

    def _serve(self, respond, context) -> ThreadingHTTPServer:
        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                respond(self)

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if context:
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        return server

    def _page(self, request) -> None:
        path = urlsplit(request.path).path
        self.asked.put(request.path)
        if path in self.redirects:
            request.send_response(302)
            request.send_header("location", self.redirects[path])
            answer(request, "text/plain", "")
            return
        kind, body = PAGES.get(path, ("text/plain", "nothing"))
        request.send_response(200 if path in PAGES else 404)
        answer(request, kind, body)

    def _results(self, request) -> None:
        self.asked.put((dict(request.headers), parse_qs(urlsplit(request.path).query)))
        results = [{"url": self.url("/page"), "title": "Notes", "content": "about <b>it</b>"},
                   {"url": "https://blocked.example/x", "title": "Blocked", "content": "never shown"}]
        request.send_response(200)
        answer(request, "application/json", json.dumps({"results": results}))

    def asks(self) -> list:
        """What was asked for since the last look."""
        asks = []
        while not self.asked.empty():
            asks.append(self.asked.get())
        return asks

    def close(self) -> None:
        self.pages.shutdown()
        self.search.shutdown()


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Site:
    site = Site(tmp_path_factory.mktemp("site"))
    (site.ca.parent / "search.key").write_text("search-key-of-the-server\n")
    (site.ca.parent / "search.key").chmod(0o600)
    yield site
    site.close()


@pytest.fixture(scope="module")
def stack(new_stack, site: Site) -> Stack:
    return new_stack(f"""
[server]
ca_file = "{site.ca}"
[web]
addresses = ["127.0.0.1/32"]
[web.search]
kind = "searxng"
url = "http://127.0.0.1:{site.search.server_port}"
key_file = "{site.ca.parent}/search.key"
""")


@pytest.fixture(scope="module")
def client(stack: Stack) -> Anthropic:
    return Anthropic(base_url=stack.base_url, api_key=stack.api_key, max_retries=0)


def toolset(*configs: dict) -> list[dict]:
    return [{"type": "agent_toolset_20260401", "configs": list(configs)}]


def session(client: Anthropic, stack: Stack, tools: list[dict]) -> str:
    agent = client.beta.agents.create(name="reader", model="rehearsal-1", tools=tools)
    return client.beta.sessions.create(agent=agent.id, environment_id=stack.environment_id).id


def play(client: Anthropic, id: str, *calls: dict) -> list:
    """Has the model make these calls, one turn each; the events when the turn is over."""
    turns = script(*({"tool_uses": [call]} for call in calls), {"text": "done"})
    client.beta.sessions.events.send(id, events=[{"type": "user.message", "content": turns}])
    return ended(client, id)


def ended(client: Anthropic, id: str) -> list:
    def over():
        events = list(client.beta.sessions.events.list(id, order="asc"))
        idle = [event for event in events if event.type == "session.status_idle"]
        said = [event for event in events if event.type == "user.message"]
        return events if len([one for one in idle if one.stop_reason.type == "end_turn"]) >= len(said) else None

    return until(over, 60, "the end of the turn")


def results(events: list) -> list[tuple[bool, str]]:
    return [(bool(event.is_error), event.content[0].text) for event in events if event.type == "agent.tool_result"]


def test_what_is_said_of_the_web_tools_conforms_and_is_spelled_out(client: Anthropic):
    reference = {"type": "tool_reference", "name": "web_search"}
    made = client.beta.agents.with_raw_response.create(name="w", model="rehearsal-1", tools=toolset(
        {"name": "web_fetch", "allowed_domains": ["docs.example.com"], "max_content_tokens": 100,
         "url_sources": {"user_input": "none", "server_tool_results": {"type": "only", "tools": [reference]}}},
        {"name": "web_search", "user_location": {"type": "approximate", "country": "DE"}}))
    assert check(types.BetaManagedAgentsAgent, made.http_response.content) == []
    fetch, search = (config.to_dict() for config in made.parse().tools[0].configs)
    assert fetch["url_sources"] == {"client_tool_results": None, "user_input": {"type": "none"},
                                    "server_tool_results": {"type": "only", "tools": [reference]}}
    assert fetch["allowed_domains"] == ["docs.example.com"] and search["user_location"]["country"] == "DE"
    for wrong in ({"name": "web_fetch", "allowed_domains": []}, {"name": "web_fetch", "blocked_domains": ["localhost"]},
                  {"name": "web_search", "url_sources": {}}):
        with pytest.raises(anthropic.BadRequestError):
            client.beta.agents.create(name="w", model="rehearsal-1", tools=toolset(wrong))


def test_a_search_shows_pages_and_a_page_shows_the_next(client: Anthropic, stack: Stack, site: Site):
    # The user's message is the whole script: that its URLs stand there counts for nothing here.
    id = session(client, stack, toolset({"name": "web_fetch", "url_sources": SOURCES},
                                        {"name": "web_search", "blocked_domains": ["blocked.example"]}))
    site.asks()
    events = play(client, id, tool("web_fetch", url=site.url("/page")), tool("web_search", query="notes & more"),
                  tool("web_fetch", url=site.url("/next")), tool("web_fetch", url=site.url("/page")),
                  tool("web_fetch", url=site.url("/next")))
    told = results(events)
    assert [is_error for is_error, _ in told] == [True, False, True, False, False], told
    assert told[0][1].startswith("url_not_in_prior_context") and told[2][1].startswith("url_not_in_prior_context")
    assert site.url("/page") in told[1][1] and "Blocked" not in told[1][1]
    assert told[3][1] == f"URL: {site.url('/page')}\nTitle: Notes\n\nRead [the rest]({site.url('/next')})."
    assert told[4][1].endswith("the rest of it")
    (headers, query), *pages = site.asks()
    assert query["q"] == ["notes & more"] and headers["authorization"] == "Bearer search-key-of-the-server"
    assert pages == ["/page", "/next"], "nothing else was asked for"
    uses = [event for event in events if event.type == "agent.tool_use"]
    assert {event.tool_use_id for event in events if event.type == "agent.tool_result"} == {use.id for use in uses}
    usage = client.beta.sessions.retrieve(id).usage.server_tool_use
    assert (usage.web_fetch_requests, usage.web_search_requests) == (0, 1)
    assert "search-key-of-the-server" not in "".join(event.to_json() for event in events)


def test_a_url_that_the_model_composed_takes_nothing_out(client: Anthropic, stack: Stack, site: Site):
    id = session(client, stack, toolset({"name": "web_fetch"}))
    site.asks()
    # `h` by its number: what the user wrote shows no URL, as in a message that does not hold the script.
    leak = json.dumps([{"tool_uses": [tool("web_fetch", url=site.url("/page?leak=hunter2"))]}, {"text": "done"}])
    texts = ["rehearse: " + leak.replace("https", "\\u0068ttps")]
    content = [{"type": "text", "text": text} for text in texts]
    client.beta.sessions.events.send(id, events=[{"type": "user.message", "content": content}])
    told = results(ended(client, id))
    assert told[0][0] and told[0][1].startswith("url_not_in_prior_context") and "hunter2" not in told[0][1]
    assert site.asks() == []
    told = results(play(client, id, tool("web_fetch", url=site.url("/page"))))
    assert not told[1][0] and site.asks() == ["/page"], "what the user wrote is fetched"


def test_a_redirect_leads_nowhere_that_is_not_allowed(client: Anthropic, stack: Stack, site: Site):
    id = session(client, stack, toolset({"name": "web_fetch", "blocked_domains": ["blocked.example"]}))
    site.redirects = {"/metadata": "https://169.254.169.254/latest/meta-data", "/blocked": "https://blocked.example/",
                      "/clear": "http://localhost:1/", "/fine": "/next"}
    calls = [tool("web_fetch", url=site.url(path)) for path in site.redirects] + [tool("web_fetch", url=site.url("/pdf"))]
    told = results(play(client, id, *calls))
    codes = [text.split(":")[0] if is_error else None for is_error, text in told]
    assert codes == ["url_not_allowed"] * 3 + [None, "unsupported_content_type"], told


def test_a_person_is_asked_where_the_policy_says_so(client: Anthropic, stack: Stack, site: Site):
    id = session(client, stack, toolset({"name": "web_fetch", "permission_policy": {"type": "always_ask"}}))
    site.asks()
    turns = script({"tool_uses": [tool("web_fetch", url=site.url("/page"))]}, {"text": "done"})
    client.beta.sessions.events.send(id, events=[{"type": "user.message", "content": turns}])

    def waiting():
        events = list(client.beta.sessions.events.list(id, order="asc"))
        return [event.stop_reason.event_ids for event in events if event.type == "session.status_idle"]

    [[call]] = until(waiting, what="the question")
    assert site.asks() == []
    client.beta.sessions.events.send(id, events=[{"type": "user.tool_confirmation", "tool_use_id": call, "result": "allow"}])
    assert results(ended(client, id)) == [(False, results(ended(client, id))[0][1])] and site.asks() == ["/page"]


def test_without_the_operators_range_a_name_that_leads_inside_is_not_fetched(new_stack, site: Site):
    stack = new_stack(f'[server]\nca_file = "{site.ca}"\n[web]\n')
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key, max_retries=0)
    id = session(client, stack, toolset({"name": "web_fetch"}))
    site.asks()
    urls = [site.url("/page"), "https://127.0.0.1/", "https://[::1]/", "https://2130706433/"]
    told = results(play(client, id, *(tool("web_fetch", url=url) for url in urls)))
    assert all(is_error for is_error, _ in told) and "no public address" in told[0][1], told
    assert site.asks() == []
    with pytest.raises(anthropic.BadRequestError, match="web.search"):
        client.beta.agents.create(name="w", model="rehearsal-1", tools=toolset({"name": "web_search"}))
    client.beta.agents.create(name="w", model="rehearsal-1", tools=toolset({"name": "web_search", "enabled": False}))


def test_a_server_without_the_section_has_neither_tool(postern: Stack):
    with httpx.Client(base_url=postern.base_url, headers={"x-api-key": postern.api_key}) as http:
        body = {"name": "w", "model": "rehearsal-1", "tools": toolset({"name": "web_fetch"})}
        beta = {"anthropic-beta": "managed-agents-2026-04-01"}
        answer = http.post("/v1/agents", json=body, headers=beta)
    assert answer.status_code == 400
    assert answer.json()["error"]["details"]["error_code"] == "web_tool_unavailable", answer.text
