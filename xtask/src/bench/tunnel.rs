//! The tunnel beside the same server reached directly and through rathole, which carries plain bytes.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::json;
use crate::prepare;
use crate::run::{Outcome, command, root, run};

/// Measures and prints a table and the ratios that there are aims for.
pub(super) fn measure(binary: &Path, rounds: u32) -> Outcome {
    let python = prepare::venv()?;
    let script = root().join("xtask/bench/tunnel.py");
    let mut measurement = command(python);
    measurement.env("POSTERN_BINARY", binary).env("RATHOLE_BINARY", rathole()?);
    let measured = json(measurement.arg(script).args([rounds.to_string(), SECONDS.to_string()]))?;
    let rows = measured["rows"].as_array().ok_or("the measurement printed no rows")?;
    let table = Table { rows };
    println!(
        "\nMCP calls through the tunnel (inner TLS, identity, policy, injection, audit), directly, and through rathole"
    );
    println!("with Noise (plain bytes); medians of {rounds} rounds of {SECONDS} s, by turns");
    for at_once in [1, 32, 256] {
        table.print(&format!("small, {at_once} at once"), &Cell { what: "small", at_once: Some(at_once) });
    }
    table.print("small, 4 at once, during bulk", &Cell { what: "small during bulk", at_once: None });
    for way in WAYS {
        println!(
            "  {:<30} {way:<8} {:>9.0} MiB/s",
            "answer of 100 MB",
            table.median("bulk", None, way, "mib_per_second")
        );
    }
    table.ratios()
}

/// The peer's program, installed once under `target/peers`. Without its lock file, which pins a crate that no longer
/// compiles.
fn rathole() -> Outcome<PathBuf> {
    let peers = root().join("target/peers");
    let program = peers.join("bin/rathole");
    if !program.is_file() {
        println!("xtask: installing rathole, which takes minutes");
        let mut install = command("cargo");
        install.env("CARGO_TARGET_DIR", root().join("target/peers-build"));
        run(install.args(["install", "--quiet", "rathole", "--version", "0.5.0", "--root"]).arg(&peers))?;
    }
    Ok(program)
}

/// What the measurement printed.
struct Table<'a> {
    rows: &'a [Value],
}

/// A kind of measurement.
struct Cell {
    what: &'static str,
    at_once: Option<u64>,
}

impl Table<'_> {
    fn print(&self, title: &str, cell: &Cell) {
        for way in WAYS {
            let of = |figure: &str| self.median(cell.what, cell.at_once, way, figure);
            let (each, p50, p99) = (of("per_second"), of("p50_ms"), of("p99_ms"));
            let failed = self.of(cell.what, cell.at_once, way, "failed").iter().sum::<f64>();
            println!("  {title:<30} {way:<8} {each:>9.0} /s   p50 {p50:>8.3} ms   p99 {p99:>8.3} ms   failed {failed}");
        }
    }

    fn ratios(&self) -> Outcome {
        for (at_once, aim) in [(32, "at least 0.5"), (256, "more than 1")] {
            let each = |way| self.median("small", Some(at_once), way, "per_second");
            println!(
                "  ratio to rathole's calls per second at {at_once}: {:.3} (aim: {aim})",
                each("tunnel") / each("rathole")
            );
        }
        let p50 = |way| self.median("small", Some(1), way, "p50_ms");
        println!("  p50 over direct at 1: {:.3} ms (aim: at most 0.5)", p50("tunnel") - p50("direct"));
        let failed: f64 = self.rows.iter().filter_map(|row| row["figures"]["failed"].as_f64()).sum();
        if failed > 0.0 { Err(format!("{failed} calls failed: the figures do not compare")) } else { Ok(()) }
    }

    /// The median over all rounds.
    fn median(&self, what: &str, at_once: Option<u64>, way: &str, figure: &str) -> f64 {
        let mut figures = self.of(what, at_once, way, figure);
        figures.sort_by(f64::total_cmp);
        figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn of(&self, what: &str, at_once: Option<u64>, way: &str, figure: &str) -> Vec<f64> {
        let rows = self.rows.iter().filter(|row| row["what"] == what && row["way"] == way);
        let rows = rows.filter(|row| row["at_once"].as_u64() == at_once);
        rows.filter_map(|row| row["figures"][figure].as_f64().or(row[figure].as_f64())).collect()
    }
}

const WAYS: [&str; 3] = ["tunnel", "direct", "rathole"];
const SECONDS: u32 = 4;
