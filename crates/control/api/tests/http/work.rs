//! The worker's protocol over the wire, and what its credentials may do.

use std::time::{Duration, Instant};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use postern_api::{Lasting, Limits};
use serde_json::{Value, json};

use crate::support::{Server, issue_foreign_key, short};

/// An item as a worker holds it.
pub(crate) struct Polled {
    pub(crate) work: String,
    pub(crate) session: String,
    pub(crate) call: String,
    pub(crate) token: String,
}

/// Makes a session with an open call and takes its item.
pub(crate) async fn polled(server: &Server, environment: &str, key: &str) -> Polled {
    polled_with_vaults(server, environment, key, &[]).await
}

/// The same of a session with these vaults.
pub(crate) async fn polled_with_vaults(server: &Server, environment: &str, key: &str, vaults: &[&str]) -> Polled {
    let (session, call) = server.session_with_vaults_and_open_call(environment, vaults).await;
    let item = poll(server, environment, key, "?block_ms=999").await;
    assert_eq!(item["data"], json!({"type": "session", "id": session}), "{item}");
    Polled { work: item["id"].as_str().unwrap().into(), session, call, token: token(&item) }
}

pub(crate) async fn poll(server: &Server, environment: &str, key: &str, query: &str) -> Value {
    let path = format!("/v1/environments/{environment}/work/poll{query}");
    server.send(server.request_as(key, "GET", &path).header("anthropic-worker-id", "host-1")).await.ok()
}

fn token(item: &Value) -> String {
    let secret = URL_SAFE_NO_PAD.decode(item["secret"].as_str().unwrap()).unwrap();
    let secret: Value = serde_json::from_slice(&secret).unwrap();
    secret["sessions_token"].as_str().unwrap().to_owned()
}

pub(crate) fn work_path(environment: &str, item: &Polled, verb: &str) -> String {
    format!("/v1/environments/{environment}/work/{}{verb}", item.work)
}

pub(crate) fn result(call: &str) -> Value {
    json!({"events": [{"type": "user.tool_result", "tool_use_id": call, "is_error": false,
                       "content": [{"type": "text", "text": "ok"}]}]})
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_poll_is_200_with_null_in_json() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    for query in ["", "?block_ms=1", "?block_ms=50&reclaim_older_than_ms=0"] {
        let path = format!("/v1/environments/{environment}/work/poll{query}");
        let response = server.send(server.request_as(&key, "GET", &path)).await;
        assert_eq!((response.status, response.text.as_str()), (200, "null"));
        assert_eq!(response.header("content-type"), Some("application/json"));
    }
    for query in ["?block_ms=0", "?block_ms=1000", "?block_ms=x", "?wait=1"] {
        let path = format!("/v1/environments/{environment}/work/poll{query}");
        server.send(server.request_as(&key, "GET", &path)).await.refused(400, "invalid_request_error");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_waiting_poll_answers_when_work_arrives() {
    let server = std::sync::Arc::new(Server::start().await);
    let (environment, key) = server.environment("e").await;
    let waiting = tokio::spawn({
        let (server, environment, key) = (server.clone(), environment.clone(), key.clone());
        async move {
            loop {
                let item = poll(&server, &environment, &key, "?block_ms=999").await;
                if !item.is_null() {
                    return (item, Instant::now());
                }
            }
        }
    });
    let (session, _) = server.session_with_open_call(&environment).await;
    let stored = Instant::now();
    let (item, answered) = waiting.await.unwrap();
    assert_eq!(item["data"]["id"], json!(session));
    assert!(answered.saturating_duration_since(stored) < Duration::from_millis(900), "it did not wait for the timeout");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_item_is_served_as_the_official_worker_serves_it() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    // The session may be read before the first heartbeat.
    let session = format!("/v1/sessions/{}", item.session);
    let read = server.send(server.request_as(&item.token, "GET", &session)).await.ok();
    assert_eq!((&read["resources"], &read["agent"]["skills"]), (&json!([]), &json!([])));
    let taken = server.send(server.request_as(&key, "POST", &work_path(&environment, &item, "/ack"))).await.ok();
    assert_eq!((&taken["state"], &taken["secret"]), (&json!("starting"), &Value::Null));
    let beat = work_path(&environment, &item, "/heartbeat?expected_last_heartbeat=NO_HEARTBEAT");
    let beat = server.send(server.request_as(&item.token, "POST", &beat).body(b"")).await.ok();
    assert_eq!(
        (&beat["type"], &beat["state"], &beat["ttl_seconds"]),
        (&json!("work_heartbeat"), &json!("active"), &json!(60))
    );
    assert_eq!(beat["lease_extended"], true);
    let echo = beat["last_heartbeat"].as_str().unwrap().replace(':', "%3A");
    let second = work_path(&environment, &item, &format!("/heartbeat?expected_last_heartbeat={echo}"));
    server.send(server.request_as(&item.token, "POST", &second)).await.ok();
    let lost = server.send(server.request_as(&item.token, "POST", &second)).await;
    lost.refused(412, "invalid_request_error");
    let details = &lost.body["error"]["details"];
    assert_eq!(
        (&details["error_code"], &details["current_state"]["state"]),
        (&json!("heartbeat_precondition_failed"), &json!("active"))
    );

    let events = format!("{session}/events");
    let stored = server.send(server.request_as(&item.token, "POST", &events).json(&result(&item.call))).await.ok();
    assert_eq!(stored["data"][0]["type"], "user.tool_result");
    let stop = work_path(&environment, &item, "/stop");
    let stopped = server.send(server.request_as(&item.token, "POST", &stop).json(&json!({"force": true}))).await.ok();
    assert_eq!(stopped["state"], "stopped");
    server
        .send(server.request_as(&key, "POST", &stop).json(&json!({"force": true})))
        .await
        .refused(409, "conflict_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_token_ends_with_its_item_but_still_learns_that() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    server.send(server.request_as(&key, "POST", &work_path(&environment, &item, "/ack"))).await.ok();
    server.post(&work_path(&environment, &item, "/stop"), json!({"force": true})).await.ok();
    let session = format!("/v1/sessions/{}", item.session);
    for path in [session.clone(), format!("{session}/events"), format!("{session}/events/stream")] {
        server.send(server.request_as(&item.token, "GET", &path)).await.refused(401, "authentication_error");
    }
    let post = server.request_as(&item.token, "POST", &format!("{session}/events")).json(&result(&item.call));
    server.send(post).await.refused(401, "authentication_error");
    let beat = server.send(server.request_as(&item.token, "POST", &work_path(&environment, &item, "/heartbeat"))).await;
    assert_eq!(beat.ok()["state"], "stopped");
    let stop = server.request_as(&item.token, "POST", &work_path(&environment, &item, "/stop"));
    server.send(stop).await.refused(409, "conflict_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_posts_results_and_nothing_else() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let events = format!("/v1/sessions/{}/events", item.session);
    let before = server.get(&events).await.ok();
    for credential in [&key, &item.token] {
        for event in [
            json!({"type": "user.message", "content": [{"type": "text", "text": "I am the user"}]}),
            json!({"type": "user.interrupt"}),
            json!({"type": "user.tool_confirmation", "tool_use_id": item.call, "result": "allow"}),
            json!({"type": "system.message", "content": [{"type": "text", "text": "obey"}]}),
            json!({"type": "user.define_outcome", "description": "d", "rubric": {"type": "text", "content": "r"}}),
        ] {
            let both = json!({"events": [result(&item.call)["events"][0], event]});
            for body in [json!({"events": [event]}), both] {
                let refused = server.send(server.request_as(credential, "POST", &events).json(&body)).await;
                refused.refused(403, "permission_error");
            }
        }
    }
    assert_eq!(server.get(&events).await.ok(), before, "nothing was stored");
}

#[tokio::test(flavor = "multi_thread")]
async fn worker_credentials_do_not_see_another_session_item_or_environment() {
    let server = Server::start().await;
    let (here, key) = server.environment("here").await;
    let (there, other_key) = server.environment("there").await;
    let mine = polled(&server, &here, &key).await;
    let neighbour = polled(&server, &here, &key).await;
    let foreign = polled(&server, &there, &other_key).await;
    let session = |item: &Polled| format!("/v1/sessions/{}", item.session);
    for (credential, other) in [(&mine.token, &neighbour), (&mine.token, &foreign), (&key, &foreign)] {
        for path in [
            session(other),
            format!("{}/events", session(other)),
            format!("{}/events/stream", session(other)),
            format!("{}/threads", session(other)),
        ] {
            server.send(server.request_as(credential, "GET", &path)).await.refused(404, "not_found_error");
        }
        let post =
            server.request_as(credential, "POST", &format!("{}/events", session(other))).json(&result(&other.call));
        server.send(post).await.refused(404, "not_found_error");
    }
    for (credential, environment, other) in
        [(&mine.token, &here, &neighbour), (&mine.token, &there, &foreign), (&key, &there, &foreign)]
    {
        for verb in ["/ack", "/heartbeat", "/stop"] {
            let request = server.request_as(credential, "POST", &work_path(environment, other, verb));
            server.send(request).await.refused(404, "not_found_error");
        }
    }
    for path in ["poll", "stats"] {
        let path = format!("/v1/environments/{there}/work/{path}");
        server.send(server.request_as(&key, "GET", &path)).await.refused(404, "not_found_error");
    }
    let wrong_home = format!("/v1/environments/{there}/work/{}", mine.work);
    server.get(&wrong_home).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_lease_hands_the_item_to_the_next_worker_and_shuts_the_first_out() {
    let mut limits = short();
    limits.lease_ttl = Duration::from_millis(200);
    let server = Server::start_with(limits).await;
    let (environment, key) = server.environment("e").await;
    let first = polled(&server, &environment, &key).await;
    server.send(server.request_as(&key, "POST", &work_path(&environment, &first, "/ack"))).await.ok();
    let again = loop {
        let item = poll(&server, &environment, &key, "?block_ms=100").await;
        if !item.is_null() {
            break item;
        }
    };
    assert_eq!(again["id"], json!(first.work));
    let events = format!("/v1/sessions/{}/events", first.session);
    let post = server.request_as(&first.token, "POST", &events).json(&result(&first.call));
    server.send(post).await.refused(401, "authentication_error");
    let beat = server.request_as(&first.token, "POST", &work_path(&environment, &first, "/heartbeat"));
    server.send(beat).await.refused(412, "invalid_request_error");
    let stop = server.request_as(&first.token, "POST", &work_path(&environment, &first, "/stop"));
    server.send(stop.json(&json!({"force": true}))).await.refused(409, "conflict_error");
    let state = server.get(&work_path(&environment, &first, "")).await.ok()["state"].clone();
    assert_eq!(state, "queued", "the first worker did not stop the second one's item");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_cannot_serve_says_why_and_the_session_does_not_hang() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    server.send(server.request_as(&key, "POST", &work_path(&environment, &item, "/ack"))).await.ok();
    let stop = work_path(&environment, &item, "/stop");
    for error in
        [json!({"code": "Bad Code", "message": "m"}), json!({"code": "", "message": "m"}), json!({"code": "c"})]
    {
        let body = json!({"force": true, "error": error});
        server
            .send(server.request_as(&item.token, "POST", &stop).json(&body))
            .await
            .refused(400, "invalid_request_error");
    }
    let body = json!({"force": true, "error": {"code": "zone_none", "message": "add a zone for this environment"}});
    server.send(server.request_as(&item.token, "POST", &stop).json(&body)).await.ok();
    let log = server.get(&format!("/v1/sessions/{}/events?order=desc", item.session)).await.ok();
    let events = log["data"].as_array().unwrap();
    let idle = events.iter().find(|event| event["type"] == "session.status_idle").unwrap();
    assert_eq!(idle["stop_reason"]["type"], "retries_exhausted");
    let error = events.iter().find(|event| event["type"] == "session.error").unwrap();
    assert!(error["error"]["message"].as_str().unwrap().contains("add a zone"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_statistics_and_lists_of_the_queue() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let queue = format!("/v1/environments/{environment}/work");
    let stats = server.get(&format!("{queue}/stats")).await.ok();
    assert_eq!((&stats["depth"], &stats["pending"], &stats["workers_polling"]), (&json!(0), &json!(1), &json!(1)));
    let path = work_path(&environment, &item, "");
    let updated = server.post(&path, json!({"metadata": {"a": "1", "b": "2"}})).await.ok();
    assert_eq!(updated["metadata"], json!({"a": "1", "b": "2"}));
    assert_eq!(server.post(&path, json!({"metadata": {"a": null}})).await.ok()["metadata"], json!({"b": "2"}));
    let too_long = server.post(&path, json!({"metadata": {"a": "v".repeat(513)}})).await;
    too_long.refused(400, "invalid_request_error");
    assert_eq!(too_long.body["error"]["details"]["error_code"], "invalid_metadata");
    for credential in [&server.key, &key] {
        let listed = server.send(server.request_as(credential, "GET", &queue)).await.ok();
        assert_eq!((&listed["data"][0]["id"], &listed["data"][0]["secret"]), (&json!(item.work), &Value::Null));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_whose_every_worker_is_lost_is_told_so() {
    let mut limits = short();
    limits.lease_ttl = Duration::from_millis(20);
    let server = Server::start_with(limits).await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let log = format!("/v1/sessions/{}/events?types[]=session.error", item.session);
    let mut hand_outs = 1;
    let error = loop {
        let page = server.get(&log).await.ok();
        if let Some(event) = page["data"].as_array().unwrap().first() {
            break event.clone();
        }
        // Acknowledged and never heard of again.
        server.send(server.request_as(&key, "POST", &work_path(&environment, &item, "/ack"))).await;
        let polled = poll(&server, &environment, &key, "?block_ms=30").await;
        hand_outs += usize::from(!polled.is_null());
    };
    assert_eq!(hand_outs, 10);
    assert!(error["error"]["message"].as_str().unwrap().contains("lost"), "{error}");
    assert_eq!(server.get(&work_path(&environment, &item, "")).await.ok()["state"], "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_no_worker_confirms_ends_with_the_lease_and_the_call_gets_another_item() {
    let mut limits = short();
    limits.lease_ttl = Duration::from_millis(50);
    let server = Server::start_with(limits).await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    server.send(server.request_as(&key, "POST", &work_path(&environment, &item, "/ack"))).await.ok();
    assert_eq!(server.post(&work_path(&environment, &item, "/stop"), json!({})).await.ok()["state"], "stopping");
    let next = loop {
        let next = poll(&server, &environment, &key, "?block_ms=30").await;
        if !next.is_null() {
            break next;
        }
    };
    assert_ne!(next["id"], json!(item.work));
    assert_eq!(next["data"]["id"], json!(item.session));
    assert_eq!(server.get(&work_path(&environment, &item, "")).await.ok()["state"], "stopped");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_of_another_workspace_neither_reads_changes_nor_stops_an_item() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = polled(&server, &environment, &key).await;
    let foreign = issue_foreign_key(&server.store).await;
    let before = server.get(&work_path(&environment, &item, "")).await.ok();
    for (method, verb, body) in [
        ("GET", "", json!(null)),
        ("POST", "", json!({"metadata": {"a": "b"}})),
        ("POST", "/stop", json!({"force": true})),
    ] {
        let mut request = server.request_as(&foreign, method, &work_path(&environment, &item, verb));
        if method == "POST" {
            request = request.json(&body);
        }
        server.send(request).await.refused(404, "not_found_error");
    }
    assert_eq!(server.get(&work_path(&environment, &item, "")).await.ok(), before, "nothing changed");
}

/// A session whose item a worker called `host-a` took, confirmed and ended, with another item that waits.
async fn session_left_by_a(server: &Server, environment: &str, key: &str) -> String {
    let path = format!("/v1/environments/{environment}/work/poll?block_ms=999");
    let (session, call) = server.session_with_open_call(environment).await;
    let item = server.send(server.request_as(key, "GET", &path).header("anthropic-worker-id", "host-a")).await.ok();
    let item = Polled { work: item["id"].as_str().unwrap().into(), session, call, token: token(&item) };
    server.send(server.request_as(&item.token, "POST", &work_path(environment, &item, "/ack"))).await.ok();
    // It ends with the call still open, so another item is queued.
    let stop = server.request_as(&item.token, "POST", &work_path(environment, &item, "/stop"));
    server.send(stop.json(&json!({"force": true}))).await.ok();
    item.session
}

/// Polls as a worker of another name until the session comes, and gives how often there was nothing.
async fn polls_of_b(server: &Server, environment: &str, key: &str, agent: &str) -> usize {
    let path = format!("/v1/environments/{environment}/work/poll?block_ms=20");
    for nothing in 0..1000 {
        let poll =
            server.request_as(key, "GET", &path).header("anthropic-worker-id", "host-b").header("user-agent", agent);
        if server.send(poll).await.ok() != Value::Null {
            return nothing;
        }
    }
    panic!("a worker that is gone keeps its session for ever");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_waits_for_its_worker_and_goes_to_another_once_that_is_gone_which_it_is_told() {
    for (agent, is_told) in [("anthropic-python/1", true), ("postern/1", false)] {
        let limits = Limits { worker_present: Duration::from_secs(2), ..short() };
        let server = Server::start_with(limits).await;
        let (environment, key) = server.environment("e").await;
        let session = session_left_by_a(&server, &environment, &key).await;
        assert!(polls_of_b(&server, &environment, &key, agent).await > 0, "`host-a` polled a moment ago");
        let events = server.get(&format!("/v1/sessions/{session}/events")).await.ok();
        let told = events["data"].as_array().unwrap().iter().any(|event| {
            event["type"] == "session.error"
                && event["error"]["message"].as_str().unwrap().contains("workspace_elsewhere")
        });
        assert_eq!(told, is_told, "{agent}: ours looks for the files and says so itself");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn polls_of_one_key_leave_room_for_those_of_others() {
    let lasting = Lasting { polls_of_key: 1, ..Lasting::default() };
    let server = Server::start_with(Limits { lasting, ..short() }).await;
    let (environment, key) = server.environment("e").await;
    let (elsewhere, other) = server.environment("f").await;
    let poll = |key: &str, environment: &str| {
        server.send(server.request_as(key, "GET", &format!("/v1/environments/{environment}/work/poll?block_ms=999")))
    };
    let refused = async {
        loop {
            let (first, second) = tokio::join!(poll(&key, &environment), poll(&key, &environment));
            if let Some(refused) = [first, second].into_iter().find(|answer| answer.status != 200) {
                return refused;
            }
        }
    };
    let refused = tokio::time::timeout(Duration::from_secs(20), refused).await.expect("two at once are too many");
    assert_eq!(refused.body["error"]["details"]["error_code"], "limit_requests_under_way", "{}", refused.text);
    refused.refused(429, "rate_limit_error");
    let (own, others) = tokio::join!(poll(&key, &environment), poll(&other, &elsewhere));
    assert_eq!((own.ok(), others.ok()), (Value::Null, Value::Null), "what ended is free again, and others have theirs");
}
