use super::*;
use proptest::prelude::*;

#[test]
fn patterns_meet_where_some_host_is_covered_by_both() {
    let table = [
        ("a.example", "a.example", true),
        ("a.example", "b.example", false),
        ("a.b.example", "*.b.example", true),
        ("b.example", "*.b.example", false),
        ("*.b.example", "*.b.example", true),
        ("*.a.b.example", "*.b.example", true),
        ("*.ab.example", "*.b.example", false),
        ("10.0.0.1", "*.b.example", false),
    ];
    for (one, other, expected) in table {
        let (first, second): (HostPattern, HostPattern) = (one.parse().unwrap(), other.parse().unwrap());
        assert_eq!((first.meets(&second), second.meets(&first)), (expected, expected), "{one} {other}");
    }
}

#[test]
fn spellings_of_one_host_are_one_host() {
    let table = [
        ("Example.COM", "example.com"),
        ("example.com.", "example.com"),
        ("B\u{fc}cher.example", "xn--bcher-kva.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("\u{ff45}xample.com", "example.com"),
        ("example\u{3002}com", "example.com"),
        ("_sip.example.com", "_sip.example.com"),
        ("127.0.0.1", "127.0.0.1"),
        ("127.0.0.1.", "127.0.0.1"),
        ("::1", "[::1]"),
        ("[::1]", "[::1]"),
        ("[0:0:0:0:0:0:0:1]", "[::1]"),
        ("[::ffff:10.0.0.1]", "10.0.0.1"),
        ("1password.com", "1password.com"),
        ("localhost", "localhost"),
    ];
    for (text, canonical) in table {
        assert_eq!(text.parse::<Host>().unwrap().to_string(), canonical, "{text}");
    }
}

#[test]
fn texts_that_some_resolver_reads_otherwise_are_refused() {
    let table = [
        ("", BadHost::Empty),
        (".", BadHost::Empty),
        ("example..com", BadHost::Malformed),
        ("example.com..", BadHost::Malformed),
        (".example.com", BadHost::Malformed),
        ("exa mple.com", BadHost::Malformed),
        ("example.com\0.evil", BadHost::Malformed),
        ("example.com/evil", BadHost::Malformed),
        ("user@example.com", BadHost::Malformed),
        ("example.com:443", BadHost::Malformed),
        ("example.com%2eevil", BadHost::Malformed),
        ("*.example.com", BadHost::Malformed),
        ("fe80::1%eth0", BadHost::Malformed),
        ("[::1", BadHost::Malformed),
        ("[127.0.0.1]", BadHost::Malformed),
        ("0x7f.1", BadHost::OddAddress),
        ("127.1", BadHost::OddAddress),
        ("2130706433", BadHost::OddAddress),
        ("0x7f000001", BadHost::OddAddress),
        ("017700000001", BadHost::OddAddress),
        ("0177.0.0.1", BadHost::OddAddress),
        ("127.0.0.01", BadHost::OddAddress),
        ("1.2.3.4.5", BadHost::OddAddress),
        ("256.1.1.1", BadHost::OddAddress),
        ("\u{ff11}27.1", BadHost::OddAddress),
        ("example.0x", BadHost::OddAddress),
    ];
    for (text, error) in table {
        assert_eq!(text.parse::<Host>(), Err(error), "{text:?}");
    }
    assert_eq!("a".repeat(64).parse::<Host>(), Err(BadHost::TooLong));
    assert_eq!("a.".repeat(127).parse::<Host>().map(|_| ()), Ok(()));
    assert_eq!("a.".repeat(128).parse::<Host>(), Err(BadHost::TooLong));
    assert_eq!("a".repeat(5000).parse::<Host>(), Err(BadHost::TooLong));
}

#[test]
fn a_pattern_covers_names_below_its_suffix_and_not_beside_it() {
    let pattern: HostPattern = "*.Example.com".parse().unwrap();
    for (host, covered) in [
        ("a.example.com", true),
        ("a.b.example.com", true),
        ("example.com", false),
        ("evilexample.com", false),
        ("a.example.com.evil.net", false),
        ("127.0.0.1", false),
    ] {
        assert_eq!(pattern.covers(&host.parse().unwrap()), covered, "{host}");
    }
    for bad in ["*", "*.", "*.com", "a.*.com", "**.example.com", "*.127.0.0.1", "*.*.example.com"] {
        assert!(bad.parse::<HostPattern>().is_err(), "{bad}");
    }
}

proptest! {
    #[test]
    fn canonical_hosts_stay_as_they_are(text in "\\PC{0,40}|[a-zA-Z0-9.\\-:\\[\\]%x]{0,40}|([a-zA-Z0-9\u{fc}\u{df}_-]{1,8}\\.){0,4}[a-z0-9]{1,6}") {
        if let Ok(host) = text.parse::<Host>() {
            let shown = host.to_string();
            prop_assert_eq!(shown.parse::<Host>(), Ok(host));
            prop_assert!(shown.is_ascii() && !shown.ends_with('.'));
            prop_assert_eq!(shown.to_ascii_lowercase(), shown);
        }
    }

    #[test]
    fn case_and_a_trailing_dot_change_nothing(name in "([a-z][a-z0-9]{0,8}\\.){1,4}[a-z]{2,6}") {
        let host: Host = name.parse().unwrap();
        prop_assert_eq!(name.to_ascii_uppercase().parse::<Host>().unwrap(), host.clone());
        prop_assert_eq!(format!("{name}.").parse::<Host>().unwrap(), host);
    }
}

#[test]
fn a_host_that_is_long_as_written_is_not_looked_through() {
    // Soft hyphens are dropped: what is left is a short name.
    let written = |hyphens: usize| format!("a{}.example", "\u{ad}".repeat(hyphens));
    assert_eq!(written(500).parse::<Host>().unwrap().to_string(), "a.example");
    assert_eq!(written(512).parse::<Host>(), Err(BadHost::TooLong));
}
