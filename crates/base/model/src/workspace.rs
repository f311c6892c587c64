//! Workspaces: what one of an organisation's parts has, unseen by the others. Ours; the contract has no routes for them.

use serde::{Deserialize, Serialize};

use crate::ids::WorkspaceId;
use crate::{Field, Problem, Timestamp};

const MAX_NAME: usize = 255;
/// The longest and the shortest time for which transcripts are kept, in days.
const RETENTION: std::ops::RangeInclusive<u32> = 1..=3650;

/// A workspace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workspace {
    /// Its id.
    pub id: WorkspaceId,
    /// Always `workspace`.
    #[serde(rename = "type")]
    pub kind: WorkspaceTag,
    /// The operator's name for it.
    pub name: String,
    /// A session that rested for so many days is deleted with its log and files; without, none is.
    pub retention_days: Option<u32>,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The constant `workspace`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkspaceTag {
    /// `workspace`.
    #[default]
    #[serde(rename = "workspace")]
    Workspace,
}

/// The body that makes a workspace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateWorkspace {
    /// The operator's name for it.
    pub name: String,
    /// For how many days sessions at rest are kept.
    #[serde(default)]
    pub retention_days: Option<u32>,
}

/// The body that changes a workspace.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateWorkspace {
    /// The operator's name for it.
    #[serde(default)]
    pub name: Field<String>,
    /// For how many days sessions at rest are kept; null for good.
    #[serde(default)]
    pub retention_days: Field<u32>,
}

impl CreateWorkspace {
    /// The same, where all of it is well-formed.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn checked(self) -> Result<Self, Problem> {
        check(&self.name, self.retention_days)?;
        Ok(self)
    }
}

impl UpdateWorkspace {
    /// The workspace with these changes.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn applied_to(self, workspace: &Workspace) -> Result<Workspace, Problem> {
        let name = match self.name {
            Field::Absent => workspace.name.clone(),
            Field::Null => return Err(Problem::invalid_at("name", "cannot be cleared")),
            Field::Value(name) => name,
        };
        let retention_days = match self.retention_days {
            Field::Absent => workspace.retention_days,
            Field::Null => None,
            Field::Value(days) => Some(days),
        };
        check(&name, retention_days)?;
        Ok(Workspace { name, retention_days, ..workspace.clone() })
    }
}

fn check(name: &str, retention_days: Option<u32>) -> Result<(), Problem> {
    if !(1..=MAX_NAME).contains(&name.chars().count()) || name.chars().any(char::is_control) {
        return Err(Problem::invalid_at(
            "name",
            format!("must have 1 to {MAX_NAME} characters, no control characters"),
        ));
    }
    if retention_days.is_some_and(|days| !RETENTION.contains(&days)) {
        let message = format!("must be {} to {}; null keeps sessions for good", RETENTION.start(), RETENTION.end());
        return Err(Problem::invalid_at("retention_days", message));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_name_is_one_line_and_a_retention_is_a_day_to_ten_years() {
        let made = |body| serde_json::from_value::<CreateWorkspace>(body).unwrap().checked();
        for days in [1, 30, 3650] {
            assert!(made(json!({"name": "legal", "retention_days": days})).is_ok());
        }
        assert!(made(json!({"name": "legal"})).is_ok());
        for days in [0, 3651] {
            let refused = made(json!({"name": "legal", "retention_days": days})).unwrap_err();
            assert!(refused.message.starts_with("retention_days: "), "{}", refused.message);
        }
        for name in ["", "two\nlines", &"x".repeat(256)] {
            assert!(made(json!({"name": name})).unwrap_err().message.starts_with("name: "), "{name}");
        }
    }

    #[test]
    fn a_change_keeps_what_it_does_not_name_and_null_keeps_sessions_for_good() {
        let workspace: Workspace =
            serde_json::from_value(json!({"id": "wrkspc_1", "type": "workspace", "name": "legal",
            "retention_days": 30, "created_at": "2026-11-01T00:00:00Z", "updated_at": "2026-11-01T00:00:00Z"}))
            .unwrap();
        let change = |body| serde_json::from_value::<UpdateWorkspace>(body).unwrap().applied_to(&workspace);
        assert_eq!(change(json!({})).unwrap(), workspace);
        assert_eq!(change(json!({"retention_days": null})).unwrap().retention_days, None);
        assert_eq!(change(json!({"name": "law"})).unwrap().retention_days, Some(30));
        assert!(change(json!({"name": null})).is_err() && change(json!({"retention_days": 0})).is_err());
    }
}
