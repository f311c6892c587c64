//! The boundary, tried from inside real sandboxes, as whichever user runs the tests. Each control has a test that turns red without it.

#[path = "../probe/main.rs"]
#[allow(dead_code, reason = "the messages are shared with the program, its main is not run here")]
mod probe;

mod boundary;
mod stand;
