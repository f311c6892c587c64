//! Environments: the owners of work queues.

use postern_model::environment::{
    ConfigInput, CreateEnvironment, Environment, EnvironmentConfig, EnvironmentTag, UpdateEnvironment,
};
use postern_model::ids::{EnvironmentId, WorkspaceId};
use postern_model::webhook::{Happening, Subject};
use postern_model::{Field, Metadata, Problem, Timestamp};
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use crate::list::{ListQuery, newest_active};
use crate::row::{from_json, instant, json, micros, optional_instant, parsed};
use crate::{Connection, StoreError, Tx, webhooks};

const MAX_NAME: usize = 256;
const MAX_DESCRIPTION: usize = 2048;

/// Stores a new environment.
///
/// # Errors
/// Refused with 400 (limits, a cloud configuration) or 409 (the name is taken); or the database failed.
pub async fn create(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    body: CreateEnvironment,
    now: Timestamp,
) -> Result<Environment, StoreError> {
    check_scope(body.scope.as_deref())?;
    let environment = Environment {
        id: EnvironmentId::generate(),
        kind: EnvironmentTag::Environment,
        name: body.name,
        description: body.description,
        config: match body.config {
            Field::Absent | Field::Null => EnvironmentConfig::SelfHosted {},
            Field::Value(config) => config.checked()?,
        },
        metadata: body.metadata.unwrap_or_default().checked()?,
        created_at: now,
        updated_at: now,
        archived_at: None,
    };
    check_limits(&environment)?;
    check_name_is_free(tx, workspace, &environment).await?;
    sqlx::query(
        "INSERT INTO environments (workspace_id, id, name, description, config, metadata, created_at, updated_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?7)",
    )
    .bind(workspace.as_str())
    .bind(environment.id.as_str())
    .bind(&environment.name)
    .bind(&environment.description)
    .bind(json(&environment.config))
    .bind(json(&environment.metadata))
    .bind(micros(now))
    .execute(&mut **tx)
    .await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::EnvironmentCreated, &environment.id), now).await?;
    required(tx, workspace, &environment.id).await
}

/// One environment, archived or not.
///
/// # Errors
/// The database failed.
pub async fn find(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &EnvironmentId,
) -> Result<Option<Environment>, StoreError> {
    let row = sqlx::query("SELECT * FROM environments WHERE workspace_id = ?1 AND id = ?2")
        .bind(workspace.as_str())
        .bind(id.as_str())
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(environment).transpose()
}

/// The environment of that name that is not archived.
///
/// # Errors
/// The database failed.
pub async fn find_by_name(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    name: &str,
) -> Result<Option<Environment>, StoreError> {
    let row = sqlx::query("SELECT * FROM environments WHERE workspace_id = ?1 AND name = ?2 AND archived_at IS NULL")
        .bind(workspace.as_str())
        .bind(name)
        .fetch_optional(connection)
        .await?;
    row.as_ref().map(environment).transpose()
}

/// Applies an update.
///
/// # Errors
/// Refused with 404, 400 (`environment_archived`, `invalid_config_type_change`, limits) or 409 (the name is taken); or
/// the database failed.
pub async fn update(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &EnvironmentId,
    body: UpdateEnvironment,
    now: Timestamp,
) -> Result<Environment, StoreError> {
    let stored = required(tx, workspace, id).await?;
    let updated = Environment { updated_at: now, ..apply(&stored, body)? };
    if (Environment { updated_at: stored.updated_at, ..updated.clone() }) == stored {
        return Ok(stored);
    }
    check_name_is_free(tx, workspace, &updated).await?;
    sqlx::query("UPDATE environments SET name = ?2, description = ?3, metadata = ?4, updated_at = ?5 WHERE id = ?1")
        .bind(id.as_str())
        .bind(&updated.name)
        .bind(&updated.description)
        .bind(json(&updated.metadata))
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::EnvironmentUpdated, id), now).await?;
    required(tx, workspace, id).await
}

/// Archives an environment; it takes no new sessions. Repeating it changes nothing.
///
/// # Errors
/// Refused with 404; or the database failed.
pub async fn archive(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &EnvironmentId,
    now: Timestamp,
) -> Result<Environment, StoreError> {
    let stored = required(tx, workspace, id).await?;
    if stored.archived_at.is_some() {
        return Ok(stored);
    }
    sqlx::query("UPDATE environments SET archived_at = ?2, updated_at = ?2 WHERE id = ?1")
        .bind(id.as_str())
        .bind(micros(now))
        .execute(&mut **tx)
        .await?;
    webhooks::announce(tx, workspace, Subject::new(Happening::EnvironmentArchived, id), now).await?;
    required(tx, workspace, id).await
}

/// Removes an environment with its keys and finished work.
///
/// # Errors
/// Refused with 404, or 409 while a session refers to it; or the database failed.
pub async fn delete(
    tx: &mut Tx,
    workspace: &WorkspaceId,
    id: &EnvironmentId,
    now: Timestamp,
) -> Result<(), StoreError> {
    required(tx, workspace, id).await?;
    let referred = sqlx::query("SELECT 1 FROM sessions WHERE environment_id = ?1 LIMIT 1").bind(id.as_str());
    if referred.fetch_optional(&mut **tx).await?.is_some() {
        let message = format!("Environment {id} has sessions. Delete them first, or archive the environment.");
        return Err(Problem::conflict(message).into());
    }
    for statement in [
        "DELETE FROM session_tokens WHERE work_id IN (SELECT id FROM work WHERE environment_id = ?1)",
        "DELETE FROM work WHERE environment_id = ?1",
        "DELETE FROM environment_keys WHERE environment_id = ?1",
        "DELETE FROM environments WHERE id = ?1",
    ] {
        sqlx::query(statement).bind(id.as_str()).execute(&mut **tx).await?;
    }
    webhooks::announce(tx, workspace, Subject::new(Happening::EnvironmentDeleted, id), now).await
}

/// One page of environments, newest first, and one more when another page follows.
///
/// # Errors
/// The database failed.
pub async fn list(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    query: &ListQuery,
) -> Result<Vec<Environment>, StoreError> {
    let rows =
        query.newest_active(connection, newest_active!("environments", "workspace_id"), workspace.as_str()).await?;
    rows.iter().map(environment).collect()
}

fn apply(stored: &Environment, body: UpdateEnvironment) -> Result<Environment, Problem> {
    if stored.archived_at.is_some() {
        return Err(
            Problem::invalid("The environment is archived and cannot be updated.").with_code("environment_archived")
        );
    }
    if let Field::Value(config) = body.config {
        check_same_type(config)?;
    }
    check_scope(body.scope.value().as_deref())?;
    let environment = Environment {
        name: match body.name {
            Field::Absent => stored.name.clone(),
            Field::Null => return Err(Problem::invalid_at("name", "cannot be cleared")),
            Field::Value(name) => name,
        },
        description: match body.description {
            Field::Absent => stored.description.clone(),
            other => other.value(),
        },
        metadata: match body.metadata {
            Field::Absent => stored.metadata.clone(),
            Field::Null => Metadata::default(),
            Field::Value(patch) => stored.metadata.merged(&patch.empty_deletes())?,
        },
        ..stored.clone()
    };
    check_limits(&environment)?;
    Ok(environment)
}

fn check_same_type(config: ConfigInput) -> Result<(), Problem> {
    if config.is_cloud() {
        return Err(Problem::invalid_at("config.type", "a self_hosted environment cannot become a cloud one")
            .with_code("invalid_config_type_change"));
    }
    config.checked().map(|_| ())
}

fn check_scope(scope: Option<&str>) -> Result<(), Problem> {
    match scope {
        None | Some("organization") => Ok(()),
        Some("account") => Err(Problem::invalid_at("scope", "`account` belongs to people's accounts; leave it out")),
        Some(_) => Err(Problem::invalid_at("scope", "must be `organization`")),
    }
}

fn check_limits(environment: &Environment) -> Result<(), Problem> {
    if !(1..=MAX_NAME).contains(&environment.name.chars().count()) {
        return Err(Problem::invalid_at("name", format!("must have 1 to {MAX_NAME} characters")));
    }
    if environment.description.as_ref().is_some_and(|text| text.chars().count() > MAX_DESCRIPTION) {
        return Err(Problem::invalid_at("description", format!("must have at most {MAX_DESCRIPTION} characters")));
    }
    Ok(())
}

async fn check_name_is_free(tx: &mut Tx, workspace: &WorkspaceId, environment: &Environment) -> Result<(), StoreError> {
    match find_by_name(tx, workspace, &environment.name).await? {
        Some(other) if other.id != environment.id => {
            Err(Problem::conflict(format!("An environment named `{}` exists already.", environment.name)).into())
        }
        _ => Ok(()),
    }
}

async fn required(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    id: &EnvironmentId,
) -> Result<Environment, StoreError> {
    let found = find(connection, workspace, id).await?;
    found.ok_or_else(|| {
        Problem::not_found(format!("Environment {id} was not found.")).with_code("environment_not_found").into()
    })
}

fn environment(row: &SqliteRow) -> Result<Environment, StoreError> {
    Ok(Environment {
        id: parsed(EnvironmentId::parse(row.try_get("id")?), "environments.id")?,
        kind: EnvironmentTag::Environment,
        name: row.try_get("name")?,
        description: row.try_get("description")?,
        config: from_json(row.try_get("config")?, "environments.config")?,
        metadata: from_json(row.try_get("metadata")?, "environments.metadata")?,
        created_at: instant(row.try_get("created_at")?, "environments.created_at")?,
        updated_at: instant(row.try_get("updated_at")?, "environments.updated_at")?,
        archived_at: optional_instant(row.try_get("archived_at")?, "environments.archived_at")?,
    })
}
