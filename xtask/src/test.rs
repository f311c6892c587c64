//! `cargo xtask test`: everything, in the order in which a failure is cheapest to see.

use clap::Args;

use crate::run::{Outcome, command, found, run};
use crate::{boundary, journeys, prepare, tidy};

#[derive(Args)]
pub(crate) struct Options {
    /// Only the named part: tidy, lints, rust, boundary, journeys. All of them when absent.
    #[arg(long)]
    only: Vec<String>,
}

type Part = (&'static str, fn() -> Outcome);

const PARTS: &[Part] = &[
    ("tidy", tidy::all),
    ("lints", lints),
    ("rust", rust),
    ("boundary", boundary::as_ordinary_user),
    ("journeys", journeys::all),
];

/// Runs the parts; one that fails does not hide what the later ones say.
pub(crate) fn all(options: &Options) -> Outcome {
    prepare::packages()?;
    prepare::venv()?;
    let unknown = options.only.iter().find(|name| PARTS.iter().all(|(part, _)| part != name));
    if let Some(name) = unknown {
        return Err(format!("no part is called {name}"));
    }
    let mut failures = Vec::new();
    for (name, part) in
        PARTS.iter().filter(|(name, _)| options.only.is_empty() || options.only.iter().any(|only| only == name))
    {
        println!("== {name}");
        if let Err(cause) = part() {
            println!("== {name} FAILED: {cause}");
            failures.push(*name);
        }
    }
    if failures.is_empty() { Ok(()) } else { Err(format!("failed: {}", failures.join(", "))) }
}

fn lints() -> Outcome {
    run(command("cargo").args(["fmt", "--all", "--check"]))?;
    run(command("cargo").args(["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))
}

/// The same random cases each time, so that a change is judged by what it changes; `cargo xtask soak` draws others.
const SEED: &str = "1";

fn rust() -> Outcome {
    let mut tests = command("cargo");
    tests.env("PROPTEST_RNG_SEED", SEED);
    if found("cargo-nextest") {
        run(tests.args(["nextest", "run", "--workspace", "--no-fail-fast", "--status-level", "fail"]))
    } else {
        run(tests.args(["test", "--workspace", "--no-fail-fast"]))
    }
}
