//! Agents that have others work for them: the roster as it is sent, as it is stored, and as a session has it (contract 2.3).

use std::collections::HashMap;

use serde::de::DeserializeOwned;
use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::{Map, Value};

use super::advisor::{ADVISOR, Advisor, Team};
use super::inline::InlineAgent;
use super::parts::{self, Parts};
use crate::Problem;
use crate::ids::{AgentId, SkillId, SkillVersionId};
use crate::session::SessionAgent;
use crate::skill::AgentSkill;

/// The most agents a roster may name.
pub const MAX_ROSTER: usize = 20;
/// Where agents of a coordinator stand.
const COORDINATED: &str = "multiagent.agents";
/// The tool that gives an agent of the roster something to do, in a thread of its own.
pub const START_AGENT: &str = "start_agent";
/// The tool that says something to one that was started.
pub const MESSAGE_AGENT: &str = "message_agent";
/// The tool that starts a run of a workflow.
pub const START_WORKFLOW: &str = "start_workflow";
/// The tool that tells how a run is doing.
pub const CHECK_WORKFLOW: &str = "check_workflow";
/// The tool that has a run go on which an interrupt paused.
pub const CONTINUE_WORKFLOW: &str = "continue_workflow";
/// The tool that ends a run.
pub const STOP_WORKFLOW: &str = "stop_workflow";
/// All tools of an agent that may start runs.
pub const WORKFLOW_TOOLS: [&str; 4] = [START_WORKFLOW, CHECK_WORKFLOW, CONTINUE_WORKFLOW, STOP_WORKFLOW];

/// Whom an agent has work for it: as it is sent (of [`MemberParam`]), as it is stored and shown (of [`Member`]), and as a session
/// has it (of [`ThreadAgent`]).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", bound(deserialize = "T: DeserializeOwned"))]
pub enum Multiagent<T = Member> {
    /// It starts agents of a roster and hears what they found.
    Coordinator {
        /// The roster, in the order it was sent; an advisor comes last.
        agents: Team<T>,
    },
    /// The same in parts, each enabled or disabled on its own.
    #[serde(rename = "multiagent_20261001")]
    Parts(Parts<T>),
}

/// The same of a session: with everything that it needs of each agent.
pub type SessionMultiagent = Multiagent<ThreadAgent>;

/// One entry of a roster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Member {
    /// A version of another agent.
    Agent {
        /// Which.
        id: AgentId,
        /// Pinned when the roster was saved.
        version: u64,
    },
    /// The agent itself; shown as its own id and version.
    #[serde(rename = "self")]
    Itself {},
}

impl<T> Multiagent<T> {
    /// The agents that it may start.
    pub fn members(&self) -> &[T] {
        match self {
            Self::Coordinator { agents } => &agents.agents,
            Self::Parts(parts) => parts.subagents.agents(),
        }
    }

    /// The saved agents that its workflows may use; `None` where it may start none.
    pub fn of_workflows(&self) -> Option<&[T]> {
        match self {
            Self::Parts(parts) if parts.workflows.is_enabled() => Some(parts.workflows.agents()),
            Self::Coordinator { .. } | Self::Parts(_) => None,
        }
    }

    /// Whether its workflows may define agents themselves.
    pub fn workflows_define_agents(&self) -> bool {
        matches!(self, Self::Parts(parts) if parts.workflows.defines_agents())
    }

    /// Every agent that it names, in the order that [`Multiagent::with`] takes them.
    pub fn all(&self) -> impl Iterator<Item = &T> {
        self.members().iter().chain(self.of_workflows().unwrap_or_default())
    }

    /// Its lists of agents, each with its place, for people.
    pub fn lists(&self) -> Vec<(String, &[T])> {
        match self {
            Self::Coordinator { agents } => vec![(COORDINATED.to_owned(), &agents.agents)],
            Self::Parts(parts) => vec![
                (parts::predefined_of(parts::SUBAGENTS), parts.subagents.agents()),
                (parts::predefined_of(parts::WORKFLOWS), parts.workflows.agents()),
            ],
        }
    }

    /// The model that it may consult.
    pub fn advisor(&self) -> Option<&str> {
        match self {
            Self::Coordinator { agents } => agents.advisor.as_ref().map(|advisor| advisor.model.as_str()),
            Self::Parts(parts) => parts.advisor.model(),
        }
    }

    /// Whether it may start agents that it defines itself.
    pub fn defines_agents(&self) -> bool {
        match self {
            Self::Coordinator { .. } => false,
            Self::Parts(parts) => parts.subagents.defines_agents(),
        }
    }

    /// Where the agent stands that [`Multiagent::all`] has at this index, for people.
    pub fn place_of(&self, mut index: usize) -> String {
        for (place, agents) in self.lists() {
            if index < agents.len() {
                return at(&place, index);
            }
            index -= agents.len();
        }
        "multiagent".to_owned()
    }

    /// The same with these agents, in the order of [`Multiagent::all`].
    #[must_use]
    pub fn with<U>(self, agents: Vec<U>) -> Multiagent<U> {
        match self {
            Self::Coordinator { agents: team } => {
                Multiagent::Coordinator { agents: Team { agents, advisor: team.advisor } }
            }
            Self::Parts(parts) => Multiagent::Parts(parts.with(agents)),
        }
    }
}

impl Multiagent {
    /// As it is shown: what means the agent itself names it.
    #[must_use]
    pub fn shown(self, own: &AgentId, own_version: u64) -> Self {
        self.map(|member| match member {
            Member::Itself {} => Member::Agent { id: own.clone(), version: own_version },
            other @ Member::Agent { .. } => other,
        })
    }

    /// As it is stored: what names the agent itself, in whichever version, means it as it is.
    #[must_use]
    pub fn stored(self, own: &AgentId) -> Self {
        self.map(|member| match member {
            Member::Agent { id, .. } if id == *own => Member::Itself {},
            other => other,
        })
    }

    fn map(self, change: impl FnMut(Member) -> Member) -> Self {
        let agents = self.all().cloned().map(change).collect();
        self.with(agents)
    }
}

/// One entry of a roster as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MemberParam {
    /// An agent; without a version, the latest.
    Agent {
        /// Which.
        id: String,
        /// Absent: the latest.
        version: Option<u64>,
    },
    /// The agent itself.
    Itself,
}

#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum TypedMember {
    Agent {
        id: String,
        #[serde(default)]
        version: Option<u64>,
    },
    #[serde(rename = "self")]
    Itself {},
}

impl Multiagent<MemberParam> {
    /// Reads what was sent, in place of `stored` or merged into it.
    ///
    /// # Errors
    /// 400 naming the place.
    pub fn parse(sent: &Value, stored: Option<&Multiagent>) -> Result<Self, Problem> {
        let Value::Object(fields) = sent else {
            return Err(Problem::invalid_at("multiagent", "must be an object"));
        };
        match fields.get("type").and_then(Value::as_str) {
            Some("coordinator") => Ok(Self::Coordinator { agents: team(fields)? }),
            Some("multiagent_20261001") => {
                let stored = match stored {
                    Some(Multiagent::Parts(parts)) => Some(parts),
                    Some(Multiagent::Coordinator { .. }) | None => None,
                };
                Ok(Self::Parts(Parts::parse(fields, stored)?))
            }
            _ => Err(Problem::invalid_at("multiagent.type", "must be `coordinator` or `multiagent_20261001`")),
        }
    }
}

fn team(sent: &Map<String, Value>) -> Result<Team<MemberParam>, Problem> {
    only("multiagent", sent, &["type", "agents"])?;
    let agents = sent.get("agents").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    if !(1..=MAX_ROSTER).contains(&agents.len()) {
        let message = format!("must have 1 to {MAX_ROSTER} agents, has {}", agents.len());
        return Err(Problem::invalid_at(COORDINATED, message));
    }
    let mut team = Team { agents: Vec::new(), advisor: None };
    for (index, sent) in agents.iter().enumerate() {
        let at = at(COORDINATED, index);
        if sent["type"] != "advisor" {
            team.agents.push(member(&at, sent)?);
        } else if team.advisor.replace(Advisor::parse(&at, sent)?).is_some() {
            return Err(Problem::invalid_at(&at, "a roster has at most one advisor"));
        }
    }
    Ok(team)
}

/// Checks that an object has no other fields than these.
pub(super) fn only(place: &str, sent: &Map<String, Value>, fields: &[&str]) -> Result<(), Problem> {
    match sent.keys().find(|key| !fields.contains(&key.as_str())) {
        None => Ok(()),
        Some(unknown) => Err(Problem::invalid_at(&format!("{place}.{unknown}"), "is not a field here")),
    }
}

/// Reads one agent of a roster.
pub(super) fn member(at: &str, sent: &Value) -> Result<MemberParam, Problem> {
    if let Value::String(id) = sent {
        return Ok(MemberParam::Agent { id: id.clone(), version: None });
    }
    match TypedMember::deserialize(sent) {
        Ok(TypedMember::Agent { id, version }) => Ok(MemberParam::Agent { id, version }),
        Ok(TypedMember::Itself {}) => Ok(MemberParam::Itself),
        Err(_) => Err(Problem::invalid_at(
            at,
            "must be an agent's id, {\"type\":\"agent\",\"id\":ID,\"version\":N} or {\"type\":\"self\"}; in a coordinator's \
             list also {\"type\":\"advisor\",\"model\":ID}",
        )),
    }
}

pub(super) fn at(place: &str, index: usize) -> String {
    format!("{place}[{index}]")
}

/// An entry that is stored, as if it was sent again.
impl From<&Member> for MemberParam {
    fn from(member: &Member) -> Self {
        match member {
            Member::Agent { id, version } => Self::Agent { id: id.to_string(), version: Some(*version) },
            Member::Itself {} => Self::Itself,
        }
    }
}

/// What a roster's entry is known by: what the rules between its entries need.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberFacts<'a> {
    /// The agent, `None` for the one that has the roster.
    pub id: Option<&'a AgentId>,
    /// Its name.
    pub name: &'a str,
    /// Whether it has a roster of its own.
    pub has_roster: HasRoster,
    /// Where its model thinks.
    pub inference_geo: Option<&'a str>,
}

/// Whether an agent has others work for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HasRoster {
    /// It does.
    Yes,
    /// It does not.
    No,
}

/// Checks what the entries of a roster must be to each other and to the agent that has it.
///
/// # Errors
/// 400 naming the entry.
pub fn fitting_roster(place: &str, own_geo: Option<&str>, members: &[MemberFacts<'_>]) -> Result<(), Problem> {
    for (index, member) in members.iter().enumerate() {
        let refuse = |message: String| Err(Problem::invalid_at(&at(place, index), message));
        let before = &members[..index];
        if before.iter().any(|other| other.id == member.id) {
            return refuse("this agent is named already; each is named once".into());
        }
        if let Some(name) = before.iter().map(|other| other.name).find(|name| *name == member.name) {
            return refuse(format!(
                "another agent of the roster is called `{name}` too; names are how they are started"
            ));
        }
        if member.name == ADVISOR {
            return refuse(format!("the name `{ADVISOR}` is an advisor's; give the agent another"));
        }
        if member.id.is_some() && member.has_roster == HasRoster::Yes {
            return refuse("an agent with a roster of its own cannot be in one".into());
        }
        if member.inference_geo != own_geo {
            return refuse(
                "`model.inference_geo` must be the same for all agents of a roster and for the one that has it".into(),
            );
        }
    }
    Ok(())
}

/// Checks that the agents of one session mean the same by a skill that several of them have: its files lie in one sandbox, once.
///
/// # Errors
/// 400 `roster_skills_differ` naming the entry.
pub fn fitting_roster_skills<T>(
    multiagent: &Multiagent<T>,
    own: &[AgentSkill],
    members: &[&[AgentSkill]],
) -> Result<(), Problem> {
    let mut known: HashMap<&SkillId, &SkillVersionId> = own.iter().map(AgentSkill::parts).collect();
    for (index, member) in members.iter().enumerate() {
        for (skill, version) in member.iter().map(AgentSkill::parts) {
            if *known.entry(skill).or_insert(version) != version {
                let message =
                    format!("another agent of the roster has another version of skill {skill}; give all the same");
                let place = multiagent.place_of(index);
                return Err(Problem::invalid_at(&place, message).with_code("roster_skills_differ"));
            }
        }
    }
    Ok(())
}

/// The snapshot of an agent as a thread has it: without a roster.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(from = "SessionAgent")]
pub struct ThreadAgent(SessionAgent);

impl ThreadAgent {
    /// The snapshot; its `multiagent` is always null.
    pub fn agent(&self) -> &SessionAgent {
        &self.0
    }
}

impl From<SessionAgent> for ThreadAgent {
    fn from(agent: SessionAgent) -> Self {
        Self(SessionAgent { multiagent: None, ..agent })
    }
}

impl Serialize for ThreadAgent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut agent = serde_json::to_value(&self.0).map_err(S::Error::custom)?;
        if let Value::Object(fields) = &mut agent {
            fields.shift_remove("multiagent");
        }
        agent.serialize(serializer)
    }
}

/// Who thinks in a thread, as the thread shows it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Mind {
    /// A model that is consulted.
    Advisor(Advisor),
    /// An agent that the session's agent defined when it started it.
    Inline(Box<InlineAgent>),
    /// The session's agent, or one of its roster.
    Agent(Box<ThreadAgent>),
}

impl SessionAgent {
    /// The agents that it may start.
    pub fn roster(&self) -> &[ThreadAgent] {
        self.multiagent.as_ref().map(Multiagent::members).unwrap_or_default()
    }

    /// The saved agents that its workflows may use; `None` where it may start none.
    pub fn of_workflows(&self) -> Option<&[ThreadAgent]> {
        self.multiagent.as_ref().and_then(Multiagent::of_workflows)
    }

    /// Whether its workflows may define agents themselves.
    pub fn workflows_define_agents(&self) -> bool {
        self.multiagent.as_ref().is_some_and(Multiagent::workflows_define_agents)
    }

    /// Every other agent that may work in its session, those of its workflows last; one may stand there twice.
    pub fn others(&self) -> impl Iterator<Item = &SessionAgent> {
        self.multiagent.iter().flat_map(Multiagent::all).map(ThreadAgent::agent)
    }

    /// The model that it may consult.
    pub fn advisor(&self) -> Option<&str> {
        self.multiagent.as_ref().and_then(Multiagent::advisor)
    }

    /// Whether it may start agents that it defines itself.
    pub fn defines_agents(&self) -> bool {
        self.multiagent.as_ref().is_some_and(Multiagent::defines_agents)
    }

    /// The skills that its worker shows in the sandbox: its own, then those of the others, each once.
    pub fn skills_of_all(&self) -> Vec<&AgentSkill> {
        let mut all: Vec<&AgentSkill> = Vec::new();
        for skill in self.skills.iter().chain(self.others().flat_map(|agent| &agent.skills)) {
            if !all.contains(&skill) {
                all.push(skill);
            }
        }
        all
    }

    /// The same, where whatever of the roster means the agent itself is as the agent is now (contract 1.4).
    #[must_use]
    pub fn with_its_copies(self) -> Self {
        let Some(multiagent) = self.multiagent.clone() else { return self };
        let own = ThreadAgent::from(self.clone());
        let as_now = |member: &ThreadAgent| if member.0.id == self.id { own.clone() } else { member.clone() };
        let agents = multiagent.all().map(as_now).collect();
        Self { multiagent: Some(multiagent.with(agents)), ..self }
    }
}
