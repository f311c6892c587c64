//! The path of a request, one file per phase, in the order in which they happen.

pub(crate) mod accept;
pub(crate) mod decide;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod identify;
pub(crate) mod inject;
pub(crate) mod inspect;
pub(crate) mod intercept;
pub(crate) mod record;
pub(crate) mod refuse;
pub(crate) mod scrub;
