"""Routes that change under a running stack: taken up whole or not at all, without dropping a stream."""

from __future__ import annotations

import signal
import threading

from conftest import WIKI_TOKEN, mcp, mcp_session, secret_file, start_wiki, until, wiki_sections

ROUTE = """
[[zone.ledger.mcp]]
server = "notes"
tools = ["*"]
[[gateway.route]]
host = "notes"
upstream = "{url}"
addresses = ["127.0.0.0/8"]
credential = {{ source = "file:{token}", header = "authorization", format = "Bearer {{secret}}" }}
"""


def said(stack, text: str) -> bool:
    return text in stack.log.read_text()


def reload(stack, config: str) -> None:
    (stack.directory / "postern.toml").write_text(config)
    stack.process.send_signal(signal.SIGHUP)


def test_a_route_is_added_without_dropping_a_running_call(new_stack, wiki):
    first = secret_file(WIKI_TOKEN)
    stack = new_stack(wiki_sections(wiki.ready["url"], first))
    notes = start_wiki(token="journey-notes-token-0a1b2c3d4e5f6071")
    slow = mcp_session(stack)
    answers: list = []
    running = threading.Thread(target=lambda: answers.extend(slow.call(mcp("slow", milliseconds=4000))))
    running.start()
    until(lambda: any(event.type == "agent.mcp_tool_use" for event in slow.events()), 20, "the slow call")
    token = first.with_name("notes")
    token.write_text("journey-notes-token-0a1b2c3d4e5f6071")
    token.chmod(0o600)
    reload(stack, stack.config + ROUTE.format(url=notes.ready["url"], token=token))
    until(lambda: said(stack, "took up its routes"), 20, "the reload")
    added = mcp_session(stack, "notes")
    [(error, text)] = added.call(mcp("search", "notes", query="new"))
    assert (error, "new" in text) == (False, True)
    running.join(30)
    assert answers == [(False, "awake")]
    notes.kill()


def test_a_configuration_with_an_error_changes_nothing(new_stack, wiki):
    stack = new_stack(wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)))
    reload(stack, stack.config + "[[gateway.route]]\nhost = 7\n")
    until(lambda: said(stack, "the former configuration stays in force"), 20, "the refusal")
    [(error, _)] = mcp_session(stack).call(mcp("search", query="still"))
    assert not error


def test_a_source_that_custody_was_confined_without_is_refused_with_the_next_step(new_stack, wiki):
    stack = new_stack(wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)))
    token = secret_file("journey-notes-token-0a1b2c3d4e5f6071")
    reload(stack, stack.config + ROUTE.format(url="http://127.0.0.1:1/mcp", token=token))
    until(lambda: said(stack, "start the worker and the gateway again"), 20, "the refusal")
    [(error, _)] = mcp_session(stack).call(mcp("search", query="still"))
    assert not error
