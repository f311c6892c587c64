//! Spellings of URLs, lists of domains, and what a text shows.

use super::*;
use crate::BadHost;
use proptest::prelude::*;

fn url(text: &str) -> WebUrl {
    text.parse().unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn patterns(texts: &[&str]) -> Vec<DomainPattern> {
    texts.iter().map(|text| text.parse().unwrap()).collect()
}

#[test]
fn spellings_of_one_url_are_one() {
    for (written, canonical) in [
        ("https://a.example", "https://a.example/"),
        ("HTTPS://A.Example/X", "https://a.example/X"),
        ("https://a.example./", "https://a.example/"),
        ("https://a.example:443/", "https://a.example/"),
        ("http://a.example/x", "https://a.example/x"),
        ("http://a.example:80/x", "https://a.example/x"),
        ("https://a.example:8443/x", "https://a.example:8443/x"),
        ("https://a.example?q=1", "https://a.example/?q=1"),
        ("https://a.example/x?q=a/b#part", "https://a.example/x?q=a/b"),
        ("https://a.example/x/../y/./z", "https://a.example/y/z"),
        ("https://a.example/x/%2E%2e/y", "https://a.example/y"),
        ("https://a.example/../../..", "https://a.example/"),
        ("https://a.example/x/y/..", "https://a.example/x/"),
        ("https://b\u{fc}cher.example/k\u{e4}se", "https://xn--bcher-kva.example/k%C3%A4se"),
        ("https://\u{ff41}.example/", "https://a.example/"),
        ("https://a.example/{x}|y", "https://a.example/%7Bx%7D%7Cy"),
    ] {
        assert_eq!(url(written).to_string(), canonical, "{written}");
        assert_eq!(url(canonical), url(written), "{written}");
    }
}

#[test]
fn what_readers_of_urls_disagree_about_is_none() {
    for (written, why) in [
        ("ftp://a.example/", BadWebUrl::Scheme),
        ("file:///etc/passwd", BadWebUrl::Scheme),
        ("javascript:alert(1)", BadWebUrl::Scheme),
        ("a.example/x", BadWebUrl::Scheme),
        (" https://a.example/", BadWebUrl::Scheme),
        ("http://a.example:8080/", BadWebUrl::Scheme),
        ("https://me@a.example/", BadWebUrl::Userinfo),
        ("https://me:pw@a.example/", BadWebUrl::Userinfo),
        ("https://good.example@evil.example/", BadWebUrl::Userinfo),
        ("https://evil.example\\@good.example/", BadWebUrl::Character),
        ("https://a.example\\.good.example/", BadWebUrl::Character),
        ("https://a.example/x\ty", BadWebUrl::Character),
        ("https://a.example/x\r\nhost: b", BadWebUrl::Character),
        ("https://a.example/x y", BadWebUrl::Character),
        ("https://127.0.0.1/", BadWebUrl::Address),
        ("https://[::1]/", BadWebUrl::Address),
        ("https://[::ffff:169.254.169.254]/", BadWebUrl::Address),
        ("https://\u{ff11}27.0.0.1/", BadWebUrl::Address),
        ("https://2130706433/", BadWebUrl::Host(BadHost::OddAddress)),
        ("https://0x7f.1/", BadWebUrl::Host(BadHost::OddAddress)),
        ("https://127.1/", BadWebUrl::Host(BadHost::OddAddress)),
        ("https://0177.0.0.1/", BadWebUrl::Host(BadHost::OddAddress)),
        ("https://a%2eexample/", BadWebUrl::Host(BadHost::Malformed)),
        ("https://a.example%00.good.example/", BadWebUrl::Host(BadHost::Malformed)),
        ("https:///x", BadWebUrl::Host(BadHost::Empty)),
        ("https://a..example/", BadWebUrl::Host(BadHost::Malformed)),
        ("https://a.example:/", BadWebUrl::Port),
        ("https://a.example:0/", BadWebUrl::Port),
        ("https://a.example:+443/", BadWebUrl::Port),
        ("https://a.example:65536/", BadWebUrl::Port),
    ] {
        assert_eq!(written.parse::<WebUrl>(), Err(why), "{written:?}");
    }
    let long = format!("https://a.example/{}", "x".repeat(LONGEST_URL));
    assert_eq!(long.parse::<WebUrl>(), Err(BadWebUrl::TooLong));
    let grows = format!("https://a.example/{}", "\u{e4}".repeat(LONGEST_URL / 4));
    assert_eq!(grows.parse::<WebUrl>(), Err(BadWebUrl::TooLong), "encoded it is longer");
}

#[test]
fn a_reference_leads_where_a_browser_would_go_or_nowhere() {
    let base = url("https://a.example/docs/page?x=1");
    for (reference, to) in [
        ("other", Some("https://a.example/docs/other")),
        ("../up", Some("https://a.example/up")),
        ("/root", Some("https://a.example/root")),
        ("?q", Some("https://a.example/docs/page?q")),
        ("#part", Some("https://a.example/docs/page?x=1")),
        ("//b.example/x", Some("https://b.example/x")),
        ("https://b.example/x", Some("https://b.example/x")),
        ("http://b.example/x", Some("https://b.example/x")),
        ("mailto:me@b.example", None),
        ("javascript:alert(1)", None),
        ("data:text/html,x", None),
        ("//169.254.169.254/latest", None),
        ("https://[fd00:ec2::254]/", None),
        ("https://me@b.example/", None),
        ("/\\b.example/x", None),
    ] {
        assert_eq!(base.join(reference).ok().map(|url| url.to_string()).as_deref(), to, "{reference}");
    }
}

#[test]
fn a_text_that_wants_to_be_slow_is_not() {
    let mut many: Vec<String> = ["http://", "https://a.b/", "://", "https://a.b/),", "https://a.b/.", "https://a.b\\/"]
        .into_iter()
        .map(|piece| piece.repeat((1 << 20) / piece.len()))
        .collect();
    let run = "https://a.b/".repeat(LONGEST_URL / 12);
    many.push(format!("{run} ").repeat((1 << 20) / run.len()));
    many.push(format!("https://a.b/{}", ".".repeat(1 << 20)).repeat(2));
    for text in many {
        let before = std::time::Instant::now();
        let found = urls_in(&text);
        assert!(before.elapsed() < std::time::Duration::from_secs(30), "{:.20}", text);
        let bytes: usize = found.iter().map(|url| url.to_string().len()).sum();
        assert!(bytes <= 16 << 20, "{bytes} of {:.20}", text);
    }
}

#[test]
fn lists_hold_together() {
    let allowed = |texts: &[&str]| DomainList::Allowed(patterns(texts));
    let blocked = |texts: &[&str]| DomainList::Blocked(patterns(texts));
    for (lists, written, passes) in [
        (vec![], "https://any.example/", true),
        (vec![allowed(&["docs.example"])], "https://docs.example/x", true),
        (vec![allowed(&["docs.example"])], "https://a.docs.example/x", true),
        (vec![allowed(&["Docs.Example"])], "https://DOCS.example./x", true),
        (vec![allowed(&["docs.example"])], "https://evildocs.example/x", false),
        (vec![allowed(&["docs.example"])], "https://docs.example.evil.example/x", false),
        (vec![allowed(&["docs.example"])], "https://evil.example/docs.example", false),
        (vec![blocked(&["ads.example"])], "https://ads.example/", false),
        (vec![blocked(&["ads.example"])], "https://x.ads.example/", false),
        (vec![blocked(&["ads.example"])], "https://roads.example/", true),
        (vec![allowed(&["a.example", "b.example"]), allowed(&["b.example"])], "https://b.example/", true),
        (vec![allowed(&["a.example", "b.example"]), allowed(&["b.example"])], "https://a.example/", false),
        (vec![allowed(&["a.example"]), allowed(&["b.example"])], "https://b.example/", false),
        (vec![allowed(&["a.example"]), blocked(&["x.a.example"])], "https://x.a.example/", false),
        (vec![allowed(&["a.example"]), blocked(&["x.a.example"])], "https://y.a.example/", true),
        (vec![blocked(&["a.example"]), blocked(&["b.example"])], "https://a.example/", false),
        (vec![allowed(&["a.example/docs"])], "https://a.example/docs", true),
        (vec![allowed(&["a.example/docs/"])], "https://a.example/docs/x", true),
        (vec![allowed(&["a.example/docs"])], "https://a.example/docsx", false),
        (vec![allowed(&["a.example/docs"])], "https://a.example/docs/../x", false),
    ] {
        assert_eq!(DomainRules(lists.clone()).check(&url(written)).is_ok(), passes, "{lists:?} {written}");
    }
}

#[test]
fn a_text_shows_its_urls_with_and_without_the_sentence_around_them() {
    for (text, shown) in [
        ("see https://a.example/x.", "https://a.example/x"),
        ("(see https://a.example/x)", "https://a.example/x"),
        ("https://a.example/x_(y)", "https://a.example/x_(y)"),
        ("[a](https://a.example/x), [b](https://b.example/y)", "https://b.example/y"),
        ("<a href=\"https://a.example/x?y=1\">", "https://a.example/x?y=1"),
        ("{\"url\":\"https:\\/\\/a.example\\/x\"}", "https://a.example/x"),
        ("HTTP://A.EXAMPLE/x", "https://a.example/x"),
        ("https://a.example/x#part", "https://a.example/x"),
        ("https://a.example/1,https://b.example/2", "https://b.example/2"),
    ] {
        assert!(urls_in(text).contains(&url(shown)), "{text}: {:?}", urls_in(text));
    }
    for text in ["a.example/x", "ftp://a.example/", "https://127.0.0.1/", "://", "https://", "xhttps:/a.example"] {
        assert!(urls_in(text).is_empty(), "{text}: {:?}", urls_in(text));
    }
    assert!(!urls_in("https://a.example/x").contains(&url("https://a.example/x?leak=1")));
}

proptest! {
    #[test]
    fn whatever_is_read_is_written_so_that_it_is_read_the_same(text in "\\PC{0,80}", path in "[!-~]{0,60}") {
        for written in [text.clone(), format!("https://{text}"), format!("https://a.example/{path}"), format!("http://{path}")] {
            if let Ok(url) = written.parse::<WebUrl>() {
                prop_assert_eq!(url.to_string().parse::<WebUrl>().unwrap(), url.clone());
                let host = url.host().to_string();
                prop_assert!(url.host().address().is_none());
                let line = url.to_string();
                let authority = line.strip_prefix("https://").unwrap().split('/').next().unwrap();
                prop_assert_eq!(authority.rsplit_once(':').map_or(authority, |(name, _)| name), host);
                prop_assert!(line.is_ascii() && !line.contains([' ', '\\', '@']) || url.path_and_query().contains('@'));
            }
        }
    }

    #[test]
    fn a_url_between_spaces_is_found_whatever_stands_around_it(before in "\\PC{0,100}", after in "\\PC{0,100}") {
        let shown = urls_in(&format!("{before} https://a.example/x?y {after}"));
        prop_assert!(shown.contains(&url("https://a.example/x?y")));
    }

    #[test]
    fn a_further_list_never_lets_more_pass(host in "[a-c]{1,2}\\.[a-c]\\.example", one in "[a-c]\\.example", two in "[a-c]\\.example") {
        let url: WebUrl = format!("https://{host}/").parse().unwrap();
        let list = |text: &str| vec![text.parse::<DomainPattern>().unwrap()];
        for further in [DomainList::Allowed(list(&two)), DomainList::Blocked(list(&two))] {
            let before = DomainRules(vec![DomainList::Allowed(list(&one))]);
            let after = DomainRules(vec![DomainList::Allowed(list(&one)), further]);
            prop_assert!(before.check(&url).is_ok() || after.check(&url).is_err());
        }
    }
}
