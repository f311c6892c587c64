//! `Idempotency-Key`: a creation that comes again, because its answer was lost, creates nothing and is answered as before.
//!
//! The answer is stored in the transaction of what it tells of: there is no moment in which one of the two is there alone.

mod taken;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue};
use postern_model::Problem;
use postern_model::ids::WorkspaceId;
use postern_secret::key::fingerprint;
use postern_store::Tx;
use postern_store::answers::{self, Asked, Once};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use self::taken::{Again, Creation, creation};
use crate::app::{App, problem};
use crate::caller::Caller;
use crate::dispatch::Call;
use crate::handlers::{events, memories};
use crate::multipart::Contents;
use crate::reply::Reply;
use crate::routes::Route;

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
    creation: &'static Creation,
    key: String,
    target: String,
}

impl Keyed {
    /// The same with its body, or what stands for it.
    ///
    /// # Errors
    /// 503 where there is a secret in the body, and this server has no key of its own to compare it under.
    pub(crate) fn with(&self, app: &App, body: &[u8]) -> Result<Once, Problem> {
        match self.creation.body {
            taken::Body::Plain => Ok(self.of(body)),
            taken::Body::Confidential => Ok(self.of(&fingerprint(&app.tunnels()?.parts.server_key, body))),
        }
    }

    fn of(&self, body: &[u8]) -> Once {
        let Self { workspace, caller, route, key, target, .. } = self;
        Asked { workspace, caller, route, key, target, body }.once()
    }

    /// What the same request was answered before, from what is stored of it.
    async fn again(&self, app: &App, stored: String, body: &[u8]) -> Result<Reply, Problem> {
        let json = match self.creation.again {
            Again::FromTheLog => events::told_again(app, &self.workspace, &stored).await?,
            Again::AsBefore => stored.into_bytes(),
            Again::WithItsText => memories::told_again(&stored, self.query(), body)?,
            Again::Refused { secret, next_step } => return Err(not_shown_again(&stored, secret, next_step)?),
        };
        Ok(Reply::JsonWith(json, (REPLAYED, HeaderValue::from_static("true"))))
    }

    fn query(&self) -> &str {
        self.target.split_once('?').map_or("", |(_, query)| query)
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
    let (Some(creation), Some(key)) = (creation(route), sent.next()) else { return Ok(None) };
    let key = key.to_str().ok().filter(|key| (1..=LONGEST_KEY).contains(&key.len()) && sent.next().is_none());
    let key = key.ok_or_else(|| {
        Problem::invalid_at(
            "Idempotency-Key",
            format!("must be one text of 1 to {LONGEST_KEY} visible ASCII characters"),
        )
    })?;
    let (workspace, caller) = (caller.workspace(), caller.log_name());
    let (key, target) = (key.to_owned(), target.to_owned());
    Ok(Some(Keyed { workspace, caller, route: route.path, creation, key, target }))
}

/// A request with a key and its body.
pub(crate) struct Told {
    pub(crate) once: Once,
    keyed: Keyed,
    /// Kept where what is answered again is made of it.
    body: Bytes,
}

impl Told {
    /// # Errors
    /// As [`Keyed::with`].
    pub(crate) fn new(app: &App, keyed: &Keyed, body: &Bytes) -> Result<Self, Problem> {
        let kept = match keyed.creation.again {
            Again::WithItsText => body.clone(),
            Again::AsBefore | Again::FromTheLog | Again::Refused { .. } => Bytes::new(),
        };
        Ok(Self { once: keyed.with(app, body)?, keyed: keyed.clone(), body: kept })
    }

    /// The answer that the request had before.
    ///
    /// # Errors
    /// 409 `idempotency_key_reused` or `secret_shown_once`, or the store failed.
    pub(crate) async fn earlier(&self, app: &App) -> Result<Option<Reply>, Problem> {
        let stored = stored(app, &self.once).await?;
        match stored {
            Some(answer) => self.keyed.again(app, answer, &self.body).await.map(Some),
            None => Ok(None),
        }
    }

    /// The answer to a request with a key that was tried: where another with the same key was faster, what that one was answered.
    pub(crate) async fn settle(&self, app: &App, answered: Result<Reply, Problem>) -> Result<Reply, Problem> {
        match answered {
            Ok(reply) => Ok(first(reply)),
            Err(refused) => self.earlier(app).await?.ok_or(refused),
        }
    }
}

async fn stored(app: &App, once: &Once) -> Result<Option<String>, Problem> {
    let mut connection = app.store.read().await.map_err(problem)?;
    answers::earlier(&mut connection, once, app.now()).await.map_err(problem)
}

fn first(reply: Reply) -> Reply {
    match reply {
        Reply::Json(json) => Reply::JsonWith(json, (REPLAYED, HeaderValue::from_static("false"))),
        other => other,
    }
}

fn not_shown_again(stored: &str, secret: &str, next_step: &str) -> Result<Problem, Problem> {
    #[derive(Deserialize)]
    struct Made {
        id: String,
    }
    let Made { id } = serde_json::from_str(stored).map_err(|_| Problem::internal())?;
    let next_step = next_step.replace("{id}", &id);
    let message =
        format!("This request made {id} before. Its {secret} was shown in that answer and is not kept. {next_step}");
    Ok(Problem::conflict(message).with_code("secret_shown_once").with_detail("id", id))
}

impl Call {
    /// The answer that the same form had before, now that all of it has arrived.
    ///
    /// # Errors
    /// As [`Told::earlier`].
    pub(crate) async fn arrived(&mut self, contents: &Contents) -> Result<Option<Reply>, Problem> {
        let Some(keyed) = &self.keyed else { return Ok(None) };
        let told = Told::new(&self.app, keyed, &Bytes::copy_from_slice(contents.digest().as_ref()))?;
        self.once = Some(told.once.clone());
        let earlier = told.earlier(&self.app).await?;
        self.told = Some(told);
        Ok(earlier)
    }

    /// The answer to a form that was tried, as [`Told::settle`] gives it.
    ///
    /// # Errors
    /// Why it was refused, or as [`Told::earlier`].
    pub(crate) async fn settled(&self, answered: Result<Reply, Problem>) -> Result<Reply, Problem> {
        match &self.told {
            Some(told) => told.settle(&self.app, answered).await,
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
