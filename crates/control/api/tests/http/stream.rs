//! Server-sent events over the wire.

use std::io::{BufRead, BufReader, Read, Write};
use std::time::Duration;

use postern_api::{Lasting, Limits};
use serde_json::{Value, json};

use crate::support::{Request, Server, connect, short};

/// An open stream, read line by line.
struct Stream {
    reader: BufReader<std::net::TcpStream>,
}

impl Stream {
    fn open(server: &Server, path: &str) -> Self {
        Self::open_as(server, &server.key, path)
    }

    fn open_as(server: &Server, credential: &str, path: &str) -> Self {
        Self::open_with(server, server.request_as(credential, "GET", path))
    }

    fn open_with(server: &Server, request: Request) -> Self {
        let mut socket = connect(server.address);
        socket.write_all(&request.bytes()).unwrap();
        let mut stream = Self { reader: BufReader::new(socket) };
        assert_eq!(stream.line().as_deref(), Some("HTTP/1.1 200 OK"));
        let mut headers = Vec::new();
        while let Some(line) = stream.line().filter(|line| !line.is_empty()) {
            headers.push(line);
        }
        assert!(headers.iter().any(|line| line == "content-type: text/event-stream"), "{headers:?}");
        assert!(headers.iter().any(|line| line.starts_with("request-id: req_")), "{headers:?}");
        stream.until(": open");
        stream
    }

    fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        (self.reader.read_line(&mut line).unwrap() > 0).then(|| line.trim_end().to_owned())
    }

    fn until(&mut self, wanted: &str) {
        while let Some(line) = self.line() {
            if line == wanted {
                return;
            }
        }
        panic!("the stream ended before {wanted:?}");
    }

    /// The next event: the name of its frame and its data. `None` when the stream is over.
    fn event(&mut self) -> Option<(String, Value)> {
        let mut name = None;
        loop {
            let line = self.line()?;
            if let Some(text) = line.strip_prefix("event: ") {
                name = Some(text.to_owned());
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some((name.expect("an `event:` line before the data"), serde_json::from_str(data).unwrap()));
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_shows_a_turn_with_named_frames_and_ends_when_the_session_is_deleted() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let session = server.post("/v1/sessions", json!({"agent": agent, "environment_id": environment})).await.ok();
    let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    for query in ["?event_deltas[]=session.error", "?event_deltas[]=agent.message&since=1"] {
        server.get(&format!("{path}/events/stream{query}")).await.refused(400, "invalid_request_error");
    }
    let deltas = "?event_deltas%5B%5D=agent.message&event_deltas%5B%5D=agent.thinking";
    let stream = format!("{path}/events/stream{deltas}");
    let mut open = tokio::task::block_in_place(|| Stream::open(&server, &stream));

    let message = json!({"type": "user.message", "content": [{"type": "text", "text": "hello"}]});
    server.post(&format!("{path}/events"), json!({"events": [message]})).await.ok();
    let seen = tokio::task::block_in_place(|| {
        let mut seen = Vec::new();
        while let Some((name, data)) = open.event() {
            assert_eq!(data["type"], json!(name));
            seen.push(name);
            if seen.last().is_some_and(|name| name == "session.status_idle") {
                break;
            }
        }
        // Quiet now: comments keep the connection alive.
        open.until(": ping");
        seen
    });
    assert!(seen.iter().any(|name| name == "agent.message"), "{seen:?}");

    server.send(server.request("DELETE", &path)).await.ok();
    let last = tokio::task::block_in_place(|| {
        let last = open.event();
        assert!(open.event().is_none(), "the stream ends after session.deleted");
        last
    });
    assert_eq!(last.unwrap().0, "session.deleted");
    server.get(&path).await.refused(404, "not_found_error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_credential_that_opened_it() {
    let server = Server::start().await;
    let (environment, key) = server.environment("e").await;
    let item = crate::work::polled(&server, &environment, &key).await;
    let path = format!("/v1/sessions/{}/events/stream", item.session);
    let open = |credential: &str| tokio::task::block_in_place(|| Stream::open_as(&server, credential, &path));
    let (mut of_client, mut of_key, mut of_token) = (open(&server.key), open(&key), open(&item.token));
    let pings = |stream: &mut Stream| tokio::task::block_in_place(|| (0..5).for_each(|_| stream.until(": ping")));
    pings(&mut of_token);

    let stop = format!("/v1/environments/{environment}/work/{}/stop", item.work);
    server.send(server.request_as(&item.token, "POST", &stop).json(&json!({"force": true}))).await.ok();
    let ends = |stream: &mut Stream| tokio::task::block_in_place(|| while stream.event().is_some() {});
    ends(&mut of_token);
    pings(&mut of_key);
    let keys = format!("/v1/environments/{environment}/keys");
    let id = server.get(&keys).await.ok()["data"][0]["id"].as_str().unwrap().to_owned();
    server.send(server.request("DELETE", &format!("{keys}/{id}"))).await.ok();
    ends(&mut of_key);
    pings(&mut of_client);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_with_a_last_event_id_begins_behind_that_event() {
    let server = Server::start().await;
    let (environment, _) = server.environment("e").await;
    let agent = server.agent().await;
    let message = json!({"type": "user.message", "content": [{"type": "text", "text": "hello"}]});
    let body = json!({"agent": agent, "environment_id": environment, "initial_events": [message]});
    let session = server.post("/v1/sessions", body).await.ok();
    let path = format!("/v1/sessions/{}", session["id"].as_str().unwrap());
    let thread = server.get(&format!("{path}/threads")).await.ok()["data"][0]["id"].as_str().unwrap().to_owned();
    for stream in [format!("{path}/events/stream"), format!("{path}/threads/{thread}/stream")] {
        let from = |last: &str| server.request("GET", &stream).header("last-event-id", last);
        // Once from the start, to know the places; then from the third event on.
        let (mut whole, mut rest) = tokio::task::block_in_place(|| {
            (Stream::open_with(&server, from("0")), Stream::open_with(&server, from("3")))
        });
        tokio::task::block_in_place(|| {
            let mut events = Vec::new();
            for place in 1.. {
                whole.until(&format!("id: {place}"));
                events.push(whole.event().unwrap());
                if events.last().unwrap().0 == "session.status_idle" {
                    break;
                }
            }
            rest.until("id: 4");
            let first = rest.event().unwrap();
            assert_eq!(first.1["id"], events[3].1["id"]);
        });
        for wrong in ["x", "-1", "99999", "4.5", "sevt_1"] {
            let refusal = server.send(from(wrong)).await.refused(400, "invalid_request_error");
            assert!(refusal.contains("Last-Event-ID"), "{refusal}");
        }
    }
}

/// What comes on a connection up to the end of an answer's head.
fn answered(socket: &mut std::net::TcpStream) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && socket.read(&mut byte).unwrap() == 1 {
        head.push(byte[0]);
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_has_its_share_of_what_lasts_and_gets_it_back() {
    let lasting = Lasting { of_session: 2, of_key: 4, of_all: 5, bodies_of_session: 1, ..Lasting::default() };
    let server = Server::start_with(Limits { lasting, ..short() }).await;
    let (environment, key) = server.environment("e").await;
    let item = crate::work::polled(&server, &environment, &key).await;
    let path = format!("/v1/sessions/{}/events/stream", item.session);
    let outputs = format!("/v1/sessions/{}/outputs?path=a", item.session);
    let open = |credential: &str| tokio::task::block_in_place(|| Stream::open_as(&server, credential, &path));
    let refused = async |credential: &str| {
        let answer = server.send(server.request_as(credential, "GET", &path)).await;
        answer.refused(429, "rate_limit_error");
        assert_eq!(answer.body["error"]["details"]["error_code"], "limit_requests_under_way");
    };

    // A stream, an upload and a body that are both in the middle.
    let stream = open(&item.token);
    let mut bodies = Vec::new();
    for path in [&outputs, &format!("/v1/sessions/{}/events", item.session)] {
        let request = server.request_as(&item.token, "POST", path).header("content-length", "1000");
        let request = request.header("expect", "100-continue").header("content-type", "application/json");
        let mut socket = connect(server.address);
        socket.write_all(&request.bytes()).unwrap();
        // It is asked for: its caller is known by then.
        assert!(tokio::task::block_in_place(|| answered(&mut socket)).contains("100 Continue"));
        bodies.push(socket);
    }
    refused(&item.token).await;
    let more = server.request_as(&item.token, "POST", &outputs).body(b"a");
    server.send(more.header("content-type", "application/octet-stream")).await.refused(429, "rate_limit_error");
    let events = format!("/v1/sessions/{}/events", item.session);
    let second = server.request_as(&item.token, "POST", &events).header("content-type", "application/json");
    server.send(second.body(b"{}")).await.refused(429, "rate_limit_error");
    server.send(server.request_as(&item.token, "GET", &format!("/v1/sessions/{}", item.session))).await.ok();
    let of_key = [(); 3].map(|()| open(&key));
    refused(&key).await;
    refused(&server.key).await;
    server.get("/v1/agents").await.ok();
    // With nothing left that lasts, what is answered at once is asked all the same, with a body or without one.
    server.post("/v1/agents", json!({"name": "a", "model": "m-1"})).await.ok();
    let beat =
        format!("/v1/environments/{environment}/work/{}/heartbeat?expected_last_heartbeat=NO_HEARTBEAT", item.work);
    // It is heard, which is all that matters here: another beat is expected.
    assert_eq!(server.send(server.request_as(&item.token, "POST", &beat)).await.status, 412);
    assert_eq!(server.operator(Request::new("GET", "/v1/agents")).await.status, 200);

    drop((stream, bodies));
    let opened = async |credential: &str| {
        let opened = async {
            loop {
                let mut socket = connect(server.address);
                socket.write_all(&server.request_as(credential, "GET", &path).bytes()).unwrap();
                if tokio::task::block_in_place(|| answered(&mut socket)).starts_with("HTTP/1.1 200") {
                    return socket;
                }
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), opened).await.expect("what was closed is free again")
    };
    let again = [opened(&item.token).await, opened(&key).await];
    refused(&key).await;
    drop((of_key, again));
}
