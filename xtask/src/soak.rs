//! Hours of what the tests do for minutes: random deaths and random histories, each round under another seed. The first
//! round that fails ends it and names the seed that fails again.

use std::time::{Duration, Instant};

use clap::Args;

use crate::prepare;
use crate::run::{BUILD, Outcome, command, root, run};

/// How long, and from which seed on.
#[derive(Args)]
pub(crate) struct Options {
    /// How long; a round that has begun is finished.
    #[arg(long, default_value_t = 60)]
    minutes: u64,
    /// The first round's seed; each round adds one.
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

/// Kills at random instants, deaths at instrumented points, every stressor of an operating system inside a sandbox, and properties of the state machines.
pub(crate) fn all(options: &Options) -> Outcome {
    run(command("cargo").args(BUILD))?;
    run(command("cargo").args([
        "build",
        "--locked",
        "-p",
        "postern",
        "--features",
        "danger-switches",
        "--bin",
        "postern-danger",
    ]))?;
    let (python, foreign) = prepare::journeys()?;
    let end = Instant::now() + Duration::from_secs(options.minutes * 60);
    let mut seed = options.seed;
    while Instant::now() < end {
        println!("== soak, seed {seed}");
        run(command(&python)
            .env("POSTERN_BINARY", root().join("target/debug/postern"))
            .env("POSTERN_DANGER_BINARY", root().join("target/debug/postern-danger"))
            .env("POSTERN_FOREIGN", &foreign)
            .env("POSTERN_SEED", seed.to_string())
            .env("POSTERN_PASSINGS", "6")
            .env("POSTERN_KILLS", "40")
            .args([
                "-m",
                "pytest",
                "-q",
                "-p",
                "no:cacheprovider",
                "tests/crash",
                "tests/danger/test_points.py",
                "tests/danger/test_far_points.py",
                "tests/soak",
            ]))
        .map_err(|cause| again(seed, &cause))?;
        run(command("cargo").env("PROPTEST_CASES", "20000").env("PROPTEST_RNG_SEED", seed.to_string()).args([
            "nextest",
            "run",
            "--locked",
            "-p",
            "postern-session",
            "-p",
            "postern-store",
            "-p",
            "postern-runner",
            "properties",
            "tests::model",
        ]))
        .map_err(|cause| again(seed, &cause))?;
        seed += 1;
    }
    println!("soak: {} rounds held", seed - options.seed);
    Ok(())
}

fn again(seed: u64, cause: &str) -> String {
    format!("{cause}\nsoak: again with: cargo xtask soak --minutes 1 --seed {seed}")
}
