//! What requests cost, whatever else the machine does: processor time and waits of each process, over a stated number of them.

use std::collections::BTreeMap;
use std::ops::{Add, Sub};
use std::path::Path;

use serde::Deserialize;
use serde_json::{Value, json};

use crate::ways::Way;
use crate::{Outcome, load};

/// Processes, by what they are called together.
pub(crate) type Processes = BTreeMap<&'static str, Vec<u32>>;

/// Which requests, and how many.
#[derive(Deserialize)]
pub(crate) struct Plan {
    requests: usize,
    at_once: Vec<usize>,
    /// Only by this way; by all of them when absent.
    way: Option<String>,
}

/// Small requests, then a body of so many bytes each way; each with what every process took for it.
pub(crate) async fn measure(ways: &[Way], plan: &Plan, body_bytes: u64, processes: &Processes) -> Outcome<Vec<Value>> {
    let mut rows = Vec::new();
    for way in ways.iter().filter(|way| plan.way.as_ref().is_none_or(|only| *only == way.name)) {
        for at_once in &plan.at_once {
            load::some(way, *at_once, WARM_UP * at_once).await?;
            let before = taken(processes)?;
            load::some(way, *at_once, plan.requests).await?;
            let each = each(&before, &taken(processes)?, plan.requests as f64);
            rows.push(json!({"what": format!("a request, {at_once} at once"), "way": way.name, "each": each}));
        }
        let mib = body_bytes as f64 / f64::from(1 << 20);
        let before = taken(processes)?;
        load::download(way, body_bytes).await?;
        let between = taken(processes)?;
        load::upload(way, body_bytes).await?;
        let after = taken(processes)?;
        rows.push(json!({"what": "a MiB of an answer", "way": way.name, "each": each(&before, &between, mib)}));
        rows.push(json!({"what": "a MiB of a request", "way": way.name, "each": each(&between, &after, mib)}));
    }
    Ok(rows)
}

/// What a process has taken so far.
#[derive(Clone, Copy, Default)]
struct Taken {
    /// Microseconds of processor time in the program itself.
    user_us: u64,
    /// And in the kernel for it.
    system_us: u64,
    /// How often one of its threads went to sleep.
    sleeps: u64,
    /// How often one was made to wait for a processor.
    preempted: u64,
}

impl Add for Taken {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            user_us: self.user_us + other.user_us,
            system_us: self.system_us + other.system_us,
            sleeps: self.sleeps + other.sleeps,
            preempted: self.preempted + other.preempted,
        }
    }
}

impl Sub for Taken {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            user_us: self.user_us - before.user_us,
            system_us: self.system_us - before.system_us,
            // A thread that ended takes its count along.
            sleeps: self.sleeps.saturating_sub(before.sleeps),
            preempted: self.preempted.saturating_sub(before.preempted),
        }
    }
}

fn each(before: &BTreeMap<&'static str, Taken>, after: &BTreeMap<&'static str, Taken>, units: f64) -> Value {
    let of = |(name, after): (&&'static str, &Taken)| {
        let Taken { user_us, system_us, sleeps, preempted } = *after - before[name];
        let each = |number: u64| number as f64 / units;
        let figures = json!({
            "user_us": each(user_us), "system_us": each(system_us), "sleeps": each(sleeps), "preempted": each(preempted)
        });
        ((*name).to_owned(), figures)
    };
    Value::Object(after.iter().map(of).collect())
}

fn taken(processes: &Processes) -> Outcome<BTreeMap<&'static str, Taken>> {
    processes.iter().map(|(name, pids)| Ok((*name, Taken::by_all(pids)?))).collect()
}

impl Taken {
    fn by_all(pids: &[u32]) -> Outcome<Self> {
        pids.iter().try_fold(Self::default(), |sum, pid| Ok(sum + Self::by(*pid)?))
    }

    fn by(pid: u32) -> Outcome<Self> {
        let (user_us, system_us) = processor_us(pid)?;
        let mut taken = Self { user_us, system_us, sleeps: 0, preempted: 0 };
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))? {
            let (sleeps, preempted) = switches(&task?.path())?;
            taken.sleeps += sleeps;
            taken.preempted += preempted;
        }
        Ok(taken)
    }
}

/// In the program and in the kernel: of `/proc/PID/stat` (proc_pid_stat(5), fields 14 and 15), which counts hundredths of a second.
pub(crate) fn processor_us(pid: u32) -> Outcome<(u64, u64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let after_name = stat.rsplit_once(") ").ok_or("a process without a name")?.1;
    let times: Vec<u64> = after_name.split(' ').skip(11).take(2).map(str::parse).collect::<Result<_, _>>()?;
    let [user, system] = times.try_into().map_err(|_| "a process without times")?;
    Ok((user * 10_000, system * 10_000))
}

/// Of `/proc/PID/task/TID/status` (proc_pid_status(5)).
fn switches(task: &Path) -> Outcome<(u64, u64)> {
    let status = std::fs::read_to_string(task.join("status"))?;
    let number = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
    let (sleeps, preempted) = (number("voluntary_ctxt_switches:"), number("nonvoluntary_ctxt_switches:"));
    sleeps.zip(preempted).ok_or_else(|| "a task without its switches".into())
}

/// Requests before the measured ones, on each connection.
const WARM_UP: usize = 50;
