//! Sessions as stored: the record beside the log. What a session *does* is in its log; the columns here are a summary for
//! lists, written in the same transaction.

use std::collections::HashMap;

use postern_model::event::OutcomeEvaluation;
use postern_model::ids::{DeploymentId, EnvironmentId, SessionId, ThreadId, VaultId, WorkspaceId};
use postern_model::money::BudgetLimit;
use postern_model::page::{Cursor, Direction, Order};
use postern_model::resource::Resource;
use postern_model::session::{Session, SessionAgent, SessionStatus, SessionTag, Stats, Usage};
use postern_model::skill::SkillSummary;
use postern_model::webhook::{Happening, Subject};
use postern_model::{Metadata, Timestamp};
use sqlx::sqlite::SqliteRow;
use sqlx::{QueryBuilder, Row, Sqlite};

use crate::cipher::Cipher;
use crate::list::Range;
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, encrypted, webhooks, work};

/// A session's record.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Whose it is.
    pub workspace_id: WorkspaceId,
    /// Its id.
    pub id: SessionId,
    /// Whose workers serve it.
    pub environment_id: EnvironmentId,
    /// Its primary thread.
    pub thread_id: ThreadId,
    /// The snapshot of its agent.
    pub agent: SessionAgent,
    /// The caller's title.
    pub title: Option<String>,
    /// The caller's pairs.
    pub metadata: Metadata,
    /// Where its MCP servers' credentials are looked for, in this order.
    pub vault_ids: Vec<VaultId>,
    /// What it may spend.
    pub budget: Option<BudgetLimit>,
    /// What it is given.
    pub resources: Vec<Resource>,
    /// What its model is told of its agent's skills.
    pub skills: Vec<SkillSummary>,
    /// What started it, if it was a deployment.
    pub deployment_id: Option<DeploymentId>,
    /// What the log comes to.
    pub progress: Progress,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
    /// When it was archived.
    pub archived_at: Option<Timestamp>,
}

/// What a session's log comes to.
#[derive(Clone, Debug, PartialEq)]
pub struct Progress {
    /// What it does.
    pub status: SessionStatus,
    /// Tokens, and seconds of running without the present run.
    pub usage: Usage,
    /// Since when it runs.
    pub active_since: Option<Timestamp>,
    /// Whether it ever ran.
    pub has_run: bool,
    /// Whether it was ever idle after running.
    pub has_been_idle: bool,
    /// Its outcomes, oldest first.
    pub outcomes: Vec<OutcomeEvaluation>,
}

impl Progress {
    fn usage(&self, now: Timestamp) -> Usage {
        let running = self.active_since.map_or(0.0, |since| now.duration_since(since).as_secs_f64().max(0.0));
        Usage { active_seconds: self.usage.active_seconds + running, ..self.usage }
    }
}

impl Record {
    /// The session as the contract shows it.
    pub fn render(&self, now: Timestamp) -> Session {
        let usage = self.progress.usage(now);
        Session {
            id: self.id.clone(),
            kind: SessionTag::Session,
            agent: self.agent.clone(),
            environment_id: self.environment_id.clone(),
            status: self.progress.status,
            title: self.title.clone(),
            metadata: self.metadata.clone(),
            budget: self.budget,
            vault_ids: self.vault_ids.clone(),
            deployment_id: self.deployment_id.clone(),
            resources: self.resources.clone(),
            outcome_evaluations: self.progress.outcomes.clone(),
            stats: self.stats(now),
            usage,
            created_at: self.created_at,
            updated_at: self.updated_at,
            archived_at: self.archived_at,
        }
    }

    fn stats(&self, now: Timestamp) -> Stats {
        let is_over = self.progress.status == SessionStatus::Terminated;
        let end = if is_over { self.updated_at } else { now };
        Stats {
            active_seconds: self.progress.usage(now).active_seconds,
            duration_seconds: end.duration_since(self.created_at).as_secs_f64().max(0.0),
        }
    }
}

/// Which sessions a list shows.
#[derive(Clone, Debug, Default)]
pub struct SessionList {
    /// Only those of this agent.
    pub agent_id: Option<String>,
    /// Only those of this version.
    pub agent_version: Option<u64>,
    /// Only those that this deployment started.
    pub deployment_id: Option<String>,
    /// Only those with this memory store.
    pub memory_store_id: Option<String>,
    /// When they were created.
    pub created_at: Range,
    /// Archived ones too.
    pub include_archived: bool,
    /// How many at most.
    pub limit: u32,
    /// Which end comes first.
    pub order: Order,
    /// Where the page starts.
    pub cursor: Option<Cursor>,
    /// Only those that are in one of these; empty means all.
    pub statuses: Vec<SessionStatus>,
}

/// Stores a new session and its primary thread.
///
/// # Errors
/// The database failed.
pub async fn create(tx: &mut Tx, record: &Record) -> Result<(), StoreError> {
    let outcomes = sealed_outcomes(tx, &record.id, &record.progress)?;
    sqlx::query(
        "INSERT INTO sessions (workspace_id, id, environment_id, thread_id, agent_id, agent_version, agent, title, metadata, \
           status, usage, active_since, has_run, has_been_idle, created_at, updated_at, vault_ids, deployment_id, \
           outcome_evaluations, resources, skills, budget) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?19, ?20, ?21, ?22)",
    )
    .bind(record.workspace_id.as_str())
    .bind(record.id.as_str())
    .bind(record.environment_id.as_str())
    .bind(record.thread_id.as_str())
    .bind(record.agent.id.as_str())
    .bind(i64::try_from(record.agent.version).unwrap_or(i64::MAX))
    .bind(json(&record.agent))
    .bind(record.title.as_deref())
    .bind(json(&record.metadata))
    .bind(record.progress.status.as_str())
    .bind(json(&record.progress.usage))
    .bind(record.progress.active_since.map(micros))
    .bind(record.progress.has_run)
    .bind(record.progress.has_been_idle)
    .bind(micros(record.created_at))
    .bind(micros(record.updated_at))
    .bind(json(&record.vault_ids))
    .bind(record.deployment_id.as_ref().map(DeploymentId::as_str))
    .bind(outcomes)
    .bind(json(&record.resources))
    .bind(json(&record.skills))
    .bind(record.budget.as_ref().map(json))
    .execute(&mut **tx)
    .await?;
    sqlx::query("INSERT INTO threads (workspace_id, id, session_id, created_at) VALUES (?1, ?2, ?3, ?4)")
        .bind(record.workspace_id.as_str())
        .bind(record.thread_id.as_str())
        .bind(record.id.as_str())
        .bind(micros(record.created_at))
        .execute(&mut **tx)
        .await?;
    let subject = Subject::new(Happening::SessionCreated, &record.id);
    webhooks::announce(tx, &record.workspace_id, subject, record.created_at).await
}

/// One session, of any workspace: the caller compares.
///
/// # Errors
/// The database failed.
pub async fn find(connection: &mut Connection, id: &SessionId) -> Result<Option<Record>, StoreError> {
    let cipher = connection.cipher();
    let row = sqlx::query("SELECT * FROM sessions WHERE id = ?1").bind(id.as_str()).fetch_optional(connection).await?;
    row.as_ref().map(|row| record(row, &cipher)).transpose()
}

/// The workspace and the vaults of a session of this environment.
///
/// # Errors
/// The database failed.
pub async fn vaults(
    connection: &mut Connection,
    environment: &EnvironmentId,
    id: &SessionId,
) -> Result<Option<(WorkspaceId, Vec<VaultId>)>, StoreError> {
    let row = sqlx::query("SELECT workspace_id, vault_ids FROM sessions WHERE id = ?1 AND environment_id = ?2")
        .bind(id.as_str())
        .bind(environment.as_str())
        .fetch_optional(connection)
        .await?;
    let Some(row) = row else { return Ok(None) };
    let workspace = parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "sessions.workspace_id")?;
    Ok(Some((workspace, from_json(row.try_get("vault_ids")?, "sessions.vault_ids")?)))
}

/// The vaults of those of these sessions that there are.
///
/// # Errors
/// The database failed.
pub async fn vaults_of(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    ids: impl IntoIterator<Item = &SessionId>,
) -> Result<HashMap<SessionId, Vec<VaultId>>, StoreError> {
    let ids: Vec<&SessionId> = ids.into_iter().collect();
    let mut found = HashMap::new();
    for some in ids.chunks(IDS_OF_A_STATEMENT) {
        let mut sql = QueryBuilder::<Sqlite>::new("SELECT id, vault_ids FROM sessions WHERE workspace_id = ");
        sql.push_bind(workspace.as_str()).push(" AND id IN (");
        let mut list = sql.separated(", ");
        for id in some {
            list.push_bind(id.as_str());
        }
        for row in sql.push(")").build().fetch_all(&mut *connection).await? {
            let id = parsed(SessionId::parse(row.try_get("id")?), "sessions.id")?;
            found.insert(id, from_json(row.try_get("vault_ids")?, "sessions.vault_ids")?);
        }
    }
    Ok(found)
}

/// A statement has only so many parameters.
const IDS_OF_A_STATEMENT: usize = 500;

/// What a session of this environment was given.
///
/// # Errors
/// The database failed.
pub async fn resources(
    connection: &mut Connection,
    environment: &EnvironmentId,
    id: &SessionId,
) -> Result<Vec<Resource>, StoreError> {
    let row = sqlx::query("SELECT resources FROM sessions WHERE id = ?1 AND environment_id = ?2")
        .bind(id.as_str())
        .bind(environment.as_str())
        .fetch_optional(connection)
        .await?;
    row.map_or(Ok(Vec::new()), |row| from_json(row.try_get("resources")?, "sessions.resources"))
}

/// Stores what the log has come to.
///
/// # Errors
/// The database failed.
pub async fn save_progress(tx: &mut Tx, id: &SessionId, progress: &Progress, now: Timestamp) -> Result<(), StoreError> {
    let outcomes = sealed_outcomes(tx, id, progress)?;
    sqlx::query(
        "UPDATE sessions SET status = ?2, usage = ?3, active_since = ?4, has_run = ?5, has_been_idle = ?6, updated_at = ?7, \
           outcome_evaluations = ?8 \
         WHERE id = ?1",
    )
    .bind(id.as_str())
    .bind(progress.status.as_str())
    .bind(json(&progress.usage))
    .bind(progress.active_since.map(micros))
    .bind(progress.has_run)
    .bind(progress.has_been_idle)
    .bind(micros(now))
    .bind(outcomes)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Stores when the lifetime of a run of a workflow is over; `None` where none is open.
///
/// # Errors
/// The database failed.
pub async fn save_lapse(tx: &mut Tx, id: &SessionId, at: Option<Timestamp>) -> Result<(), StoreError> {
    sqlx::query("UPDATE sessions SET lapses_at = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(at.map(micros))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// A session with a run of a workflow whose lifetime is over, and its place among these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overdue {
    /// Which one.
    pub session: SessionId,
    lapses_at: i64,
}

/// Sessions with a run of a workflow whose lifetime is over, the longest overdue first, this many at most; those behind this
/// one, or from the first on.
///
/// # Errors
/// The database failed.
pub async fn overdue(
    connection: &mut Connection,
    now: Timestamp,
    behind: Option<&Overdue>,
    most: u32,
) -> Result<Vec<Overdue>, StoreError> {
    let (lapses_at, id) = behind.map_or((i64::MIN, ""), |behind| (behind.lapses_at, behind.session.as_str()));
    let rows = sqlx::query(
        "SELECT id, lapses_at FROM sessions WHERE lapses_at <= ?1 AND (lapses_at, id) > (?2, ?3) ORDER BY lapses_at, id LIMIT ?4",
    )
    .bind(micros(now))
    .bind(lapses_at)
    .bind(id)
    .bind(i64::from(most))
    .fetch_all(connection)
    .await?;
    let overdue = |row: &SqliteRow| {
        let session = parsed(SessionId::parse(row.try_get("id")?), "sessions.id")?;
        Ok(Overdue { session, lapses_at: row.try_get("lapses_at")? })
    };
    rows.iter().map(overdue).collect()
}

/// Stores what a caller may change, and the archival.
///
/// # Errors
/// The database failed.
pub async fn save_record(tx: &mut Tx, record: &Record) -> Result<(), StoreError> {
    sqlx::query(
        "UPDATE sessions SET agent = ?2, title = ?3, metadata = ?4, archived_at = ?5, updated_at = ?6, resources = ?7, \
           budget = ?8 \
         WHERE id = ?1",
    )
    .bind(record.id.as_str())
    .bind(json(&record.agent))
    .bind(record.title.as_deref())
    .bind(json(&record.metadata))
    .bind(record.archived_at.map(micros))
    .bind(micros(record.updated_at))
    .bind(json(&record.resources))
    .bind(record.budget.as_ref().map(json))
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Removes a session with its threads and log, and what its work items say of it.
///
/// # Errors
/// The database failed.
pub async fn delete(tx: &mut Tx, workspace: &WorkspaceId, id: &SessionId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("DELETE FROM sessions WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    work::gone::blank(tx, id, now).await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::SessionDeleted, id), now).await
}

/// Sessions that were at work when the log ended: what a server goes on with when it starts.
///
/// # Errors
/// The database failed.
pub async fn at_work(connection: &mut Connection) -> Result<Vec<SessionId>, StoreError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "SELECT id FROM sessions WHERE status IN ('running', 'rescheduling') ORDER BY updated_at, id",
    )
    .fetch_all(connection)
    .await?;
    ids.iter().map(|id| parsed(SessionId::parse(id), "sessions.id")).collect()
}

/// A page of sessions, one more than the limit when more follow, in the direction of the cursor.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &SessionList,
) -> Result<Vec<Record>, StoreError> {
    let cipher = connection.cipher();
    let backwards = query.cursor.as_ref().is_some_and(|cursor| cursor.direction == Direction::Prev);
    let ascending = (query.order == Order::Asc) != backwards;
    let (least, most) = query.created_at.micros();
    let mut sql = QueryBuilder::<Sqlite>::new("SELECT * FROM sessions WHERE workspace_id = ");
    sql.push_bind(workspace.as_str()).push(" AND created_at BETWEEN ").push_bind(least).push(" AND ").push_bind(most);
    if !query.include_archived {
        sql.push(" AND archived_at IS NULL");
    }
    if let Some(agent) = &query.agent_id {
        sql.push(" AND agent_id = ").push_bind(agent);
    }
    if let Some(version) = query.agent_version {
        sql.push(" AND agent_version = ").push_bind(i64::try_from(version).unwrap_or(i64::MAX));
    }
    if let Some(deployment) = &query.deployment_id {
        sql.push(" AND deployment_id = ").push_bind(deployment);
    }
    if let Some(store) = &query.memory_store_id {
        sql.push(" AND id IN (SELECT session_id FROM session_memory_stores WHERE memory_store_id = ").push_bind(store);
        sql.push(")");
    }
    if !query.statuses.is_empty() {
        sql.push(" AND status IN (");
        let mut statuses = sql.separated(", ");
        for status in &query.statuses {
            statuses.push_bind(status.as_str());
        }
        sql.push(")");
    }
    if let Some(cursor) = &query.cursor {
        sql.push(if ascending { " AND (created_at, id) > (" } else { " AND (created_at, id) < (" });
        sql.push_bind(cursor.key).push(", ").push_bind(&cursor.id).push(")");
    }
    sql.push(if ascending { " ORDER BY created_at, id LIMIT " } else { " ORDER BY created_at DESC, id DESC LIMIT " });
    sql.push_bind(i64::from(query.limit) + 1);
    let rows = sql.build().fetch_all(connection).await?;
    rows.iter().map(|row| record(row, &cipher)).collect()
}

fn sealed_outcomes(tx: &Tx, id: &SessionId, progress: &Progress) -> Result<String, StoreError> {
    // Most sessions have none, and that is no secret.
    if progress.outcomes.is_empty() {
        return Ok(json(&progress.outcomes));
    }
    tx.cipher().seal(json(&progress.outcomes), encrypted::outcomes(&[id.as_str()]))
}

fn record(row: &SqliteRow, cipher: &Cipher) -> Result<Record, StoreError> {
    let id = parsed(SessionId::parse(row.try_get("id")?), "sessions.id")?;
    let outcomes = cipher.open(row.try_get("outcome_evaluations")?, encrypted::outcomes(&[id.as_str()]))?;
    Ok(Record {
        workspace_id: parsed(WorkspaceId::parse(row.try_get("workspace_id")?), "sessions.workspace_id")?,
        id,
        environment_id: parsed(EnvironmentId::parse(row.try_get("environment_id")?), "sessions.environment_id")?,
        thread_id: parsed(ThreadId::parse(row.try_get("thread_id")?), "sessions.thread_id")?,
        agent: from_json(row.try_get("agent")?, "sessions.agent")?,
        title: row.try_get("title")?,
        metadata: from_json(row.try_get("metadata")?, "sessions.metadata")?,
        vault_ids: from_json(row.try_get("vault_ids")?, "sessions.vault_ids")?,
        resources: from_json(row.try_get("resources")?, "sessions.resources")?,
        skills: from_json(row.try_get("skills")?, "sessions.skills")?,
        budget: row
            .try_get::<Option<String>, _>("budget")?
            .map(|text| from_json(&text, "sessions.budget"))
            .transpose()?,
        deployment_id: row
            .try_get::<Option<String>, _>("deployment_id")?
            .map(|id| parsed(DeploymentId::parse(&id), "sessions.deployment_id"))
            .transpose()?,
        progress: Progress {
            status: SessionStatus::parse(row.try_get("status")?)
                .ok_or(StoreError::Corrupt { what: "sessions.status" })?,
            usage: from_json(row.try_get("usage")?, "sessions.usage")?,
            active_since: optional_instant(row.try_get("active_since")?, "sessions.active_since")?,
            has_run: row.try_get("has_run")?,
            has_been_idle: row.try_get("has_been_idle")?,
            outcomes: from_json(&outcomes, "sessions.outcome_evaluations")?,
        },
        created_at: instant(row.try_get("created_at")?, "sessions.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "sessions.updated_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "sessions.archived_at")?,
    })
}
