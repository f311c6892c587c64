use super::*;

#[test]
fn a_host_has_one_spelling() {
    let good = [("wiki.abcd.tunnel.localhost", "wiki", "abcd.tunnel.localhost"), ("a-1.b", "a-1", "b")];
    for (text, route, domain) in good {
        assert_eq!(host_name(text), Some(HostName { route, domain }), "{text}");
        assert_eq!(connect_authority(&authority_of(text)), Some(HostName { route, domain }));
    }
    let bad = [
        "",
        ".",
        "wiki",
        "wiki.",
        ".abcd",
        "wiki..abcd",
        "WIKI.abcd",
        "wiki.abcd.",
        "-wiki.abcd",
        "wiki-.abcd",
        "wi_ki.abcd",
        "wiki.abcd:443",
        "wiki.abcd/x",
        "user@wiki.abcd",
        "wiki.ab%63d",
        "w\u{ee}ki.abcd",
        "wiki.abcd\r\nhost: x",
        "wiki .abcd",
        "wiki\0.abcd",
    ];
    for text in bad {
        assert_eq!(host_name(text), None, "{text:?}");
    }
    assert_eq!(host_name(&format!("{}.abcd", "a".repeat(64))), None);
    assert_eq!(host_name(&format!("wiki.{}", "abc.".repeat(70) + "d")), None);
}

#[test]
fn the_authority_of_a_connect_has_port_443_and_nothing_else() {
    for text in [
        "wiki.abcd",
        "wiki.abcd:80",
        "wiki.abcd:443:443",
        "wiki.abcd:0443",
        "u@wiki.abcd:443",
        "wiki.abcd:443/",
        "[::1]:443",
        ":443",
    ] {
        assert_eq!(connect_authority(text), None, "{text}");
    }
}

#[test]
fn a_welcome_survives_its_header() {
    let key = IdentityKey { kid: "k".to_owned(), public_key: "AAAA".to_owned() };
    let welcome =
        Welcome { tunnel_id: "tnl_1".to_owned(), domain: "abcd.tunnel.localhost".to_owned(), identity_keys: vec![key] };
    assert_eq!(Welcome::from_header(&welcome.to_header()), Ok(welcome));
}

#[test]
fn what_is_no_welcome_is_refused() {
    let hostile = Welcome { tunnel_id: "t".to_owned(), domain: "Evil.example:1".to_owned(), identity_keys: vec![] };
    for text in ["", "!!", "AAAA", &hostile.to_header(), &URL_SAFE_NO_PAD.encode([b' '; WELCOME_BYTES + 1])] {
        assert_eq!(Welcome::from_header(text), Err(BadWelcome), "{text}");
    }
}

#[test]
fn lanes_have_words_and_windows_that_fit() {
    for lane in Lane::ALL {
        assert_eq!(lane.as_str().parse(), Ok(lane));
        assert!(u64::from(lane.stream_window()) * lane.streams() as u64 <= u64::from(lane.connection_window()));
        assert!(lane.connection_window() < 1 << 31);
    }
    for text in ["", "Bulk", "bulk ", "interactive,bulk"] {
        assert_eq!(text.parse::<Lane>(), Err(BadLane), "{text}");
    }
}

#[test]
fn reasons_and_connector_ids_are_short_words() {
    assert!(
        is_reason(reason::HOST_FOREIGN) && !is_reason("") && !is_reason("Bad reason") && !is_reason(&"a".repeat(65))
    );
    assert!(is_connector_id("c0ffee00-1") && !is_connector_id("short") && !is_connector_id("line\nbreak"));
}

#[test]
fn each_carry_error_has_a_code_and_a_next_step() {
    use crate::CarryError::{Offline, Refused, Slow, TooMany, UnknownHost};
    let all = [Offline { tunnel: "tnl_1".to_owned() }, UnknownHost, Refused { reason: "x".to_owned() }, Slow, TooMany];
    let codes: std::collections::BTreeSet<_> = all.iter().map(crate::CarryError::code).collect();
    assert_eq!(codes.len(), all.len());
    assert!(all.iter().all(|error| !error.next_step().is_empty() && is_reason(error.code())));
}
