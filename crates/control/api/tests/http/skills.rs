//! Skills: uploaded, versioned, given to agents and sessions, fetched by those sessions' workers and by nobody else's.

use std::time::Duration;

use postern_api::Limits;
use postern_model::ids::{SessionId, SkillId, SkillVersionId};
use postern_model::skill::AgentSkill;
use postern_store::blobs::Quota;
use serde_json::{Value, json};

use crate::files::upload;
use crate::support::{Request, Server, issue_foreign_key, short};
use crate::work::polled;

pub(crate) fn form(request: Request, name: &str, extra: &[(&str, Option<&str>, &[u8])]) -> Request {
    let text = format!("---\nname: {name}\ndescription: Does {name}.\n---\nRead.\n");
    let mut parts: Vec<(&str, Option<&str>, &[u8])> = vec![("files[]", Some("top/SKILL.md"), text.as_bytes())];
    parts.extend_from_slice(extra);
    upload(request, &parts)
}

pub(crate) async fn made(server: &Server, name: &str) -> Value {
    server.send(form(server.request("POST", "/v1/skills"), name, &[])).await.ok()
}

/// Gives a session that is there already a version.
pub(crate) async fn give(server: &Server, session: &str, skill: &Value) {
    let given = AgentSkill::Custom {
        skill_id: SkillId::parse(id(skill)).unwrap(),
        version: SkillVersionId::parse(skill["latest_version_id"].as_str().unwrap()).unwrap(),
    };
    let mut tx = server.store.write().await.unwrap();
    postern_store::skills::attach(&mut tx, &SessionId::parse(session).unwrap(), &[&given]).await.unwrap();
    tx.commit().await.unwrap();
}

fn id(object: &Value) -> &str {
    object["id"].as_str().unwrap()
}

fn code(answer: &crate::support::Response) -> &str {
    answer.body["error"]["details"]["error_code"].as_str().unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_skill_gets_versions_and_latest_is_the_newest() {
    let server = Server::start().await;
    let label: (&str, Option<&str>, &[u8]) = ("display_name", None, b"PDF forms");
    let skill = server.send(form(server.request("POST", "/v1/skills"), "pdf", &[label])).await.ok();
    let mut keys: Vec<&String> = skill.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["created_at", "display_name", "id", "latest_version_id", "source", "type", "updated_at"]);
    assert_eq!((&skill["display_name"], &skill["source"]), (&json!("PDF forms"), &json!({"type": "custom"})));
    let path = format!("/v1/skills/{}", id(&skill));
    assert_eq!(server.get(&path).await.ok(), skill);
    let first = server.get(&format!("{path}/versions/latest")).await.ok();
    assert_eq!(first["id"], skill["latest_version_id"]);
    assert_eq!(
        (&first["name"], &first["description"], &first["skill_id"]),
        (&json!("pdf"), &json!("Does pdf."), &skill["id"])
    );

    let second = server.send(form(server.request("POST", &format!("{path}/versions")), "pdf", &[])).await.ok();
    assert_eq!(server.get(&path).await.ok()["latest_version_id"], second["id"]);
    assert_eq!(server.get(&format!("{path}/versions/latest")).await.ok(), second);
    assert_eq!(server.get(&format!("{path}/versions")).await.ok()["data"], json!([second, first]));
    let page = server.get(&format!("{path}/versions?limit=1")).await.ok();
    let next = format!("{path}/versions?limit=1&page={}", page["next_page"].as_str().unwrap());
    assert_eq!(server.get(&next).await.ok(), json!({"data": [first], "next_page": null}));

    let other = made(&server, "ledger").await;
    assert_eq!(other["display_name"], "ledger");
    let ids =
        |page: Value| -> Vec<String> { page["data"].as_array().unwrap().iter().map(|s| id(s).to_owned()).collect() };
    assert_eq!(ids(server.get("/v1/skills").await.ok()), [id(&other), id(&skill)]);
    assert_eq!(ids(server.get("/v1/skills?source=custom&limit=1").await.ok()), [id(&other)]);
    assert_eq!(ids(server.get("/v1/skills?source=anthropic").await.ok()), [""; 0]);
    server.get("/v1/skills?source=mine").await.refused(400, "invalid_request_error");

    let version = format!("{path}/versions/{}", id(&second));
    let deleted = server.send(server.request("DELETE", &version)).await.ok();
    assert_eq!(deleted, json!({"id": second["id"], "type": "skill_version_deleted"}));
    assert_eq!(server.get(&path).await.ok()["latest_version_id"], first["id"]);
    let only = format!("{path}/versions/{}", id(&first));
    let why = server.send(server.request("DELETE", &only)).await.refused(400, "invalid_request_error");
    assert!(why.contains("Delete the skill instead"), "{why}");
    assert_eq!(
        server.send(server.request("DELETE", &path)).await.ok(),
        json!({"id": skill["id"], "type": "skill_deleted"})
    );
    for gone in [&path, &only, &format!("{path}/versions")] {
        server.get(gone).await.refused(404, "not_found_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_of_the_older_beta_names_versions_by_when_they_were_made() {
    let server = Server::start().await;
    let older =
        |method: &str, path: &str| server.request(method, path).header("anthropic-beta", "x, skills-2025-10-02");
    let label: (&str, Option<&str>, &[u8]) = ("display_title", None, b"PDF forms");
    let skill = server.send(form(older("POST", "/v1/skills"), "pdf", &[label])).await.ok();
    let path = format!("/v1/skills/{}", id(&skill));
    let today = server.get(&path).await.ok();
    let first = skill["latest_version"].as_str().unwrap().to_owned();
    assert_eq!(
        skill,
        json!({"id": today["id"], "type": "skill", "display_title": "PDF forms", "latest_version": first, "source": "custom",
            "created_at": today["created_at"], "updated_at": today["updated_at"]})
    );
    assert!(first.len() == 16 && first.bytes().all(|byte| byte.is_ascii_digit()), "{first}");
    server
        .send(form(older("POST", "/v1/skills"), "word", &[("display_name", None, b"x")]))
        .await
        .refused(400, "invalid_request_error");

    let second = server.send(form(older("POST", &format!("{path}/versions")), "pdf", &[])).await.ok();
    let mut keys: Vec<&String> = second.as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["created_at", "description", "directory", "id", "name", "skill_id", "type", "version"]);
    assert_eq!((&second["name"], &second["directory"]), (&json!("pdf"), &json!("pdf")));
    let names = |page: &Value| -> Vec<Value> {
        page["data"].as_array().unwrap().iter().map(|v| v["version"].clone()).collect()
    };
    let listed = server.send(older("GET", &format!("{path}/versions"))).await.ok();
    assert_eq!(names(&listed), [second["version"].clone(), json!(first)]);
    assert_eq!(server.send(older("GET", "/v1/skills")).await.ok()["data"][0]["latest_version"], second["version"]);
    // Either name is good in either shape.
    let by_name = format!("{path}/versions/{first}");
    assert_eq!(server.send(older("GET", &by_name)).await.ok()["version"], json!(first));
    assert_eq!(server.get(&by_name).await.ok()["id"], today["latest_version_id"]);
    assert_eq!(server.get(&format!("{by_name}/content")).await.status, 200);
    let agent = json!({"name": "a", "model": "m", "tools": [{"type": "agent_toolset_20260401"}],
        "skills": [{"type": "custom", "skill_id": skill["id"], "version": first}]});
    assert_eq!(server.post("/v1/agents", agent).await.ok()["skills"][0]["version"], today["latest_version_id"]);
    let deleted = server.send(older("DELETE", &by_name)).await.ok();
    assert_eq!(deleted, json!({"id": first, "type": "skill_version_deleted"}));
    for unknown in [first.as_str(), "1", "99999999999999999999"] {
        server.send(older("GET", &format!("{path}/versions/{unknown}"))).await.refused(404, "not_found_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_of_one_moment_have_names_of_their_own() {
    let server = Server::start().await;
    let skill = made(&server, "pdf").await;
    let path = format!("/v1/skills/{}/versions", id(&skill));
    for _ in 0..3 {
        server.send(form(server.request("POST", &path), "pdf", &[])).await.ok();
    }
    let mut tx = server.store.write().await.unwrap();
    // As if the clock had stood still.
    let at: i64 = sqlx::query_scalar("SELECT MAX(created_at) FROM skill_versions").fetch_one(&mut *tx).await.unwrap();
    let ahead = at + 60_000_000;
    sqlx::query("UPDATE skill_versions SET created_at = ?1 WHERE created_at = ?2")
        .bind(ahead)
        .bind(at)
        .execute(&mut *tx)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    server.send(form(server.request("POST", &path), "pdf", &[])).await.ok();
    let listed = server.send(server.request("GET", &path).header("anthropic-beta", "skills-2025-10-02")).await.ok();
    let mut names: Vec<&str> =
        listed["data"].as_array().unwrap().iter().map(|v| v["version"].as_str().unwrap()).collect();
    assert_eq!(names[0], (ahead + 1).to_string());
    names.dedup();
    assert_eq!(names.len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_is_taken_once_and_kept_by_its_skill() {
    let server = Server::start().await;
    let skill = made(&server, "pdf").await;
    let taken = server.send(form(server.request("POST", "/v1/skills"), "pdf", &[])).await;
    taken.refused(409, "conflict_error");
    assert_eq!((code(&taken), &taken.body["error"]["details"]["skill_name"]), ("skill_name_taken", &json!("pdf")));
    assert_eq!(taken.header("x-should-retry"), Some("false"));
    let versions = format!("/v1/skills/{}/versions", id(&skill));
    let why = server.send(form(server.request("POST", &versions), "word", &[])).await.refused(409, "conflict_error");
    assert!(why.contains("a skill keeps its name"), "{why}");
    let label: (&str, Option<&str>, &[u8]) = ("display_name", None, b"x");
    server.send(form(server.request("POST", &versions), "pdf", &[label])).await.refused(400, "invalid_request_error");
    assert_eq!(server.get(&versions).await.ok()["data"].as_array().unwrap().len(), 1);
    server
        .send(form(server.request("POST", "/v1/skills/skill_none/versions"), "pdf", &[]))
        .await
        .refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_form_that_is_no_skill_stores_nothing() {
    let server = Server::start().await;
    let large = vec![b'x'; 30_000_001];
    for (extra, status, expected) in [
        (&[("files[]", None, &b"x"[..])][..], 400, "its filename is its path"),
        (&[("files[]", Some("top/../a"), b"x")], 400, "`..`"),
        (&[("files[]", Some("other/a"), b"x")], 400, "in one directory"),
        (&[("files[]", Some("top/SKILL.md"), b"x")], 400, "sent twice"),
        (&[("file", Some("a"), b"x")], 400, "file: is not a part"),
        (&[("display_name", None, b"")], 400, "1 to 255"),
        (&[("display_name", None, b"a"), ("display_name", None, b"b")], 400, "more than once"),
        (&[("files[]", Some("top/large"), &large)], 413, "more than 30 MB"),
    ] {
        let answer = server.send(form(server.request("POST", "/v1/skills"), "pdf", extra)).await;
        assert!(answer.status == status && answer.text.contains(expected), "{expected}: {}", answer.text);
    }
    server.send(server.request("POST", "/v1/skills").json(&json!({}))).await.refused(400, "invalid_request_error");
    assert_eq!(server.get("/v1/skills").await.ok()["data"], json!([]));
    assert_eq!(blobs(&server).await, 0, "nothing was begun");
}

#[tokio::test(flavor = "multi_thread")]
async fn archives_count_among_the_files_of_a_workspace_and_pages_have_a_bound() {
    let storage = Quota { blob: 3_000_000, workspace: 100 };
    let server = Server::start_with(Limits { storage, ..short() }).await;
    let full = server.send(form(server.request("POST", "/v1/skills"), "pdf", &[])).await;
    assert_eq!((full.status, code(&full)), (400, "storage_quota_exceeded"));
    let server = Server::start().await;
    let versions = format!("/v1/skills/{}/versions", id(&made(&server, "pdf").await));
    for list in ["/v1/skills", versions.as_str()] {
        server.get(&format!("{list}?limit=1000")).await.ok();
        server.get(&format!("{list}?limit=1001")).await.refused(400, "invalid_request_error");
    }
}

async fn blobs(server: &Server) -> i64 {
    let mut connection = server.store.read().await.unwrap();
    sqlx::query_scalar("SELECT COUNT(*) FROM blobs").fetch_one(&mut *connection).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bytes_of_what_is_deleted_or_refused_go() {
    let server = Server::start().await;
    let skill = made(&server, "pdf").await;
    server.send(form(server.request("POST", "/v1/skills"), "pdf", &[])).await.refused(409, "conflict_error");
    let path = format!("/v1/skills/{}", id(&skill));
    let version = server.send(form(server.request("POST", &format!("{path}/versions")), "pdf", &[])).await.ok();
    let until = async |left: i64| {
        tokio::time::timeout(Duration::from_secs(30), async {
            while blobs(&server).await != left {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
        .unwrap_or_else(|_| panic!("{left} archives should be left"));
    };
    until(2).await;
    server.send(server.request("DELETE", &format!("{path}/versions/{}", id(&version)))).await.ok();
    until(1).await;
    server.send(server.request("DELETE", &path)).await.ok();
    until(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_pins_its_skills_and_a_session_keeps_them() {
    let server = Server::start().await;
    let skill = made(&server, "pdf").await;
    let (first, path) = (skill["latest_version_id"].clone(), format!("/v1/skills/{}", id(&skill)));
    let body = |skills: Value| json!({"name": "a", "model": "m-1", "tools": [{"type": "agent_toolset_20260401"}], "skills": skills});
    let custom = |version: Value| json!([{"type": "custom", "skill_id": skill["id"], "version": version}]);
    let agent = server.post("/v1/agents", body(json!([{"type": "custom", "skill_id": skill["id"]}]))).await.ok();
    assert_eq!(agent["skills"], custom(first.clone()));
    for version in [json!(null), json!("latest"), first.clone()] {
        assert_eq!(server.post("/v1/agents", body(custom(version))).await.ok()["skills"], custom(first.clone()));
    }
    let second = server.send(form(server.request("POST", &format!("{path}/versions")), "pdf", &[])).await.ok();
    let at = format!("/v1/agents/{}", id(&agent));
    let renamed = server.post(&at, json!({"version": 1, "name": "b"})).await.ok();
    assert_eq!(renamed["skills"], custom(first.clone()), "an update of something else moves nothing");
    let moved = server.post(&at, json!({"version": 2, "skills": custom(json!("latest"))})).await.ok();
    assert_eq!((&moved["skills"], &moved["version"]), (&custom(second["id"].clone()), &json!(3)));

    let (environment, _) = server.environment("e").await;
    let session = |agent: Value| server.post("/v1/sessions", json!({"agent": agent, "environment_id": environment}));
    let begun = session(json!({"type": "agent", "id": agent["id"], "version": 1})).await.ok();
    assert_eq!(begun["agent"]["skills"], custom(first.clone()));
    let with = |more: Value| {
        let mut agent = json!({"type": "agent_with_overrides", "id": agent["id"]});
        agent.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        agent
    };
    assert_eq!(session(with(json!({"skills": null}))).await.ok()["agent"]["skills"], json!([]));
    let overridden = session(with(json!({"skills": custom(first.clone())}))).await.ok();
    assert_eq!(overridden["agent"]["skills"], custom(first.clone()));
    let why = session(with(json!({"tools": null}))).await.refused(400, "invalid_request_error");
    assert!(why.contains("skills need the `read` tool"), "{why}");
    let change = json!({"agent": {"tools": []}});
    let why = server.post(&format!("/v1/sessions/{}", id(&begun)), change).await.refused(400, "invalid_request_error");
    assert!(why.contains("agent.skills: skills need the `read` tool"), "{why}");

    let none = json!([{"type": "custom", "skill_id": "skill_none"}]);
    let strange = json!([{"type": "custom", "skill_id": "../x"}]);
    for (refused, status, expected) in [
        (none.clone(), 404, "skills[0]: Skill skill_none was not found"),
        (strange, 404, "was not found"),
        (custom(json!("skillver_none")), 404, "Skill version skillver_none was not found"),
        (custom(json!("1759178010641129")), 404, "was not found"),
        (json!([{"type": "anthropic", "skill_id": "pptx"}]), 400, "ships no skills of type `anthropic`"),
        (
            json!([{"type": "custom", "skill_id": skill["id"]}, {"type": "custom", "skill_id": skill["id"]}]),
            400,
            "named already",
        ),
    ] {
        for answer in
            [server.post("/v1/agents", body(refused.clone())).await, session(with(json!({"skills": refused}))).await]
        {
            assert!(answer.status == status && answer.text.contains(expected), "{expected}: {}", answer.text);
        }
    }
    // A version that is gone: no new session of an agent that pins it.
    server.send(server.request("DELETE", &format!("{path}/versions/{}", first.as_str().unwrap()))).await.ok();
    let gone = session(json!({"type": "agent", "id": agent["id"], "version": 1})).await;
    gone.refused(404, "not_found_error");
    assert_eq!(code(&gone), "skill_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_fetches_what_its_session_was_given_and_nothing_else() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let (other, other_key) = server.environment("f").await;
    let (mine, theirs) = (polled(&server, &environment, &key).await, polled(&server, &other, &other_key).await);
    let (given, hidden) = (made(&server, "given").await, made(&server, "hidden").await);
    give(&server, &mine.session, &given).await;
    give(&server, &theirs.session, &hidden).await;
    let foreign = issue_foreign_key(&server.store).await;
    let path =
        |skill: &Value| format!("/v1/skills/{}/versions/{}", id(skill), skill["latest_version_id"].as_str().unwrap());
    for credential in [&mine.token, &key] {
        let get = |path: String| server.send(server.request_as(credential, "GET", &path));
        assert_eq!(get(path(&given)).await.ok()["name"], "given");
        let archive = get(format!("{}/content", path(&given))).await;
        assert_eq!((archive.status, archive.header("content-type")), (200, Some("application/zip")));
        assert_eq!(get(format!("/v1/skills/{}/versions/latest", id(&given))).await.ok()["name"], "given");
        get(format!("/v1/skills/{}/versions/latest/content", id(&given))).await.refused(404, "not_found_error");
        for refused in
            [path(&hidden), path(&hidden) + "/content", format!("/v1/skills/{}/versions/latest", id(&hidden))]
        {
            get(refused).await.refused(404, "not_found_error");
        }
    }
    for credential in [&theirs.token, &other_key, &foreign] {
        server.send(server.request_as(credential, "GET", &path(&given))).await.refused(404, "not_found_error");
    }
    for (method, path) in
        [("GET", format!("/v1/skills/{}", id(&given))), ("GET", "/v1/skills".into()), ("DELETE", path(&given))]
    {
        server.send(server.request_as(&mine.token, method, &path)).await.refused(403, "permission_error");
    }
}
