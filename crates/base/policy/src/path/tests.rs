use super::*;
use proptest::prelude::*;

#[test]
fn spellings_of_one_path_are_one_path() {
    let table = [
        ("/", "/"),
        ("/v1/a", "/v1/a"),
        ("/v1/", "/v1/"),
        ("/%76%31/%61", "/v1/a"),
        ("/a%7eb", "/a~b"),
        ("/a%3ab", "/a%3Ab"),
        ("/a:b@c", "/a:b@c"),
        ("/%c3%bc", "/%C3%BC"),
        ("/a%20b", "/a%20b"),
        ("/100%25", "/100%25"),
        ("/a..b/.well-known/x.", "/a..b/.well-known/x."),
        ("/V1/A", "/V1/A"),
        ("/a;b=c/d", "/a;b=c/d"),
        ("/a%3Fb%23c", "/a%3Fb%23c"),
        ("/%e5%ae%8c%ef%bc%9f", "/%E5%AE%8C%EF%BC%9F"),
        ("/wiki/%3f", "/wiki/%3F"),
        ("/wiki/%ef%bc%9f", "/wiki/%EF%BC%9F"),
        ("/100%ef%bc%85", "/100%EF%BC%85"),
        ("/a%ef%bc%85%20", "/a%EF%BC%85%20"),
    ];
    for (text, canonical) in table {
        assert_eq!(text.parse::<CanonicalPath>().unwrap().as_str(), canonical, "{text}");
    }
}

#[test]
fn paths_with_two_readings_are_refused_with_the_reason() {
    let table = [
        ("", BadPath::NotAbsolute),
        ("*", BadPath::NotAbsolute),
        ("v1/a", BadPath::NotAbsolute),
        ("https://x/v1", BadPath::NotAbsolute),
        ("/a?b", BadPath::BadCharacter),
        ("/a#b", BadPath::BadCharacter),
        ("/a b", BadPath::BadCharacter),
        ("/\u{fc}", BadPath::BadCharacter),
        ("/a\r\nb", BadPath::BadCharacter),
        ("/a%", BadPath::BrokenEscape),
        ("/a%2", BadPath::BrokenEscape),
        ("/a%zz", BadPath::BrokenEscape),
        ("/a%+1", BadPath::BrokenEscape),
        ("/a%u002f", BadPath::BrokenEscape),
        ("/a%2fb", BadPath::EncodedSeparator),
        ("/a%2Fb", BadPath::EncodedSeparator),
        ("/a%5cb", BadPath::EncodedSeparator),
        ("/a\\b", BadPath::EncodedSeparator),
        ("/a%00", BadPath::EncodedControl),
        ("/a%0d%0ab", BadPath::EncodedControl),
        ("/a%7f", BadPath::EncodedControl),
        ("/a/%252e%252e/b", BadPath::DoubleEncoding),
        ("/a/%25%32%65/b", BadPath::DoubleEncoding),
        ("/a%252fb", BadPath::DoubleEncoding),
        ("/%c0%ae%c0%ae/b", BadPath::AmbiguousText),
        ("/%ff", BadPath::AmbiguousText),
        ("/%ef%bc%8e%ef%bc%8e/b", BadPath::AmbiguousText),
        ("/a%ef%bc%8fb", BadPath::AmbiguousText),
        ("/a/../b", BadPath::DotSegment),
        ("/a/..", BadPath::DotSegment),
        ("/a/./b", BadPath::DotSegment),
        ("/a/%2e%2e/b", BadPath::DotSegment),
        ("/a/.%2E/b", BadPath::DotSegment),
        ("/a/..;x=1/b", BadPath::DotSegment),
        ("/a/..%3bx/b", BadPath::DotSegment),
        ("/a/;x/b", BadPath::DotSegment),
        ("/a/.../b", BadPath::DotSegment),
        ("/a/..%20/b", BadPath::DotSegment),
        ("/v1/..%3fx", BadPath::DotSegment),
        ("/v1/..%23/x", BadPath::DotSegment),
        ("/v1/.%3f", BadPath::DotSegment),
        ("/v1/;%3fx/y", BadPath::DotSegment),
        ("/v1/.%2e%3bx/y", BadPath::DotSegment),
        ("/v1/..%ef%bc%9bx/y", BadPath::DotSegment),
        ("/v1/..%ef%bc%9fx", BadPath::DotSegment),
        ("/v1/..%cd%bex", BadPath::DotSegment),
        ("/v1/%2e", BadPath::DotSegment),
        ("/v1/%2e./", BadPath::DotSegment),
        ("/v1/....", BadPath::DotSegment),
        ("/v1/.;/x", BadPath::DotSegment),
        ("/v1/;/x", BadPath::DotSegment),
        ("/v1/%20/x", BadPath::DotSegment),
        ("/v1/..%2f", BadPath::EncodedSeparator),
        ("/v1/..%2F..%2Fx", BadPath::EncodedSeparator),
        ("/v1/..%5c..%5Cx", BadPath::EncodedSeparator),
        ("/v1/..\\x", BadPath::EncodedSeparator),
        ("/v1/..%00/x", BadPath::EncodedControl),
        ("/v1/..%09/x", BadPath::EncodedControl),
        ("/v1/%0a", BadPath::EncodedControl),
        ("/v1/%c2%85", BadPath::AmbiguousText),
        ("/v1/..%c0%af", BadPath::AmbiguousText),
        ("/v1/%e0%80%af..", BadPath::AmbiguousText),
        ("/v1/%f0%80%80%af", BadPath::AmbiguousText),
        ("/v1/%c0%2e", BadPath::AmbiguousText),
        ("/v1/%ed%a0%80", BadPath::AmbiguousText),
        ("/v1/%e2%80%a5/x", BadPath::AmbiguousText),
        ("/v1/%ef%b8%b0/x", BadPath::AmbiguousText),
        ("/v1/%ef%b9%92%ef%b9%92/x", BadPath::AmbiguousText),
        ("/v1/a%ef%b9%a8b", BadPath::AmbiguousText),
        ("/v1/a%e2%84%80b", BadPath::AmbiguousText),
        ("/v1/%ef%bc%852e%ef%bc%852e/x", BadPath::DoubleEncoding),
        ("/v1/%ef%bc%85%ef%bc%92%ef%bd%85/x", BadPath::DoubleEncoding),
        ("/v1/%25252e", BadPath::DoubleEncoding),
        ("/v1/%2525%32%65", BadPath::DoubleEncoding),
        ("/v1/%%32%65", BadPath::BrokenEscape),
        ("/v1/%u002e%u002e/x", BadPath::BrokenEscape),
        ("/v1/%2", BadPath::BrokenEscape),
        ("/v1/%-1", BadPath::BrokenEscape),
        ("/v1/{x}", BadPath::BadCharacter),
        ("/v1/|x", BadPath::BadCharacter),
        ("/v1/\0", BadPath::BadCharacter),
        ("//a", BadPath::EmptySegment),
        ("/v1//", BadPath::EmptySegment),
        ("///", BadPath::EmptySegment),
        ("/v1/%ef%bc%8f/x", BadPath::AmbiguousText),
        ("/a//b", BadPath::EmptySegment),
        ("/a//", BadPath::EmptySegment),
    ];
    for (text, error) in table {
        assert_eq!(text.parse::<CanonicalPath>(), Err(error), "{text:?}");
    }
    assert_eq!(format!("/{}", "a".repeat(8192)).parse::<CanonicalPath>(), Err(BadPath::TooLong));
}

#[test]
fn globs_cover_what_they_say() {
    let table = [
        ("/v1/**", "/v1/a", true),
        ("/v1/**", "/v1/a/b/", true),
        ("/v1/**", "/v1/", true),
        ("/v1/**", "/v1", false),
        ("/v1/**", "/v10/a", false),
        ("/**", "/", true),
        ("/**", "/a/b", true),
        ("/v1/*", "/v1/a", true),
        ("/v1/*", "/v1/", false),
        ("/v1/*", "/v1/a/b", false),
        ("/v1/*/x", "/v1/a/x", true),
        ("/v1/a*c", "/v1/abc", true),
        ("/v1/a*c", "/v1/abcbc", true),
        ("/v1/a*c", "/v1/ac", false),
        ("/v1/*a*b", "/v1/xaxxb", true),
        ("/v1/*a*b", "/v1/ab", false),
        ("/v1", "/v1", true),
        ("/v1", "/v1/", false),
        ("/%76%31/**", "/v1/a", true),
        ("/V1/**", "/v1/a", false),
    ];
    for (glob, path, covered) in table {
        assert_eq!(glob.parse::<PathGlob>().unwrap().covers(&path.parse().unwrap()), covered, "{glob} {path}");
    }
    for bad in ["/a/**/b", "/a**", "/**a", "v1/**", "/../**", ""] {
        assert!(bad.parse::<PathGlob>().is_err(), "{bad}");
    }
}

/// What some server makes of a path: decodes up to twice, ends it at `?` or `#`, takes `\` for `/`, drops path parameters,
/// folds dots.
fn some_servers_reading(path: &str, decodings: usize) -> String {
    let mut text = path.to_owned();
    for _ in 0..decodings {
        text = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().into_owned();
    }
    let mut segments: Vec<String> = Vec::new();
    let path = text.split(['?', '#']).next().unwrap_or(&text);
    for segment in path.replace('\\', "/").split('/') {
        match segment.split(';').next().unwrap_or(segment) {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name.to_owned()),
        }
    }
    format!("/{}", segments.join("/"))
}

fn tricky_paths() -> impl Strategy<Value = String> {
    let pieces = prop::sample::select(vec![
        "/",
        "/",
        "v1",
        "admin",
        "..",
        ".",
        "%2e",
        "%2E",
        "%2f",
        "%5c",
        "\\",
        "%252e",
        "%25",
        "2e",
        "%32%65",
        ";",
        ";x",
        "%3b",
        "%3f",
        "%23",
        "%00",
        "//",
        "%76",
        "a",
        "%c0%ae",
        "?",
        "#",
        "%",
        "*",
        "%ef%bc%8f",
        " ",
        "%20",
    ]);
    prop::collection::vec(pieces, 0..10).prop_map(|pieces| format!("/v1/{}", pieces.concat()))
}

proptest! {
    #[test]
    fn canonical_paths_stay_as_they_are(text in prop_oneof![tricky_paths(), "/[!-~]{0,30}".prop_map(|text| text)]) {
        if let Ok(path) = text.parse::<CanonicalPath>() {
            prop_assert_eq!(path.as_str().parse::<CanonicalPath>(), Ok(path.clone()));
            prop_assert_eq!(path.segments().filter(|segment| segment.is_empty()).count() <= 1, true);
        }
    }

    #[test]
    fn no_encoding_trick_leads_out_of_an_allowed_prefix(text in tricky_paths(), decodings in 0usize..=3) {
        let glob: PathGlob = "/v1/**".parse().unwrap();
        if let Ok(path) = text.parse::<CanonicalPath>() && glob.covers(&path) {
            let reading = some_servers_reading(path.as_str(), decodings);
            prop_assert!(reading == "/v1" || reading.starts_with("/v1/"), "{} is read as {}", path, reading);
        }
    }

    #[test]
    fn star_matching_agrees_with_trying_every_split(pattern in "[ab*]{0,6}", segment in "[ab]{0,8}") {
        prop_assert_eq!(segment_matches(&pattern, &segment), by_trying(pattern.as_bytes(), segment.as_bytes()), "{} {}", pattern, segment);
    }
}

fn by_trying(pattern: &[u8], segment: &[u8]) -> bool {
    match pattern.split_first() {
        None => segment.is_empty(),
        Some((b'*', rest)) => (1..=segment.len()).any(|taken| by_trying(rest, &segment[taken..])),
        Some((byte, rest)) => segment.first() == Some(byte) && by_trying(rest, &segment[1..]),
    }
}
