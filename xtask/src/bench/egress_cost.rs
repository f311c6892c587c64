//! What a request and a MiB through the egress proxy cost each process: figures that a busy machine does not change much.

use serde_json::{Value, json};

use super::figures::Report;
use super::{Plan, egress, example, json as printed};
use crate::run::{Outcome, command};

pub(super) fn measure(plan: &Plan, _report: &mut Report) -> Outcome {
    let program = example("postern-egress", "egress_speed")?;
    let requests = plan.rounds * REQUESTS_PER_ROUND;
    let wanted = json!({
        "program": plan.binary, "nginx": egress::nginx(), "rounds": 0, "seconds": 0.0, "body_bytes": BODY_BYTES,
        "cost": {"requests": requests, "at_once": [1, 32]},
    });
    let measured = printed(command(program).arg(wanted.to_string()))?;
    println!(
        "\nwhat {requests} requests and a body of 200 MiB each way cost, by process: microseconds of processor time in the"
    );
    println!("program + in the kernel, and how often a thread slept");
    for row in measured["rows"].as_array().ok_or("the measurement printed no rows")? {
        print(row);
    }
    Ok(())
}

fn print(row: &Value) {
    let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
    print!("  {:<10} {:<22}", text("way"), text("what"));
    for name in PROCESSES {
        let of = |figure: &str| row["each"][name][figure].as_f64().unwrap_or(f64::NAN);
        let (user, system, sleeps) = (of("user_us"), of("system_us"), of("sleeps"));
        // One that does nothing for it is left out.
        if user + system > 0.5 {
            print!("  {name} {user:.0}+{system:.0} us, {sleeps:.2}");
        }
    }
    println!();
}

const PROCESSES: [&str; 6] = ["egress", "audit", "custody", "nginx", "server", "client"];
const REQUESTS_PER_ROUND: u32 = 200;
const BODY_BYTES: u64 = 200 << 20;
