"""Files by the official SDK, unmodified: uploaded, given to a session, read and put out in its sandbox, downloaded. Every body passes the
strict validator."""

from __future__ import annotations

import base64
import hashlib
import json

import anthropic
import pytest
from anthropic import Anthropic
from anthropic.types import beta as types
from anthropic.types.beta import sessions as session_types
from conftest import Stack, ended, model_requests, script, tool, until
from conformance.validator import check, check_page

MA = ["managed-agents-2026-04-01"]


@pytest.fixture(scope="module")
def client(postern: Stack) -> Anthropic:
    return Anthropic(base_url=postern.base_url, api_key=postern.api_key, max_retries=0)


def conforming(kind, raw, checked=check):
    body = raw.http_response.content
    assert checked(kind, body) == [], body
    return raw.parse()


def answers(client: Anthropic, session: str) -> list[str]:
    events = client.beta.sessions.events.list(session)
    return [event.content[0].text for event in events if event.type == "user.tool_result"]


def records(postern: Stack) -> list[str]:
    files = sorted((postern.data / "perimeter/audit").glob("*.jsonl"))
    return [line for file in files for line in file.read_text().splitlines()]


def turn(step: dict) -> dict:
    return {"tool_uses": [step]} if "name" in step else step


def begin(client: Anthropic, postern: Stack, turns: list[dict], resources: list[dict]):
    agent = client.beta.agents.create(name="files", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    return client.beta.sessions.with_raw_response.create(
        agent=agent.id, environment_id=postern.environment_id, resources=resources,
        initial_events=[{"type": "user.message", "content": script(*map(turn, turns))}])


def test_a_file_is_uploaded_listed_kept_from_download_and_deleted(client: Anthropic):
    files = client.beta.files.with_raw_response
    made = conforming(types.BetaFileMetadata, files.upload(file=("dir/data.csv", b"a,b\n1,2\n", "text/csv")))
    assert (made.filename, made.mime_type, made.size_bytes, made.downloadable) == ("data.csv", "text/csv", 8, False)
    assert conforming(types.BetaFileMetadata, files.retrieve_metadata(made.id)) == made
    assert made.id in [file.id for file in conforming(types.BetaFileMetadata, files.list(), check_page)]
    with pytest.raises(anthropic.BadRequestError) as refused:
        client.beta.files.download(made.id)
    assert refused.value.body["error"]["details"]["error_code"] == "file_not_downloadable"
    assert conforming(types.BetaDeletedFile, files.delete(made.id)).id == made.id
    with pytest.raises(anthropic.NotFoundError):
        client.beta.files.retrieve_metadata(made.id)


def test_a_session_reads_what_it_was_given_and_its_user_gets_what_it_put_out_boundary(client: Anthropic, postern: Stack):
    secret = b"line one\nline two\n" * 100_000
    given = client.beta.files.upload(file=("given.txt", secret, "text/plain"))
    turns = [
        tool("bash", command=f"wc -c < /mnt/session/uploads/{given.id}; cat /mnt/session/uploads/in/deep.txt"),
        tool("read", file_path="/mnt/session/uploads/in/deep.txt"),
        tool("bash", command=f"echo x > /mnt/session/uploads/new; rm /mnt/session/uploads/{given.id}; echo still $?"),
        tool("bash", command="mkdir -p /mnt/session/outputs/a && printf 'the report' > /mnt/session/outputs/a/report.txt"),
        {"text": "done"},
    ]
    deep = client.beta.files.upload(file=("deep.txt", b"deep water\n", "text/plain"))
    raw = begin(client, postern, turns, [
        {"type": "file", "file_id": given.id},
        {"type": "file", "file_id": deep.id, "mount_path": "/mnt/session/uploads/in/deep.txt"},
    ])
    session = conforming(types.BetaManagedAgentsSession, raw)
    assert [resource.mount_path for resource in session.resources] == [
        f"/mnt/session/uploads/{given.id}", "/mnt/session/uploads/in/deep.txt"]
    # The uploads may go: the session has copies.
    client.beta.files.delete(given.id)
    client.beta.files.delete(deep.id)
    until(lambda: ended(client, session.id), 60, "the end of the session")
    size, text, kept, _ = answers(client, session.id)
    assert size.split("\n")[0].strip() == str(len(secret)) and "deep water" in size
    assert "deep water" in text
    assert "Read-only file system" in kept and "still 1" in kept

    listed = client.beta.files.with_raw_response.list(scope_id=session.id, betas=MA)
    found = {file.filename: file for file in conforming(types.BetaFileMetadata, listed, check_page)}
    assert set(found) == {"given.txt", "deep.txt", "report.txt"}
    report = found["report.txt"]
    assert report.downloadable and report.scope.id == session.id
    assert client.beta.files.download(report.id).read() == b"the report"
    # Each passage is on record with its digest; nothing passes before that.
    of_session = [record for record in records(postern) if f'"{session.id}"' in record]
    for kind, path, content in [
        ("file_put", "/mnt/session/uploads/in/deep.txt", b"deep water\n"),
        ("file_taken", "/mnt/session/outputs/a/report.txt", b"the report"),
    ]:
        digest = "sha256:" + hashlib.sha256(content).hexdigest()
        assert any(f'"{kind}"' in record and path in record and digest in record for record in of_session), (kind, of_session)


def test_what_is_given_later_is_there_at_the_next_tool_call_and_what_is_taken_away_is_gone(client: Anthropic, postern: Stack):
    resources = client.beta.sessions.resources.with_raw_response
    session = begin(client, postern, [tool("bash", command="ls /mnt/session/uploads"), {"text": "done"}], []).parse()
    until(lambda: ended(client, session.id), 60, "the end of the first turn")
    later = client.beta.files.upload(file=("later.txt", b"came later\n", "text/plain"))
    kind = session_types.BetaManagedAgentsFileResource
    added = conforming(kind, resources.add(session.id, type="file", file_id=later.id))
    assert conforming(kind, resources.retrieve(added.id, session_id=session.id)) == added
    assert [resource.id for resource in conforming(kind, resources.list(session.id), check_page)] == [added.id]

    def say(*turns: dict) -> str:
        before = len(answers(client, session.id))
        client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": script(*map(turn, turns))}])
        until(lambda: len(answers(client, session.id)) > before and ended(client, session.id), 60, "the end of a turn")
        return answers(client, session.id)[-1]

    path = f"/mnt/session/uploads/{later.id}"
    assert "came later" in say(tool("bash", command=f"cat {path}"), {"text": "done"})
    gone = conforming(session_types.BetaManagedAgentsDeleteSessionResource, resources.delete(added.id, session_id=session.id))
    assert gone.id == added.id
    assert "No such file" in say(tool("bash", command=f"cat {path}"), {"text": "done"})
    again = client.beta.sessions.resources.add(session.id, type="file", file_id=later.id)
    with pytest.raises(anthropic.BadRequestError):
        client.beta.sessions.resources.update(again.id, session_id=session.id, authorization_token="t")


PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    "1f15c4890000000d49444154789c63f8cfc0f01f0005000201a2d0a1050000000049454e44ae426082")


def test_a_picture_and_a_document_by_file_id_reach_the_model_until_they_are_deleted(
        client: Anthropic, postern: Stack, rehearsal: dict):
    picture = client.beta.files.upload(file=("pixel.png", PIXEL, "image/png"))
    notes = client.beta.files.upload(file=("notes.md", b"the ledger balances", "text/markdown"))
    content = [
        {"type": "image", "source": {"type": "file", "file_id": picture.id}},
        {"type": "document", "source": {"type": "file", "file_id": notes.id}, "title": "Notes", "context": "of today"},
    ]
    agent = client.beta.agents.create(name="reader", model="rehearsal-1")
    session = client.beta.sessions.create(agent=agent.id, environment_id=postern.environment_id)

    def say(blocks: list[dict]) -> dict:
        before = len(list(client.beta.sessions.events.list(session.id)))
        client.beta.sessions.events.send(session.id, events=[{"type": "user.message", "content": blocks}])
        events = lambda: list(client.beta.sessions.events.list(session.id))
        until(lambda: len(events()) > before and events()[-1].type == "session.status_idle", 60, "the end of the turn")
        return [body for body in model_requests(rehearsal) if marker in json.dumps(body)][-1]

    marker = f"marker {picture.id}"
    asked = say([*content, {"type": "text", "text": marker}])["messages"][0]["content"]
    assert asked[0]["source"] == {
        "type": "base64", "media_type": "image/png", "data": base64.b64encode(PIXEL).decode()}
    assert asked[1]["source"] == {"type": "text", "media_type": "text/plain", "data": "the ledger balances"}
    assert (asked[1]["title"], asked[1]["context"]) == ("Notes", "of today")
    listed = client.beta.sessions.events.with_raw_response.list(session.id)
    echo = conforming(session_types.BetaManagedAgentsSessionEvent, listed, check_page).data[0]
    assert [block.source.file_id for block in echo.content[:2]] == [picture.id, notes.id]
    client.beta.files.delete(picture.id)
    asked = say([{"type": "text", "text": "and now?"}])["messages"][0]["content"]
    assert "deleted or has expired" in asked[0]["text"] and asked[1]["source"]["data"] == "the ledger balances"
    with pytest.raises(anthropic.NotFoundError) as refused:
        say(content)
    assert refused.value.body["error"]["details"]["error_code"] == "file_not_found"


def test_a_session_whose_file_went_away_says_so(client: Anthropic, postern: Stack):
    given = client.beta.files.upload(file=("given.txt", b"x", "text/plain"))
    agent = client.beta.agents.create(name="files", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    session = client.beta.sessions.create(
        agent=agent.id, environment_id=postern.environment_id, resources=[{"type": "file", "file_id": given.id}])
    client.beta.files.delete(session.resources[0].file_id)
    client.beta.sessions.events.send(
        session.id, events=[{"type": "user.message", "content": script(turn(tool("bash", command="true")), {"text": "done"})}])
    errors = lambda: [event for event in client.beta.sessions.events.list(session.id) if event.type == "session.error"]
    until(errors, 60, "an error")
    assert "could not fetch" in errors()[0].error.message and "Next step" in errors()[0].error.message
