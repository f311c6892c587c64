//! Webhooks: who is told by HTTP of what happens (contract 1.17 and 2.13). How they are managed is ours; the contract has
//! no routes for it.

use serde::{Deserialize, Serialize};

use crate::ids::{WebhookEventId, WebhookId, WorkspaceId};
use crate::{Field, Problem, Timestamp};

mod event;
pub use event::{EventTag, Happening, NEVER_TOLD, Subject, WebhookEvent};

const MAX_URL_BYTES: usize = 2048;
const MAX_DESCRIPTION: usize = 1024;
/// Stands for every event, those of later versions too.
pub const EVERY_EVENT: &str = "*";

/// An endpoint that is told of events.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Webhook {
    /// Its id.
    pub id: WebhookId,
    /// Always `webhook`.
    #[serde(rename = "type")]
    pub kind: WebhookTag,
    /// Where events are posted to.
    pub url: String,
    /// The operator's words.
    pub description: Option<String>,
    /// Which events, by type; `*` alone for every one.
    pub enabled_events: Vec<String>,
    /// Whether it is told.
    pub state: WebhookState,
    /// Why it is disabled, where nobody asked for it.
    pub disabled_reason: Option<DisabledReason>,
    /// How many deliveries are under way or will be tried again.
    pub pending: u64,
    /// How many were given up and can be replayed.
    pub dead: u64,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

/// The constant `webhook`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum WebhookTag {
    /// `webhook`.
    #[default]
    #[serde(rename = "webhook")]
    Webhook,
}

/// Whether an endpoint is told of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WebhookState {
    /// It is.
    Enabled,
    /// Nothing new is noted for it, and what is pending waits.
    Disabled,
}

/// Why an endpoint was disabled without being asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisabledReason {
    /// It answered 410: it wants no more.
    Gone,
}

/// One event on its way to one endpoint.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Delivery {
    /// The endpoint.
    pub webhook_id: WebhookId,
    /// Always `webhook_delivery`.
    #[serde(rename = "type")]
    pub kind: DeliveryTag,
    /// What it is told, as posted.
    pub event: WebhookEvent,
    /// How far it has come.
    pub state: DeliveryState,
    /// How often it was tried.
    pub attempts: u32,
    /// When it is tried next.
    pub next_attempt_at: Option<Timestamp>,
    /// What the last attempt met.
    pub last_error: Option<DeliveryError>,
    /// When it was noted.
    pub created_at: Timestamp,
    /// When it last changed.
    pub updated_at: Timestamp,
}

/// The constant `webhook_delivery`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DeliveryTag {
    /// `webhook_delivery`.
    #[default]
    #[serde(rename = "webhook_delivery")]
    Delivery,
}

/// How far a delivery has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryState {
    /// It is tried, now or later.
    Pending,
    /// The endpoint answered with a status between 200 and 299.
    Delivered,
    /// Given up after the last attempt; it can be replayed.
    Dead,
}

impl DeliveryState {
    /// The word on the wire and in the database.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Delivered => "delivered",
            Self::Dead => "dead",
        }
    }

    /// Reads the word.
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Pending, Self::Delivered, Self::Dead].into_iter().find(|state| state.as_str() == word)
    }
}

/// What an attempt met.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeliveryError {
    /// `address_not_allowed`, `unresolved`, `unreachable`, `untrusted`, `timeout`, `redirected` or `status`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For people, with the next step.
    pub message: String,
    /// The status that was answered.
    pub status: Option<u16>,
}

/// The body that makes an endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreateWebhook {
    /// Where events are posted to.
    pub url: String,
    /// Which events.
    pub enabled_events: Vec<String>,
    /// The operator's words.
    #[serde(default)]
    pub description: Option<String>,
}

/// The body that changes an endpoint.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateWebhook {
    /// Where events are posted to from now on, pending ones too.
    #[serde(default)]
    pub url: Field<String>,
    /// Which events are noted from now on.
    #[serde(default)]
    pub enabled_events: Field<Vec<String>>,
    /// The operator's words; null clears.
    #[serde(default)]
    pub description: Field<String>,
    /// Whether it is told.
    #[serde(default)]
    pub state: Field<WebhookState>,
}

impl CreateWebhook {
    /// The same, where all of it is well-formed.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn checked(self) -> Result<Self, Problem> {
        check_url(&self.url)?;
        check_description(self.description.as_deref())?;
        Ok(Self { enabled_events: checked_events(self.enabled_events)?, ..self })
    }
}

impl UpdateWebhook {
    /// The endpoint with these changes.
    ///
    /// # Errors
    /// 400 naming the field.
    pub fn applied_to(self, webhook: &Webhook) -> Result<Webhook, Problem> {
        let mut changed = webhook.clone();
        match self.url {
            Field::Absent => {}
            Field::Null => return Err(Problem::invalid_at("url", "cannot be cleared")),
            Field::Value(url) => {
                check_url(&url)?;
                changed.url = url;
            }
        }
        match self.enabled_events {
            Field::Absent => {}
            Field::Null => return Err(Problem::invalid_at("enabled_events", "cannot be cleared")),
            Field::Value(events) => changed.enabled_events = checked_events(events)?,
        }
        match self.description {
            Field::Absent => {}
            Field::Null => changed.description = None,
            Field::Value(text) => {
                check_description(Some(&text))?;
                changed.description = Some(text);
            }
        }
        match self.state {
            Field::Absent => {}
            Field::Null => return Err(Problem::invalid_at("state", "cannot be cleared")),
            Field::Value(state) => (changed.state, changed.disabled_reason) = (state, None),
        }
        Ok(changed)
    }
}

/// The form alone: what the host's name leads to is looked at when it is dialled, each time.
fn check_url(url: &str) -> Result<(), Problem> {
    let refuse = |why: &str| Err(Problem::invalid_at("url", why));
    if url.len() > MAX_URL_BYTES {
        return refuse("must have at most 2048 bytes");
    }
    let Some(rest) = url.strip_prefix("https://") else { return refuse("must begin with https://") };
    let authority = rest.split(['/', '?']).next().unwrap_or_default();
    if authority.is_empty() || authority.contains('@') {
        return refuse("must name a host, without a user name or password");
    }
    if url.contains('#') || !url.bytes().all(|byte| byte.is_ascii_graphic()) {
        return refuse("must be an URL in ASCII, without a fragment");
    }
    Ok(())
}

fn check_description(text: Option<&str>) -> Result<(), Problem> {
    match text.is_some_and(|text| text.chars().count() > MAX_DESCRIPTION) {
        true => Err(Problem::invalid_at("description", format!("must have at most {MAX_DESCRIPTION} characters"))),
        false => Ok(()),
    }
}

fn checked_events(mut events: Vec<String>) -> Result<Vec<String>, Problem> {
    if events.is_empty() {
        return Err(Problem::invalid_at("enabled_events", "must name an event type, or be [\"*\"]"));
    }
    if events.iter().any(|word| word == EVERY_EVENT) {
        return Ok(vec![EVERY_EVENT.to_owned()]);
    }
    if let Some(unknown) = events.iter().find(|word| !is_published(word)) {
        // What was sent is a caller's text and may be long.
        let shown: String = unknown.chars().take(64).collect();
        return Err(Problem::invalid_at("enabled_events", format!("`{shown}` is no event type")));
    }
    events.sort_unstable();
    events.dedup();
    Ok(events)
}

/// Whether clients know the type: a list of all that they know is taken whole.
fn is_published(word: &str) -> bool {
    Happening::parse(word).is_some() || NEVER_TOLD.contains(&word)
}

/// The id of the organisation that payloads name: an installation is one.
pub const ORGANIZATION: &str = "org_default";

/// An event of a workspace as it is posted.
pub fn event(id: WebhookEventId, workspace: &WorkspaceId, subject: Subject, now: Timestamp) -> WebhookEvent {
    WebhookEvent::new(id, ORGANIZATION, workspace.as_str(), subject, now)
}

#[cfg(test)]
mod tests;
