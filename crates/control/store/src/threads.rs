//! Threads as stored: whose agent works in each and what its part of the log comes to. What a thread *does* is in the log.

use postern_model::agent::{Mind, ThreadAgent};
use postern_model::ids::{SessionId, ThreadId, WorkflowRunId};
use postern_model::page::Cursor;
use postern_model::session::{SessionStatus, Stats, Thread, ThreadTag, Usage};
use postern_model::{Problem, Timestamp};
use serde::{Deserialize, Serialize};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::events::Log;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::sessions::Record;
use crate::{Connection, StoreError, Tx};

/// What a thread's part of the log comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What it does.
    pub status: SessionStatus,
    /// Its times and tokens.
    pub sums: Sums,
}

/// Times and tokens of a thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sums {
    /// Tokens, and seconds of running without the present run.
    pub usage: Usage,
    /// Since when it runs.
    pub active_since: Option<Timestamp>,
    /// Whether it ever ran.
    pub has_run: bool,
    /// Whether it was ever idle after running.
    pub has_been_idle: bool,
}

/// Which threads a list shows.
#[derive(Clone, Debug, Default)]
pub struct ThreadList {
    /// How many at most.
    pub limit: u32,
    /// Where the page before this one ended.
    pub after: Option<Cursor>,
    /// Only those that are in one of these; empty means all.
    pub statuses: Vec<SessionStatus>,
}

/// A thread as stored.
#[derive(Clone, Debug, PartialEq)]
struct Stored {
    id: ThreadId,
    parent_id: Option<ThreadId>,
    workflow_run_id: Option<WorkflowRunId>,
    /// Null for a primary thread.
    agent: Option<Mind>,
    /// Null for one that does what its session does.
    progress: Option<Progress>,
    created_at: Timestamp,
    updated_at: Option<Timestamp>,
    archived_at: Option<Timestamp>,
}

/// What a thread begins with.
#[derive(Clone, Debug)]
pub struct Beginning {
    /// Who thinks in it.
    pub mind: Mind,
    /// The run of a workflow that creates it, where one does.
    pub workflow_run_id: Option<WorkflowRunId>,
}

/// Stores a thread that works for the one of this log.
///
/// # Errors
/// The database failed.
pub async fn create(tx: &mut Tx, log: &Log, id: &ThreadId, of: &Beginning, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query(
        "INSERT INTO threads (workspace_id, id, session_id, parent_id, agent, workflow_run_id, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
    )
    .bind(log.workspace.as_str())
    .bind(id.as_str())
    .bind(log.session.as_str())
    .bind(log.thread.as_str())
    .bind(json(&of.mind))
    .bind(of.workflow_run_id.as_ref().map(WorkflowRunId::as_str))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Stores what a thread's part of the log has come to.
///
/// # Errors
/// The database failed.
pub async fn save_progress(tx: &mut Tx, id: &ThreadId, progress: &Progress, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE threads SET status = ?2, progress = ?3, updated_at = ?4 WHERE id = ?1")
        .bind(id.as_str())
        .bind(progress.status.as_str())
        .bind(json(&progress.sums))
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Stores the agent of a thread, which changed with the session's.
///
/// # Errors
/// The database failed.
pub async fn save_agent(tx: &mut Tx, id: &ThreadId, agent: &Mind) -> Result<(), StoreError> {
    sqlx::query("UPDATE threads SET agent = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(json(agent))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Stores that a thread was archived.
///
/// # Errors
/// The database failed.
pub async fn archive(tx: &mut Tx, id: &ThreadId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE threads SET archived_at = ?2, updated_at = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// One thread of a session.
///
/// # Errors
/// Refused with 404 `thread_not_found`; or the database failed.
pub async fn required(
    connection: &mut Connection,
    session: &Record,
    id: &ThreadId,
    now: Timestamp,
) -> Result<Thread, StoreError> {
    let row = sqlx::query("SELECT * FROM threads WHERE session_id = ?1 AND id = ?2")
        .bind(session.id.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    match row {
        Some(row) => Ok(stored(&row)?.render(session, now)),
        None => Err(not_found(&session.id, id).into()),
    }
}

/// What a caller is told of a thread that a session does not have.
pub fn not_found(session: &SessionId, id: &ThreadId) -> Problem {
    Problem::not_found(format!("Thread {id} was not found in session {session}.")).with_code("thread_not_found")
}

/// A page of a session's threads, oldest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    session: &Record,
    query: &ThreadList,
    now: Timestamp,
) -> Result<Vec<Thread>, StoreError> {
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM threads WHERE session_id = ");
    sql.push_bind(session.id.as_str());
    if !query.statuses.is_empty() {
        sql.push(" AND COALESCE(status, ").push_bind(session.progress.status.as_str()).push(") IN (");
        let mut statuses = sql.separated(", ");
        for status in &query.statuses {
            statuses.push_bind(status.as_str());
        }
        sql.push(")");
    }
    if let Some(after) = &query.after {
        sql.push(" AND (created_at, id) > (").push_bind(after.key).push(", ").push_bind(&after.id).push(")");
    }
    sql.push(" ORDER BY created_at, id LIMIT ").push_bind(i64::from(query.limit) + 1);
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(|row| Ok(stored(row)?.render(session, now))).collect()
}

impl Stored {
    /// The thread as the contract shows it.
    fn render(self, session: &Record, now: Timestamp) -> Thread {
        let Self { id, parent_id, workflow_run_id, agent, progress, created_at, updated_at, archived_at } = self;
        let progress = progress.unwrap_or_else(|| of_session(session));
        let Progress { status, sums } = progress;
        let updated_at = updated_at.unwrap_or(session.updated_at);
        let running = sums.active_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0));
        let active_seconds = sums.usage.active_seconds + running;
        let end = if status == SessionStatus::Terminated { updated_at } else { now };
        let duration_seconds = end.duration_since(created_at).as_secs_f64().max(0.0);
        Thread {
            id,
            kind: ThreadTag::SessionThread,
            session_id: session.id.clone(),
            agent: agent.unwrap_or_else(|| Mind::Agent(Box::new(ThreadAgent::from(session.agent.clone())))),
            status,
            parent_thread_id: parent_id,
            created_at,
            updated_at,
            // Nothing of an archived session goes on.
            archived_at: archived_at.or(session.archived_at),
            stats: sums.has_run.then_some(Stats { active_seconds, duration_seconds }),
            usage: sums.has_been_idle.then_some(Usage { active_seconds, ..sums.usage }),
            workflow_run_id,
        }
    }
}

fn of_session(session: &Record) -> Progress {
    let progress = &session.progress;
    Progress {
        status: progress.status,
        sums: Sums {
            usage: progress.usage,
            active_since: progress.active_since,
            has_run: progress.has_run,
            has_been_idle: progress.has_been_idle,
        },
    }
}

fn stored(row: &SqliteRow) -> Result<Stored, StoreError> {
    let optional_id = |id: Option<String>| id.map(|id| parsed(ThreadId::parse(&id), "threads.parent_id")).transpose();
    let status: Option<String> = row.try_get("status")?;
    let sums: Option<String> = row.try_get("progress")?;
    let agent: Option<String> = row.try_get("agent")?;
    let run: Option<String> = row.try_get("workflow_run_id")?;
    let progress = match (status, sums) {
        (Some(status), Some(sums)) => Some(Progress {
            status: SessionStatus::parse(&status).ok_or(StoreError::Corrupt { what: "threads.status" })?,
            sums: from_json(&sums, "threads.progress")?,
        }),
        _ => None,
    };
    Ok(Stored {
        id: parsed(ThreadId::parse(row.try_get("id")?), "threads.id")?,
        parent_id: optional_id(row.try_get("parent_id")?)?,
        workflow_run_id: run.map(|id| parsed(WorkflowRunId::parse(&id), "threads.workflow_run_id")).transpose()?,
        agent: agent.map(|agent| from_json(&agent, "threads.agent")).transpose()?,
        progress,
        created_at: instant(row.try_get("created_at")?, "threads.created_at")?,
        updated_at: optional_instant(row.try_get("updated_at")?, "threads.updated_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "threads.archived_at")?,
    })
}
