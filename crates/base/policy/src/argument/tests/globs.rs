use super::super::Glob;

#[test]
fn a_glob_over_an_argument_stays_in_its_segment_and_never_climbs() {
    let table = [
        ("docs/*", "docs/a.md", true),
        ("docs/*", "docs/a/b.md", false),
        ("docs/*", "docs/", true),
        ("docs/*", "docs\\a", false),
        ("docs/**", "docs/a/b.md", true),
        ("docs/**", "docs", false),
        ("docs/**", "docsx/a", false),
        ("docs/**", "docs/../etc/passwd", false),
        ("docs/**", "docs/a/..", false),
        ("docs/**", "docs/..\\..\\x", false),
        ("docs/**", "docs/%2e%2e/x", false),
        ("docs/**", "docs/%2E./x", false),
        ("docs/**", "docs/a%2f..%2fx", false),
        ("docs/**", "docs/%252e%252e/x", false),
        ("docs/**", "docs/..;x/y", false),
        ("docs/**", "docs/.. /y", false),
        ("docs/**", "docs/\u{ff0e}\u{ff0e}/y", false),
        ("docs/**", "docs/\u{2025}/y", false),
        ("docs/**", "docs/..\u{ff0f}y", false),
        ("docs/**", "docs/a\0b", false),
        ("docs/**", "docs/..a/b..c/.hidden", true),
        ("report-**", "report-1/../../x", false),
        ("**", "any/../thing\0\n", true),
        ("**", "", true),
        ("*", "", true),
        ("*", "a b", true),
        ("*", "a\nb", false),
        ("note: **", "note: two\nlines", true),
        ("?at", "cat", true),
        ("?at", "at", false),
        ("?at", "/at", false),
        ("a*b*c", "a-b-b-c", true),
        ("a*b*c", "a-c-b", false),
        ("a**/*.md", "a/b/c.md", true),
        ("a**/*.md", "a/b/c.md/d", false),
        ("**x", "axbx", true),
        ("caf\u{e9}", "caf\u{e9}", true),
        ("caf\u{e9}", "cafe\u{301}", false),
        ("Docs", "docs", false),
    ];
    for (glob, text, expected) in table {
        assert_eq!(glob.parse::<Glob>().unwrap().matches(text), expected, "{glob:?} and {text:?}");
    }
}

#[test]
fn the_host_in_a_urls_glob_is_a_host() {
    let table = [
        ("https://*.internal/**", "https://a.b.internal/x/y", true),
        ("https://*.internal/**", "https://evil.example?.internal/x", false),
        ("https://*.internal/**", "https://evil.example#.internal/x", false),
        ("https://*.internal/**", "https://evil.example\\.internal/x", false),
        ("https://*.internal/**", "https://me@evil.example:1.internal/x", false),
        ("https://*.internal/**", "https://evil.example/.internal/x", false),
        ("https://**.internal/**", "https://evil.example/.internal/x", false),
        ("https://wiki.internal/**", "https://wiki.internal/../x", false),
        ("https://wiki.internal/**", "https://wiki.internal@evil.example/", false),
        ("https://wiki.internal/**", "https://wiki.internal/page?q=1", true),
        ("https://wiki.internal/**", "HTTPS://wiki.internal/page", false),
        ("https://wiki?.internal/", "https://wiki1.internal/", true),
        ("https://wiki?.internal/", "https://wiki@.internal/", false),
    ];
    for (glob, text, expected) in table {
        assert_eq!(glob.parse::<Glob>().unwrap().matches(text), expected, "{glob:?} and {text:?}");
    }
}

#[test]
fn a_glob_over_names_crosses_everything() {
    let table = [
        ("read_*", "read_file", true),
        ("read_*", "read_", true),
        ("read_*", "write_file", false),
        ("*", "a/b.c", true),
        ("a?c", "abc", true),
        ("search", "search ", false),
        ("search", "Search", false),
        ("search", "se\u{430}rch", false),
    ];
    for (glob, text, expected) in table {
        assert_eq!(Glob::of_names(glob).unwrap().matches(text), expected, "{glob:?} and {text:?}");
    }
}

#[test]
fn a_text_made_to_be_slow_is_decided_all_the_same() {
    let glob: Glob = "a*a*a*a*a*a*a*a*b".parse().unwrap();
    assert!(!glob.matches(&"a".repeat(100_000)));
    assert!(glob.matches(&format!("{}b", "a".repeat(100_000))));
    let long = "x".repeat((1 << 20) + 1);
    assert!(!"x*".parse::<Glob>().unwrap().matches(&long));
    assert!("**".parse::<Glob>().unwrap().matches(&long));
}

#[test]
fn a_glob_is_short_and_has_few_wildcards() {
    for (glob, is_taken) in [
        ("x".repeat(256), true),
        ("x".repeat(257), false),
        ("?".repeat(16), true),
        ("?".repeat(17), false),
        ("a*".repeat(16), true),
        ("a*".repeat(17), false),
    ] {
        assert_eq!(glob.parse::<Glob>().is_ok(), is_taken, "{glob}");
    }
}
