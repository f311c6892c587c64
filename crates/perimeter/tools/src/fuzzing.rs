//! What both ends of a tool channel make of any message, as plain functions: the fuzz targets and the tests over their
//! corpora call them. They panic where a promise is broken.

use crate::client::check;
use crate::wire::{Block, Request, Source, ToolOutcome};

/// What the worker takes from a sandbox: one block of a known type, which the API takes as it is.
///
/// # Panics
/// When something else is taken.
pub fn outcome(bytes: &[u8]) {
    let Ok(outcome) = serde_json::from_slice::<ToolOutcome>(bytes) else { return };
    let written = serde_json::to_vec(&outcome).expect("texts and lists of texts");
    assert_eq!(serde_json::from_slice::<ToolOutcome>(&written).ok().as_ref(), Some(&outcome));
    assert!(check(&outcome, &format!("{}x", outcome.id)).is_err(), "another call's");
    if check(&outcome, &outcome.id).is_ok() {
        let [block] = outcome.content.as_slice() else { panic!("not one block") };
        match block {
            Block::Text { text } => assert!(!text.is_empty()),
            Block::Image { source: Source::Base64 { data, .. } }
            | Block::Document { source: Source::Base64 { data, .. } } => {
                assert!(data.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte)));
            }
        }
    }
}

/// What a sandbox takes from the worker reads again as it was written.
///
/// # Panics
/// When it does not.
pub fn request(bytes: &[u8]) {
    let Ok(request) = serde_json::from_slice::<Request>(bytes) else { return };
    let written = serde_json::to_value(&request).expect("texts and numbers");
    let again: Request = serde_json::from_value(written.clone()).expect("what we write we read");
    assert_eq!(serde_json::to_value(&again).expect("texts and numbers"), written);
}
