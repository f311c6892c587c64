use super::*;
use crate::document::{ConfigError, Document};
use serde_json::json;

mod globs;
mod hostile;
mod properties;

/// The arguments of a rule, read from the text of the TOML table's inside.
fn read(inside: &str) -> Result<Vec<Argument>, Vec<ConfigError>> {
    let document = Document::parse("t.toml", &format!("config = 1\n[rule]\narguments = {{ {inside} }}\n"))?;
    let reader = document.reader();
    let mut root = reader.root();
    let arguments = root.table("rule").and_then(|mut rule| read_arguments(&mut rule));
    drop(root);
    let errors = reader.finish();
    if errors.is_empty() { Ok(arguments.unwrap()) } else { Err(errors) }
}

fn arguments(inside: &str) -> Vec<Argument> {
    read(inside).unwrap_or_else(|errors| panic!("{inside}: {errors:?}"))
}

/// Whether the call's arguments agree with the rule's.
fn agrees(inside: &str, call: &str) -> bool {
    let call: Value = serde_json::from_str(call).unwrap_or_else(|cause| panic!("{call}: {cause}"));
    let call = call.as_object().unwrap();
    arguments(inside).iter().all(|argument| argument.check(call).is_ok())
}

#[test]
fn a_predicate_agrees_with_what_it_names_and_with_nothing_else() {
    let table = [
        ("a = { eq = 'x' }", r#"{"a":"x"}"#, true),
        ("a = { eq = 'x' }", r#"{"a":"X"}"#, false),
        ("a = { eq = 'x' }", r#"{"a":["x"]}"#, false),
        ("a = { eq = 'x' }", r#"{"b":"x"}"#, false),
        ("a = { eq = 'x' }", r#"{"a":null}"#, false),
        ("a = { eq = 5 }", r#"{"a":5}"#, true),
        ("a = { eq = 5 }", r#"{"a":"5"}"#, false),
        ("a = { eq = true }", r#"{"a":true}"#, true),
        ("a = { eq = true }", r#"{"a":1}"#, false),
        ("a = { eq = 'true' }", r#"{"a":true}"#, false),
        ("a = { eq = [] }", r#"{"a":[]}"#, true),
        ("a = { eq = [] }", r#"{"a":{}}"#, false),
        ("a = { eq = [1, 'x'] }", r#"{"a":[1,"x"]}"#, true),
        ("a = { eq = [1, 'x'] }", r#"{"a":["x",1]}"#, false),
        ("a = { in = ['x', 2] }", r#"{"a":2}"#, true),
        ("a = { in = ['x', 2] }", r#"{"a":"2"}"#, false),
        ("a = { in = [[1], 'x'] }", r#"{"a":[1]}"#, true),
        ("a = { glob = 'x*' }", r#"{"a":"xyz"}"#, true),
        ("a = { glob = '**' }", r#"{"a":7}"#, false),
        ("a = { range = [1, 10] }", r#"{"a":1}"#, true),
        ("a = { range = [1, 10] }", r#"{"a":10}"#, true),
        ("a = { range = [1, 10] }", r#"{"a":10.5}"#, false),
        ("a = { range = [1, 10] }", r#"{"a":"5"}"#, false),
        ("a = { range = [0.5, 1] }", r#"{"a":0.75}"#, true),
        ("a = { each = { glob = 'x*' } }", r#"{"a":["x","xy"]}"#, true),
        ("a = { each = { glob = 'x*' } }", r#"{"a":["x","y"]}"#, false),
        ("a = { each = { glob = 'x*' } }", r#"{"a":["x",1]}"#, false),
        ("a = { each = { glob = 'x*' } }", r#"{"a":"x"}"#, false),
        ("a = { each = { each = { eq = 1 } } }", r#"{"a":[[1],[1,1]]}"#, true),
        ("a = { each = { each = { eq = 1 } } }", r#"{"a":[1]}"#, false),
        ("a = { glob = 'x*', in = ['xy', 'z'] }", r#"{"a":"xy"}"#, true),
        ("a = { glob = 'x*', in = ['xy', 'z'] }", r#"{"a":"z"}"#, false),
        ("a = { absent = true }", r#"{"b":1}"#, true),
        ("a = { absent = true }", r#"{"a":null}"#, false),
        ("a = { eq = 1 }, b = { eq = 2 }", r#"{"a":1,"b":2}"#, true),
        ("a = { eq = 1 }, b = { eq = 2 }", r#"{"a":1}"#, false),
        ("a = { eq = 1 }", r#"{"a":1,"other":{"x":[]}}"#, true),
    ];
    for (rule, call, expected) in table {
        assert_eq!(agrees(rule, call), expected, "{rule} and {call}");
    }
}

#[test]
fn an_empty_array_is_never_each() {
    assert!(!agrees("a = { each = { glob = '**' } }", r#"{"a":[]}"#));
    assert!(!agrees("a = { each = { each = { eq = 1 } } }", r#"{"a":[[1],[]]}"#));
}

#[test]
fn an_argument_is_found_by_its_key_or_by_a_json_pointer() {
    let table = [
        ("'/a/b' = { eq = 1 }", r#"{"a":{"b":1}}"#, true),
        ("'a/b' = { eq = 1 }", r#"{"a/b":1}"#, true),
        ("'/a~1b' = { eq = 1 }", r#"{"a/b":1}"#, true),
        ("'/a~0b' = { eq = 1 }", r#"{"a~b":1}"#, true),
        ("'/a~01' = { eq = 1 }", r#"{"a~1":1}"#, true),
        ("'/a/0' = { eq = 1 }", r#"{"a":[1]}"#, true),
        ("'/a/1' = { eq = 1 }", r#"{"a":[1]}"#, false),
        ("'/a/00' = { eq = 1 }", r#"{"a":[1]}"#, false),
        ("'/a/-' = { eq = 1 }", r#"{"a":[1]}"#, false),
        ("'/a/' = { eq = 1 }", r#"{"a":{"":1}}"#, true),
        ("'/a/b' = { eq = 1 }", r#"{"a":"{\"b\":1}"}"#, false),
        ("'/a/b' = { absent = true }", r#"{"a":{}}"#, true),
        ("'/a/b' = { absent = true }", r#"{}"#, true),
        ("'/a/0' = { absent = true }", r#"{"a":[]}"#, true),
        // What is neither object nor array can be read as one by a server that parses strings.
        ("'/a/b' = { absent = true }", r#"{"a":"{\"b\":1}"}"#, false),
        ("'/a/b' = { absent = true }", r#"{"a":null}"#, false),
        ("'/a/b' = { absent = true }", r#"{"a":[{"b":1}]}"#, false),
    ];
    for (rule, call, expected) in table {
        assert_eq!(agrees(rule, call), expected, "{rule} and {call}");
    }
}

#[test]
fn a_mistake_in_a_predicate_is_refused_where_it_stands() {
    let table = [
        ("a = { gt = 1 }", "3:21", "unknown key: gt in [rule.arguments.a]"),
        ("a = { eq = 1, gt = 1 }", "3:", "unknown key: gt"),
        ("a = {}", "3:", "a predicate has one of"),
        ("a = 1", "3:", "a must be a table, not a whole number"),
        ("a = { eq = {} }", "3:", "eq must be a string, a number, true, false, or an array"),
        ("a = { eq = 1979-05-27 }", "3:", "eq must be"),
        ("a = { eq = 1e999 }", "3:", "out of range"),
        ("a = { eq = 99999999999999999999 }", "3:", "out of range"),
        ("a = { eq = [[[[[1]]]]] }", "3:", "eq must be"),
        ("a = { in = [] }", "3:", "in is empty"),
        ("a = { in = 'x' }", "3:", "in must be an array of values"),
        ("a = { glob = 7 }", "3:", "glob must be a string"),
        ("a = { glob = 'x[12]' }", "3:", "globs know *, ** and ? only"),
        ("a = { glob = 'a?????????????????' }", "3:", "at most 16 wildcards"),
        ("a = { glob = '' }", "3:", "the glob is empty"),
        ("a = { glob = 'a***b' }", "3:", "*** means nothing"),
        ("a = { range = [1] }", "3:", "range must be two numbers"),
        ("a = { range = ['a', 'b'] }", "3:", "range must be two numbers"),
        ("a = { range = [1, inf] }", "3:", "range must be"),
        ("a = { range = [2, 1] }", "3:", "the first number is the lowest"),
        ("a = { range = [1.5, 1] }", "3:", "the first number is the lowest"),
        ("a = { each = 'x' }", "3:", "each must be a table"),
        ("a = { each = {} }", "3:", "a predicate has one of"),
        ("a = { each = { lt = 1 } }", "3:", "unknown key: lt in [rule.arguments.a.each]"),
        ("a = { each = { absent = true } }", "3:", "cannot be absent"),
        ("a = { each = { each = { each = { each = { eq = 1 } } } } }", "3:", "at most 4 deep"),
        ("a = { absent = true, eq = 1 }", "3:", "absent stands alone"),
        ("a = { absent = false }", "3:", "absent = false says nothing"),
        ("a = { absent = 'yes' }", "3:", "absent must be true or false"),
        ("'' = { eq = 1 }", "3:", "the name of an argument is empty"),
        ("'/a~2' = { eq = 1 }", "3:", "not a JSON pointer"),
        ("'/a~' = { eq = 1 }", "3:", "not a JSON pointer"),
        ("'/1/2/3/4/5/6/7/8/9/10/11/12/13/14/15/16/17' = { eq = 1 }", "3:", "at most 16 steps"),
        ("", "2:", "arguments is empty"),
    ];
    for (rule, place, message) in table {
        let errors = read(rule).map(|_| ()).expect_err(rule);
        let said = errors.iter().any(|error| {
            let shown = error.to_string();
            shown.starts_with(&format!("t.toml:{place}")) && shown.contains(message)
        });
        assert!(said, "{rule}: {errors:?}");
    }
}

#[test]
fn a_rule_says_in_words_what_it_asks() {
    let table = [
        ("a = { eq = 'x' }", "be \"x\""),
        ("a = { in = [1, 'x', true] }", "be one of 1, \"x\", true"),
        ("a = { glob = 'docs/**' }", "be a string like \"docs/**\""),
        ("a = { range = [1, 2.5] }", "be a number from 1 to 2.5"),
        ("a = { each = { eq = 1 } }", "be an array, not empty, whose elements each must be 1"),
        ("a = { glob = 'x', eq = [1] }", "be [1] and be a string like \"x\""),
        ("a = { absent = true }", "be left out"),
    ];
    for (rule, words) in table {
        assert_eq!(arguments(rule)[0].wanted.to_string(), words);
    }
}

#[test]
fn why_an_argument_disagrees_is_told_apart() {
    let check = |rule: &str, call: Value| arguments(rule)[0].check(call.as_object().unwrap());
    assert_eq!(check("a = { eq = 1 }", json!({})), Err(Disagreement::Value));
    assert_eq!(check("a = { absent = true }", json!({"a": 1})), Err(Disagreement::Present));
    assert_eq!(check("a = { eq = 1 }", json!({"a": 1, "A": 2})), Err(Disagreement::TwoSpellings));
}
