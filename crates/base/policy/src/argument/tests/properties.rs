use super::*;
use proptest::prelude::*;
use std::cmp::Ordering;

use super::super::number::Number;

fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3i64..12).prop_map(Value::from),
        any::<f64>().prop_map(|float| json!(float)),
        "[a-c/.]{0,6}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::hash_map("[ab]{1}", inner, 0..3)
                .prop_map(|members| Value::Object(members.into_iter().collect())),
        ]
    })
}

fn predicates() -> impl Strategy<Value = &'static str> {
    prop::sample::select(vec![
        "eq = 'a'",
        "eq = 3",
        "eq = 0.5",
        "eq = [1]",
        "in = ['a', 'b', 2, true]",
        "glob = '**'",
        "glob = 'a/**'",
        "range = [0, 10]",
        "range = [-1e300, 1e300]",
        "each = { glob = '**' }",
        "each = { range = [0, 10] }",
    ])
}

/// The types that a predicate has something to say about.
fn speaks_of(predicate: &str, value: &Value) -> bool {
    match predicate.split(' ').next().unwrap() {
        "glob" => value.is_string(),
        "range" => value.is_number(),
        "each" => value.as_array().is_some_and(|items| !items.is_empty()),
        _ => !value.is_null() && !value.is_object(),
    }
}

proptest! {
    #[test]
    fn a_call_without_a_named_argument_never_agrees(predicate in predicates(), other in values()) {
        let rule = arguments(&format!("x = {{ {predicate} }}"));
        let call = json!({"y": other});
        prop_assert_eq!(rule[0].check(call.as_object().unwrap()), Err(Disagreement::Value));
    }

    #[test]
    fn a_value_of_another_type_never_agrees(predicate in predicates(), value in values()) {
        let rule = arguments(&format!("x = {{ {predicate} }}"));
        let call = json!({"x": value.clone()});
        let agreed = rule[0].check(call.as_object().unwrap()).is_ok();
        prop_assert!(!agreed || speaks_of(predicate, &value), "{} and {}", predicate, value);
    }

    #[test]
    fn absent_and_present_never_agree_with_one_call(predicate in predicates(), call in values()) {
        let call = json!({"a": call});
        let call = call.as_object().unwrap();
        for name in ["a", "'/a/b'", "'/a/0'", "'/a/a/b'"] {
            let there = arguments(&format!("{name} = {{ {predicate} }}"))[0].check(call).is_ok();
            let gone = arguments(&format!("{name} = {{ absent = true }}"))[0].check(call).is_ok();
            prop_assert!(!(there && gone));
        }
    }

    #[test]
    fn both_predicates_together_agree_with_what_each_agrees(one in predicates(), two in predicates(), value in values()) {
        prop_assume!(one.split(' ').next() != two.split(' ').next());
        let call = json!({"x": value});
        let call = call.as_object().unwrap();
        let agrees = |inside: &str| arguments(&format!("x = {{ {inside} }}"))[0].check(call).is_ok();
        prop_assert_eq!(agrees(&format!("{one}, {two}")), agrees(one) && agrees(two));
    }

    #[test]
    fn the_order_of_numbers_is_the_order_of_their_digits(one in any::<i64>(), two in any::<i64>(), float in any::<f64>()) {
        prop_assume!(float.is_finite());
        let (integer, other) = (Number::Integer(i128::from(one)), Number::Integer(i128::from(two)));
        prop_assert_eq!(integer.compare(other), one.cmp(&two));
        let fraction = Number::Float(float);
        prop_assert_eq!(integer.compare(fraction), fraction.compare(integer).reverse());
        // Transitive: where the float lies between, so do the integers.
        if integer.compare(fraction) == Ordering::Less && fraction.compare(other) == Ordering::Less {
            prop_assert!(one < two);
        }
    }

    #[test]
    fn no_glob_that_ends_below_a_directory_lets_a_text_leave_it(tail in "[a./%2eEfF;\\\\ ]{0,12}") {
        let text = format!("docs/{tail}");
        if "docs/**".parse::<Glob>().unwrap().matches(&text) {
            let decoded = percent_encoding::percent_decode_str(&text).decode_utf8_lossy().replace('\\', "/");
            let mut depth = 0i32;
            for segment in decoded.split('/').map(str::trim) {
                depth += match segment { ".." => -1, "" | "." => 0, _ => 1 };
                prop_assert!(depth > 0, "{}", text);
            }
        }
    }

    #[test]
    fn no_text_makes_a_glob_fail(glob in "[a-z*?/:.]{1,20}", text in any::<String>()) {
        if let Ok(glob) = glob.parse::<Glob>() {
            let _ = glob.matches(&text);
        }
    }
}
