//! Skills and their versions. A version, once stored, never changes; its archive is a blob.

mod given;

pub use given::{Holder, attach, is_given, of_roster_alone, pin, summaries};

use postern_model::ids::{SkillId, SkillVersionId, WorkspaceId};
use postern_model::skill::{Skill, SkillName, SkillSource, SkillTag, SkillVersion, SkillVersionTag, VersionName};
use postern_model::{Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::blobs::{self, Blob};
use crate::list::ListQuery;
use crate::row::{instant, micros, parsed};
use crate::{Connection, StoreError, Tx};

macro_rules! select_skills {
    ($rest:literal) => {
        concat!(
            "SELECT s.*, l.id AS latest, l.created_at AS latest_at FROM skills s JOIN skill_versions l ON l.skill_id = s.id \
             AND l.number = (SELECT MAX(v.number) FROM skill_versions v WHERE v.skill_id = s.id) ",
            $rest
        )
    };
}

macro_rules! select_versions {
    ($rest:literal) => {
        concat!("SELECT v.*, s.name FROM skill_versions v JOIN skills s ON s.id = v.skill_id ", $rest)
    };
}

/// A skill's version that was uploaded, before it is stored.
#[derive(Clone, Debug)]
pub struct NewVersion {
    /// The skill's name, as the upload says it.
    pub name: SkillName,
    /// When to use it.
    pub description: String,
    /// Its archive, whose bytes have arrived.
    pub archive: Blob,
}

/// A version as stored.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// What the contract shows.
    pub version: SkillVersion,
    /// Counts up in its skill.
    pub number: i64,
    /// Where its archive is.
    pub archive: Blob,
}

/// Which version of a skill.
#[derive(Clone, Copy, Debug)]
pub enum Which<'a> {
    /// The newest.
    Latest,
    /// This one.
    Named(&'a VersionName),
}

/// Stores a skill with its first version.
///
/// # Errors
/// Refused with 409 `skill_name_taken`; or the database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    display_name: Option<String>,
    first: NewVersion,
    now: Timestamp,
) -> Result<Skill, StoreError> {
    let taken: Option<String> = sqlx::query_scalar("SELECT id FROM skills WHERE workspace_id = ?1 AND name = ?2")
        .bind(workspace.as_str())
        .bind(first.name.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(taken) = taken {
        return Err(name_taken(&first.name, &taken));
    }
    let id = SkillId::generate();
    sqlx::query(
        "INSERT INTO skills (workspace_id, id, name, display_name, created_at, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?5)",
    )
    .bind(workspace.as_str())
    .bind(id.as_str())
    .bind(first.name.as_str())
    .bind(display_name.unwrap_or_else(|| first.name.to_string()))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    insert(tx, workspace, &id, first, now).await?;
    required(tx, workspace, &id).await
}

/// Stores one version more.
///
/// # Errors
/// Refused with 404, or 409 when the upload has another name than the skill; or the database failed.
pub async fn add(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    skill: &SkillId,
    new: NewVersion,
    now: Timestamp,
) -> Result<SkillVersion, StoreError> {
    let name: Option<String> = sqlx::query_scalar("SELECT name FROM skills WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(skill.as_str())
        .fetch_optional(&mut **tx)
        .await?;
    let name = name.ok_or_else(|| unknown(skill))?;
    if name != new.name.as_str() {
        return Err(Problem::conflict(format!(
            "The upload is named `{}` and skill {skill} `{name}`; a skill keeps its name. Change `name` in SKILL.md, or create another skill.",
            new.name
        ))
        .into());
    }
    let id = insert(tx, workspace, skill, new, now).await?;
    touch(tx, skill, now).await?;
    Ok(version_required(tx, workspace, skill, Which::Named(&VersionName::Id(id))).await?.version)
}

/// No two versions of a skill are made in the same microsecond: the older beta names them by it.
async fn insert(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    skill: &SkillId,
    new: NewVersion,
    now: Timestamp,
) -> Result<SkillVersionId, StoreError> {
    let id = SkillVersionId::generate();
    blobs::complete(tx, workspace, &new.archive, now).await?;
    sqlx::query(
        "INSERT INTO skill_versions (id, skill_id, number, description, blob_id, size_bytes, created_at) \
         SELECT ?1, ?2, COALESCE(MAX(number), 0) + 1, ?3, ?4, ?5, \
         CASE WHEN MAX(created_at) >= ?6 THEN MAX(created_at) + 1 ELSE ?6 END FROM skill_versions WHERE skill_id = ?2",
    )
    .bind(id.as_str())
    .bind(skill.as_str())
    .bind(&new.description)
    .bind(&new.archive.id)
    .bind(i64::try_from(new.archive.size_bytes).unwrap_or(i64::MAX))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    Ok(id)
}

async fn touch(tx: &mut Tx, skill: &SkillId, now: Timestamp) -> Result<(), StoreError> {
    sqlx::query("UPDATE skills SET updated_at = ?2 WHERE id = ?1")
        .bind(skill.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// One skill.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn required(connection: &mut Connection, workspace: &WorkspaceId, id: &SkillId) -> Result<Skill, StoreError> {
    let row = sqlx::query(select_skills!("WHERE s.workspace_id = ?1 AND s.id = ?2"))
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(skill).transpose()?.ok_or_else(|| unknown(id))
}

/// One page of skills, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<Skill>, StoreError> {
    let statement = select_skills!(
        "WHERE s.workspace_id = ?1 AND (s.created_at < ?2 OR (s.created_at = ?2 AND s.id < ?3)) \
         ORDER BY s.created_at DESC, s.id DESC LIMIT ?4"
    );
    let rows = query.newest(connection, statement, workspace.as_str()).await?;
    rows.iter().map(skill).collect()
}

/// Removes a skill with its versions; their bytes go when nothing names them.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn delete(tx: &mut Tx, workspace: &WorkspaceId, id: &SkillId) -> Result<(), StoreError> {
    let deleted = sqlx::query("DELETE FROM skills WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .execute(&mut **tx)
        .await?;
    if deleted.rows_affected() == 0 { Err(unknown(id)) } else { Ok(()) }
}

/// One version of a skill.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn version_required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    skill: &SkillId,
    which: Which<'_>,
) -> Result<Record, StoreError> {
    let (id, made) = match which {
        Which::Latest => (None, None),
        Which::Named(VersionName::Id(id)) => (Some(id.as_str()), None),
        Which::Named(VersionName::Made(made)) => (None, Some(*made)),
    };
    let row = sqlx::query(select_versions!(
        "WHERE s.workspace_id = ?1 AND s.id = ?2 AND (?3 IS NULL OR v.id = ?3) AND (?4 IS NULL OR v.created_at = ?4) \
         ORDER BY v.number DESC LIMIT 1"
    ))
    .bind(workspace.as_str())
    .bind(skill.as_str())
    .bind(id)
    .bind(made)
    .fetch_optional(connection)
    .await?;
    match (row, which) {
        (Some(row), _) => record(&row),
        (None, Which::Latest) => Err(unknown(skill)),
        (None, Which::Named(name)) => Err(unknown_version(name)),
    }
}

/// One page of a skill's versions, newest first, and one more when another page follows.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn versions(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &SkillId,
    query: &ListQuery,
) -> Result<Vec<Record>, StoreError> {
    required(connection, workspace, id).await?;
    let rows = sqlx::query(select_versions!("WHERE v.skill_id = ?1 AND v.number < ?2 ORDER BY v.number DESC LIMIT ?3"))
        .bind(id.as_str())
        .bind(query.below().0)
        .bind(query.limit_plus_one())
        .fetch_all(connection)
        .await?;
    rows.iter().map(record).collect()
}

/// Removes a version; its bytes go when nothing names them.
///
/// # Errors
/// Refused with 404, or 400 for the only one; or the database failed.
pub async fn delete_version(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    skill: &SkillId,
    name: &VersionName,
    now: Timestamp,
) -> Result<(), StoreError> {
    let id = version_required(tx, workspace, skill, Which::Named(name)).await?.version.id;
    let count: i64 = sqlx::query_scalar("SELECT COUNT(*) FROM skill_versions WHERE skill_id = ?1")
        .bind(skill.as_str())
        .fetch_one(&mut **tx)
        .await?;
    if count == 1 {
        return Err(Problem::invalid(format!(
            "{name} is the only version of skill {skill}, and a skill has at least one. Delete the skill instead."
        ))
        .into());
    }
    sqlx::query("DELETE FROM skill_versions WHERE id = ?1").bind(id.as_str()).execute(&mut **tx).await?;
    touch(tx, skill, now).await
}

fn unknown(id: &SkillId) -> StoreError {
    Problem::not_found(format!("Skill {id} was not found.")).with_code("skill_not_found").into()
}

fn unknown_version(name: &VersionName) -> StoreError {
    Problem::not_found(format!("Skill version {name} was not found.")).with_code("skill_not_found").into()
}

fn name_taken(name: &SkillName, by: &str) -> StoreError {
    Problem::conflict(format!(
        "A skill named `{name}` exists already: {by}. Add a version to it, or change `name` in SKILL.md."
    ))
    .with_code("skill_name_taken")
    .with_detail("skill_name", name.as_str())
    .into()
}

fn skill(row: &SqliteRow) -> Result<Skill, StoreError> {
    Ok(Skill {
        id: parsed(SkillId::parse(row.try_get("id")?), "skills.id")?,
        kind: SkillTag::Skill,
        display_name: row.try_get("display_name")?,
        latest_version_id: parsed(SkillVersionId::parse(row.try_get("latest")?), "skill_versions.id")?,
        latest_version_at: instant(row.try_get("latest_at")?, "skill_versions.created_at")?,
        source: SkillSource::Custom,
        created_at: instant(row.try_get("created_at")?, "skills.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "skills.updated_at")?,
    })
}

fn record(row: &SqliteRow) -> Result<Record, StoreError> {
    let version = SkillVersion {
        id: parsed(SkillVersionId::parse(row.try_get("id")?), "skill_versions.id")?,
        kind: SkillVersionTag::SkillVersion,
        skill_id: parsed(SkillId::parse(row.try_get("skill_id")?), "skill_versions.skill_id")?,
        name: parsed(SkillName::parse(row.try_get("name")?), "skills.name")?,
        description: row.try_get("description")?,
        created_at: instant(row.try_get("created_at")?, "skill_versions.created_at")?,
    };
    let size_bytes = parsed(u64::try_from(row.try_get::<i64, _>("size_bytes")?), "skill_versions.size_bytes")?;
    Ok(Record { version, number: row.try_get("number")?, archive: Blob { id: row.try_get("blob_id")?, size_bytes } })
}
