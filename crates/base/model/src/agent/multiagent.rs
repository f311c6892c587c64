//! Agents that have others work for them: the roster as it is sent, as it is stored, and as a session has it (contract 2.3).

use std::collections::HashMap;

use serde::ser::Error as _;
use serde::{Deserialize, Serialize, Serializer};
use serde_json::Value;

use super::advisor::{ADVISOR, Advisor, Team};
use crate::Problem;
use crate::ids::{AgentId, SkillId, SkillVersionId};
use crate::session::SessionAgent;
use crate::skill::AgentSkill;

/// The most agents a roster may name.
pub const MAX_ROSTER: usize = 20;
/// The tool that gives an agent of the roster something to do, in a thread of its own.
pub const START_AGENT: &str = "start_agent";
/// The tool that says something to one that was started.
pub const MESSAGE_AGENT: &str = "message_agent";

/// Whom an agent has work for it, as it is stored and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Multiagent {
    /// It starts agents of a roster and hears what they found.
    Coordinator {
        /// The roster, in the order it was sent; an advisor comes last.
        agents: Team<Member>,
    },
}

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

impl Multiagent {
    /// The agents that it may start.
    pub fn members(&self) -> &[Member] {
        let Self::Coordinator { agents } = self;
        &agents.agents
    }

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
        let Self::Coordinator { agents } = self;
        Self::Coordinator { agents: agents.map(change) }
    }
}

/// A roster as it is sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RosterParam(pub Team<MemberParam>);

/// One entry of it.
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

impl RosterParam {
    /// Reads what was sent.
    ///
    /// # Errors
    /// 400 naming the place; `multiagent_type_unsupported` for what is not in this build.
    pub fn parse(sent: &Value) -> Result<Self, Problem> {
        match sent["type"].as_str() {
            Some("coordinator") => {}
            Some("multiagent_20261001") => {
                let message =
                    "`multiagent_20261001` is not in this build; use {\"type\":\"coordinator\",\"agents\":[...]}";
                return Err(Problem::invalid_at("multiagent.type", message).with_code("multiagent_type_unsupported"));
            }
            _ => return Err(Problem::invalid_at("multiagent.type", "must be `coordinator`")),
        }
        if let Some(unknown) =
            sent.as_object().and_then(|all| all.keys().find(|key| *key != "type" && *key != "agents"))
        {
            return Err(Problem::invalid_at(&format!("multiagent.{unknown}"), "is not a field of a coordinator"));
        }
        let agents = sent["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
        if !(1..=MAX_ROSTER).contains(&agents.len()) {
            let message = format!("must have 1 to {MAX_ROSTER} agents, has {}", agents.len());
            return Err(Problem::invalid_at("multiagent.agents", message));
        }
        let mut team = Team { agents: Vec::new(), advisor: None };
        for (index, sent) in agents.iter().enumerate() {
            if sent["type"] != "advisor" {
                team.agents.push(member(index, sent)?);
            } else if team.advisor.replace(Advisor::parse(&at(index), sent)?).is_some() {
                return Err(Problem::invalid_at(&at(index), "a roster has at most one advisor"));
            }
        }
        Ok(Self(team))
    }
}

fn member(index: usize, sent: &Value) -> Result<MemberParam, Problem> {
    let at = at(index);
    if let Value::String(id) = sent {
        return Ok(MemberParam::Agent { id: id.clone(), version: None });
    }
    match TypedMember::deserialize(sent) {
        Ok(TypedMember::Agent { id, version }) => Ok(MemberParam::Agent { id, version }),
        Ok(TypedMember::Itself {}) => Ok(MemberParam::Itself),
        Err(_) => Err(Problem::invalid_at(
            &at,
            "must be an agent's id, {\"type\":\"agent\",\"id\":ID,\"version\":N}, {\"type\":\"self\"} or \
             {\"type\":\"advisor\",\"model\":ID}",
        )),
    }
}

fn at(index: usize) -> String {
    format!("multiagent.agents[{index}]")
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
pub fn fitting_roster(own_geo: Option<&str>, members: &[MemberFacts<'_>]) -> Result<(), Problem> {
    for (index, member) in members.iter().enumerate() {
        let refuse = |message: String| Err(Problem::invalid_at(&at(index), message));
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
pub fn fitting_roster_skills(own: &[AgentSkill], members: &[&[AgentSkill]]) -> Result<(), Problem> {
    let mut known: HashMap<&SkillId, &SkillVersionId> = own.iter().map(AgentSkill::parts).collect();
    for (index, member) in members.iter().enumerate() {
        for (skill, version) in member.iter().map(AgentSkill::parts) {
            if *known.entry(skill).or_insert(version) != version {
                let message =
                    format!("another agent of the roster has another version of skill {skill}; give all the same");
                return Err(Problem::invalid_at(&at(index), message).with_code("roster_skills_differ"));
            }
        }
    }
    Ok(())
}

/// Whom a session's agent has work for it: the roster with everything the session needs of each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SessionMultiagent {
    /// It starts agents of a roster and hears what they found.
    Coordinator {
        /// Their snapshots; an advisor comes last.
        agents: Team<ThreadAgent>,
    },
}

impl SessionMultiagent {
    /// The agents that it may start.
    pub fn agents(&self) -> &[ThreadAgent] {
        let Self::Coordinator { agents } = self;
        &agents.agents
    }

    /// The model that it may consult.
    pub fn advisor(&self) -> Option<&Advisor> {
        let Self::Coordinator { agents } = self;
        agents.advisor.as_ref()
    }
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
    /// The session's agent, or one of its roster.
    Agent(Box<ThreadAgent>),
}

impl SessionAgent {
    /// The agents that it may start.
    pub fn roster(&self) -> &[ThreadAgent] {
        self.multiagent.as_ref().map(SessionMultiagent::agents).unwrap_or_default()
    }

    /// The model that it may consult.
    pub fn advisor(&self) -> Option<&Advisor> {
        self.multiagent.as_ref().and_then(SessionMultiagent::advisor)
    }

    /// The skills that its worker shows in the sandbox: its own, then those of its roster, each once.
    pub fn skills_of_all(&self) -> Vec<&AgentSkill> {
        let mut all: Vec<&AgentSkill> = Vec::new();
        for skill in self.skills.iter().chain(self.roster().iter().flat_map(|agent| &agent.0.skills)) {
            if !all.contains(&skill) {
                all.push(skill);
            }
        }
        all
    }

    /// The same, where whatever of the roster means the agent itself is as the agent is now (contract 1.4).
    #[must_use]
    pub fn with_its_copies(self) -> Self {
        let Some(SessionMultiagent::Coordinator { agents }) = self.multiagent.clone() else { return self };
        let own = ThreadAgent::from(self.clone());
        let agents = agents.map(|member| if member.0.id == self.id { own.clone() } else { member });
        Self { multiagent: Some(SessionMultiagent::Coordinator { agents }), ..self }
    }
}
