//! The skills of a session's agents: fetched with the session's credential, unpacked, on record, and only then shown.
//!
//! One that cannot be had for good is missing, and the model is told so with its next tool result; trouble that may pass ends the work item, as
//! it does for files.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use postern_model::skill::{SKILLS, SkillName};
use postern_sandbox::GIVEN;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::unpack::{MAX_ARCHIVE, UnpackError, unpack};
use super::{Parcels, hex, no_room, not_on_record, patiently, read, unsupported, write};
use crate::hands::{Hands, Passage, Refused, Way};
use crate::remote::{Fetched, RemoteError};
use crate::session::{Subject, chain};

/// The most skills that a session of any server has.
const MAX_SKILLS: usize = 500;
/// Names the newest version on a server that does not pin it.
const LATEST: &str = "latest";

/// A skill as the session's agent names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
struct Named {
    skill_id: String,
    version: String,
}

/// What lies in the directory of given skills: by skill id.
type Installed = BTreeMap<String, Lies>;

/// A skill that lies there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Lies {
    /// The version as the agent names it.
    named: String,
    /// The version that it was.
    version: String,
    name: SkillName,
}

/// Why a skill is not brought.
enum Missing {
    /// It cannot be had; the session goes on without it.
    ForGood(String),
    /// Not now.
    Now(Refused),
}

impl From<Refused> for Missing {
    fn from(refused: Refused) -> Self {
        Self::Now(refused)
    }
}

/// Whether the session's agent has skills, or one of its roster.
pub(crate) fn has_skills(session: &Value) -> bool {
    sent(session).next().is_some()
}

/// What the server says of the skills of the session's agent and of its roster.
fn sent(session: &Value) -> impl Iterator<Item = &Value> {
    let agent = &session["agent"];
    let multiagent = &agent["multiagent"];
    let roster = list(&multiagent["agents"]).iter().chain(list(&multiagent["subagents"]["predefined_agents"]));
    list(&agent["skills"]).iter().chain(roster.flat_map(|agent| list(&agent["skills"])))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[][..], Vec::as_slice)
}

/// Each once.
fn named(session: &Value) -> Result<Vec<Named>, Refused> {
    let mut named: Vec<Named> = Vec::new();
    for skill in sent(session) {
        let skill = Named::deserialize(skill).map_err(|_| unsupported("skills that this worker cannot read"))?;
        if !named.contains(&skill) {
            named.push(skill);
        }
        if named.len() > MAX_SKILLS {
            return Err(unsupported(&format!("more than {MAX_SKILLS} skills")));
        }
    }
    Ok(named)
}

impl Parcels {
    /// Brings the skills of the session's agent and of its roster. Each line says of one why it is not there.
    pub(super) async fn bring_skills<H: Hands>(
        &self,
        subject: Subject<'_>,
        session: &Value,
        hands: &mut H,
    ) -> Result<Vec<String>, Refused> {
        let wanted = named(session)?;
        let mut installed: Installed = read(&self.place.skills).map_err(|error| no_room(&error))?;
        let stale: Vec<String> =
            installed.keys().filter(|id| !wanted.iter().any(|skill| skill.skill_id == **id)).cloned().collect();
        for id in stale {
            if let Some(lies) = installed.remove(&id) {
                remove(&self.skill(&lies.name)).map_err(|error| no_room(&error))?;
            }
            write(&self.place.skills, &installed).map_err(|error| no_room(&error))?;
        }
        let mut lines = Vec::new();
        for skill in wanted {
            match self.bring_skill(subject, &skill, &installed, hands).await {
                Ok(None) => {}
                Ok(Some(lies)) => {
                    installed.insert(skill.skill_id, lies);
                    write(&self.place.skills, &installed).map_err(|error| no_room(&error))?;
                }
                Err(Missing::Now(refused)) => return Err(refused),
                Err(Missing::ForGood(why)) => {
                    tracing::warn!(session = subject.session, skill = skill.skill_id, why, "a skill is missing");
                    lines.push(line(&skill.skill_id, &why));
                }
            }
        }
        self.sweep(&installed).map_err(|error| no_room(&error))?;
        Ok(lines)
    }

    /// Takes away what lies there and is no skill of the session's: one that has another name by now lies at that too.
    fn sweep(&self, installed: &Installed) -> io::Result<()> {
        for entry in fs::read_dir(self.place.given.join(GIVEN[1].0))? {
            let entry = entry?;
            if !installed.values().any(|lies| entry.file_name() == lies.name.as_str()) {
                remove(&entry.path())?;
            }
        }
        Ok(())
    }

    /// Brings one skill; none where it is there already.
    async fn bring_skill<H: Hands>(
        &self,
        subject: Subject<'_>,
        skill: &Named,
        installed: &Installed,
        hands: &mut H,
    ) -> Result<Option<Lies>, Missing> {
        let Named { skill_id, version } = skill;
        let lies = installed.get(skill_id).filter(|lies| lies.named == *version && self.skill(&lies.name).exists());
        if lies.is_some() && version != LATEST {
            return Ok(None);
        }
        let asked = patiently(subject, || subject.remote.skill_version(subject.key, skill_id, version)).await;
        let found = asked.map_err(|error| missing(skill_id, &error))?;
        if lies.is_some_and(|lies| lies.version == found.id) {
            return Ok(None);
        }
        let name = SkillName::parse(&found.name).map_err(|_| for_good("its name cannot be a directory's"))?;
        if installed.iter().any(|(other, lies)| other != skill_id && lies.name == name) {
            return Err(for_good("another skill of the session has its name"));
        }
        let to = &self.place.incoming;
        let fetch = || subject.remote.skill_content(subject.key, skill_id, &found.id, to, MAX_ARCHIVE);
        let Fetched { bytes, digest } = patiently(subject, fetch).await.map_err(|error| missing(skill_id, &error))?;
        let unpacked = self.unpacked().await?;
        let passage = Passage { way: Way::In, path: format!("{SKILLS}/{name}"), digest: Some(digest), bytes };
        hands.passes(passage).await.map_err(|why| not_on_record(skill_id, &why))?;
        self.show_skill(&unpacked, &name).map_err(|error| no_room(&error))?;
        Ok(Some(Lies { named: version.clone(), version: found.id, name }))
    }

    /// Unpacks what was fetched, where nobody looks. An attempt that was given up may still be at it: each has a directory of its own.
    async fn unpacked(&self) -> Result<PathBuf, Missing> {
        let (archive, all) = (self.place.incoming.clone(), self.place.unpacked.clone());
        let unpacking = tokio::task::spawn_blocking(move || {
            let mut attempt = [0; 16];
            getrandom::fill(&mut attempt).map_err(|error| UnpackError::Disk(io::Error::other(error)))?;
            let to = all.join(hex(&attempt));
            remove(&all).and_then(|()| fs::create_dir_all(&all)).map_err(UnpackError::Disk)?;
            unpack(&archive, &to).map(|()| to)
        });
        match unpacking.await.map_err(|error| no_room(&io::Error::other(error)))? {
            Ok(to) => Ok(to),
            Err(UnpackError::Disk(error)) => Err(no_room(&error).into()),
            Err(error) => Err(for_good(&chain(&error))),
        }
    }

    /// Shows what was unpacked: whole, or not at all.
    fn show_skill(&self, unpacked: &Path, name: &SkillName) -> io::Result<()> {
        let at = self.skill(name);
        remove(&at)?;
        fs::rename(unpacked, at)
    }

    fn skill(&self, name: &SkillName) -> PathBuf {
        self.place.given.join(GIVEN[1].0).join(name.as_str())
    }
}

fn for_good(why: &str) -> Missing {
    Missing::ForGood(why.to_owned())
}

/// What a failed request means for the session.
fn missing(skill: &str, error: &RemoteError) -> Missing {
    match error {
        RemoteError::Disk { source, .. } if source.kind() == io::ErrorKind::FileTooLarge => {
            for_good("its archive is larger than a worker takes")
        }
        RemoteError::Disk { source, .. } => Missing::Now(no_room(source)),
        error if error.is_fatal() => Missing::ForGood(chain(error)),
        error => Missing::Now(Refused {
            code: "skill_unavailable".to_owned(),
            message: format!(
                "the worker could not fetch {skill}: {}. Next step: look whether the server answers, then send a message.",
                chain(error)
            ),
        }),
    }
}

fn line(skill: &str, why: &str) -> String {
    let skill: String = skill.chars().filter(|character| !character.is_control()).take(80).collect();
    format!("[postern] skill not there skill={skill} because {why}; go on without it and say so")
}

fn remove(directory: &Path) -> io::Result<()> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_of_any_server_has_so_many_skills_and_no_more() {
        let session = |count: usize| {
            let skill = |number| serde_json::json!({"skill_id": format!("skill_{number}"), "version": "latest"});
            serde_json::json!({"agent": {"skills": (0..count).map(skill).collect::<Vec<_>>()}})
        };
        assert_eq!(named(&session(500)).map(|named| named.len()).ok(), Some(500));
        let refused = named(&session(501)).err();
        assert!(refused.is_some_and(|refused| refused.message.contains("more than 500 skills")));
    }
}
