use super::*;

const OURS: &str = "pstn0123456789abcdef";

fn found(headers: &[(&str, &str)], query: Option<&str>) -> Vec<ForeignCredential> {
    let mut map = http::HeaderMap::new();
    for (name, value) in headers {
        map.append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    let cookies = BTreeSet::from(["sid=1".to_owned()]);
    let query = query.map(str::as_bytes);
    find(&Evidence { headers: &map, query, form: None, userinfo: false, ours: &[OURS], cookies: &cookies })
}

fn basic(halves: &str) -> String {
    format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(halves))
}

#[test]
fn every_entry_of_the_list_is_found_and_has_a_reason() {
    for (kind, name, reason) in LIST.iter() {
        let seen = match kind {
            Kind::Header => found(&[(name, "attackers-key")], None),
            Kind::Key => found(&[], Some(&format!("q=1&{name}=attackers-key"))),
        };
        assert_eq!(seen.len(), 1, "{name}");
        assert!(reason.len() > 10, "{name}");
        assert_eq!(*name, name.to_lowercase());
    }
}

#[test]
fn only_a_placeholder_that_stands_alone_makes_a_header_ours() {
    let table = [
        (OURS.to_owned(), true),
        (format!("Bearer {OURS}"), true),
        (format!("bearer   {OURS} "), true),
        (format!("token {OURS}"), true),
        (basic(&format!("agent:{OURS}")), true),
        (basic(&format!("{OURS}:")), true),
        (basic(&format!("{OURS}:x-oauth-basic")), true),
        // The upstream may read the half that is not ours.
        (basic(&format!("{OURS}:attackers-key")), false),
        (basic("attackers-key:"), false),
        (format!("Bearer attackers-key {OURS}"), false),
        (format!("Bearer {OURS},attackers-key"), false),
        (format!("attackers-key {OURS}"), false),
        (format!("Basic {OURS}"), false),
        ("Bearer attackers-key".to_owned(), false),
        (format!("Bearer {OURS}x"), false),
    ];
    for (value, ours) in table {
        assert_eq!(is_ours(value.as_bytes(), &[OURS]), ours, "{value}");
        assert_eq!(found(&[("authorization", &value)], None).is_empty(), ours, "{value}");
    }
}

#[test]
fn a_second_header_beside_ours_is_foreign() {
    let seen = found(&[("authorization", &format!("Bearer {OURS}")), ("authorization", "Bearer attackers-key")], None);
    assert_eq!(seen, [ForeignCredential::Header("authorization".to_owned())]);
}

#[test]
fn cookies_are_foreign_unless_this_upstream_set_them() {
    assert_eq!(found(&[("cookie", "sid=1")], None), []);
    assert_eq!(found(&[("cookie", "sid=2")], None), [ForeignCredential::Cookie]);
    assert_eq!(found(&[("cookie", "sid=1; other=attackers-key")], None), [ForeignCredential::Cookie]);
}

#[test]
fn keys_are_found_in_every_spelling() {
    for query in ["API_KEY=x", "a=b&api%5Fkey=x", "a=b;key=x", "token[]=x", "X-Amz-Signature=x", "access_token"] {
        assert_eq!(found(&[], Some(query)).len(), 1, "{query}");
    }
    assert_eq!(found(&[], Some("q=token&keyword=x&page=key")), []);
}

#[test]
fn underscores_do_not_hide_a_header() {
    for name in ["x_api_key", "X-Api_Key", "private_token"] {
        assert_eq!(found(&[(name, "an-attackers-own-key")], None).len(), 1, "{name}");
    }
}

#[test]
fn no_credential_at_all_is_nothing_foreign() {
    assert_eq!(found(&[("accept", "*/*"), ("authorization", "")], Some("q=1")), []);
}

#[test]
fn a_listed_key_is_ours_where_its_whole_value_is_our_placeholder_and_it_stands_once() {
    let table = [
        (format!("access_token={OURS}"), 0),
        (format!("a=b&Api_Key={OURS}"), 0),
        (format!("access_token={OURS}x"), 1),
        (format!("access_token={OURS}&access_token=attackers-key"), 2),
        (format!("access_token={OURS}&ACCESS_TOKEN=attackers-key"), 2),
        (format!("access_token={OURS};access_token=attackers-key"), 2),
        (format!("access_token={OURS}&api_key=attackers-key"), 1),
    ];
    for (query, foreign) in table {
        assert_eq!(found(&[], Some(&query)).len(), foreign, "{query}");
    }
}
