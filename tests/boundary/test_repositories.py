"""Repositories as resources of sessions: cloned inside the sandbox before its first tool call, with a token that is nowhere in it."""

from __future__ import annotations

import base64
import sqlite3
import subprocess
from typing import Iterator

import pytest
from conftest import BINARY, WAYS, Stack, ended, script, tool, until
from git_server import GitServer
from vaults import Journey, worker

HOST, SILENT_HOST, UNNAMED_HOST = "git.internal.example", "mirror.internal.example", "elsewhere.internal.example"
PLAIN_HOST, PLAIN_SILENT_HOST = "forge.internal.example", "plain.internal.example"
USER = "x-access-token"
TOKEN = "journey-repository-token-8c2f60b1d94e7a35"
ROTATED = "journey-rotated-token-1b7d93e05fa264c8-longer"
LEDGER, PAYROLL = f"https://{HOST}/team/ledger.git", f"https://{HOST}/team/payroll.git"
WHO = "-c user.name=agent -c user.email=agent@example.invalid"


@pytest.fixture(scope="module")
def git_server() -> Iterator[GitServer]:
    server = GitServer(HOST, TOKEN, USER)
    for name in ("ledger", "payroll"):
        server.repository(f"team/{name}.git", {"README": f"the {name}\n"})
    server.repository("public/handbook.git", {"README": "the handbook\n"})
    yield server
    server.close()


@pytest.fixture(scope="module")
def plain_server() -> Iterator[GitServer]:
    """One on this machine that speaks no TLS, on its own port."""
    server = GitServer(PLAIN_HOST, TOKEN, USER, tls=False)
    server.repository("team/ledger.git", {"README": "the plain ledger\n"})
    server.repository("public/handbook.git", {"README": "the plain handbook\n"})
    yield server
    server.close()


@pytest.fixture()
def known(git_server: GitServer) -> GitServer:
    """The server as it is at first."""
    git_server.token = TOKEN
    return git_server


def zone(server: GitServer, plain: GitServer | None = None) -> str:
    in_the_clear = "" if plain is None else "".join(f"""
[[zone.code.egress]]
host = "{host}"
scheme = "http"
ports = [3000]
methods = ["GET", "POST"]
connect = "{plain.address}"
addresses = ["127.0.0.0/8"]
{taken}
""" for host, taken in ((PLAIN_HOST, "repositories = true"), (PLAIN_SILENT_HOST, "")))
    rule = f"""
methods = ["GET", "POST"]
connect = "{server.address}"
addresses = ["127.0.0.0/8"]
ca_file = "{server.ca_file}"
"""
    return f"""
[zone.code]
environment = "default"
[[zone.code.egress]]
host = "{HOST}"
repositories = true
{rule}
[[zone.code.egress]]
host = "{SILENT_HOST}"
{rule}
{in_the_clear}
"""


@pytest.fixture(scope="module")
def stack(new_stack, git_server: GitServer, plain_server: GitServer) -> Stack:
    return new_stack(zone(git_server, plain_server))


def repository(url: str = LEDGER, token: str | None = TOKEN, **more) -> dict:
    return {"type": "github_repository", "url": url} | ({"authorization_token": token} if token else {}) | more


def given(stack: Stack, *resources: dict) -> Journey:
    return Journey(stack, resources=list(resources))


def assert_nowhere(stack: Stack, *secrets: str) -> None:
    """None of the values is in any file of the stack, in the clear or as Basic."""
    renderings = [form for secret in secrets for form in (secret.encode(), base64.b64encode(f"{USER}:{secret}".encode()))]
    for path in [stack.log, *stack.data.rglob("*")]:
        if path.is_file():
            content = path.read_bytes()
            assert not any(form in content for form in renderings), path


def test_boundary_a_private_repository_is_there_before_the_first_call_and_takes_a_push(stack: Stack, known: GitServer):
    journey = given(stack, repository())
    [read, pushed, environ, found] = journey.bash(
        "cat ledger/README; git -C ledger status --short --branch; git -C ledger config --list --local",
        f"cd /workspace/ledger && git checkout -q -b from-the-agent && echo more >> README && git add . && "
        f"git {WHO} commit -qm from-the-sandbox && git push origin from-the-agent 2>&1; git fetch origin 2>&1; echo fetched $?",
        "env; cat /proc/*/environ /proc/*/cmdline 2>/dev/null | tr '\\0' '\\n'",
        f"grep -rlE '{TOKEN[:16]}|{base64.b64encode(f'{USER}:{TOKEN}'.encode()).decode()[24:48]}' /workspace /tmp /etc /mnt 2>/dev/null; echo searched")
    assert "the ledger" in read and "## main...origin/main" in read, read
    assert "from-the-agent -> from-the-agent" in pushed and "fetched 0" in pushed, pushed
    log = known.git("log", "--format=%an %s", "from-the-agent", at=known.root / "team/ledger.git")
    assert log.splitlines()[0] == "agent from-the-sandbox"
    basic = base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
    assert any(basic in asked for asked in known.asked), "the server got the token"
    assert "GIT_CONFIG_COUNT=1" in environ, environ
    for text in (read, pushed, environ):
        assert TOKEN not in text and basic not in text
    assert found.strip() == "searched", found
    transcript = "".join(event.model_dump_json() for event in journey.events())
    shown = journey.client.beta.sessions.retrieve(journey.id).model_dump_json()
    assert TOKEN not in transcript + shown
    assert_nowhere(stack, TOKEN)
    assert journey.errors() == []
    uses = [record for record in journey.records() if record["kind"] == "credential_use"]
    resource = journey.client.beta.sessions.retrieve(journey.id).resources[0].id
    assert uses and {record["credential"] for record in uses} == {f"repository:{resource}"}


@WAYS
def test_boundary_a_token_goes_to_its_own_repository_and_to_no_other_url(stack: Stack, known: GitServer, way: str):
    journey = given(stack, repository())
    before = len(known.asked)
    header = 'HEADER=$(git config --get-urlmatch http.extraHeader ' + LEDGER + ')'
    ask = lambda url: f"{header}; {way}curl -sS -m 20 -o - -w ' %{{http_code}}' -H \"$HEADER\" '{url}'"
    [other, path, silent, unnamed, deeper, clone] = journey.bash(
        ask(f"{PAYROLL}/info/refs?service=git-upload-pack"), ask(f"{LEDGER}/objects/info/packs"),
        ask(f"https://{SILENT_HOST}/team/ledger.git/info/refs"), ask(f"https://{UNNAMED_HOST}/team/ledger.git/info/refs"),
        ask(f"{LEDGER}.evil/info/refs"), f"{way}git clone {PAYROLL} other 2>&1; echo status $?")
    for text in (other, path, deeper):
        assert "path_not_allowed" in text and LEDGER in text and text.rstrip().endswith("403"), text
    for text in (silent, unnamed):
        assert "placeholder_wrong_host" in text, text
    assert "status 128" in clone, "git sends the token for its own URL alone"
    sent = [asked for asked in known.asked[before:] if "payroll" in asked or "evil" in asked or "packs" in asked]
    assert all("Basic" not in asked for asked in sent), sent
    alarms = [record for record in journey.records() if record.get("reason") in ("path_not_allowed", "placeholder_wrong_host")]
    assert alarms, "on record"


def test_boundary_a_token_of_one_session_is_a_tripwire_in_another(stack: Stack, known: GitServer):
    one, other = given(stack, repository()), given(stack, repository(PAYROLL))
    [header] = one.bash(f"git config --get-urlmatch http.extraHeader {LEDGER}")
    [refused] = other.bash(f"curl -sS -m 20 -H '{header.strip()}' {LEDGER}/info/refs")
    assert "placeholder_wrong_session" in refused, refused


def test_boundary_a_branch_and_a_commit_are_checked_out(stack: Stack, known: GitServer):
    bare = known.root / "team/ledger.git"
    first = known.git("rev-parse", "main", at=bare).strip()
    known.git("branch", "--force", "release/1", "main", at=bare)
    journey = given(stack,
                    repository(checkout={"type": "branch", "name": "release/1"}, mount_path="/workspace/src/on a branch"),
                    repository(checkout={"type": "commit", "sha": first}, mount_path="/workspace/at-a-commit"))
    [branch, commit] = journey.bash(
        "cd 'src/on a branch' && git status --short --branch && cat README",
        "cd /workspace/at-a-commit && git rev-parse HEAD && git status --short && git branch --show-current && cat README")
    assert branch.splitlines()[0] == "## release/1...origin/release/1" and "the ledger" in branch, branch
    assert commit.splitlines()[:2] == [first, "the ledger"], commit


def test_boundary_submodules_and_large_files_are_not_fetched(stack: Stack, known: GitServer, tmp_path):
    bare, work = known.root / "team/ledger.git", tmp_path / "work"
    known.git("clone", "--quiet", "--branch", "main", str(bare), str(work), at=tmp_path)
    (work / ".gitmodules").write_text(f'[submodule "payroll"]\n\tpath = payroll\n\turl = {PAYROLL}\n')
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 5\n"
    (work / "large").write_text(pointer)
    (work / ".gitattributes").write_text("large filter=lfs diff=lfs merge=lfs -text\n")
    of_payroll = known.git("rev-parse", "main", at=known.root / "team/payroll.git").strip()
    known.git("update-index", "--add", "--cacheinfo", f"160000,{of_payroll},payroll", at=work)
    known.git("add", ".gitmodules", ".gitattributes", "large", at=work)
    known.git(*WHO.split(), "commit", "--quiet", "-m", "with others", at=work)
    known.git("push", "--quiet", "origin", "HEAD:refs/heads/with-others", at=work)
    journey = given(stack, repository(checkout={"type": "branch", "name": "with-others"}))
    before = len(known.asked)
    [states, large] = journey.bash("git -C ledger submodule status; ls -A ledger/payroll", "cat ledger/large")
    assert states.startswith("-" + of_payroll) and len(states.splitlines()) == 1, states
    assert large.strip() == pointer.strip(), large
    assert journey.errors() == []
    assert not [asked for asked in known.asked[before:] if "payroll" in asked or "lfs" in asked]


def test_boundary_a_public_repository_needs_no_token(stack: Stack, known: GitServer):
    journey = given(stack, repository(f"https://{HOST}/public/handbook.git", token=None))
    [read] = journey.bash("cat handbook/README; env | grep -c GIT_CONFIG")
    assert read.split("\n")[0] == "the handbook" and "0" in read, read


@pytest.mark.parametrize("written", [
    f"git@{HOST}:team/ledger.git", f"{HOST}:/team/ledger.git/", f"ssh://git@{HOST}/team/ledger.git", f"ssh://git@{HOST}:22/team/ledger.git",
    f"git://{HOST}/team/ledger.git"])
def test_boundary_a_repository_whose_url_is_written_for_ssh_or_git_is_cloned_by_https_with_its_token(stack: Stack, known: GitServer, written: str):
    journey = given(stack, repository(written))
    [read] = journey.bash("cat ledger/README; git -C ledger remote get-url origin; git -C ledger fetch 2>&1; echo fetched $?")
    assert read.split("\n")[:3] == ["the ledger", LEDGER, "fetched 0"], read
    assert journey.client.beta.sessions.retrieve(journey.id).resources[0].url == LEDGER
    assert journey.errors() == []


def test_boundary_a_repository_is_cloned_in_the_clear_with_its_token_where_the_rule_names_this_machine_alone(stack: Stack, plain_server: GitServer):
    journey = given(stack, repository(f"http://{PLAIN_HOST}:3000/team/ledger.git"))
    [read, environ] = journey.bash("cat ledger/README; git -C ledger fetch 2>&1; echo fetched $?", "env")
    assert read.split("\n")[:2] == ["the plain ledger", "fetched 0"], read
    basic = base64.b64encode(f"{USER}:{TOKEN}".encode()).decode()
    assert any(basic in asked for asked in plain_server.asked), "the server got the token"
    assert TOKEN not in read + environ and basic not in environ
    assert journey.errors() == []


def test_boundary_in_the_clear_no_token_goes_where_the_rule_takes_none_and_what_is_public_is_cloned(stack: Stack, plain_server: GitServer):
    asked = len(plain_server.asked)
    journey = given(stack, repository(f"http://{PLAIN_SILENT_HOST}:3000/team/ledger.git"),
                    repository(f"http://{PLAIN_SILENT_HOST}:3000/public/handbook.git", token=None))
    [read] = journey.bash("cat handbook/README; ls ledger 2>&1")
    assert read.startswith("the plain handbook") and "No such file" in read, read
    [error] = until(journey.errors, 30, "the session is told")
    assert error.type == "repository_forbidden_error", error
    assert "repositories = true" in error.message and "scheme http, port 3000" in error.message, error.message
    assert all(given.endswith(" ") for given in plain_server.asked[asked:]), "nobody said who they are"


def test_boundary_a_rotated_token_counts_from_the_next_request_on(stack: Stack, known: GitServer):
    journey = given(stack, repository())
    [before] = journey.bash("cd ledger && git fetch 2>&1; echo fetched $?; env | grep GIT_CONFIG_VALUE_0")
    resource = journey.client.beta.sessions.retrieve(journey.id).resources[0]
    marker = stack.data / "perimeter/work" / journey.id / "workspace/go"
    loop = ("cd /workspace/ledger; for i in $(seq 600); do test -e ../go && break; sleep 0.1; done; "
            "for i in $(seq 100); do git fetch -q 2>/dev/null && break; sleep 0.1; done; git fetch 2>&1; echo fetched $?")
    content = script({"tool_uses": [tool("bash", command=loop)]}, {"text": "done"})
    journey.client.beta.sessions.events.send(journey.id, events=[{"type": "user.message", "content": content}])
    until(lambda: len(journey.uses()) == 2, 30, "the call to begin")
    known.token = ROTATED
    rotated = journey.client.beta.sessions.resources.update(resource.id, session_id=journey.id, authorization_token=ROTATED)
    assert rotated.id == resource.id and rotated.updated_at > resource.updated_at
    marker.write_text("")
    until(lambda: ended(journey.client, journey.id), 90, "the end of the turn")
    output = [event.content[0].text for event in journey.events() if event.type == "user.tool_result"][-1]
    assert "fetched 0" in before and output.rstrip().endswith("fetched 0"), output
    assert any(base64.b64encode(f"{USER}:{ROTATED}".encode()).decode() in asked for asked in known.asked)
    assert_nowhere(stack, TOKEN, ROTATED)


def test_boundary_a_removed_repository_s_token_is_taken_away_and_its_files_stay(stack: Stack, known: GitServer):
    journey = given(stack, repository())
    journey.bash("ls ledger")
    resource = journey.client.beta.sessions.retrieve(journey.id).resources[0].id
    journey.client.beta.sessions.resources.delete(resource, session_id=journey.id)
    # Told over the control stream, beside the answer.
    [after] = journey.bash("cat ledger/README; cd ledger; for i in $(seq 200); do git fetch >said 2>&1 || break; sleep 0.05; done; cat said; git fetch; echo fetched $?")
    assert "the ledger" in after and "custody_denied" in after and "fetched 0" not in after, after


def failure(journey: Journey) -> tuple[str, str]:
    """The one error that the session was told, after it went on without."""
    [output] = journey.bash("echo went on")
    assert "went on" in output and "[postern]" in output, output
    error = until(journey.errors, 30, "the session is told")[0].model_dump()
    assert len(journey.errors()) == 1 and error["retry_status"]["type"] == "retrying"
    assert error["repository_url"] in output
    return error["type"], error["message"]


@pytest.mark.parametrize("resource, kind, words", [
    (repository(token="another-token-that-nobody-knows-0f1e"), "repository_authentication_error", "does not know the token"),
    (repository(token=None), "repository_authentication_error", "wants one"),
    (repository(f"https://{HOST}/team/none.git"), "repository_not_found_error", "no such repository"),
    (repository(checkout={"type": "branch", "name": "none"}), "repository_checkout_error", "checkout"),
    (repository(checkout={"type": "commit", "sha": "0" * 40}), "repository_checkout_error", "checkout"),
    (repository(f"https://{SILENT_HOST}/team/ledger.git"), "repository_forbidden_error", "repositories = true"),
    (repository(f"https://{UNNAMED_HOST}/team/ledger.git"), "repository_forbidden_error", "repositories = true"),
    (repository(f"https://{UNNAMED_HOST}/team/ledger.git", token=None), "repository_forbidden_error", "egress rule"),
], ids=["wrong token", "no token", "no repository", "no branch", "no commit", "host takes none", "host unnamed", "public host unnamed"])
def test_boundary_what_cannot_be_brought_is_a_typed_error_and_the_session_goes_on(stack: Stack, known: GitServer, resource, kind, words):
    found, message = failure(given(stack, resource))
    assert found == kind and words in message and "Next step" in message, message


def test_boundary_a_redirect_to_another_path_takes_the_token_nowhere(stack: Stack, known: GitServer):
    known.moved = {"/team/moved.git/": "/team/payroll.git/"}
    try:
        before = len(known.asked)
        found, message = failure(given(stack, repository(f"https://{HOST}/team/moved.git")))
    finally:
        known.moved = {}
    assert found == "repository_forbidden_error" and "path_not_allowed" in message, (found, message)
    asked = known.asked[before:]
    assert any("/team/moved.git/" in one and "Basic" in one for one in asked), asked
    assert not any("payroll" in one and "Basic" in one for one in asked), asked


def test_boundary_what_the_agent_changed_is_not_cloned_over_after_a_restart(new_stack, known: GitServer):
    stack = new_stack(zone(known))
    journey = given(stack, repository())
    journey.bash("cd ledger && echo mine > README && echo new > added")
    assert stack.stop() == 0
    stack.start()
    journey.client = type(journey.client)(base_url=stack.base_url, api_key=stack.api_key)
    [after, removed] = journey.bash("cat ledger/README ledger/added; cd ledger && git fetch 2>&1; echo fetched $?", "rm -rf /workspace/ledger; ls /workspace")
    assert after.splitlines()[:2] == ["mine", "new"] and "fetched 0" in after, after
    [gone] = journey.bash("ls /workspace")
    assert "ledger" not in gone, "what the agent removed does not come back"


def test_boundary_a_row_that_was_moved_or_edited_opens_nowhere(stack: Stack, known: GitServer):
    for change in ("update repository_tokens set url = ? where session_id = ?", "update repository_tokens set host = ? where session_id = ?"):
        journey = given(stack, repository())
        value = PAYROLL if "url" in change else SILENT_HOST
        with sqlite3.connect(stack.data / "control/postern.sqlite", timeout=10) as database:
            database.execute(change, (value, journey.id))
        kind, message = failure(journey)
        assert kind == "repository_forbidden_error" and "was changed or moved" in message, message
        assert any(record["kind"] == "alarm" and record["reason"] == "credential_unopenable" for record in journey.records())


def begun(stack: Stack, *resources: dict) -> tuple[Journey, str]:
    """The session of a deployment's run, and the deployment."""
    journey = Journey(stack)
    agent = journey.client.beta.agents.create(name="journey", model="rehearsal-1", tools=[{"type": "agent_toolset_20260401"}])
    made = journey.client.beta.deployments.create(
        agent=agent.id, environment_id=stack.environment_id, name="journey", resources=list(resources),
        initial_events=[{"type": "user.message", "content": script({"text": "done"})}])
    assert TOKEN not in made.model_dump_json()
    return run_of(journey, made.id), made.id


def run_of(journey: Journey, deployment: str) -> Journey:
    """The session of another run."""
    another = Journey.__new__(Journey)
    another.stack, another.client = journey.stack, journey.client
    another.id = journey.client.beta.deployments.run(deployment).session_id
    until(lambda: ended(another.client, another.id), 30, "the run's first turn")
    return another


def test_boundary_a_deployment_s_runs_clone_and_push_with_its_token_and_a_moved_row_opens_nowhere(stack: Stack, known: GitServer):
    journey, deployment = begun(stack, repository())
    for run in (journey, run_of(journey, deployment)):
        [read, pushed] = run.bash(
            "cat ledger/README", f"cd /workspace/ledger && git checkout -q -b {run.id} && echo more >> README && git add . && "
            f"git {WHO} commit -qm from-a-run && git push origin {run.id} 2>&1")
        assert "the ledger" in read and f"{run.id} -> {run.id}" in pushed, read + pushed
        resource = run.client.beta.sessions.retrieve(run.id).resources[0].id
        uses = [record for record in run.records() if record["kind"] == "credential_use"]
        assert uses and {record["credential"] for record in uses} == {f"repository:{resource}"}
        assert {record["outcome"].rsplit(" ", 1)[0] for record in uses} == {"the token of deployment resource"}
    assert_nowhere(stack, TOKEN)
    # A session that no run began, and to which the database says that it has the token; then a token whose row is another deployment's.
    stranger, (other, foreign) = given(stack, repository(PAYROLL)), begun(stack, repository(PAYROLL))
    with sqlite3.connect(stack.data / "control/postern.sqlite", timeout=10) as database:
        [(token, run)] = database.execute("select deployment_token_id, run_id from repository_tokens where session_id = ?", (journey.id,))
        database.execute("update repository_tokens set sealed = null, deployment_token_id = ?, run_id = ? where session_id = ?", (token, run, stranger.id))
        [(sealed,)] = database.execute("select sealed from deployment_tokens where deployment_id = ?", (deployment,))
        database.execute("update deployment_tokens set sealed = ? where deployment_id = ?", (sealed, foreign))
    for moved, words in ((stranger, "another session"), (run_of(other, foreign), "was changed or moved")):
        kind, message = failure(moved)
        assert kind == "repository_forbidden_error" and words in message, message


def test_boundary_a_deployment_s_other_token_counts_in_a_run_and_archiving_takes_it_away(stack: Stack, known: GitServer):
    journey, deployment = begun(stack, repository())
    [before] = journey.bash("cd ledger && git fetch 2>&1; echo fetched $?")
    known.token = ROTATED
    journey.client.beta.deployments.update(deployment, resources=[repository(token=ROTATED)])
    # Told over the control stream, beside the answer.
    [after] = journey.bash("cd ledger; for i in $(seq 200); do git fetch -q 2>/dev/null && break; sleep 0.05; done; git fetch 2>&1; echo fetched $?")
    assert "fetched 0" in before and after.rstrip().endswith("fetched 0"), after
    journey.client.beta.deployments.archive(deployment)
    [gone] = journey.bash("cd ledger; for i in $(seq 200); do git fetch >said 2>&1 || break; sleep 0.05; done; cat said; git fetch; echo fetched $?")
    assert "custody_denied" in gone and "fetched 0" not in gone, gone
    assert_nowhere(stack, TOKEN, ROTATED)


def test_boundary_a_second_perimeter_clones_with_a_token_that_was_sealed_before_it_came(new_stack, known: GitServer, tmp_path):
    stack = new_stack(zone(known))
    journey = given(stack, repository())
    second = Stack(tmp_path, "")

    def postern(*arguments: str, data: Stack = stack) -> str:
        return subprocess.run([BINARY, *arguments, "--data-dir", str(data.data)], capture_output=True, text=True, check=True).stdout

    key = postern("perimeter", "key", data=second).strip()
    later = postern("perimeter", "register", "--name", "second", "--public-key", key, "--environment", stack.environment_id).split()[0]
    postern("perimeter", "approve", key)
    assert postern("perimeter", "rewrap", later).startswith("1 values open there now; 0 ")
    assert_nowhere(stack, TOKEN)

    # From here on the second perimeter alone serves the environment.
    assert stack.stop() == 0
    stack.arguments = ["--no-worker"]
    stack.start()
    journey.client = type(journey.client)(base_url=stack.base_url, api_key=stack.api_key)
    with worker(stack, second, zone(known)) as log:
        [read] = journey.bash("cat ledger/README; cd ledger && git fetch 2>&1; echo fetched $?")
        assert "the ledger" in read and "fetched 0" in read, read + log.read_text()[-2000:]
    assert_nowhere(second, TOKEN)
    assert journey.errors() == []


def test_boundary_the_zone_s_answer_about_a_repository_can_be_asked_for(stack: Stack):
    for host, taken in ((HOST, True), (SILENT_HOST, False), (UNNAMED_HOST, False)):
        asked = [BINARY, "zone", "explain", "--json", "--config", "postern.toml", "--repository", f"https://{host}/team/ledger.git"]
        shown = subprocess.run(asked, cwd=stack.directory, capture_output=True, text=True)
        assert (shown.returncode == 0) == taken, shown.stdout + shown.stderr
        assert taken or "repositories = true" in shown.stdout, shown.stdout
