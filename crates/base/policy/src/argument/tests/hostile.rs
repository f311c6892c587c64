use super::*;

#[test]
fn numbers_are_compared_exactly() {
    let table = [
        ("a = { eq = 9007199254740993 }", r#"{"a":9007199254740993}"#, true),
        ("a = { eq = 9007199254740993 }", r#"{"a":9007199254740992}"#, false),
        ("a = { eq = 9007199254740992 }", r#"{"a":9007199254740993}"#, false),
        ("a = { eq = 9223372036854775807 }", r#"{"a":9223372036854775807}"#, true),
        ("a = { eq = 9223372036854775807 }", r#"{"a":9223372036854775808}"#, false),
        ("a = { range = [0, 9223372036854775807] }", r#"{"a":9223372036854775808}"#, false),
        ("a = { range = [0, 1e19] }", r#"{"a":9999999999999999999}"#, true),
        ("a = { range = [0, 1e19] }", r#"{"a":10000000000000000001}"#, false),
        ("a = { eq = 5 }", r#"{"a":5.0}"#, true),
        ("a = { eq = 5.0 }", r#"{"a":5}"#, true),
        ("a = { eq = 0.1 }", r#"{"a":0.1}"#, true),
        ("a = { eq = 0.1 }", r#"{"a":0.10000000000000002}"#, false),
        ("a = { range = [-1.5, -0.5] }", r#"{"a":-1}"#, true),
        ("a = { range = [-1.5, -0.5] }", r#"{"a":0}"#, false),
        ("a = { range = [-2, -1] }", r#"{"a":-1.5}"#, true),
    ];
    for (rule, call, expected) in table {
        assert_eq!(agrees(rule, call), expected, "{rule} and {call}");
    }
}

#[test]
fn a_number_whose_digits_were_rounded_away_agrees_with_nothing() {
    let wide = "a = { range = [-1e300, 1e300] }";
    for call in [
        r#"{"a":18446744073709551616}"#,
        r#"{"a":9007199254740992.0}"#,
        r#"{"a":9007199254740992.5}"#,
        r#"{"a":1e300}"#,
        r#"{"a":-1e16}"#,
    ] {
        assert!(!agrees(wide, call), "{call}");
    }
    assert!(agrees(wide, r#"{"a":18446744073709551615}"#));
    assert!(agrees(wide, r#"{"a":-9223372036854775808}"#));
}

#[test]
fn minus_zero_is_zero_and_a_number_beyond_all_is_no_json() {
    assert!(agrees("a = { eq = 0 }", r#"{"a":-0}"#));
    assert!(agrees("a = { eq = 0 }", r#"{"a":-0.0}"#));
    assert!(agrees("a = { range = [0, 1] }", r#"{"a":-0}"#));
    assert!(agrees("a = { eq = -0.0 }", r#"{"a":0}"#));
    for text in [r#"{"a":1e309}"#, r#"{"a":NaN}"#, r#"{"a":Infinity}"#, r#"{"a":-1e999}"#] {
        assert!(serde_json::from_str::<Value>(text).is_err(), "{text}");
    }
}

#[test]
fn a_second_spelling_of_a_named_key_is_refused_whatever_it_holds() {
    let rules = ["path = { eq = 'x' }", "path = { absent = true }", "'/path' = { glob = '**' }"];
    let spellings = [
        "Path",
        "PATH",
        "pa_th",
        "pa-th",
        " path",
        "path\u{200b}",
        "\u{ff50}ath",
        "path\u{feff}",
        "p\u{ad}ath",
        "path\t",
    ];
    for rule in rules {
        for spelling in spellings {
            let mut call = json!({"path": "x"});
            call[spelling] = json!("y");
            let call = call.as_object().unwrap();
            assert_eq!(arguments(rule)[0].check(call), Err(Disagreement::TwoSpellings), "{rule} {spelling:?}");
            let mut alone = call.clone();
            alone.remove("path");
            assert_eq!(arguments(rule)[0].check(&alone), Err(Disagreement::TwoSpellings), "{rule} {spelling:?}");
        }
    }
}

#[test]
fn camel_and_snake_case_are_two_spellings() {
    assert!(!agrees("max_results = { range = [1, 10] }", r#"{"max_results":5,"maxResults":500}"#));
    assert!(!agrees("maxResults = { absent = true }", r#"{"max_results":500}"#));
}

#[test]
fn a_key_of_another_alphabet_is_another_argument() {
    assert!(!agrees("path = { eq = 'x' }", "{\"p\u{430}th\":\"x\"}"));
    assert!(agrees("path = { eq = 'x' }", "{\"path\":\"x\",\"p\u{430}th\":\"y\"}"));
}

#[test]
fn a_second_spelling_on_the_way_is_refused_as_well() {
    assert!(!agrees("'/a/b' = { eq = 1 }", r#"{"a":{"b":1},"A":{"b":2}}"#));
    assert!(!agrees("'/a/b' = { eq = 1 }", r#"{"a":{"b":1,"B":2}}"#));
    assert!(agrees("'/a/b' = { eq = 1 }", r#"{"a":{"b":1},"c":{"b":2,"B":2}}"#));
}

#[test]
fn deep_and_long_values_are_decided_without_following_them() {
    let deep = format!("{{\"a\":{}1{}}}", "[".repeat(120), "]".repeat(120));
    for rule in ["a = { each = { each = { each = { eq = 1 } } } }", "a = { eq = [[1]] }", "'/a/0/0' = { eq = 1 }"] {
        assert!(!agrees(rule, &deep), "{rule}");
    }
    assert!(agrees("b = { absent = true }", &deep));
    let long = "x".repeat(4 << 20);
    assert!(!agrees("a = { eq = 'x' }", &format!("{{\"a\":\"{long}\"}}")));
    assert!(!agrees("a = { glob = 'x*' }", &format!("{{\"a\":\"{long}\"}}")));
    assert!(!agrees("a = { eq = 'x' }", &format!("{{\"{long}\":\"x\"}}")));
}

#[test]
fn in_a_crowd_of_keys_nothing_is_found_and_nothing_is_absent() {
    let crowd = |more: &str| {
        let keys: String = (0..1000).map(|number| format!(",\"k{number}\":1")).collect();
        format!("{{{more}{}}}", &keys[usize::from(more.is_empty())..])
    };
    assert!(!agrees("a = { eq = 1 }", &crowd("\"a\":1")));
    assert!(!agrees("a = { absent = true }", &crowd("\"b\":1")));
    assert!(agrees("a = { absent = true }", &crowd("")));
}
