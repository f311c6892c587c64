//! A measurement, not a check: requests and bodies to one HTTPS server, directly, through the egress proxy with policy, injection, scrubbing and audit,
//! through a reverse proxy that does nothing but TLS, and through another intercepting proxy that replaces the same header. One client, one server,
//! rounds by turns.
//!
//! `egress_speed PLAN`, where PLAN is the JSON of [`Plan`]. The last line printed is JSON: `{"rows": [{"what", "way", ...}]}`.
#![expect(
    clippy::print_stdout,
    reason = "what was measured is for the person who asked, and for the last line's reader"
)]

mod load;
mod nginx;
mod perimeter;
mod spent;
mod upstream;
mod ways;

use std::collections::BTreeMap;
use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use postern_exec::role::Starter;
use serde::Deserialize;
use serde_json::{Value, json};

use perimeter::Perimeter;
use ways::Way;

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// What to measure.
#[derive(Deserialize)]
struct Plan {
    /// The `postern` whose roles are measured.
    program: PathBuf,
    /// The other proxy's program; it is left out when absent.
    mitmdump: Option<PathBuf>,
    /// What replaces the header there.
    replacing: Option<PathBuf>,
    /// The floor's program; it is left out when absent.
    nginx: Option<PathBuf>,
    rounds: usize,
    /// How long each small measurement lasts.
    seconds: f64,
    /// Size of the large bodies.
    body_bytes: u64,
    /// What this costs is measured instead, which a busy machine does not change much.
    cost: Option<spent::Plan>,
}

/// The secret that the server wants and no client but the direct one has.
const SECRET: &str = "sk-bench-7Qm2x9Zt4Lw8Vb3NfR6yKc1Hd5Js0Pg";
/// What other proxies replace by it.
const STAND_IN: &str = "stand-in-0123456789abcdefghijklmnopqrstu";
/// The server's name; every way ends at its address on loopback.
const HOST: &str = "localhost";

fn main() -> ExitCode {
    let argument = std::env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let measured = runtime.map_err(Into::into).and_then(|runtime| match argument.as_str() {
        upstream::ROLE => runtime.block_on(upstream::serve()),
        plan => runtime.block_on(measure(plan)),
    });
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

async fn measure(plan: &str) -> Outcome {
    let plan: Plan = serde_json::from_str(plan)?;
    let directory = Directory::make()?;
    let upstream = upstream::Upstream::start()?;
    let starter = Starter::itself(plan.program.clone());
    let perimeter = Perimeter::start(&starter, &directory.0, &upstream).await?;
    let peer = match (&plan.mitmdump, &plan.replacing) {
        (Some(mitmdump), Some(replacing)) => {
            Some(ways::Peer::start(mitmdump, replacing, &directory.0, &upstream).await?)
        }
        _ => None,
    };
    let nginx = match &plan.nginx {
        Some(nginx) => Some(nginx::Nginx::start(nginx, &directory.0, &upstream).await?),
        None => None,
    };
    let mut ways = vec![Way::direct(&upstream)?];
    ways.extend(nginx.as_ref().map(|nginx| nginx.way(&upstream)).transpose()?);
    ways.extend(perimeter.ways()?);
    ways.extend(peer.as_ref().map(ways::Peer::way).transpose()?);
    let mut processes = perimeter.processes();
    processes.extend(nginx.as_ref().map(|nginx| Ok::<_, Box<dyn Error>>(("nginx", nginx.workers()?))).transpose()?);
    let rows = match &plan.cost {
        Some(cost) => {
            processes.extend([("server", vec![upstream.id()]), ("client", vec![std::process::id()])]);
            spent::measure(&ways, cost, plan.body_bytes, &processes).await?
        }
        None => by_turns(&ways, &plan, &processes).await?,
    };
    println!("{}", json!({"rows": rows}));
    Ok(())
}

async fn by_turns(ways: &[Way], plan: &Plan, processes: &spent::Processes) -> Outcome<Vec<Value>> {
    let processor_us = || -> Outcome<BTreeMap<_, _>> {
        let of = |pid: &u32| spent::processor_us(*pid).map(|(user, system)| user + system);
        processes.iter().map(|(name, pids)| Ok((*name, pids.iter().map(of).sum::<Outcome<u64>>()?))).collect()
    };
    let (time, warm_up) = (Duration::from_secs_f64(plan.seconds), Duration::from_secs_f64(plan.seconds / 10.0));
    let mut rows = Vec::new();
    for _ in 0..plan.rounds {
        for at_once in [1, 32] {
            for way in ways {
                load::small(way, at_once, warm_up).await?;
                let before = processor_us()?;
                let figures = load::small(way, at_once, time).await?;
                let requests = figures["requests"].as_f64().unwrap_or(f64::NAN);
                let each = |(role, after): (&'static str, u64)| (role, (after - before[role]) as f64 / requests);
                let processor_us: BTreeMap<_, _> = processor_us()?.into_iter().map(each).collect();
                rows.push(json!({
                    "what": "small", "at_once": at_once, "way": way.name, "figures": figures, "processor_us": processor_us
                }));
            }
        }
        for way in ways {
            let down = load::download(way, plan.body_bytes).await?;
            rows.push(json!({"what": "down", "way": way.name, "mib_per_second": down}));
            let up = load::upload(way, plan.body_bytes).await?;
            rows.push(json!({"what": "up", "way": way.name, "mib_per_second": up}));
        }
    }
    Ok(rows)
}

/// A directory for logs and keys, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn make() -> std::io::Result<Self> {
        let directory = std::env::temp_dir().join(format!("postern-egress-speed-{}", std::process::id()));
        std::fs::create_dir_all(&directory)?;
        Ok(Self(std::fs::canonicalize(directory)?))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left-overs in the temporary directory are not worth failing a measurement for.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
