"""Outcomes by the official SDK: defined at creation, graded, revised, and strict in shape."""

from __future__ import annotations

import json

from anthropic import Anthropic
from anthropic.types import beta as types
from conformance.validator import check, check_page

from conftest import Stack, script, until


def grade(result: str) -> str:
    return json.dumps({"result": result, "explanation": "as rehearsed"})


def test_a_rubric_from_a_file_is_shown_as_its_text(postern: Stack):
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key)
    agent = client.beta.agents.create(name="rubrics", model="rehearsal-1")
    uploaded = client.beta.files.upload(file=("rubric.md", b"it runs", "text/markdown"))
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id, initial_events=[
        {"type": "user.define_outcome", "description": "a program", "rubric": {"type": "file", "file_id": uploaded.id}}])
    raw = client.beta.sessions.events.with_raw_response.list(session.id, types=["user.define_outcome"])
    assert check_page(types.sessions.BetaManagedAgentsSessionEvent, raw.http_response.content) == []
    [defined] = raw.parse().data
    assert (defined.rubric.type, defined.rubric.content) == ("text", "it runs")


def test_an_outcome_is_worked_at_until_the_grader_finds_that_it_holds(postern: Stack):
    client = Anthropic(base_url=postern.base_url, api_key=postern.api_key)
    agent = client.beta.agents.create(name="outcomes", model="rehearsal-1")
    turns = script({"text": "a try", "grade": grade("needs_revision")}, {"text": "better", "grade": grade("satisfied")})
    session = client.beta.sessions.create(
        agent=agent.id,
        environment_id=postern.environment_id,
        initial_events=[
            {"type": "user.message", "content": turns},
            {"type": "user.define_outcome", "description": "a program", "rubric": {"type": "text", "content": "it runs"}},
        ],
    )

    def ended() -> list:
        events = list(client.beta.sessions.events.list(session.id))
        return events if events[-1].type == "session.status_idle" else []

    events = until(ended, what="the end of the work")
    defined = next(event for event in events if event.type == "user.define_outcome")
    assert defined.outcome_id.startswith("outc_") and defined.processed_at
    ends = [event for event in events if event.type == "span.outcome_evaluation_end"]
    assert [(event.iteration, event.result) for event in ends] == [(0, "needs_revision"), (1, "satisfied")]
    starts = [event.id for event in events if event.type == "span.outcome_evaluation_start"]
    assert [event.outcome_evaluation_start_id for event in ends] == starts
    raw = client.beta.sessions.with_raw_response.retrieve(session.id)
    assert check(types.BetaManagedAgentsSession, raw.http_response.content) == []
    shown = raw.parse().outcome_evaluations
    assert [(entry.outcome_id, entry.result, entry.explanation) for entry in shown] == [
        (defined.outcome_id, "satisfied", "as rehearsed")]
