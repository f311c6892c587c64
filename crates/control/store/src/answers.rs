//! Answers to creations that carried an idempotency key: stored with what was created, and given again to who asks again.

use std::time::Duration;

use postern_model::ids::WorkspaceId;
use postern_model::{Problem, Timestamp};
use serde::Serialize;
use sqlx::Row;

use crate::row::{digest, json, micros};
use crate::{Connection, StoreError, Tx, encrypted};

/// How long an answer is given again.
const KEPT_FOR: Duration = Duration::from_secs(24 * 3600);

/// A request that shall have its effect once.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Once {
    workspace: WorkspaceId,
    scope: String,
    request: String,
}

/// What a request with a key says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// Whose keys these are: a workspace, and in it a caller by the name of its credential.
    pub workspace: &'a WorkspaceId,
    /// The caller.
    pub caller: &'a str,
    /// The route, with its method.
    pub route: &'a str,
    /// The key.
    pub key: &'a str,
    /// Path and query as they were sent.
    pub target: &'a str,
    /// The body as it was sent.
    pub body: &'a [u8],
}

impl Asked<'_> {
    /// The same as digests. The key goes into both: whoever reads the database has to guess it before it can guess at a body.
    pub fn once(&self) -> Once {
        let scope = [self.workspace.as_str(), self.caller, self.route, self.key].map(str::as_bytes);
        let request = [self.key.as_bytes(), self.target.as_bytes(), self.body];
        Once { workspace: self.workspace.clone(), scope: digest(&scope), request: digest(&request) }
    }
}

/// The answer that the same request had before, within 24 hours.
///
/// # Errors
/// Refused with 409 `idempotency_key_reused` where the key came with another request; or the database failed.
pub async fn earlier(connection: &mut Connection, once: &Once, now: Timestamp) -> Result<Option<String>, StoreError> {
    let cipher = connection.cipher();
    let row = sqlx::query("SELECT request, answer FROM request_answers WHERE scope = ?1 AND created_at > ?2")
        .bind(&once.scope)
        .bind(micros(oldest(now)))
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    if row.try_get::<String, _>("request")? != once.request {
        let message = "This Idempotency-Key came with another request before. Send a key of its own with each request.";
        return Err(Problem::conflict(message).with_code("idempotency_key_reused").into());
    }
    let names = encrypted::of_answer(&once.workspace, &once.scope);
    Ok(Some(cipher.open(row.try_get("answer")?, encrypted::answer(&names))?))
}

/// Stores the answer with what was created; forgets those that are no longer given.
///
/// # Errors
/// Refused with 409 where the same key was used meanwhile: [`earlier`] knows the answer then. Or the database failed.
pub async fn remember<T: Serialize + ?Sized>(
    tx: &mut Tx,
    once: &Once,
    answer: &T,
    now: Timestamp,
) -> Result<(), StoreError> {
    forget_old(tx, now).await?;
    let names = encrypted::of_answer(&once.workspace, &once.scope);
    let answer = tx.cipher().seal(json(answer), encrypted::answer(&names))?;
    let stored = sqlx::query(
        "INSERT INTO request_answers (workspace_id, scope, request, answer, created_at) VALUES (?1, ?2, ?3, ?4, ?5) \
         ON CONFLICT (scope) DO NOTHING",
    )
    .bind(once.workspace.as_str())
    .bind(&once.scope)
    .bind(&once.request)
    .bind(answer)
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    match stored.rows_affected() {
        1 => Ok(()),
        _ => Err(Problem::conflict("A request with this Idempotency-Key was answered meanwhile.").into()),
    }
}

/// Forgets answers that are no longer given.
///
/// # Errors
/// The database failed.
pub async fn forget_old(tx: &mut Tx, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM request_answers WHERE created_at <= ?1")
        .bind(micros(oldest(now)))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

fn oldest(now: Timestamp) -> Timestamp {
    now.saturating_sub(KEPT_FOR).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    fn asked<'a>(workspace: &'a WorkspaceId, key: &'a str, body: &'a str) -> Asked<'a> {
        Asked {
            workspace,
            caller: "apikey_1",
            route: "POST /v1/vaults",
            key,
            target: "/v1/vaults",
            body: body.as_bytes(),
        }
    }

    fn hours(count: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_hours(count)
    }

    #[tokio::test]
    async fn an_answer_is_given_again_for_a_day() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("control.db")).await.unwrap();
        let workspace = WorkspaceId::default();
        let once = asked(&workspace, "k", "{}").once();
        let mut tx = store.write().await.unwrap();
        assert_eq!(earlier(&mut tx, &once, hours(0)).await.unwrap(), None);
        remember(&mut tx, &once, &1, hours(0)).await.unwrap();
        assert_eq!(earlier(&mut tx, &once, hours(23)).await.unwrap().as_deref(), Some("1"));
        assert!(remember(&mut tx, &once, &2, hours(23)).await.is_err(), "the first stays");
        assert_eq!(earlier(&mut tx, &once, hours(24)).await.unwrap(), None);
        remember(&mut tx, &once, &3, hours(24)).await.unwrap();
        assert_eq!(earlier(&mut tx, &once, hours(25)).await.unwrap().as_deref(), Some("3"));
    }

    #[test]
    fn every_part_of_a_request_counts() {
        let (workspace, other) = (WorkspaceId::default(), WorkspaceId::generate());
        let first = asked(&workspace, "k", "{}");
        for scope in [
            Asked { workspace: &other, ..first },
            Asked { caller: "apikey_2", ..first },
            Asked { route: "POST /v1/agents", ..first },
            Asked { key: "l", ..first },
        ] {
            assert_ne!(scope.once().scope, first.once().scope, "{scope:?}");
        }
        for request in [Asked { target: "/v1/vaults?a=1", ..first }, Asked { body: b"{ }", ..first }] {
            assert_eq!(request.once().scope, first.once().scope, "{request:?}");
            assert_ne!(request.once().request, first.once().request, "{request:?}");
        }
    }
}
