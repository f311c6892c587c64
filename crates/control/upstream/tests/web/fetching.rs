//! Pages: what is asked for, where a redirect may lead, which addresses are dialled.

use std::time::Duration;

use postern_policy::web::{DomainList, DomainPattern};
use postern_session::WebErrorCode;
use postern_upstream::web::{BODY_BYTES, REDIRECTS};

use crate::site::Site;

fn patterns(hosts: &[&str]) -> Vec<DomainPattern> {
    hosts.iter().map(|host| host.parse().unwrap()).collect()
}

const HTML: &str = "200 OK\r\ncontent-type: text/html; charset=utf-8";

#[tokio::test]
async fn a_page_is_fetched_with_nothing_of_ours_and_shown_as_text() {
    let site = Site::new().await;
    site.page("/x", &format!("{HTML}\r\nset-cookie: a=b"), "<title>T</title><p>Hello <a href=/y>there</a>");
    let (url, link) = (site.url("a", "/x?q=1"), site.url("a", "/y"));
    let shown = site.fetch(&url, Vec::new()).await.unwrap();
    assert_eq!(shown, format!("URL: {url}\nTitle: T\n\nHello [there]({link})"));
    site.fetch(&url, Vec::new()).await.unwrap();
    let seen = site.seen.lock().unwrap();
    assert!(seen[0].starts_with("GET /x?q=1 HTTP/1.1\r\n"), "{}", seen[0]);
    for head in seen.iter() {
        let names: Vec<_> = head.lines().skip(1).filter_map(|line| line.split(':').next()).collect();
        let known = ["accept", "accept-encoding", "user-agent", "host", ""];
        assert!(names.iter().all(|name| known.contains(name)), "{head}");
    }
}

#[tokio::test]
async fn an_address_that_is_not_public_is_not_dialled_whatever_the_name() {
    let site = Site::new().await;
    site.page("/x", HTML, "secret");
    for (name, answer) in [
        ("loopback", "127.0.0.1"),
        ("mapped", "::ffff:127.0.0.1"),
        ("six", "::1"),
        ("private", "10.0.0.1"),
        ("metadata", "169.254.169.254"),
        ("metadata6", "fd00:ec2::254"),
        ("link", "fe80::1"),
        ("none", "0.0.0.0"),
        ("several", "192.168.0.1 100.64.0.1 127.0.0.1"),
    ] {
        site.name(name, &[answer]);
        let browser = site.browser(&[], None);
        let (code, message) = site.fetch_by(&browser, &site.url(name, "/x"), Vec::new()).await.unwrap_err();
        assert_eq!(code, WebErrorCode::UrlNotAccessible, "{name}: {message}");
        assert!(message.contains("no public address"), "{name}: {message}");
    }
    let unknown = site.fetch(&site.url("unknown", "/x"), Vec::new()).await.unwrap_err();
    assert!(unknown.1.contains("no public address"), "an unknown name and an inner one are answered alike");
    assert!(site.seen.lock().unwrap().is_empty());
    // The range that the operator names, and no other of the same name.
    site.name("several", &["10.0.0.1 127.0.0.1"]);
    assert!(site.fetch(&site.url("several", "/x"), Vec::new()).await.unwrap().ends_with("secret"));
}

#[tokio::test]
async fn each_redirect_is_decided_anew() {
    let site = Site::new().await;
    site.page("/end", HTML, "the end");
    site.name("b", &["127.0.0.1"]);
    site.name("inner", &["10.0.0.1"]);
    for (to, expected) in [
        (site.url("b", "/end"), None),
        ("/end".into(), None),
        (site.url("inner", "/end"), Some(WebErrorCode::UrlNotAccessible)),
        (site.url("blocked", "/end"), Some(WebErrorCode::UrlNotAllowed)),
        ("https://169.254.169.254/latest/meta-data".into(), Some(WebErrorCode::UrlNotAllowed)),
        ("https://[::ffff:7f00:1]/".into(), Some(WebErrorCode::UrlNotAllowed)),
        ("https://127.1/".into(), Some(WebErrorCode::UrlNotAllowed)),
        (site.url("b", "/end").replace("https", "http"), Some(WebErrorCode::UrlNotAllowed)),
        (site.url("b", "/end").replace("https://", "https://me:pw@"), Some(WebErrorCode::UrlNotAllowed)),
        ("file:///etc/passwd".into(), Some(WebErrorCode::UrlNotAllowed)),
    ] {
        site.redirect("/x", &to);
        let lists = vec![DomainList::Blocked(patterns(&["blocked.sites.test"]))];
        let fetched = site.fetch(&site.url("a", "/x"), lists).await;
        assert_eq!(fetched.as_ref().err().map(|(code, _)| *code), expected, "{to}: {fetched:?}");
        if let Ok(shown) = fetched {
            assert!(shown.starts_with("URL: ") && shown.ends_with("the end"), "{shown}");
        }
    }
    let lists = vec![DomainList::Allowed(patterns(&["a.sites.test"]))];
    site.redirect("/x", &site.url("b", "/end"));
    let refused = site.fetch(&site.url("a", "/x"), lists).await.unwrap_err();
    assert_eq!(refused.0, WebErrorCode::UrlNotAllowed);
}

#[tokio::test]
async fn a_name_that_leads_elsewhere_at_the_second_look_is_looked_at_again() {
    let site = Site::new().await;
    site.page("/end", HTML, "the end");
    site.name("turning", &["127.0.0.1", "10.0.0.1"]);
    site.redirect("/x", &site.url("turning", "/end"));
    let refused = site.fetch(&site.url("turning", "/x"), Vec::new()).await.unwrap_err();
    assert!(refused.1.contains("no public address"), "{}", refused.1);
    assert_eq!(site.seen.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn redirects_and_bodies_have_an_end() {
    let site = Site::new().await;
    site.redirect("/loop", "/loop");
    let refused = site.fetch(&site.url("a", "/loop"), Vec::new()).await.unwrap_err();
    assert!(refused.1.contains("more than"), "{}", refused.1);
    assert_eq!(site.seen.lock().unwrap().len(), REDIRECTS + 1);
    site.page("/long", "200 OK\r\ncontent-type: text/plain", vec![b'x'; BODY_BYTES + 100_000]);
    let shown = site.fetch(&site.url("a", "/long"), Vec::new()).await.unwrap();
    assert!(shown.ends_with("only its beginning is shown.]") && shown.len() < BODY_BYTES + 1_000);
}

#[tokio::test]
async fn what_is_no_page_is_told_by_its_kind() {
    let site = Site::new().await;
    site.page("/pdf", "200 OK\r\ncontent-type: application/pdf", "%PDF");
    site.page("/busy", "429 Too Many Requests\r\ncontent-length: 0", "");
    site.page("/broken", "500 Internal Server Error\r\ncontent-length: 0", "");
    site.page("/nowhere", "302 Found\r\ncontent-length: 0", "");
    site.page("/short", "200 OK\r\ncontent-type: text/plain\r\ncontent-length: 10", "x");
    site.page("/noise", "no HTTP", "");
    for (path, code, part) in [
        ("/pdf", WebErrorCode::UnsupportedContentType, "no text"),
        ("/busy", WebErrorCode::TooManyRequests, "fewer requests"),
        ("/broken", WebErrorCode::UrlNotAccessible, "answered 500"),
        ("/nowhere", WebErrorCode::UrlNotAccessible, "answered 302"),
        ("/missing", WebErrorCode::UrlNotAccessible, "answered 404"),
        ("/short", WebErrorCode::UrlNotAccessible, "broke"),
        ("/noise", WebErrorCode::UrlNotAccessible, "broke"),
    ] {
        let (told, message) = site.fetch(&site.url("a", path), Vec::new()).await.unwrap_err();
        assert_eq!(told, code, "{path}");
        assert!(message.contains(part), "{path}: {message}");
    }
    let other = Site::new().await;
    let url = other.url("a", "/x");
    let untrusted = site.fetch(&url, Vec::new()).await.unwrap_err();
    assert!(untrusted.1.contains("prove who it is"), "{}", untrusted.1);
}

#[tokio::test]
async fn a_site_that_does_not_answer_is_given_up_in_time() {
    let site = Site::new().await;
    site.hang("/x");
    let mut browser = site.browser(&["127.0.0.1/32"], None);
    browser.patience = Duration::from_millis(300);
    let (code, message) = site.fetch_by(&browser, &site.url("a", "/x"), Vec::new()).await.unwrap_err();
    assert_eq!(code, WebErrorCode::UrlNotAccessible);
    assert!(message.contains("no answer within"), "{message}");
}
