//! Which keys the readers ask for: the schema as it is read, for tests that must forget none.

use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    static ASKED: RefCell<BTreeSet<(String, String)>> = RefCell::default();
}

pub(super) fn note(table: &str, key: &str) {
    ASKED.with_borrow_mut(|asked| asked.insert((table.to_owned(), key.to_owned())));
}

/// Every table and key asked for on this thread while this ran.
pub(crate) fn during(work: impl FnOnce()) -> BTreeSet<(String, String)> {
    ASKED.take();
    work();
    ASKED.take()
}
