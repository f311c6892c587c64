//! Small calls and large bodies, over the tunnel and over whatever else reaches the same server: the same client code,
//! the same machine, rounds by turns.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Request};
use http_body_util::Full;
use postern_net::client::{Connect, Connecting, HttpClient};
use postern_net::dial::Dialer;
use postern_policy::{ConfiguredPermit, Endpoint, configured};
use postern_tunnel::wire::Lane;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Caller, IDLE, IDLE_CONNECTIONS, Rig, message, send};
use crate::failure::{Failure, Or};

/// What to measure, as JSON on the command line.
#[derive(Deserialize)]
struct Plan {
    /// The route whose server is called.
    route: String,
    /// Other ways to the same server: a name and a base URL. They send the bearer themselves.
    others: Vec<(String, String)>,
    /// The bearer that others send.
    bearer: String,
    /// How many calls at once.
    concurrency: Vec<usize>,
    /// How long each round lasts.
    seconds: f64,
    /// How often each is repeated.
    rounds: usize,
    /// Size of the large body.
    bulk_bytes: u64,
}

/// A way to the server.
struct Way {
    name: String,
    client: HttpClient,
    bulk: HttpClient,
    called_by: CalledBy,
}

/// In whose name a request goes.
enum CalledBy {
    /// Through the tunnel: these sessions, by turns. The gateway puts the bearer in.
    Sessions(Vec<Caller>),
    /// Past it: whoever has the bearer.
    Bearer(String),
}

/// Measures everything of the plan.
///
/// # Errors
/// The plan is none, or a call fails.
pub(super) async fn all(rig: &Rig, plan: &str) -> Result<Value, Failure> {
    let plan: Plan = serde_json::from_str(plan).or_misused("read the plan")?;
    let ways = ways(rig, &plan)?;
    let mut rows = Vec::new();
    let (time, warm_up) = (Duration::from_secs_f64(plan.seconds), Duration::from_secs_f64(plan.seconds / 5.0));
    for _ in 0..plan.rounds {
        for &at_once in &plan.concurrency {
            for way in &ways {
                small(way, at_once, warm_up).await;
                let figures = small(way, at_once, time).await.figures();
                rows.push(json!({"what": "small", "way": way.name, "at_once": at_once, "figures": figures}));
            }
        }
        for way in &ways {
            let seconds = large(way, plan.bulk_bytes).await?;
            rows.push(json!({"what": "bulk", "way": way.name, "mib_per_second": mib(plan.bulk_bytes) / seconds}));
            let figures = during_bulk(way, plan.bulk_bytes, time).await?.figures();
            rows.push(json!({"what": "small during bulk", "way": way.name, "figures": figures}));
        }
    }
    Ok(json!({"rows": rows}))
}

fn ways(rig: &Rig, plan: &Plan) -> Result<Vec<Arc<Way>>, Failure> {
    let callers = (0..SESSIONS).map(|number| rig.caller(&format!("sesn_bench{number}"))).collect();
    let mut ways = vec![Arc::new(Way {
        name: "tunnel".to_owned(),
        client: rig.client(&plan.route, Lane::Interactive),
        bulk: rig.client(&plan.route, Lane::Bulk),
        called_by: CalledBy::Sessions(callers),
    })];
    for (name, url) in &plan.others {
        let endpoint: Endpoint = url.parse().or_misused("read a URL of the plan")?;
        let authority = endpoint.host.authority(endpoint.scheme, endpoint.port);
        let authority = HeaderValue::try_from(authority).or_misused("read a URL of the plan")?;
        let connect = Arc::new(Plain { permit: configured(&endpoint), dialer: Dialer::new() });
        // As many connections as the way through the tunnel has.
        let client = HttpClient::made_by(connect, name.clone(), authority, IDLE_CONNECTIONS, IDLE);
        let called_by = CalledBy::Bearer(plan.bearer.clone());
        ways.push(Arc::new(Way { name: name.clone(), bulk: client.clone(), client, called_by }));
    }
    Ok(ways)
}

/// TCP and no more.
struct Plain {
    permit: ConfiguredPermit,
    dialer: Dialer,
}

impl Connect for Plain {
    fn connect(&self) -> Connecting<'_> {
        Box::pin(async move { Ok(Box::new(self.dialer.reach(&self.permit).await?) as Box<_>) })
    }
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// What one round came to.
#[derive(Default)]
struct Round {
    took: Vec<Duration>,
    failed: u64,
    elapsed: Duration,
}

impl Round {
    fn figures(mut self) -> Value {
        self.took.sort_unstable();
        let at = |share: f64| {
            let last = self.took.len().saturating_sub(1);
            let index = (last as f64 * share) as usize;
            self.took.get(index).map_or(0.0, |time| time.as_secs_f64() * 1000.0)
        };
        json!({"per_second": self.took.len() as f64 / self.elapsed.as_secs_f64(), "p50_ms": at(0.5), "p99_ms": at(0.99),
            "calls": self.took.len(), "failed": self.failed})
    }
}

/// Calls of one small tool, so many at once, for a time.
async fn small(way: &Arc<Way>, at_once: usize, time: Duration) -> Round {
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..at_once).map(|_| tokio::spawn(calls(Arc::clone(way), Arc::clone(&stop)))).collect();
    let started = Instant::now();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut round = Round::default();
    for task in tasks {
        if let Ok(part) = task.await {
            round.took.extend(part.took);
            round.failed += part.failed;
        }
    }
    round.elapsed = started.elapsed();
    round
}

async fn calls(way: Arc<Way>, stop: Arc<AtomicBool>) -> Round {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let mut round = Round::default();
    while !stop.load(Ordering::Relaxed) {
        let id = NEXT.fetch_add(1, Ordering::Relaxed);
        let body = json!({"jsonrpc": "2.0", "id": id, "method": "tools/call", "params": {"name": "search", "arguments": {"query": "x"}}});
        let started = Instant::now();
        match call(&way, &way.client, &body).await {
            Ok(bytes) if bytes > 0 => round.took.push(started.elapsed()),
            Ok(_) | Err(_) => round.failed += 1,
        }
    }
    round
}

async fn call(way: &Way, client: &HttpClient, body: &Value) -> Result<u64, Failure> {
    let request = match &way.called_by {
        CalledBy::Sessions(callers) => {
            let turn = usize::try_from(body["id"].as_u64().unwrap_or_default()).unwrap_or_default();
            message(body, &callers[turn % callers.len()].identity(body.to_string().as_bytes())?)?
        }
        CalledBy::Bearer(bearer) => direct(body, bearer)?,
    };
    let response = send(client, request).await.or_unreachable("call")?;
    if !response.status().is_success() {
        return Err(Failure::NotHeld(format!("{}: the server answered {}", way.name, response.status())));
    }
    let (mut bytes, mut body) = (0, response.into_body());
    while let Some(chunk) = body.chunk().await.or_unreachable("read the answer")? {
        bytes += chunk.len() as u64;
    }
    Ok(bytes)
}

fn direct(body: &Value, bearer: &str) -> Result<Request<Full<Bytes>>, Failure> {
    Request::post("/mcp")
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .header("authorization", format!("Bearer {bearer}"))
        .body(Full::new(Bytes::from(body.to_string())))
        .or_misused("make a request")
}

/// Seconds for one large answer.
async fn large(way: &Way, bytes: u64) -> Result<f64, Failure> {
    let body = json!({"jsonrpc": "2.0", "id": 0, "method": "tools/call", "params": {"name": "large", "arguments": {"bytes": bytes}}});
    let started = Instant::now();
    let got = call(way, &way.bulk, &body).await?;
    if got < bytes {
        return Err(Failure::NotHeld(format!("{}: {got} bytes of {bytes} came", way.name)));
    }
    Ok(started.elapsed().as_secs_f64())
}

/// Small calls, four at once, while one large answer after the other is on its way, for a time and at least one.
async fn during_bulk(way: &Arc<Way>, bytes: u64, time: Duration) -> Result<Round, Failure> {
    let stop = Arc::new(AtomicBool::new(false));
    let tasks: Vec<_> = (0..4).map(|_| tokio::spawn(calls(Arc::clone(way), Arc::clone(&stop)))).collect();
    let started = Instant::now();
    let mut done = large(way, bytes).await;
    while done.is_ok() && started.elapsed() < time {
        done = large(way, bytes).await;
    }
    stop.store(true, Ordering::Relaxed);
    let mut round = Round { elapsed: started.elapsed(), ..Round::default() };
    for task in tasks {
        if let Ok(part) = task.await {
            round.took.extend(part.took);
            round.failed += part.failed;
        }
    }
    done.map(|_| round)
}

/// Sessions that call by turns: as many as a busy gateway has, each with its own keyring and connections.
const SESSIONS: usize = 16;
