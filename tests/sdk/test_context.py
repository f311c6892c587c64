"""A conversation that grows too long, by the official SDK: what the model is sent, and that the log stays whole."""

from __future__ import annotations

from anthropic import Anthropic

from conftest import Stack, script, until


def test_a_long_conversation_is_summarised_for_the_model_and_stays_whole_in_the_log(new_stack):
    # A stack of its own: the addition is in lists of whoever sets it, and other journeys check lists strictly.
    postern: Stack = new_stack(arguments=["--no-worker"])
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key)
    beta = client.beta
    agent = beta.agents.create(
        name="long", model="rehearsal-1", extra_body={"context": {"compact_above_tokens": 1000}})
    assert agent.to_dict()["context"] == {"compact_above_tokens": 1000}
    session = beta.sessions.create(agent=agent.id, environment_id=postern.environment_id)

    def events() -> list:
        return list(beta.sessions.events.list(session.id))

    def say(content: list[dict]) -> list:
        before = len(events())
        beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": content}])
        until(lambda: len(events()) > before and events()[-1].type == "session.status_idle", what="the end of the turn")
        return events()[before:]

    say([{"type": "text", "text": "the beginning " * 1000}])
    turn = say(script({"text": "after the summary"}))
    kinds = [event.type for event in turn]
    assert kinds.count("agent.thread_context_compacted") == 1
    assert kinds.count("span.model_request_start") == 2, "one for the summary, one for the step"
    assert kinds.index("agent.thread_context_compacted") < kinds.index("agent.message")
    shown = [event.to_json() for event in events()]
    assert any("the beginning" in event for event in shown), "the log keeps everything"
    assert not any("rehearsed summary" in event for event in shown), "the summary is for the model alone"
