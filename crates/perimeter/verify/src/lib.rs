//! `postern verify`: proof that the boundary holds. A catalogue of attacks, kept as data, is attempted inside a real sandbox of the deployed zone,
//! and each once more where the boundary is not: an attack that fails only inside was stopped by the boundary, one that fails everywhere proves nothing.
//! Speaks to no upstream of the zone, opens none of its secrets, and leaves nothing behind.

mod attempt;
pub mod catalogue;
mod evidence;
pub mod gateway;
mod going;
mod holds;
mod html;
mod judge;
mod junit;
mod lends;
mod outside;
mod own_rules;
mod race;
mod recorded;
mod report;
mod roles;
mod run;
mod shares;
mod stand;
mod table;
mod toml_text;
mod upstreams;
mod vault;
mod zone;

pub use own_rules::OwnRules;
pub use recorded::{ALLOWED, alarm};
pub use report::{Cause, ControlRow, Finding, Report, Verdict};
pub use run::{Settings, VerifyError, run};
pub use table::Detail;
pub use zone::Selection;

/// The report as a page that needs nothing else.
#[must_use]
pub fn html(report: &Report) -> String {
    html::page(report)
}

/// The report as JUnit reads it.
#[must_use]
pub fn junit(report: &Report) -> String {
    junit::suites(report)
}

/// The report for a terminal.
#[must_use]
pub fn table(report: &Report, detail: Detail) -> String {
    table::lines(report, detail)
}
