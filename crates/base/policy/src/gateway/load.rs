//! Reading routes from the configuration: `[[gateway.route]]`.

use super::Routes;
use crate::document::{ConfigError, Document};

pub(super) fn load(document: &Document) -> Result<Routes, Vec<ConfigError>> {
    let reader = document.reader();
    let mut root = reader.root();
    root.leave_rest();
    if let Some(mut gateway) = root.table("gateway") {
        gateway.leave_rest();
        gateway.not_in_this_build(&["route"]);
    }
    drop(root);
    let errors = reader.finish();
    if errors.is_empty() { Ok(Routes::none()) } else { Err(errors) }
}
