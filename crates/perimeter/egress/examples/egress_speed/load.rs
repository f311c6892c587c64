//! The load: small requests one after the other on each connection, and large bodies. Every answer is checked, so that a refusal is no fast answer.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::SendRequest;
use serde_json::{Value, json};
use tokio::task::JoinHandle;

use crate::Outcome;
use crate::upstream::Large;
use crate::ways::{Body, Way};

/// Small requests for a time, each connection one after the other.
pub(crate) async fn small(way: &Way, at_once: usize, time: Duration) -> Outcome<Value> {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = Arc::clone(&stop);
    let asking = ask(way, at_once, move || !stopped.load(Ordering::Relaxed)).await?;
    let started = Instant::now();
    tokio::time::sleep(time).await;
    stop.store(true, Ordering::Relaxed);
    let mut took = asking.took(way).await?;
    let elapsed = started.elapsed().as_secs_f64();
    took.sort_unstable();
    let at = |percent: usize| took.get(took.len() * percent / 100).map_or(f64::NAN, |time| time.as_secs_f64() * 1000.0);
    Ok(json!({"p50_ms": at(50), "p99_ms": at(99), "per_second": took.len() as f64 / elapsed, "requests": took.len()}))
}

/// So many small requests, each connection one after the other.
pub(crate) async fn some(way: &Way, at_once: usize, requests: usize) -> Outcome {
    let asked = AtomicUsize::new(0);
    let asking = ask(way, at_once, move || asked.fetch_add(1, Ordering::Relaxed) < requests).await?;
    asking.took(way).await.map(drop)
}

/// Connections that ask, and how long each of their answers took.
struct Asking(Vec<JoinHandle<Result<Vec<Duration>, String>>>);

async fn ask(way: &Way, at_once: usize, more: impl Fn() -> bool + Send + Sync + 'static) -> Outcome<Asking> {
    let more = Arc::new(more);
    let mut tasks = Vec::new();
    for _ in 0..at_once {
        let connection = way.connect().await?;
        let request = request(way, "GET", "/v1/accounts").body(())?.into_parts().0;
        tasks.push(tokio::spawn(one_after_the_other(connection, request, Arc::clone(&more))));
    }
    Ok(Asking(tasks))
}

impl Asking {
    async fn took(self, way: &Way) -> Outcome<Vec<Duration>> {
        let mut took = Vec::new();
        for task in self.0 {
            took.extend(task.await?.map_err(|why| format!("{}: {why}", way.name))?);
        }
        Ok(took)
    }
}

async fn one_after_the_other(
    mut connection: SendRequest<Body>,
    request: http::request::Parts,
    more: Arc<impl Fn() -> bool>,
) -> Result<Vec<Duration>, String> {
    let mut took = Vec::new();
    while more() {
        let request = Request::from_parts(request.clone(), Empty::new().boxed());
        let started = Instant::now();
        let (status, _) = exchange(&mut connection, request).await.map_err(|error| error.to_string())?;
        took.push(started.elapsed());
        if status != StatusCode::OK {
            return Err(format!("answered {status}"));
        }
    }
    Ok(took)
}

/// MiB per second of one large answer.
pub(crate) async fn download(way: &Way, bytes: u64) -> Outcome<f64> {
    let mut connection = way.connect().await?;
    let request = request(way, "GET", &format!("/v1/down/{bytes}")).body(Empty::new().boxed())?;
    let started = Instant::now();
    let (status, received) = exchange(&mut connection, request).await?;
    let seconds = started.elapsed().as_secs_f64();
    if status != StatusCode::OK || received != bytes {
        return Err(format!("{}: {status}, {received} bytes of {bytes} came", way.name).into());
    }
    Ok(mib(bytes) / seconds)
}

/// MiB per second of one large request.
pub(crate) async fn upload(way: &Way, bytes: u64) -> Outcome<f64> {
    let mut connection = way.connect().await?;
    let request = request(way, "POST", "/v1/entries").body(Large { left: bytes }.boxed())?;
    let started = Instant::now();
    let (status, _) = exchange(&mut connection, request).await?;
    let seconds = started.elapsed().as_secs_f64();
    if status == StatusCode::OK { Ok(mib(bytes) / seconds) } else { Err(format!("{}: {status}", way.name).into()) }
}

fn request(way: &Way, method: &str, path: &str) -> http::request::Builder {
    Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, way.authority.clone())
        .header(header::ACCEPT, "application/json")
        .header(header::AUTHORIZATION, way.authorization.clone())
}

/// Sends one request and reads its answer to the end.
async fn exchange(
    connection: &mut SendRequest<Body>,
    request: Request<Body>,
) -> Result<(StatusCode, u64), hyper::Error> {
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let status = response.status();
    let (mut body, mut received) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        received += frame?.data_ref().map_or(0, Bytes::len) as u64;
    }
    Ok((status, received))
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}
