use super::*;
use crate::CanonicalPath;
use http::{HeaderMap, HeaderValue};
use proptest::prelude::*;

const HELD: &str = "pstn0123456789abcdef";

fn at(text: &str) -> std::ops::Range<usize> {
    let start = text.find(HELD).unwrap();
    start..start + HELD.len()
}

fn key_at(pairs: &str) -> Option<String> {
    let pairs = pairs.replace("PH", HELD);
    key_of(pairs.as_bytes(), &at(&pairs)).map(|key| key.to_string())
}

#[test]
fn a_key_has_a_value_where_it_stands_once_spelled_as_it_is() {
    let table = [
        ("key=PH", Some("key")),
        ("a=b&key=PH&c", Some("key")),
        ("a=b&api.key-2_~=PH", Some("api.key-2_~")),
        ("", None),
        ("key=xPH", None),
        ("key=PHx", None),
        ("key=PH+", None),
        ("key=+PH", None),
        ("key=%20PH", None),
        ("key=PH;a=b", None),
        ("a=b;key=PH", None),
        ("key==PH", None),
        ("PH=key", None),
        ("PH", None),
        ("=PH", None),
        // Two servers would read two values.
        ("key=x&key=PH", None),
        ("KEY=x&key=PH", None),
        ("key=PH&k%65y=x", None),
        ("key=PH&a=b;key=x", None),
        ("key[]=x&key=PH", None),
        ("+key=x&key=PH", None),
        ("key&key=PH", None),
        // Another spelling of the key is not the key.
        ("k%65y=PH", None),
        ("key[]=PH", None),
        ("+key=PH", None),
    ];
    for (pairs, expected) in table {
        let found = if pairs.contains("PH") { key_at(pairs) } else { None };
        assert_eq!(found.as_deref(), expected, "{pairs}");
    }
}

fn pointer_at(json: &str) -> Result<Option<String>, NotOneReading> {
    let json = json.replace("PH", HELD);
    let places = JsonPlaces::of(json.as_bytes(), HELD.as_bytes())?;
    Ok(places.pointer(&at(&json)).map(ToString::to_string))
}

#[test]
fn a_json_string_has_a_pointer_where_every_parser_reads_it_alike() {
    let deep = |levels: usize| format!("{}\"PH\"{}", "[".repeat(levels), "]".repeat(levels));
    let table: &[(&str, Result<Option<&str>, NotOneReading>)] = &[
        (r#"{"auth":{"token":"PH"}}"#, Ok(Some("/auth/token"))),
        (r#" { "a" : [ 1e999 , { "k" : "PH" } ] } "#, Ok(Some("/a/1/k"))),
        (r#"{"a/b":{"c~d":"PH"}}"#, Ok(Some("/a~1b/c~0d"))),
        (r#"{"":"PH"}"#, Ok(Some("/"))),
        (r#"{"n":123456789012345678901234567890.5,"t":"PH"}"#, Ok(Some("/t"))),
        (r#"{"\u0074oken":"PH"}"#, Ok(Some("/token"))),
        (r#"{"t":"x PH"}"#, Ok(None)),
        (r#"{"t":"PH "}"#, Ok(None)),
        (r#"{"PH":"t"}"#, Ok(None)),
        (r#"{"t":"{\"token\":\"PH\"}"}"#, Ok(None)),
        (r#"{"t":PH}"#, Err(NotOneReading)),
        (r#"{"t":"PH"}{}"#, Err(NotOneReading)),
        (r#"{"t":"PH",}"#, Err(NotOneReading)),
        (r#"{'t':"PH"}"#, Err(NotOneReading)),
        (r#"{"t":"PH" /* c */}"#, Err(NotOneReading)),
        (r#"{"t":"x","t":"PH"}"#, Err(NotOneReading)),
        (r#"{"t":"PH","T":"x"}"#, Err(NotOneReading)),
        (r#"{"s":"PH","\u017f":"x"}"#, Err(NotOneReading)),
        (r#"{"t":"PH","\u0074":"x"}"#, Err(NotOneReading)),
        (r#"{"a":{"x":1,"x":2},"t":"PH"}"#, Err(NotOneReading)),
        (r#"{"a":NaN,"t":"PH"}"#, Err(NotOneReading)),
        ("\u{feff}{\"t\":\"PH\"}", Err(NotOneReading)),
        ("t=PH", Err(NotOneReading)),
    ];
    for (json, expected) in table {
        let expected = expected.map(|pointer| pointer.map(str::to_owned));
        assert_eq!(pointer_at(json), expected, "{json}");
    }
    assert_eq!(pointer_at(&deep(64)), Ok(Some("/0".repeat(64))));
    assert_eq!(pointer_at(&deep(65)), Err(NotOneReading));
    let utf16: Vec<u8> = format!("{{\"t\":\"{HELD}\"}}").encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert_eq!(JsonPlaces::of(&utf16, HELD.as_bytes()).map(|_| ()).unwrap_err(), NotOneReading);
    assert_eq!(JsonPlaces::of(b"{\"t\":\"\xff\"}", HELD.as_bytes()).map(|_| ()).unwrap_err(), NotOneReading);
}

#[test]
fn a_path_has_a_place_where_it_has_the_form_and_the_placeholder_stands_alone() {
    let table = [
        ("/bot{secret}/**", "/botPH/sendMessage", true),
        ("/bot{secret}/**", "/botPH/a/b", true),
        ("/bot{secret}/**", "/botPH/", true),
        ("/bot{secret}/**", "/botPH", false),
        ("/bot{secret}/**", "/xbotPH/a", false),
        ("/bot{secret}/**", "/botPHx/a", false),
        ("/bot{secret}/**", "/PH/a", false),
        ("/bot{secret}/**", "/v1/botPH/a", false),
        ("/bot{secret}/**", "/botPH/PH", false),
        ("/bot{secret}/**", "/botPHPH/a", false),
        ("/hooks/*/{secret}", "/hooks/team/PH", true),
        ("/hooks/*/{secret}", "/hooks/PH/team", false),
        ("/hooks/*/{secret}", "/hooks/a/b/PH", false),
        ("/hooks/*/{secret}", "/hooks/team/PH/", false),
        ("/hooks/*/{secret}.json", "/hooks/t/PH.json", true),
        ("/hooks/*/{secret}.json", "/hooks/t/PH", false),
        ("/{secret}", "/PH", true),
        ("/{secret}", "/x", false),
    ];
    for (template, path, expected) in table {
        let parsed: PathTemplate = template.parse().unwrap();
        assert_eq!(parsed.to_string(), template);
        let path: CanonicalPath = path.replace("PH", HELD).parse().unwrap();
        let held = Segment::holding(&path, HELD);
        let covers = held.is_some_and(|held| parsed.covers(&path, &held));
        assert_eq!(covers, expected, "{template} {path}");
        if covers {
            assert_eq!(&path.as_str()[parsed.value_in(&path).unwrap()], HELD);
        }
    }
}

#[test]
fn what_names_no_exact_place_does_not_parse() {
    for bad in [
        "",
        "bot{secret}",
        "/bot",
        "/{secret}/{secret}",
        "/{secret}{secret}",
        "/{secret}/**/x",
        "/a*/{secret}",
        "/*{secret}",
        "/../{secret}",
        "//{secret}",
        "/{token}",
        "/{{secret}}",
        "/{secret}?x",
        "/%2f{secret}",
    ] {
        assert!(bad.parse::<PathTemplate>().is_err(), "{bad}");
    }
    for bad in ["", "token", "/a~2", "/a~", "/a\n"] {
        assert!(bad.parse::<JsonPointer>().is_err(), "{bad}");
    }
    for bad in ["", "a b", "a=b", "a&b", "key[]", "k%65y", "ké"] {
        assert!(bad.parse::<KeyName>().is_err(), "{bad}");
    }
}

#[test]
fn a_body_has_places_only_where_it_says_plainly_what_it_is() {
    use BodyKind::{Form, Json};
    type Row<'a> = (&'a [(&'static str, &'static str)], Option<BodyKind>);
    let table: &[Row<'_>] = &[
        (&[("content-type", "application/json")], Some(Json)),
        (&[("content-type", "Application/JSON; charset=UTF-8")], Some(Json)),
        (&[("content-type", "application/vnd.api+json")], Some(Json)),
        (&[("content-type", "application/x-www-form-urlencoded")], Some(Form)),
        (&[("content-type", "application/json"), ("content-encoding", "identity")], Some(Json)),
        (&[("content-type", "application/json"), ("content-encoding", "gzip")], None),
        (&[("content-type", "application/json; charset=utf-16")], None),
        (&[("content-type", "application/json; charset=utf-7")], None),
        (&[("content-type", "application/json"), ("content-type", "text/plain")], None),
        (&[("content-type", "application/json, text/plain")], None),
        (&[("content-type", "multipart/form-data; boundary=x")], None),
        (&[("content-type", "text/plain")], None),
        (&[], None),
    ];
    for (headers, expected) in table {
        let mut map = HeaderMap::new();
        for (name, value) in *headers {
            map.append(*name, HeaderValue::from_static(value));
        }
        assert_eq!(BodyKind::stated(&map), *expected, "{headers:?}");
    }
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(serde_json::Value::Null),
        any::<i64>().prop_map(Into::into),
        "[a-z\\\\\"é/~]{0,6}".prop_map(serde_json::Value::from),
        Just(serde_json::Value::from(HELD)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
            prop::collection::btree_map("[a-z~/\"]{0,3}", inner, 0..4)
                .prop_map(|members| serde_json::Value::Object(members.into_iter().collect())),
        ]
    })
}

proptest! {
    #[test]
    fn a_found_pointer_leads_to_the_string_and_nothing_else_moves(value in json()) {
        let text = serde_json::to_string_pretty(&value).unwrap();
        let places = JsonPlaces::of(text.as_bytes(), HELD.as_bytes()).unwrap();
        for (start, _) in text.match_indices(HELD) {
            let range = start..start + HELD.len();
            let Some(pointer) = places.pointer(&range) else { continue };
            prop_assert_eq!(places.range(pointer), Some(range.clone()));
            prop_assert_eq!(value.pointer(&pointer.to_string()), Some(&HELD.into()));
            let spliced = [&text[..range.start], "x", &text[range.end..]].concat();
            let mut expected = value.clone();
            *expected.pointer_mut(&pointer.to_string()).unwrap() = "x".into();
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&spliced).unwrap(), expected);
        }
        prop_assert_eq!(
            text.matches(&format!("\"{HELD}\"")).count(),
            text.match_indices(HELD).filter(|(at, _)| places.pointer(&(*at..at + HELD.len())).is_some()).count()
        );
    }

    #[test]
    fn no_text_makes_the_readers_panic(text in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = JsonPlaces::of(&text, b"x");
        let _ = key_of(&text, &(0..text.len()));
        let _ = value_of(&text, &"key".parse().unwrap());
    }
}
