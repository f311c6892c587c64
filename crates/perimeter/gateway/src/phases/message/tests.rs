use http::Request;

use super::*;

fn post(body: &str) -> Result<Asked, Denial> {
    let (parts, ()) = Request::post("/mcp").header("content-type", "application/json").body(()).unwrap().into_parts();
    head(&parts)?;
    read(&parts, body.as_bytes())
}

#[test]
fn what_is_not_one_plain_message_is_refused() {
    let table = [
        ("a batch", r#"[{"jsonrpc":"2.0","id":1,"method":"ping"}]"#),
        ("an empty batch", "[]"),
        ("no version", r#"{"id":1,"method":"ping"}"#),
        ("another version", r#"{"jsonrpc":"1.0","id":1,"method":"ping"}"#),
        ("a member that is unknown", r#"{"jsonrpc":"2.0","id":1,"method":"ping","extra":1}"#),
        ("a member in another case", r#"{"jsonrpc":"2.0","id":1,"Method":"ping"}"#),
        ("a member in both cases", r#"{"jsonrpc":"2.0","id":1,"method":"ping","METHOD":"tools/call"}"#),
        ("a method twice", r#"{"jsonrpc":"2.0","id":1,"method":"ping","method":"tools/call"}"#),
        ("a method twice, escaped", r#"{"jsonrpc":"2.0","id":1,"method":"ping","m\u0065thod":"tools/call"}"#),
        ("a method that is no text", r#"{"jsonrpc":"2.0","id":1,"method":7}"#),
        ("a method with a blank", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call "}"#),
        ("parameters as a list", r#"{"jsonrpc":"2.0","id":1,"method":"ping","params":[]}"#),
        ("an id that is null", r#"{"jsonrpc":"2.0","id":null,"method":"ping"}"#),
        ("an id with a fraction", r#"{"jsonrpc":"2.0","id":1.5,"method":"ping"}"#),
        ("an id that is an object", r#"{"jsonrpc":"2.0","id":{},"method":"ping"}"#),
        ("a request and an answer", r#"{"jsonrpc":"2.0","id":1,"method":"ping","result":{}}"#),
        ("a request that is named a notification", r#"{"jsonrpc":"2.0","id":1,"method":"notifications/initialized"}"#),
        (
            "a notification that is named a request",
            r#"{"jsonrpc":"2.0","method":"resources/read","params":{"uri":"file:///x"}}"#,
        ),
        ("a call without an id", r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}"#),
        ("a result and an error", r#"{"jsonrpc":"2.0","id":1,"result":{},"error":{}}"#),
        ("neither", r#"{"jsonrpc":"2.0","id":1}"#),
        ("a call that wants no answer", r#"{"jsonrpc":"2.0","method":"tools/call","params":{"name":"x"}}"#),
        ("a call of no tool", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#),
        ("a call of a number", r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":1}}"#),
        (
            "arguments as a list",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":[]}}"#,
        ),
        (
            "arguments as null",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":null}}"#,
        ),
        (
            "a name in another case",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","Arguments":{}}}"#,
        ),
        (
            "an argument in two cases",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"path":"/a","Path":"/b"}}}"#,
        ),
        (
            "an argument twice, deep",
            r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"x","arguments":{"a":[{"b":1,"b":2}]}}}"#,
        ),
        ("text after it", r#"{"jsonrpc":"2.0","id":1,"method":"ping"}{}"#),
        ("nothing", ""),
    ];
    for (what, body) in table {
        assert_eq!(post(body).map_err(|denial| denial.reason), Err(Reason::RequestMalformed), "{what}");
    }
}

#[test]
fn nesting_names_and_ids_are_bounded() {
    let nested = |levels: usize| {
        // The message is one level, its parameters are the next.
        let (open, close) = ("[".repeat(levels - 2), "]".repeat(levels - 2));
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"ping","params":{{"a":{open}{close}}}}}"#)
    };
    let method = |bytes: usize| format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}"}}"#, "m".repeat(bytes));
    let tool = |bytes: usize| {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{}"}}}}"#, "t".repeat(bytes))
    };
    let id = |bytes: usize| format!(r#"{{"jsonrpc":"2.0","id":"{}","method":"ping"}}"#, "i".repeat(bytes));
    let answered = |bytes: usize| format!(r#"{{"jsonrpc":"2.0","id":"{}","result":{{}}}}"#, "i".repeat(bytes));
    type Message<'a> = &'a dyn Fn(usize) -> String;
    let table: [(&str, Message<'_>, usize); 5] = [
        ("nesting", &nested, limits::JSON_DEPTH),
        ("a method", &method, limits::NAME_BYTES),
        ("a tool", &tool, limits::NAME_BYTES),
        ("an id", &id, limits::ID_BYTES),
        ("an answer's id", &answered, limits::ID_BYTES),
    ];
    for (what, message, most) in table {
        assert!(post(&message(most)).is_ok(), "{what}");
        assert_eq!(post(&message(most + 1)).unwrap_err().reason, Reason::RequestMalformed, "{what}");
    }
}

#[test]
fn plain_messages_are_what_they_say() {
    let call = post(
        r#"{"jsonrpc":"2.0","id":"a","method":"tools/call","params":{"name":"search","arguments":{"q":1},"_meta":{}}}"#,
    )
    .unwrap();
    let read = call.call().unwrap();
    assert_eq!((read.tool, read.id, read.arguments.unwrap().len()), ("search", &Value::from("a"), 1));
    let listed = post(r#"{"jsonrpc":"2.0","id":0,"method":"tools/list"}"#).unwrap();
    assert_eq!((listed.method(), listed.call()), ("tools/list", None));
    let noted = post(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#).unwrap();
    assert_eq!(noted, Asked::Message(Message::Notification { method: "notifications/initialized".to_owned() }));
    for answer in [r#"{"jsonrpc":"2.0","id":1,"result":{}}"#, r#"{"jsonrpc":"2.0","id":1,"error":{"code":1}}"#] {
        assert!(matches!(post(answer).unwrap(), Asked::Message(Message::Answer { .. })), "{answer}");
    }
}

#[test]
fn a_head_that_could_be_read_in_two_ways_is_refused() {
    let json = ("content-type", "application/json");
    type Case<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)], Reason);
    let table: &[Case<'_>] = &[
        (
            "two framings",
            "POST",
            &[json, ("content-length", "2"), ("transfer-encoding", "chunked")],
            Reason::RequestMalformed,
        ),
        ("two types", "POST", &[json, json], Reason::RequestMalformed),
        (
            "two MCP sessions",
            "POST",
            &[json, ("mcp-session-id", "a"), ("mcp-session-id", "b")],
            Reason::RequestMalformed,
        ),
        (
            "two credentials",
            "POST",
            &[json, ("postern-credential", "a"), ("postern-credential", "b")],
            Reason::RequestMalformed,
        ),
        ("an encoding", "POST", &[json, ("content-encoding", "gzip")], Reason::EncodingUnsupported),
        ("an upgrade", "GET", &[("upgrade", "websocket")], Reason::UpgradeRefused),
        ("no type", "POST", &[], Reason::RequestMalformed),
        ("a form", "POST", &[("content-type", "application/x-www-form-urlencoded")], Reason::RequestMalformed),
        ("another alphabet", "POST", &[("content-type", "application/json; charset=utf-7")], Reason::RequestMalformed),
        ("another method", "PUT", &[json], Reason::MethodNotAllowed),
        ("a method by header", "PATCH", &[json], Reason::MethodNotAllowed),
    ];
    for (what, method, headers, reason) in table {
        let mut request = Request::builder().method(*method).uri("/mcp");
        for (name, value) in *headers {
            request = request.header(*name, *value);
        }
        let (parts, ()) = request.body(()).unwrap().into_parts();
        assert_eq!(head(&parts).map_err(|denial| denial.reason), Err(*reason), "{what}");
    }
}

#[test]
fn headers_that_repeat_the_message_must_agree_with_it() {
    let body = br#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"search"}}"#;
    for (method, name, agrees) in [
        ("tools/call", "search", true),
        ("tools/list", "search", false),
        ("tools/call", "delete", false),
        ("tools/call", "Search", false),
    ] {
        let request = Request::post("/mcp").header("mcp-method", method).header("mcp-name", name).body(()).unwrap();
        assert_eq!(read(&request.into_parts().0, body).is_ok(), agrees, "{method} {name}");
    }
}

#[test]
fn a_get_or_delete_with_a_body_is_refused() {
    for method in ["GET", "DELETE"] {
        let (parts, ()) = Request::builder().method(method).uri("/mcp").body(()).unwrap().into_parts();
        assert!(read(&parts, b"").is_ok());
        assert!(read(&parts, b"{}").is_err());
    }
}
