//! The endpoint's list of models, in the two shapes that endpoints answer with.

use postern_model::Timestamp;
use postern_model::model_info::ModelInfo;
use serde_json::Value;

/// Reads `{data: [{id, display_name, created_at, ...}]}` and `{data: [{id, created, ...}]}`, newest first. `None` when the
/// answer is neither.
pub(crate) fn read(body: &[u8]) -> Option<Vec<ModelInfo>> {
    let body: Value = serde_json::from_slice(body).ok()?;
    let mut models: Vec<_> = body["data"].as_array()?.iter().filter_map(model).collect();
    models.sort_by_key(|model| std::cmp::Reverse(model.created_at));
    Some(models)
}

/// Reads one model. `None` when the answer is none.
pub(crate) fn read_one(body: &[u8]) -> Option<ModelInfo> {
    model(&serde_json::from_slice(body).ok()?)
}

fn model(entry: &Value) -> Option<ModelInfo> {
    let mut model = ModelInfo::unknown(entry["id"].as_str()?);
    let text = |key: &str| entry[key].as_str().map(str::to_owned);
    let time = |key: &str| entry[key].as_str().and_then(|text| text.parse::<Timestamp>().ok());
    let created = entry["created"].as_i64().and_then(|seconds| Timestamp::from_second(seconds).ok());
    if let Some(at) = time("created_at").or(created) {
        model.created_at = at;
    }
    if let Some(name) = text("display_name") {
        model.display_name = name;
    }
    if let Some(lifecycle) =
        text("lifecycle").filter(|word| ["active", "deprecated", "retired"].contains(&word.as_str()))
    {
        model.lifecycle = lifecycle;
    }
    model.line = text("line");
    model.deprecated_at = time("deprecated_at");
    model.retires_at = time("retires_at");
    model.max_input_tokens = entry["max_input_tokens"].as_u64().or_else(|| entry["max_model_len"].as_u64());
    model.allowed_fallback_models = entry["allowed_fallback_models"]
        .as_array()
        .map(|names| names.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect());
    model.max_tokens = entry["max_tokens"].as_u64();
    model.capabilities = Some(entry["capabilities"].clone()).filter(Value::is_object);
    Some(model)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_shapes_are_read_newest_first() {
        let ours = br#"{"data":[{"type":"model","id":"a","display_name":"A","created_at":"2026-01-01T00:00:00Z"},
            {"type":"model","id":"b","created_at":"2026-02-01T00:00:00Z","max_tokens":5,
             "lifecycle":"retired","allowed_fallback_models":["a"]}],"has_more":false}"#;
        let models = read(ours).unwrap();
        assert_eq!(models.iter().map(|m| m.id.as_str()).collect::<Vec<_>>(), ["b", "a"]);
        assert_eq!((models[0].max_tokens, models[0].display_name.as_str()), (Some(5), "b"));
        assert_eq!((models[0].lifecycle.as_str(), models[1].lifecycle.as_str()), ("retired", "active"));
        assert_eq!(models[0].allowed_fallback_models.as_deref(), Some(&["a".to_owned()][..]));
        assert_eq!(models[1].allowed_fallback_models, None);

        let theirs =
            br#"{"object":"list","data":[{"id":"qwen","object":"model","created":1700000000,"max_model_len":8192}]}"#;
        let models = read(theirs).unwrap();
        assert_eq!(models[0].created_at, Timestamp::from_second(1_700_000_000).unwrap());
        assert_eq!(models[0].max_input_tokens, Some(8192));
    }

    #[test]
    fn anything_else_is_no_list() {
        for body in ["", "[]", "{}", "<html>", r#"{"data":1}"#] {
            assert!(read(body.as_bytes()).is_none(), "{body}");
        }
    }
}
