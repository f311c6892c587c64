//! `Idempotency-Key`: a creation that comes again, because its answer was lost, creates nothing and is answered as before.
//!
//! The answer is stored in the transaction of what it tells of: there is no moment in which one of the two is there alone.

use http::{HeaderMap, HeaderValue};
use postern_model::Problem;
use postern_model::ids::WorkspaceId;
use postern_store::Tx;
use postern_store::answers::{self, Asked, Once};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::app::{App, problem};
use crate::caller::Caller;
use crate::dispatch::Call;
use crate::multipart::Contents;
use crate::reply::Reply;
use crate::routes::{Method, Route};

/// The creations that take a key. Not those whose answer has a secret or whose body has one: neither is kept. Nor those that
/// a second try of meets by a name that is taken.
const TAKEN: &[&str] = &[
    "/v1/agents",
    "/v1/deployments",
    "/v1/deployments/{deployment}/run",
    "/v1/environments",
    "/v1/files",
    "/v1/memory_stores",
    "/v1/sessions",
    "/v1/skills",
    "/v1/skills/{skill}/versions",
    "/v1/tunnels",
    "/v1/vaults",
];
const HEADER: &str = "idempotency-key";
const LONGEST_KEY: usize = 255;
/// Says on the answer of a creation with a key whether it was given before.
const REPLAYED: &str = "idempotency-replayed";

/// A request with a key whose body is not known yet.
#[derive(Clone, Debug)]
pub(crate) struct Keyed {
    workspace: WorkspaceId,
    caller: String,
    route: &'static str,
    key: String,
    target: String,
}

impl Keyed {
    /// The same with its body, or what stands for it.
    pub(crate) fn with(&self, body: &[u8]) -> Once {
        let Self { workspace, caller, route, key, target } = self;
        Asked { workspace, caller, route, key, target, body }.once()
    }
}

/// What a request with a key is, on a route that takes one.
///
/// # Errors
/// 400 when the key is none.
pub(crate) fn of(
    route: &'static Route,
    caller: &Caller,
    headers: &HeaderMap,
    target: &str,
) -> Result<Option<Keyed>, Problem> {
    let mut sent = headers.get_all(HEADER).iter();
    let creates = matches!(route.method, Method::Post | Method::Upload) && TAKEN.contains(&route.path);
    let Some(key) = sent.next().filter(|_| creates) else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()) && sent.next().is_none());
    let key = key.ok_or_else(|| {
        Problem::invalid_at(
            "Idempotency-Key",
            format!("must be one text of 1 to {LONGEST_KEY} visible ASCII characters"),
        )
    })?;
    let (workspace, caller) = (caller.workspace(), caller.log_name());
    let (key, target) = (key.to_owned(), target.to_owned());
    Ok(Some(Keyed { workspace, caller, route: route.path, key, target }))
}

/// The answer that the request had before.
///
/// # Errors
/// 409 `idempotency_key_reused`, or the store failed.
pub(crate) async fn earlier(app: &App, once: &Once) -> Result<Option<Reply>, Problem> {
    let mut connection = app.store.read().await.map_err(problem)?;
    let answer = answers::earlier(&mut connection, once, app.now()).await.map_err(problem)?;
    Ok(answer.map(|json| Reply::JsonWith(json.into_bytes(), (REPLAYED, HeaderValue::from_static("true")))))
}

/// The answer to a request with a key that was tried: where another with the same key was faster, what that one was answered.
pub(crate) async fn settle(app: &App, once: &Once, answered: Result<Reply, Problem>) -> Result<Reply, Problem> {
    match answered {
        Ok(Reply::Json(json)) => Ok(Reply::JsonWith(json, (REPLAYED, HeaderValue::from_static("false")))),
        Ok(other) => Ok(other),
        Err(refused) => match earlier(app, once).await? {
            Some(reply) => Ok(reply),
            None => Err(refused),
        },
    }
}

impl Call {
    /// The answer that the same form had before, now that all of it has arrived.
    ///
    /// # Errors
    /// As [`earlier`].
    pub(crate) async fn arrived(&mut self, contents: &Contents) -> Result<Option<Reply>, Problem> {
        self.once = self.keyed.as_ref().map(|keyed| keyed.with(contents.digest().as_ref()));
        match &self.once {
            Some(once) => earlier(&self.app, once).await,
            None => Ok(None),
        }
    }

    /// The answer to a form that was tried, as [`settle`] gives it.
    ///
    /// # Errors
    /// Why it was refused, or as [`earlier`].
    pub(crate) async fn settled(&self, answered: Result<Reply, Problem>) -> Result<Reply, Problem> {
        match &self.once {
            Some(once) => settle(&self.app, once, answered).await,
            None => answered,
        }
    }

    /// Stores an answer that is written already where the caller gave a key for it.
    ///
    /// # Errors
    /// As [`Call::created`].
    pub(crate) async fn remember_json(&self, tx: &mut Tx, json: &[u8]) -> Result<(), Problem> {
        let answer: &RawValue = serde_json::from_slice(json).map_err(|_| Problem::internal())?;
        self.remember(tx, answer).await
    }

    /// Commits what was created, with its answer where the caller gave a key for it.
    ///
    /// # Errors
    /// The store failed, or another request with the same key was faster.
    pub(crate) async fn created<T: Serialize>(&self, mut tx: Tx, object: &T) -> Result<Reply, Problem> {
        self.remember(&mut tx, object).await?;
        tx.commit().await.map_err(problem)?;
        Reply::json(object)
    }

    /// Stores the answer where the caller gave a key for it.
    ///
    /// # Errors
    /// As [`Call::created`].
    pub(crate) async fn remember<T: Serialize + ?Sized>(&self, tx: &mut Tx, object: &T) -> Result<(), Problem> {
        match &self.once {
            Some(once) => answers::remember(tx, once, object, self.app.now()).await.map_err(problem),
            None => Ok(()),
        }
    }
}
