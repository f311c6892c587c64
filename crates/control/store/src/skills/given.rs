//! The skills of agents and sessions: looked up and pinned when an agent is saved, named again for each session that gets them.

use postern_model::Problem;
use postern_model::ids::{EnvironmentId, SessionId, SkillId, SkillVersionId, WorkspaceId};
use postern_model::session::SessionAgent;
use postern_model::skill::{AgentSkill, MAX_SKILLS, SkillParam, SkillSummary, VersionName};

use super::{Which, version_required};
use crate::row::from_json;
use crate::{Connection, StoreError, Tx};

/// The skills that an agent names, each pinned to a version that exists now.
///
/// # Errors
/// Refused with 404 `skill_not_found` or 400, naming the place; or the database failed.
pub async fn pin(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    sent: Vec<SkillParam>,
) -> Result<Vec<AgentSkill>, StoreError> {
    if sent.len() > MAX_SKILLS {
        let message = format!("at most {MAX_SKILLS} are allowed, got {}", sent.len());
        return Err(Problem::invalid_at("skills", message).into());
    }
    let mut pinned = Vec::with_capacity(sent.len());
    for (index, param) in sent.into_iter().enumerate() {
        pinned.push(pin_one(connection, workspace, param).await.map_err(|error| at(index, error))?);
    }
    Ok(pinned)
}

async fn pin_one(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    sent: SkillParam,
) -> Result<AgentSkill, StoreError> {
    let (skill_id, version) = match sent {
        SkillParam::Custom { skill_id, version } => (skill_id, version),
        SkillParam::Anthropic { skill_id, .. } => {
            return Err(Problem::invalid(format!(
                "this server ships no skills of type `anthropic` ({skill_id}); upload the skill to it (POST /v1/skills) and name it with type `custom`"
            ))
            .into());
        }
    };
    let unknown = |what: String| Problem::not_found(format!("{what} was not found.")).with_code("skill_not_found");
    let id = SkillId::parse(&skill_id).map_err(|_| unknown(format!("Skill {skill_id}")))?;
    let version = match version.as_deref() {
        None | Some("latest") => None,
        Some(text) => Some(text.parse::<VersionName>().map_err(|_| unknown(format!("Skill version {text}")))?),
    };
    let which = version.as_ref().map_or(Which::Latest, Which::Named);
    let found = version_required(connection, workspace, &id, which).await?;
    Ok(AgentSkill::Custom { skill_id: id, version: found.version.id })
}

fn at(index: usize, error: StoreError) -> StoreError {
    match error {
        StoreError::Refused(problem) => {
            Problem { message: format!("skills[{index}]: {}", problem.message), ..problem }.into()
        }
        other => other,
    }
}

/// What a session's model is told of these skills.
///
/// # Errors
/// Refused with 404 `skill_not_found` when a version is gone; or the database failed.
pub async fn summaries(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    skills: &[&AgentSkill],
) -> Result<Vec<SkillSummary>, StoreError> {
    let mut summaries = Vec::with_capacity(skills.len());
    for (index, (skill, version)) in skills.iter().map(|skill| skill.parts()).enumerate() {
        let named = VersionName::Id(version.clone());
        let found = version_required(connection, workspace, skill, Which::Named(&named)).await;
        let found = found.map_err(|error| at(index, error))?.version;
        let version = Some(version.clone());
        summaries.push(SkillSummary { name: found.name, description: found.description, version });
    }
    Ok(summaries)
}

/// Gives a session its skills: from now on its worker may fetch them.
///
/// # Errors
/// The database failed.
pub async fn attach(tx: &mut Tx, session: &SessionId, skills: &[&AgentSkill]) -> Result<(), StoreError> {
    for (_, version) in skills.iter().map(|skill| skill.parts()) {
        sqlx::query("INSERT INTO session_skills (session_id, skill_version_id) VALUES (?1, ?2)")
            .bind(session.as_str())
            .bind(version.as_str())
            .execute(&mut **tx)
            .await?;
    }
    Ok(())
}

/// How many skills of a session are not its agent's own, but those of the agents that may work for it.
///
/// # Errors
/// The database failed.
pub async fn of_roster_alone(connection: &mut Connection, session: &SessionId) -> Result<usize, StoreError> {
    let agent: Option<String> = sqlx::query_scalar("SELECT agent FROM sessions WHERE id = ?1")
        .bind(session.as_str())
        .fetch_optional(connection)
        .await?;
    let Some(agent) = agent else { return Ok(0) };
    let agent: SessionAgent = from_json(&agent, "sessions.agent")?;
    Ok(agent.skills_of_all().len().saturating_sub(agent.skills.len()))
}

/// Whose skills are asked for.
#[derive(Clone, Copy, Debug)]
pub enum Holder<'a> {
    /// One session's.
    Session(&'a SessionId),
    /// Those of any session of an environment.
    Environment(&'a EnvironmentId),
}

/// Whether a version was given to a session of this holder.
///
/// # Errors
/// The database failed.
pub async fn is_given(
    connection: &mut Connection,
    version: &SkillVersionId,
    to: Holder<'_>,
) -> Result<bool, StoreError> {
    let (session, environment) = match to {
        Holder::Session(session) => (Some(session.as_str()), None),
        Holder::Environment(environment) => (None, Some(environment.as_str())),
    };
    let found: Option<i64> = sqlx::query_scalar(
        "SELECT 1 FROM session_skills g JOIN sessions s ON s.id = g.session_id \
         WHERE g.skill_version_id = ?1 AND (s.id = ?2 OR s.environment_id = ?3) LIMIT 1",
    )
    .bind(version.as_str())
    .bind(session)
    .bind(environment)
    .fetch_optional(connection)
    .await?;
    Ok(found.is_some())
}
