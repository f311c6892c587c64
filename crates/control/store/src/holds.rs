//! What an operator holds back of a session: frozen until it is thawed, its grants revoked for good. Kept so that a process
//! which was not there when it was said is told when it comes. Never says whether anybody obeys.

use postern_model::Timestamp;
use postern_model::ids::{EnvironmentId, SessionId, WorkspaceId};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::row::{micros, parsed};
use crate::{Connection, StoreError, Tx};

/// How a session is held.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Hold {
    /// Nothing of it runs or leaves.
    pub frozen: bool,
    /// Its secrets are gone for good.
    pub grants_revoked: bool,
}

/// What an operator says about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Saying {
    /// Nothing of it runs or leaves any more.
    Freeze,
    /// It goes on.
    Thaw,
    /// Its secrets are dropped for good.
    RevokeGrants,
}

/// Notes what was said. A thaw wakes the pollers: work that was held back is handed out again.
///
/// # Errors
/// The database failed, or the session is gone.
pub async fn say(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    session: &SessionId,
    saying: Saying,
    now: Timestamp,
) -> Result<(), StoreError> {
    let column = match saying {
        Saying::Freeze => "frozen_at",
        Saying::RevokeGrants => "grants_revoked_at",
        Saying::Thaw => {
            let thaw = "UPDATE session_holds SET frozen_at = NULL WHERE workspace_id = ?1 AND session_id = ?2";
            sqlx::query(thaw).bind(workspace.as_str()).bind(session.as_str()).execute(&mut **tx).await?;
            tx.wake_pollers();
            return Ok(());
        }
    };
    let statement = format!(
        "INSERT INTO session_holds (workspace_id, session_id, {column}) VALUES (?1, ?2, ?3) \
         ON CONFLICT (session_id) DO UPDATE SET {column} = COALESCE(session_holds.{column}, excluded.{column})"
    );
    let statement = sqlx::query(sqlx::AssertSqlSafe(statement));
    let statement = statement.bind(workspace.as_str()).bind(session.as_str()).bind(micros(now));
    statement.execute(&mut **tx).await?;
    Ok(())
}

/// How a session is held now.
///
/// # Errors
/// The database failed.
pub async fn of(connection: &mut Connection, session: &SessionId) -> Result<Hold, StoreError> {
    let row = sqlx::query("SELECT * FROM session_holds WHERE session_id = ?1").bind(session.as_str());
    let row = row.fetch_optional(connection).await?;
    Ok(row.as_ref().map(hold).transpose()?.unwrap_or_default())
}

/// The sessions of a workspace, or of one environment there, that are held and not archived: at most `most`, the newest holds first where there are more.
///
/// # Errors
/// The database failed.
pub async fn held(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    environment: Option<&EnvironmentId>,
    most: usize,
) -> Result<Vec<(SessionId, Hold)>, StoreError> {
    let rows = sqlx::query(
        "SELECT h.* FROM session_holds h JOIN sessions s ON s.id = h.session_id \
         WHERE h.workspace_id = ?1 AND s.archived_at IS NULL AND (?3 IS NULL OR s.environment_id = ?3) \
           AND (h.frozen_at IS NOT NULL OR h.grants_revoked_at IS NOT NULL) \
         ORDER BY COALESCE(h.frozen_at, h.grants_revoked_at) DESC, h.session_id LIMIT ?2",
    )
    .bind(workspace.as_str())
    .bind(i64::try_from(most).unwrap_or(i64::MAX))
    .bind(environment.map(EnvironmentId::as_str))
    .fetch_all(connection)
    .await?;
    let read = |row: &SqliteRow| {
        Ok((parsed(SessionId::parse(row.try_get("session_id")?), "session_holds.session_id")?, hold(row)?))
    };
    rows.iter().map(read).collect()
}

fn hold(row: &SqliteRow) -> Result<Hold, StoreError> {
    let is_set = |column| Ok::<_, StoreError>(row.try_get::<Option<i64>, _>(column)?.is_some());
    Ok(Hold { frozen: is_set("frozen_at")?, grants_revoked: is_set("grants_revoked_at")? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Store;

    #[tokio::test]
    async fn of_many_held_sessions_the_newest_are_listed() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("db")).await.unwrap();
        let workspace = WorkspaceId::default();
        let mut tx = store.write().await.unwrap();
        let body = serde_json::from_value(serde_json::json!({"name": "here"})).unwrap();
        crate::environments::create(&mut tx, &workspace, body, Timestamp::UNIX_EPOCH).await.unwrap();
        for number in 1..=3 {
            let session = SessionId::parse(&format!("sesn_{number}")).unwrap();
            sqlx::query(
                "INSERT INTO sessions (workspace_id, id, environment_id, thread_id, agent_id, agent_version, agent, metadata, \
                   status, usage, has_run, has_been_idle, created_at, updated_at) \
                 SELECT workspace_id, ?1, id, 'sthr_' || ?1, 'agent_1', 1, '{}', '{}', 'idle', '{}', TRUE, TRUE, 0, 0 \
                 FROM environments",
            )
            .bind(session.as_str())
            .execute(&mut *tx)
            .await
            .unwrap();
            let at = Timestamp::from_second(number).unwrap();
            say(&mut tx, &workspace, &session, Saying::Freeze, at).await.unwrap();
        }
        let listed = held(&mut tx, &workspace, None, 2).await.unwrap();
        let listed: Vec<_> = listed.iter().map(|(session, _)| session.as_str()).collect();
        assert_eq!(listed, ["sesn_3", "sesn_2"]);
    }
}
