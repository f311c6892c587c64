//! Requests and bodies through the egress proxy, beside the same server reached directly, through nginx and through mitmproxy.

use serde_json::{Value, json};

use super::figures::{Aim, Report, median};
use super::{Plan, example, json as printed};
use crate::prepare;
use crate::run::{Outcome, command, found, root};

/// How long each small measurement lasts.
const SECONDS: f64 = 3.0;
const BODY_BYTES: u64 = 200 << 20;

pub(super) fn measure(plan: &Plan, report: &mut Report) -> Outcome {
    let program = example("postern-egress", "egress_speed")?;
    let rounds = plan.rounds.div_ceil(34);
    // A run of a few rounds is a trial of the measurement itself.
    let trial = plan.rounds < 10;
    let (seconds, body_bytes) = if trial { (0.3, BODY_BYTES / 10) } else { (SECONDS, BODY_BYTES) };
    let wanted = json!({
        "program": plan.binary, "nginx": nginx(), "mitmdump": prepare::mitmproxy()?, "replacing": root().join("xtask/bench/replace_header.py"),
        "rounds": rounds, "seconds": seconds, "body_bytes": body_bytes,
    });
    let measured = printed(command(program).arg(wanted.to_string()))?;
    let table = Table { rows: measured["rows"].as_array().ok_or("the measurement printed no rows")? };
    println!(
        "\nHTTPS requests to one server, keep-alive; ours with policy, injection, scrubbing and audit, mitmproxy replacing"
    );
    println!(
        "the same header, nginx doing nothing but TLS, with kept connections; medians of {rounds} rounds of {seconds} s, by turns"
    );
    table.print();
    if table.of("small", "nginx").next().is_some() {
        table.floor();
    }
    table.judge(report);
    Ok(())
}

/// The floor: what a proxy costs that only ends TLS and begins it again. Said where it is missing.
pub(super) fn nginx() -> Option<&'static str> {
    let program = ["nginx", "/usr/sbin/nginx"].into_iter().find(|name| found(name));
    if program.is_none() {
        println!("skipped: no nginx, so no floor is measured (Debian package nginx-light)");
    }
    program
}

/// What the measurement printed.
struct Table<'a> {
    rows: &'a [Value],
}

impl Table<'_> {
    fn print(&self) {
        for way in WAYS.into_iter().filter(|way| self.of("small", way).next().is_some()) {
            for at_once in [1, 32] {
                let of = |figure: &str| self.small(at_once, way, figure);
                let (each, p50, p99) = (of("per_second"), of("p50_ms"), of("p99_ms"));
                println!("  {way:<10} {at_once:>2} at once {each:>9.0} /s   p50 {p50:>8.3} ms   p99 {p99:>8.3} ms");
            }
            if way.starts_with("ours") {
                let of = |role: &str| self.processor(way, role);
                let (egress, audit, custody) = (of("egress"), of("audit"), of("custody"));
                println!(
                    "  {way:<10} 32 at once: {egress:.0} us of processor time a request in egress, {audit:.0} in audit, {custody:.0} in custody"
                );
            }
            if way == "nginx" {
                println!("  {way:<10} 32 at once: {:.0} us of processor time a request", self.processor(way, way));
            }
            let (down, up) = (self.body("down", way), self.body("up", way));
            println!("  {way:<10} bodies     {down:>9.0} MiB/s down, {up:.0} MiB/s up");
        }
    }

    fn judge(&self, report: &mut Report) {
        let p50 = |way| self.small(1, way, "p50_ms");
        let each = |way| self.small(32, way, "per_second");
        let (ours, direct, mitmproxy) = (each("ours"), each("direct"), each("mitmproxy"));
        for (way, how) in [
            ("ours", "a request over a kept connection, p50, beside direct"),
            ("ours-disk", "the same with `audit = \"disk\"`"),
        ] {
            let shown = |ms: f64| format!("{ms:.3} ms");
            report.compare(how, shown(p50(way)), shown(p50("direct")), p50(way) / p50("direct"), Aim::AtMost(2.0));
        }
        let shown = |each: f64| format!("{each:.0} /s");
        report.compare(
            "requests per second, 32 at once, beside direct",
            shown(ours),
            shown(direct),
            ours / direct,
            Aim::AtLeast(0.4),
        );
        report.compare(
            "the same beside mitmproxy",
            shown(ours),
            shown(mitmproxy),
            ours / mitmproxy,
            Aim::AtLeast(40.0),
        );
        for (what, how) in
            [("down", "an answer of 200 MiB, beside direct"), ("up", "a request of 200 MiB, beside direct")]
        {
            let shown = |mib: f64| format!("{mib:.0} MiB/s");
            let (ours, direct) = (self.body(what, "ours"), self.body(what, "direct"));
            report.compare(how, shown(ours), shown(direct), ours / direct, Aim::AtLeast(0.4));
        }
    }

    /// The same figures of the floor, which has no aim: it tells what the machine allows.
    fn floor(&self) {
        let p50 = |way| self.small(1, way, "p50_ms");
        let each = |way| self.small(32, way, "per_second");
        println!(
            "  nginx beside direct: p50 {:.2}, requests per second {:.2}, answers {:.2}, requests {:.2}",
            p50("nginx") / p50("direct"),
            each("nginx") / each("direct"),
            self.body("down", "nginx") / self.body("down", "direct"),
            self.body("up", "nginx") / self.body("up", "direct"),
        );
    }

    fn small(&self, at_once: u64, way: &str, figure: &str) -> f64 {
        let rows = self.of("small", way).filter(|row| row["at_once"].as_u64() == Some(at_once));
        median(rows.filter_map(|row| row["figures"][figure].as_f64()).collect())
    }

    fn processor(&self, way: &str, role: &str) -> f64 {
        let rows = self.of("small", way).filter(|row| row["at_once"].as_u64() == Some(32));
        median(rows.filter_map(|row| row["processor_us"][role].as_f64()).collect())
    }

    fn body(&self, what: &str, way: &str) -> f64 {
        median(self.of(what, way).filter_map(|row| row["mib_per_second"].as_f64()).collect())
    }

    fn of(&self, what: &str, way: &str) -> impl Iterator<Item = &Value> {
        self.rows.iter().filter(move |row| row["what"] == what && row["way"] == way)
    }
}

const WAYS: [&str; 5] = ["direct", "nginx", "ours", "ours-disk", "mitmproxy"];
