//! Searches: what a provider is asked, and what of its answer is shown.

use postern_model::tool::web::UserLocation;
use postern_net::{HttpClient, TlsRoots};
use postern_policy::web::{DomainList, DomainRules};
use postern_secret::Secret;
use postern_session::{WebErrorCode, WebOrder};
use postern_upstream::web::{Provider, ProviderKind, Web};
use serde_json::json;

use crate::site::Site;

fn provider(site: &Site, kind: ProviderKind) -> Provider {
    let endpoint = format!("http://127.0.0.1:{}", site.port).parse().unwrap();
    let http = HttpClient::new(postern_policy::configured(&endpoint), &TlsRoots::default()).unwrap();
    Provider::new(kind, http, Some(Secret::new(b"the-key".to_vec())))
}

async fn search(
    site: &Site,
    kind: ProviderKind,
    lists: Vec<DomainList>,
    location: Option<UserLocation>,
) -> Result<String, WebErrorCode> {
    let browser = site.browser(&[], Some(provider(site, kind)));
    let order = WebOrder::Search { query: "a b&c=d#".into(), rules: DomainRules(lists), location };
    browser.run(order).await.map_err(|failure| {
        assert!(!failure.message.contains("the-key"), "{}", failure.message);
        failure.code
    })
}

const JSON: &str = "200 OK\r\ncontent-type: application/json";

#[tokio::test]
async fn results_are_those_that_the_lists_let_pass_whatever_the_provider_says() {
    let site = Site::in_the_clear().await;
    let results = json!({"results": [
        {"url": "https://good.example/docs/x", "title": "Good", "content": "c"},
        {"url": "https://evil.example/", "title": "Evil", "content": "c"},
        {"url": "https://good.example/blog", "title": "Other", "content": "c"}]});
    site.page("/search", JSON, results.to_string());
    let lists = |list: fn(Vec<_>) -> DomainList, host: &str| vec![list(vec![host.parse().unwrap()])];
    let all = search(&site, ProviderKind::Searxng, Vec::new(), None).await.unwrap();
    assert!(["Good", "Evil", "Other"].iter().all(|title| all.contains(title)), "{all}");
    let one =
        search(&site, ProviderKind::Searxng, lists(DomainList::Allowed, "good.example/docs"), None).await.unwrap();
    assert_eq!(one, "1. Good\nhttps://good.example/docs/x\nc");
    let two = search(&site, ProviderKind::Searxng, lists(DomainList::Blocked, "good.example"), None).await.unwrap();
    assert_eq!(two, "1. Evil\nhttps://evil.example/\nc");
    let seen = site.seen.lock().unwrap();
    assert!(seen[0].starts_with("GET /search?q=a%20b%26c%3Dd%23&format=json HTTP/1.1"), "{}", seen[0]);
    assert!(seen[0].contains("\r\nauthorization: Bearer the-key\r\n"));
    assert!(seen[1].contains("%20site%3Agood%2Eexample"), "{}", seen[1]);
}

#[tokio::test]
async fn a_provider_that_takes_a_location_gets_it_and_its_key_in_its_own_header() {
    let site = Site::in_the_clear().await;
    let results = json!({"web": {"results": [{"url": "https://a.example/", "title": "A", "description": "<b>d</b>"}]}});
    site.page("/res/v1/web/search", JSON, results.to_string());
    let location = json!({"type": "approximate", "country": "DE", "city": "K\u{f6}ln", "timezone": "Europe/Berlin"});
    let location = serde_json::from_value(location).unwrap();
    let shown = search(&site, ProviderKind::Brave, Vec::new(), Some(location)).await.unwrap();
    assert_eq!(shown, "1. A\nhttps://a.example/\nd");
    let seen = site.seen.lock().unwrap();
    assert!(seen[0].starts_with("GET /res/v1/web/search?q=a%20b%26c%3Dd%23&count=20&country=DE "), "{}", seen[0]);
    for header in ["x-subscription-token: the-key", "x-loc-city: K\u{f6}ln", "x-loc-country: DE"] {
        assert!(seen[0].contains(header), "{header}: {}", seen[0]);
    }
    assert!(!seen[0].contains("authorization"));
}

#[tokio::test]
async fn a_provider_that_fails_is_told_and_its_redirects_are_not_followed() {
    let site = Site::in_the_clear().await;
    for (head, body, code) in [
        ("429 Too Many Requests", "", WebErrorCode::TooManyRequests),
        ("401 Unauthorized", "the-key is wrong", WebErrorCode::Unavailable),
        ("302 Found\r\nlocation: /elsewhere", "", WebErrorCode::Unavailable),
        (JSON, "<html>", WebErrorCode::Unavailable),
    ] {
        site.page("/search", head, body);
        assert_eq!(search(&site, ProviderKind::Searxng, Vec::new(), None).await, Err(code), "{head}");
    }
    assert!(site.seen.lock().unwrap().iter().all(|head| head.starts_with("GET /search?")));
    let nobody = site.browser(&[], None);
    let order = WebOrder::Search { query: "q".into(), rules: DomainRules::default(), location: None };
    assert_eq!(nobody.run(order).await.unwrap_err().code, WebErrorCode::Unavailable);
}
