//! `cargo xtask bench`: ratios against peers measured in the same run. Not a test; nothing fails here.

use clap::Args;

use crate::run::Outcome;

#[derive(Args)]
pub(crate) struct Options {
    /// Rounds of each measurement, interleaved with its peer's.
    #[arg(long, default_value_t = 50)]
    pub(crate) rounds: u32,
}

/// Runs all comparisons.
pub(crate) fn all(_options: &Options) -> Outcome {
    Err("no comparison is in this build".to_owned())
}
