//! Figures, ratios and aims: how they are counted, compared and shown.

use serde_json::Value;

use crate::run::Outcome;

/// What a ratio or figure should come to.
#[derive(Clone, Copy)]
pub(super) enum Aim {
    AtMost(f64),
    AtLeast(f64),
}

impl Aim {
    fn met(self, figure: f64) -> bool {
        match self {
            Self::AtMost(most) => figure <= most,
            Self::AtLeast(least) => figure >= least,
        }
    }

    fn text(self) -> String {
        match self {
            Self::AtMost(most) => format!("at most {most}"),
            Self::AtLeast(least) => format!("at least {least}"),
        }
    }
}

/// One comparison.
struct Row {
    what: String,
    ours: String,
    peer: String,
    figure: f64,
    aim: Aim,
}

/// Every comparison of the run, shown when it was measured and once more at the end, as docs/benchmarks.md has them.
#[derive(Default)]
pub(super) struct Report {
    rows: Vec<Row>,
}

impl Report {
    /// Adds a comparison: `figure` is the ratio, or the figure itself, that the aim is about.
    pub(super) fn compare(&mut self, what: impl Into<String>, ours: String, peer: String, figure: f64, aim: Aim) {
        let row = Row { what: what.into(), ours, peer, figure, aim };
        let verdict = if row.aim.met(row.figure) { "met" } else { "MISSED" };
        println!("  => {}: {:.3} (aim: {}): {verdict}", row.what, row.figure, row.aim.text());
        self.rows.push(row);
    }

    /// The rows for docs/benchmarks.md.
    pub(super) fn print(&self) {
        if self.rows.is_empty() {
            return;
        }
        println!("\nfor docs/benchmarks.md, with the lines `machine` and `command` from above:\n");
        println!("| what | ours | peer | figure | aim |\n|---|---|---|---|---|");
        for Row { what, ours, peer, figure, aim } in &self.rows {
            let missed = if aim.met(*figure) { "" } else { ", **missed**" };
            println!("| {what} | {ours} | {peer} | {figure:.2} | {}{missed} |", aim.text());
        }
    }
}

/// Sorted milliseconds of one side.
pub(super) struct Times(Vec<f64>);

impl Times {
    /// Those that a measurement printed under a name.
    pub(super) fn of(measured: &Value, name: &str) -> Outcome<Self> {
        let mut times: Vec<f64> = measured[name].as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
        times.sort_by(f64::total_cmp);
        if times.is_empty() { Err(format!("nothing was measured for {name}")) } else { Ok(Self(times)) }
    }

    /// Shows them, and answers the p50.
    pub(super) fn show(&self, name: &str) -> f64 {
        let (p50, p90, p99) = (self.at(50), self.at(90), self.at(99));
        println!("  {name:<10} n={:<5} p50 {p50:>8.3} ms   p90 {p90:>8.3} ms   p99 {p99:>8.3} ms", self.0.len());
        p50
    }

    /// The nearest-rank percentile.
    pub(super) fn at(&self, percent: usize) -> f64 {
        let rank = (self.0.len() * percent).div_ceil(100).clamp(1, self.0.len());
        self.0[rank - 1]
    }
}

/// The median of figures of several rounds; no number when there are none.
pub(super) fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().unwrap_or(f64::NAN)
}
