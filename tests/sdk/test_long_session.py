"""A session of hundreds of turns: what one commit changes in the database is more than a statement keeps in its cache, and the confined server has no
temporary files."""

from __future__ import annotations

from anthropic import Anthropic
from conftest import Stack, script

TURNS = 400


def test_every_turn_of_a_long_session_is_stored_whole(new_stack):
    stack: Stack = new_stack()
    client = Anthropic(base_url=stack.base_url, api_key=stack.api_key)
    agent = client.beta.agents.create(name="long", model="rehearsal-1").id
    session = client.beta.sessions.create(agent=agent, environment_id=stack.environment_id).id
    with client.beta.sessions.events.stream(session) as stream:
        for number in range(TURNS):
            client.beta.sessions.events.send(session, events=[{"type": "user.message", "content": script({"text": f"answer {number}"})}])
            for event in stream:
                if event.type == "session.status_idle":
                    break
    answers = [event.content[0].text for event in client.beta.sessions.events.list(session, types=["agent.message"], limit=1000)]
    assert answers == [f"answer {number}" for number in range(TURNS)]
    assert '"level":"ERROR"' not in stack.log.read_text()
