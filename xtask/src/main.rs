//! The project's own commands: `cargo xtask test`, `tidy`, `bench`, `soak`, `conformance`. Development only; never shipped.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a development tool talks to its terminal and starts the compilers, package managers and tests it is for"
)]

mod bench;
mod boundary;
mod journeys;
mod prepare;
mod run;
mod soak;
mod test;
mod tidy;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(about = "Postern's development commands")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run every test, installing what they need first.
    Test(test::Options),
    /// Check dependency rules, documents, claims and sources.
    Tidy,
    /// Time our commands beside their peers and print ratios.
    Bench(bench::Options),
    /// Kill and crash for hours, each round under another seed.
    Soak(soak::Options),
    /// Run the journeys of official clients and report which of them exercised which route.
    Conformance,
    /// Fetch what the journeys need: official SDKs into target/venv and target/sdks, foreign peers into target/foreign.
    Venv,
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Test(options) => test::all(&options),
        Command::Tidy => tidy::all(),
        Command::Bench(options) => bench::all(&options),
        Command::Soak(options) => soak::all(&options),
        Command::Conformance => journeys::conformance(),
        Command::Venv => prepare::journeys().map(|_| ()),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(cause) => {
            println!("xtask: {cause}");
            ExitCode::FAILURE
        }
    }
}
