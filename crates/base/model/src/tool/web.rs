//! What an agent may say about its web tools: lists of domains, sources of URLs, where the user is (contract 2.3).
//!
//! Checks what is written; whether a URL may be fetched is decided elsewhere.

use std::collections::HashSet;

use serde::{Deserialize, Serialize};

use super::{AgentToolset, Builtin, Tool, ToolConfigParam};
use crate::{Field, Problem};

/// How many domains a list may have.
const MOST_DOMAINS: usize = 64;
/// The longest of them.
const LONGEST_DOMAIN: usize = 255;
/// How many tools a source may name.
const MOST_TOOLS: usize = 128;
/// The longest name of a place.
const LONGEST_PLACE: usize = 255;
/// What no public name ends in.
const NOT_PUBLIC: [&str; 5] = ["localhost", "local", "internal", "localdomain", "invalid"];

/// Where the user is, about.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserLocation {
    /// Always `approximate`.
    #[serde(rename = "type")]
    pub kind: Approximate,
    /// The city.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub city: Option<String>,
    /// The country: two upper-case letters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub country: Option<String>,
    /// The region or state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The timezone, by its IANA name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timezone: Option<String>,
}

/// The constant `approximate`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Approximate {
    /// `approximate`.
    #[serde(rename = "approximate")]
    Approximate,
}

/// Where a URL must have stood before it may be fetched; a source without a word counts in full.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UrlSources {
    /// Results of custom tools.
    pub client_tool_results: Option<ToolSource>,
    /// Results of the web tools.
    pub server_tool_results: Option<ToolSource>,
    /// What the user wrote.
    pub user_input: Option<UserSource>,
}

/// Which tools' results count.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum ToolSource {
    /// All.
    All {},
    /// None.
    None {},
    /// Those of these tools.
    Only {
        /// The tools.
        tools: Vec<ToolReference>,
    },
    /// Those of all tools but these.
    Except {
        /// The tools.
        tools: Vec<ToolReference>,
    },
}

impl ToolSource {
    /// Whether the results of this tool count.
    pub fn admits(&self, tool: &str) -> bool {
        let names = |tools: &[ToolReference]| tools.iter().any(|named| named.name == tool);
        match self {
            Self::All {} => true,
            Self::None {} => false,
            Self::Only { tools } => names(tools),
            Self::Except { tools } => !names(tools),
        }
    }

    fn tools(&self) -> &[ToolReference] {
        match self {
            Self::All {} | Self::None {} => &[],
            Self::Only { tools } | Self::Except { tools } => tools,
        }
    }
}

/// Whether what the user wrote counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum UserSource {
    /// It does.
    All {},
    /// It does not.
    None {},
}

/// A tool, by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ToolReference {
    /// Always `tool_reference`.
    #[serde(rename = "type")]
    pub kind: ToolReferenceTag,
    /// The tool.
    pub name: String,
}

/// The constant `tool_reference`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToolReferenceTag {
    /// `tool_reference`.
    #[serde(rename = "tool_reference")]
    ToolReference,
}

/// [`UrlSources`] as sent.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UrlSourcesParam {
    /// Results of custom tools.
    #[serde(default)]
    pub client_tool_results: Option<OrWord<ToolSource>>,
    /// Results of the web tools.
    #[serde(default)]
    pub server_tool_results: Option<OrWord<ToolSource>>,
    /// What the user wrote.
    #[serde(default)]
    pub user_input: Option<OrWord<UserSource>>,
}

/// A source, or a word for one.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(untagged, expecting = "a source is all or none, or an object with a `type`")]
pub enum OrWord<T> {
    /// `"all"` or `"none"`.
    Word(Word),
    /// Spelled out.
    Source(T),
}

/// The words for a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Word {
    /// All of it.
    All,
    /// Nothing of it.
    None,
}

impl From<OrWord<Self>> for ToolSource {
    fn from(sent: OrWord<Self>) -> Self {
        match sent {
            OrWord::Word(Word::All) => Self::All {},
            OrWord::Word(Word::None) => Self::None {},
            OrWord::Source(source) => source,
        }
    }
}

impl From<OrWord<Self>> for UserSource {
    fn from(sent: OrWord<Self>) -> Self {
        match sent {
            OrWord::Word(Word::All) => Self::All {},
            OrWord::Word(Word::None) => Self::None {},
            OrWord::Source(source) => source,
        }
    }
}

impl From<UrlSourcesParam> for UrlSources {
    fn from(sent: UrlSourcesParam) -> Self {
        Self {
            client_tool_results: sent.client_tool_results.map(ToolSource::from),
            server_tool_results: sent.server_tool_results.map(ToolSource::from),
            user_input: sent.user_input.map(UserSource::from),
        }
    }
}

/// Checks what a configuration says about web tools: that the tool has such a field, and what is in it.
pub(super) fn check(config: &ToolConfigParam) -> Result<(), String> {
    let tool = config.name;
    let is_web = Builtin::ON_SERVER.contains(&tool);
    for (field, is_sent, fits) in [
        ("allowed_domains", config.allowed_domains.is_some(), is_web),
        ("blocked_domains", config.blocked_domains.is_some(), is_web),
        ("max_content_tokens", config.max_content_tokens.is_some(), tool == Builtin::WebFetch),
        ("url_sources", config.url_sources.is_some(), tool == Builtin::WebFetch),
        ("user_location", config.user_location.is_some(), tool == Builtin::WebSearch),
    ] {
        if is_sent && !fits {
            return Err(format!("`{field}` is not a field of this tool; leave it out"));
        }
    }
    if config.allowed_domains.is_some() && config.blocked_domains.is_some() {
        return Err("`allowed_domains` and `blocked_domains` exclude each other; send one".into());
    }
    for (field, list) in [("allowed_domains", &config.allowed_domains), ("blocked_domains", &config.blocked_domains)] {
        if let Some(list) = list {
            domains(tool, list).map_err(|message| format!("{field}{message}"))?;
        }
    }
    if config.max_content_tokens == Some(0) {
        return Err("max_content_tokens: must be at least 1".into());
    }
    config.user_location.as_ref().map_or(Ok(()), location)
}

fn domains(tool: Builtin, list: &[String]) -> Result<(), String> {
    if list.is_empty() {
        return Err(": must not be empty; leave it out to reach every host".into());
    }
    if list.len() > MOST_DOMAINS {
        return Err(format!(": at most {MOST_DOMAINS} are allowed, got {}", list.len()));
    }
    let mut seen = HashSet::new();
    for (index, entry) in list.iter().enumerate() {
        domain(tool, entry).map_err(|message| format!("[{index}]: {message}"))?;
        if !seen.insert(entry.to_ascii_lowercase()) {
            return Err(format!("[{index}]: `{entry}` appears twice"));
        }
    }
    Ok(())
}

fn domain(tool: Builtin, entry: &str) -> Result<(), String> {
    if entry.is_empty() || entry.len() > LONGEST_DOMAIN {
        return Err(format!("must have 1 to {LONGEST_DOMAIN} characters"));
    }
    if !entry.is_ascii() {
        return Err("must be ASCII; write an international name in its xn-- form".into());
    }
    if entry.contains("://") {
        return Err("must be a host without a scheme".into());
    }
    let (host, path) = entry.find('/').map_or((entry, ""), |at| entry.split_at(at));
    if !path.is_empty() && tool == Builtin::WebFetch {
        return Err("must be a host without a path".into());
    }
    if path.bytes().any(|byte| !byte.is_ascii_graphic() || matches!(byte, b'?' | b'#' | b'\\' | b'%')) {
        return Err("the path holds a character that no path suffix has".into());
    }
    host_name(&host.to_ascii_lowercase())
}

fn host_name(host: &str) -> Result<(), String> {
    if host.contains(':') {
        return Err("must be a host without a port, and no address".into());
    }
    let labels: Vec<&str> = host.split('.').collect();
    let is_label = |label: &&str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !labels.iter().all(is_label) {
        return Err("must be a host name such as docs.example.com".into());
    }
    let last = labels.last().copied().unwrap_or_default();
    if NOT_PUBLIC.contains(&last) {
        return Err(format!("`{last}` is not public; the web tools reach public hosts"));
    }
    if labels.len() < 2 {
        return Err("must have at least two labels, such as example.com".into());
    }
    // `1.2.3.4`, and what some readers take for it.
    if last.bytes().all(|byte| byte.is_ascii_digit()) || last.starts_with("0x") {
        return Err("must be a name, not an address".into());
    }
    Ok(())
}

fn location(location: &UserLocation) -> Result<(), String> {
    for (field, place) in [("city", &location.city), ("region", &location.region)] {
        let is_place =
            |text: &String| (1..=LONGEST_PLACE).contains(&text.chars().count()) && !text.chars().any(char::is_control);
        if place.as_ref().is_some_and(|text| !is_place(text)) {
            return Err(format!("user_location.{field}: must have 1 to {LONGEST_PLACE} characters"));
        }
    }
    let is_country = |code: &String| code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase());
    if location.country.as_ref().is_some_and(|code| !is_country(code)) {
        return Err("user_location.country: must be two upper-case letters, such as DE".into());
    }
    let is_zone =
        |name: &String| name.bytes().all(|byte| byte.is_ascii_graphic()) && jiff::tz::TimeZone::get(name).is_ok();
    if location.timezone.as_ref().is_some_and(|name| !is_zone(name)) {
        return Err("user_location.timezone: must be an IANA name, such as Europe/Berlin".into());
    }
    Ok(())
}

/// Checks that the sources of URLs leave something, and name tools that there are: `custom` are those of the same array.
pub(super) fn known_sources(toolset: &AgentToolset, custom: &HashSet<String>) -> Result<(), String> {
    let config = toolset.named(Builtin::WebFetch).map(|config| config.url_sources.as_ref());
    let Some(Field::Value(sources)) = config else { return Ok(()) };
    let failed = |field: &str, message: String| format!("configs: `web_fetch`: url_sources.{field}{message}");
    let is_none = |source: &Option<ToolSource>| matches!(source, Some(ToolSource::None {}));
    if is_none(&sources.client_tool_results)
        && is_none(&sources.server_tool_results)
        && matches!(sources.user_input, Some(UserSource::None {}))
    {
        let message = "configs: `web_fetch`: url_sources: no source is left; disable `web_fetch` instead";
        return Err(message.into());
    }
    let is_web = |name: &str| Builtin::ON_SERVER.iter().any(|tool| tool.name() == name);
    let is_custom = |name: &str| custom.contains(name);
    let custom_only = "is no custom tool of this array";
    references(&sources.client_tool_results, is_custom, custom_only).map_err(|m| failed("client_tool_results", m))?;
    let web_only = "must be web_search or web_fetch";
    references(&sources.server_tool_results, is_web, web_only).map_err(|m| failed("server_tool_results", m))
}

fn references(source: &Option<ToolSource>, is_known: impl Fn(&str) -> bool, otherwise: &str) -> Result<(), String> {
    let Some(source @ (ToolSource::Only { .. } | ToolSource::Except { .. })) = source else { return Ok(()) };
    let tools = source.tools();
    if tools.is_empty() || tools.len() > MOST_TOOLS {
        return Err(format!(".tools: must name 1 to {MOST_TOOLS} tools"));
    }
    let mut seen = HashSet::new();
    for (index, tool) in tools.iter().enumerate() {
        if !is_known(&tool.name) {
            return Err(format!(".tools[{index}]: `{}` {otherwise}", tool.name));
        }
        if !seen.insert(&tool.name) {
            return Err(format!(".tools[{index}]: `{}` appears twice", tool.name));
        }
    }
    Ok(())
}

/// Which web tools a server has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WebTools {
    /// None.
    #[default]
    None,
    /// `web_fetch`.
    Fetch,
    /// `web_search`.
    Search,
    /// Both.
    Both,
}

impl WebTools {
    /// The same with this tool.
    #[must_use]
    pub fn with(self, tool: Builtin) -> Self {
        match (self, tool) {
            (Self::None | Self::Fetch, Builtin::WebFetch) => Self::Fetch,
            (Self::None | Self::Search, Builtin::WebSearch) => Self::Search,
            (Self::Search | Self::Both, Builtin::WebFetch) | (Self::Fetch | Self::Both, Builtin::WebSearch) => {
                Self::Both
            }
            _ => self,
        }
    }

    /// Whether the server has this tool; those that a worker runs it need not have.
    #[must_use]
    pub fn serve(self, tool: Builtin) -> bool {
        match tool {
            Builtin::WebFetch => matches!(self, Self::Fetch | Self::Both),
            Builtin::WebSearch => matches!(self, Self::Search | Self::Both),
            _ => true,
        }
    }

    /// Checks that every web tool is there that a definition names and switches on.
    ///
    /// # Errors
    /// 400 `web_tool_unavailable` naming the place.
    pub fn check(self, tools: &[Tool]) -> Result<(), Problem> {
        for (index, tool) in tools.iter().enumerate() {
            let Tool::AgentToolset(toolset) = tool else { continue };
            let missing = toolset.configs.iter().position(|config| config.enabled && !self.serve(config.name));
            if let Some(at) = missing {
                let (name, section) = (toolset.configs[at].name.name(), section(toolset.configs[at].name));
                let message = format!(
                    "this server has no `{name}`: its operator adds {section} to the configuration; until then leave it \
                     out or send \"enabled\": false"
                );
                let place = format!("tools[{index}].configs[{at}]");
                return Err(Problem::invalid_at(&place, message).with_code("web_tool_unavailable"));
            }
        }
        Ok(())
    }
}

/// The section of the configuration that gives a server this tool.
fn section(tool: Builtin) -> &'static str {
    if tool == Builtin::WebSearch { "`[web.search]`" } else { "`[web]`" }
}
