//! The lists of system calls inside a sandbox, and of the processes that build it, as filters.

#[cfg(test)]
mod dead_entries;

use postern_confine::list::{Entry, entries};
use postern_confine::seccomp::{Filter, FilterError, NEVER};

const INSIDE: &str = include_str!("../data/seccomp.list");
const COUNTED: &str = include_str!("../data/counted.list");
const SPAWNER: &str = include_str!("../data/spawner.list");

/// The filter of everything that runs in a sandbox, by whether a group holds its memory.
pub(crate) fn inside(memory_held: bool) -> Result<Filter, FilterError> {
    if memory_held { Filter::compile(&[INSIDE, COUNTED, NEVER]) } else { Filter::compile(&[INSIDE, NEVER]) }
}

/// What the spawner may do, and the starter that executes it: whatever a sandbox may, since sandboxes inherit it, and what building one takes.
pub fn spawner_calls() -> impl Iterator<Item = Entry<'static>> {
    let inside = entries(INSIDE).chain(entries(COUNTED)).filter(|entry| entry.words[0] == "allow");
    inside.chain(entries(SPAWNER)).chain(entries(NEVER))
}

#[cfg(test)]
mod tests {
    use postern_confine::list::{dead_names, unreasoned};

    use super::*;

    #[test]
    fn the_shipped_lists_compile() {
        assert!(inside(true).is_ok() && inside(false).is_ok() && Filter::of(spawner_calls()).is_ok());
    }

    #[test]
    fn no_call_is_listed_twice_without_a_condition() {
        assert_eq!(dead_names([INSIDE, COUNTED, NEVER].into_iter().flat_map(entries)), Vec::<&str>::new());
        assert_eq!(dead_names(spawner_calls()), Vec::<&str>::new());
    }

    #[test]
    fn clone3_is_in_no_line_because_it_must_answer_enosys() {
        let all = [INSIDE, COUNTED, SPAWNER, NEVER].into_iter().flat_map(entries);
        assert!(all.into_iter().all(|entry| !entry.words.contains(&"clone3")));
    }

    #[test]
    fn every_entry_of_every_shipped_list_has_a_reason_and_at_least_two_words() {
        for list in [
            INSIDE,
            SPAWNER,
            NEVER,
            include_str!("../data/etc.list"),
            include_str!("../data/proc-masks.list"),
            include_str!("../../../base/policy/data/sensitive_paths.txt"),
        ] {
            assert!(entries(list).count() > 5);
            assert_eq!(unreasoned(list), []);
        }
    }
}
