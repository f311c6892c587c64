//! The description of the API against the parsers that it describes.

use std::collections::BTreeSet;

use postern_api::{Method, ROUTES, Route};
use serde_json::{Value, json};

use crate::matrix::place::Place;
use crate::support::{BETAS, Response, Server};

/// Operations whose body is one of several kinds: which properties there are depends on its `type`.
const OF_SEVERAL_KINDS: &[&str] = &["resources.create"];

async fn document(server: &Server) -> Value {
    server.get("/openapi.json").await.ok()
}

fn described<'a>(document: &'a Value, route: &Route) -> &'a Value {
    let method = match route.method {
        Method::Get => "get",
        Method::Post | Method::Upload => "post",
        Method::Patch => "patch",
        Method::Delete => "delete",
    };
    &document["paths"][route.path][method]
}

/// The schema of an operation's JSON body.
fn body<'a>(document: &'a Value, described: &Value) -> Option<&'a Value> {
    let reference = described["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str()?;
    Some(&document["components"]["schemas"][reference.rsplit_once('/')?.1])
}

async fn send(server: &Server, place: &Place, route: &Route, path: &str, body: &Value) -> Response {
    use postern_api::Kind;
    let method = if route.method == Method::Patch { "PATCH" } else { "POST" };
    if route.allowed.contains(&Kind::ApiKey) {
        return server.send(server.request(method, path).json(body)).await;
    }
    if route.allowed.contains(&Kind::Operator) {
        let request = crate::support::Request::new(method, path).header("anthropic-beta", BETAS);
        return server.operator(request.json(body)).await;
    }
    assert!(route.allowed.contains(&Kind::EnvironmentKey), "{path} needs another caller");
    server.send(server.request_as(&place.environment_key, method, path).json(body)).await
}

/// The words in backticks of a sentence.
fn quoted(sentence: &str) -> BTreeSet<String> {
    sentence.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_body_is_described_as_its_parser_takes_it() {
    let server = Server::start().await;
    let place = Place::new(&server).await;
    let document = document(&server).await;
    let mut compared = 0;
    for route in ROUTES {
        let operation = described(&document, route);
        let Some(schema) = body(&document, operation) else { continue };
        if OF_SEVERAL_KINDS.contains(&route.name) {
            continue;
        }
        let path = place.path(route, false);
        let properties: BTreeSet<String> = schema["properties"].as_object().unwrap().keys().cloned().collect();
        let strange = send(&server, &place, route, &path, &json!({"not_a_property": 1})).await;
        let message = strange.refused(400, "invalid_request_error");
        assert!(message.contains("unknown field `not_a_property`"), "{}: {message}", route.name);
        let mut taken = quoted(&message);
        taken.remove("not_a_property");
        assert_eq!(taken, properties, "{}", route.name);
        compared += 1;
        let required: Vec<&str> = schema["required"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
        if required.is_empty() {
            continue;
        }
        let message = send(&server, &place, route, &path, &json!({})).await.refused(400, "invalid_request_error");
        let missing = quoted(&message);
        assert!(message.contains("missing field"), "{}: {message}", route.name);
        assert!(missing.iter().any(|field| required.contains(&field.as_str())), "{}: {message}", route.name);
    }
    assert!(compared >= 24, "only {compared} bodies were compared");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_parameter_that_is_described_is_one() {
    let server = Server::start().await;
    let place = Place::new(&server).await;
    let document = document(&server).await;
    let mut asked = 0;
    for route in ROUTES.iter().filter(|route| route.method == Method::Get) {
        let named = described(&document, route)["parameters"].as_array().unwrap();
        let named = named.iter().filter(|parameter| parameter["in"] == "query");
        let may_ask = route.allowed.contains(&postern_api::Kind::ApiKey) && !route.path.ends_with("/stream");
        for name in named.filter(|_| may_ask).map(|parameter| parameter["name"].as_str().unwrap()) {
            let path = place.path(route, false);
            let answer = server.get(&format!("{path}?{name}=%20")).await;
            assert!(!answer.text.contains("is not a parameter of this route"), "{} {name}", route.name);
            let strange = server.get(&format!("{path}?not_{name}=1")).await.refused(400, "invalid_request_error");
            assert!(strange.contains("is not a parameter"), "{} {name}: {strange}", route.name);
            asked += 1;
        }
    }
    assert!(asked >= 80, "only {asked} parameters were tried");
}
