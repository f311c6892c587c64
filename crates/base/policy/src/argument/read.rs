//! Reading predicates from a rule: `arguments = { path = { glob = "docs/**" }, "/page/size" = { range = [1, 100] } }`.

use super::glob::Glob;
use super::predicate::{Predicate, Test, number_of};
use super::{Argument, ArgumentName, Wanted};
use crate::document::{Item, Literal, Table};

const KEYS: &[&str] = &["eq", "in", "glob", "range", "each", "absent"];
/// How deep `each` may stand in `each`.
const DEEPEST: usize = 4;

/// All arguments that the rule names, none where the key is left out; `None` if one of them is wrong.
pub(crate) fn read_arguments(rule: &mut Table<'_>) -> Option<Vec<Argument>> {
    if !rule.has("arguments") {
        return Some(Vec::new());
    }
    let given = {
        let mut outer = rule.table("arguments")?;
        outer.leave_rest();
        outer.keys().len()
    };
    let tables = rule.named_tables("arguments");
    if given == 0 {
        rule.reader().error(rule.at(), "arguments is empty, so it asks for nothing; leave it out or name some");
        return None;
    }
    let mut arguments: Vec<Argument> = Vec::new();
    for (name, mut table) in tables {
        if let Some(argument) = read_argument(name, &mut table) {
            arguments.push(argument);
        }
    }
    (arguments.len() == given).then_some(arguments)
}

fn read_argument(name: Item<&str>, table: &mut Table<'_>) -> Option<Argument> {
    let parsed = name.value.parse::<ArgumentName>();
    if let Err(cause) = &parsed {
        table.reader().error(name.at, format!("arguments: {cause}"));
    }
    let wanted = read_wanted(table);
    Some(Argument { name: parsed.ok()?, wanted: wanted? })
}

fn read_wanted(table: &mut Table<'_>) -> Option<Wanted> {
    if !table.has("absent") {
        return read_predicate(table, 1).map(Wanted::Present);
    }
    let alone = table.keys().len() == 1;
    let absent = table.boolean("absent")?;
    if !alone {
        KEYS.iter().for_each(|key| table.leave(key));
        table.reader().error(absent.at, "absent stands alone; allow both cases by two rules");
        return None;
    }
    if !absent.value {
        table.reader().error(absent.at, "absent = false says nothing: what other predicates name must be there anyway");
        return None;
    }
    Some(Wanted::Absent)
}

fn read_predicate(table: &mut Table<'_>, depth: usize) -> Option<Predicate> {
    let given = KEYS.iter().filter(|key| table.has(key)).count();
    if given == 0 {
        // Keys that are not known are said to be so, each where it stands.
        if table.keys().is_empty() {
            table.reader().error(table.at(), "a predicate has one of eq, in, glob, range, each, absent");
        }
        return None;
    }
    if table.has("absent") {
        table.reader().error(table.at(), "the elements of an array cannot be absent");
        return None;
    }
    let tests: Vec<Test> = [
        table.literal("eq").map(|item| Test::Equal(item.value)),
        read_in(table),
        table.parsed::<Glob>("glob").map(|item| Test::Glob(item.value)),
        read_range(table),
        read_each(table, depth),
    ]
    .into_iter()
    .flatten()
    .collect();
    (tests.len() == given).then_some(Predicate(tests))
}

fn read_in(table: &mut Table<'_>) -> Option<Test> {
    let item = table.literal("in")?;
    match item.value {
        Literal::List(literals) if !literals.is_empty() => Some(Test::In(literals)),
        Literal::List(_) => {
            table.reader().error(item.at, "in is empty, so no value would do");
            None
        }
        Literal::Text(_) | Literal::Flag(_) | Literal::Integer(_) | Literal::Float(_) => {
            table.reader().error(item.at, "in must be an array of values");
            None
        }
    }
}

fn read_range(table: &mut Table<'_>) -> Option<Test> {
    let item = table.literal("range")?;
    let ends = match &item.value {
        Literal::List(ends) if ends.len() == 2 => number_of(&ends[0]).zip(number_of(&ends[1])),
        Literal::List(_) | Literal::Text(_) | Literal::Flag(_) | Literal::Integer(_) | Literal::Float(_) => None,
    };
    let Some((low, high)) = ends else {
        table.reader().error(item.at, "range must be two numbers: [lowest, highest]");
        return None;
    };
    if low.compare(high) == std::cmp::Ordering::Greater {
        table.reader().error(item.at, "range: the first number is the lowest, the second the highest");
        return None;
    }
    Some(Test::Range(low, high))
}

fn read_each(table: &mut Table<'_>, depth: usize) -> Option<Test> {
    let mut each = table.table("each")?;
    if depth >= DEEPEST {
        each.leave_rest();
        each.reader().error(each.at(), format!("each stands in each at most {DEEPEST} deep"));
        return None;
    }
    read_predicate(&mut each, depth + 1).map(Test::Each)
}
