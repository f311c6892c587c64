//! The path of a request, one file per phase: accept, identify, intercept; then for each exchange inspect, decide,
//! inject, record, upload and forward, scrub, download. Whatever is refused on the way ends in refuse.

pub(crate) mod accept;
pub(crate) mod arrived;
pub(crate) mod counted;
pub(crate) mod decide;
pub(crate) mod download;
pub(crate) mod exchange;
pub(crate) mod forward;
pub(crate) mod identify;
pub(crate) mod inject;
pub(crate) mod inspect;
pub(crate) mod intercept;
pub(crate) mod pass;
pub(crate) mod places;
pub(crate) mod record;
pub(crate) mod refuse;
pub(crate) mod render;
pub(crate) mod reports;
pub(crate) mod scrub;
pub(crate) mod streams;
pub(crate) mod trailers;
pub(crate) mod upgrade;
pub(crate) mod upload;
