//! `GET /openapi.json`: the table of routes in the words of OpenAPI 3.1.
//!
//! Paths, methods, betas and who may call come from the table itself, so no route can be missing; what each takes and answers is
//! data (`openapi/operations.toml`, `openapi/schemas.toml`), which the tests compare with what the parsers really take.

mod notation;

use std::collections::BTreeMap;
use std::sync::OnceLock;

use postern_model::Problem;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::caller::Kind;
use crate::dispatch::Call;
use crate::reply::Reply;
use crate::routes::{Method, ROUTES, Route};

const OPERATIONS: &str = include_str!("openapi/operations.toml");
const SCHEMAS: &str = include_str!("openapi/schemas.toml");
const JSON: &str = "application/json";

/// What one operation takes and answers, as the data says it.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Operation {
    /// Parameters of the query, each in the notation of a property.
    query: BTreeMap<String, String>,
    /// A JSON body.
    body: Option<String>,
    /// A JSON body that may be left out.
    optional_body: Option<String>,
    /// A form.
    form: Option<String>,
    /// A body of bytes as they are.
    bytes: bool,
    /// One object.
    answer: Option<String>,
    /// A page of objects.
    list: Option<String>,
    /// The media type of an answer that is not JSON.
    media: Option<String>,
}

pub(crate) async fn document(call: Call) -> Result<Reply, Problem> {
    static DOCUMENT: OnceLock<Result<Value, String>> = OnceLock::new();
    call.query.finish()?;
    match DOCUMENT.get_or_init(made) {
        Ok(document) => Reply::json(document),
        Err(error) => {
            tracing::error!(error, "the description of the API is broken");
            Err(Problem::internal())
        }
    }
}

fn made() -> Result<Value, String> {
    let operations: BTreeMap<String, Operation> = toml::from_str(OPERATIONS).map_err(|error| error.to_string())?;
    let none = Operation::default();
    let mut paths = Map::new();
    for route in ROUTES {
        let operation = operations.get(route.name).unwrap_or(&none);
        let described = described(route, operation).map_err(|why| format!("{}: {why}", route.name))?;
        let at = paths.entry(route.path).or_insert_with(|| json!({}));
        at[method(route.method)] = described;
    }
    Ok(json!({
        "openapi": "3.1.0",
        "info": {"title": "Postern", "version": env!("CARGO_PKG_VERSION")},
        "paths": paths,
        "components": {
            "schemas": notation::schemas(SCHEMAS)?,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "key": {"type": "apiKey", "in": "header", "name": "x-api-key"},
            },
        },
        "security": [{"bearer": []}, {"key": []}],
    }))
}

fn described(route: &Route, operation: &Operation) -> Result<Value, String> {
    let mut described = json!({
        "operationId": route.name,
        "tags": [route.name.split('.').next().unwrap_or_default()],
        "description": format!("For: {}.", callers(route)),
        "parameters": parameters(route, operation)?,
        "responses": {"200": answer(operation)},
    });
    described["responses"]["default"] = json!({
        "description": "Refused or failed, with the reason and what to do next.",
        "content": {JSON: {"schema": notation::reference("Refusal")}},
    });
    if let Some(content) = content(operation) {
        described["requestBody"] = json!({"required": operation.optional_body.is_none(), "content": content});
    }
    Ok(described)
}

fn parameters(route: &Route, operation: &Operation) -> Result<Vec<Value>, String> {
    let segments = route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}'));
    let mut parameters: Vec<Value> = segments
        .map(|name| json!({"name": name, "in": "path", "required": true, "schema": {"type": "string", "minLength": 1}}))
        .collect();
    for (name, text) in &operation.query {
        let property = notation::property(text)?;
        parameters.push(json!({"name": name, "in": "query", "required": property.required, "schema": property.schema}));
    }
    if let Some(beta) = route.beta.accepted().first() {
        let schema = json!({"type": "string", "const": beta});
        parameters.push(json!({"name": "anthropic-beta", "in": "header", "required": true, "schema": schema}));
    }
    Ok(parameters)
}

fn content(operation: &Operation) -> Option<Value> {
    match operation {
        Operation { body: Some(schema), .. } | Operation { optional_body: Some(schema), .. } => {
            Some(json!({JSON: {"schema": notation::reference(schema)}}))
        }
        Operation { form: Some(schema), .. } => {
            Some(json!({"multipart/form-data": {"schema": notation::reference(schema)}}))
        }
        Operation { bytes: true, .. } => Some(json!({"application/octet-stream": {}})),
        _ => None,
    }
}

fn answer(operation: &Operation) -> Value {
    let schema = match operation {
        Operation { media: Some(media), .. } => {
            return json!({"description": "Served.", "content": {media.as_str(): {}}});
        }
        Operation { answer: Some(schema), .. } => notation::reference(schema),
        Operation { list: Some(schema), .. } => json!({
            "type": "object",
            "required": ["data"],
            "properties": {
                "data": {"type": "array", "items": notation::reference(schema)},
                "next_page": {"type": ["string", "null"]},
            },
        }),
        _ => json!({}),
    };
    json!({"description": "Served.", "content": {JSON: {"schema": schema}}})
}

/// Who may call, in words.
fn callers(route: &Route) -> String {
    let word = |kind: &Kind| match kind {
        Kind::Operator => Some("the operator over the socket in the data directory"),
        Kind::ApiKey => Some("an API key"),
        Kind::EnvironmentKey => Some("an environment key"),
        Kind::SessionToken => Some("a session token"),
        Kind::TunnelToken => Some("a tunnel token"),
        Kind::EndedSessionToken => None,
    };
    route.allowed.iter().filter_map(word).collect::<Vec<_>>().join(", ")
}

fn method(method: Method) -> &'static str {
    match method {
        Method::Get => "get",
        Method::Post | Method::Upload => "post",
        Method::Patch => "patch",
        Method::Delete => "delete",
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_route_is_described_and_every_description_is_a_routes() {
        let document = made().unwrap();
        for route in ROUTES {
            let described = &document["paths"][route.path][method(route.method)];
            assert!(described.is_object(), "{}", route.path);
            assert!(described["responses"]["200"]["content"].is_object(), "{} answers something", route.name);
        }
        let operations: BTreeMap<String, Operation> = toml::from_str(OPERATIONS).unwrap();
        let names: BTreeSet<&str> = ROUTES.iter().map(|route| route.name).collect();
        let stale: Vec<_> = operations.keys().filter(|name| !names.contains(name.as_str())).collect();
        assert!(stale.is_empty(), "no route has these: {stale:?}");
        let silent: Vec<_> = names.iter().filter(|name| !operations.contains_key(**name)).collect();
        assert!(silent.is_empty(), "the data says nothing of these: {silent:?}");
    }

    #[test]
    fn every_schema_that_is_named_is_there_and_every_one_there_is_named() {
        let document = made().unwrap();
        let text = document.to_string();
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let named: BTreeSet<&str> =
            text.split("\"#/components/schemas/").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        let there: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
        assert_eq!(named, there);
    }
}
