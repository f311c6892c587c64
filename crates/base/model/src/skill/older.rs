//! Skills as the older beta shows them, for clients from before versions had ids: a version is named by when it was made.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::{Skill, SkillName, SkillTag, SkillVersion, SkillVersionTag};
use crate::Timestamp;
use crate::ids::{InvalidId, SkillId, SkillVersionId};

/// The older beta.
pub const OLDER_BETA: &str = "skills-2025-10-02";

/// How a version of a skill is named.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VersionName {
    /// By its id.
    Id(SkillVersionId),
    /// By when it was made, in microseconds since 1970: unlike any id, and no two of a skill were made in the same.
    Made(i64),
}

impl FromStr for VersionName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let made = Some(text).filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
        match made.and_then(|digits| digits.parse().ok()) {
            Some(made) => Ok(Self::Made(made)),
            None => SkillVersionId::parse(text).map(Self::Id),
        }
    }
}

impl fmt::Display for VersionName {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(out),
            Self::Made(made) => made.fmt(out),
        }
    }
}

/// What the older beta calls a version that was made then.
pub fn older_name(made: Timestamp) -> String {
    VersionName::Made(made.as_microsecond()).to_string()
}

/// A skill in the older shape.
#[derive(Debug, Serialize)]
pub struct OlderSkill<'a> {
    id: &'a SkillId,
    #[serde(rename = "type")]
    kind: SkillTag,
    display_title: &'a str,
    latest_version: String,
    source: &'static str,
    created_at: Timestamp,
    updated_at: Timestamp,
}

impl<'a> From<&'a Skill> for OlderSkill<'a> {
    fn from(skill: &'a Skill) -> Self {
        Self {
            id: &skill.id,
            kind: skill.kind,
            display_title: &skill.display_name,
            latest_version: older_name(skill.latest_version_at),
            source: "custom",
            created_at: skill.created_at,
            updated_at: skill.updated_at,
        }
    }
}

/// A version in the older shape.
#[derive(Debug, Serialize)]
pub struct OlderVersion<'a> {
    id: &'a SkillVersionId,
    #[serde(rename = "type")]
    kind: SkillVersionTag,
    skill_id: &'a SkillId,
    version: String,
    name: &'a SkillName,
    directory: &'a SkillName,
    description: &'a str,
    created_at: Timestamp,
}

impl<'a> From<&'a SkillVersion> for OlderVersion<'a> {
    fn from(version: &'a SkillVersion) -> Self {
        Self {
            id: &version.id,
            kind: version.kind,
            skill_id: &version.skill_id,
            version: older_name(version.created_at),
            name: &version.name,
            directory: &version.name,
            description: &version.description,
            created_at: version.created_at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_named_by_digits_or_by_its_id() {
        assert_eq!("1759178010641129".parse(), Ok(VersionName::Made(1_759_178_010_641_129)));
        let id = SkillVersionId::generate();
        assert_eq!(id.as_str().parse(), Ok(VersionName::Id(id)));
        for text in ["", "latest", "-1", "+1", " 1", "99999999999999999999", "1759178010641129x"] {
            assert!(text.parse::<VersionName>().is_err(), "{text:?}");
        }
    }
}
