//! Skills: directories of instructions that an agent may read when a task fits them, in versions that never change (contract 2.2, 2.9).

mod older;
mod path;

pub use older::{OLDER_BETA, OlderSkill, OlderVersion, VersionName, older_name};
pub use path::MemberPath;

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{SkillId, SkillVersionId};
use crate::{Problem, Timestamp};

/// The most skills of an agent.
pub const MAX_SKILLS: usize = 20;
/// The file at a skill's root that says what it is.
pub const INSTRUCTIONS: &str = "SKILL.md";
/// Where sessions are shown theirs, each below its name.
pub const SKILLS: &str = "/mnt/session/skills";

const MAX_NAME: usize = 64;
const MAX_LABEL: usize = 255;
const MAX_DESCRIPTION: usize = 1024;

/// A skill as the contract shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skill {
    /// Its id, shared by all versions.
    pub id: SkillId,
    /// Always `skill`.
    #[serde(rename = "type")]
    pub kind: SkillTag,
    /// What people call it.
    pub display_name: String,
    /// The newest version; a skill has at least one.
    pub latest_version_id: SkillVersionId,
    /// When that was made: what the older beta calls it.
    #[serde(skip)]
    pub latest_version_at: Timestamp,
    /// Where it comes from.
    pub source: SkillSource,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it last got or lost a version.
    pub updated_at: Timestamp,
}

/// The constant `skill`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum SkillTag {
    /// `skill`.
    #[default]
    #[serde(rename = "skill")]
    Skill,
}

/// Where a skill comes from: here always from a caller.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum SkillSource {
    /// Uploaded to the workspace.
    #[default]
    Custom,
}

/// One version of a skill as the contract shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SkillVersion {
    /// Its id.
    pub id: SkillVersionId,
    /// Always `skill_version`.
    #[serde(rename = "type")]
    pub kind: SkillVersionTag,
    /// Whose version it is.
    pub skill_id: SkillId,
    /// The skill's name, the same in all versions.
    pub name: SkillName,
    /// When to use it, from its instructions.
    pub description: String,
    /// When it was made.
    pub created_at: Timestamp,
}

/// The constant `skill_version`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub enum SkillVersionTag {
    /// `skill_version`.
    #[default]
    #[serde(rename = "skill_version")]
    SkillVersion,
}

/// A skill's name, which is also its directory's: 1 to 64 small letters, digits and single hyphens between them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String")]
pub struct SkillName(String);

impl SkillName {
    /// Reads a name.
    ///
    /// # Errors
    /// What a name is.
    pub fn parse(text: &str) -> Result<Self, InvalidName> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let is_name = text.len() <= MAX_NAME && text.split('-').all(|word| !word.is_empty() && word.bytes().all(plain));
        if is_name { Ok(Self(text.to_owned())) } else { Err(InvalidName) }
    }

    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SkillName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for SkillName {
    type Error = InvalidName;
    fn try_from(text: String) -> Result<Self, InvalidName> {
        Self::parse(&text)
    }
}

/// A text that names no skill.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must have 1 to {MAX_NAME} small letters and digits, with single hyphens between them")]
pub struct InvalidName;

/// What people call a skill: one line.
///
/// # Errors
/// 400 naming the place.
pub fn label(text: String) -> Result<String, Problem> {
    let count = text.chars().count();
    if (1..=MAX_LABEL).contains(&count) && !text.chars().any(char::is_control) {
        return Ok(text);
    }
    Err(Problem::invalid_at("display_name", format!("must be one line of 1 to {MAX_LABEL} characters")))
}

/// When to use a skill, without white space at its ends.
///
/// # Errors
/// What a description is.
pub fn description(text: &str) -> Result<String, String> {
    let text = text.trim();
    let count = text.chars().count();
    let is_text = !text.chars().any(|character| character.is_control() && !matches!(character, '\n' | '\t'));
    if (1..=MAX_DESCRIPTION).contains(&count) && is_text {
        return Ok(text.to_owned());
    }
    Err(format!("must have 1 to {MAX_DESCRIPTION} characters and no control characters, has {count}"))
}

/// A skill as an agent names it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum SkillParam {
    /// One of the workspace's.
    Custom {
        /// Which.
        skill_id: String,
        /// Absent, null and `latest`: the newest, from then on always this one.
        #[serde(default)]
        version: Option<String>,
    },
    /// One that the hosted platform ships: there are none here.
    Anthropic {
        /// Which.
        skill_id: String,
        /// Which version.
        #[serde(default)]
        version: Option<String>,
    },
}

/// A skill of an agent, pinned to a version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum AgentSkill {
    /// One of the workspace's.
    Custom {
        /// Which.
        skill_id: SkillId,
        /// Which version.
        version: SkillVersionId,
    },
}

impl AgentSkill {
    /// The skill and its version.
    pub fn parts(&self) -> (&SkillId, &SkillVersionId) {
        let Self::Custom { skill_id, version } = self;
        (skill_id, version)
    }
}

/// What a session's model is told of a skill before it reads it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SkillSummary {
    /// Its name.
    pub name: SkillName,
    /// When to use it.
    pub description: String,
    /// Which version it is of; unknown in sessions of earlier releases, whose rosters had no skills.
    #[serde(default)]
    pub version: Option<SkillVersionId>,
}

impl SkillSummary {
    /// Whether an agent with these skills is told of it.
    pub fn is_of(&self, skills: &[AgentSkill]) -> bool {
        match &self.version {
            Some(version) => skills.iter().any(|skill| skill.parts().1 == version),
            None => !skills.is_empty(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_plain_directory() {
        for name in ["pdf", "a", "pdf-forms-2", &"x".repeat(64)] {
            assert_eq!(SkillName::parse(name).unwrap().as_str(), name);
        }
        for name in ["", "-", "-a", "a-", "a--b", "A", "a_b", "a b", ".", "..", "a/b", "\u{e9}", &"x".repeat(65)] {
            assert!(SkillName::parse(name).is_err(), "{name:?}");
        }
    }

    #[test]
    fn labels_and_descriptions_have_bounds() {
        assert!(label("Fill forms".into()).is_ok() && label("\u{fc}".repeat(255)).is_ok());
        for text in [String::new(), "two\nlines".into(), "x".repeat(256)] {
            assert!(label(text).is_err());
        }
        assert_eq!(description(" Fills\n forms. \n"), Ok("Fills\n forms.".to_owned()));
        for text in ["", " \n", "a\0b", &"x".repeat(1025)] {
            assert!(description(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_agent_is_told_of_its_own_skills_alone() {
        let skill = |n: u8| AgentSkill::Custom {
            skill_id: SkillId::parse(&format!("skill_{n}")).unwrap(),
            version: SkillVersionId::parse(&format!("skillver_{n}")).unwrap(),
        };
        let summary = |version: Option<u8>| SkillSummary {
            name: SkillName::parse("pdf").unwrap(),
            description: String::new(),
            version: version.map(|n| SkillVersionId::parse(&format!("skillver_{n}")).unwrap()),
        };
        assert!(summary(Some(1)).is_of(&[skill(2), skill(1)]));
        assert!(!summary(Some(1)).is_of(&[skill(2)]) && !summary(Some(1)).is_of(&[]));
        assert!(summary(None).is_of(&[skill(2)]) && !summary(None).is_of(&[]), "of an earlier release: its agent's");
    }
}
