//! The web tools: whether a call may be made, decided before anything goes out, and what is then to be done.
//!
//! A page is fetched only from a URL that somebody else wrote: the user, a custom tool, an earlier page or search, or the author
//! of the agent. A model that was talked into sending something away cannot put it into a URL of its own.

use postern_model::session::SessionAgent;
use postern_model::tool::web::UserLocation;
use postern_model::tool::{Builtin, Tool, ToolConfig};
use postern_policy::BadHost;
use postern_policy::web::{BadWebUrl, DomainList, DomainRules, WebUrl, urls_in};
use serde_json::{Map, Value};

use crate::machine::Step;

/// The longest query of a search, in characters.
const LONGEST_QUERY: usize = 400;

/// What a web tool is to do.
#[derive(Clone, Debug, PartialEq)]
pub enum WebOrder {
    /// Fetch a page.
    Fetch {
        /// Where it is.
        url: WebUrl,
        /// What each redirect is measured by.
        rules: DomainRules,
        /// How much of it is shown.
        max_content_tokens: Option<u64>,
    },
    /// Search.
    Search {
        /// For what.
        query: String,
        /// Which results are shown.
        rules: DomainRules,
        /// Where the user is.
        location: Option<UserLocation>,
    },
}

/// Why a web tool has no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WebFailure {
    /// What kind of failure.
    pub code: WebErrorCode,
    /// What happened and what to do, for the model; never a URL that the model composed.
    pub message: String,
}

/// Kinds of failure, by the names that clients know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebErrorCode {
    /// The input is none.
    InvalidToolInput,
    /// The URL is too long.
    UrlTooLong,
    /// A list, or what a URL may be, does not let it pass.
    UrlNotAllowed,
    /// Nothing that counts has shown the URL.
    UrlNotInPriorContext,
    /// There is no page to be had there.
    UrlNotAccessible,
    /// The page is no text.
    UnsupportedContentType,
    /// The other side wants fewer requests.
    TooManyRequests,
    /// The query is too long.
    QueryTooLong,
    /// This server cannot do it now.
    Unavailable,
}

impl WebErrorCode {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::InvalidToolInput => "invalid_tool_input",
            Self::UrlTooLong => "url_too_long",
            Self::UrlNotAllowed => "url_not_allowed",
            Self::UrlNotInPriorContext => "url_not_in_prior_context",
            Self::UrlNotAccessible => "url_not_accessible",
            Self::UnsupportedContentType => "unsupported_content_type",
            Self::TooManyRequests => "too_many_requests",
            Self::QueryTooLong => "query_too_long",
            Self::Unavailable => "unavailable",
        }
    }
}

impl WebFailure {
    /// A failure of this kind.
    pub fn new(code: WebErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    /// What the model is told.
    pub fn told(&self) -> String {
        format!("{}: {}", self.code.name(), self.message)
    }
}

impl Step<'_> {
    /// What a call of a web tool comes to. Decided when it begins: much may have changed while a person thought about it.
    pub(crate) fn order_web(&self, tool: Builtin, input: &Map<String, Value>) -> Result<WebOrder, WebFailure> {
        if self.permissions().policy(tool).is_none() {
            let message =
                format!("`{}` is not enabled for this agent, or not on this server. Go on without it.", tool.name());
            return Err(WebFailure::new(WebErrorCode::Unavailable, message));
        }
        let agents = self.agents();
        let rules = rules(&agents, tool)?;
        match tool {
            Builtin::WebSearch => search(query(input)?, rules, &agents),
            _ => self.fetch(url(input)?, rules, &agents),
        }
    }

    /// Whose configurations hold together: that of the thread's agent, and that of the agent it works for.
    fn agents(&self) -> Vec<&SessionAgent> {
        let (primary, own) = (&*self.session.threads[0].agent, &*self.thread().agent);
        if self.is_primary() { vec![own] } else { vec![primary, own] }
    }

    fn fetch(&self, url: WebUrl, rules: DomainRules, agents: &[&SessionAgent]) -> Result<WebOrder, WebFailure> {
        rules.check(&url).map_err(|_| not_allowed())?;
        let is_authors =
            |agent: &&SessionAgent| agent.system.as_deref().is_some_and(|text| urls_in(text).contains(&url));
        let is_shown = || {
            agents.iter().all(|agent| {
                let sources = config(agent, Builtin::WebFetch).map(|config| config.url_sources.as_ref());
                self.session.sightings.admit(&url, sources.and_then(postern_model::Field::value))
            })
        };
        if !agents.iter().any(is_authors) && !is_shown() {
            return Err(WebFailure::new(
                WebErrorCode::UrlNotInPriorContext,
                "Only a URL that the user, a tool that counts as a source, or an earlier web result has shown can be \
                 fetched, exactly as it was shown. Use one of these, search for the page, or ask the user for its URL.",
            ));
        }
        let most = agents.iter().filter_map(|agent| config(agent, Builtin::WebFetch)?.max_content_tokens).min();
        Ok(WebOrder::Fetch { url, rules, max_content_tokens: most })
    }
}

fn search(query: String, rules: DomainRules, agents: &[&SessionAgent]) -> Result<WebOrder, WebFailure> {
    let location = agents.iter().rev().find_map(|agent| config(agent, Builtin::WebSearch)?.user_location.clone());
    Ok(WebOrder::Search { query, rules, location })
}

fn not_allowed() -> WebFailure {
    let message = "The host is not among those that this agent may reach. Use another source, or go on without it.";
    WebFailure::new(WebErrorCode::UrlNotAllowed, message)
}

/// What an agent says of a web tool.
fn config(agent: &SessionAgent, tool: Builtin) -> Option<&ToolConfig> {
    agent.tools.iter().find_map(|entry| match entry {
        Tool::AgentToolset(toolset) => toolset.named(tool),
        Tool::Custom(_) | Tool::McpToolset(_) => None,
    })
}

/// The lists of these agents, which hold together.
fn rules(agents: &[&SessionAgent], tool: Builtin) -> Result<DomainRules, WebFailure> {
    let mut lists = Vec::new();
    for config in agents.iter().filter_map(|agent| config(agent, tool)) {
        // Checked when they were written; one that cannot be read lets nothing pass.
        let read = |list: &Vec<String>| list.iter().map(|entry| entry.parse()).collect::<Result<Vec<_>, BadHost>>();
        let read = |list: &Vec<String>| read(list).map_err(|_| not_allowed());
        lists.extend(config.allowed_domains.as_ref().map(read).transpose()?.map(DomainList::Allowed));
        lists.extend(config.blocked_domains.as_ref().map(read).transpose()?.map(DomainList::Blocked));
    }
    Ok(DomainRules(lists))
}

fn url(input: &Map<String, Value>) -> Result<WebUrl, WebFailure> {
    let text = text(input, "url")?;
    text.parse().map_err(|error: BadWebUrl| {
        let code = match error {
            BadWebUrl::TooLong => WebErrorCode::UrlTooLong,
            BadWebUrl::Scheme | BadWebUrl::Userinfo | BadWebUrl::Address => WebErrorCode::UrlNotAllowed,
            BadWebUrl::Character | BadWebUrl::Host(_) | BadWebUrl::Port => WebErrorCode::InvalidToolInput,
        };
        WebFailure::new(code, format!("The URL: {error}. Only https:// URLs of public hosts are fetched."))
    })
}

fn query(input: &Map<String, Value>) -> Result<String, WebFailure> {
    let text = text(input, "query")?;
    if text.chars().count() > LONGEST_QUERY {
        let message = format!("A query has at most {LONGEST_QUERY} characters. Ask for less.");
        return Err(WebFailure::new(WebErrorCode::QueryTooLong, message));
    }
    Ok(text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect())
}

fn text<'a>(input: &'a Map<String, Value>, field: &str) -> Result<&'a str, WebFailure> {
    let text = input.get(field).and_then(Value::as_str).map(str::trim).filter(|text| !text.is_empty());
    let invalid =
        || WebFailure::new(WebErrorCode::InvalidToolInput, format!("`{field}` must be a text. Call it again."));
    text.filter(|_| input.len() == 1).ok_or_else(invalid)
}
