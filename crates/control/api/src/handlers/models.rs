//! The models of the configured endpoint (contract 1.14).

use postern_model::Problem;
use postern_model::model_info::ModelInfo;
use postern_model::page::IdPage;

use crate::dispatch::Call;
use crate::reply::Reply;

pub(crate) async fn list(mut call: Call) -> Result<Reply, Problem> {
    let lifecycle = lifecycle(call.query.array("lifecycle"))?;
    let limit = usize::try_from(call.query.limit(20, 1000)?).unwrap_or(usize::MAX);
    let (after, before) = (call.query.text("after_id")?, call.query.text("before_id")?);
    call.query.finish()?;
    if after.is_some() && before.is_some() {
        return Err(Problem::invalid_at("before_id", "cannot be combined with `after_id`"));
    }
    let mut models = call.app.engine.models().await;
    models.retain(|model| lifecycle.contains(&model.lifecycle));
    Reply::json(&cut(models, limit, after.as_deref(), before.as_deref()))
}

pub(crate) async fn get(call: Call) -> Result<Reply, Problem> {
    let id = call.parameter("model").to_owned();
    call.query.finish()?;
    let found = call.app.engine.model_named(&id).await;
    Reply::json(&found.ok_or_else(|| Problem::not_found("The model endpoint knows no model by this name."))?)
}

fn lifecycle(mut words: Vec<String>) -> Result<Vec<String>, Problem> {
    if words.len() > 3 || words.iter().any(|word| !["active", "deprecated", "retired"].contains(&word.as_str())) {
        return Err(Problem::invalid_at("lifecycle[]", "must be `active`, `deprecated` or `retired`"));
    }
    if words.is_empty() {
        words = vec!["active".to_owned(), "deprecated".to_owned()];
    }
    Ok(words)
}

/// The page behind `after`, or the one that ends before `before`. An id that is gone gives an empty page.
fn cut(models: Vec<ModelInfo>, limit: usize, after: Option<&str>, before: Option<&str>) -> IdPage<ModelInfo> {
    let position = |id: &str| models.iter().position(|model| model.id == id);
    let (start, end, has_more) = match (after, before) {
        (Some(id), _) => {
            let start = position(id).map_or(models.len(), |index| index + 1);
            let end = models.len().min(start.saturating_add(limit));
            (start, end, end < models.len())
        }
        (None, Some(id)) => {
            let end = position(id).unwrap_or(0);
            let start = end.saturating_sub(limit);
            (start, end, start > 0)
        }
        (None, None) => (0, models.len().min(limit), models.len() > limit),
    };
    let data: Vec<ModelInfo> = models.into_iter().take(end).skip(start).collect();
    IdPage {
        has_more,
        first_id: data.first().map(|model| model.id.clone()),
        last_id: data.last().map(|model| model.id.clone()),
        data,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(limit: usize, after: Option<&str>, before: Option<&str>) -> (Vec<String>, bool) {
        let models = ["a", "b", "c", "d"].map(ModelInfo::unknown).to_vec();
        let page = cut(models, limit, after, before);
        (page.data.into_iter().map(|model| model.id).collect(), page.has_more)
    }

    #[test]
    fn pages_follow_and_precede_an_id() {
        for (limit, after, before, expected, more) in [
            (2, None, None, &["a", "b"][..], true),
            (9, None, None, &["a", "b", "c", "d"], false),
            (2, Some("b"), None, &["c", "d"], false),
            (1, Some("b"), None, &["c"], true),
            (2, None, Some("d"), &["b", "c"], true),
            (9, None, Some("b"), &["a"], false),
            (2, Some("d"), None, &[], false),
            (2, Some("gone"), None, &[], false),
            (2, None, Some("gone"), &[], false),
        ] {
            let (found, has_more) = ids(limit, after, before);
            assert_eq!(
                (found, has_more),
                (expected.iter().map(ToString::to_string).collect(), more),
                "{after:?} {before:?}"
            );
        }
    }
}
