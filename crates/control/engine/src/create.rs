//! Creating a session: everything is checked before anything is stored.

use std::sync::Arc;

use postern_model::agent::{AgentDefinition, McpServer, fitting_roster_skills};
use postern_model::environment::Environment;
use postern_model::event::ClientEvent;
use postern_model::ids::{AgentId, EnvironmentId, SessionId, ThreadId, VaultId, WorkspaceId};
use postern_model::resource::ResourceParam;
use postern_model::session::{
    AgentParam, AgentReferenceParam, CreateSession, Session, SessionAgent, SessionStatus, Usage, title,
};
use postern_model::skill::{AgentSkill, SkillParam};
use postern_model::tool::web::WebTools;
use postern_model::tool::{self, ToolParam};
use postern_model::{Field, Problem, Timestamp};
use postern_session::{Author, Deed, Input};
use postern_store::agents::roster;
use postern_store::answers::{self, Once};
use postern_store::sessions::{self, Progress, Record};
use postern_store::{Connection, Tx, agents, environments, skills};
use serde::Serialize;

use crate::actor::Actor;
use crate::attached;
use crate::budget;
use crate::deployments::Run;
use crate::problem;
use crate::resources::{self, Owner};
use crate::rubric;
use crate::shared::Shared;

/// The most vaults a session may name.
const MAX_VAULTS: usize = 50;
/// The most events a session may begin with.
const MAX_INITIAL_EVENTS: usize = 50;

pub(crate) async fn create(
    shared: &Arc<Shared>,
    workspace: &WorkspaceId,
    request: CreateSession,
    once: Option<&Once>,
) -> Result<Session, Problem> {
    // One transaction from the look-ups on: an agent or environment that is archived meanwhile cannot slip in.
    let mut tx = shared.store.write().await.map_err(problem)?;
    let begun = begin(shared, &mut tx, workspace, request, (Begins::Session, None)).await?;
    remember(&mut tx, once, &begun.session()).await?;
    tx.commit().await.map_err(problem)?;
    Ok(begun.adopt(shared))
}

/// Stores the answer to a creation that shall have its effect once.
pub(crate) async fn remember<T: Serialize>(tx: &mut Tx, once: Option<&Once>, answer: &T) -> Result<(), Problem> {
    match once {
        Some(once) => answers::remember(tx, once, answer, now()).await.map_err(problem),
        None => Ok(()),
    }
}

/// A session that is stored and not committed. Dropped, it never was.
pub(crate) struct Begun {
    pub(crate) actor: Actor,
    deeds: Vec<Deed>,
}

impl Begun {
    /// The session as whoever creates it sees it.
    fn session(&self) -> Session {
        self.actor.record.render(self.actor.record.created_at)
    }

    /// Lets it run, once it is committed.
    pub(crate) fn adopt(self, shared: &Arc<Shared>) -> Session {
        let session = self.session();
        shared.adopt(self.actor, self.deeds);
        session
    }
}

/// Checks a session and stores it, with what its first events come to.
pub(crate) async fn begin(
    shared: &Arc<Shared>,
    tx: &mut Tx,
    workspace: &WorkspaceId,
    request: CreateSession,
    (whose, run): (Begins, Option<&Run>),
) -> Result<Begun, Problem> {
    let initial = request.initial_events.unwrap_or_default();
    check_initial_events(&initial, whose)?;
    let metadata = request.metadata.unwrap_or_default().checked()?;
    let vault_ids = vaults(request.vault_ids.unwrap_or_default())?;
    let environment_id = environment(tx, workspace, &request.environment_id).await?;
    let agent = agent(tx, workspace, request.agent).await?;
    served(shared.settings.limits.web, &agent)?;
    if let Some(multiagent) = &agent.multiagent {
        let of_others: Vec<_> = agent.others().map(|other| other.skills.as_slice()).collect();
        fitting_roster_skills(multiagent, &agent.skills, &of_others)?;
    }
    let skills = skills::summaries(tx, workspace, &agent.skills_of_all()).await.map_err(problem)?;
    let budget = budget::created(&shared.settings, &agent, request.budget)?;
    postern_store::vaults::check_usable(tx, workspace, &vault_ids).await.map_err(problem)?;
    let now = now();
    let record = Record {
        workspace_id: workspace.clone(),
        id: run.map_or_else(SessionId::generate, Run::session),
        environment_id,
        thread_id: ThreadId::generate(),
        agent,
        title: request.title.map(title).transpose()?,
        metadata,
        vault_ids,
        budget,
        resources: Vec::new(),
        skills,
        deployment_id: run.map(|run| run.deployment.clone()),
        progress: Progress {
            status: SessionStatus::Idle,
            usage: Usage::default(),
            active_since: None,
            has_run: false,
            has_been_idle: false,
            outcomes: Vec::new(),
        },
        created_at: now,
        updated_at: now,
        archived_at: None,
    };
    let whose = attached::Reader { workspace, session: &record.id, now };
    attached::check(tx, whose, Author::Client, &initial).await?;
    let initial = rubric::resolve(tx, whose, initial).await?;
    let mut actor = Actor::new(shared, record);
    actor.session.check(&initial, Author::Client)?;
    sessions::create(tx, &actor.record).await.map_err(problem)?;
    skills::attach(tx, &actor.record.id, &actor.record.agent.skills_of_all()).await.map_err(problem)?;
    give(tx, &mut actor, run, request.resources.unwrap_or_default(), now).await?;
    let deeds = actor.decide(Input::Events(initial));
    if !deeds.is_empty() {
        actor.store(tx, &deeds).await.map_err(problem)?;
    }
    Ok(Begun { actor, deeds })
}

/// Gives a session that was stored what was asked for it: its copies refer to it.
async fn give(
    tx: &mut Tx,
    actor: &mut Actor,
    run: Option<&Run>,
    sent: Vec<ResourceParam>,
    now: Timestamp,
) -> Result<(), Problem> {
    if sent.is_empty() {
        return Ok(());
    }
    let owner = Owner { workspace: &actor.record.workspace_id, session: &actor.record.id, run };
    actor.record.resources = resources::resolve(tx, owner, sent, now).await?;
    sessions::save_record(tx, &actor.record).await.map_err(problem)
}

/// The time in the precision that is stored, so that a session reads the same when it comes back.
pub(crate) fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_microsecond(now.as_microsecond()).unwrap_or(now)
}

/// The ids as ids; whether the vaults are there is looked up in the transaction.
fn vaults(sent: Vec<String>) -> Result<Vec<VaultId>, Problem> {
    if sent.len() > MAX_VAULTS {
        return Err(Problem::invalid_at("vault_ids", format!("at most {MAX_VAULTS} are allowed, got {}", sent.len())));
    }
    let parse = |(index, id): (usize, String)| {
        VaultId::parse(&id).map_err(|_| {
            Problem::invalid_at(&format!("vault_ids[{index}]"), format!("vault {id} was not found"))
                .with_code("vault_not_found")
        })
    };
    sent.into_iter().enumerate().map(parse).collect()
}

/// Whose first events they are.
#[derive(Clone, Copy)]
pub(crate) enum Begins {
    Session,
    Deployment,
}

fn check_initial_events(events: &[ClientEvent], whose: Begins) -> Result<(), Problem> {
    if events.len() > MAX_INITIAL_EVENTS {
        let message = format!("at most {MAX_INITIAL_EVENTS} events are allowed, got {}", events.len());
        return Err(Problem::invalid_at("initial_events", message));
    }
    events.iter().enumerate().try_for_each(|(index, event)| may_begin(event, whose, &format!("initial_events.{index}")))
}

/// Whether a session may begin with the event at this place.
pub(crate) fn may_begin(event: &ClientEvent, whose: Begins, at: &str) -> Result<(), Problem> {
    match (event, whose) {
        (ClientEvent::UserMessage { .. } | ClientEvent::UserDefineOutcome { .. }, _) => Ok(()),
        (ClientEvent::SystemMessage { .. }, Begins::Deployment) => Ok(()),
        (ClientEvent::SystemMessage { .. }, Begins::Session) => Err(Problem::invalid_at(
            at,
            "only user.message and user.define_outcome may begin a session; say it in an override of the agent's `system`",
        )),
        (
            ClientEvent::UserInterrupt { .. }
            | ClientEvent::UserToolConfirmation { .. }
            | ClientEvent::UserCustomToolResult { .. }
            | ClientEvent::UserToolResult { .. },
            _,
        ) => Err(Problem::invalid_at(at, "only user.message and user.define_outcome may begin a session")),
    }
}

async fn environment(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    sent: &str,
) -> Result<EnvironmentId, Problem> {
    let unknown =
        || Problem::not_found(format!("Environment {sent} was not found.")).with_code("environment_not_found");
    let id = EnvironmentId::parse(sent).map_err(|_| unknown())?;
    let found: Option<Environment> = environments::find(connection, workspace, &id).await.map_err(problem)?;
    let environment = found.ok_or_else(unknown)?;
    if environment.archived_at.is_some() {
        return Err(Problem::invalid(format!("Environment {id} is archived and takes no new sessions."))
            .with_code("environment_archived"));
    }
    Ok(id)
}

async fn agent(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    sent: AgentParam,
) -> Result<SessionAgent, Problem> {
    let (id, version, overrides) = match sent {
        AgentParam::Id(id) => (id, None, None),
        AgentParam::Reference(AgentReferenceParam::Agent { id, version }) => (id, version, None),
        AgentParam::Reference(AgentReferenceParam::AgentWithOverrides {
            id,
            version,
            model,
            system,
            tools,
            mcp_servers,
            skills,
        }) => {
            let skills = pinned(connection, workspace, skills).await?;
            let overrides = move |definition| overridden(definition, model, system, tools, mcp_servers, skills);
            (id, version, Some(overrides))
        }
    };
    let unknown = || Problem::not_found(format!("Agent {id} was not found."));
    let agent_id = AgentId::parse(&id).map_err(|_| unknown())?;
    let found = agents::find(connection, workspace, &agent_id, version).await.map_err(problem)?;
    let agent = found.ok_or_else(unknown)?;
    if agent.archived_at.is_some() {
        return Err(Problem::invalid(format!("Agent {agent_id} is archived and takes no new sessions."))
            .with_code("agent_archived"));
    }
    let definition = match overrides {
        Some(overrides) => overrides(agent.definition)?,
        None => agent.definition,
    };
    let multiagent = definition.multiagent.clone();
    let snapshot = SessionAgent::snapshot(agent_id, agent.version, definition);
    roster::snapshot(connection, workspace, snapshot, multiagent).await.map_err(problem)
}

/// What a session's own choice of skills comes to, where it makes one.
async fn pinned(
    connection: &mut Connection,
    workspace: &WorkspaceId,
    sent: Field<Vec<SkillParam>>,
) -> Result<Option<Vec<AgentSkill>>, Problem> {
    if sent.is_absent() {
        return Ok(None);
    }
    skills::pin(connection, workspace, sent.value().unwrap_or_default()).await.map(Some).map_err(problem)
}

/// Whole fields replace the agent's own (contract 1.4); the result must hold together like an agent.
fn overridden(
    mut definition: AgentDefinition,
    model: Field<postern_model::agent::ModelParam>,
    system: Field<String>,
    tools: Field<Vec<ToolParam>>,
    mcp_servers: Field<Vec<McpServer>>,
    skills: Option<Vec<AgentSkill>>,
) -> Result<AgentDefinition, Problem> {
    match model {
        Field::Absent => {}
        Field::Null => {
            return Err(Problem::invalid_at("agent.model", "an override cannot clear the model; leave it out")
                .with_code("agent_model_required"));
        }
        // An override drops the agent's effort and takes none of its own.
        Field::Value(model) => {
            definition.model = model.resolve()?;
            definition.model.effort = None;
        }
    }
    if !system.is_absent() {
        definition.system = system.value().filter(|text| !text.is_empty());
    }
    if !tools.is_absent() {
        definition.tools = resolve_tools(tools)?;
    }
    if !mcp_servers.is_absent() {
        definition.mcp_servers = mcp_servers.value().unwrap_or_default();
    }
    if let Some(skills) = skills {
        definition.skills = skills;
    }
    definition.checked()
}

pub(crate) fn resolve_tools(tools: Field<Vec<ToolParam>>) -> Result<Vec<tool::Tool>, Problem> {
    tool::resolve(tools.value().unwrap_or_default()).map_err(|error| Problem::invalid(format!("agent.{error}")))
}

/// Checks that this server has every web tool that the agents of a session name: a session without one that its author counts
/// on would be something else than was asked for.
pub(crate) fn served(web: WebTools, agent: &SessionAgent) -> Result<(), Problem> {
    let mut agents = std::iter::once(agent).chain(agent.others());
    agents.try_for_each(|agent| {
        web.check(&agent.tools)
            .map_err(|problem| Problem { message: format!("agent {}: {}", agent.id, problem.message), ..problem })
    })
}
