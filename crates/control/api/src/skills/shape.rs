//! The two shapes in which skills are shown: today's, and the one that clients of the older beta read.

use http::HeaderMap;
use postern_model::Problem;
use postern_model::page::Page;
use postern_model::skill::{OLDER_BETA, OlderSkill, OlderVersion, Skill, SkillVersion};

use crate::dispatch::betas;
use crate::reply::Reply;

/// What the client that asks reads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Versions have ids.
    Today,
    /// Versions are named by when they were made.
    Older,
}

impl Shape {
    /// The older one where its beta is named.
    pub(crate) fn of(headers: &HeaderMap) -> Self {
        if betas(headers).any(|beta| beta == OLDER_BETA) { Self::Older } else { Self::Today }
    }

    /// The part of an upload that says what people call the skill.
    pub(crate) fn label(self) -> &'static str {
        match self {
            Self::Today => "display_name",
            Self::Older => "display_title",
        }
    }

    pub(crate) fn skill(self, skill: &Skill) -> Result<Reply, Problem> {
        match self {
            Self::Today => Reply::json(skill),
            Self::Older => Reply::json(&OlderSkill::from(skill)),
        }
    }

    pub(crate) fn skills(self, found: &Page<Skill>) -> Result<Reply, Problem> {
        match self {
            Self::Today => Reply::json(found),
            Self::Older => Reply::json(&older::<_, OlderSkill<'_>>(found)),
        }
    }

    pub(crate) fn version(self, version: &SkillVersion) -> Result<Reply, Problem> {
        match self {
            Self::Today => Reply::json(version),
            Self::Older => Reply::json(&OlderVersion::from(version)),
        }
    }

    pub(crate) fn versions(self, found: &Page<SkillVersion>) -> Result<Reply, Problem> {
        match self {
            Self::Today => Reply::json(found),
            Self::Older => Reply::json(&older::<_, OlderVersion<'_>>(found)),
        }
    }
}

fn older<'a, T, O: From<&'a T>>(found: &'a Page<T>) -> Page<O> {
    Page { data: found.data.iter().map(O::from).collect(), next_page: found.next_page.clone() }
}
