//! Asking a search provider, whichever the operator has. What it answers is measured by the agent's lists here: a provider is
//! asked to keep to them, not trusted to.

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, USER_AGENT};
use http::{HeaderName, HeaderValue, Method, Request, StatusCode};
use http_body_util::Full;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use postern_model::tool::web::UserLocation;
use postern_net::HttpClient;
use postern_policy::web::{DomainList, DomainRules, WebUrl};
use postern_secret::SecretBytes;
use postern_session::{WebErrorCode, WebFailure};
use serde::Deserialize;

use super::{PATIENCE, html, unavailable};

/// How many results the model is shown.
const MOST_RESULTS: usize = 10;
/// The largest answer, in bytes.
const MOST_BYTES: usize = 4 << 20;
/// The longest title and excerpt, in characters.
const LONGEST_TITLE: usize = 200;
const LONGEST_EXCERPT: usize = 600;
/// How many hosts of a list a provider is asked to keep to: more make a query that it refuses.
const MOST_SITES: usize = 6;

/// Whose interface a provider has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProviderKind {
    /// SearXNG, with its JSON format enabled.
    Searxng,
    /// The Brave Search API.
    Brave,
}

/// A search provider.
pub struct Provider {
    kind: ProviderKind,
    http: HttpClient,
    key: Option<SecretBytes>,
}

/// One result.
#[derive(Debug, PartialEq, Eq)]
struct Found {
    url: WebUrl,
    title: String,
    excerpt: String,
}

impl Provider {
    /// The provider at this client's endpoint, with the server's own key for it.
    #[must_use]
    pub fn new(kind: ProviderKind, http: HttpClient, key: Option<SecretBytes>) -> Self {
        Self { kind, http, key }
    }

    /// What the model is shown of a search.
    ///
    /// # Errors
    /// The provider did not answer, or not with results.
    pub(super) async fn search(
        &self,
        query: &str,
        rules: &DomainRules,
        location: Option<&UserLocation>,
    ) -> Result<String, WebFailure> {
        let request = self.request(&with_sites(query, rules), location)?;
        let answer = self.http.request(request, PATIENCE).await.map_err(|error| failed(&error))?;
        of_status(answer.status())?;
        let body = answer.into_body().bytes(MOST_BYTES).await.map_err(|error| failed(&error))?;
        let found = self.kind.read(&body)?;
        Ok(shown(found.into_iter().filter(|found| rules.check(&found.url).is_ok())))
    }

    fn request(&self, query: &str, location: Option<&UserLocation>) -> Result<Request<Full<Bytes>>, WebFailure> {
        let query = utf8_percent_encode(query, NON_ALPHANUMERIC);
        let country = location.and_then(|location| location.country.as_deref());
        let path = match self.kind {
            ProviderKind::Searxng => format!("/search?q={query}&format=json"),
            ProviderKind::Brave => {
                let country = country.map(|code| format!("&country={code}")).unwrap_or_default();
                format!("/res/v1/web/search?q={query}&count=20{country}")
            }
        };
        let mut request = Request::builder()
            .method(Method::GET)
            .uri(path)
            .header(ACCEPT, "application/json")
            .header(USER_AGENT, concat!("postern/", env!("CARGO_PKG_VERSION")))
            .body(Full::new(Bytes::new()))
            .map_err(|_| unavailable("The search cannot be asked for."))?;
        if self.kind == ProviderKind::Brave {
            request.headers_mut().extend(location.into_iter().flat_map(places));
        }
        if let Some((name, value)) = self.key_header() {
            request.headers_mut().insert(name, value);
        }
        Ok(request)
    }

    #[expect(clippy::disallowed_methods, reason = "the provider needs the server's key on the wire")]
    fn key_header(&self) -> Option<(HeaderName, HeaderValue)> {
        let key = self.key.as_ref()?.expose();
        let (name, value) = match self.kind {
            ProviderKind::Searxng => (AUTHORIZATION, [b"Bearer ".as_slice(), key.as_slice()].concat()),
            ProviderKind::Brave => (HeaderName::from_static("x-subscription-token"), key.to_vec()),
        };
        let mut value = HeaderValue::from_bytes(&value).ok()?;
        value.set_sensitive(true);
        Some((name, value))
    }
}

/// Where the user is, for a provider that takes it.
fn places(location: &UserLocation) -> impl Iterator<Item = (HeaderName, HeaderValue)> {
    let header = |name: &'static str, place: &Option<String>| {
        let value = HeaderValue::from_bytes(place.as_ref()?.as_bytes()).ok()?;
        Some((HeaderName::from_static(name), value))
    };
    [
        header("x-loc-city", &location.city),
        header("x-loc-country", &location.country),
        header("x-loc-state-name", &location.region),
        header("x-loc-timezone", &location.timezone),
    ]
    .into_iter()
    .flatten()
}

/// The query with the hosts that alone count, where they are few: else hardly a result would be left.
fn with_sites(query: &str, rules: &DomainRules) -> String {
    let lists = rules.0.iter().filter_map(|list| match list {
        DomainList::Allowed(patterns) if patterns.len() <= MOST_SITES => Some(patterns),
        DomainList::Allowed(_) | DomainList::Blocked(_) => None,
    });
    let Some(patterns) = lists.min_by_key(|patterns| patterns.len()) else { return query.to_owned() };
    let sites: Vec<_> = patterns.iter().map(|pattern| format!("site:{}", pattern.host())).collect();
    match sites.as_slice() {
        [one] => format!("{query} {one}"),
        several => format!("{query} ({})", several.join(" OR ")),
    }
}

#[derive(Deserialize)]
struct SearxngAnswer {
    #[serde(default)]
    results: Vec<RawResult>,
}

#[derive(Deserialize)]
struct BraveAnswer {
    web: Option<SearxngAnswer>,
}

#[derive(Deserialize)]
struct RawResult {
    url: Option<String>,
    title: Option<String>,
    #[serde(alias = "description")]
    content: Option<String>,
}

impl ProviderKind {
    /// The results of an answer; those that no https URL leads to are left out.
    fn read(self, body: &[u8]) -> Result<Vec<Found>, WebFailure> {
        let unread = |_| unavailable("The search provider answered with what is no list of results.");
        let answer = match self {
            Self::Searxng => serde_json::from_slice::<SearxngAnswer>(body).map_err(unread)?,
            Self::Brave => {
                let answer = serde_json::from_slice::<BraveAnswer>(body).map_err(unread)?;
                answer.web.unwrap_or(SearxngAnswer { results: Vec::new() })
            }
        };
        Ok(answer.results.into_iter().filter_map(found).collect())
    }
}

fn found(raw: RawResult) -> Option<Found> {
    let url: WebUrl = raw.url?.parse().ok()?;
    // Excerpts have marks of the words that were looked for.
    let line = |text: Option<String>, longest: usize| -> String {
        let text = html::line(&text.unwrap_or_default(), &url);
        text.chars().filter(|c| !c.is_control()).take(longest).collect()
    };
    let (title, excerpt) = (line(raw.title, LONGEST_TITLE), line(raw.content, LONGEST_EXCERPT));
    Some(Found { url, title, excerpt })
}

fn shown(found: impl Iterator<Item = Found>) -> String {
    let one = |(index, Found { url, title, excerpt })| format!("{}. {title}\n{url}\n{excerpt}", index + 1);
    let results: Vec<String> = found.take(MOST_RESULTS).enumerate().map(one).collect();
    match results.is_empty() {
        true => "There are no results. Ask for something else.".into(),
        false => results.join("\n\n"),
    }
}

fn of_status(status: StatusCode) -> Result<(), WebFailure> {
    match status {
        status if status.is_success() => Ok(()),
        StatusCode::TOO_MANY_REQUESTS => Err(WebFailure::new(
            WebErrorCode::TooManyRequests,
            "The search provider wants fewer requests. Wait, or go on without a search.",
        )),
        status => {
            tracing::warn!(status = status.as_u16(), "the search provider refused");
            Err(unavailable(&format!("The search provider answered {}. Go on without a search.", status.as_u16())))
        }
    }
}

fn failed(error: &postern_net::ClientError) -> WebFailure {
    tracing::warn!(error = error as &dyn std::error::Error, "the search provider was not reached");
    unavailable("The search provider does not answer. Go on without a search.")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn rules(allowed: &[&str]) -> DomainRules {
        DomainRules(vec![DomainList::Allowed(allowed.iter().map(|host| host.parse().unwrap()).collect())])
    }

    #[test]
    fn answers_of_both_kinds_are_read_and_what_leads_nowhere_is_left_out() {
        let results = json!([
            {"url": "https://a.example/x", "title": "<b>One</b>", "content": "an\nexcerpt", "description": null},
            {"url": "ftp://a.example/", "title": "no"},
            {"url": "https://10.0.0.1/", "title": "no"},
            {"title": "no"},
            {"url": "http://b.example/", "title": null}]);
        let searxng = ProviderKind::Searxng
            .read(
                &serde_json::to_vec(&json!({"results": [
            {"url": "https://a.example/x", "title": "<b>One</b>", "content": "an\nexcerpt"}, results[1], results[2],
            results[3], results[4]]}))
                .unwrap(),
            )
            .unwrap();
        let brave = ProviderKind::Brave
            .read(
                &serde_json::to_vec(&json!({"web": {"results": [
            {"url": "https://a.example/x", "title": "One", "description": "an <strong>excerpt</strong>"}, results[1],
            results[4]]}}))
                .unwrap(),
            )
            .unwrap();
        assert_eq!(searxng, brave);
        assert_eq!(shown(searxng.into_iter()), "1. One\nhttps://a.example/x\nan excerpt\n\n2. \nhttps://b.example/\n");
        assert!(ProviderKind::Brave.read(b"{}").unwrap().is_empty());
        assert_eq!(ProviderKind::Searxng.read(b"<html>").unwrap_err().code, WebErrorCode::Unavailable);
        assert!(shown(std::iter::empty()).starts_with("There are no results"));
    }

    #[test]
    fn results_are_few_and_short() {
        let long = |n: usize| json!({"url": format!("https://a.example/{n}"), "title": "t".repeat(999), "content": "c".repeat(999)});
        let body = json!({"results": (0..MOST_RESULTS + 5).map(long).collect::<Vec<_>>()}).to_string();
        let shown = shown(ProviderKind::Searxng.read(body.as_bytes()).unwrap().into_iter());
        assert_eq!(shown.matches("https://").count(), MOST_RESULTS);
        assert_eq!(shown.matches('c').count(), MOST_RESULTS * LONGEST_EXCERPT);
        assert!(!shown.contains(&"t".repeat(LONGEST_TITLE + 1)));
    }

    #[test]
    fn a_provider_is_asked_to_keep_to_a_short_list() {
        assert_eq!(with_sites("q", &DomainRules::default()), "q");
        assert_eq!(with_sites("q", &rules(&["a.example/x"])), "q site:a.example");
        assert_eq!(with_sites("q", &rules(&["a.example", "b.example"])), "q (site:a.example OR site:b.example)");
        let many: Vec<String> = (0..=MOST_SITES).map(|n| format!("a{n}.example")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        assert_eq!(with_sites("q", &rules(&many)), "q");
    }
}
