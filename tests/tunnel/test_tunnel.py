"""A private MCP server through the tunnel: the honest way, and what is tried against it."""

from __future__ import annotations

import json
import subprocess
import time

import pytest

from conftest import (BINARY, WIKI_RULE, WIKI_TOKEN, mcp, mcp_session, port_to_keep, secret_file, seen_by, start_wiki, until,
                      wiki_sections)


def audit(stack, session: str | None = None) -> list[dict]:
    command = [BINARY, "audit", "show", "--json", "--data-dir", str(stack.data)]
    if session:
        command += ["--session", session]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    return [json.loads(line) for line in lines]


def test_an_agent_uses_a_private_mcp_server_and_never_sees_its_token(stack_with_wiki, wiki):
    session = mcp_session(stack_with_wiki)
    [(error, text)] = session.call(mcp("search", query="payroll"))
    assert (error, "/runbooks/payroll" in text) == (False, True)
    heads = seen_by(wiki)["headers"]
    assert any(f"Bearer {WIKI_TOKEN}" in head for head in heads)
    assert not any(line.startswith("postern-") for head in heads for line in head.lower().splitlines())
    assert WIKI_TOKEN not in json.dumps([event.to_dict() for event in session.events()], default=str)
    kinds = [event.type for event in session.events()]
    assert kinds.count("agent.mcp_tool_use") == kinds.count("agent.mcp_tool_result") == 1


def test_what_a_careless_server_reflects_is_scrubbed(stack_with_wiki):
    session = mcp_session(stack_with_wiki)
    results = session.call(mcp("reflect_headers"), mcp("server_info"))
    texts = "\n".join(text for _, text in results)
    assert "authorization" in texts and "config" in texts
    assert WIKI_TOKEN not in texts


@pytest.mark.parametrize("call, reason", [
    (mcp("delete_page", path="/runbooks/payroll"), "argument_not_allowed"),
    (mcp("delete_page", path=["/drafts/x"]), "argument_not_allowed"),
    (mcp("delete_page"), "argument_not_allowed"),
])
def test_a_call_outside_its_rule_is_refused_with_a_reason_and_a_next_step(stack_with_wiki, wiki, call, reason):
    before = [call for call in seen_by(wiki)["calls"] if call["tool"] == "delete_page"]
    session = mcp_session(stack_with_wiki)
    [(error, text)] = session.call(call)
    assert error and f"reason={reason}" in text and "next=" in text
    assert [call for call in seen_by(wiki)["calls"] if call["tool"] == "delete_page"] == before
    assert any(record.get("reason") == reason and record["decision"] == "deny" for record in audit(stack_with_wiki, session.id))


def test_an_argument_inside_its_rule_is_carried_out(stack_with_wiki, wiki):
    session = mcp_session(stack_with_wiki)
    [(error, text)] = session.call(mcp("delete_page", path="/drafts/old"))
    assert (error, text) == (False, "deleted /drafts/old")


def test_a_tool_outside_the_zone_is_refused(new_stack, wiki):
    rule = '[[zone.ledger.mcp]]\nserver = "wiki"\ntools = ["search"]\n'
    sections = wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)).replace(WIKI_RULE, rule)
    session = mcp_session(new_stack(sections))
    (refused, text), (error, _) = session.call(mcp("read_page", path="/x"), mcp("search", query="x"))
    assert refused and "reason=tool_not_allowed" in text
    assert not error


def test_calls_wait_for_a_confirmation_unless_the_toolset_says_otherwise(stack_with_wiki, wiki):
    session = mcp_session(stack_with_wiki, permission="")
    session.send(mcp("search", query="one"), mcp("search", query="two"))
    until(lambda: session.stop_reason() == "requires_action", 30, "the question")
    calls = [event for event in session.events() if event.type == "agent.mcp_tool_use"]
    assert [call.evaluated_permission for call in calls] == ["ask", "ask"]
    events = [{"type": "user.tool_confirmation", "tool_use_id": calls[0].id, "result": "allow"},
              {"type": "user.tool_confirmation", "tool_use_id": calls[1].id, "result": "deny", "deny_message": "not today"}]
    session.client.beta.sessions.events.send(session.id, events=events)
    session.finish()
    (allowed, text), (denied, why) = session.results()
    assert not allowed and "one" in text
    assert denied and "not today" in why
    assert {"tool": "search", "arguments": {"query": "two"}} not in seen_by(wiki)["calls"]


def test_a_large_result_goes_to_a_file_in_the_workspace_with_a_preview(stack_with_wiki):
    session = mcp_session(stack_with_wiki)
    [(error, text)] = session.call(mcp("large", bytes=200_000))
    assert not error and len(text) < 20_000 and "/workspace/.results/" in text
    path = next(word.strip("`.,:;)(") for word in text.split() if "/workspace/.results/" in word)
    session.send({"name": "bash", "input": {"command": f"wc -c < {path}"}})
    session.finish()
    outputs = [event for event in session.events() if event.type == "user.tool_result"]
    assert "200000" in outputs[-1].content[0].text


def test_status_and_probe_show_the_path(stack_with_wiki):
    data = ["--data-dir", str(stack_with_wiki.data)]
    status = subprocess.run([BINARY, "tunnel", "status", *data], capture_output=True, text=True)
    assert status.returncode == 0, status.stderr
    for wanted in ("interactive", "bulk", "days left", "wiki"):
        assert wanted in status.stdout, status.stdout
    probe = subprocess.run([BINARY, "tunnel", "probe", "wiki", *data], capture_output=True, text=True)
    assert probe.returncode == 0, probe.stdout + probe.stderr
    assert "search" in probe.stdout and " ms" in probe.stdout
    missing = subprocess.run([BINARY, "tunnel", "probe", "nowhere", *data], capture_output=True, text=True)
    assert missing.returncode == 1
    assert "route_unknown" in missing.stdout, missing.stdout


def failing(new_stack, sections: str, route: str = "wiki"):
    return mcp_session(new_stack(sections), route)


def test_failures_of_a_connection_are_session_errors_and_never_block_the_session(new_stack, wiki):
    token = secret_file(WIKI_TOKEN)
    refusing = start_wiki("--refuse")
    sections = wiki_sections(wiki.ready["url"], token, route=f"""
[[gateway.route]]
host = "down"
upstream = "http://127.0.0.1:1/mcp"
addresses = ["127.0.0.0/8"]
[[gateway.route]]
host = "elsewhere"
upstream = "{wiki.ready["url"].replace("127.0.0.1", "localhost")}"
addresses = ["10.0.0.0/8"]
[[gateway.route]]
host = "refusing"
upstream = "{refusing.ready["url"]}"
addresses = ["127.0.0.0/8"]
credential = {{ source = "file:{token}", header = "authorization", format = "Bearer {{secret}}" }}
""")
    rules = "".join(f'[[zone.ledger.mcp]]\nserver = "{name}"\ntools = ["*"]\n' for name in ("down", "elsewhere", "refusing"))
    stack = new_stack(sections.replace("[[gateway.route]]", rules + "[[gateway.route]]", 1))
    expected = {
        "down": ("mcp_connection_failed_error", "upstream_unreachable"),
        "elsewhere": ("mcp_connection_failed_error", "address"),
        "refusing": ("mcp_authentication_failed_error", "upstream_unauthorized"),
        "nowhere": ("mcp_connection_failed_error", "route_unknown"),
    }
    for route, (kind, reason) in expected.items():
        session = mcp_session(stack, route)
        started = time.monotonic()
        session.send()
        session.finish(30)
        assert time.monotonic() - started < 25, route
        errors = session.errors()
        assert [error.type for error in errors] == [kind], route
        assert errors[0].mcp_server_name == route
        assert reason in errors[0].message, errors[0].message
        assert WIKI_TOKEN not in errors[0].message
        assert any(event.type == "agent.message" for event in session.events()), "the turn went on without the server"
    refusing.kill()


def test_a_server_that_comes_back_is_connected_at_the_next_turn(new_stack):
    wiki = start_wiki("--listen", f"127.0.0.1:{port_to_keep()}")
    url = wiki.ready["url"]
    stack = new_stack(wiki_sections(url, secret_file(WIKI_TOKEN)))
    wiki.kill()
    session = mcp_session(stack)
    session.send()
    session.finish()
    assert [error.type for error in session.errors()] == ["mcp_connection_failed_error"]
    back = start_wiki("--listen", url.removeprefix("http://").removesuffix("/mcp"))
    [(error, _)] = session.call(mcp("search", query="again"))
    assert not error
    back.kill()


def test_an_offline_tunnel_is_a_named_error(new_stack, wiki):
    stack = new_stack(wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)))
    domain = stack.ready["tunnel_domain"]
    stack.stop()
    stack.arguments.append("--no-gateway")
    stack.start()
    session = mcp_session(stack, url=f"https://wiki.{domain}/mcp")
    session.send()
    session.finish()
    [error] = session.errors()
    assert error.type == "mcp_connection_failed_error" and "tunnel_offline" in error.message
    assert "postern gateway" in error.message


def test_revoking_the_token_ends_the_tunnel_within_a_second(new_stack, wiki):
    stack = new_stack(wiki_sections(wiki.ready["url"], secret_file(WIKI_TOKEN)))
    data = ["--data-dir", str(stack.data)]

    def connections() -> int:
        status = subprocess.run([BINARY, "tunnel", "status", "--json", *data], capture_output=True, text=True, check=True)
        return len(json.loads(status.stdout)["status"]["connections"])

    assert connections() >= 2
    started = time.monotonic()
    subprocess.run([BINARY, "tunnel", "revoke", stack.ready["tunnel_id"], *data], check=True, capture_output=True)
    until(lambda: connections() == 0, 3, "the end of every connection")
    assert time.monotonic() - started < 2.0
    session = mcp_session(stack)
    session.send()
    session.finish()
    assert "tunnel_offline" in session.errors()[0].message
    # Who reads the log, or filters it for secrets, is told that these are ids.
    records = [json.loads(line) for line in stack.log.read_text().splitlines() if line.startswith("{")]
    fields = {record["message"]: record["fields"] for record in records}
    revoked = fields["tunnel token revoked"]
    assert revoked["token_id"] and "token" not in revoked
    stood = [record["fields"]["owner"] for record in records if record["message"] == "a control stream stands"]
    assert {stack.ready["tunnel_id"], stack.environment_id} <= set(stood), stood
