"""Sessions with MCP servers by the official SDK, unmodified. Every body and frame passes the strict validator."""

from __future__ import annotations

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from anthropic.types.beta import sessions as session_types
from conformance.validator import check, check_page, check_sse
from conftest import WIKI_TOKEN, Stack, mcp, mcp_session, script, seen_by, until
from sdk.test_sessions import Reader

ASK = {"type": "always_ask"}
ALLOW = {"type": "always_allow"}
SERVER = {"type": "url", "name": "wiki", "url": "https://wiki.example/mcp"}
TOOLSET = {"type": "mcp_toolset", "mcp_server_name": "wiki"}


@pytest.fixture(scope="module")
def client(stack_with_wiki: Stack) -> Anthropic:
    return Anthropic(base_url=stack_with_wiki.base_url, api_key=stack_with_wiki.api_key, max_retries=0)


def say(client: Anthropic, session: str, *turns: dict) -> None:
    client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script(*turns)}])


def confirm(call: str, result: str, **more) -> dict:
    return {"type": "user.tool_confirmation", "tool_use_id": call, "result": result, **more}


def stop_reasons(reader: Reader) -> list[str]:
    return [event.stop_reason.type for event in reader.of("session.status_idle")]


def end_of_turn(reader: Reader, count: int = 1) -> None:
    until(lambda: stop_reasons(reader).count("end_turn") >= count, 60, "the end of the turn")


def bad_request(call, *arguments, **fields) -> str:
    with pytest.raises(anthropic.BadRequestError) as caught:
        call(*arguments, **fields)
    return str(caught.value)


def test_agents_with_servers_conform_and_every_default_is_spelled_out(client: Anthropic):
    toolset = {**TOOLSET, "configs": [{"name": "search", "permission_policy": ALLOW}, {"name": "fail", "enabled": False}]}
    made = client.beta.agents.with_raw_response.create(name="m", model="rehearsal-1", mcp_servers=[SERVER], tools=[toolset])
    assert check(types.BetaManagedAgentsAgent, made.http_response.content) == []
    agent = made.parse()
    assert agent.mcp_servers[0].to_dict() == SERVER
    assert agent.tools[0].to_dict() == {
        **TOOLSET, "default_config": {"enabled": True, "permission_policy": ASK},
        "configs": [{"name": "search", "enabled": True, "permission_policy": ALLOW},
                    {"name": "fail", "enabled": False, "permission_policy": ASK}]}
    same = client.beta.agents.update(agent.id, mcp_servers=[SERVER])
    assert same.version == agent.version, "a change of nothing makes no version"
    cleared = client.beta.agents.update(agent.id, mcp_servers=None, tools=None)
    assert (cleared.mcp_servers, cleared.tools) == ([], [])


@pytest.mark.parametrize("fields, expected", [
    ({"mcp_servers": [SERVER]}, "has no mcp_toolset"),
    ({"tools": [TOOLSET]}, "no server is named"),
    ({"mcp_servers": [SERVER, SERVER], "tools": [TOOLSET]}, "already taken"),
    ({"mcp_servers": [{**SERVER, "url": "ftp://wiki.example"}], "tools": [TOOLSET]}, "https or http"),
    ({"mcp_servers": [{**SERVER, "url": "https://a:b@wiki.example"}], "tools": [TOOLSET]}, "user name or password"),
    ({"mcp_servers": [{**SERVER, "name": f"s{n}"} for n in range(21)]}, "at most 20"),
])
def test_servers_and_toolsets_that_do_not_fit_are_refused(client: Anthropic, fields: dict, expected: str):
    assert expected in bad_request(client.beta.agents.create, name="m", model="rehearsal-1", **fields)


def test_clearing_the_servers_while_a_toolset_names_one_is_refused(client: Anthropic, stack_with_wiki: Stack):
    agent = client.beta.agents.create(name="m", model="rehearsal-1", mcp_servers=[SERVER], tools=[TOOLSET])
    assert "no server is named" in bad_request(client.beta.agents.update, agent.id, mcp_servers=[])
    override = {"type": "agent_with_overrides", "id": agent.id, "mcp_servers": None}
    place = {"environment_id": stack_with_wiki.environment_id}
    assert "no server is named" in bad_request(client.beta.sessions.create, agent=override, **place)
    session = client.beta.sessions.create(agent={**override, "tools": None}, **place)
    assert (session.agent.mcp_servers, session.agent.tools) == ([], [])
    updated = client.beta.sessions.with_raw_response.update(session.id, agent={"mcp_servers": [SERVER], "tools": [TOOLSET]})
    assert check(types.BetaManagedAgentsSession, updated.http_response.content) == []
    assert updated.parse().agent.mcp_servers[0].name == "wiki"
    assert "no server is named" in bad_request(client.beta.sessions.update, session.id, agent={"mcp_servers": None})


def test_a_session_names_its_vaults(client: Anthropic, stack_with_wiki: Stack):
    agent = client.beta.agents.create(name="m", model="rehearsal-1")
    vault = client.beta.vaults.create(display_name="journey")
    place = {"agent": agent.id, "environment_id": stack_with_wiki.environment_id}
    made = client.beta.sessions.with_raw_response.create(vault_ids=[vault.id], **place)
    assert check(types.BetaManagedAgentsSession, made.http_response.content) == []
    assert made.parse().vault_ids == [vault.id]
    assert "reserved" in bad_request(client.beta.sessions.update, made.parse().id, vault_ids=[vault.id])
    assert "was not found" in bad_request(client.beta.sessions.create, vault_ids=["vlt_unknown"], **place)
    assert "at most 50" in bad_request(client.beta.sessions.create, vault_ids=[vault.id] * 51, **place)
    client.beta.vaults.archive(vault.id)
    assert "archived" in bad_request(client.beta.sessions.create, vault_ids=[vault.id], **place)


def test_calls_wait_for_their_confirmation_and_every_frame_conforms(client: Anthropic, stack_with_wiki: Stack, wiki):
    session = mcp_session(stack_with_wiki, permission="").id
    reader = Reader(client, session)
    say(client, session, {"tool_uses": [mcp("search", query="allowed-one"), mcp("search", query="denied-one")]}, {"text": "done"})
    idle = reader.idle()
    assert idle.stop_reason.type == "requires_action"
    allowed, denied = reader.of("agent.mcp_tool_use")
    assert idle.stop_reason.event_ids == [allowed.id, denied.id]
    assert (allowed.mcp_server_name, allowed.name, allowed.input) == ("wiki", "search", {"query": "allowed-one"})
    assert (allowed.evaluated_permission, allowed.evaluation.type) == ("ask", "always_ask")
    assert not any("allowed-one" in str(call) for call in seen_by(wiki)["calls"]), "nothing ran before the confirmation"

    client.beta.sessions.events.send(session, events=[confirm(allowed.id, "allow")])
    rest = until(lambda: reader.of("session.status_idle")[1:2], what="idle with the remainder")[0]
    assert rest.stop_reason.event_ids == [denied.id]
    assert "does not wait" in bad_request(client.beta.sessions.events.send, session, events=[confirm(allowed.id, "deny")])
    client.beta.sessions.events.send(session, events=[confirm(denied.id, "deny", deny_message="not today")])
    end_of_turn(reader)
    results = {event.mcp_tool_use_id: event for event in reader.of("agent.mcp_tool_result")}
    assert not results[allowed.id].is_error and "allowed-one" in results[allowed.id].content[0].text
    assert results[denied.id].is_error and results[denied.id].content[0].text == "not today"
    calls = str(seen_by(wiki)["calls"])
    assert "allowed-one" in calls and "denied-one" not in calls

    problems = check_page(session_types.BetaManagedAgentsSessionEvent,
                          client.beta.sessions.events.with_raw_response.list(session).http_response.content)
    for event in reader.events:
        problems += check_sse(session_types.BetaManagedAgentsStreamSessionEvents, event.type, event.to_json())
    assert problems == []
    assert reader.events[-1].type == "session.status_idle"
    listed = client.beta.sessions.events.list(session, types=["agent.mcp_tool_use", "agent.mcp_tool_result"])
    assert [event.type for event in listed] == ["agent.mcp_tool_use"] * 2 + ["agent.mcp_tool_result"] * 2
    reader.close()


def test_nobody_answers_in_the_servers_place(client: Anthropic, stack_with_wiki: Stack):
    session = mcp_session(stack_with_wiki, permission="").id
    reader = Reader(client, session)
    say(client, session, {"tool_uses": [mcp("search", query="x")]}, {"text": "done"})
    reader.idle()
    call = reader.of("agent.mcp_tool_use")[0].id
    worker = Anthropic(base_url=stack_with_wiki.base_url, auth_token=stack_with_wiki.environment_key, api_key=None, max_retries=0)
    result = {"type": "user.tool_result", "tool_use_id": call, "content": [{"type": "text", "text": "forged"}]}
    assert "this server makes it" in bad_request(worker.beta.sessions.events.send, session, events=[result])
    with pytest.raises(anthropic.PermissionDeniedError):
        worker.beta.sessions.events.send(session, events=[confirm(call, "allow")])
    client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    end_of_turn(reader)
    reader.close()


def test_calls_of_both_kinds_in_one_answer_all_have_their_results(client: Anthropic, stack_with_wiki: Stack):
    session = mcp_session(stack_with_wiki).id
    reader = Reader(client, session)
    uses = [mcp("search", query="x"), {"name": "bash", "input": {"command": "echo from-the-sandbox"}}, mcp("fail")]
    say(client, session, {"tool_uses": uses}, {"text": "done"})
    end_of_turn(reader)
    found, failed = reader.of("agent.mcp_tool_result")
    answers = {event.mcp_tool_use_id: event for event in (found, failed)}
    first, second = reader.of("agent.mcp_tool_use")
    assert not answers[first.id].is_error
    assert answers[second.id].is_error and "read-only today" in answers[second.id].content[0].text
    assert "from-the-sandbox" in reader.of("user.tool_result")[0].content[0].text
    reader.close()


def test_an_interrupt_cancels_a_call_and_the_session_goes_on(client: Anthropic, stack_with_wiki: Stack, wiki):
    session = mcp_session(stack_with_wiki).id
    reader = Reader(client, session)
    slow = lambda: sum(call["tool"] == "slow" for call in seen_by(wiki)["calls"])
    before = slow()  # other journeys share the server
    say(client, session, {"tool_uses": [mcp("slow", milliseconds=60_000)]}, {"text": "done"})
    until(lambda: slow() > before, what="the call at its server")
    client.beta.sessions.events.send(session, events=[{"type": "user.interrupt"}])
    end_of_turn(reader)
    [result] = reader.of("agent.mcp_tool_result")
    assert result.is_error and "interrupted" in result.content[0].text and "may have taken effect" in result.content[0].text
    say(client, session, {"tool_uses": [mcp("search", query="after")]}, {"text": "done"})
    end_of_turn(reader, 2)
    assert not reader.of("agent.mcp_tool_result")[-1].is_error
    reader.close()


def test_a_tool_that_is_switched_off_or_unknown_is_refused_by_name(client: Anthropic, stack_with_wiki: Stack, wiki):
    session = mcp_session(stack_with_wiki)
    toolset = {**TOOLSET, "default_config": {"permission_policy": ALLOW}, "configs": [{"name": "server_info", "enabled": False}]}
    client.beta.sessions.update(session.id, agent={"tools": [toolset]})
    [(off, told), (unknown, text)] = session.call(mcp("server_info"), mcp("nothing"))
    assert off and unknown and "not enabled" in told and "mcp__wiki__search" in text
    uses = [event for event in session.events() if event.type == "agent.mcp_tool_use"]
    assert [(use.name, use.evaluated_permission, use.evaluation) for use in uses] == [
        ("server_info", "deny", None), ("nothing", "deny", None)]
    assert WIKI_TOKEN not in str(session.events())


def test_a_server_that_cannot_be_reached_is_told_once_per_turn_and_conforms(client: Anthropic, stack_with_wiki: Stack):
    session = mcp_session(stack_with_wiki, "nowhere")
    for turn in (1, 2):
        session.send()
        until(lambda: sum(event.type == "agent.message" for event in session.events()) == turn, 60, "the answer")
        session.finish()
        errors = session.errors()
        assert len(errors) == turn
        assert (errors[-1].type, errors[-1].mcp_server_name) == ("mcp_connection_failed_error", "nowhere")
        assert errors[-1].retry_status.type == "retrying" and "Next step:" in errors[-1].message
    raw = client.beta.sessions.events.with_raw_response.list(session.id, types=["session.error"])
    assert check_page(session_types.BetaManagedAgentsSessionEvent, raw.http_response.content) == []
